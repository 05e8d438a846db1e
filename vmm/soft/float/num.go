package float

import "math/bits"

// num is a value of any format, unpacked.
type num struct {
	// sig of a finite number has bit 63 set: the value is sig / 2^63 * 2^exp. That of a NaN is its significand, aligned
	// to bit 63 and with the integer bit.
	sig uint64
	exp int32
	class
	neg bool
}

// class is in the order in which it matters: whether one operand is at least quiet is the first
// question of most operations. Denormals, in spite of the name, are normalized like other numbers; the class is for DE.
type class uint8

const (
	zero class = iota
	denormal
	normal
	infinite
	quiet
	signalling
	unsupported // an encoding of F80 without a meaning (SDM vol. 1, 8.2.2)
)

// finite tells whether n is a finite number other than zero.
func (n num) finite() bool { return n.class == denormal || n.class == normal }

const (
	integerBit = 1 << 63
	quietBit   = 1 << 62
)

// format describes the destination of an operation.
type format struct {
	prec uint  // bits of a significand, integer bit included
	bias int32 // also the largest exponent
	x87  bool  // extended format: x87's rule for NaNs, and scaled results
}

var (
	single   = &format{prec: 24, bias: 127}
	double   = &format{prec: 53, bias: 1023}
	extended = &format{prec: 64, bias: 16383, x87: true}

	// byPrecision has what Precision makes of the extended format: fewer bits, the same exponents.
	byPrecision = [4]*format{
		{prec: 24, bias: 16383, x87: true},
		extended,
		{prec: 53, bias: 16383, x87: true},
		extended,
	}
)

// special is the exponent field of infinities and NaNs.
func (f *format) special() int32 { return 2*f.bias + 1 }

// raw is a result: sign, exponent field, and significand aligned to bit 63, with its integer bit.
type raw struct {
	sig uint64
	exp int32
	neg bool
}

func (f *format) zero(neg bool) raw     { return raw{neg: neg} }
func (f *format) infinity(neg bool) raw { return raw{integerBit, f.special(), neg} }
func (f *format) indefinite() raw       { return raw{integerBit | quietBit, f.special(), true} }
func (f *format) quieted(n num) raw     { return raw{n.sig | quietBit, f.special(), n.neg} }

func unpack32(x uint32, daz bool) num {
	n := num{sig: uint64(x)<<40 | integerBit, exp: int32(x>>23&0xff) - 127, class: normal, neg: x>>31 != 0}
	if normal32(x) {
		return n
	}
	return n.irregular(single, daz)
}

func unpack64(x uint64, daz bool) num {
	n := num{sig: x<<11 | integerBit, exp: int32(x>>52&0x7ff) - 1023, class: normal, neg: x>>63 != 0}
	if normal64(x) {
		return n
	}
	return n.irregular(double, daz)
}

// irregular completes a number unpacked from the least or the greatest exponent of format single or double.
func (n num) irregular(f *format, daz bool) num {
	if n.exp > 0 {
		n.class = classSpecial(n.sig)
		return n
	}
	if daz {
		n.sig = integerBit
	}
	return n.small(n.sig&^integerBit, f)
}

// small completes a number whose exponent field is 0.
func (n num) small(frac uint64, f *format) num {
	n.class = zero
	if frac != 0 {
		z := bits.LeadingZeros64(frac)
		n.sig, n.exp, n.class = frac<<z, 1-f.bias-int32(z), denormal
	}
	return n
}

// classSpecial tells infinities and NaNs apart by a significand with the integer bit set.
func classSpecial(sig uint64) class {
	switch {
	case sig == integerBit:
		return infinite
	case sig&quietBit != 0:
		return quiet
	}
	return signalling
}

// width is the number of bits in a value of format single or double.
func (f *format) width() uint {
	if f.prec == 24 {
		return 32
	}
	return 64
}

// pack is r as a value of format single or double.
func (f *format) pack(r raw) uint64 {
	x := r.sig&^integerBit>>(64-f.prec) | uint64(r.exp)<<(f.prec-1)
	if r.neg {
		x |= 1 << (f.width() - 1)
	}
	return x
}

