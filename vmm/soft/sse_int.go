package soft

import "ftvm/vmm/soft/x86"

// laneOp is an operation on lanes of h and w, as in mmx_lanes.go.
func laneOp(f func(a, b, h uint64, w uint) uint64, h uint64, w uint) lowerFunc {
	return halves(func(a, b uint64) uint64 { return f(a, b, h, w) })
}

func equalLanes(a, b, h uint64, w uint) uint64   { return fill(equal(a, b, h), w) }
func greaterLanes(a, b, h uint64, w uint) uint64 { return fill(less(b, a, h), w) }
func minUnsigned(a, b, h uint64, w uint) uint64  { return pick(fill(below(a, b, h), w), a, b) }
func maxUnsigned(a, b, h uint64, w uint) uint64  { return pick(fill(below(a, b, h), w), b, a) }
func minSigned(a, b, h uint64, w uint) uint64    { return pick(fill(less(a, b, h), w), a, b) }
func maxSigned(a, b, h uint64, w uint) uint64    { return pick(fill(less(a, b, h), w), b, a) }
func magnitude(_, b, h uint64, w uint) uint64    { return absolute(b, h, w) }

// integerVectorLowering has the integer instructions of MMX and SSE that keep to their lanes.
var integerVectorLowering = []lowerEntry{
	{x86.PXOR, fast((*CPU).opXorV, func(a, b uint64) uint64 { return a ^ b })},
	{x86.POR, fast((*CPU).opOrV, func(a, b uint64) uint64 { return a | b })},
	{x86.PAND, fast((*CPU).opAndV, func(a, b uint64) uint64 { return a & b })},
	{x86.PANDN, fast((*CPU).opAndNotV, func(a, b uint64) uint64 { return b &^ a })},
	{x86.XORPS, vectorOp((*CPU).opXorV, nil)},
	{x86.XORPD, vectorOp((*CPU).opXorV, nil)},
	{x86.ORPS, vectorOp((*CPU).opOrV, nil)},
	{x86.ORPD, vectorOp((*CPU).opOrV, nil)},
	{x86.ANDPS, vectorOp((*CPU).opAndV, nil)},
	{x86.ANDPD, vectorOp((*CPU).opAndV, nil)},
	{x86.ANDNPS, vectorOp((*CPU).opAndNotV, nil)},
	{x86.ANDNPD, vectorOp((*CPU).opAndNotV, nil)},

	{x86.PADDB, fast((*CPU).opAdd8V, func(a, b uint64) uint64 { return addLanes(a, b, h8) })},
	{x86.PADDW, fast((*CPU).opAdd16V, func(a, b uint64) uint64 { return addLanes(a, b, h16) })},
	{x86.PADDD, fast((*CPU).opAdd32V, func(a, b uint64) uint64 { return addLanes(a, b, h32) })},
	{x86.PADDQ, fast((*CPU).opAdd64V, func(a, b uint64) uint64 { return a + b })},
	{x86.PSUBB, fast((*CPU).opSub8V, func(a, b uint64) uint64 { return subLanes(a, b, h8) })},
	{x86.PSUBW, halves(func(a, b uint64) uint64 { return subLanes(a, b, h16) })},
	{x86.PSUBD, fast((*CPU).opSub32V, func(a, b uint64) uint64 { return subLanes(a, b, h32) })},
	{x86.PSUBQ, fast((*CPU).opSub64V, func(a, b uint64) uint64 { return a - b })},
	{x86.PADDSB, laneOp(addSigned, h8, 8)},
	{x86.PADDSW, laneOp(addSigned, h16, 16)},
	{x86.PADDUSB, laneOp(addUnsigned, h8, 8)},
	{x86.PADDUSW, laneOp(addUnsigned, h16, 16)},
	{x86.PSUBSB, laneOp(subSigned, h8, 8)},
	{x86.PSUBSW, laneOp(subSigned, h16, 16)},
	{x86.PSUBUSB, laneOp(subUnsigned, h8, 8)},
	{x86.PSUBUSW, laneOp(subUnsigned, h16, 16)},
	{x86.PAVGB, laneOp(average, h8, 8)},
	{x86.PAVGW, laneOp(average, h16, 16)},

	{x86.PCMPEQB, fast((*CPU).opEqual8V, func(a, b uint64) uint64 { return equalLanes(a, b, h8, 8) })},
	{x86.PCMPEQW, laneOp(equalLanes, h16, 16)},
	{x86.PCMPEQD, fast((*CPU).opEqual32V, func(a, b uint64) uint64 { return equalLanes(a, b, h32, 32) })},
	{x86.PCMPEQQ, laneOp(equalLanes, h64, 64)},
	{x86.PCMPGTB, laneOp(greaterLanes, h8, 8)},
	{x86.PCMPGTW, laneOp(greaterLanes, h16, 16)},
	{x86.PCMPGTD, laneOp(greaterLanes, h32, 32)},
	{x86.PCMPGTQ, laneOp(greaterLanes, h64, 64)},

	{x86.PMINUB, fast((*CPU).opMin8V, func(a, b uint64) uint64 { return minUnsigned(a, b, h8, 8) })},
	{x86.PMINUW, laneOp(minUnsigned, h16, 16)},
	{x86.PMINUD, laneOp(minUnsigned, h32, 32)},
	{x86.PMINSB, laneOp(minSigned, h8, 8)},
	{x86.PMINSW, laneOp(minSigned, h16, 16)},
	{x86.PMINSD, laneOp(minSigned, h32, 32)},
	{x86.PMAXUB, laneOp(maxUnsigned, h8, 8)},
	{x86.PMAXUW, laneOp(maxUnsigned, h16, 16)},
	{x86.PMAXUD, laneOp(maxUnsigned, h32, 32)},
	{x86.PMAXSB, laneOp(maxSigned, h8, 8)},
	{x86.PMAXSW, laneOp(maxSigned, h16, 16)},
	{x86.PMAXSD, laneOp(maxSigned, h32, 32)},
	{x86.PABSB, laneOp(magnitude, h8, 8)},
	{x86.PABSW, laneOp(magnitude, h16, 16)},
	{x86.PABSD, laneOp(magnitude, h32, 32)},
	{x86.PSIGNB, laneOp(sign, h8, 8)},
	{x86.PSIGNW, laneOp(sign, h16, 16)},
	{x86.PSIGND, laneOp(sign, h32, 32)},

	{x86.PMULLW, halves(func(a, b uint64) uint64 {
		return each16(a, b, func(a, b uint16) uint16 { return a * b })
	})},
	{x86.PMULHW, halves(func(a, b uint64) uint64 {
		return each16(a, b, func(a, b uint16) uint16 { return uint16(int32(int16(a)) * int32(int16(b)) >> 16) })
	})},
	{x86.PMULHUW, halves(func(a, b uint64) uint64 {
		return each16(a, b, func(a, b uint16) uint16 { return uint16(uint32(a) * uint32(b) >> 16) })
	})},
	{x86.PMULHRSW, halves(func(a, b uint64) uint64 {
		return each16(a, b, func(a, b uint16) uint16 {
			return uint16((int32(int16(a))*int32(int16(b))>>14 + 1) >> 1)
		})
	})},
	{x86.PMULLD, halves(func(a, b uint64) uint64 {
		return uint64(uint32(a)*uint32(b)) | a>>32*(b>>32)<<32
	})},
	{x86.PMULUDQ, fast((*CPU).opMul32V, func(a, b uint64) uint64 { return a & 0xffff_ffff * (b & 0xffff_ffff) })},
	{x86.PMULDQ, halves(func(a, b uint64) uint64 { return uint64(int64(int32(a)) * int64(int32(b))) })},
	{x86.PMADDWD, halves(multiplyAdd16)},
	{x86.PMADDUBSW, halves(multiplyAdd8)},
	{x86.PSADBW, halves(sumDifferences)},

	{x86.PSLLW, shift(shiftLeft, (*CPU).opShiftLeftV, h16, 16)},
	{x86.PSLLD, shift(shiftLeft, (*CPU).opShiftLeftV, h32, 32)},
	{x86.PSLLQ, shift(shiftLeft, (*CPU).opShiftLeftV, h64, 64)},
	{x86.PSRLW, shift(shiftRight, (*CPU).opShiftRightV, h16, 16)},
	{x86.PSRLD, shift(shiftRight, (*CPU).opShiftRightV, h32, 32)},
	{x86.PSRLQ, shift(shiftRight, (*CPU).opShiftRightV, h64, 64)},
	{x86.PSRAW, shift(shiftRightSigned, nil, h16, 16)},
	{x86.PSRAD, shift(shiftRightSigned, nil, h32, 32)},
	{x86.PSLLDQ, bytesShift(shiftBytesLeft)},
	{x86.PSRLDQ, bytesShift(shiftBytesRight)},
}

