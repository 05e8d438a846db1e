package vmm

import (
	"fmt"
	"strings"
)

// CPUState is the architectural state of one x86-64 vCPU, the same for all engines.
type CPUState struct {
	Position Position

	// GPR in the order of their encoding: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15.
	GPR    [16]uint64
	RIP    uint64
	RFLAGS uint64

	// Seg in the order of their encoding: ES CS SS DS FS GS.
	Seg      [6]Segment
	LDT, TR  Segment
	GDT, IDT Table

	CR0, CR2, CR3, CR4, CR8 uint64
	EFER, APICBase          uint64
	XCR0                    uint64
	DR                      [4]uint64
	DR6, DR7                uint64

	// MSR holds the values of the registers listed in MSRs, in that order.
	MSR [len(MSRs)]uint64
	// TSCAdjust is what the time stamp counter is ahead of guest time, in its ticks, for an engine that answers
	// reads of it; 0 for others.
	TSCAdjust uint64
	// WallClock and SystemTime are KVM's registers of these names (0x4B564D00 and 0x4B564D01), for an engine that has
	// them; 0 for others.
	WallClock, SystemTime uint64

	// FX is the x87, MMX and SSE state as FXSAVE64 lays it out (SDM vol. 1,
	// 10.5.1). Its reserved bytes 464 to 511 are zero.
	FX [512]byte
	// Ext is the engine's own image of the extended state above FX (AVX and later); it
	// is saved and restored, but is not digested: which components are "in use" moves for
	// reasons that the guest does not cause.
	Ext []byte

	Events Events
}

// Segment is a segment register with its hidden part (SDM vol. 3A, 3.4.3).
type Segment struct {
	Selector uint16
	Base     uint64
	Limit    uint32 // in bytes, granularity applied
	// Access holds descriptor bits 40 to 55 without the limit's: type 0-3, S 4, DPL 5-6,
	// P 7, AVL 12, L 13, D/B 14, G 15; bit 16 is set if the segment is unusable.
	Access uint32
}

// Bits of Segment.Access that are not part of the type.
const (
	SegS        = 1 << 4
	SegDPLShift = 5
	SegP        = 1 << 7
	SegAVL      = 1 << 12
	SegL        = 1 << 13
	SegDB       = 1 << 14
	SegG        = 1 << 15
	SegUnusable = 1 << 16
)

// Index of each segment register in CPUState.Seg.
const (
	ES = iota
	CS
	SS
	DS
	FS
	GS
)

// Index of general registers in CPUState.GPR.
const (
	RAX = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
)

// Table is GDTR or IDTR.
type Table struct {
	Base  uint64
	Limit uint16
}

// Events is what the CPU has begun but not finished delivering.
type Events struct {
	// Exception that is pending (not yet on the guest's stack), if HasException.
	HasException, HasErrorCode, HasPayload bool
	Exception                              uint8
	ErrorCode                              uint32
	Payload                                uint64
	// Interrupt accepted but not yet delivered, if HasInterrupt.
	HasInterrupt, SoftInterrupt bool
	Interrupt                   uint8
	// Shadow: bit 0 after STI, bit 1 after MOV SS.
	Shadow uint8
	NMI    uint8 // bit 0 injected, bit 1 pending, bit 2 masked
}

// MSRs are the model-specific registers that are part of the state.
var MSRs = [...]uint32{
	0x174,      // IA32_SYSENTER_CS
	0x175,      // IA32_SYSENTER_ESP
	0x176,      // IA32_SYSENTER_EIP
	0x277,      // IA32_PAT
	0xC0000081, // STAR
	0xC0000082, // LSTAR
	0xC0000083, // CSTAR
	0xC0000084, // FMASK
	0xC0000102, // KERNEL_GS_BASE
	0xC0000103, // TSC_AUX
}

// FlagRF is RFLAGS.RF. It comes and goes with how a host restarts an instruction, so
// it is left out of digests.
const FlagRF = 1 << 16

// FlagIF is RFLAGS.IF.
const FlagIF = 1 << 9

