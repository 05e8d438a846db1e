package float

import "math"

// Operations of SSE on binary32. Operand a is the first source, which is also the destination of
// two-operand instructions.

// Add32 is ADDSS.
func (e *Env) Add32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(float32(math.Float32frombits(a) + math.Float32frombits(b)))
		if (normal32(r) || r<<1 == 0) && !denormal32(a) && !denormal32(b) {
			return r
		}
	}
	return uint32(single.pack(e.add(unpack32(a, e.DAZ), unpack32(b, e.DAZ), single)))
}

// Sub32 is SUBSS.
func (e *Env) Sub32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(float32(math.Float32frombits(a) - math.Float32frombits(b)))
		if (normal32(r) || r<<1 == 0) && !denormal32(a) && !denormal32(b) {
			return r
		}
	}
	return uint32(single.pack(e.sub(unpack32(a, e.DAZ), unpack32(b, e.DAZ), single)))
}

// Mul32 is MULSS.
func (e *Env) Mul32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(float32(math.Float32frombits(a) * math.Float32frombits(b)))
		if normal32(r) && !denormal32(a) && !denormal32(b) && !least32(r) {
			return r
		}
	}
	return uint32(single.pack(e.mul(unpack32(a, e.DAZ), unpack32(b, e.DAZ), single)))
}

// Div32 is DIVSS: a / b.
func (e *Env) Div32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(float32(math.Float32frombits(a) / math.Float32frombits(b)))
		if normal32(r) && !denormal32(a) && !denormal32(b) && !least32(r) {
			return r
		}
	}
	return uint32(single.pack(e.div(unpack32(a, e.DAZ), unpack32(b, e.DAZ), single)))
}

// Sqrt32 is SQRTSS.
func (e *Env) Sqrt32(a uint32) uint32 {
	if e.fast() && normal32(a) && a>>31 == 0 {
		return math.Float32bits(float32(math.Sqrt(float64(math.Float32frombits(a)))))
	}
	return uint32(single.pack(e.sqrt(unpack32(a, e.DAZ), single)))
}

// Min32 is MINSS: b, unless a is less. A NaN of either kind is invalid.
func (e *Env) Min32(a, b uint32) uint32 {
	if e.Compare32(a, b) == Less {
		return e.daz32(a)
	}
	return e.daz32(b)
}

// Max32 is MAXSS: b, unless a is greater.
func (e *Env) Max32(a, b uint32) uint32 {
	if e.Compare32(a, b) == Greater {
		return e.daz32(a)
	}
	return e.daz32(b)
}

// Compare32 is for COMISS and the predicates of CMPSS that signal quiet NaNs.
func (e *Env) Compare32(a, b uint32) Relation {
	if !denormal32(a) && !denormal32(b) {
		if r := relation(math.Float32frombits(a), math.Float32frombits(b)); r != Unordered {
			return r
		}
	}
	return e.compare(unpack32(a, e.DAZ), unpack32(b, e.DAZ), quiet)
}

// CompareQuiet32 is for UCOMISS and the predicates of CMPSS that do not.
func (e *Env) CompareQuiet32(a, b uint32) Relation {
	if !denormal32(a) && !denormal32(b) {
		if r := relation(math.Float32frombits(a), math.Float32frombits(b)); r != Unordered {
			return r
		}
	}
	return e.compare(unpack32(a, e.DAZ), unpack32(b, e.DAZ), signalling)
}

// RoundInt32 is ROUNDSS: a as an integral value. PE is not reported if exact is false; ROUNDSS's operand has a bit for that.
func (e *Env) RoundInt32(a uint32, mode Rounding, exact bool) uint32 {
	if !denormal32(a) && a<<1 < 0xff<<24 {
		x := float64(math.Float32frombits(a))
		r := mode.host(x)
		if exact && r != x {
			e.Flags |= PE
		}
		return math.Float32bits(float32(r))
	}
	return uint32(single.pack(e.roundInt(unpack32(a, e.DAZ), mode, exact, single)))
}

// Narrow is CVTSD2SS.
func (e *Env) Narrow(a uint64) uint32 {
	if e.fast() && !denormal64(a) {
		if r := math.Float32bits(float32(math.Float64frombits(a))); normal32(r) && !least32(r) {
			return r
		}
	}
	return uint32(single.pack(e.convert(unpack64(a, e.DAZ), single)))
}

// FromInt32 is CVTSI2SS.
func (e *Env) FromInt32(i int64) uint32 {
	if e.fast() || i<<40>>40 == i {
		return math.Float32bits(float32(i))
	}
	return uint32(single.pack(e.convert(unpackInt(i), single)))
}

// ToInt32 is CVTSS2SI and, with mode Zero, CVTTSS2SI, to an integer of 32 or 64 bits.
func (e *Env) ToInt32(a uint32, size uint, mode Rounding) int64 {
	if !denormal32(a) {
		if i, exact, ok := fastInt(float64(math.Float32frombits(a)), size, mode); ok {
			if !exact {
				e.Flags |= PE
			}
			return i
		}
	}
	return e.toInt(unpack32(a, e.DAZ), size, mode)
}

// daz32 is a as an operand that is not computed with.
func (e *Env) daz32(a uint32) uint32 {
	if e.DAZ && denormal32(a) {
		return a >> 31 << 31
	}
	return a
}

// normal32 tells whether a is neither zero, denormal, infinite nor NaN.
func normal32(a uint32) bool { return a<<1-1<<24 < 0xfe<<24 }

// least32 tells whether the normal a is the least there is. It may be what a tiny result was rounded to.
func least32(a uint32) bool { return a<<1 == 1<<24 }

func denormal32(a uint32) bool { return a<<1-1 < 1<<24-1 }
