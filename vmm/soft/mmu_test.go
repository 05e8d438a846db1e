package soft

import (
	"fmt"
	"slices"
	"testing"

	"ftvm/vmm"
)

// TestPageFaults looks at the error code, at CR2, and at whether accessed and dirty bits stay as they are.
func TestPageFaults(t *testing.T) {
	const page = dataAt
	const pte = ptAt + page>>12*8
	const rwx = pteP | pteW | pteU
	read, write := "8b 04 25 00 00 05 00", "89 04 25 00 00 05 00" // mov eax, [dataAt]; mov [dataAt], eax
	jump := "b8 00 00 05 00 ff e0"                                // mov eax, dataAt; jmp rax
	for _, c := range []struct {
		name   string
		cpl    int
		code   string
		at     uint64 // a paging-structure entry
		entry  uint64
		cr0    uint64 // CR0 bits to be cleared
		efer   uint64 // and of EFER
		faults bool
		code14 uint64
	}{
		{"absent, read", 0, read, pte, page | rwx&^pteP, 0, 0, true, 0},
		{"absent, write", 0, write, pte, 0, 0, 0, true, 2},
		{"absent, read by user", 3, read, pte, 0, 0, 0, true, 4},
		{"absent, write by user", 3, write, pte, 0, 0, 0, true, 6},
		{"absent, fetch", 0, jump, pte, 0, 0, 0, true, 0x10},
		{"absent, fetch by user", 3, jump, pte, 0, 0, 0, true, 0x14},
		{"absent, fetch without NXE", 3, jump, pte, 0, 0, eferNXE, true, 4},
		{"absent table", 0, read, pdAt, 0, 0, 0, true, 0},
		{"read-only, read", 3, read, pte, page | pteP | pteU, 0, 0, false, 0},
		{"read-only, write", 0, write, pte, page | pteP | pteU, 0, 0, true, 3},
		{"read-only, write without WP", 0, write, pte, page | pteP | pteU, cr0WP, 0, false, 0},
		{"read-only, write by user", 3, write, pte, page | pteP | pteU, cr0WP, 0, true, 7},
		{"read-only table, write", 0, write, pdAt, ptAt | pteP | pteU, 0, 0, true, 3},
		{"supervisor, read by user", 3, read, pte, page | pteP | pteW, 0, 0, true, 5},
		{"supervisor, read", 0, read, pte, page | pteP | pteW, 0, 0, false, 0},
		{"supervisor, fetch by user", 3, jump, pte, page | pteP, 0, 0, true, 0x15},
		{"no execution, read", 0, read, pte, page | rwx | pteNX, 0, 0, false, 0},
		{"no execution, fetch", 0, jump, pte, page | rwx | pteNX, 0, 0, true, 0x11},
		{"no execution in the table, fetch by user", 3, jump, pte, page | rwx | pteNX, 0, 0, true, 0x15},
		{"no execution without NXE is reserved", 0, read, pte, page | rwx | pteNX, 0, eferNXE, true, 9},
		{"wide address is reserved", 0, read, pte, page | rwx | 1<<40, 0, 0, true, 9},
		{"wide address is reserved, write by user", 3, write, pte, page | rwx | 1<<51, 0, 0, true, 0xf},
		{"ignored bits", 0, read, pte, page | rwx | 0x7ff<<52, 0, 0, false, 0},
		{"large page, misaligned", 0, read, pdAt, rwx | ptePS | 1<<13, 0, 0, true, 9},
		{"large page", 0, read, pdAt, rwx | ptePS | 1<<12, 0, 0, false, 0},
		{"huge page, misaligned", 0, read, pdptAt, rwx | ptePS | 1<<29, 0, 0, true, 9},
		{"no page of 512 GiB", 0, read, pml4At, pdptAt | rwx | ptePS, 0, 0, true, 9},
	} {
		t.Run(fmt.Sprintf("%s at CPL%d", c.name, c.cpl), func(t *testing.T) {
			g := newGuest(t)
			g.put(page, machineCode("f4"))
			// The handlers and what they need lie in another 2 MiB, or GiB, than what is looked at.
			g.s.CR0 &^= c.cr0
			g.s.EFER &^= c.efer
			start := uint64(codeAt)
			if c.cpl == 3 {
				g.atCPL3()
				start = userAt
			}
			g.put(start, append(machineCode(c.code), 0xf4))
			g.start()
			// What runs is in the TLB before the entry changes; the page that is looked at is not.
			g.warm(start, idtAt+14*16, gdtAt, tssAt, rsp0At-8, stackAt-8, vectors+14*16)
			g.put64(c.at, c.entry)
			if c.faults {
				g.run(10)
				g.want("vector", uint64(g.handled()), 14)
				g.want("error code", g.get64(g.r[vmm.RSP]), c.code14)
				g.want("cr2", g.cr2, page)
				g.want("entry", g.get64(c.at), c.entry)
				return
			}
			g.run(1)
			g.want("handler", uint64(g.handled()), uint64(1<<64-1))
			if c.at == pte {
				want := c.entry | pteA
				if c.code == write {
					want |= pteD
				}
				g.want("entry", g.get64(c.at), want)
			}
		})
	}
}

