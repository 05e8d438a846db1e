package float

import (
	"encoding/binary"
	"math/rand/v2"
)

// instructions lists what TestSilicon compares.
var instructions = []instruction{
	sse64("addsd %xmm2, %xmm1", (*Env).Add64),
	sse64("subsd %xmm2, %xmm1", (*Env).Sub64),
	sse64("mulsd %xmm2, %xmm1", (*Env).Mul64),
	sse64("divsd %xmm2, %xmm1", (*Env).Div64),
	sse64("minsd %xmm2, %xmm1", (*Env).Min64),
	sse64("maxsd %xmm2, %xmm1", (*Env).Max64),
	sse64("sqrtsd %xmm1, %xmm1", func(e *Env, a, _ uint64) uint64 { return e.Sqrt64(a) }),
	sse32("addss %xmm2, %xmm1", (*Env).Add32),
	sse32("subss %xmm2, %xmm1", (*Env).Sub32),
	sse32("mulss %xmm2, %xmm1", (*Env).Mul32),
	sse32("divss %xmm2, %xmm1", (*Env).Div32),
	sse32("minss %xmm2, %xmm1", (*Env).Min32),
	sse32("maxss %xmm2, %xmm1", (*Env).Max32),
	sse32("sqrtss %xmm1, %xmm1", func(e *Env, a, _ uint32) uint32 { return e.Sqrt32(a) }),

	flags64("comisd %xmm2, %xmm1", (*Env).Compare64),
	flags64("ucomisd %xmm2, %xmm1", (*Env).CompareQuiet64),
	flags32("comiss %xmm2, %xmm1", (*Env).Compare32),
	flags32("ucomiss %xmm2, %xmm1", (*Env).CompareQuiet32),

	round64("roundsd $0, %xmm1, %xmm1", Nearest, true),
	round64("roundsd $1, %xmm1, %xmm1", Down, true),
	round64("roundsd $2, %xmm1, %xmm1", Up, true),
	round64("roundsd $11, %xmm1, %xmm1", Zero, false),
	round32("roundss $0, %xmm1, %xmm1", Nearest, true),
	round32("roundss $1, %xmm1, %xmm1", Down, true),
	round32("roundss $2, %xmm1, %xmm1", Up, true),
	round32("roundss $11, %xmm1, %xmm1", Zero, false),

	{insn: "cvtss2sd %xmm1, %xmm1", a: f32, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{e.Widen(uint32(r.A[0]))}, RAX: r.A[0]}
	}},
	{insn: "cvtsd2ss %xmm1, %xmm1", a: f64, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{r.A[0]>>32<<32 | uint64(e.Narrow(r.A[0]))}, RAX: r.A[0]}
	}},
	{insn: "cvtsi2sd %rax, %xmm1", a: ints, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{e.FromInt64(int64(r.A[0]))}, RAX: r.A[0]}
	}},
	{insn: "cvtsi2ss %rax, %xmm1", a: ints, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{r.A[0]>>32<<32 | uint64(e.FromInt32(int64(r.A[0])))}, RAX: r.A[0]}
	}},
	toInt64("cvtsd2si %xmm1, %rax", 64, false),
	toInt64("cvtsd2si %xmm1, %eax", 32, false),
	toInt64("cvttsd2si %xmm1, %rax", 64, true),
	toInt64("cvttsd2si %xmm1, %eax", 32, true),
	toInt32("cvtss2si %xmm1, %rax", 64, false),
	toInt32("cvtss2si %xmm1, %eax", 32, false),
	toInt32("cvttss2si %xmm1, %rax", 64, true),
	toInt32("cvttss2si %xmm1, %eax", 32, true),

	arith80("fadd %st(1), %st", (*Env).Add80),
	arith80("fmul %st(1), %st", (*Env).Mul80),
	arith80("fsub %st(1), %st", (*Env).Sub80),
	arith80("fsubr %st(1), %st", reversed((*Env).Sub80)),
	arith80("fdiv %st(1), %st", (*Env).Div80),
	arith80("fdivr %st(1), %st", reversed((*Env).Div80)),
	memory80("fadds (%rdi)", f32, (*Env).Add80),
	memory80("fmull (%rdi)", f64, (*Env).Mul80),
	memory80("fsubrl (%rdi)", f64, reversed((*Env).Sub80)),
	memory80("fdivs (%rdi)", f32, (*Env).Div80),
	memory80("fisubl (%rdi)", ints, (*Env).Sub80),
	compare80("fcom %st(1)", (*Env).Compare80),
	compare80("fucom %st(1)", (*Env).CompareQuiet80),
	one80("fsqrt", (*Env).Sqrt80),
	one80("frndint", (*Env).RoundInt80),
	one80("fabs", func(_ *Env, x F80) F80 { return x.Abs() }),
	one80("fchs", func(_ *Env, x F80) F80 { return x.Neg() }),
	load80("flds (%rdi)", f32, func(e *Env, b uint64) F80 { return e.Load32(uint32(b)) }),
	load80("fldl (%rdi)", f64, (*Env).Load64),
	load80("fildll (%rdi)", ints, func(_ *Env, b uint64) F80 { return LoadInt(int64(b)) }),
	store80("fsts (%rdi)", 32, func(e *Env, x F80) uint64 { return uint64(e.Store32(x)) }),
	store80("fstl (%rdi)", 64, (*Env).Store64),
	store80("fists (%rdi)", 16, func(e *Env, x F80) uint64 { return uint64(e.StoreInt(x, 16, e.Round)) }),
	store80("fistl (%rdi)", 32, func(e *Env, x F80) uint64 { return uint64(e.StoreInt(x, 32, e.Round)) }),
	popped80("fistpll (%rdi)", func(e *Env, x F80) [2]uint64 { return [2]uint64{uint64(e.StoreInt(x, 64, e.Round))} }),
	popped80("fisttpl (%rdi)", func(e *Env, x F80) [2]uint64 { return [2]uint64{clip(e.StoreInt(x, 32, Zero), 32)} }),
	{insn: "fxam", x87: true, a: f80, b: none, run: func(e *Env, r *record) outcome {
		o := r.outcome80(r.a80())
		c := r.a80().Class()
		o.Status = uint32(c&1)<<8 | uint32(c>>1&1)<<10 | uint32(c>>2)<<14
		e.C1 = r.A[1]&signBit != 0
		return o
	}},
	rem80("fprem", false),
	rem80("fprem1", true),
	{insn: "fscale", x87: true, a: f80, b: scales, run: func(e *Env, r *record) outcome {
		return r.result80(e, e.Scale80(r.a80(), r.b80()))
	}},
	{insn: "fxtract", x87: true, a: f80, b: none, run: func(e *Env, r *record) outcome {
		exponent, significand := e.Extract80(r.a80())
		if e.Flags&^e.Mask&Pre != 0 {
			return r.outcome80(r.a80())
		}
		return outcome{Result: significand.bits(), ST1: exponent.bits()}
	}},
	{insn: "fbld (%rdi)", x87: true, amd: true, a: none, b: decimals, run: func(e *Env, r *record) outcome {
		b := decimal(r.B)
		return outcome{Result: LoadBCD(&b).bits(), Mem: r.B}
	}},
	popped80("fbstp (%rdi)", func(e *Env, x F80) [2]uint64 {
		p := e.StoreBCD(x)
		return [2]uint64{binary.LittleEndian.Uint64(p[:]), uint64(binary.LittleEndian.Uint16(p[8:]))}
	}),
	constant80("fld1", One),
	constant80("fldl2t", Log2T),
	constant80("fldl2e", Log2E),
	constant80("fldpi", Pi),
	constant80("fldlg2", Log10Of2),
	constant80("fldln2", LnOf2),
	constant80("fldz", PlusZero),
	angle80("fsin", func(e *Env, x F80) (F80, F80, bool) { r, ok := e.Sin80(x); return r, F80{}, ok }, false, 4_000),
	angle80("fcos", func(e *Env, x F80) (F80, F80, bool) { r, ok := e.Cos80(x); return r, F80{}, ok }, false, 2_000),
	angle80("fsincos", (*Env).SinCos80, true, 5_000),
	angle80("fptan", (*Env).Tan80, true, 250_000),
	{insn: "f2xm1", x87: true, a: exponents(0x3fbf, 0x3ffe), b: none, amd: true, tolerance: 30_000, run: func(e *Env, r *record) outcome {
		return r.result80(e, e.Exp80(r.a80()))
	}},
	transcendental80("fpatan", f80, f80, 15_000, (*Env).Atan80),
	transcendental80("fyl2x", f80, f80, 15_000, (*Env).Log80),
	transcendental80("fyl2xp1", exponents(0x3fb0, 0x3ffc), f80, 25_000, (*Env).Log1P80),
}

