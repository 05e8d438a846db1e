package soft

import (
	"encoding/binary"

	"ftvm/vmm"
	"ftvm/vmm/soft/float"
	"ftvm/vmm/soft/x86"
)

// x87Lowering has the instructions of the x87 that compute or move data. Those that manage its state are in
// x87_state.go.
var x87Lowering = []lowerEntry{
	{x86.FADD, x87(arithmetic((*float.Env).Add80, 0))},
	{x86.FADDP, x87(arithmetic((*float.Env).Add80, 1))},
	{x86.FIADD, x87(arithmetic((*float.Env).Add80, 0))},
	{x86.FMUL, x87(arithmetic((*float.Env).Mul80, 0))},
	{x86.FMULP, x87(arithmetic((*float.Env).Mul80, 1))},
	{x86.FIMUL, x87(arithmetic((*float.Env).Mul80, 0))},
	{x86.FSUB, x87(arithmetic((*float.Env).Sub80, 0))},
	{x86.FSUBP, x87(arithmetic((*float.Env).Sub80, 1))},
	{x86.FISUB, x87(arithmetic((*float.Env).Sub80, 0))},
	{x86.FSUBR, x87(arithmetic(reversed((*float.Env).Sub80), 0))},
	{x86.FSUBRP, x87(arithmetic(reversed((*float.Env).Sub80), 1))},
	{x86.FISUBR, x87(arithmetic(reversed((*float.Env).Sub80), 0))},
	{x86.FDIV, x87(arithmetic((*float.Env).Div80, 0))},
	{x86.FDIVP, x87(arithmetic((*float.Env).Div80, 1))},
	{x86.FIDIV, x87(arithmetic((*float.Env).Div80, 0))},
	{x86.FDIVR, x87(arithmetic(reversed((*float.Env).Div80), 0))},
	{x86.FDIVRP, x87(arithmetic(reversed((*float.Env).Div80), 1))},
	{x86.FIDIVR, x87(arithmetic(reversed((*float.Env).Div80), 0))},

	{x86.FCOM, x87(comparison((*float.Env).Compare80, 0))},
	{x86.FCOMP, x87(comparison((*float.Env).Compare80, 1))},
	{x86.FCOMPP, x87(comparison((*float.Env).Compare80, 2))},
	{x86.FICOM, x87(comparison((*float.Env).Compare80, 0))},
	{x86.FICOMP, x87(comparison((*float.Env).Compare80, 1))},
	{x86.FUCOM, x87(comparison((*float.Env).CompareQuiet80, 0))},
	{x86.FUCOMP, x87(comparison((*float.Env).CompareQuiet80, 1))},
	{x86.FUCOMPP, x87(comparison((*float.Env).CompareQuiet80, 2))},
	{x86.FCOMI, x87(flagsComparison((*float.Env).Compare80, 0))},
	{x86.FCOMIP, x87(flagsComparison((*float.Env).Compare80, 1))},
	{x86.FUCOMI, x87(flagsComparison((*float.Env).CompareQuiet80, 0))},
	{x86.FUCOMIP, x87(flagsComparison((*float.Env).CompareQuiet80, 1))},
	{x86.FTST, x87(execFTST)},
	{x86.FXAM, x87(execFXAM)},

	{x86.FLD, x87(execFLD)},
	{x86.FILD, x87(execFILD)},
	{x86.FBLD, x87(execFBLD)},
	{x86.FST, x87Store(execFST)},
	{x86.FSTP, x87Store(execFST)},
	{x86.FIST, x87Store(execStore)},
	{x86.FISTP, x87Store(execStore)},
	{x86.FISTTP, x87Store(execStore)},
	{x86.FBSTP, x87Store(execStore)},
	{x86.FXCH, x87(execFXCH)},
	{x86.FCMOVB, x87(conditionalMove(2))},
	{x86.FCMOVE, x87(conditionalMove(4))},
	{x86.FCMOVBE, x87(conditionalMove(6))},
	{x86.FCMOVU, x87(conditionalMove(10))},
	{x86.FCMOVNB, x87(conditionalMove(3))},
	{x86.FCMOVNE, x87(conditionalMove(5))},
	{x86.FCMOVNBE, x87(conditionalMove(7))},
	{x86.FCMOVNU, x87(conditionalMove(11))},

	{x86.FLD1, x87(loadConstant(float.One))},
	{x86.FLDL2T, x87(loadConstant(float.Log2T))},
	{x86.FLDL2E, x87(loadConstant(float.Log2E))},
	{x86.FLDPI, x87(loadConstant(float.Pi))},
	{x86.FLDLG2, x87(loadConstant(float.Log10Of2))},
	{x86.FLDLN2, x87(loadConstant(float.LnOf2))},
	{x86.FLDZ, x87(loadConstant(float.PlusZero))},

	{x86.FCHS, x87(changeSign(float.F80.Neg))},
	{x86.FABS, x87(changeSign(float.F80.Abs))},
	{x86.FSQRT, x87(unary80((*float.Env).Sqrt80))},
	{x86.FRNDINT, x87(unary80((*float.Env).RoundInt80))},
	{x86.F2XM1, x87(unary80((*float.Env).Exp80))},
	{x86.FSCALE, x87(binary80(0, (*float.Env).Scale80))},
	{x86.FPATAN, x87(binary80(1, (*float.Env).Atan80))},
	{x86.FYL2X, x87(binary80(1, (*float.Env).Log80))},
	{x86.FYL2XP1, x87(binary80(1, (*float.Env).Log1P80))},
	{x86.FPREM, x87(remainder(false))},
	{x86.FPREM1, x87(remainder(true))},
	{x86.FSIN, x87(trigonometric((*float.Env).Sin80))},
	{x86.FCOS, x87(trigonometric((*float.Env).Cos80))},
	{x86.FXTRACT, x87(pushing(func(e *float.Env, x float.F80) (first, pushed float.F80, ok bool) {
		first, pushed = e.Extract80(x)
		return first, pushed, true
	}))},
	{x86.FSINCOS, x87(pushing((*float.Env).SinCos80))},
	{x86.FPTAN, x87(pushing((*float.Env).Tan80))},
}

