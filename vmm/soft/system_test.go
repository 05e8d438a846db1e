package soft

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ftvm/vmm"
)

// TestControlRegisters: values that a control register does not take raise #GP(0) and change nothing.
func TestControlRegisters(t *testing.T) {
	const (
		cr0    = cr0PG | cr0WP | cr0NE | cr0ET | cr0MP | cr0PE
		cr4    = cr4PAE | cr4PGE | cr4OSFXSR | cr4OSXMMEXCPT
		faults = 1 << 63
	)
	for _, c := range []struct {
		reg   uint8
		value uint64
		want  uint64
	}{
		{0, cr0 &^ cr0WP, cr0 &^ cr0WP},
		{0, cr0&^cr0ET | 1<<6, cr0}, // ET is fixed, others are ignored
		{0, cr0 | 1<<32, faults},
		{0, cr0 | cr0NW, faults},
		{0, cr0 | cr0NW | cr0CD, cr0 | cr0NW | cr0CD},
		{0, cr0 &^ cr0PE, faults},
		{0, cr0 &^ cr0PG, faults}, // in 64-bit mode
		{3, pml4At | 0x18, pml4At | 0x18},
		{3, pml4At | 1<<physBits, faults},
		{4, cr4 | cr4TSD | cr4DE | cr4PSE | cr4PCE, cr4 | cr4TSD | cr4DE | cr4PSE | cr4PCE},
		{4, cr4 &^ cr4PAE, faults},
		{4, cr4 | 1<<13, faults},
		{4, cr4 | 1<<17, faults},
		{4, cr4 | 1<<20, faults},
		{4, cr4 | 1<<32, faults},
		{8, 0xf, 0xf},
		{8, 0x10, faults},
		{2, 1 << 63, 1 << 63},
	} {
		g := newGuest(t)
		g.s.GPR[vmm.RAX] = c.value
		rex := []string{"0f", "44 0f"}[c.reg>>3]
		mov := fmt.Sprintf("%s 22 %02x", rex, 0xc0|c.reg&7<<3)  // mov crN, rax
		read := fmt.Sprintf("%s 20 %02x", rex, 0xc3|c.reg&7<<3) // mov rbx, crN
		g.halt(mov, read)
		if faulted := g.handled() == excGP; faulted != (c.want == faults && c.reg != 2) {
			t.Errorf("CR%d = %#x: exception %d", c.reg, c.value, g.handled())
		} else if !faulted && g.r[vmm.RBX] != c.want {
			t.Errorf("CR%d = %#x, read %#x, want %#x", c.reg, c.value, g.r[vmm.RBX], c.want)
		}
	}
	for _, code := range []string{"0f 20 c8", "0f 22 e8", "44 0f 20 c8"} { // CR1, CR5, CR9
		g := newGuest(t)
		g.halt(code)
		g.want("vector after "+code, uint64(g.handled()), excUD)
	}
}

// TestPrivileged: these raise #GP(0) at CPL 3.
func TestPrivileged(t *testing.T) {
	for _, code := range []string{
		"f4", "0f 06", "0f 08", "0f 09", "0f 20 c0", "0f 22 c0", "0f 21 c0", "0f 23 c0", // hlt clts invd wbinvd mov
		"0f 01 14 25 00 00 05 00", "0f 01 1c 25 00 00 05 00", // lgdt lidt
		"0f 00 d0", "0f 00 d8", "0f 01 f0", "0f 01 3c 25 00 00 05 00", // lldt ltr lmsw invlpg
		"0f 30", "0f 32", "0f 33", "0f 01 f8", "0f 35", "48 0f 07", // wrmsr rdmsr rdpmc swapgs sysexit sysretq
		"fa", "fb", "ec", "ef", "6c", // cli sti in out ins
	} {
		g := newGuest(t)
		g.atCPL3()
		g.put(userAt, machineCode(code))
		g.start()
		g.run(1)
		if g.handled() != excGP || g.get64(g.r[vmm.RSP]) != 0 || g.get64(g.r[vmm.RSP]+8) != userAt {
			t.Errorf("%s: exception %d, error code %#x, rip %#x", code, g.handled(), g.get64(g.r[vmm.RSP]), g.get64(g.r[vmm.RSP]+8))
		}
	}
}