func sse64(insn string, op func(*Env, uint64, uint64) uint64) instruction {
	return instruction{insn: insn, a: f64, b: f64, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{op(e, r.A[0], r.B[0])}, RAX: r.A[0], Mem: r.B}
	}}
}

func sse32(insn string, op func(*Env, uint32, uint32) uint32) instruction {
	return instruction{insn: insn, a: f32, b: f32, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{uint64(op(e, uint32(r.A[0]), uint32(r.B[0])))}, RAX: r.A[0], Mem: r.B}
	}}
}

// eflags is what LAHF gives after a comparison: ZF, PF and CF of (U)COMISD.
var eflags = [...]uint64{Less: 0x03, Equal: 0x42, Greater: 0x02, Unordered: 0x47}

const lahf = "\n\tlahf\n\tmovzbl %ah, %eax"

func flags64(insn string, op func(*Env, uint64, uint64) Relation) instruction {
	return instruction{insn: insn + lahf, a: f64, b: f64, run: func(e *Env, r *record) outcome {
		return outcome{Result: r.A, RAX: eflags[op(e, r.A[0], r.B[0])], Mem: r.B}
	}}
}

func flags32(insn string, op func(*Env, uint32, uint32) Relation) instruction {
	return instruction{insn: insn + lahf, a: f32, b: f32, run: func(e *Env, r *record) outcome {
		return outcome{Result: r.A, RAX: eflags[op(e, uint32(r.A[0]), uint32(r.B[0]))], Mem: r.B}
	}}
}

