// Package soft is the engine in software: an x86-64 CPU whose clock counts instructions, exactly.
//
// Instructions are decoded (package x86) once, lowered to micro-operations (uop) and kept in blocks
// by physical address (block.go). A micro-operation names an operation and its operands, and carries
// the Go function that executes it. On amd64 hosts the blocks that are executed often are compiled to machine code
// (native.go), which does what these functions do and leaves to them whatever is not simple.
//
// Invariants:
//
//   - State, and every translation of an address that is looked up in memory (a page walk, which sets
//     accessed and dirty bits), is a function of the start state, the instructions executed and the
//     data that the Bus gave. What the host caches (blocks, links between them) never adds, drops or moves a walk:
//     a block lies within one page, and the TLBs, which have a fixed size and replacement, are looked up at
//     each entry to a page. SetState empties the TLBs.
//   - A position is the number of instructions retired; each iteration of a REP string counts one, as does
//     a REP string that does none. An instruction that faults is not counted. So the state at a
//     position is that right after an instruction retired, before what the next one raises.
//   - An instruction changes no register, flag or memory before all of its accesses are known not to fault,
//     except as the manual says (REP strings, POPA, and stores that x86 itself makes one after another).
//   - The run path allocates no memory, except to decode code that is new.
//   - Nothing depends on the host: no map order, no floating point that Go's compiler could fuse. Whether a block is compiled
//     makes no difference to anything but speed. Package unsafe, which compiling needs, is used in native_unsafe.go only, for
//     the address of the code and the places of fields.
//
// Accesses outside RAM, and stores to decoded code, are not made from within a block: the block is left
// before that instruction (stopRedo), which is then executed alone, with the Bus at hand.
//
// # Calling
//
// As vmm.Engine says: one goroutine, except for Kick.
//
// Read cpu.go first, then block.go, uop.go, flags.go and micro.go (gen.go makes most micro-operations); mmu.go for translation, exception.go for delivery;
// native.go, native_amd64.go and compiler_amd64.go for compiled code.
package soft
