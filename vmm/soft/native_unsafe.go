//go:build amd64

package soft

import "unsafe"

// address is where mem, which is not Go's and does not move, begins.
func address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }

// Where compiled code finds things.
const (
	atRegs    = int32(unsafe.Offsetof(CPU{}.r))
	atLeft    = int32(unsafe.Offsetof(CPU{}.left))
	atRD      = int32(unsafe.Offsetof(CPU{}.rd))
	atWR      = int32(unsafe.Offsetof(CPU{}.wr))
	atEX      = int32(unsafe.Offsetof(CPU{}.ex))
	atCR0     = int32(unsafe.Offsetof(CPU{}.cr0))
	atCR4     = int32(unsafe.Offsetof(CPU{}.cr4))
	atCW      = int32(unsafe.Offsetof(CPU{}.fpu) + unsafe.Offsetof(fpu{}.cw))
	atSW      = int32(unsafe.Offsetof(CPU{}.fpu) + unsafe.Offsetof(fpu{}.sw))
	atVectors = int32(unsafe.Offsetof(CPU{}.fpu) + unsafe.Offsetof(fpu{}.v))
	atNative  = int32(unsafe.Offsetof(CPU{}.native))
	atFlags   = atNative + int32(unsafe.Offsetof(native{}.flags))
	atExit    = atNative + int32(unsafe.Offsetof(native{}.exit))
	atBlock   = atNative + int32(unsafe.Offsetof(native{}.block))
	atResume  = atNative + int32(unsafe.Offsetof(native{}.resume))
	atFloat   = atNative + int32(unsafe.Offsetof(native{}.float))
	atPlain   = atNative + int32(unsafe.Offsetof(native{}.plain))
	atMXCSR   = atNative + int32(unsafe.Offsetof(native{}.mxcsr))
	atTo      = atNative + int32(unsafe.Offsetof(native{}.to))
	atPage    = atNative + int32(unsafe.Offsetof(native{}.page))
	atTargets = atNative + int32(unsafe.Offsetof(native{}.targets))

	tlbPage    = int32(unsafe.Offsetof(tlbEntry{}.page))
	codePhys   = int32(unsafe.Offsetof(codeEntry{}.phys))
	targetCode = int32(unsafe.Offsetof(target{}.code))
)

// Indexing of the TLBs and of the table of targets relies on these sizes.
const (
	tlbEntryShift = 5
	targetShift   = 4
)

var (
	_ [1 << tlbEntryShift]byte = [unsafe.Sizeof(tlbEntry{})]byte{}
	_ [1 << tlbEntryShift]byte = [unsafe.Sizeof(codeEntry{})]byte{}
	_ [1 << targetShift]byte   = [unsafe.Sizeof(target{})]byte{}
)
