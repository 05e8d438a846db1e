package soft

import (
	"encoding/binary"

	"ftvm/vmm/soft/x86"
)

// moveLowering has the instructions that move vectors between registers and memory.
var moveLowering = []lowerEntry{
	{x86.MOVAPS, moveVector(true)},
	{x86.MOVAPD, moveVector(true)},
	{x86.MOVDQA, moveVector(true)},
	{x86.MOVNTPS, moveVector(true)},
	{x86.MOVNTPD, moveVector(true)},
	{x86.MOVNTDQ, moveVector(true)},
	{x86.MOVNTDQA, moveVector(true)},
	{x86.MOVUPS, moveVector(false)},
	{x86.MOVUPD, moveVector(false)},
	{x86.MOVDQU, moveVector(false)},
	{x86.LDDQU, moveVector(false)},

	{x86.MOVSS, moveScalar((*CPU).opMoveLow32)},
	{x86.MOVSD, moveScalar((*CPU).opMoveLow64)},
	{x86.MOVD, moveWord},
	{x86.MOVQ, moveWord},
	{x86.MOVNTQ, moveWord},
	{x86.MOVQ2DQ, moveWord},
	{x86.MOVDQ2Q, moveWord},

	{x86.MOVLPS, moveHalf((*CPU).opMoveLow64, 0)},
	{x86.MOVLPD, moveHalf((*CPU).opMoveLow64, 0)},
	{x86.MOVHPS, moveHalf((*CPU).opLowHalves, 1)},
	{x86.MOVHPD, moveHalf((*CPU).opLowHalves, 1)},
	{x86.MOVHLPS, vectorOp((*CPU).opHighToLow, nil)},
	{x86.MOVLHPS, vectorOp((*CPU).opLowHalves, nil)},

	{x86.MASKMOVDQU, lowerMaskedStore},
	{x86.MASKMOVQ, lowerMaskedStore},
}

// moveVector lowers a move of 16 bytes.
func moveVector(aligned bool) lowerFunc {
	return func(l *lowerer) {
		l.needSSE()
		to, from := l.in.Arg[0], l.in.Arg[1]
		switch {
		case to.Kind == x86.MemOp:
			l.storeVector(from.Reg, 16, aligned)
		case from.Kind == x86.MemOp:
			l.loadVector(to.Reg, 16, aligned)
		default:
			l.emit(uop{op: uMoveV, dst: to.Reg, src: from.Reg})
		}
	}
}

// moveScalar lowers MOVSS and MOVSD: between registers fn, which leaves the rest of the destination alone;
// from memory the rest becomes 0.
func moveScalar(f uopFunc) lowerFunc {
	fn := number(f)
	return func(l *lowerer) {
		l.needSSE()
		to, from := l.in.Arg[0], l.in.Arg[1]
		switch {
		case to.Kind == x86.MemOp:
			l.storeVector(from.Reg, to.Size, false)
		case from.Kind == x86.MemOp:
			l.loadVector(to.Reg, from.Size, false)
		default:
			l.compute(uop{fn: fn, dst: to.Reg, src: from.Reg})
		}
	}
}

// moveWord lowers moves of 4 or 8 bytes between vector registers of either kind, general registers and memory. The
// rest of a vector register becomes 0.
func moveWord(l *lowerer) {
	l.need()
	to, from := l.in.Arg[0], l.in.Arg[1]
	mmx := to.Kind == x86.MMX || from.Kind == x86.MMX
	switch {
	case to.Kind == x86.MemOp || to.Kind == x86.GPR:
		src := l.vector(1, false)
		if to.Kind == x86.MemOp {
			l.storeVector(src, to.Size, false)
		} else if to.Size == 8 {
			l.emit(uop{op: uToGPR64, dst: to.Reg, src: src})
		} else {
			l.emit(uop{op: uToGPR32, dst: to.Reg, src: src})
		}
		if mmx {
			l.emit(uop{op: uEnterMMX})
		}
		return
	case from.Kind == x86.MemOp && !mmx:
		l.loadVector(to.Reg, from.Size, false)
		return
	case from.Kind == x86.GPR && from.Size == 8:
		l.emit(uop{op: uFromGPR64, dst: l.vector(0, false), src: from.Reg})
	case from.Kind == x86.GPR:
		l.emit(uop{op: uFromGPR32, dst: l.vector(0, false), src: from.Reg})
	default:
		src := l.vector(1, false)
		l.emit(uop{op: uMoveQ, dst: l.vector(0, false), src: src})
	}
	if to.Kind == x86.MMX {
		l.emit(uop{op: uTouchMMX, dst: xR + to.Reg})
	} else if mmx {
		l.emit(uop{op: uEnterMMX})
	}
}

