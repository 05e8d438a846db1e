package soft

import (
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/amd64"
	"ftvm/vmm/soft/x86"
)

// emitter emits the code of a micro-operation, which does exactly what its function does, or leaves it to that.
type emitter func(k *compiler, u *uop)

// emitters are those of the micro-operations that are compiled; the others are executed in Go.
var emitters [numOpcodes]emitter

// sizes are operand sizes, by the number of the width.
var sizes = [4]uint8{1, 2, 4, 8}

// row is a row of a table: what the host has for a micro-operation, or for the first of those that exist for several widths.
type row[T any] struct {
	op   opcode
	host T
}

// The operations that the host has as well.
var (
	hostArith = []row[amd64.Arith]{
		{uAddR8, amd64.ADD}, {uOrR8, amd64.OR}, {uAdcR8, amd64.ADC}, {uSbbR8, amd64.SBB}, {uAndR8, amd64.AND},
		{uSubR8, amd64.SUB}, {uXorR8, amd64.XOR}, {uCmpR8, amd64.CMP}, {uTestR8, amd64.TEST},
	}
	hostUnary = []row[amd64.Unary]{{uIncR8, amd64.INC}, {uDecR8, amd64.DEC}, {uNegR8, amd64.NEG}, {uNotR8, amd64.NOT}}
	hostShift = []row[amd64.Shift]{
		{uRolR8, amd64.ROL}, {uRorR8, amd64.ROR}, {uShlR8, amd64.SHL}, {uShrR8, amd64.SHR}, {uSarR8, amd64.SAR},
	}
	quietArithR = []row[amd64.Arith]{
		{uAddR32Quiet, amd64.ADD}, {uOrR32Quiet, amd64.OR}, {uAndR32Quiet, amd64.AND}, {uSubR32Quiet, amd64.SUB}, {uXorR32Quiet, amd64.XOR},
	}
	quietArithL = []row[amd64.Arith]{
		{uAddL32Quiet, amd64.ADD}, {uOrL32Quiet, amd64.OR}, {uAndL32Quiet, amd64.AND}, {uSubL32Quiet, amd64.SUB}, {uXorL32Quiet, amd64.XOR},
	}
	quietUnary = []row[amd64.Unary]{{uIncR32Quiet, amd64.INC}, {uDecR32Quiet, amd64.DEC}, {uNegR32Quiet, amd64.NEG}}
	quietShift = []row[amd64.Shift]{
		{uRolI32Quiet, amd64.ROL}, {uRorI32Quiet, amd64.ROR}, {uShlI32Quiet, amd64.SHL}, {uShrI32Quiet, amd64.SHR}, {uSarI32Quiet, amd64.SAR},
	}
	// extensions has the sizes that moves with a sign extend from and to, in the order of their micro-operations.
	extensions = [...]struct{ from, to uint8 }{{1, 4}, {2, 4}, {1, 8}, {2, 8}, {4, 8}}
)

