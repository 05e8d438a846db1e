package float

import "math/bits"

// The transcendental instructions (SDM vol. 1, 8.3.7 to 8.3.10). Results are computed to more than 115 bits (TestSeries) and
// then rounded as RC says, so that hardly one in 2^50 is not the correctly rounded one. Silicon promises an error below one
// unit in the last place, and vendors differ; so some of its results differ from ours by that (TestSilicon counts them).

// Sin80 is FSIN. With ok false, x is out of range: C2 is to be set and nothing else changed.
func (e *Env) Sin80(x F80) (sin F80, ok bool) {
	e.x87()
	n := x.unpack()
	if outOfRange(n) {
		return x, false
	}
	if r, special := e.angle(n, false); special {
		return r, true
	}
	s, _ := sinCos(n)
	return e.irrational(s), true
}

// Cos80 is FCOS.
func (e *Env) Cos80(x F80) (cos F80, ok bool) {
	e.x87()
	n := x.unpack()
	if outOfRange(n) {
		return x, false
	}
	if r, special := e.angle(n, true); special {
		return r, true
	}
	_, c := sinCos(n)
	return e.irrational(c), true
}

// SinCos80 is FSINCOS: the sine replaces ST(0), then the cosine is pushed.
func (e *Env) SinCos80(x F80) (sin, cos F80, ok bool) {
	e.x87()
	n := x.unpack()
	if outOfRange(n) {
		return x, x, false
	}
	if s, special := e.angle(n, false); special {
		c, _ := e.angle(n, true)
		return s, c, true
	}
	// C1 is about the sine.
	s, c := sinCos(n)
	cos = e.irrational(c)
	e.C1 = false
	return e.irrational(s), cos, true
}

// Tan80 is FPTAN; push is what it pushes after the result: 1, or the NaN that the result is.
func (e *Env) Tan80(x F80) (tan, push F80, ok bool) {
	e.x87()
	n := x.unpack()
	if outOfRange(n) {
		return x, x, false
	}
	one := raw{integerBit, extended.bias, false}.f80()
	if r, special := e.angle(n, false); special {
		if n.class != zero {
			one = r
		}
		return r, one, true
	}
	s, c := sinCos(n)
	return e.irrational(s.div(c)), one, true
}

// outOfRange tells whether n is an angle of 2^63 or more.
func outOfRange(n num) bool { return n.class == normal && n.exp >= 63 }

// angle is the sine or cosine of what is special.
func (e *Env) angle(n num, cos bool) (r F80, special bool) {
	switch {
	case n.class >= quiet:
		return e.nan1(n, extended).f80(), true
	case n.class == infinite:
		return e.invalid(extended).f80(), true
	case n.class == zero && cos:
		return raw{integerBit, extended.bias, false}.f80(), true
	case n.class == zero:
		return extended.zero(n.neg).f80(), true
	}
	return F80{}, n.class == denormal && e.raise(DE)
}

// irrational rounds a result that cannot be exact.
func (e *Env) irrational(a wide) F80 { return e.round(a.neg, a.exp, a.hi, a.lo|1, extended).f80() }

// Pi of the trigonometric instructions, in units of 2^-64: it has 66 bits, on all x86 (SDM vol. 1, 8.3.8).
const (
	piHi = 0x3
	piLo = 0x243f6a8885a308d3
)

// sinCos is the sine and cosine of a finite n below 2^63. Its period is twice the pi above.
func sinCos(n num) (sin, cos wide) {
	r, quadrant := reduce(n)
	sin, cos = sinSeries(r), cosSeries(r)
	if quadrant&1 != 0 {
		sin, cos = cos, sin.negate()
	}
	if quadrant&2 != 0 {
		sin, cos = sin.negate(), cos.negate()
	}
	if n.neg {
		sin = sin.negate()
	}
	return sin, cos
}

