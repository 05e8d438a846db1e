package conformance

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"ftvm/vmm"
)

// Where things lie in a guest's memory. All of RAM and the last GiB below 4 GiB, where the
// device windows are, is mapped at its own address, for user mode as well.
const (
	ramSize = 2 << 20

	pml4Addr = 0x1000
	pdptAddr = 0x2000
	pd0Addr  = 0x3000 // 0 to 1 GiB
	pd3Addr  = 0x4000 // 3 to 4 GiB
	gdtAddr  = 0x5000
	tssAddr  = 0x6000
	idtAddr  = 0x7000

	codeAddr    = 0x1_0000
	syscallAddr = 0x1_8000
	userAddr    = 0x2_0000
	handlerAddr = 0x3_0000 // 256 bytes for each vector
	dataAddr    = 0x5_0000
	stackTop    = 0x7_0000
	rsp0Top     = 0x8_0000 // the stack for interrupts that come from CPL3
	userTop     = 0x9_0000

	mmioAddr   = 0xD000_0000
	absentAddr = 0x4000_0000 // mapped by nothing
)

// Selectors, in the order that SYSCALL and SYSRET want (SDM vol. 3A, 5.8.8).
const (
	kernelCS = 0x08
	kernelSS = 0x10
	userBase = 0x18
	userSS   = 0x20 | 3
	userCS   = 0x28 | 3
	tssSel   = 0x30
)

// startMSRs are the model-specific registers that are not 0 at the start.
var startMSRs = map[uint32]uint64{
	0x277:      0x0007_0406_0007_0406,       // PAT, as after reset
	0xC0000081: userBase<<48 | kernelCS<<32, // STAR
	0xC0000082: syscallAddr,                 // LSTAR
	0xC0000084: vmm.FlagIF | flagDF,         // FMASK
}

// The task state segment ends with the I/O permission bit map for ports 0 to 0xff (SDM
// vol. 1, 19.5.2). Guests that access ports at CPL3 have IOPL 3 as well: there are hosts that know
// only the one or the other.
const (
	ioMap    = 0x68
	tssLimit = ioMap + 0x100/8
)

const (
	flagsFixed = 1 << 1 // always set
	flagTF     = 1 << 8
	flagDF     = 1 << 10
	flagIOPL   = 3 << 12 // with IOPL 3, CPL3 may access ports
)

