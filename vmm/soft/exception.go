package soft

import (
	"encoding/binary"

	"ftvm/vmm"
)

// Exception vectors (SDM vol. 3A, table 6-1).
const (
	excDE = 0
	excDB = 1
	excBP = 3
	excOF = 4
	excBR = 5
	excUD = 6
	excNM = 7
	excDF = 8
	excTS = 10
	excNP = 11
	excSS = 12
	excGP = 13
	excPF = 14
	excMF = 16
	excAC = 17
	excXM = 19
)

// exception is one to be delivered.
type exception struct {
	vector  uint8
	hasCode bool
	code    uint32
	addr    uint64 // what goes into CR2, for #PF; the bits for DR6, for #DB
	// notCanonical is set if addr was used and is not canonical: #GP, unless it was the stack's.
	notCanonical bool
}

// Bits of an error code that is a selector's (SDM vol. 3A, 6.13).
const (
	codeExt = 1 << 0 // in the delivery of an event that the program did not ask for
	codeIDT = 1 << 1 // the index is one into the IDT
)

// event is what is delivered through the IDT.
type event struct {
	vector   uint8
	hasCode  bool
	code     uint32
	software bool   // an instruction asked for it: the gate's privilege level counts
	rip      uint64 // where the handler returns to
	rf       bool   // RF in the flags that are pushed
}

// ext is codeExt for events that the program did not ask for.
func (e *event) ext() uint32 {
	if e.software {
		return 0
	}
	return codeExt
}

// pendingException takes the exception out of c.events.
func (c *CPU) pendingException() exception {
	e := &c.events
	x := exception{vector: e.Exception, hasCode: e.HasErrorCode, code: e.ErrorCode}
	switch {
	case x.vector == excPF && !e.HasPayload:
		x.addr = c.cr2
	case e.HasPayload:
		x.addr = e.Payload
	}
	*e = vmm.Events{}
	return x
}

// raise delivers an exception, or what follows from it if that fails, up to a shutdown.
func (c *CPU) raise(x exception) {
	for {
		if x.notCanonical {
			x.vector = c.stackOrOther(x.addr)
		}
		// The others are faults: the instruction is to be executed again without its breakpoint.
		rf := x.vector != excDB && x.vector != excDF
		switch x.vector {
		case excPF:
			c.cr2 = x.addr
		case excDB:
			c.debugStatus(x.addr)
			rf = x.addr&dr6BD != 0
		}
		if c.deliverAlone(&event{vector: x.vector, hasCode: x.hasCode, code: x.code, rip: c.rip, rf: rf || c.resume}) {
			return
		}
		// The delivery failed (SDM vol. 3A, table 6-5): c.exc is why.
		first := x.vector
		switch second := c.exc.vector; {
		case first == excDF:
			c.dead = true
			return
		case first == excPF, contributory(first) && second != excPF:
			x = exception{vector: excDF, hasCode: true}
		default:
			x = c.exc
		}
	}
}

// contributory tells whether an exception is of the class of that name. All that can fail in the delivery of an
// event is of this class or #PF.
func contributory(vector uint8) bool {
	return vector == excDE || vector >= excTS && vector <= excGP
}

// interrupt delivers external interrupt v.
func (c *CPU) interrupt(v uint8) {
	if !c.deliverAlone(&event{vector: v, rip: c.rip, rf: c.resume}) {
		c.raise(c.exc)
	}
}

// deliverAlone is deliver, where no block is being executed.
func (c *CPU) deliverAlone(e *event) bool {
	c.delivering = true
	ok := c.deliver(e)
	c.delivering = false
	c.stop = 0
	return ok
}

// deliver calls the handler of an event. If it returns false, stop is set and nothing was changed.
func (c *CPU) deliver(e *event) bool {
	if c.efer&eferLMA != 0 {
		return c.deliver64(e)
	}
	return c.deliver32(e)
}

