package conformance

import (
	"fmt"
	"testing"

	"ftvm/vmm"
)

// exceptions makes each kind of fault and looks at what the handler is given (SDM vol. 3A, 6.15).
func exceptions(t *testing.T, make maker) {
	const ud, gp, pf, de, none = 6, 13, 14, 0, ^uint64(0)
	for _, c := range []struct {
		name   string
		cpl    int
		code   []byte
		at     uint64 // offset of the instruction that faults
		vector uint8
		errors uint64 // error code, or none
		cr2    uint64
	}{
		{"UD2", 0, code("0f 0b"), 0, ud, none, 0},
		{"UD2", 3, code("0f 0b"), 0, ud, none, 0},
		{"DIV by 0", 0, code("31 c9", "f7 f1"), 2, de, none, 0},
		{"DIV by 0", 3, code("31 c9", "f7 f1"), 2, de, none, 0},
		{"read", 0, code("bb 00 00 00 40", "48 8b 03"), 5, pf, 0, absentAddr},
		{"read", 3, code("bb 00 00 00 40", "48 8b 03"), 5, pf, 1 << 2, absentAddr},
		{"write", 0, code("bb 00 00 00 40", "48 89 03"), 5, pf, 1 << 1, absentAddr},
		{"write", 3, code("bb 00 00 00 40", "48 89 03"), 5, pf, 1<<2 | 1<<1, absentAddr},
		{"jump", 0, code("bb 00 00 00 40", "ff e3"), absentAddr - codeAddr, pf, 1 << 4, absentAddr},
		{"jump", 3, code("bb 00 00 00 40", "ff e3"), absentAddr - userAddr, pf, 1<<4 | 1<<2, absentAddr},
		{"non-canonical", 0, code("48 b8 00 00 00 00 00 00 00 80", "48 8b 00"), 10, gp, 0, 0},
		{"non-canonical", 3, code("48 b8 00 00 00 00 00 00 00 80", "48 8b 00"), 10, gp, 0, 0},
		{"MOV DS", 0, code("b8 30 12 00 00", "8e d8"), 5, gp, 0x1230, 0},
		{"MOV DS", 3, code("b8 30 12 00 00", "8e d8"), 5, gp, 0x1230, 0},
		{"HLT", 3, code("f4"), 0, gp, 0, 0},
		{"CLI", 3, code("fa"), 0, gp, 0, 0},
		{"IN", 3, code("e4 60"), 0, gp, 0, 0},
	} {
		t.Run(fmt.Sprintf("%s at CPL%d", c.name, c.cpl), func(t *testing.T) {
			h := code(
				"0f 20 d3", // mov rbx, cr2
				"59",       // pop rcx
				"5a",       // pop rdx
				"f4",       // hlt
			)
			if c.errors != none {
				h = append(code("58"), h...) // pop rax
			}
			p := program{kernel: c.code, user: c.code, atCPL3: c.cpl == 3, handlers: map[uint8][]byte{c.vector: h}}
			g := p.start(t, make)
			g.runTo(vmm.ExitHalt)
			s := g.state()
			base, cs := uint64(codeAddr), uint64(kernelCS)
			if c.cpl == 3 {
				base, cs = userAddr, userCS
			}
			if c.errors != none {
				g.want("error code", s.GPR[vmm.RAX], c.errors)
			}
			g.want("cr2", s.GPR[vmm.RBX], c.cr2)
			g.want("pushed rip", s.GPR[vmm.RCX], base+c.at)
			g.want("pushed cs", s.GPR[vmm.RDX], cs)
			g.wantBus()
		})
	}
}

func softwareInterrupt(t *testing.T, make maker) {
	for _, cpl := range []int{0, 3} {
		body := code("cd 31", "e6 f4") // int 0x31; out endPort, al
		p := program{kernel: body, user: body, atCPL3: cpl == 3, flags: flagIOPL,
			handlers: map[uint8][]byte{0x31: code("e6 20", "48 cf")}} // out 0x20, al; iretq
		g := p.start(t, make)
		g.runToEnd()
		g.wantBus("out 20 00", "out f4 00")
	}
}

// systemCall goes to CPL3 by SYSRET, and back by SYSCALL.
func systemCall(t *testing.T, make maker) {
	p := program{
		kernel: code(
			"b9 00 00 02 00",    // mov ecx, userAddr
			"41 bb 02 32 00 00", // mov r11d, IF, IOPL 3
			"48 0f 07",          // sysretq
		),
		user: code(
			"e6 80", // out 0x80, al
			"0f 05", // syscall
		),
		syscall: code("f4"), // hlt
	}
	g := p.start(t, make)
	g.runTo(vmm.ExitAccess)
	s := g.state()
	g.want("cs at CPL3", uint64(s.Seg[vmm.CS].Selector), userCS)
	g.want("ss at CPL3", uint64(s.Seg[vmm.SS].Selector), userSS)
	g.want("rip at CPL3", s.RIP, userAddr+2)
	if !g.interruptible() {
		t.Error("not Interruptible at CPL3 with IF set")
	}
	g.runTo(vmm.ExitHalt)
	s = g.state()
	g.want("cs", uint64(s.Seg[vmm.CS].Selector), kernelCS)
	g.want("ss", uint64(s.Seg[vmm.SS].Selector), kernelSS)
	g.want("rcx", s.GPR[vmm.RCX], userAddr+4)
	g.want("r11", s.GPR[11]&^g.otherFlags(), flagsFixed|vmm.FlagIF)
	g.want("rflags", s.RFLAGS&^g.otherFlags(), flagsFixed)
}

func shutdown(t *testing.T, make maker) {
	p := program{kernel: code("e6 80", "0f 0b")} // out 0x80, al; ud2, without a handler
	g := p.start(t, make)
	before := g.cpu.Position()
	g.runTo(vmm.ExitShutdown)
	if g.cpu.Position() <= before {
		t.Errorf("position %d before, %d after", before, g.cpu.Position())
	}
	g.state()
}