func init() {
	for w, size := range sizes {
		w := opcode(w)
		for _, r := range hostArith {
			emitters[r.op+w] = emitArithR(r.host, size, true)
			emitters[r.op+binaryL+w] = emitArithL(r.host, size, true)
			emitters[r.op+binaryM+w] = emitArithM(r.host, size)
		}
		for _, r := range hostUnary {
			emitters[r.op+w] = emitUnaryR(r.host, size, r.host != amd64.NOT)
			emitters[r.op+unaryM+w] = emitUnaryM(r.host, size)
		}
		emitters[uMov8+w] = emitMov(size)
		emitters[uLoad8+w] = emitLoad(size, atRD)
		emitters[uLoadW8+w] = emitLoad(size, atWR)
		emitters[uStore8+w] = emitStore(size)
	}
	for w, size := range sizes[2:] {
		w := opcode(w)
		for _, r := range hostShift {
			emitters[r.op+shiftI+w] = emitShiftImm(r.host, size, true)
			if r.host >= amd64.SHL {
				emitters[r.op+2+w] = emitShiftBy(r.host, size)
			}
		}
		for _, r := range quietArithR {
			emitters[r.op+w] = emitArithR(r.host, size, false)
		}
		for _, r := range quietArithL {
			emitters[r.op+w] = emitArithL(r.host, size, false)
		}
		for _, r := range quietUnary {
			emitters[r.op+w] = emitUnaryR(r.host, size, false)
		}
		for _, r := range quietShift {
			emitters[r.op+w] = emitShiftImm(r.host, size, false)
		}
		emitters[uImul32+w] = emitImul(size, true)
		emitters[uImul32Quiet+w] = emitImul(size, false)
		emitters[uXchg32+w] = emitXchg(size)
		emitters[uBswap32+w] = emitBswap(size)
	}
	for w, from := range sizes[:2] {
		extend := func(k *compiler, dst amd64.Reg, src amd64.Operand) { k.Movzx(dst, src, from) }
		emitters[uMovzx8+opcode(w)] = emitExtendR(extend)
		emitters[uLoadzx8+opcode(w)] = emitExtendL(from, extend)
	}
	for i, x := range extensions {
		extend := func(k *compiler, dst amd64.Reg, src amd64.Operand) { k.Movsx(x.to, dst, src, x.from) }
		emitters[uMovsx8to32+opcode(i)] = emitExtendR(extend)
		emitters[uLoadsx8to32+opcode(i)] = emitExtendL(x.from, extend)
	}
	for cc := range amd64.Cond(16) {
		emitters[uJO+opcode(cc)] = func(k *compiler, u *uop) {
			k.restore()
			k.branch(u, cc, int64(u.imm))
		}
		emitters[uSetO+opcode(cc)] = func(k *compiler, u *uop) {
			k.restore()
			k.Set(cc, slot(u.dst))
		}
		emitters[uCmov32O+opcode(cc)] = emitCmov(cc, 4)
		emitters[uCmov64O+opcode(cc)] = emitCmov(cc, 8)
	}
	for _, f := range fusions {
		r := hostArith[len(hostArith)-2] // CMP
		if f.compare >= uTestR8 {
			r = hostArith[len(hostArith)-1]
		}
		form := f.compare - r.op
		emitters[f.op] = emitFused(r.host, sizes[form%4], form/4*4, amd64.Cond(f.cond))
	}
	for _, r := range []row[emitter]{
		{uGoto, func(k *compiler, u *uop) { k.goTo(u, 0) }},
		{uNop, func(*compiler, *uop) {}},
		{uConst, func(k *compiler, u *uop) {
			k.result(u.dst, rdx, func(r amd64.Reg) { k.Const(r, u.imm) })
		}},
		{uIndex, func(k *compiler, u *uop) {
			base, index := k.reg(u.src, rcx), k.reg(u.index, rdx)
			k.result(u.dst, rdx, func(r amd64.Reg) { k.Lea(8, r, amd64.MX(base, index, u.shift&3, 0)) })
		}},
		{uAddr32, emitAddr32},
		{uGetHigh, emitGetHigh},
		{uSetHigh, emitSetHigh},
		{uLea, func(k *compiler, u *uop) { k.result(u.dst, rcx, func(r amd64.Reg) { k.address(r, u, 8) }) }},
		{uLea32, func(k *compiler, u *uop) { k.result(u.dst, rcx, func(r amd64.Reg) { k.address(r, u, 4) }) }},
		{uBt, emitBitTest},
		{uCdq, func(k *compiler, u *uop) {
			k.Load(4, rdx, slot(vmm.RAX))
			k.Shift(amd64.SAR, 4, amd64.R(rdx), 31)
			k.Store(8, slot(vmm.RDX), rdx)
			k.live = false
		}},
		{uCqo, func(k *compiler, u *uop) {
			k.Load(8, rdx, slot(vmm.RAX))
			k.Shift(amd64.SAR, 8, amd64.R(rdx), 63)
			k.Store(8, slot(vmm.RDX), rdx)
			k.live = false
		}},
		{uPush, emitPush},
		{uPop, emitPop},
		{uLeave, emitLeave},
		{uCall, func(k *compiler, u *uop) { k.call(u) }},
		{uCallR, func(k *compiler, u *uop) {
			k.Load(8, rcx, slot(u.src))
			k.callFar(u)
		}},
		{uRet, emitRet},
		{uJmp, func(k *compiler, u *uop) { k.goTo(u, int64(u.imm)) }},
		{uJmpR, func(k *compiler, u *uop) {
			k.Load(8, rcx, slot(u.src))
			k.find()
			k.goFar()
		}},
		{uInst, emitInst},
	} {
		emitters[r.op] = r.host
	}
}

