package conformance

import (
	"bytes"
	"testing"

	"ftvm/vmm"
)

func portAccess(t *testing.T, make maker) {
	p := program{kernel: code(
		"48 b8 88 77 66 55 44 33 22 11", // mov rax, 0x1122334455667788
		"ba f8 03 00 00",                // mov edx, 0x3f8
		"ee",                            // out dx, al
		"66 ef",                         // out dx, ax
		"ef",                            // out dx, eax
		"e6 61",                         // out 0x61, al
		"ec",                            // in al, dx
		"48 89 c3",                      // mov rbx, rax
		"66 ed",                         // in ax, dx
		"48 89 c1",                      // mov rcx, rax
		"ed",                            // in eax, dx
		"f4",                            // hlt
	)}
	g := p.start(t, make)
	g.runTo(vmm.ExitHalt)
	g.wantBus("out 3f8 88", "out 3f8 8877", "out 3f8 88776655", "out 61 88",
		"in 3f8 81", "in 3f8 8283", "in 3f8 84858687")
	s := g.state()
	// IN to AL and AX leaves the rest of RAX alone, to EAX clears the upper half.
	g.want("rbx", s.GPR[vmm.RBX], 0x11223344_55667781)
	g.want("rcx", s.GPR[vmm.RCX], 0x11223344_55668382)
	g.want("rax", s.GPR[vmm.RAX], 0x87868584)
}

func stringPortAccess(t *testing.T, make maker) {
	p := program{data: []byte("abcdefgh"), kernel: code(
		"ba f8 03 00 00", // mov edx, 0x3f8
		"be 00 00 05 00", // mov esi, dataAddr
		"b9 03 00 00 00", // mov ecx, 3
		"f3 6e",          // rep outsb
		"66 6f",          // outsw
		"bf 10 00 05 00", // mov edi, dataAddr+0x10
		"b9 05 00 00 00", // mov ecx, 5
		"f3 6c",          // rep insb
		"fd",             // std
		"bf 2c 00 05 00", // mov edi, dataAddr+0x2c
		"b9 02 00 00 00", // mov ecx, 2
		"f3 6d",          // rep insd
		"f4",             // hlt
	)}
	g := p.start(t, make)
	g.runTo(vmm.ExitHalt)
	g.wantBus("out 3f8 61", "out 3f8 62", "out 3f8 63", "out 3f8 6465",
		"in 3f8 81", "in 3f8 82", "in 3f8 83", "in 3f8 84", "in 3f8 85",
		"in 3f8 86878889", "in 3f8 8a8b8c8d")
	g.wantMemory(dataAddr+0x10, code("8182838485 00"))
	g.wantMemory(dataAddr+0x28, code("8a8b8c8d 86878889"))
	s := g.state()
	g.want("rsi", s.GPR[vmm.RSI], dataAddr+5)
	g.want("rdi", s.GPR[vmm.RDI], dataAddr+0x24)
	g.want("rcx", s.GPR[vmm.RCX], 0)
}

