// Package x86 decodes x86-64 instructions: all of x86-64-v2, with what comes after it as far as it is to be named.
//
// One table (table.go), in the terms of the manual's, says which bytes are which instruction with which
// operands. It is compiled once (compile.go) into a list of forms for each opcode, of which Decode (decode.go)
// takes the first that fits.
//
// Invariants:
//
//   - The result is a function of the bytes, up to MaxLen of them, and the mode. Every byte string has one; none panics.
//   - Decode allocates nothing, and keeps nothing.
//   - What later processors made of encodings that earlier ones ignore, such as TZCNT, ENDBR64 or XACQUIRE, is
//     decoded as the earlier ones do: BSF, NOP, nothing. Software relies upon it.
//   - Where makers differ, Intel is followed: near branches in 64-bit mode ignore 66, far pointers in
//     memory have 64-bit offsets with REX.W, and LOCK MOV CR0 is not MOV CR8.
//   - Where the manual is silent (which bytes of an undefined instruction are fetched before #UD, how F3 41 90 executes),
//     what a processor does is followed: TestSilicon asks one.
//
// # Calling
//
// Any goroutine may call.
//
// Read inst.go first, then table.go.
package x86
