package kvm

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// tiny is a guest of a few instructions that finds out what this host's KVM really does. It
// is in 64-bit mode; the first 2 MiB are mapped at their own address for CPL0 and CPL3, and
// but for the first 64 KiB there is no memory behind them.
type tiny struct {
	*Engine
	ram *vmm.RAM
}

// Where things lie in a tiny guest's memory.
const (
	tinySize    = 64 << 10
	tinyPML4    = 0x1000
	tinyPDPT    = 0x2000
	tinyPD      = 0x3000
	tinyGDT     = 0x4000
	tinyTSS     = 0x5000
	tinyIDT     = 0x6000
	tinyEntry   = 0x7000 // handlers, 16 bytes for each vector
	tinyCode    = 0x8000
	tinySyscall = 0x9000 // where SYSCALL goes
	tinyData    = 0xa000
	tinyRSP0    = 0xe000 // stack top on entry from CPL3
	tinyStack   = 0xf000
	tinyMMIO    = 0x10_0000
)

// tinyVector is an interrupt vector; it and the exceptions have handlers.
const tinyVector = 32

// Selectors of a tiny guest, in the order that SYSCALL and SYSRET want.
const (
	tinyCS, tinySS         = 0x08, 0x10
	tinyUserBase           = 0x18
	tinyUserSS, tinyUserCS = 0x20 | 3, 0x28 | 3
	tinyTR                 = 0x30
)