// TestPrivilegeComesFirst: at CPL 3 in 32-bit mode the same raise #GP(0), not the #SS that their operand would.
func TestPrivilegeComesFirst(t *testing.T) {
	for _, code := range []string{"0f 01 14 24", "0f 01 1c 24", "0f 01 34 24", "0f 00 14 24", "0f 00 1c 24"} { // lgdt lidt lmsw lldt ltr [esp]
		g := newGuest(t)
		g.atCPL3()
		g.s.Seg[vmm.CS] = flat(selCode32, flatCode32)
		g.s.GPR[vmm.RSP] = 0xffff_ffff
		g.put(userAt, machineCode(code))
		g.start()
		g.run(1)
		g.want("vector after "+code, uint64(g.handled()), excGP)
		g.want("error code after "+code, g.get64(g.r[vmm.RSP]), 0)
	}
}

func TestMSRs(t *testing.T) {
	for _, c := range []struct {
		msr    uint32
		value  uint64
		faults bool
	}{
		{0x174, 0xffff, false},
		{0x174, 1 << 32, true},
		{0x175, 1 << 47, true},
		{0x176, 0xffff_8000_0000_0000, false},
		{0x277, 0x0007_0406_0001_0500, false},
		{0x277, 2, true},
		{0x277, 8 << 56, true},
		{0xc000_0080, eferNXE | eferSCE | eferLME | eferLMA, false},
		{0xc000_0080, eferNXE | eferSCE, true}, // LME, while paging
		{0xc000_0080, eferLME | eferLMA | 1<<14, true},
		{0xc000_0081, 1 << 63, false},
		{0xc000_0082, 1 << 63, true},
		{0xc000_0083, 0x7fff_ffff_ffff, false},
		{0xc000_0084, ^uint64(0), false},
		{0xc000_0100, 1 << 63, true},
		{0xc000_0100, dataAt, false},
		{0xc000_0101, dataAt, false},
		{0xc000_0102, 1 << 47, true},
		{0xc000_0103, 0xffff_ffff, false},
		{0xc000_0103, 1 << 32, true},
		{0x3b, 1 << 63, false},
		{0x1a0, 1, true},
		{0x1b, 0xfee0_0900, true},
		{0x1234, 0, true},
	} {
		g := newGuest(t)
		g.s.GPR[vmm.RAX], g.s.GPR[vmm.RDX], g.s.GPR[vmm.RCX] = c.value&0xffff_ffff, c.value>>32, uint64(c.msr)
		g.halt("0f 30 31 c0 31 d2 0f 32") // wrmsr; xor eax, eax; xor edx, edx; rdmsr
		got := g.r[vmm.RDX]<<32 | g.r[vmm.RAX]
		if faulted := g.handled() == excGP; faulted != c.faults || !faulted && got != c.value {
			t.Errorf("MSR %#x = %#x: exception %d, read %#x", c.msr, c.value, g.handled(), got)
		}
	}
	for _, msr := range []uint32{0x17, 0x1b, 0x8b, 0x1a0} { // what kernels read without being prepared for a fault
		g := newGuest(t)
		g.s.GPR[vmm.RCX] = uint64(msr)
		g.halt("0f 32")
		g.want(fmt.Sprintf("vector after RDMSR %#x", msr), uint64(g.handled()), ^uint64(0))
	}
}

