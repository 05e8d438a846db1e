package soft

import (
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// farPointer is the operand of a far jump or call.
func (c *CPU) farPointer(u *uop, in *x86.Inst) (sel uint16, rip uint64, ok bool) {
	if in.Arg[0].Kind == x86.Far {
		return in.Imm2, uint64(in.Imm) & sizeMask(in.OpSize), true
	}
	a := c.ea(u)
	rip, ok = c.load(a, in.OpSize)
	if !ok {
		return 0, 0, false
	}
	sel, ok = c.load16(a + uint64(in.OpSize))
	return sel, rip, ok
}

// sizeMask has the bits set that a value of size bytes has.
func sizeMask(size uint8) uint64 { return math.MaxUint64 >> (64 - 8*uint(size)) }

// inCode raises #GP(0) if rip is not an address for code in segment cs.
func (c *CPU) inCode(cs *vmm.Segment, rip uint64) bool {
	ok := rip <= uint64(cs.Limit)
	if c.efer&eferLMA != 0 && cs.Access&vmm.SegL != 0 {
		ok = canonical(rip)
	}
	return ok || c.faultCode(excGP, 0)
}

// codeSegment makes d, the descriptor at linear address at that is selected by sel, the code segment of
// privilege level cpl, and checks what does not depend on how it is reached.
func (c *CPU) codeSegment(sel uint16, d descriptor, at uint64, cpl uint8) (cs vmm.Segment, ok bool) {
	const both = vmm.SegL | vmm.SegDB
	cs = d.segment(sel&^3 | uint16(cpl))
	if c.efer&eferLMA != 0 && cs.Access&both == both {
		return cs, c.faultCode(excGP, uint32(sel&^3))
	}
	if !d.present() {
		return cs, c.faultCode(excNP, uint32(sel&^3))
	}
	if !c.markAccessed(&d, at) {
		return cs, false
	}
	cs.Access |= 1
	return cs, true
}

// farTarget is where a far jump or call leads.
type farTarget struct {
	cs  vmm.Segment
	rip uint64
	// gate is the call gate that it leads through, or 0.
	gate descriptor
}

// farTarget finds the target of a far jump or call (SDM vol. 3A, 5.8). Task switches are not implemented.
func (c *CPU) farTarget(sel uint16, rip uint64, call bool) (t farTarget, ok bool) {
	if sel&^3 == 0 {
		return t, c.faultCode(excGP, 0)
	}
	d, at, ok := c.descriptor(sel, excGP, 0)
	if !ok {
		return t, false
	}
	rpl := uint8(sel & 3)
	bad := func() (farTarget, bool) { return t, c.faultCode(excGP, uint32(sel&^3)) }
	cpl := c.cpl
	if d.code() {
		if d.conforming() && d.dpl() > cpl || !d.conforming() && (rpl > cpl || d.dpl() != cpl) {
			return bad()
		}
	} else {
		long := c.efer&eferLMA != 0
		switch kind := d.kind(); {
		case kind == sysCallGate|sys32, kind == sysCallGate && !long:
		case !long && (kind == sysTaskGate || kind&^sys32 == sysTSS):
			return t, c.unsupported("hardware task switch")
		default:
			return bad()
		}
		if d.dpl() < cpl || d.dpl() < rpl {
			return bad()
		}
		if !d.present() {
			return t, c.faultCode(excNP, uint32(sel&^3))
		}
		t.gate = d
		rip = uint64(d&0xffff | d>>32&0xffff_0000)
		if d.kind()&sys32 == 0 {
			rip &= 0xffff
		}
		if long {
			hi, ok := c.upperHalf(sel, at, excGP)
			if !ok {
				return t, false
			}
			if hi>>40&0x1f != 0 {
				return bad()
			}
			rip |= hi << 32
		}
		if sel = uint16(d >> 16); sel&^3 == 0 {
			return t, c.faultCode(excGP, 0)
		}
		if d, at, ok = c.descriptor(sel, excGP, 0); !ok {
			return t, false
		}
		if !d.code() || d.dpl() > cpl || !call && !d.conforming() && d.dpl() != cpl {
			return bad()
		}
		if long && d>>53&3 != 1 { // neither D nor legacy
			return bad()
		}
		if !d.conforming() {
			cpl = d.dpl()
		}
	}
	if t.cs, ok = c.codeSegment(sel, d, at, cpl); !ok {
		return t, false
	}
	t.rip = rip
	return t, c.inCode(&t.cs, rip)
}

func (c *CPU) jumpFar(u *uop, in *x86.Inst) bool {
	sel, rip, ok := c.farPointer(u, in)
	if !ok {
		return false
	}
	t, ok := c.farTarget(sel, rip, false)
	if !ok {
		return false
	}
	c.rip = t.rip
	c.setCS(t.cs)
	return c.next()
}

func (c *CPU) callFar(u *uop, in *x86.Inst) bool {
	sel, rip, ok := c.farPointer(u, in)
	if !ok {
		return false
	}
	t, ok := c.farTarget(sel, rip, true)
	if !ok {
		return false
	}
	long := c.efer&eferLMA != 0
	cpl := uint8(t.cs.Selector & 3)
	ss := c.seg[vmm.SS]
	f := frame{size: in.OpSize, cpl: cpl, sp: c.r[vmm.RSP], mask: c.spMask(), seg: &ss}
	switch {
	case t.gate == 0:
	case long:
		f.size, f.mask = 8, math.MaxUint64
	case t.gate.kind()&sys32 != 0:
		f.size = 4
	default:
		f.size = 2
	}
	if cpl < c.cpl {
		if long {
			f.sp, ok = c.taskWord(tss64RSP+8*uint64(cpl), 8, 0)
			ss = nullSegment(uint16(cpl))
		} else {
			ss, f.sp, ok = c.innerStack(cpl, 0)
			f.mask, f.code = stackMask(&ss), uint32(ss.Selector&^3)
		}
		if !ok {
			return false
		}
		f.push(uint64(c.seg[vmm.SS].Selector))
		f.push(c.r[vmm.RSP])
		if !long {
			for n := uint64(t.gate >> 32 & 0x1f); n > 0; n-- {
				v, ok := c.peek((n-1)*uint64(f.size), f.size)
				if !ok {
					return false
				}
				f.push(v)
			}
		}
	}
	if f.mask == math.MaxUint64 {
		f.seg = nil
	}
	f.push(uint64(c.seg[vmm.CS].Selector))
	f.push(c.rip)
	if !c.writeFrame(&f) {
		return false
	}
	c.seg[vmm.SS] = ss
	c.setSP(f.sp, f.mask)
	c.rip = t.rip
	c.setCS(t.cs)
	return c.next()
}

func (c *CPU) returnFar(_ *uop, in *x86.Inst) bool {
	rip, ok := c.peek(0, in.OpSize)
	if !ok {
		return false
	}
	sel, ok := c.peek(uint64(in.OpSize), in.OpSize)
	if !ok {
		return false
	}
	drop := uint64(0)
	if in.Arg[0].Kind == x86.Imm {
		drop = uint64(in.Imm) & math.MaxUint16
	}
	r := farReturn{sel: uint16(sel), rip: rip, size: in.OpSize, popped: 2, drop: drop}
	if !c.prepareReturn(&r) {
		return false
	}
	c.finishReturn(&r)
	return c.next()
}

// farReturn is a far return, by RET or IRET.
type farReturn struct {
	sel    uint16
	rip    uint64
	size   uint8
	popped uint64 // how many values of that size are off the stack
	drop   uint64 // how many bytes RET is to drop, from both stacks
	stack  bool   // SS and RSP are on the stack even if the privilege level stays

	cs, ss  vmm.Segment
	sp      uint64
	toOuter bool
}

// prepareReturn checks the target of a far return (SDM vol. 2B, RET and IRET).
func (c *CPU) prepareReturn(r *farReturn) bool {
	rpl := uint8(r.sel & 3)
	code := uint32(r.sel &^ 3)
	if code == 0 {
		return c.faultCode(excGP, 0)
	}
	d, at, ok := c.descriptor(r.sel, excGP, 0)
	if !ok {
		return false
	}
	if !d.code() || rpl < c.cpl || d.conforming() && d.dpl() > rpl || !d.conforming() && d.dpl() != rpl {
		return c.faultCode(excGP, code)
	}
	if r.cs, ok = c.codeSegment(r.sel, d, at, rpl); !ok {
		return false
	}
	r.ss, r.sp = c.seg[vmm.SS], c.r[vmm.RSP]+r.popped*uint64(r.size)+r.drop
	if r.toOuter = rpl > c.cpl; r.toOuter || r.stack {
		off := r.popped*uint64(r.size) + r.drop
		if r.sp, ok = c.peek(off, r.size); !ok {
			return false
		}
		sel, ok := c.peek(off+uint64(r.size), r.size)
		if !ok {
			return false
		}
		if r.ss, ok = c.returnStack(uint16(sel), rpl, &r.cs); !ok {
			return false
		}
		if r.toOuter {
			r.sp += r.drop
		}
	}
	return c.inCode(&r.cs, r.rip)
}

// returnStack is the stack segment for a return to privilege level rpl in cs.
func (c *CPU) returnStack(sel uint16, rpl uint8, cs *vmm.Segment) (ss vmm.Segment, ok bool) {
	code := uint32(sel &^ 3)
	if code == 0 {
		if c.efer&eferLMA == 0 || cs.Access&vmm.SegL == 0 || rpl == 3 || uint8(sel&3) != rpl {
			return ss, c.faultCode(excGP, 0)
		}
		return nullSegment(sel), true
	}
	d, at, ok := c.descriptor(sel, excGP, 0)
	if !ok {
		return ss, false
	}
	if uint8(sel&3) != rpl || !d.writable() || d.dpl() != rpl {
		return ss, c.faultCode(excGP, code)
	}
	if !d.present() {
		return ss, c.faultCode(excSS, code)
	}
	if !c.markAccessed(&d, at) {
		return ss, false
	}
	return d.segment(sel), true
}

// finishReturn makes a far return that was checked.
func (c *CPU) finishReturn(r *farReturn) {
	mask := stackMask(&r.ss)
	if c.efer&eferLMA != 0 && r.cs.Access&vmm.SegL != 0 {
		mask = math.MaxUint64
	}
	c.seg[vmm.SS] = r.ss
	c.setSP(r.sp, mask)
	c.rip = r.rip
	if r.toOuter {
		// Segments that the outer level has no right to are dropped.
		for _, i := range [...]int{vmm.ES, vmm.DS, vmm.FS, vmm.GS} {
			s := &c.seg[i]
			if conformingCode := s.Access&0xc == 0xc; !conformingCode && s.Access&vmm.SegUnusable == 0 &&
				uint8(s.Access>>vmm.SegDPLShift&3) < uint8(r.sel&3) {
				*s = nullSegment(0)
			}
		}
	}
	c.setCS(r.cs)
}

func (c *CPU) interruptReturn(_ *uop, in *x86.Inst) bool {
	if c.flags&flagNT != 0 {
		if c.efer&eferLMA == 0 {
			return c.unsupported("return from a hardware task (IRET with NT set)")
		}
		return c.faultCode(excGP, 0)
	}
	size := in.OpSize
	rip, ok := c.peek(0, size)
	if !ok {
		return false
	}
	sel, ok := c.peek(uint64(size), size)
	if !ok {
		return false
	}
	flags, ok := c.peek(2*uint64(size), size)
	if !ok {
		return false
	}
	if size >= 4 && flags&flagVM != 0 && c.cpl == 0 && c.efer&eferLMA == 0 {
		return c.unsupported("virtual-8086 mode (IRET with VM set)")
	}
	r := farReturn{sel: uint16(sel), rip: rip, size: size, popped: 3, stack: c.mode == x86.Mode64}
	if !c.prepareReturn(&r) {
		return false
	}
	c.resume = size >= 4 && flags&flagRF != 0 && c.instructionBreakpoints()
	c.popFlags(flags, size)
	c.finishReturn(&r)
	return c.next()
}

// popFlags sets those of RFLAGS that POPF and IRET may change at this privilege level from a value of size bytes.
func (c *CPU) popFlags(v uint64, size uint8) {
	change := uint64(flagsArith | flagTF | flagDF | flagNT)
	if c.cpl == 0 {
		change |= flagIOPL
	}
	if c.iopl() >= c.cpl {
		change |= flagIF
	}
	if size > 2 {
		change |= flagAC | flagID
	}
	c.setFlags(c.rflags()&^change | v&change)
}

// iopl is the privilege level for which ports and the interrupt flag are open.
func (c *CPU) iopl() uint8 { return uint8(c.flags >> 12 & 3) }

// softwareInterrupt delivers what INT n, INT3, INTO and INT1 ask for.
func (c *CPU) softwareInterrupt(vector uint8, checked bool) bool {
	if !c.deliver(&event{vector: vector, software: checked, rip: c.rip, rf: c.resume}) {
		return false
	}
	c.trap = false // the step was over with TF
	return c.next()
}
