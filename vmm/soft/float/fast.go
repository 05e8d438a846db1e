package float

import "math"

// The fast paths compute with the host's own floating-point arithmetic, which Go keeps at round to nearest, without
// flush to zero, and masked. A result is used only where it is known to be that of the slow path:
// finite operands that are not denormal, a normal result, and no doubt about flags. Explicit
// conversions keep compilers from fusing operations.

// fast tells whether rounding to nearest without finding out about PE will do.
func (e *Env) fast() bool { return e.Round == Nearest && e.Flags&PE != 0 }

// relation compares what the host can: no NaNs.
func relation[F float32 | float64](a, b F) Relation {
	switch {
	case a < b:
		return Less
	case a == b:
		return Equal
	case a > b:
		return Greater
	}
	return Unordered
}

// host rounds a finite x to an integral value.
func (r Rounding) host(x float64) float64 {
	switch r {
	case Nearest:
		return math.RoundToEven(x)
	case Down:
		return math.Floor(x)
	case Up:
		return math.Ceil(x)
	}
	return math.Trunc(x)
}

// fastInt converts x to a signed integer of size bits, if it is safely within range.
func fastInt(x float64, size uint, mode Rounding) (i int64, exact, ok bool) {
	limit := float64(int64(1)<<(size-1) - 1)
	if size == 64 {
		limit = 1 << 62
	}
	if !(math.Abs(x) <= limit) {
		return 0, false, false
	}
	r := mode.host(x)
	return int64(r), r == x, true
}