// reduce takes multiples of pi/2 off |n|, exactly: |n| = r + quadrant * pi/2 with |r| <= pi/4, but for
// multiples of 2 pi.
func reduce(n num) (r wide, quadrant uint) {
	if n.exp < -1 {
		return wide{hi: n.sig, exp: n.exp}, 0
	}
	// In units of 2^-65, pi/2 is the integer piHi:piLo, and |n| is sig << (exp+2).
	hi, lo := uint64(0), n.sig
	for shifts := n.exp + 2; ; shifts-- {
		if hi > piHi || hi == piHi && lo >= piLo {
			var borrow uint64
			lo, borrow = bits.Sub64(lo, piLo, 0)
			hi, _ = bits.Sub64(hi, piHi, borrow)
			quadrant++
		}
		if shifts == 0 {
			break
		}
		hi, lo = hi<<1|lo>>63, lo<<1
		quadrant <<= 1
	}
	r = wide{hi: hi, lo: lo, exp: 62}.normalize()
	rest := wide{hi: piHi, lo: piLo, exp: 62}.normalize().sub(r)
	if r.sub(rest).neg {
		return r, quadrant
	}
	return rest.negate(), quadrant + 1
}

// sinSeries is the sine of |r| <= 1: r - r^3/3! + ...
func sinSeries(r wide) wide {
	z := r.mul(r)
	var t wide
	for k := uint64(16); k > 0; k-- {
		t = z.mul(wideOne.sub(t)).over(2 * k * (2*k + 1))
	}
	return r.sub(r.mul(t))
}

// cosSeries is the cosine of |r| <= 1: 1 - r^2/2! + ...
func cosSeries(r wide) wide {
	z := r.mul(r)
	var t wide
	for k := uint64(16); k > 0; k-- {
		t = z.mul(wideOne.sub(t)).over(2 * k * (2*k - 1))
	}
	return wideOne.sub(t)
}

// atans are the arc tangents of multiples of 1/4.
var atans = [5]wide{
	1: {hi: 0xfadbafc96406eb15, lo: 0x6dc79ef5f7a217e5, exp: -3},
	2: {hi: 0xed63382b0dda7b45, lo: 0x6fe445ecbc3a8d03, exp: -2},
	3: {hi: 0xa4bc7d1934f70924, lo: 0x19a87f2a457dac9e, exp: -1},
	4: widePi(-1),
}

// widePi is pi * 2^(exp-1).
func widePi(exp int32) wide {
	p := constants[Pi]
	p.exp = exp
	return p
}

// Atan80 is FPATAN: the angle of the point (x, y), x from ST(0), y from ST(1).
func (e *Env) Atan80(y, x F80) F80 {
	e.x87()
	a, b := y.unpack(), x.unpack()
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, extended).f80()
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return F80{}
	}
	var angle wide
	switch {
	case a.class == zero || b.class == infinite && a.finite():
		if !b.neg {
			return extended.zero(a.neg).f80()
		}
	case b.class == zero || a.class == infinite && b.finite():
		angle = widePi(0)
		b.neg = false
	case a.class == infinite:
		angle = widePi(-1)
	default:
		u, v := a.widen(), b.widen()
		u.neg, v.neg = false, false
		if u.sub(v).neg {
			angle = arctan(u.div(v))
		} else {
			angle = widePi(0).sub(arctan(v.div(u)))
		}
	}
	if b.neg {
		angle = widePi(1).sub(angle)
	}
	angle.neg = a.neg
	return e.irrational(angle)
}

// arctan is the arc tangent of t, from 0 to 1.
func arctan(t wide) wide {
	// With c the nearest multiple of 1/4: atan(t) = atan(c) + atan((t-c) / (1+t*c)).
	i := 0
	if t.exp >= -3 {
		i = int(t.hi>>uint(60-t.exp)+1) / 2
	}
	if i > 0 {
		c := wide{hi: uint64(i), exp: 61}.normalize()
		t = t.sub(c).div(wideOne.add(t.mul(c)))
	}
	// |t| <= 1/8: t - t^3/3 + t^5/5 ...
	z := t.mul(t)
	var s wide
	for k := uint64(22); k > 0; k-- {
		s = z.mul(wideOne.over(2*k + 1).sub(s))
	}
	return atans[i].add(t.sub(t.mul(s)))
}

// Exp80 is F2XM1: 2^x - 1. Beyond -1 to 1, where it is undefined, it is x.
func (e *Env) Exp80(x F80) F80 {
	e.x87()
	n := x.unpack()
	switch {
	case n.class >= quiet:
		return e.nan1(n, extended).f80()
	case n.class == infinite && n.neg:
		return raw{integerBit, extended.bias, true}.f80()
	case !n.finite():
		return x
	case n.class == denormal && e.raise(DE):
		return F80{}
	case n.exp >= 0:
		e.Flags |= PE
		if n.neg && n.exp == 0 && n.sig == integerBit { // 1/2 - 1
			return raw{integerBit, extended.bias - 1, true}.f80()
		}
		return x // also 2 - 1
	}
	return e.irrational(expM1(n.widen().mul(constants[LnOf2])))
}

