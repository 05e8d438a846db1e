package kvm

import (
	"encoding/binary"
	"fmt"

	gokvm "github.com/bobuhiro11/gokvm/kvm"

	"ftvm/vmm"
)

// The XSAVE area (SDM vol. 1, 13.4): the legacy region, of which the last bytes are free
// for software, and the header, which starts with XSTATE_BV.
const (
	fxReserved = 464
	fxSize     = 512
	xstateX87  = 1 << 0
	xstateSSE  = 1 << 1
)

// Flags of struct kvm_vcpu_events, and its two kinds of interrupt shadow.
const (
	eventsNMIPending = 1 << 0
	eventsShadow     = 1 << 2
	eventsPayload    = 1 << 4

	shadowMovSS = 1 << 0
	shadowSTI   = 1 << 1
)

// State reads the whole architectural state.
func (e *Engine) State(s *vmm.CPUState) error {
	if e.mid {
		return vmm.ErrMidEpoch
	}
	a := &e.arg
	if err := e.refresh(); err != nil {
		return err
	}
	if _, err := call(e.vcpu, &reqGetXsave, &a.xsave); err != nil {
		return err
	}
	if e.setsXCR0 {
		if _, err := call(e.vcpu, &reqGetXCRs, &a.xcrs); err != nil {
			return err
		}
	}
	if _, err := call(e.vcpu, &reqGetDebugRegs, &a.debugRegs); err != nil {
		return err
	}
	if n, err := call(e.vcpu, &reqGetMSRs, &a.msrs); err != nil {
		return err
	} else if n != nMSRs {
		return fmt.Errorf("kvm: KVM_GET_MSRS stopped at MSR %#x", vmm.MSRs[n])
	}

	s.Position = e.position
	r := &e.run.sync.regs
	s.GPR = [16]uint64{r.RAX, r.RCX, r.RDX, r.RBX, r.RSP, r.RBP, r.RSI, r.RDI,
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15}
	s.RIP, s.RFLAGS = r.RIP, r.RFLAGS

	g := &e.run.sync.sregs
	s.Seg = [6]vmm.Segment{vmm.ES: segment(g.ES), vmm.CS: segment(g.CS), vmm.SS: segment(g.SS),
		vmm.DS: segment(g.DS), vmm.FS: segment(g.FS), vmm.GS: segment(g.GS)}
	s.LDT, s.TR = segment(g.LDT), segment(g.TR)
	s.GDT = vmm.Table{Base: g.GDT.Base, Limit: g.GDT.Limit}
	s.IDT = vmm.Table{Base: g.IDT.Base, Limit: g.IDT.Limit}
	s.CR0, s.CR2, s.CR3, s.CR4, s.CR8 = g.CR0, g.CR2, g.CR3, g.CR4, g.CR8
	s.EFER, s.APICBase = g.EFER, g.ApicBase

	s.DR, s.DR6, s.DR7 = a.debugRegs.DB, a.debugRegs.DR6, a.debugRegs.DR7
	s.XCR0 = a.xcrs.Registers[0].Value
	for i := range s.MSR {
		s.MSR[i] = a.msrs.entries[i].Data
	}
	copy(s.FX[:fxReserved], a.xsave[:])
	clear(s.FX[fxReserved:])
	s.Ext = s.Ext[:0]
	if binary.LittleEndian.Uint64(a.xsave[fxSize:])&^(xstateX87|xstateSSE) != 0 {
		s.Ext = append(s.Ext, a.xsave[fxSize:]...)
	}
	s.Events = events(&e.run.sync.events)
	return nil
}

