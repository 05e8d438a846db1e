package soft

import (
	"encoding/binary"

	"ftvm/vmm/soft/x86"
)

// shuffleLowering has the instructions that move lanes about, or combine different ones.
var shuffleLowering = []lowerEntry{
	{x86.PUNPCKLBW, both(unpackLow(interleave8), func(a, b uint64, _ uint8) uint64 { return interleave8(a, b) })},
	{x86.PUNPCKLWD, both(unpackLow(interleave16), func(a, b uint64, _ uint8) uint64 { return interleave16(a, b) })},
	{x86.PUNPCKLDQ, both(unpackLow(interleave32), func(a, b uint64, _ uint8) uint64 { return interleave32(a, b) })},
	{x86.PUNPCKLQDQ, vectorOp((*CPU).opLowHalves, nil)},
	{x86.PUNPCKHBW, both(unpackHigh(interleave8), func(a, b uint64, _ uint8) uint64 { return interleave8(a>>32, b>>32) })},
	{x86.PUNPCKHWD, both(unpackHigh(interleave16), func(a, b uint64, _ uint8) uint64 { return interleave16(a>>32, b>>32) })},
	{x86.PUNPCKHDQ, both(unpackHigh(interleave32), func(a, b uint64, _ uint8) uint64 { return interleave32(a>>32, b>>32) })},
	{x86.PUNPCKHQDQ, vectorOp((*CPU).opHighHalves, nil)},
	{x86.UNPCKLPS, both(unpackLow(interleave32), nil)},
	{x86.UNPCKHPS, both(unpackHigh(interleave32), nil)},
	{x86.UNPCKLPD, vectorOp((*CPU).opLowHalves, nil)},
	{x86.UNPCKHPD, vectorOp((*CPU).opHighHalves, nil)},

	{x86.PACKSSWB, packLanes(16, true)},
	{x86.PACKSSDW, packLanes(32, true)},
	{x86.PACKUSWB, packLanes(16, false)},
	{x86.PACKUSDW, packLanes(32, false)},

	{x86.PHADDW, horizontal(16, func(a, b int64) int64 { return a + b })},
	{x86.PHADDD, horizontal(32, func(a, b int64) int64 { return a + b })},
	{x86.PHADDSW, horizontal(16, func(a, b int64) int64 { return int64(saturate(a+b, 16, true)) })},
	{x86.PHSUBW, horizontal(16, func(a, b int64) int64 { return a - b })},
	{x86.PHSUBD, horizontal(32, func(a, b int64) int64 { return a - b })},
	{x86.PHSUBSW, horizontal(16, func(a, b int64) int64 { return int64(saturate(a-b, 16, true)) })},

	{x86.PSHUFB, both(
		func(a, b vec, _ uint8) vec {
			p := a.bytes()
			return vec{shuffle8(&p, b.lo, 15), shuffle8(&p, b.hi, 15)}
		},
		func(a, b uint64, _ uint8) uint64 {
			p := vec{a, 0}.bytes()
			return shuffle8(&p, b, 7)
		})},
	{x86.PSHUFD, vectorOp((*CPU).opShuffle32, nil)},
	{x86.PSHUFLW, both(func(_, b vec, imm uint8) vec { return vec{shuffle16(b.lo, imm), b.hi} }, nil)},
	{x86.PSHUFHW, both(func(_, b vec, imm uint8) vec { return vec{b.lo, shuffle16(b.hi, imm)} }, nil)},
	{x86.PSHUFW, both(nil, func(_, b uint64, imm uint8) uint64 { return shuffle16(b, imm) })},
	{x86.SHUFPS, both(func(a, b vec, imm uint8) vec {
		return vec{a.lane32(imm) | a.lane32(imm>>2)<<32, b.lane32(imm>>4) | b.lane32(imm>>6)<<32}
	}, nil)},
	{x86.SHUFPD, both(func(a, b vec, imm uint8) vec { return vec{a.half(imm), b.half(imm >> 1)} }, nil)},
	{x86.PALIGNR, both(alignBytes, func(a, b uint64, imm uint8) uint64 {
		return alignBytes(vec{}, vec{b, a}, imm).lo
	})},

	{x86.MOVDDUP, both(func(_, b vec, _ uint8) vec { return vec{b.lo, b.lo} }, nil)},
	{x86.MOVSLDUP, both(func(_, b vec, _ uint8) vec {
		return vec{interleave32(b.lo, b.lo), interleave32(b.hi, b.hi)}
	}, nil)},
	{x86.MOVSHDUP, both(func(_, b vec, _ uint8) vec {
		return vec{interleave32(b.lo>>32, b.lo>>32), interleave32(b.hi>>32, b.hi>>32)}
	}, nil)},

	{x86.PBLENDW, both(func(a, b vec, imm uint8) vec { return blend(a, b, spreadMask(imm, 16), spreadMask(imm>>4, 16)) }, nil)},
	{x86.BLENDPS, both(func(a, b vec, imm uint8) vec { return blend(a, b, spreadMask(imm, 32), spreadMask(imm>>2, 32)) }, nil)},
	{x86.BLENDPD, both(func(a, b vec, imm uint8) vec { return blend(a, b, spreadMask(imm, 64), spreadMask(imm>>1, 64)) }, nil)},
	{x86.PBLENDVB, blendBySigns(h8, 8)},
	{x86.BLENDVPS, blendBySigns(h32, 32)},
	{x86.BLENDVPD, blendBySigns(h64, 64)},

	{x86.PMOVSXBW, both(widen(8, 16, true), nil)},
	{x86.PMOVSXBD, both(widen(8, 32, true), nil)},
	{x86.PMOVSXBQ, both(widen(8, 64, true), nil)},
	{x86.PMOVSXWD, both(widen(16, 32, true), nil)},
	{x86.PMOVSXWQ, both(widen(16, 64, true), nil)},
	{x86.PMOVSXDQ, both(widen(32, 64, true), nil)},
	{x86.PMOVZXBW, both(widen(8, 16, false), nil)},
	{x86.PMOVZXBD, both(widen(8, 32, false), nil)},
	{x86.PMOVZXBQ, both(widen(8, 64, false), nil)},
	{x86.PMOVZXWD, both(widen(16, 32, false), nil)},
	{x86.PMOVZXWQ, both(widen(16, 64, false), nil)},
	{x86.PMOVZXDQ, both(widen(32, 64, false), nil)},

	{x86.MPSADBW, both(blockDifferences, nil)},
	{x86.PHMINPOSUW, both(func(_, b vec, _ uint8) vec { return vec{minimumPosition(b), 0} }, nil)},
	{x86.PTEST, vectorOp((*CPU).opTestV, nil)},

	{x86.PINSRB, insertLane(8)},
	{x86.PINSRW, insertLane(16)},
	{x86.PINSRD, insertLane(32)},
	{x86.PINSRQ, insertLane(64)},
	{x86.INSERTPS, lowerInsertPS},
	{x86.PEXTRB, extractLane(8)},
	{x86.PEXTRW, extractLane(16)},
	{x86.PEXTRD, extractLane(32)},
	{x86.PEXTRQ, extractLane(64)},
	{x86.EXTRACTPS, extractLane(32)},
	{x86.PMOVMSKB, toGPR(func(v vec) uint64 { return signs8(v.lo) | signs8(v.hi)<<8 })},
	{x86.MOVMSKPS, toGPR(func(v vec) uint64 {
		return v.lo>>31&1 | v.lo>>62&2 | v.hi>>29&4 | v.hi>>60&8
	})},
	{x86.MOVMSKPD, toGPR(func(v vec) uint64 { return v.lo>>63 | v.hi>>62&2 })},
}