// x87 lowers a waiting instruction that fn executes, and that reads its memory operand, if it has one. fn returns false only if
// an access to memory failed; exceptions of the x87 are raised by the next waiting instruction.
func x87(fn execFunc) lowerFunc {
	fn = remember(fn)
	return func(l *lowerer) {
		l.emit(uop{op: uCheckWaiting})
		l.wholeRead(fn)
	}
}

// x87Store is x87 for an instruction that writes its memory operand.
func x87Store(fn execFunc) lowerFunc {
	fn = remember(fn)
	return func(l *lowerer) {
		l.emit(uop{op: uCheckWaiting})
		l.whole(fn)
	}
}

// remember is fn, and keeps the addresses of the instruction and its memory operand.
func remember(fn execFunc) execFunc {
	return func(c *CPU, u *uop, in *x86.Inst) bool {
		if !fn(c, u, in) {
			return false
		}
		c.fpu.ip = c.r[rIP] + uint64(u.off)
		if mem(in) != nil {
			c.fpu.dp = c.dataOffset(u, in)
		}
		return true
	}
}

// mem is the operand of an instruction that is in memory, or nil.
func mem(in *x86.Inst) *x86.Arg {
	for i := range in.Arg {
		if in.Arg[i].Kind == x86.MemOp {
			return &in.Arg[i]
		}
	}
	return nil
}

// dataOffset is the effective address of u's memory operand: its linear address without the segment's base.
func (c *CPU) dataOffset(u *uop, in *x86.Inst) uint64 {
	a := c.ea(u)
	if c.mode != x86.Mode64 {
		return uint64(uint32(a - c.seg[in.Mem.Seg].Base))
	}
	if in.Mem.Seg >= vmm.FS {
		a -= c.seg[in.Mem.Seg].Base
	}
	return a
}

// indefinite is the default NaN: the result of invalid operations (SDM vol. 1, table 4-3).
var indefinite = float.F80{SE: 0xffff, Frac: 3 << 62}

// The stack.

func (f *fpu) bit(i uint8) uint8 { return 1 << ((f.top + i) & 7) }

func (f *fpu) empty(i uint8) bool { return f.valid&f.bit(i) == 0 }

