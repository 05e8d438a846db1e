package soft

import (
	"testing"

	"ftvm/vmm"
)

// debugged is what TestDebug looks at when #DB was delivered.
type debugged struct {
	rip   uint64 // pushed, relative to the start
	bits  uint64 // of DR6, beyond what is always set
	flags uint64 // pushed, of RF and TF
}

// TestDebug lists where #DB comes, instruction by instruction (SDM vol. 3B, 18.3).
func TestDebug(t *testing.T) {
	const tf, rf = flagTF, flagRF
	exec := func(i uint) uint64 { return 1 << (2 * i) }
	watch := func(i uint, kind, length uint64) uint64 { return 1<<(2*i) | kind<<(16+4*i) | length<<(18+4*i) }
	for _, c := range []struct {
		name  string
		code  string
		flags uint64
		dr7   uint64
		dr    [4]uint64
		cr4   uint64
		want  []debugged
	}{
		{"single step", "90 90", tf, 0, [4]uint64{}, 0, []debugged{{1, dr6BS, tf}, {2, dr6BS, tf}}},
		{"TF set by POPF", "68 02 01 00 00 9d 90 90", 0, 0, [4]uint64{}, 0, []debugged{{7, dr6BS, tf}, {8, dr6BS, tf}}},
		{"TF cleared by POPF", "6a 02 9d 90 90", tf, 0, [4]uint64{}, 0, []debugged{{2, dr6BS, tf}, {3, dr6BS, 0}}},
		{"MOV SS", "8e d0 90 90", tf, 0, [4]uint64{}, 0, []debugged{{3, dr6BS, tf}, {4, dr6BS, tf}}},
		{"STI", "fb 90", tf, 0, [4]uint64{}, 0, []debugged{{1, dr6BS, tf}, {2, dr6BS, tf}}},
		{"INT", "cd 31 90", tf, 0, [4]uint64{}, 0, []debugged{{3, dr6BS, tf}}},
		{"repetition", "b9 02 00 00 00 f3 aa", tf, 0, [4]uint64{}, 0, []debugged{{5, dr6BS, tf}, {5, dr6BS, tf}, {7, dr6BS, tf}}},
		{"instruction", "90 90", 0, exec(1), [4]uint64{0, codeAt + 1}, 0, []debugged{{1, 2, 0}}},
		{"instruction, by two", "90 90", 0, exec(0) | exec(3), [4]uint64{codeAt, 0, 0, codeAt}, 0, []debugged{{0, 9, 0}}},
		{"instruction and step", "90 90", tf, exec(0), [4]uint64{codeAt + 1}, 0,
			[]debugged{{1, dr6BS, tf}, {2, dr6BS, tf}}}, // and RF
		{"store", "89 07 90", 0, watch(2, watchStores, 3), [4]uint64{2: dataAt}, 0, []debugged{{2, 4, 0}}},
		{"store by its last byte", "89 07 90", 0, watch(2, watchStores, 0), [4]uint64{2: dataAt + 3}, 0, []debugged{{2, 4, 0}}},
		{"store beside", "89 07 90", 0, watch(2, watchStores, 0), [4]uint64{2: dataAt + 4}, 0, nil},
		{"load, watched for stores", "8b 07 90", 0, watch(0, watchStores, 3), [4]uint64{dataAt}, 0, nil},
		{"load", "8b 07 90", 0, watch(0, watchAll, 2), [4]uint64{dataAt + 7}, 0, []debugged{{2, 1, 0}}},
		{"read and write", "ff 07 90", 0, watch(0, watchAll, 0), [4]uint64{dataAt}, 0, []debugged{{2, 1, 0}}},
		{"repeated store", "b9 03 00 00 00 f3 aa 90", 0, watch(0, watchStores, 0), [4]uint64{dataAt + 1}, 0, []debugged{{5, 1, 0}}},
		{"not enabled", "89 07 90", 0, watch(0, watchAll, 0) &^ 0xff, [4]uint64{dataAt}, 0, nil},
		{"port", "e6 80 90", 0, watch(0, watchPorts, 0), [4]uint64{0x80}, cr4DE, []debugged{{2, 1, 0}}},
		{"port without DE", "e6 80 90", 0, watch(0, watchPorts, 0), [4]uint64{0x80}, 0, nil},
		{"general detect", "0f 21 c3 90", 0, dr7GD, [4]uint64{}, 0, []debugged{{0, dr6BD, rf}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.s.RFLAGS |= c.flags
			g.s.DR, g.s.DR7, g.s.CR4 = c.dr, c.dr7|dr7Fixed, g.s.CR4|c.cr4
			g.s.GPR[vmm.RDI], g.s.GPR[vmm.RAX] = dataAt, selData
			// The handler returns with RF set, as debuggers do, and lets the handler of INT 0x31 alone.
			g.gate64(excDB, selCode64, codeAt+0x800, 0x8e, 0)
			g.put(codeAt+0x800, machineCode("f4 81 4c 24 10 00 00 01 00 48 cf")) // hlt; or dword [rsp+16], RF; iretq
			g.put(vectors+0x31*16, machineCode("48 cf"))
			end := len(machineCode(c.code))
			g.put(codeAt, append(machineCode(c.code), 0x90, 0x90, 0x90, 0x90, 0xf4))
			g.start()
			var got []debugged
			for range 20 {
				if x := g.run(1000); x.Reason != vmm.ExitHalt {
					t.Fatalf("exit %+v\n%v", x, g.state())
				}
				if g.rip != codeAt+0x801 {
					break
				}
				sp := g.r[vmm.RSP]
				d := debugged{g.get64(sp) - codeAt, g.dr6 &^ dr6Fixed, g.get64(sp+16) & (tf | rf)}
				if d.rip > uint64(end) {
					break
				}
				got = append(got, d)
				g.dr6 = dr6Fixed
			}
			if len(got) != len(c.want) {
				t.Fatalf("#DB %+v, want %+v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("#DB number %d: %+v, want %+v", i, got[i], c.want[i])
				}
			}
		})
	}
}