// both is vectorOp, for functions on values.
func both(f wide, g func(a, b uint64, imm uint8) uint64) lowerFunc {
	var xmm, mmx uopFunc
	if f != nil {
		xmm = opWide(f)
	}
	if g != nil {
		mmx = opMMX(g)
	}
	return vectorOp(xmm, mmx)
}

// lane32 is lane number n modulo 4 of 32 bits.
func (v vec) lane32(n uint8) uint64 { return v.half(n>>1) >> (n & 1 * 32) & 0xffff_ffff }

// half is lane number n modulo 2 of 64 bits.
func (v vec) half(n uint8) uint64 {
	if n&1 != 0 {
		return v.hi
	}
	return v.lo
}

func (v vec) bytes() (p [16]byte) {
	binary.LittleEndian.PutUint64(p[:], v.lo)
	binary.LittleEndian.PutUint64(p[8:], v.hi)
	return p
}

// with is v, where the bits of m, which fit 64, are replaced by those of bits, at bit number at.
func (v vec) with(bits, m uint64, at uint8) vec {
	if at >= 64 {
		return vec{v.lo, v.hi&^(m<<(at-64)) | bits&m<<(at-64)}
	}
	return vec{v.lo&^(m<<at) | bits&m<<at, v.hi}
}

func unpackLow(f half) wide {
	return func(a, b vec, _ uint8) vec { return vec{f(a.lo, b.lo), f(a.lo>>32, b.lo>>32)} }
}

func unpackHigh(f half) wide {
	return func(a, b vec, _ uint8) vec { return vec{f(a.hi, b.hi), f(a.hi>>32, b.hi>>32)} }
}