// gateAddr is the linear address of an event's gate, of 1<<shift bytes, in the IDT.
func (c *CPU) gateAddr(e *event, shift uint8) (uint64, bool) {
	o := uint64(e.vector) << shift
	if o+1<<shift-1 > uint64(c.idt.Limit) {
		return 0, c.gateFault(e, excGP)
	}
	return c.idt.Base + o, true
}

// gateFault raises an exception about an event's gate.
func (c *CPU) gateFault(e *event, vector uint8) bool {
	return c.faultCode(vector, uint32(e.vector)<<3|codeIDT|e.ext())
}

// deliver64 is deliver in long mode (SDM vol. 3A, 6.14).
func (c *CPU) deliver64(e *event) bool {
	at, ok := c.gateAddr(e, 4)
	if !ok {
		return false
	}
	lo, ok := c.loadSystem(at, 8)
	if !ok {
		return false
	}
	hi, ok := c.loadSystem(at+8, 8)
	if !ok {
		return false
	}
	gate := descriptor(lo)
	if t := gate.kind(); t != sysIntGate && t != sysTrapGate {
		return c.gateFault(e, excGP)
	}
	if e.software && gate.dpl() < c.cpl {
		return c.gateFault(e, excGP)
	}
	if !gate.present() {
		return c.gateFault(e, excNP)
	}
	sel, rip := uint16(lo>>16), lo&0xffff|lo>>32&0xffff_0000|hi<<32
	cs, cpl, ok := c.handlerCS(e, sel)
	if !ok {
		return false
	}
	if cs.Access&(vmm.SegL|vmm.SegDB) != vmm.SegL {
		return c.faultCode(excGP, uint32(sel&^3)|e.ext())
	}
	sp := c.r[vmm.RSP]
	if ist := lo >> 32 & 7; ist != 0 {
		sp, ok = c.taskWord(tss64IST+8*(ist-1), 8, e.ext())
	} else if cpl < c.cpl {
		sp, ok = c.taskWord(tss64RSP+8*uint64(cpl), 8, e.ext())
	}
	if !ok {
		return false
	}
	if !canonical(rip) {
		return c.faultCode(excGP, e.ext())
	}
	f := frame{size: 8, cpl: cpl, sp: sp &^ 15, mask: ^uint64(0), code: e.ext()}
	f.push(uint64(c.seg[vmm.SS].Selector))
	f.push(c.r[vmm.RSP])
	c.pushReturn(&f, e)
	if !c.writeFrame(&f) {
		return false
	}
	if cpl < c.cpl {
		c.seg[vmm.SS] = nullSegment(uint16(cpl))
	}
	c.r[vmm.RSP] = f.sp
	c.enterHandler(cs, rip, gate)
	return true
}

// deliver32 is deliver outside long mode (SDM vol. 3A, 6.12). Task gates are not implemented.
func (c *CPU) deliver32(e *event) bool {
	at, ok := c.gateAddr(e, 3)
	if !ok {
		return false
	}
	d, ok := c.loadSystem(at, 8)
	if !ok {
		return false
	}
	gate := descriptor(d)
	size := uint8(4)
	rip := d&0xffff | d>>32&0xffff_0000
	switch gate.kind() {
	case sysIntGate, sysTrapGate:
	case sysIntGate &^ sys32, sysTrapGate &^ sys32:
		size = 2
		rip &= 0xffff
	default:
		return c.gateFault(e, excGP)
	}
	if e.software && gate.dpl() < c.cpl {
		return c.gateFault(e, excGP)
	}
	if !gate.present() {
		return c.gateFault(e, excNP)
	}
	cs, cpl, ok := c.handlerCS(e, uint16(d>>16))
	if !ok {
		return false
	}
	if rip > uint64(cs.Limit) {
		return c.faultCode(excGP, e.ext())
	}
	ss, sp := c.seg[vmm.SS], c.r[vmm.RSP]
	if cpl < c.cpl {
		if ss, sp, ok = c.innerStack(cpl, e.ext()); !ok {
			return false
		}
	}
	f := frame{size: size, cpl: cpl, sp: sp, mask: stackMask(&ss), seg: &ss, code: e.ext()}
	if cpl < c.cpl {
		f.code |= uint32(ss.Selector &^ 3)
		f.push(uint64(c.seg[vmm.SS].Selector))
		f.push(c.r[vmm.RSP])
	}
	c.pushReturn(&f, e)
	if !c.writeFrame(&f) {
		return false
	}
	c.seg[vmm.SS] = ss
	c.setSP(f.sp, f.mask)
	c.enterHandler(cs, rip, gate)
	return true
}