func (f *fpu) get(i uint8) float.F80 {
	v := f.st(i)
	return float.F80{SE: uint16(v.hi), Frac: v.lo}
}

func (f *fpu) set(i uint8, x float.F80) {
	*f.st(i) = vec{x.Frac, uint64(x.SE)}
	f.valid |= f.bit(i)
}

func (f *fpu) pop() {
	f.valid &^= f.bit(0)
	f.top = (f.top + 1) & 7
}

// push must not meet a register that is not empty.
func (f *fpu) push(x float.F80) {
	f.top = (f.top - 1) & 7
	f.set(0, x)
}

// begin prepares the Env for an instruction.
func (f *fpu) begin() *float.Env {
	f.x87.Flags, f.x87.C1 = 0, false
	return &f.x87
}

// end puts what the instruction met into the status word, and tells whether its result is to be written: it
// is not after an unmasked exception that is detected before the operation.
func (f *fpu) end() bool {
	f.setC1(f.x87.C1)
	f.sw |= uint16(f.x87.Flags)
	return f.x87.Flags&^f.x87.Mask&float.Pre == 0
}

// endStore is end for a result that goes to memory or is an integer: nor is it written after unmasked overflow or underflow.
func (f *fpu) endStore() bool {
	return f.end() && f.x87.Flags&^f.x87.Mask&(float.OE|float.UE) == 0
}

func (f *fpu) setC1(on bool) {
	f.sw &^= swC1
	if on {
		f.sw |= swC1
	}
}

// stackFault meets a stack overflow, or else underflow (SDM vol. 1, 8.5.1.1). It tells whether the exception is masked, and
// the indefinite value takes the place of the result.
func (f *fpu) stackFault(overflow bool) bool {
	f.sw |= fpIE | swSF
	f.setC1(overflow)
	return f.cw&fpIE != 0
}

// pushNew pushes x, unless the register is not empty.
func (f *fpu) pushNew(x float.F80) {
	if !f.empty(7) {
		if !f.stackFault(true) {
			return
		}
		x = indefinite
	}
	f.push(x)
}

// operand is that of an arithmetic instruction or comparison in memory, or in the last register named.
// ok is false, with stop set, if it cannot be loaded; empty is set if the register is.
func (c *CPU) operand(u *uop, in *x86.Inst) (x float.Operand, empty, ok bool) {
	m := mem(in)
	if m == nil {
		i := lastRegister(in)
		return float.Of80(c.fpu.get(i)), c.fpu.empty(i), true
	}
	v, ok := c.load(c.ea(u), m.Size)
	switch {
	case !ok:
	case isInteger(in.Op):
		x = float.OfInt(signed64(v, m.Size))
	case m.Size == 4:
		x = float.Of32(uint32(v))
	default:
		x = float.Of64(v)
	}
	return x, false, ok
}

func isInteger(op x86.Op) bool { return op >= x86.FIADD && op <= x86.FIDIVR }

// signed64 is an integer of size bytes.
func signed64(v uint64, size uint8) int64 { return int64(v<<(64-8*size)) >> (64 - 8*size) }

// lastRegister is the stack register that an instruction names last; ST(1) if it names none.
func lastRegister(in *x86.Inst) uint8 {
	i := uint8(1)
	for _, a := range in.Arg {
		if a.Kind == x86.ST {
			i = a.Reg
		}
	}
	return i
}

type operation80 = func(e *float.Env, a, b float.Operand) float.F80

func reversed(f operation80) operation80 {
	return func(e *float.Env, a, b float.Operand) float.F80 { return f(e, b, a) }
}

// arithmetic executes destination = f(destination, source) and pops so often.
func arithmetic(f operation80, pops int) execFunc {
	return func(c *CPU, u *uop, in *x86.Inst) bool {
		p := &c.fpu
		b, empty, ok := c.operand(u, in)
		if !ok {
			return false
		}
		dst := uint8(0)
		if in.Arg[0].Kind == x86.ST {
			dst = in.Arg[0].Reg
		}
		r := indefinite
		if empty || p.empty(dst) {
			ok = p.stackFault(false)
		} else {
			r = f(p.begin(), float.Of80(p.get(dst)), b)
			ok = p.end()
		}
		if ok {
			p.set(dst, r)
			if pops != 0 {
				p.pop()
			}
		}
		return true
	}
}

