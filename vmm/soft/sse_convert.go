package soft

import (
	"ftvm/vmm/soft/float"
	"ftvm/vmm/soft/x86"
)

// convertLowering has the conversions of SSE.
var convertLowering = []lowerEntry{
	{x86.CVTSI2SD, fromInteger((*CPU).opFromInt32SD, (*CPU).opFromInt64SD)},
	{x86.CVTSI2SS, fromInteger(
		opFloat(func(e *float.Env, a, b vec, _ uint8) vec {
			return a.with(uint64(e.FromInt32(int64(int32(b.lo)))), 0xffff_ffff, 0)
		}),
		opFloat(func(e *float.Env, a, b vec, _ uint8) vec {
			return a.with(uint64(e.FromInt32(int64(b.lo))), 0xffff_ffff, 0)
		}))},
	{x86.CVTSD2SI, toInteger(func(e *float.Env, b vec, size uint) int64 { return e.ToInt64(b.lo, size, e.Round) })},
	{x86.CVTTSD2SI, toInteger(func(e *float.Env, b vec, size uint) int64 { return e.ToInt64(b.lo, size, float.Zero) })},
	{x86.CVTSS2SI, toInteger(func(e *float.Env, b vec, size uint) int64 { return e.ToInt32(uint32(b.lo), size, e.Round) })},
	{x86.CVTTSS2SI, toInteger(func(e *float.Env, b vec, size uint) int64 { return e.ToInt32(uint32(b.lo), size, float.Zero) })},

	{x86.CVTSS2SD, floatOp(func(e *float.Env, a, b vec, _ uint8) vec { return vec{e.Widen(uint32(b.lo)), a.hi} })},
	{x86.CVTSD2SS, floatOp(func(e *float.Env, a, b vec, _ uint8) vec { return a.with(uint64(e.Narrow(b.lo)), 0xffff_ffff, 0) })},
	{x86.CVTPS2PD, floatOp(func(e *float.Env, _, b vec, _ uint8) vec {
		lo := e.Widen(uint32(b.lo))
		return vec{lo, e.Widen(uint32(b.lo >> 32))}
	})},
	{x86.CVTPD2PS, floatOp(func(e *float.Env, _, b vec, _ uint8) vec {
		lo := e.Narrow(b.lo)
		return vec{uint64(lo) | uint64(e.Narrow(b.hi))<<32, 0}
	})},
	{x86.CVTDQ2PS, floatOp(func(e *float.Env, _, b vec, _ uint8) vec { return vec{fromInts32(e, b.lo), fromInts32(e, b.hi)} })},
	{x86.CVTDQ2PD, floatOp(fromInts64)},
	{x86.CVTPS2DQ, floatOp(func(e *float.Env, _, b vec, _ uint8) vec {
		return vec{toInts32(e, b.lo, e.Round), toInts32(e, b.hi, e.Round)}
	})},
	{x86.CVTTPS2DQ, floatOp(func(e *float.Env, _, b vec, _ uint8) vec {
		return vec{toInts32(e, b.lo, float.Zero), toInts32(e, b.hi, float.Zero)}
	})},
	{x86.CVTPD2DQ, floatOp(func(e *float.Env, _, b vec, _ uint8) vec { return vec{toInts64(e, b, e.Round), 0} })},
	{x86.CVTTPD2DQ, floatOp(func(e *float.Env, _, b vec, _ uint8) vec { return vec{toInts64(e, b, float.Zero), 0} })},

	{x86.CVTPI2PS, mixed(func(e *float.Env, a, b vec, _ uint8) vec { return vec{fromInts32(e, b.lo), a.hi} })},
	{x86.CVTPI2PD, mixed(fromInts64)},
	{x86.CVTPS2PI, mixed(func(e *float.Env, _, b vec, _ uint8) vec { return vec{toInts32(e, b.lo, e.Round), 0} })},
	{x86.CVTTPS2PI, mixed(func(e *float.Env, _, b vec, _ uint8) vec { return vec{toInts32(e, b.lo, float.Zero), 0} })},
	{x86.CVTPD2PI, mixed(func(e *float.Env, _, b vec, _ uint8) vec { return vec{toInts64(e, b, e.Round), 0} })},
	{x86.CVTTPD2PI, mixed(func(e *float.Env, _, b vec, _ uint8) vec { return vec{toInts64(e, b, float.Zero), 0} })},
}