// code joins machine code, written in hexadecimal.
func code(parts ...string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// program is a guest before it starts: its code and its start state.
type program struct {
	kernel   []byte           // at codeAddr, where it starts, at CPL0 with interrupts disabled
	user     []byte           // at userAddr
	syscall  []byte           // where SYSCALL goes, interrupts disabled
	handlers map[uint8][]byte // of interrupts and exceptions; others lead to a triple fault
	data     []byte           // at dataAddr
	flags    uint64           // more RFLAGS at the start
	atCPL3   bool             // it starts at CPL3, at userAddr
}

// load puts the program into fresh RAM and returns its start state.
func (p *program) load() (*vmm.RAM, *vmm.CPUState) {
	ram := vmm.NewRAM(make([]byte, ramSize))
	put := func(addr vmm.GPA, b []byte) {
		if !ram.Write(addr, b) {
			panic(fmt.Sprintf("%d bytes at %#x are outside RAM", len(b), addr))
		}
	}
	put64 := func(addr vmm.GPA, v ...uint64) {
		for i, v := range v {
			put(addr+vmm.GPA(8*i), binary.LittleEndian.AppendUint64(nil, v))
		}
	}

	const present, writable, user, large = 1 << 0, 1 << 1, 1 << 2, 1 << 7
	const table = present | writable | user
	put64(pml4Addr, pdptAddr|table)
	put64(pdptAddr, pd0Addr|table, 0, 0, pd3Addr|table)
	put64(pd0Addr, 0|table|large)
	for i := uint64(0); i < 512; i++ {
		put64(pd3Addr+vmm.GPA(8*i), 3<<30+i<<21|table|large)
	}

	// Descriptors with base 0 and limit 4 GiB, accessed; SDM vol. 3A, 3.4.5.
	put64(gdtAddr, 0,
		0x00af_9b00_0000_ffff, // kernel code, 64-bit
		0x00cf_9300_0000_ffff, // kernel data
		0,
		0x00cf_f300_0000_ffff, // user data
		0x00af_fb00_0000_ffff, // user code, 64-bit
		0x0000_8b00_0000_0000|tssAddr<<16|tssLimit, 0)
	put64(tssAddr+4, rsp0Top)
	// Ports below 0x100 are open to CPL3, but for those at 0x60.
	put(tssAddr+0x66, []byte{ioMap, 0})
	put(tssAddr+ioMap+0x60/8, []byte{0xff})
	put(tssAddr+tssLimit, []byte{0xff})
	for v, h := range p.handlers {
		addr := uint64(handlerAddr) + uint64(v)<<8
		put(vmm.GPA(addr), h)
		// An interrupt gate that CPL3 may call as well (SDM vol. 3A, 6.14.1).
		put64(idtAddr+vmm.GPA(v)*16, addr&0xffff|kernelCS<<16|0xee<<40|addr>>16<<48, addr>>32)
	}
	put(codeAddr, p.kernel)
	put(userAddr, p.user)
	put(syscallAddr, p.syscall)
	put(dataAddr, p.data)
	return ram, p.state()
}

// state is the start state.
func (p *program) state() *vmm.CPUState {
	const codeType, dataType, tssType = 0xb, 0x3, 0xb
	flat := func(sel uint16, access uint32) vmm.Segment {
		return vmm.Segment{Selector: sel, Limit: 0xffff_ffff, Access: access | vmm.SegS | vmm.SegP | vmm.SegG}
	}
	data := flat(kernelSS, dataType|vmm.SegDB)
	s := &vmm.CPUState{
		RIP:    codeAddr,
		RFLAGS: flagsFixed | p.flags,
		Seg:    [6]vmm.Segment{data, flat(kernelCS, codeType|vmm.SegL), data, data, data, data},
		LDT:    vmm.Segment{Access: vmm.SegUnusable},
		TR:     vmm.Segment{Selector: tssSel, Base: tssAddr, Limit: tssLimit, Access: tssType | vmm.SegP},
		GDT:    vmm.Table{Base: gdtAddr, Limit: 8*8 - 1},
		IDT:    vmm.Table{Base: idtAddr, Limit: 256*16 - 1},
		CR0:    1<<31 | 1<<16 | 1<<5 | 1<<4 | 1<<1 | 1<<0, // PG WP NE ET MP PE
		CR3:    pml4Addr,
		CR4:    1<<10 | 1<<9 | 1<<7 | 1<<5,  // OSXMMEXCPT OSFXSR PGE PAE
		EFER:   1<<11 | 1<<10 | 1<<8 | 1<<0, // NXE LMA LME SCE
		XCR0:   1,
		DR6:    0xffff_0ff0,
		DR7:    0x400,
	}
	s.APICBase = 0xfee0_0900                         // enabled, bootstrap processor
	binary.LittleEndian.PutUint16(s.FX[0:], 0x37f)   // FCW
	binary.LittleEndian.PutUint32(s.FX[24:], 0x1f80) // MXCSR
	binary.LittleEndian.PutUint32(s.FX[28:], 0xffff) // MXCSR_MASK
	s.GPR[vmm.RSP] = stackTop
	if p.atCPL3 {
		s.RIP = userAddr
		s.GPR[vmm.RSP] = userTop
		const dpl3 = 3 << vmm.SegDPLShift
		s.Seg[vmm.CS] = flat(userCS, codeType|vmm.SegL|dpl3)
		for _, i := range []int{vmm.ES, vmm.SS, vmm.DS, vmm.FS, vmm.GS} {
			s.Seg[i] = flat(userSS, dataType|vmm.SegDB|dpl3)
		}
	}
	for i, msr := range vmm.MSRs {
		s.MSR[i] = startMSRs[msr]
	}
	return s
}

// maker makes an engine for a guest's memory.
type maker func(t *testing.T, ram *vmm.RAM) vmm.Engine

// guest is a program on an engine, and the bus it runs against.
type guest struct {
	t   *testing.T
	ram *vmm.RAM
	cpu vmm.Engine
	bus bus

	// What lockstep found.
	trace []*vmm.CPUState
	kicks uint64
}

// start makes the engine and loads the program.
func (p *program) start(t *testing.T, make maker) *guest {
	t.Helper()
	ram, s := p.load()
	return resume(t, make, ram, s)
}

// resume makes an engine on ram that continues from s.
func resume(t *testing.T, make maker, ram *vmm.RAM, s *vmm.CPUState) *guest {
	t.Helper()
	g := &guest{t: t, ram: ram, cpu: make(t, ram)}
	t.Cleanup(func() {
		if err := g.cpu.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	g.bus.cpu = g.cpu
	if err := g.cpu.SetState(s); err != nil {
		t.Fatalf("SetState: %v", err)
	}
	return g
}

// forever is a position that no test reaches.
const forever vmm.Position = 1 << 60

// run runs the guest once, up to the given position.
func (g *guest) run(until vmm.Position, window bool) vmm.Exit {
	g.t.Helper()
	x, err := g.cpu.Run(until, window, &g.bus)
	if err != nil {
		g.t.Fatalf("Run at position %d: %v", g.cpu.Position(), err)
	}
	return x
}

// endPort is where a guest writes when it has done what it is for.
const endPort = 0xf4

// runToEnd runs the guest until it writes to endPort.
func (g *guest) runToEnd() {
	g.t.Helper()
	for !g.bus.ended {
		if x := g.run(forever, false); x.Reason != vmm.ExitAccess && x.Reason != vmm.ExitPosition {
			g.t.Fatalf("Run: exit %+v before the guest's end\n%v\nbus: %q", x, g.state(), g.bus.log)
		}
	}
}

// runTo runs the guest until it exits for the given reason, through the exits that bus accesses make.
func (g *guest) runTo(want vmm.ExitReason) vmm.Exit {
	g.t.Helper()
	for range 1000 {
		x := g.run(forever, false)
		if x.Reason == want {
			return x
		}
		if x.Reason != vmm.ExitAccess {
			g.t.Fatalf("Run: exit %+v, want reason %d\n%v\nbus: %q", x, want, g.state(), g.bus.log)
		}
	}
	g.t.Fatalf("no exit with reason %d after 1000 accesses", want)
	return vmm.Exit{}
}

func (g *guest) state() *vmm.CPUState {
	g.t.Helper()
	s := new(vmm.CPUState)
	if err := g.cpu.State(s); err != nil {
		g.t.Fatalf("State at position %d: %v", g.cpu.Position(), err)
	}
	return s
}

// otherFlags are the flags that engines may differ in: RF; IOPL, which hosts whose KVM is software,
// such as kvm_pvm, drop; and in copies that the guest makes TF, by which KVM steps.
func (g *guest) otherFlags() uint64 {
	flags := uint64(vmm.FlagRF | flagIOPL)
	if clock, _, _ := strings.Cut(g.cpu.Clock().Name, "-"); clock == "step" {
		flags |= flagTF
	}
	return flags
}

func (g *guest) interruptible() bool {
	g.t.Helper()
	ok, err := g.cpu.Interruptible()
	if err != nil {
		g.t.Fatalf("Interruptible at position %d: %v", g.cpu.Position(), err)
	}
	return ok
}

func (g *guest) interrupt(v vmm.Vector) {
	g.t.Helper()
	if err := g.cpu.Interrupt(v); err != nil {
		g.t.Fatalf("Interrupt(%#x) at position %d: %v", v, g.cpu.Position(), err)
	}
}

// wantBus checks what the guest's accesses were.
func (g *guest) wantBus(want ...string) {
	g.t.Helper()
	if got := strings.Join(g.bus.log, "\n"); got != strings.Join(want, "\n") {
		g.t.Errorf("accesses:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// wantMemory checks what is in RAM from addr on.
func (g *guest) wantMemory(addr vmm.GPA, want []byte) {
	g.t.Helper()
	got := g.ram.View(addr, uint64(len(want)))
	for i := range want {
		if got[i] != want[i] {
			g.t.Errorf("memory at %#x: %x, want %x", addr+vmm.GPA(i), got[i:min(i+8, len(got))], want[i:min(i+8, len(want))])
			return
		}
	}
}

// want checks a register.
func (g *guest) want(name string, got, want uint64) {
	g.t.Helper()
	if got != want {
		g.t.Errorf("%s = %#x, want %#x", name, got, want)
	}
}

// bus logs accesses. What it answers follows from how many bytes were read before.
type bus struct {
	cpu      vmm.Engine
	log      []string
	accesses []access
	reads    byte
	ended    bool
}

type access struct {
	kind     string
	addr     uint64
	data     []byte
	position vmm.Position // Engine.Position during the access
}

func (b *bus) note(kind string, addr uint64, p []byte) {
	b.log = append(b.log, fmt.Sprintf("%s %x %x", kind, addr, p))
	b.accesses = append(b.accesses, access{kind, addr, bytes.Clone(p), b.cpu.Position()})
}

func (b *bus) answer(p []byte) {
	for i := range p {
		b.reads++
		p[i] = 0x80 | b.reads
	}
}

func (b *bus) PortIn(port uint16, p []byte) {
	b.answer(p)
	b.note("in", uint64(port), p)
}

func (b *bus) PortOut(port uint16, p []byte) {
	b.note("out", uint64(port), p)
	b.ended = b.ended || port == endPort
}

func (b *bus) MemIn(addr vmm.GPA, p []byte) {
	b.answer(p)
	b.note("read", uint64(addr), p)
}

func (b *bus) Now() vmm.Time { return vmm.Time(b.cpu.Position()) }

func (b *bus) MemOut(addr vmm.GPA, p []byte) {
	b.note("write", uint64(addr), p)
}
