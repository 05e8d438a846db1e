package soft

import (
	"fmt"
	"slices"
	"testing"

	"ftvm/vmm"
)

// Descriptors for tests: all of the address space, present, not yet accessed.
const (
	descData     = 0x00cf_9200_0000_ffff
	descReadOnly = 0x00cf_9000_0000_ffff
	descCode64   = 0x00af_9a00_0000_ffff
	descExecOnly = 0x00cf_9800_0000_ffff
	descConform  = 0x00cf_9e00_0000_ffff
	descGate64   = 0x0000_8c00_0000_0000
	descDPL3     = 3 << 45
	descPresent  = 1 << 47
	descAccessed = 1 << 40
)

// TestLoadSegment loads a segment register from a descriptor, by MOV.
func TestLoadSegment(t *testing.T) {
	const ok, sel = -1, selFree
	for _, c := range []struct {
		name   string
		cpl    int
		reg    uint8
		sel    uint16
		desc   uint64
		vector int // or ok
		code   uint64
	}{
		{"data", 0, vmm.DS, sel, descData, ok, 0},
		{"read-only", 0, vmm.ES, sel, descReadOnly, ok, 0},
		{"code", 0, vmm.FS, sel, descCode64, ok, 0},
		{"execute-only", 0, vmm.DS, sel, descExecOnly, excGP, sel},
		{"null", 0, vmm.DS, 3, 0, ok, 0},
		{"beyond the GDT", 0, vmm.DS, gdtSize, 0, excGP, gdtSize},
		{"no LDT", 0, vmm.DS, 4, 0, excGP, 4},
		{"gate", 0, vmm.DS, sel, descGate64, excGP, sel},
		{"absent", 0, vmm.DS, sel, descData &^ descPresent, excNP, sel},
		{"inner, by RPL", 0, vmm.DS, sel | 1, descData, excGP, sel},
		{"inner", 3, vmm.DS, sel, descData, excGP, sel},
		{"conforming code", 3, vmm.DS, sel | 3, descConform, ok, 0},
		{"DPL 3", 3, vmm.GS, sel | 3, descData | descDPL3, ok, 0},
		{"stack", 0, vmm.SS, sel, descData, ok, 0},
		{"stack, null", 0, vmm.SS, 0, 0, ok, 0},
		{"stack, null with another RPL", 0, vmm.SS, 1, 0, excGP, 0},
		{"stack, null", 3, vmm.SS, 3, 0, excGP, 0},
		{"stack, read-only", 0, vmm.SS, sel, descReadOnly, excGP, sel},
		{"stack, RPL", 0, vmm.SS, sel | 3, descData | descDPL3, excGP, sel},
		{"stack, DPL", 0, vmm.SS, sel, descData | descDPL3, excGP, sel},
		{"stack, absent", 0, vmm.SS, sel, descData &^ descPresent, excSS, sel},
		{"CS", 0, vmm.CS, sel, descCode64, excUD, 0},
	} {
		t.Run(fmt.Sprintf("%s at CPL%d", c.name, c.cpl), func(t *testing.T) {
			g := newGuest(t)
			g.put64(gdtAt+selFree, c.desc)
			if c.cpl == 3 {
				g.atCPL3()
			}
			g.s.GPR[vmm.RAX] = uint64(c.sel)
			g.put(g.s.RIP, []byte{0x8e, 0xc0 | c.reg<<3, 0xf4}) // mov sreg, eax
			g.start()
			before := g.seg[c.reg]
			g.run(1)
			if c.vector == ok {
				if g.handled() >= 0 {
					t.Fatalf("exception %d", g.handled())
				}
				g.want("selector", uint64(g.seg[c.reg].Selector), uint64(c.sel))
				if c.sel > 3 {
					g.want("descriptor", g.get64(gdtAt+selFree), c.desc|descAccessed)
					g.want("access", uint64(g.seg[c.reg].Access), (c.desc|descAccessed)>>40&0xf0ff)
					g.want("limit", uint64(g.seg[c.reg].Limit), 0xffff_ffff)
				}
				return
			}
			g.want("vector", uint64(g.handled()), uint64(c.vector))
			if c.vector != excUD {
				g.want("error code", g.get64(g.r[vmm.RSP]), c.code)
			}
			if c.reg != vmm.SS && g.seg[c.reg] != before && c.reg != vmm.CS {
				t.Errorf("%+v was changed to %+v", before, g.seg[c.reg])
			}
			g.want("descriptor", g.get64(gdtAt+selFree), c.desc)
		})
	}
}