// TestTimeStampCounter: it follows guest time at each position, and a write to it goes into IA32_TSC_ADJUST.
func TestTimeStampCounter(t *testing.T) {
	g := newGuest(t)
	g.s.Position = 50
	g.halt("0f 31 89 c3", // rdtsc; mov ebx, eax
		"b9 10 00 00 00 31 c0 31 d2 0f 30", // mov ecx, 0x10; xor eax, eax; xor edx, edx; wrmsr
		"0f 31 89 c6",                      // rdtsc; mov esi, eax
		"b9 3b 00 00 00 0f 32")             // mov ecx, 0x3b; rdmsr
	g.want("tsc at position 50", g.r[vmm.RBX], 50_000)
	g.want("tsc, set to 0 at position 55, at 56", g.r[vmm.RSI], 1000)
	g.want("adjustment", g.r[vmm.RDX]<<32|g.r[vmm.RAX], ^uint64(55_000-1))
	// At CPL 3 with CR4.TSD there is none.
	g = newGuest(t)
	g.atCPL3()
	g.s.CR4 |= cr4TSD
	g.halt("0f 31")
	g.want("vector", uint64(g.handled()), excGP)
	g.want("pushed rip", g.get64(g.r[vmm.RSP]+8), userAt)
}

// TestCPUID checks what kernels take for granted, and that what is advertised is there.
func TestCPUID(t *testing.T) {
	g := newGuest(t)
	g.start()
	ask := func(leaf, subleaf uint64) [4]uint32 {
		g.r[vmm.RAX], g.r[vmm.RCX] = leaf, subleaf
		g.cpuid(nil, nil)
		return [4]uint32{uint32(g.r[vmm.RAX]), uint32(g.r[vmm.RBX]), uint32(g.r[vmm.RCX]), uint32(g.r[vmm.RDX])}
	}
	text := func(words ...uint32) string {
		var b []byte
		for _, w := range words {
			b = append(b, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
		}
		return strings.TrimRight(string(b), "\x00")
	}
	r := ask(0, 0)
	if v := text(r[1], r[3], r[2]); v != vendor || r[0] != lastBasic {
		t.Errorf("leaf 0: %q, %#x leaves", v, r[0])
	}
	r = ask(1, 0)
	g.want("signature", uint64(r[0]), 0x106ca)
	r = ask(0x15, 0)
	g.want("frequency of the time stamp counter", uint64(r[2])*uint64(r[1])/uint64(r[0]), 1e9)
	var name []uint32
	for leaf := range uint64(3) {
		r := ask(0x8000_0002+leaf, 0)
		name = append(name, r[:]...)
	}
	if v := text(name...); v != brand {
		t.Errorf("brand %q", v)
	}
	r = ask(0x4000_0000, 0)
	if v := text(r[1:]...); v != "KVMKVMKVM" || r[0] != 0x4000_0001 {
		t.Errorf("hypervisor %q, last leaf %#x", v, r[0])
	}
	g.want("features of the hypervisor", uint64(ask(0x4000_0001, 0)[0]), 1<<24|1<<3)
	if a, b := ask(0x17, 0), ask(lastBasic, 0); a != b {
		t.Errorf("leaf beyond the last: %x, want %x", a, b)
	}
	for _, s := range []struct{ subleaf, kind uint64 }{{0, 1}, {1, 2}, {2, 3}, {3, 0}} {
		g.want("kind of cache", uint64(ask(4, s.subleaf)[0]&0x1f), s.kind)
	}
}

// TestSystemCalls goes to CPL 3 and back by each pair of instructions.
func TestSystemCalls(t *testing.T) {
	star := uint64(0x18)<<48 | selCode64<<32
	set := func(g *guest) {
		g.s.MSR[msrSTAR], g.s.MSR[msrLSTAR], g.s.MSR[msrFMASK] = star, codeAt+0x100, flagIF|flagDF
		g.s.MSR[msrSysenterCS], g.s.MSR[msrSysenterESP], g.s.MSR[msrSysenterEIP] = selCode64, stackAt-64, codeAt+0x100
		g.put(codeAt+0x100, machineCode("f4"))
	}
	t.Run("SYSCALL", func(t *testing.T) {
		g := newGuest(t)
		g.atCPL3()
		set(g)
		g.s.RFLAGS |= flagIF | flagDF | flagCF
		g.halt("0f 05")
		g.want("rip", g.rip, codeAt+0x101)
		g.want("rcx", g.r[vmm.RCX], userAt+2)
		g.want("r11", g.r[11], flagFixed|flagIF|flagDF|flagCF)
		g.want("rflags", g.rflags(), flagFixed|flagCF)
		g.want("cs", uint64(g.seg[vmm.CS].Selector), selCode64)
		g.want("ss", uint64(g.seg[vmm.SS].Selector), selData)
		g.want("rsp", g.r[vmm.RSP], userSP)
	})
	t.Run("SYSRET", func(t *testing.T) {
		for _, c := range []struct {
			code string
			cs   uint64
		}{{"48 0f 07", selUCode}, {"0f 07", selCode32}} {
			g := newGuest(t)
			set(g)
			g.s.GPR[vmm.RCX], g.s.GPR[11] = userAt, flagIF|flagRF|flagVM|flagZF|flagIOPL
			g.put(codeAt, machineCode(c.code))
			g.start()
			g.run(1)
			g.want("rip", g.rip, userAt)
			g.want("rflags", g.rflags(), flagFixed|flagIF|flagZF|flagIOPL)
			g.want("cs", uint64(g.seg[vmm.CS].Selector), c.cs)
			g.want("ss", uint64(g.seg[vmm.SS].Selector), selUData)
		}
		g := newGuest(t)
		set(g)
		g.s.GPR[vmm.RCX] = 1 << 63
		g.halt("48 0f 07")
		g.want("vector for an address that is not canonical", uint64(g.handled()), excGP)
	})
	t.Run("SYSENTER and SYSEXIT", func(t *testing.T) {
		g := newGuest(t)
		g.atCPL3()
		set(g)
		g.s.RFLAGS |= flagIF
		g.s.GPR[vmm.RDX], g.s.GPR[vmm.RCX] = userAt+0x100, userSP
		g.put(codeAt+0x100, machineCode("48 89 e3 0f 35")) // mov rbx, rsp; sysexit, to 32-bit code
		g.put(userAt+0x100, machineCode("48 f4"))          // dec eax; hlt, which raises #GP
		g.s.GPR[vmm.RAX] = 5
		// The selectors after that of SYSENTER are for this; see SDM vol. 2B, SYSEXIT.
		g.halt("0f 34")
		g.want("rsp", g.r[vmm.RBX], stackAt-64)
		g.want("vector", uint64(g.handled()), excGP)
		g.want("eax", g.r[vmm.RAX], 4)
		g.want("pushed cs", g.get64(g.r[vmm.RSP]+16), selCode64+16|3)
		g.want("pushed ss", g.get64(g.r[vmm.RSP]+40), selCode64+24|3)
	})
	t.Run("off", func(t *testing.T) {
		g := newGuest(t)
		g.s.EFER &^= eferSCE
		g.halt("0f 05")
		g.want("vector of SYSCALL", uint64(g.handled()), excUD)
		g = newGuest(t)
		g.halt("0f 34")
		g.want("vector of SYSENTER", uint64(g.handled()), excGP)
	})
}

// TestModes goes from 32-bit mode without paging to 64-bit mode and back.
func TestModes(t *testing.T) {
	g := newGuest(t)
	g.in32()
	g.s.EFER = 0
	g.put(codeAt+0x100, machineCode(
		"48 ff c0",              // inc rax
		"ff 2c 25 00 00 05 00")) // jmp far dword [dataAt]
	g.put64(dataAt, (codeAt+0x200)|selKCode<<32)
	g.put(codeAt+0x200, machineCode(
		"48",                // dec eax
		"0f 20 c3",          // mov ebx, cr0
		"81 e3 ff ff ff 7f", // and ebx, ~PG
		"0f 22 c3",          // mov cr0, ebx
		"0f 32",             // rdmsr
		"f4"))
	g.halt(
		"0f 20 e0 83 c8 20 0f 22 e0",       // mov eax, cr4; or eax, PAE; mov cr4, eax
		"b9 80 00 00 c0 0f 32",             // mov ecx, EFER; rdmsr
		"0d 00 01 00 00 0f 30",             // or eax, LME; wrmsr
		"0f 20 c0 0d 00 00 00 80 0f 22 c0", // mov eax, cr0; or eax, PG; mov cr0, eax
		"b8 ff ff ff ff",                   // mov eax, -1
		"48",                               // dec eax: this is compatibility mode
		"ea 00 01 01 00 08 00")             // jmp 8:codeAt+0x100
	g.want("rip", g.rip, codeAt+0x200+16)
	g.want("efer", g.r[vmm.RAX], eferLME)
	g.want("efer", g.efer, eferLME)
	g.want("cr0", g.cr0&cr0PG, 0)
}

// TestUnsupported: what this engine does not have ends the guest, with one position of its own.
func TestUnsupported(t *testing.T) {
	for _, c := range []struct{ name, code, want string }{
		{"real mode", "0f 20 c0 83 e0 fe 25 fe ff ff 7f 0f 22 c0", "real mode"},
		{"virtual-8086 mode", "68 00 00 02 00 6a 08 68 00 00 00 00 cf", "virtual-8086"},
		{"task switch", "ea 00 00 00 00 48 00", "task switch"},
		{"task return", "68 00 40 00 00 9d cf", "hardware task"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.in32()
			g.put64(gdtAt+selFree, 0x0000_8900_0000_0067|tssAt<<16)
			g.put(codeAt, machineCode(c.code))
			g.start()
			x := g.run(100)
			if x.Reason != vmm.ExitUnsupported || !strings.Contains(x.Detail, c.want) {
				t.Errorf("exit %+v, want one about %q", x, c.want)
			}
		})
	}
}

