package conformance

import (
	"slices"
	"testing"

	"ftvm/vmm"
)

// vector is the external interrupt that tests use.
const vector = 0x30

// counting is a handler that reports itself on port 0x20.
var counting = code(
	"50",                      // push rax
	"e4 60",                   // in al, 0x60
	"48 ff 04 25 00 02 05 00", // inc qword [dataAddr+0x200]
	"e6 20",                   // out 0x20, al
	"58",                      // pop rax
	"48 cf",                   // iretq
)

func interrupts(t *testing.T, make maker) {
	p := program{
		kernel: code(
			"e6 80", // out 0x80, al
			"fb",    // sti
			"e6 81", // out 0x81, al
			"90",    // nop
			"fa",    // cli
			"e6 82", // out 0x82, al
			"fb",    // sti
			"f4",    // hlt
			"e6 f4", // out endPort, al
		),
		handlers: map[uint8][]byte{vector: counting},
	}
	g := p.start(t, make)
	access := func(want string, interruptible bool) {
		t.Helper()
		g.runTo(vmm.ExitAccess)
		if got := g.bus.log[len(g.bus.log)-1]; got != want {
			t.Fatalf("access %q, want %q", got, want)
		}
		if got := g.interruptible(); got != interruptible {
			t.Fatalf("after %q: Interruptible is %v", want, got)
		}
	}
	access("out 80 00", false)
	access("out 81 00", true)
	g.interrupt(vector)
	if g.interruptible() {
		t.Error("Interruptible with an interrupt accepted and not yet delivered")
	}
	access("in 60 81", false) // an interrupt gate clears IF
	access("out 20 81", false)
	access("out 82 00", false)
	g.runTo(vmm.ExitHalt)
	if !g.interruptible() {
		t.Fatal("not Interruptible in HLT after STI")
	}
	g.interrupt(vector)
	access("in 60 82", false)
	access("out 20 82", false)
	access("out f4 00", true)
	g.wantMemory(dataAddr+0x200, []byte{2, 0})
}

// interruptFrame looks at what an interrupt pushes, from CPL0 and from CPL3 (SDM vol. 3A,
// 6.14.2).
func interruptFrame(t *testing.T, make maker) {
	for _, cpl := range []int{0, 3} {
		body := code("e6 80", "90") // out 0x80, al; nop
		p := program{kernel: body, user: body, atCPL3: cpl == 3, flags: vmm.FlagIF | flagIOPL,
			handlers: map[uint8][]byte{vector: code(
				"58", // pop rax
				"59", // pop rcx
				"5a", // pop rdx
				"5b", // pop rbx
				"5e", // pop rsi
				"f4", // hlt
			)}}
		g := p.start(t, make)
		g.runTo(vmm.ExitAccess)
		g.interrupt(vector)
		g.runTo(vmm.ExitHalt)
		s := g.state()
		rip, cs, rsp, ss, top := uint64(codeAddr+2), uint64(kernelCS), uint64(stackTop), uint64(kernelSS), uint64(stackTop)
		if cpl == 3 {
			rip, cs, rsp, ss, top = userAddr+2, userCS, userTop, userSS, rsp0Top
		}
		g.want("pushed rip", s.GPR[vmm.RAX], rip)
		g.want("pushed cs", s.GPR[vmm.RCX], cs)
		g.want("pushed rflags", s.GPR[vmm.RDX]&^g.otherFlags(), flagsFixed|vmm.FlagIF)
		g.want("pushed rsp", s.GPR[vmm.RBX], rsp)
		g.want("pushed ss", s.GPR[vmm.RSI], ss)
		g.want("rsp", s.GPR[vmm.RSP], top)
		g.want("cs", uint64(s.Seg[vmm.CS].Selector), kernelCS)
		g.want("rflags", s.RFLAGS&^g.otherFlags(), flagsFixed)
	}
}

// shadow restores a state with an interrupt shadow: after STI, and after MOV SS, no interrupt
// is taken before the next instruction has ended (SDM vol. 3A, 6.8.3).
func shadow(t *testing.T, make maker) {
	for _, kind := range []uint8{1 << 0, 1 << 1} {
		p := program{kernel: code("e6 80", "90"), flags: vmm.FlagIF} // out 0x80, al; nop
		ram, s := p.load()
		s.Events.Shadow = kind
		g := resume(t, make, ram, s)
		if g.interruptible() {
			t.Errorf("Interruptible with interrupt shadow %d", kind)
		}
		g.runTo(vmm.ExitAccess)
		if !g.interruptible() {
			t.Errorf("not Interruptible after the instruction in interrupt shadow %d", kind)
		}
	}
}

// window asks for interrupt windows. An engine may be unable to stop at one by itself, but
// where it says that there is one, there must be.
func window(t *testing.T, make maker) {
	p := program{kernel: code(
		"90", "90", // nop; nop
		"fb",       // sti
		"90", "90", // nop; nop
		"fa",    // cli
		"90",    // nop
		"fb",    // sti
		"e6 f4", // out endPort, al
	)}
	g := p.start(t, make)
	stops := []uint64{}
	for !g.bus.ended {
		x := g.run(forever, true)
		switch x.Reason {
		case vmm.ExitWindow:
			if !g.interruptible() {
				t.Errorf("ExitWindow at rip %#x, but not Interruptible", g.state().RIP)
			}
			stops = append(stops, g.state().RIP-codeAddr)
			g.run(g.cpu.Position()+1, false)
		case vmm.ExitAccess:
		default:
			t.Fatalf("exit %+v", x)
		}
	}
	if !g.cpu.Clock().Exact {
		return
	}
	// In the shadow of STI there is none; after CLI neither; the second STI is followed by OUT.
	if want := []uint64{4, 5}; !slices.Equal(stops, want) {
		t.Errorf("windows at offsets %d, want %d", stops, want)
	}
}