// TestSegmentBase: FS and GS have bases in 64-bit mode, the others do not.
func TestSegmentBase(t *testing.T) {
	g := newGuest(t)
	g.put64(gdtAt+selFree, descData|(dataAt&0xffffff)<<16)
	g.put64(dataAt, 0x1111)
	g.put64(dataAt+8, 0x2222)
	g.halt("b8 48 00 00 00", // mov eax, selFree
		"8e e0 8e d8",                // mov fs, eax; mov ds, eax
		"64 8b 0c 25 08 00 00 00",    // mov ecx, fs:[8]
		"8b 14 25 00 00 05 00",       // mov edx, [dataAt]
		"b9 02 01 00 c0",             // mov ecx, KERNEL_GS_BASE
		"b8 08 00 05 00 31 d2",       // mov eax, dataAt+8; xor edx, edx
		"0f 30 0f 01 f8",             // wrmsr; swapgs
		"65 8b 1c 25 00 00 00 00",    // mov ebx, gs:[0]
		"64 67 8b 34 25 08 00 00 00") // mov esi, fs:[8], 32-bit address
	g.want("ebx", g.r[vmm.RBX], 0x2222)
	g.want("esi", g.r[vmm.RSI], 0x2222)
	g.want("gs", g.seg[vmm.GS].Base, dataAt+8)
}

// TestSegmentLimits checks accesses in 32-bit mode.
func TestSegmentLimits(t *testing.T) {
	const down = 4
	for _, c := range []struct {
		limit  uint32
		access uint32 // more bits
		offset uint32
		faults bool
	}{
		{0xfff, 0, 0xffc, false},
		{0xfff, 0, 0xffd, true},
		{0xfff, 0, 0xffff_fffe, true},
		{0xffff_ffff, 0, 0xffff_fffe, true}, // the end of the segment is in the way
		{0xfff, down | vmm.SegDB, 0x1000, false},
		{0xfff, down | vmm.SegDB, 0xfff, true},
		{0xfff, down, 0xfffc, false},
		{0xfff, down, 0xfffd, true},
		{0xfff, vmm.SegUnusable, 0, true},
	} {
		for _, reg := range []uint8{vmm.DS, vmm.SS} {
			g := newGuest(t)
			g.in32()
			g.s.Seg[reg] = vmm.Segment{Selector: selData, Base: dataAt, Limit: c.limit, Access: 0x93 | c.access}
			g.put(codeAt, []byte{[6]uint8{vmm.DS: 0x3e, vmm.SS: 0x36}[reg], 0x8b, 0x03}) // mov eax, sreg:[ebx]
			g.s.GPR[vmm.RBX] = uint64(c.offset)
			g.start()
			g.Run(g.pos+1, false, &g.bus)
			faulted := g.rip != codeAt+3
			if faulted != c.faults {
				t.Errorf("%+v, segment %d: fault %v", c, reg, faulted)
			}
		}
	}
}

// callGate makes a call gate in the descriptor that tests fill in.
func (g *guest) callGate(kind uint64, dpl uint64, sel uint16, rip uint64, params uint64) {
	g.put64(gdtAt+selFree, rip&0xffff|uint64(sel)<<16|params<<32|kind<<40|dpl<<45|descPresent|rip>>16&0xffff<<48, rip>>32)
}

