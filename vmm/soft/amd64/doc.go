// Package amd64 encodes machine instructions of x86-64, those that the compiler of engine soft emits, into memory
// that is given to it (SDM vol. 2A, chapter 2). It knows nothing of guests.
//
// Operand sizes are in bytes: 1, 2, 4 or 8. An instruction with a destination of 4 bytes clears the upper half of the register. Nothing
// is checked: operands that an instruction does not have give some other instruction.
//
// Read asm.go.
package amd64