// warm puts pages into the TLB, so that what a test does to the paging structures does not concern them.
func (g *guest) warm(addrs ...uint64) {
	for _, a := range addrs {
		for _, acc := range []access{0, accUser} {
			g.entry(a, acc|accWrite)
			if p, ok := g.walk(a, acc|accFetch); ok {
				e := &g.tlb.ex[acc>>1][a/pageSize%tlbSize]
				g.tlb.fill(&e.head, a, &p)
				e.phys, e.page = p.phys, g.codePage(p.phys)
			}
		}
	}
	g.stop = 0
}

// TestWalkSetsBits follows the accessed and dirty bits of all levels.
func TestWalkSetsBits(t *testing.T) {
	g := newGuest(t)
	g.start()
	entries := []uint64{pml4At, pdptAt, pdAt, ptAt + dataAt>>12*8}
	marked := func() (m []uint64) {
		for _, e := range entries {
			m = append(m, g.get64(e)&(pteA|pteD))
		}
		return m
	}
	check := func(what string, want ...uint64) {
		t.Helper()
		if got := marked(); !slices.Equal(got, want) {
			t.Errorf("after %s the bits are %x, want %x", what, got, want)
		}
	}
	check("nothing", 0, 0, 0, 0)
	if _, ok := g.load8(dataAt); !ok {
		t.Fatal("load failed")
	}
	check("a read", pteA, pteA, pteA, pteA)
	g.stepping = true
	if !g.store8(dataAt, 1) {
		t.Fatal("store failed")
	}
	check("a write", pteA, pteA, pteA, pteA|pteD)
	// What the TLB has is not looked up again.
	g.put64(entries[3], dataAt|pteP|pteW|pteU)
	if !g.store8(dataAt, 2) {
		t.Fatal("store failed")
	}
	check("a write that the TLB knows", pteA, pteA, pteA, 0)
	g.tlb.drop(dataAt)
	if !g.store8(dataAt+1, 2) {
		t.Fatal("store failed")
	}
	check("INVLPG and a write", pteA, pteA, pteA, pteA|pteD)
}

// TestPagingModes translates the same way in each of the paging modes.
func TestPagingModes(t *testing.T) {
	const rwx = pteP | pteW | pteU
	for _, c := range []struct {
		name  string
		setup func(g *guest)
		lin   uint64
		phys  uint64
		shift uint8
	}{
		{"off", func(g *guest) { g.in32() }, 0x1234_5678, 0x1234_5000, 12},
		{"32-bit", func(g *guest) {
			g.in32()
			g.s.CR0 |= cr0PG
			g.put(pml4At+0x8d*4, []byte{rwx, ptAt >> 8, 0, 0})
			g.put(ptAt+0x105*4, []byte{rwx, 0x10, 0x05, 0})
		}, 0x2350_5678, 0x5_1000, 12},
		{"32-bit, 4 MiB with PSE-36", func(g *guest) {
			g.in32()
			g.s.CR0 |= cr0PG
			g.s.CR4 |= cr4PSE
			g.put(pml4At+0x8d*4, []byte{rwx | ptePS, 0x60, 0x40, 0x12})
		}, 0x2350_5678, 0x3_1250_5000, 22},
		{"PAE", func(g *guest) {
			g.in32()
			g.s.CR0 |= cr0PG
			g.s.CR4 |= cr4PAE
			g.s.CR3 = pml4At + 0x20
			g.put64(pml4At+0x20+8*1, pdAt|pteP)
			g.put64(pdAt+8*3, ptAt|rwx)
			g.put64(ptAt+8*5, 0x12_3456_7000|rwx)
		}, 1<<30 | 3<<21 | 5<<12, 0x12_3456_7000, 12},
		{"PAE, 2 MiB", func(g *guest) {
			g.in32()
			g.s.CR0 |= cr0PG
			g.s.CR4 |= cr4PAE
			g.put64(pml4At+8*3, pdAt|pteP)
			g.put64(pdAt, 0x12_3460_0000|rwx|ptePS)
		}, 3<<30 | 5<<12, 0x12_3460_5000, 21},
		{"4-level", func(g *guest) {}, dataAt | 0x123, dataAt, 12},
		{"4-level, 2 MiB", func(g *guest) { g.put64(pdAt+8, 0x12_3460_0000|rwx|ptePS) }, 1<<21 | 0x7123, 0x12_3460_7000, 21},
		{"4-level, 1 GiB", func(g *guest) { g.put64(pdptAt+8, 0x12_4000_0000|rwx|ptePS) }, 1<<30 | 0x765_4321, 0x12_4765_4000, 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			c.setup(g)
			g.start()
			w, ok := g.walk(c.lin, 0)
			if !ok {
				t.Fatalf("fault %+v", g.exc)
			}
			g.want("address", w.phys, c.phys)
			g.want("size", uint64(w.shift), uint64(c.shift))
		})
	}
}

