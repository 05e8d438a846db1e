#include "textflag.h"

// func nativeRun(c *CPU, entry, at uintptr)
//
// It calls entry with R15 and CX set. Compiled code leaves the stack as it found it; all other registers but BP, which the
// assembler saves, and R14 are the caller's to save.
TEXT ·nativeRun(SB), 0, $8-24
	MOVQ c+0(FP), R15
	MOVQ entry+8(FP), AX
	MOVQ at+16(FP), CX
	MOVQ R14, saved-8(SP)
	CALL AX
	MOVQ saved-8(SP), R14
	RET

// func cpuid(leaf uint32) (ecx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-12
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL CX, ecx+8(FP)
	RET
