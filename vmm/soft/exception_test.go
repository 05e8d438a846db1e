package soft

import (
	"fmt"
	"testing"

	"ftvm/vmm"
)

// frame64 checks what a 64-bit handler finds on its stack, above the error code if there is one.
func (g *guest) frame64(at, rip, cs, flags, rsp, ss uint64) {
	g.t.Helper()
	for i, f := range []struct {
		name string
		want uint64
	}{{"rip", rip}, {"cs", cs}, {"rflags", flags}, {"rsp", rsp}, {"ss", ss}} {
		g.want("pushed "+f.name, g.get64(at+8*uint64(i)), f.want)
	}
}

func TestFrames(t *testing.T) {
	t.Run("fault at CPL0", func(t *testing.T) {
		g := newGuest(t)
		g.s.RFLAGS |= flagIF | flagDF | flagID
		g.s.GPR[vmm.RSP] = stackAt - 3 // the frame is aligned
		g.halt("0f 0b")                // ud2
		g.want("vector", uint64(g.handled()), excUD)
		g.want("rsp", g.r[vmm.RSP], stackAt-16-40)
		g.frame64(g.r[vmm.RSP], codeAt, selCode64, flagFixed|flagIF|flagDF|flagID|flagRF, stackAt-3, selData)
		g.want("rflags", g.rflags(), flagFixed|flagDF|flagID)
	})
	t.Run("fault with a code at CPL3", func(t *testing.T) {
		g := newGuest(t)
		g.atCPL3()
		g.halt("8b 04 25 00 00 20 00") // mov eax, [2 MiB]
		g.want("vector", uint64(g.handled()), excPF)
		g.want("rsp", g.r[vmm.RSP], rsp0At-48)
		g.want("error code", g.get64(rsp0At-48), 4)
		g.frame64(rsp0At-40, userAt, selUCode, flagFixed|flagRF, userSP, selUData)
		g.want("cpl", uint64(g.cpl), 0)
		g.want("ss", uint64(g.seg[vmm.SS].Selector), 0)
	})
	t.Run("interrupt stack table and trap gate", func(t *testing.T) {
		g := newGuest(t)
		g.gate64(0x31, selCode64, vectors+0x31*16, 0x8f, 1)
		g.s.RFLAGS |= flagIF
		g.halt("cd 31") // int 0x31
		g.want("vector", uint64(g.handled()), 0x31)
		g.frame64(ist1At-40, codeAt+2, selCode64, flagFixed|flagIF, stackAt, selData)
		g.want("rflags", g.rflags(), flagFixed|flagIF)
	})
	t.Run("interrupt", func(t *testing.T) {
		g := newGuest(t)
		g.atCPL3()
		g.s.RFLAGS |= flagIF
		g.put(userAt, machineCode("90"))
		g.start()
		g.run(1)
		if err := g.Interrupt(0x40); err != nil {
			t.Fatal(err)
		}
		g.frame64(rsp0At-40, userAt+1, selUCode, flagFixed|flagIF, userSP, selUData)
		if g.Interrupt(0x40) == nil {
			t.Error("an interrupt was taken with IF clear")
		}
	})
	t.Run("32-bit, to an inner stack and back", func(t *testing.T) {
		g := newGuest(t)
		g.in32()
		g.s.Seg[vmm.CS] = flat(selCode32, flatCode32)
		for _, i := range []int{vmm.SS, vmm.DS, vmm.ES} {
			g.s.Seg[i] = flat(selUData, flatData)
		}
		g.s.GPR[vmm.RSP] = userSP
		g.gate32(0x31, selKCode, codeAt+0x100, 0xee)
		g.put(codeAt+0x100, machineCode("16 1e 58 59 cf")) // push ss; push ds; pop eax; pop ecx; iret
		g.halt("cd 31 8c d3")                              // int 0x31; mov ebx, ss; HLT raises #GP
		g.want("vector", uint64(g.handled()), excGP)
		g.want("ds in the handler", g.r[vmm.RAX], selUData)
		g.want("ss in the handler", g.r[vmm.RCX], selData)
		g.want("ss after it", g.r[vmm.RBX], selUData)
		for i, want := range []uint64{0, codeAt + 4, selCode32, flagFixed | flagRF, userSP, selUData} {
			v, _ := g.ram.U32(vmm.GPA(rsp0At - 24 + 4*i))
			g.want(fmt.Sprintf("word %d of the frame", i), uint64(v), want)
		}
	})
	t.Run("16-bit gate", func(t *testing.T) {
		g := newGuest(t)
		g.in32()
		g.put(0x100, machineCode("f4"))
		g.gate32(3, selKCode, 0x100, 0x86)
		g.halt("cc") // int3
		g.want("rip", g.rip, 0x101)
		g.want("esp", g.r[vmm.RSP], stackAt-6)
		g.want("frame", g.get64(stackAt-8)>>16, flagFixed<<32|selKCode<<16|(codeAt+1)&0xffff)
	})
}