// packLanes lowers the PACK instructions on lanes of w bits.
func packLanes(w uint, signed bool) lowerFunc {
	return both(func(a, b vec, _ uint8) vec {
		return vec{pack(a.lo, w, signed) | pack(a.hi, w, signed)<<32, pack(b.lo, w, signed) | pack(b.hi, w, signed)<<32}
	}, func(a, b uint64, _ uint8) uint64 { return pack(a, w, signed) | pack(b, w, signed)<<32 })
}

// horizontal lowers what combines neighbouring lanes of w bits.
func horizontal(w uint, f func(a, b int64) int64) lowerFunc {
	return both(func(a, b vec, _ uint8) vec {
		return vec{pairs(a.lo, w, f) | pairs(a.hi, w, f)<<32, pairs(b.lo, w, f) | pairs(b.hi, w, f)<<32}
	}, func(a, b uint64, _ uint8) uint64 { return pairs(a, w, f) | pairs(b, w, f)<<32 })
}

// alignBytes is 16 bytes of a above b, from byte imm on.
func alignBytes(a, b vec, imm uint8) vec {
	if imm >= 16 {
		return shiftBytesRight(a, imm-16)
	}
	low, high := shiftBytesRight(b, imm), shiftBytesLeft(a, 16-imm)
	return vec{low.lo | high.lo, low.hi | high.hi}
}

func blend(a, b vec, lo, hi uint64) vec { return vec{pick(lo, b.lo, a.lo), pick(hi, b.hi, a.hi)} }

// spreadMask fills lanes of w bits of a word as the low bits of m say.
func spreadMask(m uint8, w uint) (v uint64) {
	for i := uint(0); i < 64; i += w {
		v |= uint64(m&1) * (1<<w - 1) << i
		m >>= 1
	}
	return v
}

// blendBySigns takes the lanes of the source that have their top bit set in XMM0.
func blendBySigns(h uint64, w uint) lowerFunc {
	return vectorOp(func(c *CPU, u *uop) bool {
		x, y, m := &c.fpu.v[u.dst&31], c.fpu.v[u.src&31], c.fpu.v[0]
		*x = blend(*x, y, fill(m.lo&h, w), fill(m.hi&h, w))
		return true
	}, nil)
}

// widen extends the lowest lanes of from bits to to bits.
func widen(from, to uint, signed bool) wide {
	return func(_, b vec, _ uint8) (v vec) {
		src := b.lo
		for i := uint(0); i < 128; i += to {
			lane := src & (1<<from - 1)
			if signed {
				lane = uint64(int64(src<<(64-from))>>(64-from)) & (1<<to - 1)
			}
			if i < 64 {
				v.lo |= lane << i
			} else {
				v.hi |= lane << (i - 64)
			}
			src >>= from
		}
		return v
	}
}

// blockDifferences is MPSADBW: the distances of four bytes of b from each of eight runs of four bytes of a.
func blockDifferences(a, b vec, imm uint8) (v vec) {
	run := shiftBytesRight(a, imm>>2&1*4)
	four := b.lane32(imm)
	for i := range uint8(8) {
		sum := sumDifferences(shiftBytesRight(run, i).lo&0xffff_ffff, four)
		v = v.with(sum, 0xffff, i*16)
	}
	return v
}

// minimumPosition is the smallest word of v, unsigned, and the lowest index that it is found at.
func minimumPosition(v vec) uint64 {
	low, at := uint64(0xffff), uint64(0)
	for i := range uint8(8) {
		if w := shiftBytesRight(v, 2*i).lo & 0xffff; w < low {
			low, at = w, uint64(i)
		}
	}
	return low | at<<16
}

// lane tells which of its lanes of w bits the immediate selects in a vector of v bits, by its first bit.
func (l *lowerer) lane(i int, w uint8) uint8 {
	n := uint8(128)
	if l.in.Arg[i].Kind == x86.MMX {
		n = 64
	}
	return uint8(l.in.Imm) & (n/w - 1) * w
}

// insertLane lowers PINSR: a lane of w bits from a general register or memory.
func insertLane(w uint8) lowerFunc {
	return func(l *lowerer) {
		l.need()
		u := uop{op: uInsertGPR, dst: l.vector(0, true), src: l.in.Arg[1].Reg, imm: uint64(w), shift: l.lane(0, w)}
		if l.in.Arg[1].Kind == x86.MemOp {
			l.loadVector(xT, w/8, false)
			u.op, u.src = uInsertVector, xT
		}
		if l.in.Arg[0].Kind == x86.MMX {
			l.emit(u)
			u = uop{op: uTouchMMX, dst: u.dst}
		}
		l.emit(u)
	}
}

// opInsertGPR replaces imm bits of v[dst], from bit number shift, by r[src].
func (c *CPU) opInsertGPR(u *uop) bool {
	x := &c.fpu.v[u.dst&31]
	*x = x.with(c.r[u.src], 1<<u.imm-1, u.shift)
	return true
}

