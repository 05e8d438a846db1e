package soft

import (
	"errors"
	"fmt"

	"ftvm/vmm"
)

// errState is wrapped by each refusal of SetState.
var errState = errors.New("soft: not a state that this engine can continue from")

// State is vmm.Engine's.
func (c *CPU) State(s *vmm.CPUState) error {
	s.Position = c.pos
	copy(s.GPR[:], c.r[:16])
	s.RIP, s.RFLAGS = c.rip, c.rflags()
	if c.resume {
		s.RFLAGS |= flagRF
	}
	s.Seg, s.LDT, s.TR, s.GDT, s.IDT = c.seg, c.ldt, c.tr, c.gdt, c.idt
	s.CR0, s.CR2, s.CR3, s.CR4, s.CR8 = c.cr0, c.cr2, c.cr3, c.cr4, c.cr8
	s.EFER, s.APICBase, s.XCR0 = c.efer, c.apicBase, c.xcr0
	s.DR, s.DR6, s.DR7 = c.dr, c.dr6, c.dr7
	s.MSR, s.TSCAdjust, s.WallClock, s.SystemTime = c.msr, c.tscAdjust, c.wallClock, c.systemTime
	c.saveFX(&s.FX)
	s.Ext = s.Ext[:0]
	s.Events = c.events
	return nil
}

// SetState is vmm.Engine's. A state that the CPU cannot be in through what it executes, and that would
// have no meaning here, is refused.
func (c *CPU) SetState(s *vmm.CPUState) error {
	if err := check(s); err != nil {
		return err
	}
	c.pos = s.Position
	copy(c.r[:], s.GPR[:])
	c.rip = s.RIP
	c.setFlags(s.RFLAGS)
	c.seg, c.ldt, c.tr, c.gdt, c.idt = s.Seg, s.LDT, s.TR, s.GDT, s.IDT
	c.cr0, c.cr2, c.cr3, c.cr4, c.cr8 = s.CR0, s.CR2, s.CR3, s.CR4, s.CR8
	c.efer, c.apicBase, c.xcr0 = s.EFER, s.APICBase, s.XCR0
	c.dr, c.dr6, c.dr7 = s.DR, s.DR6, s.DR7
	c.msr, c.tscAdjust, c.wallClock, c.systemTime = s.MSR, s.TSCAdjust, s.WallClock, s.SystemTime
	c.loadFX(&s.FX)
	c.events = s.Events
	c.resume = s.RFLAGS&flagRF != 0 && c.instructionBreakpoints()
	c.dead = false
	c.cpl = uint8(s.Seg[vmm.CS].Selector & 3)
	c.tlb.flush(true)
	c.setMode()
	return nil
}

// check finds what is wrong with a state.
func check(s *vmm.CPUState) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errState, fmt.Sprintf(format, args...))
	}
	const long = eferLME | eferLMA
	paging := s.CR0&cr0PG != 0
	cs := &s.Seg[vmm.CS]
	switch {
	case s.CR0&cr0PE == 0:
		return refuse("real mode (CR0 = %#x)", s.CR0)
	case s.CR0&^cr0Known != 0:
		return refuse("CR0 = %#x has reserved bits set", s.CR0)
	case s.RFLAGS&flagVM != 0:
		return refuse("virtual-8086 mode (RFLAGS = %#x)", s.RFLAGS)
	case s.RFLAGS&^flagsKnown != 0:
		return refuse("RFLAGS = %#x has reserved bits set", s.RFLAGS)
	case s.CR4&^cr4Known != 0:
		return refuse("CR4 = %#x has bits that this CPU does not have", s.CR4)
	case s.EFER&^eferKnown != 0 || s.EFER&eferLMA != 0 && s.EFER&eferLME == 0:
		return refuse("EFER = %#x", s.EFER)
	case (s.EFER&long == long) != (paging && s.EFER&eferLME != 0):
		return refuse("EFER = %#x with CR0 = %#x", s.EFER, s.CR0)
	case s.EFER&eferLMA != 0 && s.CR4&cr4PAE == 0:
		return refuse("long mode with CR4 = %#x", s.CR4)
	case s.EFER&eferLMA != 0 && cs.Access&(vmm.SegL|vmm.SegDB) == vmm.SegL|vmm.SegDB:
		return refuse("CS with both L and D set (access %#x)", cs.Access)
	case s.CR3&^physMask != 0:
		return refuse("CR3 = %#x is wider than %d bits", s.CR3, physBits)
	case s.CR8 > 0xf:
		return refuse("CR8 = %#x", s.CR8)
	case s.Events.HasInterrupt || s.Events.NMI != 0:
		return refuse("an interrupt that is being delivered")
	case s.Events.Shadow > shadowSTI|shadowMovSS:
		return refuse("interrupt shadow %#x", s.Events.Shadow)
	case s.Events.HasException && s.Events.Exception >= 32:
		return refuse("pending exception %d", s.Events.Exception)
	case len(s.Ext) != 0:
		return refuse("%d bytes of extended state, from another engine", len(s.Ext))
	}
	for i, v := range s.MSR {
		if !msrKinds[i].takes(v) {
			return refuse("MSR %#x = %#x", vmm.MSRs[i], v)
		}
	}
	return nil
}
