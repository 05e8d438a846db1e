// Package float is the arithmetic of SSE and x87: IEEE 754 binary32 and binary64, and the 80-bit format of the x87,
// in integers, with the results and the exception flags of the silicon, bit by bit.
//
// binary32 and binary64 values are bit patterns (uint32, uint64); F80 is the 80-bit format. An Env holds
// what an operation reads from, and adds to, MXCSR or the x87 control and status words.
//
// Invariants:
//
//   - A result is a function of the operands and the Env. It is the same on every host. Where the host's own
//     arithmetic is used (fast.go), IEEE 754 leaves no choice, and the compiler cannot fuse operations.
//   - No operation panics, allocates, or runs longer than a constant time.
//   - Flags are only ever added. C1 is set or cleared by every x87 operation; SSE operations leave it meaningless.
//
// # Exceptions
//
// Flags say what an operation met, masked or not; the caller compares them with its masks. If all exceptions are
// masked, flags may gather in one Env over many operations, and these are fast once PE is there. If any is unmasked,
// the caller clears Flags before the instruction to learn which exceptions are its own. What
// an unmasked exception changes in the flags and the result follows SDM vol. 1, 4.9 and 8.5:
//
//   - After an unmasked exception among Pre (they are detected before the operation), nothing else is done or reported,
//     and the result means nothing. (A packed SSE instruction reports only the Pre of all its parts then.)
//   - An unmasked UE or OE gives the scaled result of SDM vol. 1, 8.5.4 and 8.5.5, if the destination is an x87
//     register; else the result means nothing: destinations in memory or in XMM registers stay as they were.
//
// # Proof
//
// The tests compare with the CPU that they run on (testdata/silicon.c), all rounding modes, precisions and masks.
//
// Read env.go first, then num.go (what all formats have in common: unpack, compute, round), then what you look for.
package float