type comparison80 = func(e *float.Env, a, b float.Operand) float.Relation

// relationCodes are the condition codes for relations (SDM vol. 1, table 8-6).
var relationCodes = [4]uint16{
	float.Less: swC0, float.Equal: swC3, float.Greater: 0, float.Unordered: swC0 | swC2 | swC3,
}

// compare80 compares ST(0) with b, which is unordered if a register is empty. ok is false after an unmasked exception: then
// nothing is popped.
func (f *fpu) compare80(fn comparison80, b float.Operand, empty bool) (r float.Relation, ok bool) {
	if empty || f.empty(0) {
		return float.Unordered, f.stackFault(false)
	}
	r = fn(f.begin(), float.Of80(f.get(0)), b)
	return r, f.end()
}

// setRelation sets the condition codes. That happens after unmasked exceptions, too.
func (f *fpu) setRelation(r float.Relation) {
	f.sw = f.sw&^(swC0|swC2|swC3) | relationCodes[r&3]
}

func comparison(fn comparison80, pops int) execFunc {
	return func(c *CPU, u *uop, in *x86.Inst) bool {
		b, empty, ok := c.operand(u, in)
		if !ok {
			return false
		}
		r, ok := c.fpu.compare80(fn, b, empty)
		c.fpu.setRelation(r)
		if ok {
			for range pops {
				c.fpu.pop()
			}
		}
		return true
	}
}

// flagsComparison sets the flags as COMISD does, after unmasked exceptions, too. C1 stays, but for a stack fault.
func flagsComparison(fn comparison80, pops int) execFunc {
	return func(c *CPU, u *uop, in *x86.Inst) bool {
		p, i := &c.fpu, lastRegister(in)
		c1 := p.sw&swC1 != 0
		r, ok := p.compare80(fn, float.Of80(p.get(i)), p.empty(i))
		if !p.empty(0) && !p.empty(i) {
			p.setC1(c1)
		}
		c.setRelation(r)
		if ok {
			for range pops {
				p.pop()
			}
		}
		return true
	}
}

func execFTST(c *CPU, _ *uop, _ *x86.Inst) bool {
	r, _ := c.fpu.compare80((*float.Env).Compare80, float.OfInt(0), false)
	c.fpu.setRelation(r)
	return true
}

// execFXAM tells the class of ST(0) in C3, C2 and C0 and its sign in C1.
func execFXAM(c *CPU, _ *uop, _ *x86.Inst) bool {
	p := &c.fpu
	x := p.get(0)
	class := uint16(x.Class())
	if p.empty(0) {
		class = 5
	}
	p.sw = p.sw&^swCond | class&1*swC0 | class>>1&1*swC2 | class>>2&1*swC3
	p.setC1(x.SE>>15 != 0)
	return true
}

// load80 reads a value of 10 bytes.
func (c *CPU) load80(a uint64) (x float.F80, ok bool) {
	var b [10]byte
	if !c.loadBlock(a, b[:]) {
		return x, false
	}
	return getF80(b[:]), true
}

func execFLD(c *CPU, u *uop, in *x86.Inst) bool {
	p := &c.fpu
	m := mem(in)
	if m == nil {
		i := lastRegister(in)
		x := p.get(i)
		p.setC1(false)
		if p.empty(i) {
			if !p.stackFault(false) {
				return true
			}
			x = indefinite
			p.valid &^= p.bit(7) // one stack fault is enough
		}
		p.pushNew(x)
		return true
	}
	a := c.ea(u)
	if m.Size == 10 {
		x, ok := c.load80(a)
		if ok {
			p.setC1(false)
			p.pushNew(x)
		}
		return ok
	}
	v, ok := c.load(a, m.Size)
	if !ok {
		return false
	}
	if !p.empty(7) {
		p.pushNew(indefinite)
		return true
	}
	var x float.F80
	if m.Size == 4 {
		x = p.begin().Load32(uint32(v))
	} else {
		x = p.begin().Load64(v)
	}
	// An unmasked denormal operand is loaded nevertheless.
	if p.end() || p.x87.Flags == float.DE {
		p.push(x)
	}
	return true
}

