package soft

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"ftvm/vmm"
)

// Where things lie in the memory of a test's guest. In 64-bit mode the first 2 MiB are mapped by pages of 4 KiB, at
// their own addresses and for user mode as well; so is the GiB of the bus, by one page.
const (
	testRAM = 2 << 20

	pml4At  = 0x1000
	pdptAt  = 0x2000
	pdAt    = 0x3000
	ptAt    = 0x4000
	gdtAt   = 0x5000
	tssAt   = 0x6000
	idtAt   = 0x7000
	ldtAt   = 0x8000
	codeAt  = 0x1_0000
	userAt  = 0x2_0000
	vectors = 0x3_0000 // 16 bytes for each vector: HLT
	dataAt  = 0x5_0000
	stackAt = 0x7_0000
	rsp0At  = 0x8_0000
	ist1At  = 0x9_0000
	userSP  = 0xa_0000
	busAt   = 0xD000_0000
)

// Selectors of the test's GDT.
const (
	selCode64 = 0x08
	selData   = 0x10
	selCode32 = 0x18 | 3
	selUData  = 0x20 | 3
	selUCode  = 0x28 | 3
	selTSS    = 0x30 // takes two entries in 64-bit mode
	selKCode  = 0x40 // 32-bit code for CPL 0
	selFree   = 0x48 // the first of those that tests fill in
	gdtSize   = 0x100
)