// TestPorts: at CPL 3 the I/O permission bit map counts where IOPL does not allow ports.
func TestPorts(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags uint64
		limit uint32
		code  string
		ok    bool
	}{
		{"IOPL 3", flagIOPL, 0x67, "e6 60", true},
		{"no map", 0, 0x67, "e6 60", false},
		{"open", 0, 0x87, "e6 61", true},
		{"closed", 0, 0x87, "e6 60", false},
		{"word, half closed", 0, 0x87, "66 e7 5f", false},
		{"word, open", 0, 0x87, "66 e7 61", true},
		{"word across bytes of the map, open", 0, 0x87, "66 e7 67", true},
		{"double word, half closed", 0, 0x87, "e7 5d", false},
		{"at the end of the map", 0, 0x87, "e6 f7", true},
		{"beyond the map", 0, 0x87, "e6 f8", false},
		{"input, open", 0, 0x87, "e4 61", true},
		{"string, open", 0, 0x87, "be 00 00 05 00 ba 61 00 00 00 6e", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.atCPL3()
			g.s.RFLAGS |= c.flags
			g.s.TR.Limit = c.limit
			g.put(tssAt+0x68+0x60/8, []byte{1})
			g.halt(c.code)
			if ok := len(g.bus.log) == 1; ok != c.ok {
				t.Errorf("accesses %q", g.bus.log)
			}
			g.want("vector", uint64(g.handled()), excGP) // HLT's, at the latest
		})
	}
}