// TestDebugRegisters: the bits that are fixed, the other names of DR6 and DR7, and what raises an exception.
func TestDebugRegisters(t *testing.T) {
	g := newGuest(t)
	g.s.GPR[vmm.RAX] = 0xffff_ffff
	g.halt("0f 23 e8 0f 21 fb", // mov dr5, rax; mov rbx, dr7
		"31 c0 0f 23 f8",    // xor eax, eax; mov dr7, rax
		"0f 23 e0 0f 21 f1", // mov dr4, rax; mov rcx, dr6
		"48 f7 d0 0f 23 d8", // not rax; mov dr3, rax
		"0f 21 da")          // mov rdx, dr3
	// Setting GD made the next access raise #DB.
	g.want("vector", uint64(g.handled()), excDB)
	g.want("dr7", g.dr7, dr7Keep&^dr7GD|dr7Fixed)
	for _, c := range []struct {
		code   string
		rax    uint64
		cr4    uint64
		vector uint64
	}{
		{"0f 23 f8", 1 << 32, 0, excGP},     // mov dr7, rax
		{"0f 23 f0", 1 << 32, 0, excGP},     // mov dr6, rax
		{"0f 23 e0", 0, cr4DE, excUD},       // mov dr4, rax
		{"44 0f 23 c0", 0, 0, excUD},        // mov dr8, rax
		{"0f 23 c0", 1 << 63, 0, 1<<64 - 1}, // mov dr0, rax
	} {
		g := newGuest(t)
		g.s.GPR[vmm.RAX], g.s.CR4 = c.rax, g.s.CR4|c.cr4
		g.halt(c.code)
		g.want("vector of "+c.code, uint64(g.handled()), c.vector)
	}
}

// TestAlignmentCheck: #AC is raised at CPL 3 only, and with CR0.AM and RFLAGS.AC set.
func TestAlignmentCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		cpl    int
		cr0    uint64
		flags  uint64
		code   string
		vector uint64
	}{
		{"CPL3", 3, cr0AM, flagAC, "8b 47 01", excAC}, // mov eax, [rdi+1]
		{"CPL0", 0, cr0AM, flagAC, "8b 47 01", 1<<64 - 1},
		{"without AM", 3, 0, flagAC, "8b 47 01", excGP},
		{"without AC", 3, cr0AM, 0, "8b 47 01", excGP},
		{"byte", 3, cr0AM, flagAC, "8a 47 01", excGP},
		{"aligned", 3, cr0AM, flagAC, "8b 47 04", excGP},
		{"store", 3, cr0AM, flagAC, "66 89 47 01", excAC},
		{"before a page fault", 3, cr0AM, flagAC, "8b 04 25 fd ff 1f 00", excAC}, // mov eax, [2 MiB - 3]
		{"AC set by POPF", 3, cr0AM, 0, "68 02 00 04 00 9d 8b 47 01", excAC},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			if c.cpl == 3 {
				g.atCPL3()
			}
			g.s.CR0 |= c.cr0
			g.s.RFLAGS |= c.flags
			g.s.GPR[vmm.RDI] = dataAt
			g.halt(c.code)
			g.want("vector", uint64(g.handled()), c.vector)
		})
	}
}

// TestShadow: no interrupt is taken right after STI and MOV SS, whether Run stops there or not.
func TestShadow(t *testing.T) {
	for _, c := range []struct {
		name, code string
		flags      uint64
		window     vmm.Position // where an interrupt can be taken first
	}{
		{"STI", "fb 90 90", 0, 2},
		{"STI, IF set before", "fb 90 90", flagIF, 0},
		{"STI twice", "fb fb 90", 0, 2},
		{"STI and CLI", "fb fa fb 90 90", 0, 4},
		{"MOV SS", "fb 8e d0 90 90", 0, 3},
		{"POPF", "68 02 02 00 00 9d 90", 0, 2},
		{"STI and HLT", "fb f4", 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.s.RFLAGS |= c.flags
			g.s.GPR[vmm.RAX] = selData
			g.put(codeAt, machineCode(c.code))
			g.start()
			for x := (vmm.Exit{}); x.Reason != vmm.ExitWindow; {
				var err error
				if x, err = g.Run(10, true, &g.bus); err != nil || x.Reason != vmm.ExitWindow && x.Reason != vmm.ExitHalt {
					t.Fatalf("exit %+v, error %v", x, err)
				}
			}
			g.want("window", uint64(g.pos), uint64(c.window))
			// The same, stopping at each position.
			g.start()
			for !g.interruptible() {
				if g.pos > 10 {
					t.Fatal("no window")
				}
				g.Run(g.pos+1, false, &g.bus)
			}
			g.want("window, step by step", uint64(g.pos), uint64(c.window))
		})
	}
}