func round64(insn string, mode Rounding, exact bool) instruction {
	return instruction{insn: insn, a: f64, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{e.RoundInt64(r.A[0], mode, exact)}, RAX: r.A[0]}
	}}
}

func round32(insn string, mode Rounding, exact bool) instruction {
	return instruction{insn: insn, a: f32, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: [2]uint64{uint64(e.RoundInt32(uint32(r.A[0]), mode, exact))}, RAX: r.A[0]}
	}}
}

func toInt64(insn string, size uint, truncate bool) instruction {
	return instruction{insn: insn, a: f64, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: r.A, RAX: clip(e.ToInt64(r.A[0], size, conversion(e, truncate)), size)}
	}}
}

func toInt32(insn string, size uint, truncate bool) instruction {
	return instruction{insn: insn, a: f32, b: none, run: func(e *Env, r *record) outcome {
		return outcome{Result: r.A, RAX: clip(e.ToInt32(uint32(r.A[0]), size, conversion(e, truncate)), size)}
	}}
}

func conversion(e *Env, truncate bool) Rounding {
	if truncate {
		return Zero
	}
	return e.Round
}

// clip is i as a register of size bits holds it, zero-extended.
func clip(i int64, size uint) uint64 { return uint64(i) << (64 - size) >> (64 - size) }