func fromInts32(e *float.Env, b uint64) uint64 {
	lo := e.FromInt32(int64(int32(b)))
	return uint64(lo) | uint64(e.FromInt32(int64(b)>>32))<<32
}

func fromInts64(e *float.Env, _, b vec, _ uint8) vec {
	return vec{e.FromInt64(int64(int32(b.lo))), e.FromInt64(int64(b.lo) >> 32)}
}

func toInts32(e *float.Env, b uint64, mode float.Rounding) uint64 {
	lo := uint32(e.ToInt32(uint32(b), 32, mode))
	return uint64(lo) | uint64(e.ToInt32(uint32(b>>32), 32, mode))<<32
}

func toInts64(e *float.Env, b vec, mode float.Rounding) uint64 {
	lo := uint32(e.ToInt64(b.lo, 32, mode))
	return uint64(lo) | uint64(e.ToInt64(b.hi, 32, mode))<<32
}

// fromInteger lowers a conversion of a general register or memory of 4 or 8 bytes. The functions take it
// from a slot; imm is its size.
func fromInteger(f32, f64 uopFunc) lowerFunc {
	fn32, fn64 := number(f32), number(f64)
	return func(l *lowerer) {
		l.needSSE()
		from := l.in.Arg[1]
		if from.Kind == x86.MemOp {
			l.loadVector(xT, from.Size, false)
		} else {
			l.emit(uop{op: uFromGPR64, dst: xT, src: from.Reg})
		}
		fn := fn32
		if from.Size == 8 {
			fn = fn64
		}
		l.compute(uop{fn: fn, dst: l.in.Arg[0].Reg, src: xT, imm: uint64(from.Size)})
	}
}

// opFromInt32SD is CVTSI2SD of 32 bits, which raises nothing.
func (c *CPU) opFromInt32SD(u *uop) bool {
	c.fpu.v[u.dst&31].lo = c.fpu.sse.FromInt64(int64(int32(c.fpu.v[u.src&31].lo)))
	return true
}

func (c *CPU) opFromInt64SD(u *uop) bool {
	e := &c.fpu.sse
	if e.Mask != float.All {
		return opFromInt64SDTrap(c, u)
	}
	c.fpu.v[u.dst&31].lo = e.FromInt64(int64(c.fpu.v[u.src&31].lo))
	return true
}

var opFromInt64SDTrap = opFloat(func(e *float.Env, a, b vec, _ uint8) vec { return vec{e.FromInt64(int64(b.lo)), a.hi} })

// toInteger lowers a conversion to a general register of 4 or 8 bytes, of which imm is the size.
func toInteger(f func(e *float.Env, b vec, size uint) int64) lowerFunc {
	fn32 := number(opToInteger(func(e *float.Env, _, b vec, _ uint8) vec { return vec{uint64(uint32(f(e, b, 32))), 0} }))
	fn64 := number(opToInteger(func(e *float.Env, _, b vec, _ uint8) vec { return vec{uint64(f(e, b, 64)), 0} }))
	return func(l *lowerer) {
		l.needSSE()
		fn := fn32
		if l.in.Arg[0].Size == 8 {
			fn = fn64
		}
		src := l.vector(1, false)
		l.compute(uop{fn: fn, dst: l.in.Arg[0].Reg, src: src, imm: uint64(l.in.Arg[0].Size)})
	}
}

// opToInteger: r[dst] is the low half of f.
func opToInteger(f vecOp) uopFunc {
	return func(c *CPU, u *uop) bool {
		v, ok := c.compute(f, vec{}, c.fpu.v[u.src&31], 0)
		if ok {
			c.r[u.dst] = v.lo
		}
		return ok
	}
}

// mixed lowers a conversion between an MMX and an XMM register, of which the former may be memory. An
// unmasked exception finds the x87 state changed as MMX does.
func mixed(f vecOp) lowerFunc {
	fn := number(opFloat(f))
	return func(l *lowerer) {
		to, from := l.in.Arg[0], l.in.Arg[1]
		l.need()
		src := l.vector(1, true)
		if to.Kind == x86.MMX || from.Kind == x86.MMX {
			l.emit(uop{op: uEnterMMX})
		}
		l.compute(uop{fn: fn, dst: l.vector(0, true), src: src})
		if to.Kind == x86.MMX {
			l.emit(uop{op: uTouchMMX, dst: xR + to.Reg})
		}
	}
}
