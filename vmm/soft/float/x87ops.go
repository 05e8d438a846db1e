package float

import "math/bits"

// Quotient is what FPREM and FPREM1 tell of it in C2, C0, C3 and C1.
type Quotient struct {
	// Partial is C2: the operation is to be repeated with its result.
	Partial bool
	// Low are the three low bits of the quotient's magnitude: C0, C3, C1, from the highest. They are 0 if Partial.
	Low uint8
}

// Rem80 is FPREM: a - b*q, always exact, with q truncated; or, with nearest, FPREM1: q rounded to
// nearest, ties to even. C1 is a part of the Quotient.
func (e *Env) Rem80(a, b F80, nearest bool) (F80, Quotient) {
	r, q := e.x87().rem(a.unpack(), b.unpack(), nearest)
	return r.f80(), q
}

func (e *Env) rem(a, b num, nearest bool) (raw, Quotient) {
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, extended), Quotient{}
	}
	if a.class == infinite || b.class == zero {
		return e.invalid(extended), Quotient{}
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return raw{}, Quotient{}
	}
	d := a.exp - b.exp
	if a.class == zero || b.class == infinite || d < -1 {
		return e.store(a, extended), Quotient{}
	}
	if d == -1 {
		// |a| < |b|: the nearest quotient is 1 from |b|/2 on, but for the tie.
		if !nearest || a.sig <= b.sig {
			return e.store(a, extended), Quotient{}
		}
		lo, borrow := bits.Sub64(0, a.sig<<63, 0)
		hi, _ := bits.Sub64(b.sig, a.sig>>1, borrow)
		return e.remainder(wide{hi, lo, b.exp, !a.neg}), Quotient{Low: 1}
	}
	// More than 63 bits of quotient take several steps. Their size is up to the implementation; this is AMD's.
	partial := d >= 64
	step := d
	if partial {
		step = 32 + d%32
	}
	q, r := bits.Div64(a.sig>>(64-step), a.sig<<step, b.sig)
	if partial {
		return e.remainder(wide{r, 0, b.exp + d - step, a.neg}), Quotient{Partial: true}
	}
	if rest := b.sig - r; nearest && (r > rest || r == rest && q&1 != 0) {
		q, r, a.neg = q+1, rest, !a.neg
	}
	return e.remainder(wide{r, 0, b.exp, a.neg}), Quotient{Low: uint8(q & 7)}
}

// remainder is r, of at most 64 significant bits and not normalized. Zero has its sign, too.
func (e *Env) remainder(r wide) raw {
	if r.hi|r.lo == 0 {
		return extended.zero(r.neg)
	}
	r = r.normalize()
	return e.round(r.neg, r.exp, r.hi, r.lo, extended)
}

// Scale80 is FSCALE: a times 2 to the integer part of b.
func (e *Env) Scale80(a, b F80) F80 { return e.x87().scale(a.unpack(), b.unpack()).f80() }

func (e *Env) scale(a, b num) raw {
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, extended)
	}
	if b.class == infinite && (a.class == infinite && b.neg || a.class == zero && !b.neg) {
		return e.invalid(extended)
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return raw{}
	}
	switch {
	case !a.finite():
		return e.store(a, extended)
	case b.class == infinite && b.neg:
		return extended.zero(a.neg)
	case b.class == infinite:
		return extended.infinity(a.neg)
	}
	// Beyond all exponents, scaled ones included, it does not matter how far.
	const far = 1 << 17
	n := int32(far)
	if b.exp < 17 {
		m, _, _ := Zero.integral(b)
		n = int32(m)
	}
	if b.neg {
		n = -n
	}
	return e.round(a.neg, a.exp+n, a.sig, 0, extended)
}

// Extract80 is FXTRACT. The exponent replaces ST(0), then the significand is pushed.
func (e *Env) Extract80(x F80) (exponent, significand F80) {
	n := x.unpack()
	e.x87()
	switch n.class {
	case zero:
		e.raise(ZE)
		return extended.infinity(true).f80(), x
	case infinite:
		return x.Abs(), x
	case denormal, normal:
		if n.class == denormal {
			e.raise(DE)
		}
		return LoadInt(int64(n.exp)), raw{n.sig, extended.bias, n.neg}.f80()
	}
	r := e.nan1(n, extended).f80()
	return r, r
}

// LoadBCD is FBLD. Digits above 9 count what they are.
func LoadBCD(p *[10]byte) F80 {
	var m int64
	for i := 8; i >= 0; i-- {
		m = m*100 + int64(p[i]>>4)*10 + int64(p[i]&15)
	}
	x := LoadInt(m)
	x.SE |= uint16(p[9]&0x80) << 8
	return x
}

// StoreBCD is FBSTP.
func (e *Env) StoreBCD(x F80) [10]byte {
	const limit = 1_000_000_000_000_000_000
	n := x.unpack()
	e.C1 = false
	if n.class <= normal && n.exp < 63 {
		if m, up, inexact := e.Round.integral(n); m < limit {
			if inexact {
				e.Flags |= PE
				e.C1 = up
			}
			var p [10]byte
			for i := range 9 {
				p[i] = uint8(m/10%10<<4 | m%10)
				m /= 100
			}
			p[9] = uint8(x.SE >> 8 & 0x80)
			return p
		}
	}
	e.raise(IE)
	return [10]byte{7: 0xc0, 8: 0xff, 9: 0xff} // packed BCD indefinite (SDM vol. 1, table 4-4)
}

// Constant is one that an instruction loads.
type Constant uint8

// The constants, in the order of their opcodes: FLD1 is D9 E8.
const (
	One      Constant = iota
	Log2T             // log2(10)
	Log2E             // log2(e)
	Pi                // pi
	Log10Of2          // log10(2)
	LnOf2             // ln(2)
	PlusZero          // +0
)

// constants have what comes behind the 64 bits that the format holds: an instruction rounds them as RC says (SDM vol. 2A,
// FLD1).
var constants = [...]wide{
	One:      {hi: integerBit},
	Log2T:    {hi: 0xd49a784bcd1b8afe, lo: 0x492bf6ff4dafdb4c, exp: 1},
	Log2E:    {hi: 0xb8aa3b295c17f0bb, lo: 0xbe87fed0691d3e88, exp: 0},
	Pi:       {hi: 0xc90fdaa22168c234, lo: 0xc4c6628b80dc1cd1, exp: 1},
	Log10Of2: {hi: 0x9a209a84fbcff798, lo: 0x8f8959ac0b7c9178, exp: -2},
	LnOf2:    {hi: 0xb17217f7d1cf79ab, lo: 0xc9e3b39803f2f6af, exp: -1},
}

// Load is FLD1 to FLDZ. It raises nothing.
func (e *Env) Load(c Constant) F80 {
	if int(c) >= len(constants) {
		return F80{}
	}
	silent := Env{Round: e.Round}
	k := constants[c]
	e.C1 = false
	return silent.round(false, k.exp, k.hi, k.lo, extended).f80()
}