// newTiny makes a guest that starts with code at the given CPL, interrupts enabled, RSI at
// tinyData and RDI at tinyMMIO. handler is the code for each vector.
func newTiny(clock string, cpl int, code []byte, handler func(v byte) []byte) (*tiny, error) {
	t := &tiny{ram: vmm.NewRAM(make([]byte, tinySize))}
	put := func(addr vmm.GPA, v ...uint64) {
		for i, v := range v {
			t.ram.Write(addr+vmm.GPA(8*i), binary.LittleEndian.AppendUint64(nil, v))
		}
	}
	const entry = 1<<2 | 1<<1 | 1<<0 // present, writable, user (SDM vol. 3A, 5.5.4)
	put(tinyPML4, tinyPDPT|entry)
	put(tinyPDPT, tinyPD|entry)
	put(tinyPD, 1<<7|entry) // a 2 MiB page
	// The TSS ends with the I/O permission bit map: ports 0 to 0xff are open to CPL3.
	const ioMap = 0x68
	const tssLimit = ioMap + 0x100/8
	put(tinyGDT, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0x00cf_f300_0000_ffff,
		0x00af_fb00_0000_ffff, 0x0000_8b00_0000_0000|tinyTSS<<16|tssLimit, 0)
	put(tinyTSS+4, tinyRSP0)
	t.ram.Write(tinyTSS+0x66, []byte{ioMap})
	t.ram.Write(tinyTSS+tssLimit, []byte{0xff})
	for v := vmm.GPA(0); v <= tinyVector; v++ {
		addr := tinyEntry + 16*v
		put(tinyIDT+16*v, uint64(addr)|tinyCS<<16|0xee<<40, 0) // interrupt gate, open to CPL3
		t.ram.Write(addr, handler(byte(v)))
	}
	t.ram.Write(tinyCode, code)

	var err error
	if t.Engine, err = New(t.ram, Options{Clock: clock}); err != nil {
		return nil, err
	}
	if err := t.adjust(func(s *vmm.CPUState) { tinyState(s, cpl) }); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// tinyState turns the state after reset into a tiny guest's.
func tinyState(s *vmm.CPUState, cpl int) {
	const dataType, codeType, tssType = 0x3, 0xb, 0xb
	cs, ss := uint16(tinyCS), uint16(tinySS)
	if cpl == 3 {
		cs, ss = tinyUserCS, tinyUserSS
	}
	access := uint32(vmm.SegS | vmm.SegP | vmm.SegG | cpl<<vmm.SegDPLShift)
	for i := range s.Seg {
		s.Seg[i] = vmm.Segment{Selector: ss, Limit: 0xffff_ffff, Access: access | dataType | vmm.SegDB}
	}
	s.Seg[vmm.CS] = vmm.Segment{Selector: cs, Limit: 0xffff_ffff, Access: access | codeType | vmm.SegL}
	s.TR = vmm.Segment{Selector: tinyTR, Base: tinyTSS, Limit: 0x88, Access: tssType | vmm.SegP}
	s.GDT = vmm.Table{Base: tinyGDT, Limit: 8*8 - 1}
	s.IDT = vmm.Table{Base: tinyIDT, Limit: 16*(tinyVector+1) - 1}
	s.CR0 = 1<<31 | 1<<16 | 1<<5 | 1<<4 | 1<<1 | 1<<0 // PG WP NE ET MP PE
	s.CR3 = tinyPML4
	s.CR4 = 1<<10 | 1<<9 | 1<<5          // OSXMMEXCPT OSFXSR PAE
	s.EFER = 1<<10 | 1<<8 | 1<<0         // LMA LME SCE
	s.RFLAGS = vmm.FlagIF | 3<<12 | 1<<1 // IOPL 3: there are hosts that know only this, or only the bit map
	s.APICBase &^= 1 << 11               // there is no local APIC, and CPUID shows whether it is on
	s.RIP, s.GPR[vmm.RSP] = tinyCode, tinyStack
	s.GPR[vmm.RSI], s.GPR[vmm.RDI], s.GPR[vmm.RDX] = tinyData, tinyMMIO, 0
	for i, msr := range vmm.MSRs {
		switch msr {
		case 0xC0000081: // STAR
			s.MSR[i] = tinyUserBase<<48 | tinyCS<<32
		case 0xC0000082: // LSTAR
			s.MSR[i] = tinySyscall
		}
	}
}

// adjust changes the guest's state.
func (t *tiny) adjust(f func(s *vmm.CPUState)) error {
	var s vmm.CPUState
	if err := t.State(&s); err != nil {
		return err
	}
	f(&s)
	return t.SetState(&s)
}

// patience is how long a tiny guest may take: a host that never comes back from one must not
// hang whoever asks.
const patience = 100 * time.Millisecond

// errStuck is returned for a guest that ran out of patience.
var errStuck = errors.New("the guest does not come to its end")

// enter runs the guest up to its next exit, which is not served, with the given guest debugging
// (struct kvm_guest_debug).
func (t *tiny) enter(debug guestDebug, control uint32) (gokvm.ExitType, error) {
	t.arg.guestDebug = debug
	if _, err := call(t.vcpu, &reqGuestDebug, &t.arg.guestDebug); err != nil {
		return 0, err
	}
	t.run.validRegs = syncAll
	defer t.watch()()
	t.tid.Store(int32(unix.Gettid()))
	defer t.tid.Store(0)
	for {
		t.run.control.Store(control)
		if t.kicked.CompareAndSwap(true, false) {
			return 0, errStuck
		}
		switch errno := enter(t.vcpu); errno {
		case 0:
			return gokvm.ExitType(t.run.exitReason), nil
		case unix.EINTR:
		default:
			return 0, fmt.Errorf("kvm: KVM_RUN: %w", errno)
		}
	}
}

// watch kicks the guest when patience is over, until the function that it returns is called.
func (t *tiny) watch() (stop func()) {
	kicked := make(chan struct{})
	timer := time.AfterFunc(patience, func() {
		t.Kick()
		close(kicked)
	})
	return func() {
		if !timer.Stop() {
			<-kicked
		}
	}
}

// rip is where the guest stands after enter.
func (t *tiny) rip() uint64 { return t.run.sync.regs.RIP }

// machineCode joins machine code, written in hexadecimal.
func machineCode(parts ...string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}