// TestFlagsByLevel: which flags POPF and IRET change depends on the privilege level.
func TestFlagsByLevel(t *testing.T) {
	const all = flagsArith | flagIF | flagDF | flagIOPL | flagNT | flagAC | flagID
	for _, c := range []struct {
		cpl  int
		old  uint64
		want uint64
	}{
		{0, 0, all},
		{3, 0, all &^ (flagIF | flagIOPL)},
		{3, flagIOPL, all},
		{3, 1 << 12, all&^(flagIF|flagIOPL) | 1<<12},
	} {
		g := newGuest(t)
		if c.cpl == 3 {
			g.atCPL3()
		}
		g.s.RFLAGS |= c.old
		g.s.GPR[vmm.RAX] = all | flagVM | flagRF | flagVIF | flagVIP
		g.put(g.s.RIP, machineCode("50 9d 90")) // push rax; popf; nop
		g.start()
		g.run(2)
		g.want(fmt.Sprintf("rflags at CPL%d with %#x", c.cpl, c.old), g.rflags(), c.want|flagFixed)
	}
}

// TestTables: LGDT and SGDT take 10 bytes in 64-bit mode and 6 in others.
func TestTables(t *testing.T) {
	g := newGuest(t)
	g.put64(dataAt, 0xffff_8000_1234_0123, 0xffff)
	g.halt("0f 01 1c 25 00 00 05 00", "0f 01 0c 25 10 00 05 00") // lidt [dataAt]; sidt [dataAt+16]
	g.want("base", g.idt.Base, 0xffff_ffff_8000_1234)
	g.want("limit", uint64(g.idt.Limit), 0x123)
	if got, want := g.ram.View(dataAt+16, 10), g.ram.View(dataAt, 10); !slices.Equal(got, want) {
		t.Errorf("SIDT stored %x, want %x", got, want)
	}
	g = newGuest(t)
	g.put64(dataAt, 0x8000_1234_0123, 1)
	g.halt("0f 01 1c 25 00 00 05 00") // the base is not canonical
	g.want("vector", uint64(g.handled()), excGP)
	g = newGuest(t)
	g.in32()
	g.put64(dataAt, 0xffff_9234_5678_0123)
	g.halt("0f 01 1d 00 00 05 00", "66 0f 01 15 00 00 05 00") // lidt [dataAt]; lgdt [dataAt], 16-bit operand
	g.want("base", g.idt.Base, 0x9234_5678)
	g.want("base of 24 bits", g.gdt.Base, 0x34_5678)
}