func (r *record) a80() F80 { return F80{r.A[0], uint16(r.A[1])} }
func (r *record) b80() F80 { return F80{r.B[0], uint16(r.B[1])} }

// outcome80 has x in ST(0), and ST(1) and memory as they were.
func (r *record) outcome80(x F80) outcome {
	return outcome{Result: x.bits(), ST1: r.B, Mem: r.B}
}

func (x F80) bits() [2]uint64 { return [2]uint64{x.Frac, uint64(x.SE)} }

// result80 is outcome80, with a still in ST(0) after an unmasked exception that precedes the operation.
func (r *record) result80(e *Env, x F80) outcome {
	if e.Flags&^e.Mask&Pre != 0 {
		x = r.a80()
	}
	return r.outcome80(x)
}

func arith80(insn string, op func(e *Env, a, b Operand) F80) instruction {
	return instruction{insn: insn, x87: true, a: f80, b: f80, run: func(e *Env, r *record) outcome {
		return r.result80(e, op(e, Of80(r.a80()), Of80(r.b80())))
	}}
}

func reversed(op func(e *Env, a, b Operand) F80) func(e *Env, a, b Operand) F80 {
	return func(e *Env, a, b Operand) F80 { return op(e, b, a) }
}

func memory80(insn string, kind operandKind, op func(e *Env, a, b Operand) F80) instruction {
	return instruction{insn: insn, x87: true, a: f80, b: kind, run: func(e *Env, r *record) outcome {
		b := OfInt(int64(int32(r.B[0])))
		switch kind.expBits {
		case f32.expBits:
			b = Of32(uint32(r.B[0]))
		case f64.expBits:
			b = Of64(r.B[0])
		}
		return r.result80(e, op(e, Of80(r.a80()), b))
	}}
}

// conditions are C3, C2 and C0 after a comparison.
var conditions = [...]uint32{Less: statusC0, Equal: statusC3, Greater: 0, Unordered: statusC0 | statusC2 | statusC3}

func compare80(insn string, op func(e *Env, a, b Operand) Relation) instruction {
	return instruction{insn: insn, x87: true, amd: true, a: f80, b: f80, run: func(e *Env, r *record) outcome {
		relation := op(e, Of80(r.a80()), Of80(r.b80()))
		o := r.outcome80(r.a80())
		o.Status = conditions[relation]
		return o
	}}
}

func one80(insn string, op func(e *Env, x F80) F80) instruction {
	return instruction{insn: insn, x87: true, a: f80, b: none, run: func(e *Env, r *record) outcome {
		return r.result80(e, op(e, r.a80()))
	}}
}

// load80 pushes the result.
func load80(insn string, kind operandKind, op func(e *Env, b uint64) F80) instruction {
	return instruction{insn: insn, x87: true, a: f80, b: kind, amd: true, run: func(e *Env, r *record) outcome {
		x := op(e, r.B[0])
		if e.Flags&^e.Mask&IE != 0 {
			return outcome{Result: r.A, ST1: r.B, Mem: r.B}
		}
		return outcome{Result: x.bits(), ST1: r.A, Mem: r.B}
	}}
}

func store80(insn string, size uint, op func(e *Env, x F80) uint64) instruction {
	return instruction{insn: insn, x87: true, a: f80, b: none, run: func(e *Env, r *record) outcome {
		x := op(e, r.a80()) << (64 - size) >> (64 - size)
		o := r.outcome80(r.a80())
		if e.Flags&^e.Mask&^PE == 0 {
			o.Mem = [2]uint64{x}
		}
		return o
	}}
}

// popped80 is for instructions that store and pop: they get a copy of ST(0).
func popped80(insn string, op func(e *Env, x F80) [2]uint64) instruction {
	return instruction{insn: "fld %st; " + insn, x87: true, a: f80, b: none, run: func(e *Env, r *record) outcome {
		x := op(e, r.a80())
		if e.Flags&^e.Mask&IE != 0 {
			return outcome{Result: r.A, ST1: r.A}
		}
		return outcome{Result: r.A, Mem: x}
	}}
}