func TestFarTransfers(t *testing.T) {
	t.Run("64-bit to 32-bit code and back", func(t *testing.T) {
		g := newGuest(t)
		// 48 is DEC EAX in 32-bit code and a prefix in 64-bit code.
		g.put(codeAt+0x100, machineCode("48 ea 00 02 01 00 08 00")) // dec eax; jmp 8:codeAt+0x200
		g.put(codeAt+0x200, machineCode("48 ff c8 f4"))             // dec rax; hlt
		g.s.GPR[vmm.RBX] = 3
		g.put64(dataAt, (codeAt+0x100)|selKCode<<32)
		g.halt("b8 05 00 00 00 ff 2c 25 00 00 05 00") // mov eax, 5; jmp far dword [dataAt]
		g.want("rip", g.rip, codeAt+0x204)
		g.want("eax", g.r[vmm.RAX], 3)
	})
	t.Run("call and return", func(t *testing.T) {
		g := newGuest(t)
		g.put(codeAt+0x100, machineCode("89 e3 48 cb")) // mov ebx, esp; retfq
		g.put64(dataAt, codeAt+0x100, selCode64)
		g.halt("48 ff 1c 25 00 00 05 00") // call far qword [dataAt]
		g.want("vector", uint64(g.handled()), ^uint64(0))
		g.want("esp", g.r[vmm.RBX], stackAt-16)
		g.want("rsp", g.r[vmm.RSP], stackAt)
		g.want("frame", g.get64(stackAt-16), codeAt+8)
		g.want("cs", g.get64(stackAt-8), selCode64)
	})
	t.Run("64-bit call gate to CPL0 and back", func(t *testing.T) {
		g := newGuest(t)
		g.atCPL3()
		g.callGate(sysCallGate|sys32, 3, selCode64, codeAt, 0)
		g.put(codeAt, machineCode(
			"8c d3 48 89 e1",             // mov ebx, ss; mov rcx, rsp
			"48 8b 34 24 48 8b 7c 24 08", // mov rsi, [rsp]; mov rdi, [rsp+8]
			"4c 8b 44 24 10",             // mov r8, [rsp+16]
			"4c 8b 4c 24 18",             // mov r9, [rsp+24]
			"48 cb"))                     // retfq
		g.put64(dataAt, 0x1234_5678|selFree<<32)
		g.halt("ff 1c 25 00 00 05 00") // call far dword [dataAt]; HLT raises #GP
		g.want("vector", uint64(g.handled()), excGP)
		g.want("ss", g.r[vmm.RBX], 0)
		g.want("rsp", g.r[vmm.RCX], rsp0At-32)
		g.want("pushed rip", g.r[vmm.RSI], userAt+7)
		g.want("pushed cs", g.r[vmm.RDI], selUCode)
		g.want("pushed rsp", g.r[8], userSP)
		g.want("pushed ss", g.r[9], selUData)
		g.want("rsp after the return", g.get64(g.r[vmm.RSP]+8+24), userSP)
	})
	t.Run("32-bit call gate with parameters", func(t *testing.T) {
		g := newGuest(t)
		g.in32()
		g.s.Seg[vmm.CS] = flat(selCode32, flatCode32)
		g.s.Seg[vmm.SS] = flat(selUData, flatData)
		g.s.GPR[vmm.RSP] = userSP - 8
		g.put64(userSP-8, 0x2222_2222_1111_1111)
		g.callGate(sysCallGate|sys32, 3, selKCode, codeAt+0x100, 2)
		g.put(codeAt+0x100, machineCode("8b 44 24 08 8b 5c 24 0c ca 08 00")) // mov eax, [esp+8]; mov ebx, [esp+12]; retf 8
		g.halt("9a 00 00 00 00 48 00 89 e1")                                 // call selFree:0; mov ecx, esp; HLT raises #GP
		g.want("vector", uint64(g.handled()), excGP)
		g.want("eax", g.r[vmm.RAX], 0x1111_1111)
		g.want("ebx", g.r[vmm.RBX], 0x2222_2222)
		g.want("esp", g.r[vmm.RCX], userSP)
	})
}