// expM1 is e^y - 1 for |y| < 1: y + y^2/2! + y^3/3! + ...
func expM1(y wide) wide {
	var s wide
	for k := uint64(34); k > 1; k-- {
		s = y.mul(wideOne.add(s)).over(k)
	}
	return y.add(y.mul(s))
}

// Log80 is FYL2X: y * log2(x), x from ST(0), y from ST(1).
func (e *Env) Log80(y, x F80) F80 {
	e.x87()
	a, b := y.unpack(), x.unpack()
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, extended).f80()
	}
	isOne := b.class == normal && b.exp == 0 && b.sig == integerBit
	switch {
	case b.neg && b.class != zero,
		a.class == zero && (b.class == zero || b.class == infinite),
		a.class == infinite && isOne:
		return e.invalid(extended).f80()
	case b.class == zero && a.class != infinite:
		e.raise(ZE)
		return extended.infinity(!a.neg).f80()
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return F80{}
	}
	below := b.class == zero || b.finite() && b.exp < 0 // the logarithm is negative
	switch {
	case a.class == infinite || b.class == infinite || b.class == zero:
		return extended.infinity(a.neg != below).f80()
	case a.class == zero:
		return extended.zero(a.neg != below).f80()
	case isOne:
		return extended.zero(a.neg).f80()
	case b.sig == integerBit:
		return e.timesInteger(a, b.exp)
	}
	return e.irrational(a.widen().mul(log2(b.widen())))
}

// timesInteger is a times a logarithm that is an integer. Silicon calls all of these results inexact.
func (e *Env) timesInteger(a num, k int32) F80 {
	r := e.mul(a, unpackInt(int64(k)), extended)
	e.Flags |= PE
	if r.exp == 0 {
		e.Flags |= UE
	}
	return r.f80()
}

// Log1P80 is FYL2XP1: y * log2(x+1), also where Intel's manual leaves it undefined. From -1 down it is x.
func (e *Env) Log1P80(y, x F80) F80 {
	e.x87()
	a, b := y.unpack(), x.unpack()
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, extended).f80()
	}
	if b.class == infinite && b.neg || a.class == zero && b.class == infinite || a.class == infinite && b.class == zero {
		return e.invalid(extended).f80()
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return F80{}
	}
	neg := a.neg != b.neg
	switch {
	case a.class == infinite || b.class == infinite:
		return extended.infinity(neg).f80()
	case a.class == zero || b.class == zero:
		return extended.zero(neg).f80()
	}
	u := b.widen()
	v := wideOne.add(u)
	switch {
	case v.neg || v.hi == 0:
		e.Flags |= PE
		return x
	case b.exp < -2:
		return e.irrational(a.widen().mul(log2Quotient(u, v.add(wideOne))))
	case v.lo == 0 && v.hi == integerBit:
		return e.timesInteger(a, v.exp)
	}
	return e.irrational(a.widen().mul(log2(v)))
}

// log2 is the binary logarithm of v, which is positive and not 1.
func log2(v wide) wide {
	// v = m * 2^k, with m between sqrt(1/2) and sqrt(2).
	k := v.exp
	v.exp = 0
	if v.hi > 0xb504f333f9de6484 {
		v.exp, k = -1, k+1
	}
	return log2Quotient(v.sub(wideOne), v.add(wideOne)).add(unpackInt(int64(k)).widen())
}

// log2Quotient is the binary logarithm of (1+s)/(1-s), with s = p/q between -0.18 and 0.18:
// 2/ln(2) * (s + s^3/3 + s^5/5 ...).
func log2Quotient(p, q wide) wide {
	s := p.div(q)
	z := s.mul(s)
	var t wide
	for k := uint64(26); k > 0; k-- {
		t = z.mul(wideOne.over(2*k + 1).add(t))
	}
	l := s.add(s.mul(t)).mul(constants[Log2E])
	l.exp++
	return l
}