// TestFailingDelivery follows table 6-5 of SDM vol. 3A.
func TestFailingDelivery(t *testing.T) {
	const badStack = "48 b8 00 00 00 00 00 00 00 80 48 89 c4" // mov rax, 1<<63; mov rsp, rax
	absent := func(v uint8) func(*guest) {
		return func(g *guest) { g.gate64(v, selCode64, vectors, 0x0e, 0) }
	}
	for _, c := range []struct {
		name   string
		code   string
		setup  []func(*guest)
		vector int // -1: shutdown
		errors uint64
	}{
		{"#UD, gate absent", "0f 0b", []func(*guest){absent(6)}, excNP, 6<<3 | 3},
		{"#UD, gate of another kind", "0f 0b", []func(*guest){func(g *guest) { g.gate64(6, selCode64, vectors, 0x85, 0) }}, excGP, 6<<3 | 3},
		{"INT 0x31, gate absent", "cd 31", []func(*guest){absent(0x31)}, excNP, 0x31<<3 | 2},
		{"INT 0xff, beyond the IDT", "cd ff", []func(*guest){func(g *guest) { g.s.IDT.Limit = 0xffe }}, excGP, 0xff<<3 | 2},
		{"#UD, null selector", "0f 0b", []func(*guest){func(g *guest) { g.gate64(6, 3, vectors, 0x8e, 0) }}, excGP, 1},
		{"#UD, data segment", "0f 0b", []func(*guest){func(g *guest) { g.gate64(6, selData, vectors, 0x8e, 0) }}, excGP, selData | 1},
		{"#UD, 32-bit segment", "0f 0b", []func(*guest){func(g *guest) { g.gate64(6, selKCode, vectors, 0x8e, 0) }}, excGP, selKCode | 1},
		{"#UD, segment beyond the GDT", "0f 0b", []func(*guest){func(g *guest) { g.gate64(6, gdtSize, vectors, 0x8e, 0) }}, excGP, gdtSize | 1},
		{"#UD, outer segment", "0f 0b", []func(*guest){func(g *guest) { g.gate64(6, selUCode, vectors, 0x8e, 0) }}, excGP, selUCode&^3 | 1},
		{"#UD, handler not canonical", "0f 0b", []func(*guest){func(g *guest) { g.gate64(6, selCode64, 1<<63, 0x8e, 0) }}, excGP, 1},
		{"#UD, task segment too short", "0f 0b", []func(*guest){
			func(g *guest) { g.gate64(6, selCode64, vectors, 0x8e, 2) },
			func(g *guest) { g.s.TR.Limit = tss64IST + 15 - 1 },
		}, excTS, selTSS | 1},
		{"#UD, bad stack", badStack + "0f 0b", []func(*guest){func(g *guest) { g.gate64(12, selCode64, vectors+12*16, 0x8e, 1) }}, excSS, 1},
		{"#UD, stack page absent", "bc 00 00 21 00 0f 0b", []func(*guest){func(g *guest) { g.gate64(14, selCode64, vectors+14*16, 0x8e, 1) }}, excPF, 2},
		{"#GP, gate absent", "fa 0f 30", []func(*guest){absent(13)}, excDF, 0},
		{"#PF, stack page absent", "bc 00 00 21 00 50", []func(*guest){func(g *guest) { g.gate64(8, selCode64, vectors+8*16, 0x8e, 1) }}, excDF, 0},
		{"#PF, gate absent", "8b 04 25 00 00 20 00", []func(*guest){absent(14)}, excDF, 0},
		{"#DF, gate absent", "8b 04 25 00 00 20 00", []func(*guest){absent(14), absent(8)}, -1, 0},
		{"#PF and #DF, stack page absent", "bc 00 00 21 00 50", nil, -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			for _, f := range c.setup {
				f(g)
			}
			g.put(codeAt, append(machineCode(c.code), 0xf4))
			g.start()
			x := g.run(100)
			if c.vector < 0 {
				if x.Reason != vmm.ExitShutdown {
					t.Fatalf("exit %+v, want a shutdown", x)
				}
				before := g.pos
				if x = g.run(100); x.Reason != vmm.ExitShutdown || g.pos != before+1 {
					t.Errorf("then exit %+v, %d positions later", x, g.pos-before)
				}
				return
			}
			g.want("vector", uint64(g.handled()), uint64(c.vector))
			g.want("error code", g.get64(g.r[vmm.RSP]), c.errors)
		})
	}
}

// TestSoftwareInterrupts: the gate's privilege level counts, where an instruction asks for a vector.
func TestSoftwareInterrupts(t *testing.T) {
	for _, c := range []struct {
		code   string
		access uint8 // of the gates
		vector uint64
		rip    uint64 // pushed, from the start
		code13 uint64
	}{
		{"cd 31", 0xee, 0x31, 2, 0},
		{"cd 31", 0xce, excGP, 0, 0x31<<3 | 2},
		{"cc", 0xee, excBP, 1, 0},
		{"cc", 0xce, excGP, 0, 3<<3 | 2},
		{"cd 03", 0xee, excBP, 2, 0},
		{"f1", 0x8e, excDB, 1, 0},
	} {
		t.Run(c.code, func(t *testing.T) {
			g := newGuest(t)
			g.atCPL3()
			for _, v := range []uint8{excDB, excBP, 0x31} {
				g.gate64(v, selCode64, vectors+16*uint64(v), c.access, 0)
			}
			g.halt(c.code)
			g.want("vector", uint64(g.handled()), c.vector)
			if c.vector == excGP {
				g.want("error code", g.get64(g.r[vmm.RSP]), c.code13)
				g.r[vmm.RSP] += 8
			}
			g.want("pushed rip", g.get64(g.r[vmm.RSP]), userAt+c.rip)
		})
	}
}

// TestEndlessExceptions: a guest whose #UD handler begins with UD2 ends, in bounded time.
func TestEndlessExceptions(t *testing.T) {
	g := newGuest(t)
	g.gate64(6, selCode64, codeAt, 0x8e, 1)
	g.put(codeAt, machineCode("0f 0b"))
	g.start()
	if x := g.run(1); x.Reason != vmm.ExitUnsupported || x.Detail == "" {
		t.Errorf("exit %+v", x)
	}
	g.want("position", uint64(g.pos), 1)
}
