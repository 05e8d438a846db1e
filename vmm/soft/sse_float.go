package soft

import (
	"math"

	"ftvm/vmm/soft/float"
	"ftvm/vmm/soft/x86"
)

// vecOp computes a vector from two, of which a is the destination's old content, and an immediate. It adds the
// exceptions that it meets to e.
type vecOp = func(e *float.Env, a, b vec, imm uint8) vec

// compute is f with MXCSR. If it meets an exception that is not masked, it sets stop and returns false (SDM vol. 1, 11.5.3).
func (c *CPU) compute(f vecOp, a, b vec, imm uint8) (vec, bool) {
	e := &c.fpu.sse
	if e.Mask == float.All {
		return f(e, a, b, imm), true
	}
	before := e.Flags
	e.Flags = 0
	v := f(e, a, b, imm)
	met := e.Flags
	if met&^e.Mask&float.Pre != 0 {
		// One lane's such exception keeps all lanes from being computed.
		met &= float.Pre
	}
	e.Flags = before | met
	if met&^e.Mask == 0 {
		return v, true
	}
	if c.cr4&cr4OSXMMEXCPT == 0 {
		return v, c.fault(excUD)
	}
	return v, c.fault(excXM)
}

func opFloat(f vecOp) uopFunc {
	return func(c *CPU, u *uop) bool {
		x := &c.fpu.v[u.dst&31]
		v, ok := c.compute(f, *x, c.fpu.v[u.src&31], uint8(u.imm))
		if ok {
			*x = v
		}
		return ok
	}
}

// floatOp lowers an instruction of floating-point arithmetic.
func floatOp(f vecOp) lowerFunc { return vectorOp(opFloat(f), nil) }

// Operations on one lane.
type (
	op32 = func(e *float.Env, a, b uint32) uint32
	op64 = func(e *float.Env, a, b uint64) uint64
)

func scalar32(f op32) vecOp {
	return func(e *float.Env, a, b vec, _ uint8) vec {
		return vec{a.lo&^0xffff_ffff | uint64(f(e, uint32(a.lo), uint32(b.lo))), a.hi}
	}
}

func scalar64(f op64) vecOp {
	return func(e *float.Env, a, b vec, _ uint8) vec { return vec{f(e, a.lo, b.lo), a.hi} }
}

// two applies f to both 32-bit lanes of a word.
func two(e *float.Env, f op32, a, b uint64) uint64 {
	lo := f(e, uint32(a), uint32(b))
	return uint64(lo) | uint64(f(e, uint32(a>>32), uint32(b>>32)))<<32
}

func packed32(f op32) vecOp {
	return func(e *float.Env, a, b vec, _ uint8) vec { return vec{two(e, f, a.lo, b.lo), two(e, f, a.hi, b.hi)} }
}

func packed64(f op64) vecOp {
	return func(e *float.Env, a, b vec, _ uint8) vec {
		lo := f(e, a.lo, b.lo)
		return vec{lo, f(e, a.hi, b.hi)}
	}
}

func sqrt32(e *float.Env, _, b uint32) uint32 { return e.Sqrt32(b) }
func sqrt64(e *float.Env, _, b uint64) uint64 { return e.Sqrt64(b) }