// SetState replaces the state. The order matters: SET_REGS drops pending events, so these
// come last.
func (e *Engine) SetState(s *vmm.CPUState) error {
	a, v, g := &e.arg, &e.run.sync, &s.GPR
	v.regs = gokvm.Regs{RAX: g[vmm.RAX], RCX: g[vmm.RCX], RDX: g[vmm.RDX], RBX: g[vmm.RBX],
		RSP: g[vmm.RSP], RBP: g[vmm.RBP], RSI: g[vmm.RSI], RDI: g[vmm.RDI],
		R8: g[8], R9: g[9], R10: g[10], R11: g[11], R12: g[12], R13: g[13], R14: g[14], R15: g[15],
		RIP: s.RIP, RFLAGS: s.RFLAGS}
	v.sregs = gokvm.Sregs{
		ES: descriptor(s.Seg[vmm.ES]), CS: descriptor(s.Seg[vmm.CS]), SS: descriptor(s.Seg[vmm.SS]),
		DS: descriptor(s.Seg[vmm.DS]), FS: descriptor(s.Seg[vmm.FS]), GS: descriptor(s.Seg[vmm.GS]),
		LDT: descriptor(s.LDT), TR: descriptor(s.TR),
		GDT: gokvm.Descriptor{Base: s.GDT.Base, Limit: s.GDT.Limit},
		IDT: gokvm.Descriptor{Base: s.IDT.Base, Limit: s.IDT.Limit},
		CR0: s.CR0, CR2: s.CR2, CR3: s.CR3, CR4: s.CR4, CR8: s.CR8, EFER: s.EFER, ApicBase: s.APICBase}
	a.debugRegs = gokvm.DebugRegs{DB: s.DR, DR6: s.DR6, DR7: s.DR7}
	a.xcrs = gokvm.XCRS{NrXRCS: 1}
	a.xcrs.Registers[0].Value = s.XCR0
	for i := range s.MSR {
		a.msrs.entries[i].Data = s.MSR[i]
	}
	a.xsave = xsaveArea{}
	copy(a.xsave[:fxReserved], s.FX[:])
	if n := copy(a.xsave[fxSize:], s.Ext); n != len(s.Ext) {
		return fmt.Errorf("kvm: the extended state has %d bytes, this host has room for %d", len(s.Ext), n)
	}
	// A component that is not marked in use would be loaded with its initial value.
	xstate := binary.LittleEndian.Uint64(a.xsave[fxSize:])
	binary.LittleEndian.PutUint64(a.xsave[fxSize:], xstate|xstateX87|xstateSSE)
	v.events = kvmEvents(&s.Events)

	if _, err := call(e.vcpu, &reqSetRegs, &v.regs); err != nil {
		return err
	}
	if _, err := call(e.vcpu, &reqSetSregs, &v.sregs); err != nil {
		return err
	}
	if _, err := call(e.vcpu, &reqSetXsave, &a.xsave); err != nil {
		return err
	}
	if _, err := call(e.vcpu, &reqSetXCRs, &a.xcrs); err != nil {
		return err
	}
	if _, err := call(e.vcpu, &reqSetDebugRegs, &a.debugRegs); err != nil {
		return err
	}
	if n, err := call(e.vcpu, &reqSetMSRs, &a.msrs); err != nil {
		return err
	} else if n != nMSRs {
		return fmt.Errorf("kvm: KVM_SET_MSRS refused %#x for MSR %#x", s.MSR[n], vmm.MSRs[n])
	}
	if _, err := call(e.vcpu, &reqSetEvents, &v.events); err != nil {
		return err
	}
	e.position, e.mid = s.Position, false
	// KVM_RUN takes CR8 from here, and a run that does nothing makes the kernel work out
	// anew whether an interrupt would be taken.
	e.run.cr8 = s.CR8
	return e.refresh()
}

func segment(g gokvm.Segment) vmm.Segment {
	bit := func(v uint8, n int) uint32 { return uint32(v&1) << n }
	return vmm.Segment{Selector: g.Selector, Base: g.Base, Limit: g.Limit,
		Access: uint32(g.Typ&0xf) | bit(g.S, 4) | uint32(g.DPL&3)<<vmm.SegDPLShift | bit(g.Present, 7) |
			bit(g.AVL, 12) | bit(g.L, 13) | bit(g.DB, 14) | bit(g.G, 15) | bit(g.Unusable, 16)}
}

func descriptor(s vmm.Segment) gokvm.Segment {
	bit := func(n int) uint8 { return uint8(s.Access >> n & 1) }
	return gokvm.Segment{Selector: s.Selector, Base: s.Base, Limit: s.Limit,
		Typ: uint8(s.Access & 0xf), S: bit(4), DPL: uint8(s.Access >> vmm.SegDPLShift & 3), Present: bit(7),
		AVL: bit(12), L: bit(13), DB: bit(14), G: bit(15), Unusable: bit(16)}
}

// events translates struct kvm_vcpu_events. An exception that KVM calls injected differs from a
// pending one only in that its payload is in CR2 or DR6 already, so it has none.
func events(k *gokvm.VCPUEvents) vmm.Events {
	var e vmm.Events
	if k.E.Inject|k.E.Pending != 0 {
		e.HasException, e.Exception = true, k.E.Nr
		if e.HasErrorCode = k.E.HadErrorCode != 0; e.HasErrorCode {
			e.ErrorCode = k.E.ErrorCode
		}
		if e.HasPayload = k.ExceptionHasPayload != 0; e.HasPayload {
			e.Payload = k.ExceptionPayload
		}
	}
	if k.I.Inject != 0 {
		e.HasInterrupt, e.Interrupt, e.SoftInterrupt = true, k.I.Nr, k.I.Soft != 0
	}
	if k.I.Shadow&shadowSTI != 0 {
		e.Shadow |= 1 << 0
	}
	if k.I.Shadow&shadowMovSS != 0 {
		e.Shadow |= 1 << 1
	}
	e.NMI = k.N.Inject&1 | k.N.Pending&1<<1 | k.N.Masked&1<<2
	return e
}

func kvmEvents(e *vmm.Events) gokvm.VCPUEvents {
	k := gokvm.VCPUEvents{Flags: eventsNMIPending | eventsShadow | eventsPayload}
	bit := func(b bool) uint8 {
		if b {
			return 1
		}
		return 0
	}
	k.E = gokvm.Exception{Pending: bit(e.HasException), Nr: e.Exception, HadErrorCode: bit(e.HasErrorCode), ErrorCode: e.ErrorCode}
	k.ExceptionHasPayload, k.ExceptionPayload = bit(e.HasPayload), e.Payload
	k.I = gokvm.Interrupt{Inject: bit(e.HasInterrupt), Nr: e.Interrupt, Soft: bit(e.SoftInterrupt)}
	if e.Shadow&(1<<0) != 0 {
		k.I.Shadow |= shadowSTI
	}
	if e.Shadow&(1<<1) != 0 {
		k.I.Shadow |= shadowMovSS
	}
	k.N = gokvm.NMI{Inject: e.NMI & 1, Pending: e.NMI >> 1 & 1, Masked: e.NMI >> 2 & 1}
	return k
}
