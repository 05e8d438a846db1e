package float

import "math/bits"

// wide is a number of 128 bits, (hi + lo/2^64) / 2^63 * 2^exp with bit 63 of hi set, or zero with hi = 0. Results are truncated;
// what is lost stays in the last bit, so that a result is exact only if it says so. A chain of a hundred operations is good to
// more than 115 bits.
type wide struct {
	hi, lo uint64
	exp    int32
	neg    bool
}

var wideOne = wide{hi: integerBit}

// widen is a finite n or zero as a wide.
func (n num) widen() wide {
	if n.class == zero {
		return wide{neg: n.neg}
	}
	return wide{hi: n.sig, exp: n.exp, neg: n.neg}
}

// normalize moves the first bit of hi:lo to where it belongs.
func (a wide) normalize() wide {
	if a.hi == 0 {
		if a.lo == 0 {
			return wide{}
		}
		a.hi, a.lo, a.exp = a.lo, 0, a.exp-64
	}
	z := bits.LeadingZeros64(a.hi)
	a.hi, a.lo, a.exp = a.hi<<z|a.lo>>(64-z), a.lo<<z, a.exp-int32(z)
	return a
}

func (a wide) negate() wide {
	a.neg = !a.neg
	return a
}

func (a wide) add(b wide) wide {
	if a.hi == 0 {
		return b
	}
	if b.hi == 0 {
		return a
	}
	if a.exp < b.exp {
		a, b = b, a
	}
	hi, lo := shiftRight(b.hi, b.lo, uint(a.exp-b.exp))
	var carry uint64
	if a.neg == b.neg {
		a.lo, carry = bits.Add64(a.lo, lo, 0)
		a.hi, carry = bits.Add64(a.hi, hi, carry)
		if carry != 0 {
			a.hi, a.lo = shiftRight(a.hi, a.lo, 1)
			a.hi |= integerBit
			a.exp++
		}
		return a
	}
	a.lo, carry = bits.Sub64(a.lo, lo, 0)
	a.hi, carry = bits.Sub64(a.hi, hi, carry)
	if carry != 0 {
		a.lo, carry = bits.Sub64(0, a.lo, 0)
		a.hi, _ = bits.Sub64(0, a.hi, carry)
		a.neg = !a.neg
	}
	return a.normalize()
}

func (a wide) sub(b wide) wide { return a.add(b.negate()) }

func (a wide) mul(b wide) wide {
	if a.hi == 0 || b.hi == 0 {
		return wide{}
	}
	h3, h2 := bits.Mul64(a.hi, b.hi)
	m2, m1 := bits.Mul64(a.hi, b.lo)
	n2, n1 := bits.Mul64(a.lo, b.hi)
	l1, l0 := bits.Mul64(a.lo, b.lo)
	r1, c := bits.Add64(m1, n1, 0)
	r2, c := bits.Add64(h2, m2, c)
	h3 += c
	r1, c = bits.Add64(r1, l1, 0)
	r2, c = bits.Add64(r2, n2, c)
	h3 += c
	if r1|l0 != 0 {
		r2 |= 1
	}
	return wide{h3, r2, a.exp + b.exp + 1, a.neg != b.neg}.normalize()
}

// over divides by a small integer.
func (a wide) over(n uint64) wide {
	var r uint64
	a.hi, r = bits.Div64(0, a.hi, n)
	a.lo, r = bits.Div64(r, a.lo, n)
	// The quotient has as many bits less as n has; what follows takes their place.
	low, r := bits.Div64(r, 0, n)
	z := uint(bits.LeadingZeros64(a.hi))
	a = a.normalize()
	a.lo |= low >> (64 - z)
	if low<<z|r != 0 {
		a.lo |= 1
	}
	return a
}

// div divides bit by bit. b is not zero.
func (a wide) div(b wide) wide {
	if a.hi == 0 {
		return wide{}
	}
	q := wide{exp: a.exp - b.exp, neg: a.neg != b.neg}
	if a.hi < b.hi || a.hi == b.hi && a.lo < b.lo {
		q.exp--
	} else {
		a.hi, a.lo = subtract(a, b)
		q.lo = 1
	}
	for q.hi&integerBit == 0 {
		out := a.hi >> 63
		a.hi, a.lo = a.hi<<1|a.lo>>63, a.lo<<1
		q.hi, q.lo = q.hi<<1|q.lo>>63, q.lo<<1
		if out != 0 || a.hi > b.hi || a.hi == b.hi && a.lo >= b.lo {
			a.hi, a.lo = subtract(a, b)
			q.lo |= 1
		}
	}
	if a.hi|a.lo != 0 {
		q.lo |= 1
	}
	return q
}

// subtract is the difference of two magnitudes with the same exponent, modulo 2^128.
func subtract(a, b wide) (hi, lo uint64) {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ = bits.Sub64(a.hi, b.hi, borrow)
	return hi, lo
}