// floatVectorLowering has the floating-point arithmetic of SSE.
var floatVectorLowering = []lowerEntry{
	{x86.ADDPS, floatOp(packed32((*float.Env).Add32))},
	{x86.ADDPD, floatOp(packed64((*float.Env).Add64))},
	{x86.ADDSS, floatOp(scalar32((*float.Env).Add32))},
	{x86.ADDSD, vectorOp((*CPU).opAddSD, nil)},
	{x86.SUBPS, floatOp(packed32((*float.Env).Sub32))},
	{x86.SUBPD, floatOp(packed64((*float.Env).Sub64))},
	{x86.SUBSS, floatOp(scalar32((*float.Env).Sub32))},
	{x86.SUBSD, vectorOp((*CPU).opSubSD, nil)},
	{x86.MULPS, floatOp(packed32((*float.Env).Mul32))},
	{x86.MULPD, floatOp(packed64((*float.Env).Mul64))},
	{x86.MULSS, floatOp(scalar32((*float.Env).Mul32))},
	{x86.MULSD, vectorOp((*CPU).opMulSD, nil)},
	{x86.DIVPS, floatOp(packed32((*float.Env).Div32))},
	{x86.DIVPD, floatOp(packed64((*float.Env).Div64))},
	{x86.DIVSS, floatOp(scalar32((*float.Env).Div32))},
	{x86.DIVSD, vectorOp((*CPU).opDivSD, nil)},
	{x86.MINPS, floatOp(packed32((*float.Env).Min32))},
	{x86.MINPD, floatOp(packed64((*float.Env).Min64))},
	{x86.MINSS, floatOp(scalar32((*float.Env).Min32))},
	{x86.MINSD, floatOp(scalar64((*float.Env).Min64))},
	{x86.MAXPS, floatOp(packed32((*float.Env).Max32))},
	{x86.MAXPD, floatOp(packed64((*float.Env).Max64))},
	{x86.MAXSS, floatOp(scalar32((*float.Env).Max32))},
	{x86.MAXSD, floatOp(scalar64((*float.Env).Max64))},
	{x86.SQRTPS, floatOp(packed32(sqrt32))},
	{x86.SQRTPD, floatOp(packed64(sqrt64))},
	{x86.SQRTSS, floatOp(scalar32(sqrt32))},
	{x86.SQRTSD, floatOp(scalar64(sqrt64))},
	{x86.RCPPS, floatOp(packed32(reciprocal))},
	{x86.RCPSS, floatOp(scalar32(reciprocal))},
	{x86.RSQRTPS, floatOp(packed32(reciprocalRoot))},
	{x86.RSQRTSS, floatOp(scalar32(reciprocalRoot))},

	{x86.CMPPS, floatOp(func(e *float.Env, a, b vec, imm uint8) vec {
		return vec{compare32(e, a.lo, b.lo, imm), compare32(e, a.hi, b.hi, imm)}
	})},
	{x86.CMPPD, floatOp(func(e *float.Env, a, b vec, imm uint8) vec {
		return vec{compare64(e, a.lo, b.lo, imm), compare64(e, a.hi, b.hi, imm)}
	})},
	{x86.CMPSS, floatOp(func(e *float.Env, a, b vec, imm uint8) vec {
		return a.with(compare32(e, a.lo&0xffff_ffff, b.lo&0xffff_ffff, imm), 0xffff_ffff, 0)
	})},
	{x86.CMPSD, floatOp(func(e *float.Env, a, b vec, imm uint8) vec { return vec{compare64(e, a.lo, b.lo, imm), a.hi} })},
	{x86.COMISS, compareScalar(func(e *float.Env, a, b vec) float.Relation { return e.Compare32(uint32(a.lo), uint32(b.lo)) })},
	{x86.COMISD, compareScalar(func(e *float.Env, a, b vec) float.Relation { return e.Compare64(a.lo, b.lo) })},
	{x86.UCOMISS, compareScalar(func(e *float.Env, a, b vec) float.Relation { return e.CompareQuiet32(uint32(a.lo), uint32(b.lo)) })},
	{x86.UCOMISD, vectorOp((*CPU).opUComiSD, nil)},

	{x86.ROUNDPS, floatOp(func(e *float.Env, _, b vec, imm uint8) vec { return vec{round32(e, b.lo, imm), round32(e, b.hi, imm)} })},
	{x86.ROUNDPD, floatOp(func(e *float.Env, _, b vec, imm uint8) vec { return vec{round64(e, b.lo, imm), round64(e, b.hi, imm)} })},
	{x86.ROUNDSS, floatOp(func(e *float.Env, a, b vec, imm uint8) vec {
		return a.with(round32(e, b.lo&0xffff_ffff, imm), 0xffff_ffff, 0)
	})},
	{x86.ROUNDSD, floatOp(func(e *float.Env, a, b vec, imm uint8) vec { return vec{round64(e, b.lo, imm), a.hi} })},

	{x86.ADDSUBPS, floatOp(func(e *float.Env, a, b vec, _ uint8) vec {
		return vec{addSub32(e, a.lo, b.lo), addSub32(e, a.hi, b.hi)}
	})},
	{x86.ADDSUBPD, floatOp(func(e *float.Env, a, b vec, _ uint8) vec {
		lo := e.Sub64(a.lo, b.lo)
		return vec{lo, e.Add64(a.hi, b.hi)}
	})},
	{x86.HADDPS, floatOp(horizontal32((*float.Env).Add32))},
	{x86.HADDPD, floatOp(horizontal64((*float.Env).Add64))},
	{x86.HSUBPS, floatOp(horizontal32((*float.Env).Sub32))},
	{x86.HSUBPD, floatOp(horizontal64((*float.Env).Sub64))},
	{x86.DPPS, vectorOp(opDotProduct(products32, horizontal32((*float.Env).Add32), 2,
		func(imm uint8) (lo, hi uint64) { return spreadMask(imm, 32), spreadMask(imm>>2, 32) }), nil)},
	{x86.DPPD, vectorOp(opDotProduct(products64, horizontal64((*float.Env).Add64), 1,
		func(imm uint8) (lo, hi uint64) { return spreadMask(imm, 64), spreadMask(imm>>1, 64) }), nil)},
}