func memoryAccess(t *testing.T, make maker) {
	body := code(
		"bb 00 00 00 d0",                // mov ebx, mmioAddr
		"48 b8 88 77 66 55 44 33 22 11", // mov rax, 0x1122334455667788
		"88 03",                         // mov [rbx], al
		"66 89 43 02",                   // mov [rbx+2], ax
		"89 43 04",                      // mov [rbx+4], eax
		"48 89 43 08",                   // mov [rbx+8], rax
		"8a 0b",                         // mov cl, [rbx]
		"0f b7 53 02",                   // movzx edx, word [rbx+2]
		"8b 73 04",                      // mov esi, [rbx+4]
		"48 8b 7b 08",                   // mov rdi, [rbx+8]
		"01 43 10",                      // add [rbx+0x10], eax
		"ff 73 20",                      // push qword [rbx+0x20]
		"41 58",                         // pop r8
		"e6 f4",                         // out endPort, al
	)
	for _, cpl := range []int{0, 3} {
		p := program{kernel: body, user: body, atCPL3: cpl == 3, flags: flagIOPL}
		g := p.start(t, make)
		g.runToEnd()
		g.wantBus("write d0000000 88", "write d0000002 8877", "write d0000004 88776655",
			"write d0000008 8877665544332211",
			"read d0000000 81", "read d0000002 8283", "read d0000004 84858687",
			"read d0000008 88898a8b8c8d8e8f",
			"read d0000010 90919293", "write d0000010 1809f9e8",
			"read d0000020 9495969798999a9b", "out f4 88")
		s := g.state()
		g.want("rcx", s.GPR[vmm.RCX], 0x81)
		g.want("rdx", s.GPR[vmm.RDX], 0x8382)
		g.want("rsi", s.GPR[vmm.RSI], 0x87868584)
		g.want("rdi", s.GPR[vmm.RDI], 0x8f8e8d8c8b8a8988)
		g.want("r8", s.GPR[8], 0x9b9a999897969594)
		// Both halves of ADD are one instruction.
		if add := g.bus.accesses[8:10]; add[0].position != add[1].position {
			t.Errorf("at CPL%d: positions during the two accesses of ADD: %d and %d", cpl, add[0].position, add[1].position)
		}
	}
}

// memoryCrossing makes accesses that cross a page. How an engine splits these up is its own
// affair, as long as the bytes come in the order of their addresses.
func memoryCrossing(t *testing.T, make maker) {
	p := program{kernel: code(
		"bb 00 00 00 d0",                // mov ebx, mmioAddr
		"48 b8 88 77 66 55 44 33 22 11", // mov rax, 0x1122334455667788
		"48 89 83 fd 0f 00 00",          // mov [rbx+0xffd], rax
		"4c 8b 8b fd 0f 00 00",          // mov r9, [rbx+0xffd]
		"f4",                            // hlt
	)}
	g := p.start(t, make)
	g.runTo(vmm.ExitHalt)
	got := map[string][]byte{}
	for _, a := range g.bus.accesses {
		if want := mmioAddr + 0xffd + uint64(len(got[a.kind])); a.addr != want {
			t.Errorf("%s at %#x, want %#x", a.kind, a.addr, want)
		}
		got[a.kind] = append(got[a.kind], a.data...)
	}
	if want := code("8877665544332211"); !bytes.Equal(got["write"], want) {
		t.Errorf("written: %x, want %x", got["write"], want)
	}
	g.want("r9", g.state().GPR[9], 0x8887868584838281)
	if first, last := g.bus.accesses[0], g.bus.accesses[len(g.bus.accesses)-1]; first.position+1 != last.position {
		if !g.cpu.Clock().Exact {
			t.Errorf("position %d during the first and %d during the second instruction, want one apart", first.position, last.position)
		}
	}
}

func stringMemoryAccess(t *testing.T, make maker) {
	p := program{kernel: code(
		"be 00 00 00 d0", // mov esi, mmioAddr
		"bf 00 00 05 00", // mov edi, dataAddr
		"b9 02 00 00 00", // mov ecx, 2
		"f3 a5",          // rep movsd
		"be 00 00 05 00", // mov esi, dataAddr
		"bf 00 01 00 d0", // mov edi, mmioAddr+0x100
		"b9 02 00 00 00", // mov ecx, 2
		"66 f3 a5",       // rep movsw
		"f4",             // hlt
	)}
	g := p.start(t, make)
	g.runTo(vmm.ExitHalt)
	g.wantBus("read d0000000 81828384", "read d0000004 85868788", "write d0000100 8182", "write d0000102 8384")
	g.wantMemory(dataAddr, code("8182838485868788"))
}

func halt(t *testing.T, make maker) {
	p := program{kernel: code("f4", "90", "f4")} // hlt; nop; hlt
	g := p.start(t, make)
	for i := range uint64(2) {
		before := g.cpu.Position()
		g.runTo(vmm.ExitHalt)
		g.want("rip", g.state().RIP, codeAddr+1+2*i)
		if g.cpu.Position() <= before {
			t.Errorf("position %d before HLT, %d after", before, g.cpu.Position())
		}
	}
}
