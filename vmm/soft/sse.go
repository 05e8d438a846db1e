package soft

import (
	"slices"

	"ftvm/vmm/soft/x86"
)

// floatLowering has the instructions of x87, MMX and SSE.
var floatLowering = slices.Concat(moveLowering, integerVectorLowering, shuffleLowering, stringLowering,
	floatVectorLowering, convertLowering, x87Lowering, stateLowering)

// needSSE makes the block check that SSE instructions may be executed, before the first of them.
func (l *lowerer) needSSE() {
	if !l.sse {
		l.sse = true
		l.emit(uop{op: uCheckSSE})
	}
}

// need makes the block check for what the instruction's registers belong to.
func (l *lowerer) need() {
	mmx, xmm := false, false
	for _, a := range l.in.Arg {
		mmx = mmx || a.Kind == x86.MMX
		xmm = xmm || a.Kind == x86.XMM
	}
	if xmm {
		l.needSSE()
	}
	if mmx {
		l.emit(uop{op: uCheckMMX})
	}
}

// uVector+n is the micro-operation that does what x86.Op number n computes, with slots of the vector file. Its function is
// in the instruction's row of the tables of lowerings.
const uVector opcode = 1 << 12

// compute emits the micro-operation of the instruction's own.
func (l *lowerer) compute(u uop) {
	u.op = uVector + opcode(l.in.Op)
	l.emit(u)
}

// vector tells in which slot of the vector file operand i will be: a register's, or xT, to which a memory
// operand is loaded and extended by zeros. Memory of 16 bytes has to be aligned if aligned is set.
func (l *lowerer) vector(i int, aligned bool) uint8 {
	a := l.in.Arg[i]
	switch a.Kind {
	case x86.XMM:
		return a.Reg
	case x86.MMX:
		return xR + a.Reg
	}
	l.loadVector(xT, a.Size, aligned)
	return xT
}

// loadVector emits the load of a memory operand of size bytes.
func (l *lowerer) loadVector(slot, size uint8, aligned bool) {
	u := uop{dst: slot, imm: uint64(size)}
	switch {
	case size == 16 && aligned:
		u.op = uLoadAligned
	case size == 16:
		u.op = uLoadVector
	case size == 8:
		u.op = uLoad64V
	case size == 4:
		u.op = uLoad32V
	default:
		u.op = uLoadSmallV
	}
	l.aligned(size == 16 && aligned)
	l.address(&u, size, readOnly)
	l.emit(u)
}

// aligned makes sure, if on is set, that the memory operand is aligned, where that is not found out by the access.
func (l *lowerer) aligned(on bool) {
	if on && l.mode != x86.Mode64 {
		u := uop{op: uCheckAligned}
		l.address(&u, 0, readOnly)
		l.emit(u)
	}
}

// storeVector emits the store of the low size bytes of a slot.
func (l *lowerer) storeVector(slot, size uint8, aligned bool) {
	u := uop{src: slot}
	switch {
	case size == 16 && aligned:
		u.op = uStoreAligned
	case size == 16:
		u.op = uStoreVector
	case size == 8:
		u.op = uStore64V
	default:
		u.op = uStore32V
	}
	l.aligned(size == 16 && aligned)
	l.address(&u, size, writeFirst)
	l.emit(u)
}

// vectorOp lowers an instruction of a vector destination, a vector or memory source, and perhaps an
// immediate. Either function may be nil if there is no such form.
func vectorOp(xmm, mmx uopFunc) lowerFunc {
	ofXMM, ofMMX := number(xmm), number(mmx)
	return func(l *lowerer) {
		fn := ofXMM
		if l.in.Arg[0].Kind == x86.MMX {
			fn = ofMMX
		}
		l.need()
		src := l.vector(1, true)
		dst := l.vector(0, true)
		l.compute(uop{fn: fn, dst: dst, src: src, imm: uint64(l.in.Imm)})
	}
}

// Makers of micro-operations v[dst] = f(v[dst], v[src]).

// half is f on 64 bits.
type half = func(a, b uint64) uint64

// wide is f on 128 bits, with an immediate.
type wide = func(a, b vec, imm uint8) vec

func opHalves(f half) uopFunc {
	return func(c *CPU, u *uop) bool {
		x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
		x.lo, x.hi = f(x.lo, y.lo), f(x.hi, y.hi)
		return true
	}
}

func opWide(f wide) uopFunc {
	return func(c *CPU, u *uop) bool {
		x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
		*x = f(*x, *y, uint8(u.imm))
		return true
	}
}

func opMMX(f func(a, b uint64, imm uint8) uint64) uopFunc {
	return func(c *CPU, u *uop) bool {
		c.fpu.setMMX(u.dst, f(c.fpu.v[u.dst&31].lo, c.fpu.v[u.src&31].lo, uint8(u.imm)))
		return true
	}
}

// enterMMX is what every MMX instruction but EMMS does to the x87 state (SDM vol. 1, 9.5.1).
func (f *fpu) enterMMX() { f.top, f.valid = 0, 0xff }

// setMMX writes a register of MMX: sign and exponent become all ones (SDM vol. 1, 9.2.2).
func (f *fpu) setMMX(slot uint8, v uint64) {
	f.enterMMX()
	f.v[slot&31] = vec{v, 0xffff}
}

// halves lowers an instruction that treats each 64 bits alike, in SSE and, where it exists, MMX.
func halves(f half) lowerFunc {
	return vectorOp(opHalves(f), opMMX(func(a, b uint64, _ uint8) uint64 { return f(a, b) }))
}

// fast is halves, with a function of its own for SSE.
func fast(xmm uopFunc, f half) lowerFunc {
	return vectorOp(xmm, opMMX(func(a, b uint64, _ uint8) uint64 { return f(a, b) }))
}