// TestINVLPG drops a page whatever its size, wherever in it the address is, and whether it is global.
func TestINVLPG(t *testing.T) {
	const rwx = pteP | pteW | pteU
	for _, c := range []struct {
		name     string
		at       uint64 // entry
		entry    uint64
		base     uint64 // linear address of what it maps
		near     uint64 // another 4 KiB of the same page
		far      uint64 // an address in another page
		farEntry uint64
	}{
		{"4 KiB", ptAt + 8*0x50, 0x50000 | rwx, 0x50000, 0x50fff, 0x51000, ptAt + 8*0x51},
		{"2 MiB", pdAt + 8, rwx | ptePS, 1 << 21, 2<<21 - 1, 2 << 21, pdAt + 16},
		{"1 GiB", pdptAt + 8, rwx | ptePS, 1 << 30, 2<<30 - 1, 2 << 30, pdptAt + 16},
	} {
		for _, global := range []uint64{0, pteG} {
			t.Run(fmt.Sprintf("%s, G=%#x", c.name, global), func(t *testing.T) {
				g := newGuest(t)
				g.put64(c.at, c.entry|global)
				g.put64(c.farEntry, c.entry|global)
				g.start()
				for _, a := range []uint64{c.base, c.far} {
					if g.entry(a, accWrite) == nil || g.entry(a, accUser) == nil {
						t.Fatalf("fault %+v", g.exc)
					}
				}
				g.put64(c.at, 0)
				g.put64(c.farEntry, 0)
				g.tlb.drop(c.near)
				for _, acc := range []access{0, accWrite, accUser} {
					if g.entry(c.base, acc) != nil {
						t.Errorf("the page is still there, access %#x", acc)
					}
				}
				if g.entry(c.far, accWrite) == nil || g.entry(c.far, accUser) == nil {
					t.Error("another page is gone")
				}
			})
		}
	}
}

// TestFlush drops pages that are not global when CR3 is written, and all when CR4.PGE changes.
func TestFlush(t *testing.T) {
	g := newGuest(t)
	const rwx = pteP | pteW | pteU
	g.put64(ptAt+8*0x50, 0x50000|rwx|pteG)
	g.start()
	has := func(a uint64) bool { return g.tlb.rd[0][a/pageSize%tlbSize].tag&^tagSlow == a }
	fill := func() {
		g.entry(0x50000, 0)
		g.entry(0x51000, 0)
	}
	for range 3 {
		fill()
		g.setCR3(pml4At)
		if !has(0x50000) || has(0x51000) {
			t.Fatalf("after MOV CR3: global %v, other %v", has(0x50000), has(0x51000))
		}
	}
	// A page that becomes global, or no longer is, is dropped by the flush for what it is now.
	g.put64(ptAt+8*0x50, 0x50000|rwx)
	g.tlb.drop(0x50000)
	g.put64(ptAt+8*0x51, 0x51000|rwx|pteG)
	fill()
	g.setCR3(pml4At)
	if has(0x50000) || !has(0x51000) {
		t.Fatalf("after a change of G: %v and %v", has(0x50000), has(0x51000))
	}
	fill()
	g.setCR4(g.cr4 &^ cr4PGE)
	if has(0x50000) || has(0x51000) {
		t.Fatal("after a change of CR4.PGE pages are left")
	}
}