// TestFarFaults has what far transfers refuse.
func TestFarFaults(t *testing.T) {
	jmp, call := "ff 2c 25 00 00 05 00", "ff 1c 25 00 00 05 00" // jmp and call far dword [dataAt]
	for _, c := range []struct {
		name   string
		cpl    int
		code   string
		sel    uint16
		desc   uint64
		vector uint64
		errors uint64
	}{
		{"null", 0, jmp, 3, 0, excGP, 0},
		{"beyond the GDT", 0, jmp, gdtSize, 0, excGP, gdtSize},
		{"data", 0, jmp, selFree, descData, excGP, selFree},
		{"absent", 0, jmp, selFree, descCode64 &^ descPresent, excNP, selFree},
		{"outer", 0, jmp, selFree | 3, descCode64 | descDPL3, excGP, selFree},
		{"inner", 3, jmp, selFree | 3, descCode64, excGP, selFree},
		{"inner by RPL", 0, jmp, selFree | 3, descCode64, excGP, selFree},
		{"outer, conforming", 0, jmp, selFree | 3, descConform | descDPL3, excGP, selFree},
		{"L and D", 0, jmp, selFree, descCode64 | 1<<54, excGP, selFree},
		{"beyond its limit", 0, jmp, selFree, descConform &^ (0xf_0000_0000_ffff | 1<<55), excGP, 0},
		{"task segment", 0, jmp, selTSS, 0, excGP, selTSS},
		{"gate, inner", 3, call, selFree | 3, descGate64 | selCode64<<16, excGP, selFree},
		{"gate, absent", 0, call, selFree, descGate64&^descPresent | selCode64<<16, excNP, selFree},
		{"gate to null", 0, call, selFree, descGate64, excGP, 0},
		{"gate to data", 0, call, selFree, descGate64 | selData<<16, excGP, selData},
		{"gate to 32-bit code", 0, call, selFree, descGate64 | selKCode<<16, excGP, selKCode},
		{"jump through a gate to CPL0", 3, jmp, selFree | 3, descGate64 | descDPL3 | selCode64<<16, excGP, selCode64},
		{"32-bit gate", 0, call, selFree, descGate64&^(8<<40) | selCode64<<16, excGP, selFree},
	} {
		t.Run(fmt.Sprintf("%s at CPL%d", c.name, c.cpl), func(t *testing.T) {
			g := newGuest(t)
			if c.cpl == 3 {
				g.atCPL3()
			}
			g.put64(gdtAt+selFree, c.desc, 0)
			g.put64(dataAt, codeAt|uint64(c.sel)<<32)
			g.halt(c.code)
			g.want("vector", uint64(g.handled()), c.vector)
			g.want("error code", g.get64(g.r[vmm.RSP]), c.errors)
		})
	}
}

// TestInterruptReturn returns to each kind of code, and is refused what it must not do.
func TestInterruptReturn(t *testing.T) {
	const bad = 1 << 63
	for _, c := range []struct {
		name   string
		frame  [5]uint64 // rip, cs, rflags, rsp, ss
		flags  uint64    // RFLAGS at the start
		vector int       // or -1
		errors uint64
	}{
		{"same level", [5]uint64{userAt, selCode64, flagFixed | flagIF, userSP, selData}, 0, -1, 0},
		{"same level, no stack segment", [5]uint64{userAt, selCode64, flagFixed, userSP, 0}, 0, -1, 0},
		{"CPL3", [5]uint64{userAt, selUCode, flagFixed | flagIF | flagIOPL, userSP, selUData}, 0, -1, 0},
		{"32-bit code", [5]uint64{userAt, selCode32, flagFixed | flagAC | flagID, userSP, selUData}, 0, -1, 0},
		{"null", [5]uint64{userAt, 0, flagFixed, userSP, selData}, 0, excGP, 0},
		{"CPL3 without a stack segment", [5]uint64{userAt, selUCode, flagFixed, userSP, 3}, 0, excGP, 0},
		{"32-bit code without a stack segment", [5]uint64{userAt, selKCode, flagFixed, userSP, 0}, 0, excGP, 0},
		{"stack of another level", [5]uint64{userAt, selUCode, flagFixed, userSP, selData}, 0, excGP, selData},
		{"stack beyond the GDT", [5]uint64{userAt, selUCode, flagFixed, userSP, gdtSize | 3}, 0, excGP, gdtSize},
		{"not code", [5]uint64{userAt, selUData, flagFixed, userSP, selUData}, 0, excGP, selUData &^ 3},
		{"not canonical", [5]uint64{bad, selUCode, flagFixed, userSP, selUData}, 0, excGP, 0},
		{"nested task", [5]uint64{userAt, selUCode, flagFixed, userSP, selUData}, flagNT, excGP, 0},
		{"DPL and RPL differ", [5]uint64{userAt, selCode64 | 3, flagFixed, userSP, selUData}, 0, excGP, selCode64},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.put64(stackAt-40, c.frame[:]...)
			g.s.GPR[vmm.RSP] = stackAt - 40
			g.s.RFLAGS |= c.flags
			g.put(codeAt, machineCode("48 cf")) // iretq
			g.start()
			g.run(1)
			if c.vector >= 0 {
				g.want("vector", uint64(g.handled()), uint64(c.vector))
				g.want("error code", g.get64(g.r[vmm.RSP]), c.errors)
				return
			}
			g.want("rip", g.rip, c.frame[0])
			g.want("cs", uint64(g.seg[vmm.CS].Selector), c.frame[1])
			g.want("rflags", g.rflags(), c.frame[2])
			g.want("rsp", g.r[vmm.RSP], c.frame[3])
			g.want("ss", uint64(g.seg[vmm.SS].Selector), c.frame[4])
			g.want("cpl", uint64(g.cpl), c.frame[1]&3)
		})
	}
}