// TestSystemAllocatesNothing: system calls, faults and interrupts are on the run path.
func TestSystemAllocatesNothing(t *testing.T) {
	g := newGuest(t)
	g.atCPL3()
	g.s.RFLAGS |= flagIF
	g.s.MSR[msrSTAR], g.s.MSR[msrLSTAR] = uint64(0x18)<<48|selCode64<<32, codeAt
	g.put(codeAt, machineCode("48 0f 07")) // sysretq
	g.gate64(excUD, selCode64, codeAt+0x100, 0x8e, 0)
	g.gate64(0x40, selCode64, codeAt+0x200, 0x8e, 0)
	g.put(codeAt+0x100, machineCode("48 83 04 24 02 48 cf"))          // add qword [rsp], 2; iretq
	g.put(codeAt+0x200, machineCode("0f 20 d8 0f 22 d8 0f 31 48 cf")) // mov rax, cr3; mov cr3, rax; rdtsc; iretq
	g.put(userAt, machineCode(
		"0f 05",                   // syscall
		"0f 0b",                   // ud2
		"8b 04 25 fe 0f 05 00",    // mov eax, [dataAt+0xffe]
		"89 04 25 fe 0f 05 00",    // mov [dataAt+0xffe], eax
		"0f ae 04 25 00 00 06 00", // fxsave [dataAt+0x10000]
		"9c 9d",                   // pushf; popf
		"eb e2"))                  // jmp
	g.start()
	round := func() {
		if x := g.run(1000); x.Reason != vmm.ExitPosition {
			t.Fatalf("exit %+v\n%v", x, g.state())
		}
		if g.interruptible() {
			g.interrupt(0x40)
		}
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations in 1000 instructions", n)
	}
	if g.handled() >= 0 {
		t.Errorf("exception %d", g.handled())
	}
}

// TestMissing: an instruction that this CPU does not have raises #UD and is counted by its name.
func TestMissing(t *testing.T) {
	for name, code := range map[string]string{
		"vex": "c5 f8 58 c1", "rdrand": "0f c7 f0", "xgetbv": "0f 01 d0", "aesenc": "66 0f 38 dc c1", "movbe": "0f 38 f0 03",
	} {
		g := newGuest(t)
		g.halt(code)
		g.want("vector of "+name, uint64(g.handled()), excUD)
		if counts := g.Undefined(); len(counts) != 1 || counts[name] != 1 {
			t.Errorf("counted after %s: %v", name, counts)
		}
	}
}