func execFILD(c *CPU, u *uop, in *x86.Inst) bool {
	m := mem(in)
	v, ok := c.load(c.ea(u), m.Size)
	if ok {
		c.fpu.setC1(false)
		c.fpu.pushNew(float.LoadInt(signed64(v, m.Size)))
	}
	return ok
}

func execFBLD(c *CPU, u *uop, _ *x86.Inst) bool {
	var b [10]byte
	if !c.loadBlock(c.ea(u), b[:]) {
		return false
	}
	c.fpu.setC1(false)
	c.fpu.pushNew(float.LoadBCD(&b))
	return true
}

func loadConstant(k float.Constant) execFunc {
	return func(c *CPU, _ *uop, _ *x86.Inst) bool {
		c.fpu.setC1(false)
		c.fpu.pushNew(c.fpu.x87.Load(k))
		return true
	}
}

// execFST executes FST and FSTP to a register.
func execFST(c *CPU, u *uop, in *x86.Inst) bool {
	if mem(in) != nil {
		return execStore(c, u, in)
	}
	p := &c.fpu
	if x, ok := p.source(); ok {
		p.set(lastRegister(in), x)
		if in.Op == x86.FSTP {
			p.pop()
		}
	}
	return true
}

// source is ST(0) for an instruction that only moves it: ok is false if there is nothing to be moved.
func (f *fpu) source() (x float.F80, ok bool) {
	if f.empty(0) {
		return indefinite, f.stackFault(false)
	}
	f.setC1(false)
	return f.get(0), true
}

// execStore executes what stores ST(0) to memory, and pops all but FST and FIST. The operand has to be there even if an
// unmasked exception keeps it from being written.
func execStore(c *CPU, u *uop, in *x86.Inst) bool {
	p, size, a := &c.fpu, mem(in).Size, c.ea(u)
	before := p.sw
	x, ok := indefinite, true
	empty := p.empty(0)
	if empty {
		ok = p.stackFault(false)
	} else {
		x = p.get(0)
	}
	var b [10]byte
	var v uint64
	e := p.begin()
	switch {
	case in.Op == x86.FBSTP:
		b = e.StoreBCD(x)
	case in.Op == x86.FIST || in.Op == x86.FISTP:
		v = uint64(e.StoreInt(x, uint(size)*8, e.Round))
	case in.Op == x86.FISTTP:
		v = uint64(e.StoreInt(x, uint(size)*8, float.Zero))
	case size == 4:
		v = uint64(e.Store32(x))
	case size == 8:
		v = e.Store64(x)
	default:
		putF80(b[:], x)
	}
	if !empty {
		ok = p.endStore()
	}
	var there bool
	switch {
	case !ok:
		there = c.probe(a, uint64(size))
	case size == 10:
		there = c.storeBlock(a, b[:])
	default:
		there = c.store(a, v, size)
	}
	if !there {
		p.sw = before
		return false
	}
	if ok && in.Op != x86.FST && in.Op != x86.FIST {
		p.pop()
	}
	return true
}

func putF80(b []byte, x float.F80) {
	binary.LittleEndian.PutUint64(b, x.Frac)
	binary.LittleEndian.PutUint16(b[8:], x.SE)
}

func getF80(b []byte) float.F80 {
	return float.F80{Frac: binary.LittleEndian.Uint64(b), SE: binary.LittleEndian.Uint16(b[8:])}
}

func execFXCH(c *CPU, _ *uop, in *x86.Inst) bool {
	p, i := &c.fpu, lastRegister(in)
	x, y := p.get(0), p.get(i)
	p.setC1(false)
	if p.empty(0) || p.empty(i) {
		if !p.stackFault(false) {
			return true
		}
		if p.empty(0) {
			x = indefinite
		}
		if p.empty(i) {
			y = indefinite
		}
	}
	p.set(0, y)
	p.set(i, x)
	return true
}