// machineCode joins machine code written in hexadecimal.
func machineCode(parts ...string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// guest is a machine for a test.
type guest struct {
	*CPU
	t   testing.TB
	bus testBus
	s   vmm.CPUState // the start state
}

// testBus notes accesses, and answers reads with FF.
type testBus struct {
	cpu *CPU
	log []string
}

func (b *testBus) note(kind string, a uint64, p []byte) {
	b.log = append(b.log, fmt.Sprintf("%s %x %x", kind, a, p))
}

func (b *testBus) ones(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}

func (b *testBus) PortIn(port uint16, p []byte)  { b.ones(p); b.note("in", uint64(port), p) }
func (b *testBus) PortOut(port uint16, p []byte) { b.note("out", uint64(port), p) }
func (b *testBus) MemIn(a vmm.GPA, p []byte)     { b.ones(p); b.note("read", uint64(a), p) }
func (b *testBus) MemOut(a vmm.GPA, p []byte)    { b.note("write", uint64(a), p) }
func (b *testBus) Now() vmm.Time                 { return 1000 * vmm.Time(b.cpu.Position()) }

// newGuest makes a guest that is about to start in 64-bit mode at CPL 0 with interrupts disabled.
func newGuest(t testing.TB) *guest {
	g := &guest{CPU: New(vmm.NewRAM(make([]byte, testRAM)), guestOptions(t)), t: t}
	g.bus.cpu = g.CPU
	const table = pteP | pteW | pteU
	g.put64(pml4At, pdptAt|table)
	g.put64(pdptAt, pdAt|table, 0, 0, 3<<30|table|ptePS)
	g.put64(pdAt, ptAt|table)
	for i := range uint64(512) {
		g.put64(ptAt+8*i, i<<12|table)
	}
	g.put64(gdtAt, 0,
		0x00af_9b00_0000_ffff, // 64-bit code
		0x00cf_9300_0000_ffff, // data
		0x00cf_fb00_0000_ffff, // 32-bit code for CPL 3
		0x00cf_f300_0000_ffff, // data for CPL 3
		0x00af_fb00_0000_ffff, // 64-bit code for CPL 3
		0x0000_8b00_0000_0067|tssAt<<16, 0,
		0x00cf_9b00_0000_ffff) // 32-bit code
	g.put64(tssAt+tss64RSP, rsp0At)
	g.put64(tssAt+tss64IST, ist1At)
	g.put(tssAt+tssIOMap, []byte{0x68, 0})
	for v := range uint64(256) {
		g.gate64(uint8(v), selCode64, vectors+16*v, 0x8e, 0)
		g.put(vectors+16*v, machineCode("f4"))
	}
	g.s = vmm.CPUState{
		RIP: codeAt, RFLAGS: flagFixed,
		Seg: [6]vmm.Segment{flat(selData, flatData), flat(selCode64, flatCode64), flat(selData, flatData),
			flat(selData, flatData), flat(selData, flatData), flat(selData, flatData)},
		LDT: vmm.Segment{Access: vmm.SegUnusable},
		TR:  vmm.Segment{Selector: selTSS, Base: tssAt, Limit: 0x67, Access: sysTSS | sysBusy | sys32 | vmm.SegP},
		GDT: vmm.Table{Base: gdtAt, Limit: gdtSize - 1},
		IDT: vmm.Table{Base: idtAt, Limit: 0xfff},
		CR0: cr0PG | cr0WP | cr0NE | cr0ET | cr0MP | cr0PE,
		CR3: pml4At, CR4: cr4PAE | cr4PGE | cr4OSFXSR | cr4OSXMMEXCPT,
		EFER: eferNXE | eferLMA | eferLME | eferSCE, DR6: dr6Fixed, DR7: dr7Fixed,
	}
	binary.LittleEndian.PutUint16(g.s.FX[0:], 0x37f)
	binary.LittleEndian.PutUint32(g.s.FX[24:], 0x1f80)
	g.s.GPR[vmm.RSP] = stackAt
	return g
}

// atCPL3 makes it start at CPL 3, in 64-bit mode.
func (g *guest) atCPL3() {
	for i := range g.s.Seg {
		g.s.Seg[i] = flat(selUData, flatData)
	}
	g.s.Seg[vmm.CS] = flat(selUCode, flatCode64)
	g.s.RIP, g.s.GPR[vmm.RSP] = userAt, userSP
}

// in32 makes it start in 32-bit protected mode at CPL 0, without paging.
func (g *guest) in32() {
	g.s.CR0 &^= cr0PG
	g.s.CR4 &^= cr4PAE
	g.s.EFER = 0
	g.s.Seg[vmm.CS] = flat(selKCode, flatCode32)
	for v := range uint64(256) {
		g.gate32(uint8(v), selKCode, vectors+16*v, 0x8e)
	}
	g.put(tssAt, make([]byte, 104))
	g.put64(tssAt+tss32ESP, rsp0At|selData<<32)
}

func (g *guest) put(a uint64, b []byte) {
	if !g.ram.Write(vmm.GPA(a), b) {
		panic(fmt.Sprintf("%d bytes at %#x are outside RAM", len(b), a))
	}
}

func (g *guest) put64(a uint64, values ...uint64) {
	for i, v := range values {
		g.put(a+8*uint64(i), binary.LittleEndian.AppendUint64(nil, v))
	}
}

func (g *guest) get64(a uint64) uint64 {
	v, ok := g.ram.U64(vmm.GPA(a))
	if !ok {
		panic(fmt.Sprintf("%#x is outside RAM", a))
	}
	return v
}

// gate64 makes a gate of the 64-bit IDT; access is its byte with type, DPL and P.
func (g *guest) gate64(v uint8, sel uint16, rip uint64, access uint8, ist uint64) {
	g.put64(idtAt+16*uint64(v), rip&0xffff|uint64(sel)<<16|ist<<32|uint64(access)<<40|rip>>16&0xffff<<48, rip>>32)
}

// gate32 makes a gate of the 32-bit IDT.
func (g *guest) gate32(v uint8, sel uint16, rip uint64, access uint8) {
	g.put64(idtAt+8*uint64(v), rip&0xffff|uint64(sel)<<16|uint64(access)<<40|rip>>16<<48)
}

// start sets the start state.
func (g *guest) start() {
	g.t.Helper()
	if err := g.SetState(&g.s); err != nil {
		g.t.Fatal(err)
	}
}

// run runs the guest for at most n positions, through exits for accesses.
func (g *guest) run(n vmm.Position) vmm.Exit {
	g.t.Helper()
	for until := g.pos + n; ; {
		x, err := g.Run(until, false, &g.bus)
		if err != nil {
			g.t.Fatal(err)
		}
		if x.Reason != vmm.ExitAccess {
			return x
		}
	}
}

// halt puts code, and HLT behind it, where the guest starts, and runs to a HLT: that one, or that of a handler.
func (g *guest) halt(code ...string) {
	g.t.Helper()
	g.put(g.s.RIP, append(machineCode(code...), 0xf4))
	g.start()
	x := g.run(10000)
	for x.Reason == vmm.ExitKick { // by the guest: see CPU.writeWallClock
		x = g.run(10000)
	}
	if x.Reason != vmm.ExitHalt {
		g.t.Fatalf("exit %+v\n%v", x, g.state())
	}
}

func (g *guest) state() *vmm.CPUState {
	s := new(vmm.CPUState)
	if err := g.State(s); err != nil {
		g.t.Fatal(err)
	}
	return s
}

// handled tells which handler the guest halted in; -1 if in none.
func (g *guest) handled() int {
	if v := (g.rip - 1 - vectors) / 16; g.rip > vectors && v < 256 {
		return int(v)
	}
	return -1
}

// want checks a value.
func (g *guest) want(name string, got, want uint64) {
	g.t.Helper()
	if got != want {
		g.t.Errorf("%s = %#x, want %#x", name, got, want)
	}
}