// round makes a result of the exact value (sig + lo/2^64) / 2^63 * 2^exp, in which bit 63 of sig is set.
// The last bit of lo stands for all that is below it, too.
func (e *Env) round(neg bool, exp int32, sig, lo uint64, f *format) raw {
	exp += f.bias
	if exp <= 0 {
		return e.roundTiny(neg, exp, sig, lo, f)
	}
	sig, up, inexact := e.Round.cut(neg, sig, lo, 64-f.prec)
	if up && sig == 0 {
		sig, exp = integerBit, exp+1
	}
	if exp >= f.special() {
		return e.overflow(raw{sig, exp, neg}, up, inexact, f)
	}
	if inexact {
		e.Flags |= PE
		e.C1 = up
	}
	return raw{sig, exp, neg}
}

// overflow is what becomes of r, whose exponent is too large (SDM vol. 1, 4.9.1.4).
func (e *Env) overflow(r raw, up, inexact bool, f *format) raw {
	if e.raise(OE) {
		r.exp -= f.scaled()
		if f.x87 && r.exp >= f.special() { // only FSCALE gets so far
			e.Flags |= PE
			e.C1 = true
			return f.infinity(r.neg)
		}
		if inexact {
			e.Flags |= PE
			e.C1 = up
		}
		return r
	}
	e.Flags |= PE
	e.C1 = e.away(r.neg)
	if e.C1 {
		return f.infinity(r.neg)
	}
	return raw{^uint64(0) << (64 - f.prec), f.special() - 1, r.neg}
}

// away tells whether an overflow goes to infinity.
func (e *Env) away(neg bool) bool {
	switch e.Round {
	case Down:
		return neg
	case Up:
		return !neg
	}
	return e.Round == Nearest
}

// roundTiny is round for a biased exponent below 1. Whether a result is tiny is found out after rounding to
// the full precision (SDM vol. 1, 4.9.1.5).
func (e *Env) roundTiny(neg bool, exp int32, sig, lo uint64, f *format) raw {
	full, up, inexact := e.Round.cut(neg, sig, lo, 64-f.prec)
	carry := up && full == 0
	switch {
	case carry && exp == 0:
		e.Flags |= PE
		e.C1 = true
		return raw{integerBit, 1, neg}
	case e.Mask&UE == 0:
		e.Flags |= UE
		if carry {
			full, exp = integerBit, exp+1
		}
		exp += f.scaled()
		if f.x87 && exp <= 0 { // only FSCALE gets so far
			e.Flags |= PE
			return f.zero(neg)
		}
		if inexact {
			e.Flags |= PE
			e.C1 = up
		}
		return raw{full, exp, neg}
	case e.FTZ:
		e.Flags |= UE | PE
		return f.zero(neg)
	}
	sig, lo = shiftRight(sig, lo, uint(1-exp))
	sig, up, inexact = e.Round.cut(neg, sig, lo, 64-f.prec)
	if inexact {
		e.Flags |= UE | PE
		e.C1 = up
	}
	return raw{sig, int32(sig >> 63), neg}
}

// scaled is what unmasked overflow and underflow take off, and add to, the exponent of a result
// in an x87 register (SDM vol. 1, 8.5.4 and 8.5.5).
func (f *format) scaled() int32 {
	if f.x87 {
		return 24576
	}
	return 0
}

// cut rounds sig + lo/2^64 to a multiple of 2^n, n < 64. If that is 2^64, the result is 0 and up is true.
func (r Rounding) cut(neg bool, sig, lo uint64, n uint) (rounded uint64, up, inexact bool) {
	rest := lo
	if n != 0 {
		rest = sig<<(64-n) | lo>>n
		if lo<<(64-n) != 0 {
			rest |= 1
		}
		sig = sig >> n << n
	}
	if rest == 0 {
		return sig, false, false
	}
	switch r {
	case Nearest:
		const half = 1 << 63
		up = rest > half || rest == half && sig>>n&1 != 0
	case Down:
		up = neg
	case Up:
		up = !neg
	}
	if up {
		sig += 1 << n
	}
	return sig, up, true
}

// shiftRight shifts hi:lo by n. Bits that fall out stay in the last one.
func shiftRight(hi, lo uint64, n uint) (uint64, uint64) {
	var lost uint64
	switch {
	case n == 0:
		return hi, lo
	case n < 64:
		lost, lo, hi = lo<<(64-n), hi<<(64-n)|lo>>n, hi>>n
	case n < 128:
		n -= 64
		lost, lo, hi = lo|hi<<(64-n), hi>>n, 0
	default:
		lost, lo, hi = hi|lo, 0, 0
	}
	if lost != 0 {
		lo |= 1
	}
	return hi, lo
}