// handlerCS is the code segment that a gate leads to, with the handler's privilege level.
func (c *CPU) handlerCS(e *event, sel uint16) (cs vmm.Segment, cpl uint8, ok bool) {
	if sel&^3 == 0 {
		return cs, 0, c.faultCode(excGP, e.ext())
	}
	d, at, ok := c.descriptor(sel, excGP, e.ext())
	if !ok {
		return cs, 0, false
	}
	code := uint32(sel&^3) | e.ext()
	if !d.code() || d.dpl() > c.cpl {
		return cs, 0, c.faultCode(excGP, code)
	}
	if !d.present() {
		return cs, 0, c.faultCode(excNP, code)
	}
	if cpl = c.cpl; !d.conforming() {
		cpl = d.dpl()
	}
	if !c.markAccessed(&d, at) {
		return cs, 0, false
	}
	return d.segment(sel&^3 | uint16(cpl)), cpl, true
}

// pushReturn puts on a frame what every handler finds on its stack.
func (c *CPU) pushReturn(f *frame, e *event) {
	flags := c.rflags()
	if e.rf {
		flags |= flagRF
	}
	f.push(flags)
	f.push(uint64(c.seg[vmm.CS].Selector))
	f.push(e.rip)
	if e.hasCode {
		f.push(uint64(e.code))
	}
}

// enterHandler goes on in the handler that a gate leads to; the stack is its own already.
func (c *CPU) enterHandler(cs vmm.Segment, rip uint64, gate descriptor) {
	c.flags &^= flagTF | flagNT | flagVM
	if gate.kind()&1 == 0 { // an interrupt gate
		c.flags &^= flagIF
	}
	c.resume = false
	c.events.Shadow = 0
	c.setCS(cs)
	c.rip = rip
}

// frame is what is pushed onto a stack at once.
type frame struct {
	size uint8
	cpl  uint8 // privilege level that it is pushed with
	sp   uint64
	mask uint64       // of the stack pointer
	seg  *vmm.Segment // the stack's; nil in long mode
	code uint32       // error code of the #SS that a stack without room raises
	n    int
	p    [frameMax]byte // from the end
}

// frameMax is the largest frame: that of a call gate with 31 parameters.
const frameMax = 4 * (31 + 4)

func (f *frame) push(v uint64) {
	f.n += int(f.size)
	f.sp = (f.sp - uint64(f.size)) & f.mask
	p := f.p[frameMax-f.n:]
	switch f.size {
	case 2:
		binary.LittleEndian.PutUint16(p, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(p, uint32(v))
	case 8:
		binary.LittleEndian.PutUint64(p, v)
	}
}

// writeFrame writes f to memory. If it returns false, stop is set and nothing was written. A frame that wraps
// around the end of its segment is refused.
func (c *CPU) writeFrame(f *frame) bool {
	a, n := f.sp, uint64(f.n)
	if f.seg != nil {
		if !inSegment(f.seg, a, n, true) {
			return c.faultCode(excSS, f.code)
		}
		a = (a + f.seg.Base) & 0xffff_ffff
	} else if !canonical(a) || !canonical(a+n-1) {
		return c.faultCode(excSS, f.code)
	}
	acc := accSystem | accWrite
	if f.cpl == 3 {
		acc |= accUser
	}
	s, ok := c.span(a, n, acc)
	if ok {
		c.write(&s, f.p[frameMax-f.n:])
	}
	return ok
}
