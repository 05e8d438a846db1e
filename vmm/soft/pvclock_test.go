package soft

import (
	"fmt"
	"testing"

	"ftvm/vmm"
)

// systemNow computes system time as a guest does (Linux, Documentation/virt/kvm/x86/msr.rst), from the structure at
// dataAt and the time stamp counter.
func (g *guest) systemNow(tsc uint64) uint64 {
	delta := tsc - g.get64(dataAt+8)
	scale := g.get64(dataAt + 24)
	return g.get64(dataAt+16) + delta<<(scale>>32&0xff)*(scale&0xffff_ffff)>>32
}

// TestClock: wall and system time give guest time, whatever the guest writes to the time stamp counter, before and after.
func TestClock(t *testing.T) {
	const wrmsr = "0f 30 "
	g := newGuest(t)
	g.s.Position = 50
	g.put(dataAt, []byte{7})
	g.halt("31 d2 b9 10 00 00 00 b8 40 e2 01 00", wrmsr, // xor edx, edx; tsc = 123456
		"b9 01 4d 56 4b b8 01 00 05 00", wrmsr, // system time at dataAt
		"b9 00 4d 56 4b b8 40 00 05 00", wrmsr, // wall clock at dataAt + 64
		"0f 31 89 c3", // rdtsc; mov ebx, eax
		"b9 3b 00 00 00 b8 05 00 00 00 ba 01 00 00 00", wrmsr, // tsc adjust = 1<<32 + 5
		"0f 31", // rdtsc
	)
	g.want("wall clock at 0, s and ns", g.get64(dataAt+68), 0)
	g.want("version of the wall clock", g.get64(dataAt+64), 2)
	g.want("version of system time: written twice", g.get64(dataAt), 10)
	g.want("flags", g.get64(dataAt+24)>>40, clockStable)
	g.want("system time at position 66", g.systemNow(g.r[vmm.RDX]<<32|g.r[vmm.RAX]), 66_000)
	g.want("tsc at position 60, set at 53", g.r[vmm.RBX], 123_456+7_000)
}

// TestWallClockIsOfNow: Run returns right after the guest asked for the wall time, so that guest time can be set before it reads it.
func TestWallClockIsOfNow(t *testing.T) {
	g := newGuest(t)
	g.s.GPR[vmm.RCX], g.s.GPR[vmm.RAX] = msrWallClock, dataAt
	g.put(g.s.RIP, machineCode("90 0f 30 90 90 f4")) // nop; wrmsr; nop; nop; hlt
	g.start()
	if x := g.run(100); x.Reason != vmm.ExitKick || g.Position() != g.s.Position+2 {
		t.Errorf("exit %+v at position %d, want a kick after 2 instructions", x, g.Position())
	}
	if x := g.run(100); x.Reason != vmm.ExitHalt {
		t.Errorf("exit %+v, want the halt", x)
	}
}

// TestClockAddresses: a structure that does not lie in RAM, or is not aligned, is a #GP, and nothing is stored.
func TestClockAddresses(t *testing.T) {
	for _, c := range []struct {
		msr    uint32
		value  uint64
		faults bool
	}{
		{msrSystemTime, testRAM - 32 | clockEnabled, false},
		{msrSystemTime, testRAM - 28 | clockEnabled, true},
		{msrSystemTime, testRAM | clockEnabled, true},
		{msrSystemTime, ^uint64(2), true},
		{msrSystemTime, dataAt + 2 | clockEnabled, true},
		{msrSystemTime, ^uint64(0) &^ clockEnabled, false}, // disabled
		{msrWallClock, testRAM - 12, false},
		{msrWallClock, testRAM - 8, true},
		{msrWallClock, dataAt + 1, true},
	} {
		g := newGuest(t)
		g.s.GPR[vmm.RAX], g.s.GPR[vmm.RDX], g.s.GPR[vmm.RCX] = c.value&0xffff_ffff, c.value>>32, uint64(c.msr)
		g.put(testRAM-32, []byte{1})
		g.halt("0f 30 31 c0 31 d2 0f 32") // wrmsr; xor eax, eax; xor edx, edx; rdmsr
		got := g.r[vmm.RDX]<<32 | g.r[vmm.RAX]
		if faulted := g.handled() == excGP; faulted != c.faults || !faulted && got != c.value {
			t.Errorf("MSR %#x = %#x: exception %d, read %#x", c.msr, c.value, g.handled(), got)
		}
		if c.faults {
			g.want(fmt.Sprintf("memory after MSR %#x = %#x", c.msr, c.value), g.get64(testRAM-32), 1)
		}
	}
}

// TestClockInCode: code that the structure is stored over is decoded anew.
func TestClockInCode(t *testing.T) {
	g := newGuest(t)
	g.put(dataAt, machineCode("b0 01 c3"))                             // mov al, 1; ret: as a version, the one before mov dl, 1; ret
	g.halt("31 d2 e8 f9 ff 03 00 b9 01 4d 56 4b b8 01 00 05 00 0f 30", // xor edx, edx; call dataAt; system time at dataAt
		"e8 e8 ff 03 00") // call dataAt
	g.want("rdx", g.r[vmm.RDX], 1)
}

// TestHypercalls: there are none.
func TestHypercalls(t *testing.T) {
	for _, code := range []string{"0f 01 c1", "0f 01 d9"} {
		g := newGuest(t)
		g.halt(code)
		g.want("result at CPL 0", g.r[vmm.RAX], ^uint64(999))
		g = newGuest(t)
		g.atCPL3()
		g.put(userAt, machineCode(code))
		g.start()
		g.run(1)
		g.want("result at CPL 3", g.r[vmm.RAX], ^uint64(0))
	}
}
