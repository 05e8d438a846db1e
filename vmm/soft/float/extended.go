package float

// F80 is a value in the double extended format (SDM vol. 1, 4.2.2): sign and exponent, and the
// significand with its integer bit.
type F80 struct {
	Frac uint64
	SE   uint16
}

// Class is what FXAM tells of a register that is not empty: C3, C2 and C0 as a number (SDM vol. 2A, FXAM).
type Class uint8

// The classes. 5 is an empty register.
const (
	ClassUnsupported Class = 0
	ClassNaN         Class = 1
	ClassNormal      Class = 2
	ClassInfinity    Class = 3
	ClassZero        Class = 4
	ClassDenormal    Class = 6
)

// Operand is an operand of x87 arithmetic that may come from memory, in another format.
type Operand struct{ num }

// Of80 is an operand from a register.
func Of80(x F80) Operand { return Operand{x.unpack()} }

// Of32 is an operand m32fp.
func Of32(x uint32) Operand { return Operand{unpack32(x, false)} }

// Of64 is an operand m64fp.
func Of64(x uint64) Operand { return Operand{unpack64(x, false)} }

// OfInt is an operand m16int or m32int.
func OfInt(i int64) Operand { return Operand{unpackInt(i)} }

// Add80 is FADD.
func (e *Env) Add80(a, b Operand) F80 { return e.x87().add(a.num, b.num, byPrecision[e.Prec&3]).f80() }

// Sub80 is FSUB: a - b.
func (e *Env) Sub80(a, b Operand) F80 { return e.x87().sub(a.num, b.num, byPrecision[e.Prec&3]).f80() }

// Mul80 is FMUL.
func (e *Env) Mul80(a, b Operand) F80 { return e.x87().mul(a.num, b.num, byPrecision[e.Prec&3]).f80() }

// Div80 is FDIV: a / b.
func (e *Env) Div80(a, b Operand) F80 { return e.x87().div(a.num, b.num, byPrecision[e.Prec&3]).f80() }

// Sqrt80 is FSQRT.
func (e *Env) Sqrt80(x F80) F80 { return e.x87().sqrt(x.unpack(), byPrecision[e.Prec&3]).f80() }

// Compare80 is for FCOM, FCOMI, FICOM and FTST.
func (e *Env) Compare80(a, b Operand) Relation { return e.x87().compare(a.num, b.num, quiet) }

// CompareQuiet80 is for FUCOM and FUCOMI.
func (e *Env) CompareQuiet80(a, b Operand) Relation { return e.x87().compare(a.num, b.num, signalling) }

// RoundInt80 is FRNDINT.
func (e *Env) RoundInt80(x F80) F80 {
	n := x.unpack()
	if n.class == denormal && e.raise(DE) {
		return F80{}
	}
	return e.x87().roundInt(n, e.Round, true, extended).f80()
}

// Load32 is FLD m32fp. With DE unmasked the result is still there: AMD's silicon pushes it, Intel's manual says that
// it does not (SDM vol. 1, 8.5.2).
func (e *Env) Load32(x uint32) F80 { return e.load(unpack32(x, false)) }

// Load64 is FLD m64fp. See Load32.
func (e *Env) Load64(x uint64) F80 { return e.load(unpack64(x, false)) }

func (e *Env) load(n num) F80 {
	if n.class == denormal {
		e.raise(DE)
	}
	return e.x87().store(n, extended).f80()
}

// LoadInt is FILD. It is always exact.
func LoadInt(i int64) F80 {
	n := unpackInt(i)
	if n.class == zero {
		return F80{}
	}
	return raw{n.sig, n.exp + extended.bias, n.neg}.f80()
}

// Store32 is FST m32fp.
func (e *Env) Store32(x F80) uint32 { return uint32(e.storeMemory(x, single)) }

// Store64 is FST m64fp.
func (e *Env) Store64(x F80) uint64 { return e.storeMemory(x, double) }

// storeMemory is the store to memory, which does not take place, and is not inexact, with overflow or underflow unmasked (SDM
// vol. 1, 8.5.4 and 8.5.5).
func (e *Env) storeMemory(x F80, f *format) uint64 {
	before := e.Flags
	r := e.x87().store(x.unpack(), f)
	if e.Flags&^e.Mask&(OE|UE) != 0 {
		e.Flags = before | e.Flags&^PE
		e.C1 = false
	}
	return f.pack(r)
}

// StoreInt is FIST and, with mode Zero, FISTTP, to an integer of 16, 32 or 64 bits.
func (e *Env) StoreInt(x F80, size uint, mode Rounding) int64 {
	return e.x87().toInt(x.unpack(), size, mode)
}

// Abs is FABS.
func (x F80) Abs() F80 { return F80{x.Frac, x.SE &^ signBit} }

// Neg is FCHS.
func (x F80) Neg() F80 { return F80{x.Frac, x.SE ^ signBit} }

// Class is for FXAM.
func (x F80) Class() Class {
	n := x.unpack()
	switch {
	case n.class == unsupported:
		return ClassUnsupported
	case n.class >= quiet:
		return ClassNaN
	case n.class == infinite:
		return ClassInfinity
	case n.class == zero:
		return ClassZero
	case n.class == denormal:
		return ClassDenormal
	}
	return ClassNormal
}

const signBit = 0x8000

// x87 prepares for an operation whose result tells C1.
func (e *Env) x87() *Env {
	e.C1 = false
	return e
}

func (x F80) unpack() num {
	field := int32(x.SE &^ signBit)
	n := num{sig: x.Frac, exp: field - extended.bias, class: normal, neg: x.SE&signBit != 0}
	switch {
	case field == 0:
		return n.small(x.Frac, extended)
	case x.Frac&integerBit == 0:
		n.class = unsupported
	case field == extended.special():
		n.class = classSpecial(n.sig)
	}
	return n
}

func (r raw) f80() F80 {
	x := F80{r.sig, uint16(r.exp)}
	if r.neg {
		x.SE |= signBit
	}
	return x
}
