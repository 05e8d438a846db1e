package float

import (
	"math"
	"math/bits"
)

// The four operations and the square root, on unpacked operands. Each goes through what can be special in the
// order of SDM vol. 1, 4.9.2: invalid operands, quiet NaNs, other invalid operations and
// division by zero, denormal operands.

// nan is the result of an operation with at least one NaN among its operands (SDM vol. 1, 4.8.3.5).
func (e *Env) nan(a, b num, f *format) raw {
	if (a.class > quiet || b.class > quiet) && e.raise(IE) {
		return raw{}
	}
	if !f.x87 {
		if a.class >= quiet {
			return f.quieted(a)
		}
		return f.quieted(b)
	}
	switch {
	case a.class == unsupported || b.class == unsupported:
		return f.indefinite()
	case a.class < quiet:
		return f.quieted(b)
	case b.class < quiet:
		return f.quieted(a)
	case a.class != b.class: // the quiet one
		if a.class == quiet {
			return f.quieted(a)
		}
		return f.quieted(b)
	case a.sig > b.sig || a.sig == b.sig && b.neg:
		return f.quieted(a)
	}
	return f.quieted(b)
}

// nan1 is nan for an operation with one operand.
func (e *Env) nan1(n num, f *format) raw {
	if n.class > quiet {
		e.raise(IE)
	}
	if n.class == unsupported {
		return f.indefinite()
	}
	return f.quieted(n)
}

// invalid is the result of an invalid operation without a NaN among its operands.
func (e *Env) invalid(f *format) raw {
	e.raise(IE)
	return f.indefinite()
}

func (e *Env) add(a, b num, f *format) raw {
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, f)
	}
	if a.class == infinite && b.class == infinite && a.neg != b.neg {
		return e.invalid(f)
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return raw{}
	}
	switch {
	case a.class == infinite:
		return f.infinity(a.neg)
	case b.class == infinite:
		return f.infinity(b.neg)
	case a.class == zero && b.class == zero:
		return f.zero(a.neg && b.neg || a.neg != b.neg && e.Round == Down)
	case a.class == zero:
		return e.round(b.neg, b.exp, b.sig, 0, f)
	case b.class == zero:
		return e.round(a.neg, a.exp, a.sig, 0, f)
	}
	if a.exp < b.exp || a.exp == b.exp && a.sig < b.sig {
		a, b = b, a
	}
	hi, lo := shiftRight(b.sig, 0, uint(a.exp-b.exp))
	if a.neg == b.neg {
		sum, carry := bits.Add64(a.sig, hi, 0)
		if carry != 0 {
			sum, lo = shiftRight(sum, lo, 1)
			sum |= integerBit
			a.exp++
		}
		return e.round(a.neg, a.exp, sum, lo, f)
	}
	lo, borrow := bits.Sub64(0, lo, 0)
	hi, _ = bits.Sub64(a.sig, hi, borrow)
	if hi|lo == 0 {
		return f.zero(e.Round == Down)
	}
	if hi == 0 {
		hi, lo = lo, 0
		a.exp -= 64
	}
	z := bits.LeadingZeros64(hi)
	hi, lo = hi<<z|lo>>(64-z), lo<<z
	return e.round(a.neg, a.exp-int32(z), hi, lo, f)
}

// sub negates b, except a NaN.
func (e *Env) sub(a, b num, f *format) raw {
	if b.class < quiet {
		b.neg = !b.neg
	}
	return e.add(a, b, f)
}

func (e *Env) mul(a, b num, f *format) raw {
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, f)
	}
	if a.class == zero && b.class == infinite || a.class == infinite && b.class == zero {
		return e.invalid(f)
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return raw{}
	}
	neg := a.neg != b.neg
	switch {
	case a.class == zero || b.class == zero:
		return f.zero(neg)
	case a.class == infinite || b.class == infinite:
		return f.infinity(neg)
	}
	exp := a.exp + b.exp + 1
	hi, lo := bits.Mul64(a.sig, b.sig)
	if hi&integerBit == 0 {
		hi, lo, exp = hi<<1|lo>>63, lo<<1, exp-1
	}
	return e.round(neg, exp, hi, lo, f)
}

func (e *Env) div(a, b num, f *format) raw {
	if a.class >= quiet || b.class >= quiet {
		return e.nan(a, b, f)
	}
	if a.class == b.class && (a.class == zero || a.class == infinite) {
		return e.invalid(f)
	}
	neg := a.neg != b.neg
	if a.class != infinite && b.class == zero {
		if e.raise(ZE) {
			return raw{}
		}
		return f.infinity(neg)
	}
	if (a.class == denormal || b.class == denormal) && e.raise(DE) {
		return raw{}
	}
	switch {
	case a.class == infinite:
		return f.infinity(neg)
	case a.class == zero || b.class == infinite:
		return f.zero(neg)
	}
	exp := a.exp - b.exp
	rem, next := a.sig, uint64(0)
	if a.sig >= b.sig {
		rem, next = a.sig>>1, a.sig<<63
	} else {
		exp--
	}
	hi, rem := bits.Div64(rem, next, b.sig)
	lo, rem := bits.Div64(rem, 0, b.sig)
	if rem != 0 {
		lo |= 1
	}
	return e.round(neg, exp, hi, lo, f)
}

func (e *Env) sqrt(n num, f *format) raw {
	if n.class >= quiet {
		return e.nan1(n, f)
	}
	if n.neg && n.class != zero {
		return e.invalid(f)
	}
	if n.class == denormal && e.raise(DE) {
		return raw{}
	}
	switch n.class {
	case zero:
		return f.zero(n.neg)
	case infinite:
		return f.infinity(false)
	}
	// sig / 2^63 * 2^exp with an even exponent is N / 2^126 * 2^exp, the root R / 2^63 * 2^(exp/2).
	hi, lo := n.sig>>1, n.sig<<63
	if n.exp&1 != 0 {
		hi, lo = n.sig, 0
	}
	root, rest := sqrt128(hi, lo)
	// The root is R + 1/2 at no N: rest > R tells on which side.
	var below uint64
	switch {
	case rest > root:
		below = 1<<63 | 1
	case rest != 0:
		below = 1
	}
	return e.round(false, n.exp>>1, root, below, f)
}

// sqrt128 is the integer root of hi:lo >= 2^126, and what is left: at most twice the root, of which
// the result has at most 2^64-1: enough to compare it with the root.
func sqrt128(hi, lo uint64) (root, rest uint64) {
	root = ^uint64(0)
	if guess := math.Sqrt(float64(hi)) * (1 << 32); guess < 1<<64 {
		root = uint64(guess)
	}
	// One step of Newton's method takes the 50 good bits to the last one, or one more.
	if hi < root {
		q, _ := bits.Div64(hi, lo, root)
		sum, carry := bits.Add64(root, q, 0)
		root = sum>>1 | carry<<63
	}
	for {
		h, l := bits.Mul64(root, root)
		low, borrow := bits.Sub64(lo, l, 0)
		high, borrow := bits.Sub64(hi, h, borrow)
		// With root^2 <= N, root is right if the rest is at most 2*root, a number of 65 bits.
		switch {
		case borrow != 0:
			root--
		case high > 1 || high == 1 && low > root<<1:
			root++
		case high == 1:
			return root, ^uint64(0)
		default:
			return root, low
		}
	}
}