// TestOuterReturnDropsSegments: what CPL 3 has no right to is gone when it is entered.
func TestOuterReturnDropsSegments(t *testing.T) {
	g := newGuest(t)
	g.put64(stackAt-40, userAt, selUCode, flagFixed, userSP, selUData)
	g.s.GPR[vmm.RSP] = stackAt - 40
	g.s.Seg[vmm.ES] = flat(selUData, flatData)
	g.put(codeAt, machineCode("48 cf"))
	g.start()
	g.run(1)
	g.want("es", uint64(g.seg[vmm.ES].Selector), selUData)
	g.want("ds", uint64(g.seg[vmm.DS].Selector), 0)
	g.want("ds", uint64(g.seg[vmm.DS].Access&vmm.SegUnusable), vmm.SegUnusable)
}

// TestDescriptorQueries compares LAR, LSL, VERR and VERW.
func TestDescriptorQueries(t *testing.T) {
	for _, c := range []struct {
		name       string
		cpl        int
		sel        uint16
		desc       uint64
		lar, lsl   bool
		verr, verw bool
	}{
		{"null", 0, 0, 0, false, false, false, false},
		{"data", 0, selFree, descData, true, true, true, true},
		{"read-only", 0, selFree, descReadOnly, true, true, true, false},
		{"code", 0, selFree, descCode64, true, true, true, false},
		{"execute-only", 0, selFree, descExecOnly, true, true, false, false},
		{"beyond the GDT", 0, gdtSize, 0, false, false, false, false},
		{"inner", 3, selFree, descData, false, false, false, false},
		{"inner, conforming", 3, selFree, descConform, true, true, true, false},
		{"gate", 0, selFree, descGate64, true, false, false, false},
		{"task segment", 0, selTSS, 0, true, true, false, false},
		{"16-bit gate", 0, selFree, descGate64 &^ (8 << 40), false, false, false, false},
	} {
		g := newGuest(t)
		if c.cpl == 3 {
			g.atCPL3()
		}
		g.put64(gdtAt+selFree, c.desc)
		g.s.GPR[vmm.RAX] = uint64(c.sel)
		// Each ZF goes into a register of its own; HLT raises #GP at CPL 3.
		g.halt("0f 02 c8 41 0f 94 c0", // lar ecx, eax; setz r8b
			"0f 03 d0 41 0f 94 c1", // lsl edx, eax; setz r9b
			"0f 00 e0 41 0f 94 c2", // verr ax; setz r10b
			"0f 00 e8 41 0f 94 c3") // verw ax; setz r11b
		for i, want := range []bool{c.lar, c.lsl, c.verr, c.verw} {
			if got := g.r[8+i] != 0; got != want {
				t.Errorf("%s at CPL%d: query %d says %v, want %v", c.name, c.cpl, i, got, want)
			}
		}
		if c.name == "data" {
			g.want("lar", g.r[vmm.RCX], 0x00cf_9200)
			g.want("lsl", g.r[vmm.RDX], 0xffff_ffff)
		}
	}
}