// shift lowers a shift of all lanes by an immediate, or by the low 64 bits of the second operand. If there is a
// micro-operation fast for the immediate, it takes the mask of the bits that are moved to a place in their lane.
func shift(f func(a, n, h uint64, w uint) uint64, fast uopFunc, h uint64, w uint) lowerFunc {
	byVector := vectorOp(
		opWide(func(a, n vec, _ uint8) vec { return vec{f(a.lo, n.lo, h, w), f(a.hi, n.lo, h, w)} }),
		opMMX(func(a, n uint64, _ uint8) uint64 { return f(a, n, h, w) }))
	xmm := number(opWide(func(a, _ vec, n uint8) vec { return vec{f(a.lo, uint64(n), h, w), f(a.hi, uint64(n), h, w)} }))
	mmx := number(opMMX(func(a, _ uint64, n uint8) uint64 { return f(a, uint64(n), h, w) }))
	quick := number(fast)
	return func(l *lowerer) {
		if l.in.Arg[1].Kind != x86.Imm {
			byVector(l)
			return
		}
		l.need()
		n := uint8(l.in.Imm)
		u := uop{fn: xmm, dst: l.vector(0, true), src: xNone, imm: uint64(n)}
		switch {
		case l.in.Arg[0].Kind == x86.MMX:
			u.fn = mmx
		case fast != nil:
			u.fn, u.shift, u.imm = quick, n&63, f(^uint64(0), uint64(n), h, w)
		}
		l.compute(u)
	}
}

