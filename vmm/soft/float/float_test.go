package float

import (
	"encoding/binary"
	"hash/fnv"
	"math/big"
	"math/rand/v2"
	"testing"
)

// TestSameEverywhere holds results and flags of all instructions, for operands of a fixed seed, to what they are on
// the host that this was written on.
func TestSameEverywhere(t *testing.T) {
	const want = 0xe56e8a118499d0d1
	h := fnv.New64a()
	for op, in := range instructions {
		rnd := rand.New(rand.NewPCG(1, uint64(op)))
		for range 2_000 {
			r := in.generate(rnd)
			e := r.env(in.x87)
			o := in.run(&e, &r)
			o.Status |= uint32(e.Flags)
			binary.Write(h, binary.LittleEndian, o)
		}
	}
	if got := h.Sum64(); got != want {
		t.Errorf("the hash of all results is %#x, not %#x: this host computes something else, or an instruction or operand generator has changed",
			got, uint64(want))
	}
}

// FuzzInstructions runs any instruction on any operands. Nothing panics, and a flag that is there already changes neither
// the result nor the other flags: it lets the host compute.
func FuzzInstructions(f *testing.F) {
	f.Add(uint16(0), uint32(0x1f80), uint64(1), uint64(2), uint16(0x3fff), uint16(0x3fff))
	f.Fuzz(func(t *testing.T, op uint16, control uint32, a, b uint64, ae, be uint16) {
		in := &instructions[int(op)%len(instructions)]
		r := record{Control: control, A: [2]uint64{a, uint64(ae)}, B: [2]uint64{b, uint64(be)}}
		e := r.env(in.x87)
		e.Flags = 0
		o := in.run(&e, &r)
		if e.Mask != All {
			return
		}
		with := r.env(in.x87)
		with.Flags = PE
		if p := in.run(&with, &r); o != p || e.Flags|PE != with.Flags {
			t.Errorf("%s: %s with %+v, %s with %+v", in.insn, o, e, p, with)
		}
	})
}

// TestConstants compares with constants computed here: pi by Machin's formula, logarithms by the series of atanh.
func TestConstants(t *testing.T) {
	atan := func(n int64) *big.Float { return series(n, 1, true) }
	atan2 := func(p, q int64) *big.Float { return series(q, p, true) }
	log := func(p, q int64) *big.Float { // log(p/q) = 2 atanh((p-q)/(p+q))
		return mul(2, series(p+q, p-q, false))
	}
	ln2 := log(2, 1)
	ln10 := new(big.Float).Add(mul(3, ln2), log(5, 4))
	pi := new(big.Float).Sub(mul(16, atan(5)), mul(4, atan(239)))
	for _, c := range []struct {
		name string
		got  wide
		want *big.Float
	}{
		{"log2(10)", constants[Log2T], quo(ln10, ln2)},
		{"log2(e)", constants[Log2E], quo(mul(1, big.NewFloat(1)), ln2)},
		{"pi", constants[Pi], pi},
		{"log10(2)", constants[Log10Of2], quo(ln2, ln10)},
		{"ln(2)", constants[LnOf2], ln2},
		{"atan(1/4)", atans[1], atan(4)},
		{"atan(1/2)", atans[2], atan(2)},
		{"atan(3/4)", atans[3], atan2(3, 4)},
		{"atan(1)", atans[4], quo(pi, big.NewFloat(4))},
	} {
		m := new(big.Int).Lsh(new(big.Int).SetUint64(c.got.hi), 64)
		m.Or(m, new(big.Int).SetUint64(c.got.lo))
		scaled := new(big.Float).SetMantExp(c.want, 127-int(c.got.exp))
		if want, _ := scaled.Int(nil); m.Cmp(want) != 0 {
			t.Errorf("%s is %x, want %x", c.name, m, want)
		}
	}
}

const testPrecision = 320

