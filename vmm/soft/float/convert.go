package float

import "math/bits"

// What conversions and comparisons of all formats have in common.

// convert is n in format f.
func (e *Env) convert(n num, f *format) raw {
	if n.class == denormal && e.raise(DE) {
		return raw{}
	}
	return e.store(n, f)
}

// store is convert without DE, which x87 does not report for what it stores.
func (e *Env) store(n num, f *format) raw {
	switch n.class {
	case zero:
		return f.zero(n.neg)
	case denormal, normal:
		return e.round(n.neg, n.exp, n.sig, 0, f)
	case infinite:
		return f.infinity(n.neg)
	}
	return e.nan1(n, f)
}

// unpackInt is i as a num.
func unpackInt(i int64) num {
	return unpackUint(i < 0, magnitude(i))
}

// magnitude is |i|.
func magnitude(i int64) uint64 {
	if i < 0 {
		return -uint64(i)
	}
	return uint64(i)
}

// unpackUint is an integer of sign and magnitude as a num.
func unpackUint(neg bool, m uint64) num {
	if m == 0 {
		return num{neg: neg}
	}
	z := bits.LeadingZeros64(m)
	return num{sig: m << z, exp: 63 - int32(z), class: normal, neg: neg}
}

// integral rounds the magnitude of a finite n or zero to an integer. It must be below 2^64.
func (r Rounding) integral(n num) (m uint64, up, inexact bool) {
	if n.class == zero {
		return 0, false, false
	}
	hi, lo := shiftRight(n.sig, 0, uint(63-n.exp))
	return r.cut(n.neg, hi, lo, 0)
}

// toInt is n as a signed integer of size bits; out of range it is the integer indefinite (SDM
// vol. 1, table 4-1), which is the least integer.
func (e *Env) toInt(n num, size uint, mode Rounding) int64 {
	least := uint64(1) << (size - 1)
	if n.class <= normal && n.exp < 64 {
		m, up, inexact := mode.integral(n)
		if m < least || m == least && n.neg {
			if inexact {
				e.Flags |= PE
				e.C1 = up
			}
			if n.neg {
				m = -m
			}
			return int64(m)
		}
	}
	e.raise(IE)
	return -int64(least)
}

// roundInt is n as an integral value in format f.
func (e *Env) roundInt(n num, mode Rounding, exact bool, f *format) raw {
	if !n.finite() || n.exp >= 63 {
		return e.store(n, f)
	}
	m, up, inexact := mode.integral(n)
	if inexact && exact {
		e.Flags |= PE
		e.C1 = up
	}
	return e.store(unpackUint(n.neg, m), f)
}

// compare finds the relation of a and b. NaNs are invalid from class on, quiet or signalling.
func (e *Env) compare(a, b num, invalid class) Relation {
	if a.class >= quiet || b.class >= quiet {
		if a.class >= invalid || b.class >= invalid {
			e.raise(IE)
		}
		return Unordered
	}
	if a.class == denormal || b.class == denormal {
		e.raise(DE)
	}
	switch {
	case a.class == zero && b.class == zero:
		return Equal
	case a.class == zero:
		return signed(Less, b.neg)
	case b.class == zero || a.neg != b.neg:
		return signed(Greater, a.neg)
	case a.class == infinite && b.class == infinite:
		return Equal
	case a.class == infinite:
		return signed(Greater, a.neg)
	case b.class == infinite:
		return signed(Less, a.neg)
	case a.exp == b.exp && a.sig == b.sig:
		return Equal
	case a.exp != b.exp:
		return signed(less(a.exp < b.exp), a.neg)
	}
	return signed(less(a.sig < b.sig), a.neg)
}

func less(is bool) Relation {
	if is {
		return Less
	}
	return Greater
}

// signed is r for magnitudes that are both of sign neg.
func signed(r Relation, neg bool) Relation {
	if neg {
		return Greater - r
	}
	return r
}