// State visits the whole state. See Stateful.
func (s *CPUState) State(a *Archive) {
	s.Digestible(a)
	a.Section("cpu")
	rf := s.RFLAGS & FlagRF
	a.U64("rf", &rf)
	if a.Loading() {
		s.RFLAGS |= rf & FlagRF
	}
	a.Bytes("ext", &s.Ext, 1<<16)
}

// Digestible visits what must be equal on all replicas.
func (s *CPUState) Digestible(a *Archive) {
	a.Section("cpu")
	pos := uint64(s.Position)
	a.U64("position", &pos)
	s.Position = Position(pos)
	for i := range s.GPR {
		a.U64(gprNames[i], &s.GPR[i])
	}
	a.U64("rip", &s.RIP)
	flags := s.RFLAGS &^ FlagRF
	a.U64("rflags", &flags)
	if a.Loading() {
		s.RFLAGS = flags
	}
	for i := range s.Seg {
		s.Seg[i].state(a, segNames[i])
	}
	s.LDT.state(a, "ldt")
	s.TR.state(a, "tr")
	a.U64("gdt.base", &s.GDT.Base)
	a.U16("gdt.limit", &s.GDT.Limit)
	a.U64("idt.base", &s.IDT.Base)
	a.U16("idt.limit", &s.IDT.Limit)
	a.U64("cr0", &s.CR0)
	a.U64("cr2", &s.CR2)
	a.U64("cr3", &s.CR3)
	a.U64("cr4", &s.CR4)
	a.U64("cr8", &s.CR8)
	a.U64("efer", &s.EFER)
	a.U64("apicbase", &s.APICBase)
	a.U64("xcr0", &s.XCR0)
	for i := range s.DR {
		a.U64("dr", &s.DR[i])
	}
	a.U64("dr6", &s.DR6)
	a.U64("dr7", &s.DR7)
	for i := range s.MSR {
		a.U64("msr", &s.MSR[i])
	}
	a.U64("tsc_adjust", &s.TSCAdjust)
	a.U64("wall_clock", &s.WallClock)
	a.U64("system_time", &s.SystemTime)
	a.Fixed("fx", s.FX[:])
	e := &s.Events
	a.Section("cpu.events")
	a.Bool("exception", &e.HasException)
	a.Bool("has_error_code", &e.HasErrorCode)
	a.Bool("has_payload", &e.HasPayload)
	a.U8("exception_vector", &e.Exception)
	a.U32("error_code", &e.ErrorCode)
	a.U64("payload", &e.Payload)
	a.Bool("interrupt", &e.HasInterrupt)
	a.Bool("soft", &e.SoftInterrupt)
	a.U8("interrupt_vector", &e.Interrupt)
	a.U8("shadow", &e.Shadow)
	a.U8("nmi", &e.NMI)
}

func (g *Segment) state(a *Archive, name string) {
	a.U16(name, &g.Selector)
	a.U64(name, &g.Base)
	a.U32(name, &g.Limit)
	a.U32(name, &g.Access)
}

var gprNames = [16]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

var segNames = [6]string{"es", "cs", "ss", "ds", "fs", "gs"}

// String lists the registers for people, the same on every replica.
func (s *CPUState) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "position %d  rip %016x  rflags %08x\n", s.Position, s.RIP, s.RFLAGS&^FlagRF)
	for i, v := range s.GPR {
		fmt.Fprintf(&b, "%3s %016x", gprNames[i], v)
		b.WriteString([]string{"  ", "  ", "  ", "\n"}[i%4])
	}
	fmt.Fprintf(&b, "cr0 %08x  cr2 %016x  cr3 %016x  cr4 %08x  efer %04x\n", s.CR0, s.CR2, s.CR3, s.CR4, s.EFER)
	for i, g := range s.Seg {
		fmt.Fprintf(&b, "%s %04x  ", segNames[i], g.Selector)
	}
	fmt.Fprintf(&b, "gdt %016x/%04x  idt %016x/%04x", s.GDT.Base, s.GDT.Limit, s.IDT.Base, s.IDT.Limit)
	return b.String()
}