// opShiftLeftV: v[dst] = v[dst] << shift, of which each half keeps the bits in imm.
func (c *CPU) opShiftLeftV(u *uop) bool {
	x := &c.fpu.v[u.dst&31]
	x.lo, x.hi = x.lo<<(u.shift&63)&u.imm, x.hi<<(u.shift&63)&u.imm
	return true
}

// opShiftRightV is opShiftLeftV to the right.
func (c *CPU) opShiftRightV(u *uop) bool {
	x := &c.fpu.v[u.dst&31]
	x.lo, x.hi = x.lo>>(u.shift&63)&u.imm, x.hi>>(u.shift&63)&u.imm
	return true
}

func bytesShift(f func(v vec, n uint8) vec) lowerFunc {
	fn := number(opWide(func(a, _ vec, n uint8) vec { return f(a, n) }))
	return func(l *lowerer) {
		l.needSSE()
		l.compute(uop{fn: fn, dst: l.in.Arg[0].Reg, src: xNone, imm: uint64(l.in.Imm)})
	}
}

// shiftBytesRight shifts v right by n bytes.
func shiftBytesRight(v vec, n uint8) vec {
	s := uint64(n) * 8
	if n >= 8 {
		return vec{v.hi >> (s - 64), 0}
	}
	return vec{v.lo>>s | v.hi<<(64-s), v.hi >> s}
}

func shiftBytesLeft(v vec, n uint8) vec {
	s := uint64(n) * 8
	if n >= 8 {
		return vec{0, v.lo << (s - 64)}
	}
	return vec{v.lo << s, v.hi<<s | v.lo>>(64-s)}
}

// What compilers and C libraries use most has micro-operations without calls.

func (c *CPU) opXorV(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = x.lo^y.lo, x.hi^y.hi
	return true
}

func (c *CPU) opOrV(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = x.lo|y.lo, x.hi|y.hi
	return true
}

func (c *CPU) opAndV(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = x.lo&y.lo, x.hi&y.hi
	return true
}

// opAndNotV: v[dst] = ^v[dst] & v[src].
func (c *CPU) opAndNotV(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = y.lo&^x.lo, y.hi&^x.hi
	return true
}

func (c *CPU) opAdd8V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = addLanes(x.lo, y.lo, h8), addLanes(x.hi, y.hi, h8)
	return true
}

func (c *CPU) opAdd16V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = addLanes(x.lo, y.lo, h16), addLanes(x.hi, y.hi, h16)
	return true
}

func (c *CPU) opAdd32V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = addLanes(x.lo, y.lo, h32), addLanes(x.hi, y.hi, h32)
	return true
}

func (c *CPU) opAdd64V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = x.lo+y.lo, x.hi+y.hi
	return true
}

func (c *CPU) opSub8V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = subLanes(x.lo, y.lo, h8), subLanes(x.hi, y.hi, h8)
	return true
}

func (c *CPU) opSub32V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = subLanes(x.lo, y.lo, h32), subLanes(x.hi, y.hi, h32)
	return true
}

func (c *CPU) opSub64V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = x.lo-y.lo, x.hi-y.hi
	return true
}

func (c *CPU) opEqual8V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = fill(equal(x.lo, y.lo, h8), 8), fill(equal(x.hi, y.hi, h8), 8)
	return true
}

func (c *CPU) opEqual32V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = fill(equal(x.lo, y.lo, h32), 32), fill(equal(x.hi, y.hi, h32), 32)
	return true
}

func (c *CPU) opMin8V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = minUnsigned(x.lo, y.lo, h8, 8), minUnsigned(x.hi, y.hi, h8, 8)
	return true
}

// opMul32V: each 64 bits are the product of their low halves, unsigned.
func (c *CPU) opMul32V(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = x.lo&0xffff_ffff*(y.lo&0xffff_ffff), x.hi&0xffff_ffff*(y.hi&0xffff_ffff)
	return true
}
