package conformance

import (
	"slices"
	"testing"

	"ftvm/vmm"
)

// Behaviours that an engine may be known to lack, because of the host that it is on.
const (
	SoftwareInterrupt = "SoftwareInterrupt" // INT n
	SystemCall        = "SystemCall"        // SYSCALL
)

// Run holds the engines that new makes to the contract of vmm.Engine, except in the behaviours
// that are known to be lacking.
func Run(t *testing.T, new func(t *testing.T, ram *vmm.RAM) vmm.Engine, lacking ...string) {
	for _, b := range behaviours {
		if slices.Contains(lacking, b.name) {
			t.Logf("not tested, because it is known to be lacking: %s", b.name)
			continue
		}
		t.Run(b.name, func(t *testing.T) { b.test(t, new) })
	}
}

var behaviours = []struct {
	name string
	test func(*testing.T, maker)
}{
	{"PortAccess", portAccess},
	{"StringPortAccess", stringPortAccess},
	{"MemoryAccess", memoryAccess},
	{"MemoryCrossing", memoryCrossing},
	{"StringMemoryAccess", stringMemoryAccess},
	{"Halt", halt},
	{"Interrupts", interrupts},
	{"InterruptFrame", interruptFrame},
	{"Shadow", shadow},
	{"Window", window},
	{"Exceptions", exceptions},
	{SoftwareInterrupt, softwareInterrupt},
	{SystemCall, systemCall},
	{"Shutdown", shutdown},
	{"RoundTrip", roundTrip},
	{"Positions", positions},
	{"Repetition", repetition},
	{"Restoration", restoration},
	{"KickBefore", kickBefore},
	{"KickLoop", kickLoop},
	{"KickStorm", kickStorm},
}