// Arithmetic.

// prepare is to come right before an operation that reads CF.
func (k *compiler) prepare(op amd64.Arith) {
	if op == amd64.ADC || op == amd64.SBB {
		k.carryIn()
	}
}

func discards(op amd64.Arith) bool { return op == amd64.CMP || op == amd64.TEST }

// emitArithR is r[dst] op= r[src] + imm.
func emitArithR(op amd64.Arith, size uint8, flags bool) emitter {
	return func(k *compiler, u *uop) { k.arithR(u, op, size, flags) }
}

func (k *compiler) arithR(u *uop, op amd64.Arith, size uint8, flags bool) {
	dst := slot(u.dst)
	// A word of 4 bytes in memory is written with 8, to clear the upper half.
	widen := dst.IsMem() && size == 4 && !discards(op)
	if widen {
		k.Load(4, rdx, dst)
		dst = amd64.R(rdx)
	}
	switch {
	case immediate(u, size):
		k.prepare(op)
		k.ArithImm(op, size, dst, int32(u.imm))
	case dst.IsMem():
		src := k.source(u, rdi)
		k.prepare(op)
		k.Arith(op, size, dst, src)
	case u.src == rZero:
		k.Const(rdi, u.imm)
		k.prepare(op)
		k.Arith(op, size, dst, rdi)
	default:
		k.prepare(op)
		k.ArithLoad(op, size, dst.Reg(), slot(u.src))
	}
	if flags {
		k.saveFlags(logical(op))
	} else {
		k.live = false
	}
	if widen {
		k.Store(8, slot(u.dst), rdx)
	}
}

// emitArithL is r[dst] op= memory.
func emitArithL(op amd64.Arith, size uint8, flags bool) emitter {
	return func(k *compiler, u *uop) { k.arithL(u, op, size, flags) }
}

func (k *compiler) arithL(u *uop, op amd64.Arith, size uint8, flags bool) {
	m := k.memory(u, size, atRD)
	dst, home := rdi, !slot(u.dst).IsMem()
	if home {
		dst = slot(u.dst).Reg()
	} else if size == 4 {
		k.Load(4, dst, slot(u.dst))
	} else {
		k.Load(8, dst, slot(u.dst))
	}
	k.prepare(op)
	k.ArithLoad(op, size, dst, m)
	if flags {
		k.saveFlags(logical(op))
	}
	if !home && !discards(op) {
		k.Store(8, slot(u.dst), dst)
	}
}

// emitArithM is memory op= r[src] + imm.
func emitArithM(op amd64.Arith, size uint8) emitter {
	return func(k *compiler, u *uop) { k.arithM(u, op, size) }
}

func (k *compiler) arithM(u *uop, op amd64.Arith, size uint8) {
	tlb := atWR
	if discards(op) {
		tlb = atRD
	}
	m := k.memory(u, size, tlb)
	if immediate(u, size) {
		k.prepare(op)
		k.ArithImm(op, size, m, int32(u.imm))
	} else {
		src := k.source(u, rdi)
		k.prepare(op)
		k.Arith(op, size, m, src)
	}
	k.saveFlags(logical(op))
}