// TestTaskAndLDT loads TR and the LDT, whose descriptors have 16 bytes.
func TestTaskAndLDT(t *testing.T) {
	g := newGuest(t)
	const high = 0xffff_8000
	g.put64(gdtAt+selTSS, 0x0000_8900_0000_0067|tssAt<<16, high)
	g.put64(gdtAt+selFree, 0x0000_8200_0000_000f|ldtAt<<16, 0)
	g.put64(ldtAt+8, descData)
	g.halt("b8 30 00 00 00 0f 00 d8", // mov eax, selTSS; ltr ax
		"b8 48 00 00 00 0f 00 d0", // mov eax, selFree; lldt ax
		"b8 0c 00 00 00 8e d8",    // mov eax, 0xc; mov ds, eax
		"0f 00 c3 0f 00 c9")       // sldt ebx; str ecx
	g.want("tr", g.tr.Base, high<<32|tssAt)
	g.want("descriptor of the task", g.get64(gdtAt+selTSS), 0x0000_8b00_0000_0067|tssAt<<16)
	g.want("ldt", g.ldt.Base, ldtAt)
	g.want("ds", uint64(g.seg[vmm.DS].Selector), 0xc)
	g.want("sldt", g.r[vmm.RBX], selFree)
	g.want("str", g.r[vmm.RCX], selTSS)
	// A busy task cannot be loaded.
	g = newGuest(t)
	g.halt("b8 30 00 00 00 0f 00 d8")
	g.want("vector", uint64(g.handled()), excGP)
	g.want("error code", g.get64(g.r[vmm.RSP]), selTSS)
}

// TestReadOnlySegments: in 32-bit mode instructions that only read take operands in a segment that cannot be written.
func TestReadOnlySegments(t *testing.T) {
	for _, c := range []struct {
		code   string
		faults bool
	}{
		{"2e 0f 01 1d 00 00 05 00", false}, // lidt cs:[dataAt]
		{"2e 0f 00 e5", false},             // verr bp
		{"2e ff 2d 00 00 05 00", false},    // jmp far cs:[dataAt]
		{"2e c5 05 00 00 05 00", false},    // lds eax, cs:[dataAt]
		{"2e 0f 01 0d 00 00 05 00", true},  // sidt cs:[dataAt]
		{"2e 8c 1d 00 00 05 00", true},     // mov cs:[dataAt], ds
		{"2e 63 05 00 00 05 00", false},    // arpl cs:[dataAt], ax: nothing to change
		{"2e 63 1d 00 00 05 00", true},     // arpl cs:[dataAt], bx
	} {
		g := newGuest(t)
		g.in32()
		g.s.GPR[vmm.RBX] = 3
		g.put64(dataAt, (codeAt+0x100)|selKCode<<32)
		g.put(codeAt, machineCode(c.code))
		if c.code[3:5] == "c5" {
			g.put64(dataAt, selData<<32)
		}
		g.start()
		g.Run(1, false, &g.bus)
		if faulted := g.handled() >= 0; faulted != c.faults {
			t.Errorf("%s: fault %v, at %#x", c.code, faulted, g.rip)
		}
	}
}

// TestPopaFault: POPA that faults has popped what comes before; the stack pointer is unchanged.
func TestPopaFault(t *testing.T) {
	g := newGuest(t)
	g.in32()
	g.s.Seg[vmm.SS].Access &^= vmm.SegG
	g.s.Seg[vmm.SS].Limit = stackAt + 9 // ends within the third word
	g.s.GPR[vmm.RBP] = 5
	g.put64(stackAt, 7|6<<32, 1)
	g.put(codeAt, machineCode("61"))
	g.start()
	g.run(1)
	g.want("vector", uint64(g.handled()), excSS)
	g.want("rsp behind the frame", g.r[vmm.RSP]+16, stackAt)
	for _, reg := range []uint8{vmm.RDI, vmm.RSI, vmm.RBP} {
		g.want(fmt.Sprintf("register %d", reg), g.r[reg], uint64(reg))
	}
}

// TestBoundInParts: the bounds of BOUND are checked against the segment's limit one after the other.
func TestBoundInParts(t *testing.T) {
	g := newGuest(t)
	g.s.Seg[vmm.CS] = flat(selCode32, flatCode32)
	for i := range g.s.Seg {
		if i != vmm.CS {
			g.s.Seg[i] = flat(selUData, flatData)
		}
	}
	g.s.RIP, g.s.GPR[vmm.RBX] = userAt, 0xffff_fffd
	g.put(userAt, machineCode("66 62 03")) // bound ax, [ebx]: only the second crosses the end
	g.start()
	g.run(1)
	g.want("vector", uint64(g.handled()), excGP)
	if want := []string{"read fffffffd ffff"}; !slices.Equal(g.bus.log, want) {
		t.Errorf("accesses %q, want %q", g.bus.log, want)
	}
}
