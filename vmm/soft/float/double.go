package float

import "math"

// Operations of SSE on binary64. Operand a is the first source, which is also the destination of
// two-operand instructions.

// Add64 is ADDSD.
func (e *Env) Add64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(float64(math.Float64frombits(a) + math.Float64frombits(b)))
		if (normal64(r) || r<<1 == 0) && !denormal64(a) && !denormal64(b) {
			return r
		}
	}
	return double.pack(e.add(unpack64(a, e.DAZ), unpack64(b, e.DAZ), double))
}

// Sub64 is SUBSD.
func (e *Env) Sub64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(float64(math.Float64frombits(a) - math.Float64frombits(b)))
		if (normal64(r) || r<<1 == 0) && !denormal64(a) && !denormal64(b) {
			return r
		}
	}
	return double.pack(e.sub(unpack64(a, e.DAZ), unpack64(b, e.DAZ), double))
}

// Mul64 is MULSD.
func (e *Env) Mul64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(float64(math.Float64frombits(a) * math.Float64frombits(b)))
		if normal64(r) && !denormal64(a) && !denormal64(b) && !least64(r) {
			return r
		}
	}
	return double.pack(e.mul(unpack64(a, e.DAZ), unpack64(b, e.DAZ), double))
}

// Div64 is DIVSD: a / b.
func (e *Env) Div64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(float64(math.Float64frombits(a) / math.Float64frombits(b)))
		if normal64(r) && !denormal64(a) && !denormal64(b) && !least64(r) {
			return r
		}
	}
	return double.pack(e.div(unpack64(a, e.DAZ), unpack64(b, e.DAZ), double))
}

// Sqrt64 is SQRTSD.
func (e *Env) Sqrt64(a uint64) uint64 {
	if e.fast() && normal64(a) && a>>63 == 0 {
		return math.Float64bits(math.Sqrt(math.Float64frombits(a)))
	}
	return double.pack(e.sqrt(unpack64(a, e.DAZ), double))
}

// Min64 is MINSD: b, unless a is less. A NaN of either kind is invalid.
func (e *Env) Min64(a, b uint64) uint64 {
	if e.Compare64(a, b) == Less {
		return e.daz64(a)
	}
	return e.daz64(b)
}

// Max64 is MAXSD: b, unless a is greater.
func (e *Env) Max64(a, b uint64) uint64 {
	if e.Compare64(a, b) == Greater {
		return e.daz64(a)
	}
	return e.daz64(b)
}

// Compare64 is for COMISD and the predicates of CMPSD that signal quiet NaNs.
func (e *Env) Compare64(a, b uint64) Relation {
	if !denormal64(a) && !denormal64(b) {
		if r := relation(math.Float64frombits(a), math.Float64frombits(b)); r != Unordered {
			return r
		}
	}
	return e.compare(unpack64(a, e.DAZ), unpack64(b, e.DAZ), quiet)
}

// CompareQuiet64 is for UCOMISD and the predicates of CMPSD that do not.
func (e *Env) CompareQuiet64(a, b uint64) Relation {
	if !denormal64(a) && !denormal64(b) {
		if r := relation(math.Float64frombits(a), math.Float64frombits(b)); r != Unordered {
			return r
		}
	}
	return e.compare(unpack64(a, e.DAZ), unpack64(b, e.DAZ), signalling)
}

// RoundInt64 is ROUNDSD: a as an integral value. PE is not reported if exact is false; ROUNDSD's operand has a bit for that.
func (e *Env) RoundInt64(a uint64, mode Rounding, exact bool) uint64 {
	if !denormal64(a) && a<<1 < 0x7ff<<53 {
		x := math.Float64frombits(a)
		r := mode.host(x)
		if exact && r != x {
			e.Flags |= PE
		}
		return math.Float64bits(r)
	}
	return double.pack(e.roundInt(unpack64(a, e.DAZ), mode, exact, double))
}

// Widen is CVTSS2SD.
func (e *Env) Widen(a uint32) uint64 {
	if normal32(a) || a<<1 == 0 {
		return math.Float64bits(float64(math.Float32frombits(a)))
	}
	return double.pack(e.convert(unpack32(a, e.DAZ), double))
}

// FromInt64 is CVTSI2SD.
func (e *Env) FromInt64(i int64) uint64 {
	if e.fast() || i == int64(int32(i)) {
		return math.Float64bits(float64(i))
	}
	return double.pack(e.convert(unpackInt(i), double))
}

// ToInt64 is CVTSD2SI and, with mode Zero, CVTTSD2SI, to an integer of 32 or 64 bits.
func (e *Env) ToInt64(a uint64, size uint, mode Rounding) int64 {
	if !denormal64(a) {
		if i, exact, ok := fastInt(math.Float64frombits(a), size, mode); ok {
			if !exact {
				e.Flags |= PE
			}
			return i
		}
	}
	return e.toInt(unpack64(a, e.DAZ), size, mode)
}

// daz64 is a as an operand that is not computed with.
func (e *Env) daz64(a uint64) uint64 {
	if e.DAZ && denormal64(a) {
		return a >> 63 << 63
	}
	return a
}

// normal64 tells whether a is neither zero, denormal, infinite nor NaN.
func normal64(a uint64) bool { return a<<1-1<<53 < 0x7fe<<53 }

// least64 tells whether the normal a is the least there is. It may be what a tiny result was rounded to.
func least64(a uint64) bool { return a<<1 == 1<<53 }

func denormal64(a uint64) bool { return a<<1-1 < 1<<53-1 }