func emitUnaryR(op amd64.Unary, size uint8, flags bool) emitter {
	return func(k *compiler, u *uop) {
		f := func(r amd64.Reg) {
			k.unary(op, size, amd64.R(r), flags)
		}
		if slot(u.dst).IsMem() && size == 4 {
			k.Load(4, rdx, slot(u.dst))
			f(rdx)
			k.Store(8, slot(u.dst), rdx)
			return
		}
		k.unary(op, size, slot(u.dst), flags)
	}
}

// emitUnaryM is memory = op memory.
func emitUnaryM(op amd64.Unary, size uint8) emitter {
	return func(k *compiler, u *uop) { k.unary(op, size, k.memory(u, size, atWR), op != amd64.NOT) }
}

func (k *compiler) unary(op amd64.Unary, size uint8, dst amd64.Operand, flags bool) {
	keepsCarry := op == amd64.INC || op == amd64.DEC
	if flags && keepsCarry {
		k.carryIn()
	}
	k.Unary(op, size, dst)
	switch {
	case flags:
		k.saveFlags(false)
	case op != amd64.NOT:
		k.live = false
	}
}

// emitShiftImm is a shift or rotation by imm, which is neither 0 nor the width or more.
func emitShiftImm(op amd64.Shift, size uint8, flags bool) emitter {
	return func(k *compiler, u *uop) {
		n := uint8(u.imm & 63)
		k.shifted(u.dst, size, func(r amd64.Reg) {
			k.Shift(op, size, amd64.R(r), n)
			if flags {
				k.shiftFlags(op, size, r, n)
			}
		})
		k.live = false
	}
}

// shifted makes slot i what f makes of it in a register other than RCX and RDX.
func (k *compiler) shifted(i, size uint8, f func(r amd64.Reg)) {
	o := slot(i)
	if !o.IsMem() {
		f(o.Reg())
		return
	}
	k.Load(size, rdi, o)
	f(rdi)
	k.Store(8, o, rdi)
}

// shiftFlags sets the guest's flags after r, of size bytes, was shifted by n, or, if that is 0, by a number that is not 0. CF is the
// last bit that went out or came around, and OF as if the last step had been the only one; see alu.go.
func (k *compiler) shiftFlags(op amd64.Shift, size uint8, r amd64.Reg, n uint8) {
	if op <= amd64.ROR {
		k.Set(amd64.B, amd64.R(rdx))
		bit := 8*size - 1
		if op == amd64.ROR {
			bit--
		}
		k.BitTest(size, amd64.R(r), bit)
		k.Set(amd64.B, amd64.R(rcx))
		k.Arith(amd64.XOR, 1, amd64.R(rcx), rdx)
		k.setCFOF()
		return
	}
	k.Lahf()
	switch {
	case n == 1:
		k.Set(amd64.O, amd64.R(rax))
	case op == amd64.SHL: // CF xor the sign
		k.Set(amd64.B, amd64.R(rdx))
		k.Set(amd64.S, amd64.R(rax))
		k.Arith(amd64.XOR, 1, amd64.R(rax), rdx)
	case op == amd64.SHR && n == 0: // the sign before the last step
		k.BitTest(size, amd64.R(r), 8*size-2)
		k.Set(amd64.B, amd64.R(rax))
	default:
		k.StoreImm(1, amd64.R(rax), 0)
	}
	k.ArithImm(amd64.OR, 4, amd64.R(rax), flagAF<<8)
}

// emitShiftBy is a shift by r[src] + imm. By 0 it changes no flags.
func emitShiftBy(op amd64.Shift, size uint8) emitter {
	return func(k *compiler, u *uop) {
		if u.src == rZero {
			k.Const(rcx, u.imm)
		} else {
			k.Load(8, rcx, slot(u.src))
		}
		k.shifted(u.dst, size, func(r amd64.Reg) {
			k.ArithImm(amd64.TEST, 1, amd64.R(rcx), int32(8*size-1))
			none := k.Skip(amd64.E)
			k.ShiftCL(op, size, amd64.R(r))
			k.shiftFlags(op, size, r, 0)
			k.Land(none)
			if size == 4 {
				k.Load(4, r, amd64.R(r)) // clears the upper half even if the count is 0
			}
		})
		k.live = false
	}
}