// conditionalMove executes FCMOVcc, with the condition as encoded in Jcc.
func conditionalMove(cc uint8) execFunc {
	return func(c *CPU, _ *uop, in *x86.Inst) bool {
		p, i := &c.fpu, lastRegister(in)
		if p.empty(0) || p.empty(i) {
			if p.stackFault(false) {
				p.set(0, indefinite)
			}
			return true
		}
		if c.cond(cc) {
			p.set(0, p.get(i))
		}
		return true
	}
}

func changeSign(f func(float.F80) float.F80) execFunc {
	return func(c *CPU, _ *uop, _ *x86.Inst) bool {
		x, ok := c.fpu.source()
		if ok && !c.fpu.empty(0) {
			x = f(x)
		}
		if ok {
			c.fpu.set(0, x)
		}
		return true
	}
}

// unary80 executes ST(0) = f(ST(0)).
func unary80(f func(e *float.Env, x float.F80) float.F80) execFunc {
	return func(c *CPU, _ *uop, _ *x86.Inst) bool {
		p := &c.fpu
		r, ok := indefinite, true
		if p.empty(0) {
			ok = p.stackFault(false)
		} else {
			r = f(p.begin(), p.get(0))
			ok = p.end()
		}
		if ok {
			p.set(0, r)
		}
		return true
	}
}

// binary80 executes ST(dst) = f(ST(dst), ST(1-dst)), where dst is 0 or 1; then, if it is 1, it pops.
func binary80(dst uint8, f func(e *float.Env, a, b float.F80) float.F80) execFunc {
	return func(c *CPU, _ *uop, _ *x86.Inst) bool {
		p := &c.fpu
		r, ok := indefinite, true
		if p.empty(0) || p.empty(1) {
			ok = p.stackFault(false)
		} else {
			r = f(p.begin(), p.get(dst), p.get(1-dst))
			ok = p.end()
		}
		if ok {
			p.set(dst, r)
			if dst == 1 {
				p.pop()
			}
		}
		return true
	}
}

// remainder executes FPREM and FPREM1. Where there is no quotient, C0 and C3 stay.
func remainder(nearest bool) execFunc {
	return func(c *CPU, _ *uop, _ *x86.Inst) bool {
		p := &c.fpu
		p.sw &^= swC2
		if p.empty(0) || p.empty(1) {
			if p.stackFault(false) {
				p.set(0, indefinite)
			}
			return true
		}
		r, q := p.begin().Rem80(p.get(0), p.get(1), nearest)
		if !p.end() {
			return true
		}
		p.set(0, r)
		if r.Class() == float.ClassNaN {
			return true
		}
		low := uint16(q.Low)
		p.sw = p.sw&^swCond | low&1*swC1 | low>>1&1*swC3 | low>>2&1*swC0
		if q.Partial {
			p.sw |= swC2
		}
		return true
	}
}

// trigonometric executes FSIN and FCOS. An operand out of range stays, and C2 is set.
func trigonometric(f func(e *float.Env, x float.F80) (float.F80, bool)) execFunc {
	return func(c *CPU, _ *uop, _ *x86.Inst) bool {
		p := &c.fpu
		p.sw &^= swC2
		r, ok := indefinite, true
		if p.empty(0) {
			ok = p.stackFault(false)
		} else if r, ok = f(p.begin(), p.get(0)); !ok {
			p.setC1(false)
			p.sw |= swC2
			return true
		} else {
			ok = p.end()
		}
		if ok {
			p.set(0, r)
		}
		return true
	}
}

// pushing executes what has two results: the first replaces ST(0), then the second is pushed. An operand
// out of range stays, and C2 is set.
func pushing(f func(e *float.Env, x float.F80) (first, pushed float.F80, ok bool)) execFunc {
	return func(c *CPU, _ *uop, in *x86.Inst) bool {
		p := &c.fpu
		if in.Op != x86.FXTRACT {
			p.sw &^= swC2
		}
		first, pushed, ok := indefinite, indefinite, true
		if p.empty(0) || !p.empty(7) {
			ok = p.stackFault(!p.empty(0))
		} else if first, pushed, ok = f(p.begin(), p.get(0)); !ok {
			p.setC1(false)
			p.sw |= swC2
			return true
		} else {
			ok = p.end()
		}
		if ok {
			p.set(0, first)
			p.push(pushed)
		}
		return true
	}
}