// series is atan or atanh of p/q.
func series(q, p int64, alternate bool) *big.Float {
	x := quo(mul(p, big.NewFloat(1)), mul(q, big.NewFloat(1)))
	z := new(big.Float).Mul(x, x)
	if alternate {
		z.Neg(z)
	}
	sum := new(big.Float).SetPrec(testPrecision)
	for k := int64(1); x.MantExp(nil) > -testPrecision; k += 2 {
		sum.Add(sum, quo(x, mul(k, big.NewFloat(1))))
		x = new(big.Float).Mul(x, z)
	}
	return sum
}

func mul(k int64, x *big.Float) *big.Float {
	return new(big.Float).SetPrec(testPrecision).Mul(x, new(big.Float).SetInt64(k))
}

func quo(x, y *big.Float) *big.Float { return new(big.Float).SetPrec(testPrecision).Quo(x, y) }

// TestSeries compares the series behind the transcendental instructions with others, computed to more bits.
func TestSeries(t *testing.T) {
	for _, c := range []struct {
		name     string
		lo, hi   int32 // exponents of arguments
		negative bool
		ours     func(x wide) wide
		want     func(x *big.Float) *big.Float
	}{
		{"sin", -70, -1, true, sinSeries, func(x *big.Float) *big.Float { return taylor(x, 1, 2) }},
		{"cos", -50, -1, true, cosSeries, func(x *big.Float) *big.Float { return taylor(x, 0, 2) }},
		{"expm1", -70, -1, true, expM1, func(x *big.Float) *big.Float { return taylor(x, 1, 1) }},
		{"atan", -70, -1, false, arctan, bigAtan},
		{"log2", -16382, 16383, false, log2, bigLog2},
		{"log2 near 1", -1, 0, false, log2, bigLog2},
	} {
		rnd := rand.New(rand.NewPCG(2, 3))
		for range 300 {
			x := wide{hi: rnd.Uint64() | integerBit, exp: c.lo + rnd.Int32N(c.hi-c.lo+1)}
			x.neg = c.negative && rnd.IntN(2) == 0
			got, want := c.ours(x).big(), c.want(x.big())
			diff := new(big.Float).Sub(got, want)
			if diff.Sign() != 0 && diff.MantExp(nil)-want.MantExp(nil) > -115 {
				t.Errorf("%s(%v): %v, want %v", c.name, x.big(), got, want)
			}
		}
	}
}

func (a wide) big() *big.Float {
	x := mul(1, new(big.Float).SetUint64(a.hi))
	x.SetMantExp(x, 64)
	x.Add(x, new(big.Float).SetUint64(a.lo))
	if a.neg {
		x.Neg(x)
	}
	return x.SetMantExp(x, int(a.exp)-127)
}

// taylor is the sum of x^k / k! from k = first in steps; steps of 2 alternate in sign.
func taylor(x *big.Float, first, step int64) *big.Float {
	sum, term := mul(0, x), mul(1, big.NewFloat(1))
	for k := int64(0); k < 120; k++ {
		if k >= first && (k-first)%step == 0 {
			if step == 2 && (k-first)%4 == 2 {
				sum.Sub(sum, term)
			} else {
				sum.Add(sum, term)
			}
		}
		term = quo(new(big.Float).Mul(term, x), mul(k+1, big.NewFloat(1)))
	}
	return sum
}

// bigAtan halves the angle until the series is short.
func bigAtan(x *big.Float) *big.Float {
	const halvings = 6
	one := mul(1, big.NewFloat(1))
	for range halvings {
		root := new(big.Float).Mul(x, x)
		root.Sqrt(root.Add(root, one))
		x = quo(x, root.Add(root, one))
	}
	sum, power, z := mul(0, x), x, new(big.Float).Mul(x, x)
	for k := int64(1); k < 80; k += 2 {
		sum.Add(sum, quo(power, mul(k, one)))
		power = new(big.Float).Mul(power, z)
		power.Neg(power)
	}
	return mul(1<<halvings, sum)
}