// TestCrossing: of an access that crosses into a page that is not there nothing is done, and CR2 is the address of
// that page.
func TestCrossing(t *testing.T) {
	g := newGuest(t)
	g.put64(ptAt+8*0x51, 0)
	g.halt("48 c7 04 25 fa 0f 05 00 11 11 11 11") // mov qword [dataAt+0xffa], 0x11111111
	g.want("vector", uint64(g.handled()), 14)
	g.want("cr2", g.cr2, 0x51000)
	g.want("memory", g.get64(dataAt+0xff8), 0)

	g = newGuest(t)
	g.put64(dataAt+0x1ff8, 0x7766_5544_3322_1100)
	g.put64(dataAt, 0xffee_ddcc_bbaa_9988)
	g.put64(ptAt+8*0x5f, 0x51000|pteP|pteW|pteU) // linear and physical addresses are not in the same order
	g.put64(ptAt+8*0x60, 0x50000|pteP|pteW|pteU)
	g.halt("48 8b 04 25 fb ff 05 00", // mov rax, [0x5fffb]
		"48 ff 04 25 fb ff 05 00",       // inc qword [0x5fffb]
		"f0 48 0f b1 1c 25 fb ff 05 00") // cmpxchg [0x5fffb], rbx: not equal
	g.want("rax", g.r[vmm.RAX], 0xaa99_8877_6655_4434)
	g.want("first page", g.get64(dataAt+0x1ff8), 0x7766_5544_3422_1100)
	g.want("second page", g.get64(dataAt), 0xffee_ddcc_bbaa_9988)
}

// TestBusAccess: an access outside RAM goes to the bus, that of the CPU itself does not.
func TestBusAccess(t *testing.T) {
	g := newGuest(t)
	g.halt("bb fa 0f 00 d0", // mov ebx, busAt+0xffa
		"48 89 03", // mov [rbx], rax
		"48 ff 03") // inc qword [rbx]
	want := []string{"write d0000ffa 000000000000", "write d0001000 0000",
		"read d0000ffa ffffffffffff", "read d0001000 ffff", "write d0000ffa 000000000000", "write d0001000 0000"}
	if !slices.Equal(g.bus.log, want) {
		t.Errorf("accesses %q, want %q", g.bus.log, want)
	}
	// Descriptors there have all bits set.
	g = newGuest(t)
	g.s.GDT.Base = busAt
	g.halt("b8 10 00 00 00 8e d8") // mov eax, 0x10; mov ds, eax
	g.want("ds", uint64(g.seg[vmm.DS].Access), 0xf0ff)
	if len(g.bus.log) != 0 {
		t.Errorf("accesses %q", g.bus.log)
	}
}

// TestStackFaults: an address that is not canonical raises #SS if it is the stack's.
func TestStackFaults(t *testing.T) {
	const none = "48 b8 00 00 00 00 00 00 00 80" // mov rax, 1<<63
	for _, c := range []struct {
		name, code string
		vector     uint64
	}{
		{"read", none + "8b 18", 13},                         // mov ebx, [rax]
		{"by RBP", none + "48 89 c5 8b 5d 00", 12},           // mov rbp, rax; mov ebx, [rbp]
		{"by RSP", none + "48 89 c4 8b 5c 24 00", 12},        // mov rsp, rax; mov ebx, [rsp]
		{"push", none + "48 89 c4 50", 12},                   // mov rsp, rax; push rax
		{"push from bad memory", none + "ff 30", 13},         // push qword [rax]
		{"call", none + "48 89 c4 e8 00 00 00 00", 12},       // mov rsp, rax; call
		{"by FS and RBP", none + "48 89 c5 64 8b 5d 00", 13}, // mov rbp, rax; mov ebx, fs:[rbp]
		{"crossing", "48 b8 fd ff ff ff ff 7f 00 00 8b 18", 13},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			// The handlers have a good stack.
			g.gate64(12, selCode64, vectors+16*12, 0x8e, 1)
			g.gate64(13, selCode64, vectors+16*13, 0x8e, 1)
			g.halt(c.code)
			g.want("vector", uint64(g.handled()), c.vector)
			g.want("error code", g.get64(g.r[vmm.RSP]), 0)
		})
	}
}

// TestCodeIsWatched: stores to code that was decoded take effect at the next instruction, whichever way they are made.
func TestCodeIsWatched(t *testing.T) {
	g := newGuest(t)
	// The loop's body, inc ecx, becomes dec ecx and back in each round, by a store right before it.
	g.halt("be 0a 00 00 00", // mov esi, 10
		"bb 1b 00 01 00", // mov ebx, where the body is, +1
		"31 c9",          // xor ecx, ecx
		"b0 c1",          // mov al, 0xc1: inc
		"34 08",          // again: xor al, 8
		"88 03",          // mov [rbx], al
		"90 90 90 90",    // nop
		"90 90 90 90",
		"ff c1", // inc ecx
		"ff ce", // dec esi
		"75 ee") // jnz again
	g.want("ecx", g.r[vmm.RCX], 0)
	g.want("esi", g.r[vmm.RSI], 0)
}