// moveHalf lowers moves between memory and one half of a vector; loads leave the other half alone.
func moveHalf(f uopFunc, half uint8) lowerFunc {
	fn := number(f)
	return func(l *lowerer) {
		l.needSSE()
		to, from := l.in.Arg[0], l.in.Arg[1]
		if to.Kind != x86.MemOp {
			src := l.vector(1, false)
			l.compute(uop{fn: fn, dst: to.Reg, src: src})
			return
		}
		src := from.Reg
		if half == 1 {
			src = xT
			l.emit(uop{op: uHighToLow, dst: src, src: from.Reg})
		}
		l.storeVector(src, 8, false)
	}
}

// opMoveV: v[dst] = v[src].
func (c *CPU) opMoveV(u *uop) bool {
	c.fpu.v[u.dst&31] = c.fpu.v[u.src&31]
	return true
}

// opMoveQ: v[dst] is the low half of v[src], and 0.
func (c *CPU) opMoveQ(u *uop) bool {
	c.fpu.v[u.dst&31] = vec{c.fpu.v[u.src&31].lo, 0}
	return true
}

// opMoveLow64 replaces the low 64 bits of v[dst] by those of v[src].
func (c *CPU) opMoveLow64(u *uop) bool {
	c.fpu.v[u.dst&31].lo = c.fpu.v[u.src&31].lo
	return true
}

// opMoveLow32 replaces the low 32 bits.
func (c *CPU) opMoveLow32(u *uop) bool {
	x := &c.fpu.v[u.dst&31]
	x.lo = x.lo&^0xffff_ffff | c.fpu.v[u.src&31].lo&0xffff_ffff
	return true
}

// opHighToLow replaces the low half of v[dst] by the high half of v[src].
func (c *CPU) opHighToLow(u *uop) bool {
	c.fpu.v[u.dst&31].lo = c.fpu.v[u.src&31].hi
	return true
}

func (c *CPU) opToGPR64(u *uop) bool {
	c.r[u.dst] = c.fpu.v[u.src&31].lo
	return true
}

func (c *CPU) opToGPR32(u *uop) bool {
	c.r[u.dst] = c.fpu.v[u.src&31].lo & 0xffff_ffff
	return true
}

func (c *CPU) opFromGPR64(u *uop) bool {
	c.fpu.v[u.dst&31] = vec{c.r[u.src], 0}
	return true
}

func (c *CPU) opFromGPR32(u *uop) bool {
	c.fpu.v[u.dst&31] = vec{c.r[u.src] & 0xffff_ffff, 0}
	return true
}

// opLoadVector: v[dst] is 16 bytes of memory.
func (c *CPU) opLoadVector(u *uop) bool {
	a := c.ea(u)
	e, o := &c.rd[a/pageSize%tlbSize], a&pageMask
	if e.tag == a&^pageMask && o <= pageSize-16 {
		p := e.page[o : o+16]
		c.fpu.v[u.dst&31] = vec{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])}
		return true
	}
	return c.loadVectorSlow(u, a)
}

// opLoadAligned is opLoadVector for what has to be aligned, and therefore does not cross pages.
func (c *CPU) opLoadAligned(u *uop) bool {
	a := c.ea(u)
	e, o := &c.rd[a/pageSize%tlbSize], a&(pageMask&^15)
	if e.tag == a&^(pageMask&^15) {
		p := e.page[o : o+16]
		c.fpu.v[u.dst&31] = vec{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])}
		return true
	}
	if a&15 != 0 {
		return c.faultCode(excGP, 0)
	}
	return c.loadVectorSlow(u, a)
}

func (c *CPU) loadVectorSlow(u *uop, a uint64) bool {
	lo, hi, ok := c.load128(a)
	if ok {
		c.fpu.v[u.dst&31] = vec{lo, hi}
	}
	return ok
}