// bigLog2 takes the square root until the series is short.
func bigLog2(x *big.Float) *big.Float {
	const roots = 8
	x = mul(1, x)
	m := new(big.Float)
	exp := x.MantExp(m)
	if m.Cmp(big.NewFloat(0.75)) < 0 {
		m, exp = mul(2, m), exp-1
	}
	one := mul(1, big.NewFloat(1))
	atanh := func(m *big.Float, terms int64) *big.Float {
		power := quo(new(big.Float).Sub(m, one), new(big.Float).Add(m, one))
		sum, z := mul(0, m), new(big.Float).Mul(power, power)
		for k := int64(1); k < terms; k += 2 {
			sum.Add(sum, quo(power, mul(k, one)))
			power = new(big.Float).Mul(power, z)
		}
		return sum
	}
	for range roots {
		m = new(big.Float).Sqrt(m)
	}
	ln := mul(1<<roots, atanh(m, 50))
	l := quo(ln, atanh(mul(2, one), 220))
	return l.Add(l, mul(int64(exp), one))
}

func TestNoAllocation(t *testing.T) {
	e := Env{Mask: All, Prec: Extended}
	x, y := F80{0xdeadbeefcafebabe, 0x3fff}, F80{0xc90fdaa22168c235, 0x4001}
	n := testing.AllocsPerRun(100, func() {
		e.Add64(0x3ff123456789abcd, 0x4001234567890123)
		e.Div32(0x3f912345, 0x40000001)
		e.Mul80(Of80(x), Of80(y))
		e.Sin80(x)
		e.Log80(y, x)
		e.Rem80(y, x, true)
		e.StoreBCD(y)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var sink uint64

func BenchmarkFast(b *testing.B) {
	e := Env{Mask: All, Flags: PE}
	benchmark64(b, &e)
}

func BenchmarkSlow(b *testing.B) {
	e := Env{Mask: All, Flags: PE, Round: Up}
	benchmark64(b, &e)
}

func benchmark64(b *testing.B, e *Env) {
	x, y := uint64(0x3ff123456789abcd), uint64(0x3fe1234567890123)
	for _, c := range []struct {
		name string
		op   func(*Env, uint64, uint64) uint64
	}{
		{"Add64", (*Env).Add64}, {"Mul64", (*Env).Mul64}, {"Div64", (*Env).Div64},
		{"Sqrt64", func(e *Env, a, _ uint64) uint64 { return e.Sqrt64(a) }},
		{"Compare64", func(e *Env, a, b uint64) uint64 { return uint64(e.Compare64(a, b)) }},
		{"ToInt64", func(e *Env, a, _ uint64) uint64 { return uint64(e.ToInt64(a, 32, Zero)) }},
		{"Narrow", func(e *Env, a, _ uint64) uint64 { return uint64(e.Narrow(a)) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				sink += c.op(e, x, y)
			}
		})
	}
}

func Benchmark80(b *testing.B) {
	e := Env{Mask: All, Prec: Extended}
	x, y := F80{0xdeadbeefcafebabe, 0x3ffe}, F80{0xc90fdaa22168c235, 0x3ffd}
	for _, c := range []struct {
		name string
		op   func() F80
	}{
		{"Add", func() F80 { return e.Add80(Of80(x), Of80(y)) }},
		{"Mul", func() F80 { return e.Mul80(Of80(x), Of80(y)) }},
		{"Div", func() F80 { return e.Div80(Of80(x), Of80(y)) }},
		{"Sqrt", func() F80 { return e.Sqrt80(x) }},
		{"Rem", func() F80 { r, _ := e.Rem80(x, y, false); return r }},
		{"Sin", func() F80 { r, _ := e.Sin80(x); return r }},
		{"Tan", func() F80 { r, _, _ := e.Tan80(x); return r }},
		{"Atan", func() F80 { return e.Atan80(x, y) }},
		{"Log", func() F80 { return e.Log80(x, y) }},
		{"Exp", func() F80 { return e.Exp80(x) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				sink += c.op().Frac
			}
		})
	}
}