// opAddSD is ADDSD. What is like it follows.
func (c *CPU) opAddSD(u *uop) bool {
	e := &c.fpu.sse
	if e.Mask != float.All {
		return opAddSDTrap(c, u)
	}
	x := &c.fpu.v[u.dst&31]
	x.lo = e.Add64(x.lo, c.fpu.v[u.src&31].lo)
	return true
}

func (c *CPU) opSubSD(u *uop) bool {
	e := &c.fpu.sse
	if e.Mask != float.All {
		return opSubSDTrap(c, u)
	}
	x := &c.fpu.v[u.dst&31]
	x.lo = e.Sub64(x.lo, c.fpu.v[u.src&31].lo)
	return true
}

func (c *CPU) opMulSD(u *uop) bool {
	e := &c.fpu.sse
	if e.Mask != float.All {
		return opMulSDTrap(c, u)
	}
	x := &c.fpu.v[u.dst&31]
	x.lo = e.Mul64(x.lo, c.fpu.v[u.src&31].lo)
	return true
}

func (c *CPU) opDivSD(u *uop) bool {
	e := &c.fpu.sse
	if e.Mask != float.All {
		return opDivSDTrap(c, u)
	}
	x := &c.fpu.v[u.dst&31]
	x.lo = e.Div64(x.lo, c.fpu.v[u.src&31].lo)
	return true
}

var (
	opAddSDTrap = opFloat(scalar64((*float.Env).Add64))
	opSubSDTrap = opFloat(scalar64((*float.Env).Sub64))
	opMulSDTrap = opFloat(scalar64((*float.Env).Mul64))
	opDivSDTrap = opFloat(scalar64((*float.Env).Div64))
)

// predicate tells whether CMPPS and its like fill a lane; bits 2:0 of imm say for which relations (SDM vol. 2A, table 3-1).
func predicate(r float.Relation, imm uint8) bool {
	var v bool
	switch imm & 3 {
	case 0:
		v = r == float.Equal
	case 1:
		v = r == float.Less
	case 2:
		v = r == float.Less || r == float.Equal
	case 3:
		v = r == float.Unordered
	}
	return v != (imm&4 != 0)
}

// signals tells whether the predicate is invalid for quiet NaNs, too.
func signals(imm uint8) bool { return imm&3 == 1 || imm&3 == 2 }

func compare64(e *float.Env, a, b uint64, imm uint8) (v uint64) {
	var r float.Relation
	if signals(imm) {
		r = e.Compare64(a, b)
	} else {
		r = e.CompareQuiet64(a, b)
	}
	if predicate(r, imm) {
		v = ^uint64(0)
	}
	return v
}

// compare32 compares two lanes.
func compare32(e *float.Env, a, b uint64, imm uint8) (v uint64) {
	for i := 0; i < 64; i += 32 {
		var r float.Relation
		if signals(imm) {
			r = e.Compare32(uint32(a>>i), uint32(b>>i))
		} else {
			r = e.CompareQuiet32(uint32(a>>i), uint32(b>>i))
		}
		if predicate(r, imm) {
			v |= 0xffff_ffff << i
		}
	}
	return v
}

// relationFlags are fr and fc for the flags of COMISD: CF if less, ZF if equal, these and PF if unordered.
var relationFlags = [4]struct{ fr, fc uint64 }{
	float.Less: {1, 3 << 62}, float.Equal: {0, 0}, float.Greater: {1, 0}, float.Unordered: {0, 3<<62 | 1},
}

func (c *CPU) setRelation(r float.Relation) {
	f := &relationFlags[r&3]
	c.fr, c.fc, c.fs = f.fr, f.fc, fsExplicit
}

// compareScalar lowers a comparison that sets the flags.
func compareScalar(f func(e *float.Env, a, b vec) float.Relation) lowerFunc {
	return vectorOp(opCompare(f), nil)
}

func opCompare(f func(e *float.Env, a, b vec) float.Relation) uopFunc {
	relation := func(e *float.Env, a, b vec, _ uint8) vec { return vec{uint64(f(e, a, b)), 0} }
	return func(c *CPU, u *uop) bool {
		r, ok := c.compute(relation, c.fpu.v[u.dst&31], c.fpu.v[u.src&31], 0)
		if ok {
			c.setRelation(float.Relation(r.lo))
		}
		return ok
	}
}

// opUComiSD is UCOMISD.
func (c *CPU) opUComiSD(u *uop) bool {
	e := &c.fpu.sse
	if e.Mask != float.All {
		return opUComiSDTrap(c, u)
	}
	c.setRelation(e.CompareQuiet64(c.fpu.v[u.dst&31].lo, c.fpu.v[u.src&31].lo))
	return true
}