// emitImul is r[dst] = r[src] * (r[index] + imm).
func emitImul(size uint8, flags bool) emitter {
	return func(k *compiler, u *uop) {
		r, dst := rdx, slot(u.dst)
		if !dst.IsMem() && (u.index == rZero || u.index == u.dst) {
			r = dst.Reg()
		}
		switch {
		case u.index == rZero:
			k.ImulImm(size, r, slot(u.src), int32(u.imm))
		case r != rdx:
			k.Imul(size, r, slot(u.src))
		default:
			k.Load(size, r, slot(u.index))
			k.Imul(size, r, slot(u.src))
		}
		if r == rdx {
			k.Store(8, dst, rdx)
		}
		if flags {
			k.Set(amd64.O, amd64.R(rdx))
			k.Load(4, rcx, amd64.R(rdx))
			k.setCFOF()
		}
		k.live = false
	}
}

// bitTest: CF is bit r[src] + imm of r[dst], whose width is shift + 1.
func emitBitTest(k *compiler, u *uop) {
	size := (u.shift + 1) / 8
	bits := k.reg(u.dst, rdx)
	if u.src == rZero {
		k.BitTest(size, amd64.R(bits), uint8(u.imm)&u.shift)
	} else {
		k.BitTestReg(size, amd64.R(bits), k.reg(u.src, rcx))
	}
	k.Set(amd64.B, amd64.R(rdx))
	k.ArithImm(amd64.AND, 4, amd64.R(rax), ^0x100)
	k.setCarry()
}

// emitInst is for the instructions that one function executes whole, of which some are compiled all the same.
func emitInst(k *compiler, u *uop) {
	in := &k.b.insts[u.imm]
	a := in.Arg[0]
	switch {
	case a.Size < 4 || a.Kind != x86.GPR && a.Kind != x86.MemOp:
	case in.Op == x86.MUL:
		k.wide(u, a, amd64.MUL)
		return
	case in.Op == x86.IMUL && in.Arg[1].Kind == x86.None:
		k.wide(u, a, amd64.IMUL)
		return
	case in.Op == x86.DIV:
		k.wide(u, a, amd64.DIV)
		return
	}
	k.inGo()
}

// wide is a multiplication or division of RDX:RAX, whose operand is a.
func (k *compiler) wide(u *uop, a x86.Arg, op amd64.Unary) {
	if a.Kind == x86.MemOp {
		k.Load(a.Size, rdi, k.memory(u, a.Size, atRD))
	} else {
		k.Load(a.Size, rdi, slot(a.Reg))
	}
	if op == amd64.DIV { // by 0, or with a quotient that does not fit?
		k.ArithLoad(amd64.CMP, a.Size, rdi, slot(vmm.RDX))
		k.slowIf(amd64.BE)
		k.Load(8, rdx, slot(vmm.RDX))
	}
	k.Load(8, rcx, amd64.R(rax))
	k.Load(8, rax, slot(vmm.RAX))
	k.Unary(op, a.Size, amd64.R(rdi))
	k.Store(8, slot(vmm.RAX), rax)
	k.Store(8, slot(vmm.RDX), rdx)
	k.Load(8, rax, amd64.R(rcx))
	if op == amd64.DIV { // keeps CF and OF, and sets AF alone of the others
		k.ArithImm(amd64.AND, 4, amd64.R(rax), flagCF<<8|1)
		k.ArithImm(amd64.OR, 4, amd64.R(rax), flagAF<<8)
		k.live = false
		return
	}
	k.Set(amd64.O, amd64.R(rdx))
	k.Load(4, rcx, amd64.R(rdx))
	k.setCFOF()
}

// Moves.