// opLoad64V: v[dst] is 8 bytes of memory, and zeros.
func (c *CPU) opLoad64V(u *uop) bool {
	v, ok := c.load64(c.ea(u))
	if ok {
		c.fpu.v[u.dst&31] = vec{v, 0}
	}
	return ok
}

func (c *CPU) opLoad32V(u *uop) bool {
	v, ok := c.load32(c.ea(u))
	if ok {
		c.fpu.v[u.dst&31] = vec{uint64(v), 0}
	}
	return ok
}

// opLoadSmallV: v[dst] is imm bytes of memory, and zeros.
func (c *CPU) opLoadSmallV(u *uop) bool {
	v, ok := c.load(c.ea(u), uint8(u.imm))
	if ok {
		c.fpu.v[u.dst&31] = vec{v, 0}
	}
	return ok
}

// opStoreVector and opStoreAligned are the same for stores of v[src].

func (c *CPU) opStoreVector(u *uop) bool {
	a, x := c.ea(u), &c.fpu.v[u.src&31]
	e, o := &c.wr[a/pageSize%tlbSize], a&pageMask
	if e.tag == a&^pageMask && o <= pageSize-16 {
		p := e.page[o : o+16]
		binary.LittleEndian.PutUint64(p, x.lo)
		binary.LittleEndian.PutUint64(p[8:], x.hi)
		return true
	}
	return c.store128(a, x.lo, x.hi)
}

func (c *CPU) opStoreAligned(u *uop) bool {
	a, x := c.ea(u), &c.fpu.v[u.src&31]
	e, o := &c.wr[a/pageSize%tlbSize], a&(pageMask&^15)
	if e.tag == a&^(pageMask&^15) {
		p := e.page[o : o+16]
		binary.LittleEndian.PutUint64(p, x.lo)
		binary.LittleEndian.PutUint64(p[8:], x.hi)
		return true
	}
	if a&15 != 0 {
		return c.faultCode(excGP, 0)
	}
	return c.store128(a, x.lo, x.hi)
}

func (c *CPU) opStore64V(u *uop) bool { return c.store64(c.ea(u), c.fpu.v[u.src&31].lo) }

func (c *CPU) opStore32V(u *uop) bool { return c.store32(c.ea(u), uint32(c.fpu.v[u.src&31].lo)) }

// lowerMaskedStore lowers MASKMOVDQU and MASKMOVQ, which store to rDI the bytes of the first operand that the top bits
// of those of the second one select.
func lowerMaskedStore(l *lowerer) {
	l.need()
	if l.in.Arg[0].Kind == x86.MMX {
		l.emit(uop{op: uEnterMMX})
	}
	const rDI = 7
	l.in.Mem.Base, l.in.Mem.Index, l.in.Mem.Disp = rDI, x86.NoReg, 0
	dst, src := l.vector(0, false), l.vector(1, false)
	u := l.bareUop(execMaskedStore, uInst)
	u.dst, u.src = dst, src
	l.address(&u, 0, readOnly)
	l.emit(u)
}

// execMaskedStore stores from v[dst], as v[src] selects. What a fault is about shows that silicon makes stores of 8 bytes,
// whatever the mask is.
func execMaskedStore(c *CPU, u *uop, in *x86.Inst) bool {
	size := uint64(in.Arg[0].Size)
	for o := uint64(0); o < size; o += 8 {
		if !c.checkPart(u, in, o, 8, c.userAccess()|accWrite) {
			return false
		}
	}
	x, m, a := c.fpu.v[u.dst&31], c.fpu.v[u.src&31], c.ea(u)
	for i := range uint8(size) {
		if shiftBytesRight(m, i).lo&0x80 != 0 && !c.store8(c.linear(a+uint64(i)), uint8(shiftBytesRight(x, i).lo)) {
			return false
		}
	}
	return true
}

// opCheckAligned raises #GP if the memory operand is not aligned to 16 bytes. It is for segments with a limit, which is
// looked at later.
func (c *CPU) opCheckAligned(u *uop) bool { return c.ea(u)&15 == 0 || c.faultCode(excGP, 0) }