// opInsertVector does so by v[src].
func (c *CPU) opInsertVector(u *uop) bool {
	x := &c.fpu.v[u.dst&31]
	*x = x.with(c.fpu.v[u.src&31].lo, 1<<u.imm-1, u.shift)
	return true
}

// opTouchMMX completes an instruction that wrote the significand of v[dst].
func (c *CPU) opTouchMMX(u *uop) bool {
	c.fpu.setMMX(u.dst, c.fpu.v[u.dst&31].lo)
	return true
}

func lowerInsertPS(l *lowerer) {
	l.needSSE()
	imm := uint8(l.in.Imm)
	if l.in.Arg[1].Kind == x86.MemOp {
		imm &^= 0xc0 // memory has one lane only
	}
	src := l.vector(1, false)
	l.compute(uop{fn: opInsertPS, dst: l.in.Arg[0].Reg, src: src, imm: uint64(imm)})
}

var opInsertPS = number(opWide(func(a, b vec, imm uint8) vec {
	a = a.with(b.lane32(imm>>6), 0xffff_ffff, imm>>4&3*32)
	return blend(a, vec{}, spreadMask(imm, 32), spreadMask(imm>>2, 32))
}))

// extractLane lowers PEXTR: a lane of w bits to a general register, extended by zeros, or memory.
func extractLane(w uint8) lowerFunc {
	return func(l *lowerer) {
		l.need()
		to := l.in.Arg[0]
		u := uop{op: uExtract, dst: to.Reg, src: l.vector(1, true), imm: 1<<w - 1, shift: l.lane(1, w)}
		if l.in.Arg[1].Kind == x86.MMX {
			l.emit(uop{op: uEnterMMX})
		}
		if to.Kind == x86.MemOp {
			u.dst = t0
			l.emit(u)
			u = uop{op: uStoreLane, src: t0, imm: uint64(w / 8)}
			l.address(&u, w/8, writeFirst)
		}
		l.emit(u)
	}
}

// opEnterMMX is for instructions that only read MMX registers.
func (c *CPU) opEnterMMX(*uop) bool {
	c.fpu.enterMMX()
	return true
}

// opExtract: r[dst] = v[src] from bit number shift on, and imm.
func (c *CPU) opExtract(u *uop) bool {
	c.r[u.dst] = shiftBytesRight(c.fpu.v[u.src&31], u.shift/8).lo & u.imm
	return true
}

// opStoreLane stores the low imm bytes of r[src].
func (c *CPU) opStoreLane(u *uop) bool { return c.store(c.ea(u), c.r[u.src], uint8(u.imm)) }

// toGPR lowers what makes a number out of a vector.
func toGPR(f func(v vec) uint64) lowerFunc {
	xmm := number(func(c *CPU, u *uop) bool {
		c.r[u.dst] = f(c.fpu.v[u.src&31])
		return true
	})
	mmx := number(func(c *CPU, u *uop) bool {
		c.fpu.enterMMX()
		c.r[u.dst] = f(vec{c.fpu.v[u.src&31].lo, 0})
		return true
	})
	return func(l *lowerer) {
		fn := xmm
		if l.in.Arg[1].Kind == x86.MMX {
			fn = mmx
		}
		l.need()
		l.compute(uop{fn: fn, dst: l.in.Arg[0].Reg, src: l.vector(1, true)})
	}
}

// opLowHalves: v[dst] is the low halves of itself and v[src].
func (c *CPU) opLowHalves(u *uop) bool {
	c.fpu.v[u.dst&31].hi = c.fpu.v[u.src&31].lo
	return true
}

// opHighHalves: v[dst] is the high halves of itself and v[src].
func (c *CPU) opHighHalves(u *uop) bool {
	x, y := &c.fpu.v[u.dst&31], &c.fpu.v[u.src&31]
	x.lo, x.hi = x.hi, y.hi
	return true
}

// opShuffle32: v[dst] is made of the lanes of v[src] that the pairs of bits of imm select.
func (c *CPU) opShuffle32(u *uop) bool {
	y, n := c.fpu.v[u.src&31], uint8(u.imm)
	c.fpu.v[u.dst&31] = vec{y.lane32(n) | y.lane32(n>>2)<<32, y.lane32(n>>4) | y.lane32(n>>6)<<32}
	return true
}

// opTestV is PTEST: ZF if v[dst] & v[src] is 0, CF if ^v[dst] & v[src] is.
func (c *CPU) opTestV(u *uop) bool {
	x, y := c.fpu.v[u.dst&31], c.fpu.v[u.src&31]
	var f uint64
	if x.lo&y.lo|x.hi&y.hi == 0 {
		f = flagZF
	}
	if y.lo&^x.lo|y.hi&^x.hi == 0 {
		f |= flagCF
	}
	c.setArith(f)
	return true
}