var opUComiSDTrap = opCompare(func(e *float.Env, a, b vec) float.Relation { return e.CompareQuiet64(a.lo, b.lo) })

// rounding is what the immediate of ROUNDPS and its like says (SDM vol. 2B, figure 4-24).
func rounding(e *float.Env, imm uint8) (mode float.Rounding, exact bool) {
	mode = float.Rounding(imm & 3)
	if imm&4 != 0 {
		mode = e.Round
	}
	return mode, imm&8 == 0
}

// round32 rounds two lanes.
func round32(e *float.Env, b uint64, imm uint8) uint64 {
	mode, exact := rounding(e, imm)
	lo := e.RoundInt32(uint32(b), mode, exact)
	return uint64(lo) | uint64(e.RoundInt32(uint32(b>>32), mode, exact))<<32
}

func round64(e *float.Env, b uint64, imm uint8) uint64 {
	mode, exact := rounding(e, imm)
	return e.RoundInt64(b, mode, exact)
}

func addSub32(e *float.Env, a, b uint64) uint64 {
	lo := e.Sub32(uint32(a), uint32(b))
	return uint64(lo) | uint64(e.Add32(uint32(a>>32), uint32(b>>32)))<<32
}

func horizontal32(f op32) vecOp {
	pair := func(e *float.Env, v uint64) uint64 { return uint64(f(e, uint32(v), uint32(v>>32))) }
	return func(e *float.Env, a, b vec, _ uint8) vec {
		return vec{pair(e, a.lo) | pair(e, a.hi)<<32, pair(e, b.lo) | pair(e, b.hi)<<32}
	}
}

func horizontal64(f op64) vecOp {
	return func(e *float.Env, a, b vec, _ uint8) vec { return vec{f(e, a.lo, a.hi), f(e, b.lo, b.hi)} }
}

// opDotProduct is DPPS and DPPD: products, and then so often sums of neighbours. Each step is done as
// an instruction of its own would be, and may raise an exception before the next one.
func opDotProduct(multiply, add vecOp, sums int, spread func(imm uint8) (lo, hi uint64)) uopFunc {
	return func(c *CPU, u *uop) bool {
		x, imm := &c.fpu.v[u.dst&31], uint8(u.imm)
		v, ok := c.compute(multiply, *x, c.fpu.v[u.src&31], imm)
		for i := 0; ok && i < sums; i++ {
			v, ok = c.compute(add, v, v, 0)
		}
		if ok {
			lo, hi := spread(imm)
			*x = vec{v.lo & lo, v.lo & hi}
		}
		return ok
	}
}

// products32 multiplies the lanes that imm selects; the others are 0.
func products32(e *float.Env, a, b vec, imm uint8) (p vec) {
	for i := range uint8(4) {
		if imm>>(4+i)&1 != 0 {
			p = p.with(uint64(e.Mul32(uint32(a.lane32(i)), uint32(b.lane32(i)))), 0xffff_ffff, 32*i)
		}
	}
	return p
}

func products64(e *float.Env, a, b vec, imm uint8) (p vec) {
	if imm>>4&1 != 0 {
		p.lo = e.Mul64(a.lo, b.lo)
	}
	if imm>>5&1 != 0 {
		p.hi = e.Mul64(a.hi, b.hi)
	}
	return p
}

// reciprocal is RCPSS, reciprocalRoot is RSQRTSS: approximations within 1.5 * 2^-12 (SDM vol. 2B), whose values the
// manual leaves to each CPU. Ours are the quotients of host arithmetic rounded to single precision: a
// function that every host computes alike. They report nothing, read denormals as zeros, and never
// give denormals.

func reciprocal(_ *float.Env, _, b uint32) uint32 {
	return approximate(b, func(x float64) float64 { return 1 / x })
}

func reciprocalRoot(_ *float.Env, _, b uint32) uint32 {
	if b>>31 != 0 && b<<1 >= 2<<23 && b<<1 <= 0xff<<24 {
		return 0xffc0_0000 // negative: the default NaN
	}
	return approximate(b, func(x float64) float64 {
		if x == 0 {
			return 1 / x
		}
		return 1 / math.Sqrt(x)
	})
}

func approximate(b uint32, f func(x float64) float64) uint32 {
	const sign, infinity, quiet, least = 1 << 31, 0xff << 23, 1 << 22, 1 << 23
	switch size := b &^ sign; {
	case size > infinity:
		return b | quiet
	case size < least:
		b &= sign
	}
	r := f(float64(math.Float32frombits(b)))
	if math.Abs(r) <= 0x1p-126 {
		return b & sign
	}
	return math.Float32bits(float32(r))
}