func constant80(insn string, c Constant) instruction {
	return instruction{insn: insn, x87: true, a: none, b: none, run: func(e *Env, _ *record) outcome {
		return outcome{Result: e.Load(c).bits()}
	}}
}

func rem80(insn string, nearest bool) instruction {
	return instruction{insn: insn, x87: true, a: f80, b: f80, amd: true, run: func(e *Env, r *record) outcome {
		x, q := e.Rem80(r.a80(), r.b80(), nearest)
		o := r.result80(e, x)
		o.Status = uint32(q.Low>>2)<<8 | uint32(q.Low>>1&1)<<14 | uint32(q.Low&1)<<9
		if q.Partial {
			o.Status |= statusC2
		}
		return o
	}}
}

// scales are extended values, most of them about as large as exponents are.
var scales = operandKind{special: func(rnd *rand.Rand) [2]uint64 {
	v := f80.value(rnd, nil)
	if rnd.IntN(4) != 0 && v[0]>>63 != 0 {
		v[1] = v[1]&signBit | uint64(0x3ffe+rnd.IntN(19))
	}
	return v
}}

// decimals are operands of FBLD.
var decimals = operandKind{special: func(rnd *rand.Rand) [2]uint64 {
	p := binary.LittleEndian.AppendUint64(nil, pattern(rnd))
	p = binary.LittleEndian.AppendUint16(p, uint16(rnd.Uint32()))
	for i := range p {
		if rnd.IntN(8) != 0 {
			p[i] = p[i]>>4%10<<4 | p[i]&15%10
		}
	}
	return [2]uint64{binary.LittleEndian.Uint64(p), uint64(binary.LittleEndian.Uint16(p[8:]))}
}}

func decimal(v [2]uint64) (p [10]byte) {
	binary.LittleEndian.PutUint64(p[:], v[0])
	binary.LittleEndian.PutUint16(p[8:], uint16(v[1]))
	return p
}

// exponents are extended values, most of them with exponents in a range.
func exponents(lo, hi int) operandKind {
	return operandKind{special: func(rnd *rand.Rand) [2]uint64 {
		v := f80.value(rnd, nil)
		if rnd.IntN(8) != 0 {
			v[0] |= integerBit
			v[1] = v[1]&signBit | uint64(lo+rnd.IntN(hi-lo+1))
		}
		return v
	}}
}

// angle80 is for an instruction that replaces ST(0) by the first result and, with push, pushes the second.
func angle80(insn string, op func(e *Env, x F80) (F80, F80, bool), push bool, tolerance int) instruction {
	return instruction{insn: insn, x87: true, a: exponents(0x3fbf, 0x4000), b: none, amd: true, tolerance: tolerance, run: func(e *Env, r *record) outcome {
		x, pushed, ok := op(e, r.a80())
		switch {
		case e.Flags&^e.Mask&Pre != 0:
			return r.outcome80(r.a80())
		case !ok:
			o := r.outcome80(r.a80())
			o.Status = statusC2
			return o
		case push:
			return outcome{Result: pushed.bits(), ST1: x.bits()}
		}
		return r.outcome80(x)
	}}
}

// transcendental80 takes ST(1) and ST(0), pops, and puts the result into ST(0).
func transcendental80(insn string, a, b operandKind, tolerance int, op func(e *Env, y, x F80) F80) instruction {
	return instruction{insn: insn, x87: true, a: a, b: b, amd: true, tolerance: tolerance, run: func(e *Env, r *record) outcome {
		x := op(e, r.b80(), r.a80())
		if e.Flags&^e.Mask&Pre != 0 {
			return r.outcome80(r.a80())
		}
		return outcome{Result: x.bits(), Mem: r.B}
	}}
}
