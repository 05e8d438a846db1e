package kvm

import (
	"errors"
	"fmt"
	"sync"

	gokvm "github.com/bobuhiro11/gokvm/kvm"

	"ftvm/vmm"
)

// How much guest time one count stands for. Both are less than the host needs for
// one, so that guest time within an epoch does not outrun the host's.
const (
	exitNs = 100
	stepNs = 1
)

// setClock chooses what positions count.
func (e *Engine) setClock(name string) error {
	switch name {
	case "", "exits":
		e.clock = vmm.Clock{Name: "exits", TickNs: exitNs}
		return nil
	case "step":
		s, err := hostStepping()
		if err != nil {
			return err
		}
		e.step = s
		e.clock = vmm.Clock{Name: s.clockName(), Exact: s.user && s.handlers, TickNs: stepNs}
		e.run.validRegs = syncAll
		return nil
	}
	return fmt.Errorf("kvm: unknown clock %q: use exits or step", name)
}

// stepping is what KVM_GUESTDBG_SINGLESTEP does on this host beyond single steps of ordinary
// instructions at CPL0.
type stepping struct {
	// user: it steps at CPL3. Where it does not, #DB goes into the guest.
	user bool
	// handlers: a step that delivers an interrupt or an exception ends in the handler. Where it
	// does not, the handler runs up to its end or its first exit.
	handlers bool
	// halt: HLT exits in its own step. Where it does not, the exit comes with a later one.
	halt bool
}

// clockName tells hosts apart on which positions count different things.
func (s *stepping) clockName() string {
	name := "step"
	if !s.user {
		name += "-cpl0"
	}
	if !s.handlers {
		name += "-nohandlers"
	}
	return name
}

// hostStepping is what measureStepping found; it does not change while a host is up.
func hostStepping() (*stepping, error) {
	measured.Do(func() { measured.stepping, measured.err = measureStepping() })
	return measured.stepping, measured.err
}

var measured struct {
	sync.Once
	stepping *stepping
	err      error
}

// measureStepping finds out what single steps do on this host.
func measureStepping() (*stepping, error) {
	nops := []byte{0x90, 0x90, 0x90, 0x90}
	stepped := func(x gokvm.ExitType, rip uint64) bool { return x == gokvm.EXITDEBUG && rip == tinyCode+1 }
	handled := func(x gokvm.ExitType, rip uint64) bool {
		return x == gokvm.EXITDEBUG && rip >= tinyEntry && rip < tinyCode
	}
	halted := func(x gokvm.ExitType, _ uint64) bool { return x == gokvm.EXITHLT }

	var works, interrupt, exception bool
	s := new(stepping)
	for _, c := range []struct {
		result    *bool
		cpl       int
		code      []byte
		interrupt bool
		ok        func(x gokvm.ExitType, rip uint64) bool
	}{
		{&works, 0, nops, false, stepped},
		{&s.user, 3, nops, false, stepped},
		{&s.halt, 0, []byte{0xf4, 0xf4}, false, halted},
		{&interrupt, 0, nops, true, handled},
		{&exception, 0, []byte{0x0f, 0x0b}, false, handled}, // ud2
	} {
		x, rip, err := oneStep(c.cpl, c.code, c.interrupt)
		if err != nil && !errors.Is(err, errStuck) {
			return nil, err
		}
		*c.result = err == nil && c.ok(x, rip)
	}
	if !works {
		return nil, errors.New("kvm: this host's KVM does not single-step: use the clock exits")
	}
	s.handlers = interrupt && exception
	return s, nil
}

// oneStep steps a guest once, whose handlers are all NOP, after an interrupt if that is wanted.
// It returns the exit and where the guest stands.
func oneStep(cpl int, code []byte, interrupt bool) (gokvm.ExitType, uint64, error) {
	t, err := newTiny("exits", cpl, code, func(byte) []byte { return []byte{0x90, 0x90, 0x90, 0x90} })
	if err != nil {
		return 0, 0, err
	}
	if interrupt {
		err = t.Interrupt(tinyVector)
	}
	var x gokvm.ExitType
	if err == nil {
		x, err = t.enter(guestDebug{control: debugEnable | debugStep}, 0)
	}
	rip := t.rip()
	return x, rip, errors.Join(err, t.Close())
}

// Bits of guestDebug.control.
const (
	debugEnable     = 1 << 0
	debugStep       = 1 << 1
	debugBreakpoint = 1 << 17 // as dr[0] to dr[3] and dr[7] say
)

// arm makes the next entry of the guest one step of the clock.
func (e *Engine) arm() error {
	if e.step == nil {
		return nil
	}
	cpl := e.run.sync.sregs.SS.DPL // SDM vol. 3A, 6.5: the current privilege level is SS's
	if cpl != 0 && !e.step.user {
		// Up to its next exit; the kernel it may enter on the way cannot be stepped either.
		return e.setStepping(false)
	}
	if cpl == 0 && !e.step.halt {
		halt, err := e.atHalt()
		if err != nil {
			return err
		}
		if halt {
			return e.setStepping(false)
		}
	}
	return e.setStepping(true)
}

// setStepping switches single-stepping. It has to be switched on again before each step:
// KVM looks for the instruction at which it was (KVM API, 4.87), and the guest's POPF and
// IRET undo what it did to RFLAGS.TF.
func (e *Engine) setStepping(on bool) error {
	if !on && e.arg.guestDebug.control == 0 {
		return nil
	}
	e.arg.guestDebug.control = 0
	if on {
		e.arg.guestDebug.control = debugEnable | debugStep
	}
	_, err := call(e.vcpu, &reqGuestDebug, &e.arg.guestDebug)
	return err
}

// atHalt reports whether the next instruction is HLT.
func (e *Engine) atHalt() (bool, error) {
	t := &e.arg.translation
	*t = gokvm.Translation{LinearAddress: e.run.sync.sregs.CS.Base + e.run.sync.regs.RIP}
	if err := gokvm.Translate(uintptr(e.vcpu), t); err != nil {
		return false, fmt.Errorf("kvm: KVM_TRANSLATE of rip %#x: %w", t.LinearAddress, err)
	}
	if t.Valid == 0 {
		return false, nil
	}
	addr := vmm.GPA(t.PhysicalAddress)
	inPage := vmm.PageSize - uint64(addr%vmm.PageSize)
	for _, b := range e.ram.View(addr, min(inPage, maxInstruction)) {
		const hlt = 0xf4
		if b == hlt {
			return true, nil
		}
		if !isPrefix(b) {
			return false, nil
		}
	}
	return false, nil
}

// maxInstruction is the length of the longest instruction.
const maxInstruction = 15

// isPrefix reports whether b is an instruction prefix in 64-bit mode (SDM vol. 2A, 2.1.1 and 2.2.1).
func isPrefix(b byte) bool {
	switch b {
	case 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66, 0x67:
		return true
	}
	return b&0xf0 == 0x40
}