func emitMov(size uint8) emitter {
	return func(k *compiler, u *uop) {
		dst := slot(u.dst)
		switch {
		case u.src == rZero && size >= 4 && !dst.IsMem():
			v := u.imm
			if size == 4 {
				v = uint64(uint32(v))
			}
			k.Const(dst.Reg(), v)
		case u.src == rZero && size < 4:
			k.StoreImm(size, dst, int32(u.imm))
		case !dst.IsMem():
			k.Load(size, dst.Reg(), slot(u.src))
		case size == 4:
			if u.src == rZero {
				k.Const(rdx, uint64(uint32(u.imm)))
			} else {
				k.Load(4, rdx, slot(u.src))
			}
			k.Store(8, dst, rdx)
		default:
			k.Store(size, dst, k.source(u, rdx))
		}
	}
}

func emitLoad(size uint8, tlb int32) emitter {
	return func(k *compiler, u *uop) {
		m := k.memory(u, size, tlb)
		dst := slot(u.dst)
		if !dst.IsMem() {
			k.Load(size, dst.Reg(), m)
			return
		}
		k.Load(size, rdx, m)
		if size < 4 {
			k.Store(size, dst, rdx)
		} else {
			k.Store(8, dst, rdx)
		}
	}
}

func emitStore(size uint8) emitter {
	return func(k *compiler, u *uop) {
		m := k.memory(u, size, atWR)
		if immediate(u, size) {
			k.StoreImm(size, m, int32(u.imm))
		} else {
			k.Store(size, m, k.source(u, rdi))
		}
	}
}

// extension makes dst of src.
type extension func(k *compiler, dst amd64.Reg, src amd64.Operand)

func emitExtendR(extend extension) emitter {
	return func(k *compiler, u *uop) {
		k.result(u.dst, rdx, func(r amd64.Reg) { extend(k, r, slot(u.src)) })
	}
}

func emitExtendL(from uint8, extend extension) emitter {
	return func(k *compiler, u *uop) {
		m := k.memory(u, from, atRD)
		k.result(u.dst, rdx, func(r amd64.Reg) { extend(k, r, m) })
	}
}

func emitCmov(cc amd64.Cond, size uint8) emitter {
	return func(k *compiler, u *uop) {
		k.restore()
		k.changed(u.dst, rdx, func(r amd64.Reg) { k.Cmov(cc, size, r, slot(u.src)) })
	}
}

func emitXchg(size uint8) emitter {
	return func(k *compiler, u *uop) {
		k.Load(size, rdx, slot(u.dst))
		k.Load(size, rcx, slot(u.src))
		k.Store(8, slot(u.dst), rcx)
		k.Store(8, slot(u.src), rdx)
	}
}

func emitBswap(size uint8) emitter {
	return func(k *compiler, u *uop) {
		k.changed(u.dst, rdx, func(r amd64.Reg) { k.Bswap(size, r) })
	}
}

func emitGetHigh(k *compiler, u *uop) {
	k.Load(4, rdx, slot(u.src))
	k.Shift(amd64.SHR, 4, amd64.R(rdx), 8)
	k.live = false
	k.result(u.dst, rdx, func(r amd64.Reg) { k.Movzx(r, amd64.R(rdx), 1) })
}

func emitSetHigh(k *compiler, u *uop) {
	k.Movzx(rdx, slot(u.src), 1)
	k.Shift(amd64.SHL, 4, amd64.R(rdx), 8)
	k.ArithImm(amd64.AND, 8, slot(u.dst), ^0xff00)
	k.Arith(amd64.OR, 8, slot(u.dst), rdx)
	k.live = false
}

func emitAddr32(k *compiler, u *uop) {
	if u.imm != math.MaxUint32 {
		k.inGo()
		return
	}
	v := *u
	v.seg = rZero
	k.address(rcx, &v, 4)
	if u.seg != rZero {
		k.ArithLoad(amd64.ADD, 8, rcx, slot(u.seg))
		k.live = false
	}
	if dst := slot(u.dst); dst.IsMem() {
		k.Store(8, dst, rcx)
	} else {
		k.Load(8, dst.Reg(), amd64.R(rcx))
	}
}
