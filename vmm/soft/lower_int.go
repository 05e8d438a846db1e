package soft

import (
	"math"
	"math/bits"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// integerLowering is how the integer instructions of user level are lowered, and those moves and pushes
// that have a system register for an operand.
var integerLowering = append([]lowerEntry{
	{x86.ADD, lowerBinary(uAddR8)},
	{x86.OR, lowerBinary(uOrR8)},
	{x86.ADC, lowerBinary(uAdcR8)},
	{x86.SBB, lowerBinary(uSbbR8)},
	{x86.AND, lowerBinary(uAndR8)},
	{x86.SUB, lowerBinary(uSubR8)},
	{x86.XOR, lowerBinary(uXorR8)},
	{x86.CMP, lowerBinary(uCmpR8)},
	{x86.TEST, lowerBinary(uTestR8)},
	{x86.NOT, lowerUnary(uNotR8)},
	{x86.NEG, lowerUnary(uNegR8)},
	{x86.INC, lowerUnary(uIncR8)},
	{x86.DEC, lowerUnary(uDecR8)},
	{x86.MUL, reads((*CPU).mulWide)},
	{x86.IMUL, lowerImul},
	{x86.DIV, reads((*CPU).div)},
	{x86.IDIV, reads((*CPU).idiv)},
	{x86.DAA, inst((*CPU).daa)},
	{x86.DAS, inst((*CPU).das)},
	{x86.AAA, inst((*CPU).aaa)},
	{x86.AAS, inst((*CPU).aas)},
	{x86.AAM, inst((*CPU).aam)},
	{x86.AAD, inst((*CPU).aad)},

	{x86.ROL, lowerShift(uRolR8)},
	{x86.ROR, lowerShift(uRorR8)},
	{x86.RCL, inst(modifies((*CPU).rcl))},
	{x86.RCR, inst(modifies((*CPU).rcr))},
	{x86.SHL, lowerShift(uShlR8)},
	{x86.SHR, lowerShift(uShrR8)},
	{x86.SAR, lowerShift(uSarR8)},
	{x86.SHLD, inst(doubleShift((*CPU).shld))},
	{x86.SHRD, inst(doubleShift((*CPU).shrd))},

	{x86.BT, lowerBitTest(nil)},
	{x86.BTS, lowerBitTest(setBit)},
	{x86.BTR, lowerBitTest(clearBit)},
	{x86.BTC, lowerBitTest(flipBit)},
	{x86.BSF, reads((*CPU).bsf)},
	{x86.BSR, reads((*CPU).bsr)},
	{x86.POPCNT, reads((*CPU).popcnt)},
	{x86.CRC32, reads((*CPU).crc32)},

	{x86.MOV, lowerMov},
	{x86.MOVNTI, lowerMov},
	{x86.MOVZX, lowerMovzx},
	{x86.MOVSX, lowerMovsx},
	{x86.MOVSXD, lowerMovsx},
	{x86.LEA, lowerLea},
	{x86.XCHG, lowerXchg},
	{x86.BSWAP, lowerBswap},
	{x86.XLAT, inst((*CPU).xlat)},
	{x86.CBW, lowerCbw},
	{x86.CWD, lowerCwd},
	{x86.XADD, inst((*CPU).xadd)},
	{x86.CMPXCHG, inst((*CPU).cmpxchg)},
	{x86.CMPXCHG8B, inst((*CPU).cmpxchg8b)},
	{x86.CMPXCHG16B, inst((*CPU).cmpxchg16b)},

	{x86.PUSH, lowerPush},
	{x86.POP, lowerPop},
	{x86.PUSHA, inst((*CPU).pusha)},
	{x86.POPA, inst((*CPU).popa)},
	{x86.ENTER, inst((*CPU).enter)},
	{x86.LEAVE, lowerLeave},

	{x86.CLC, inst((*CPU).clc)},
	{x86.STC, inst((*CPU).stc)},
	{x86.CMC, inst((*CPU).cmc)},
	{x86.CLD, inst((*CPU).cld)},
	{x86.STD, inst((*CPU).std)},
	{x86.LAHF, inst((*CPU).lahf)},
	{x86.SAHF, inst((*CPU).sahf)},
	{x86.SALC, inst((*CPU).salc)},

	{x86.JMP, lowerJmp},
	{x86.CALL, lowerCall},
	{x86.RET, lowerRet},
	{x86.LOOP, instEnd((*CPU).loop)},
	{x86.LOOPE, instEnd((*CPU).loop)},
	{x86.LOOPNE, instEnd((*CPU).loop)},
	{x86.JRCXZ, instEnd((*CPU).jrcxz)},
	{x86.BOUND, func(l *lowerer) { l.emit(l.bareUop((*CPU).bound, uInst)) }},
	{x86.UD0, func(l *lowerer) { l.fault(excUD) }},
	{x86.UD1, func(l *lowerer) { l.fault(excUD) }},
	{x86.UD2, func(l *lowerer) { l.fault(excUD) }},

	{x86.MOVS, lowerString((*CPU).movs)},
	{x86.CMPS, lowerString((*CPU).cmps)},
	{x86.STOS, lowerString((*CPU).stos)},
	{x86.LODS, lowerString((*CPU).lods)},
	{x86.SCAS, lowerString((*CPU).scas)},
	{x86.INS, lowerStringIO((*CPU).ins)},
	{x86.OUTS, lowerStringIO((*CPU).outs)},

	{x86.NOP, lowerNop},
	{x86.PAUSE, lowerNop},
	{x86.PREFETCHNTA, lowerNop},
	{x86.PREFETCHT0, lowerNop},
	{x86.PREFETCHT1, lowerNop},
	{x86.PREFETCHT2, lowerNop},
	{x86.PREFETCHW, lowerNop},
	{x86.CLFLUSH, reads((*CPU).clflush)},
	{x86.LFENCE, lowerNop},
	{x86.MFENCE, lowerNop},
	{x86.SFENCE, lowerNop},
}, byCondition()...)

// byCondition are the instructions that exist for every condition.
func byCondition() (table []lowerEntry) {
	for cc := range x86.Op(16) {
		table = append(table,
			lowerEntry{x86.JO + cc, lowerJcc},
			lowerEntry{x86.SETO + cc, lowerSetcc},
			lowerEntry{x86.CMOVO + cc, lowerCmov})
	}
	return table
}

// Distances from a micro-operation for registers of 8 bits to others of its family in the table micro: to
// that for wider registers add the number of the width, 0 to 3.
const (
	binaryL = 4 // second operand in memory
	binaryM = 8 // first operand in memory
	unaryM  = 4
	shiftI  = 8 // immediate count, 32 bits
)

// width is the number of the width of an operand, for opcodes.
func width(a x86.Arg) opcode { return opcode(bits.TrailingZeros8(a.Size)) }

// source makes operand a, which is not in memory, what u reads: r[src] + imm.
func (l *lowerer) source(u *uop, a x86.Arg) {
	u.src = rZero
	switch a.Kind {
	case x86.GPR:
		u.src = a.Reg
	case x86.High:
		l.emit(uop{op: uGetHigh, dst: t1, src: a.Reg})
		u.src = t1
	case x86.Imm:
		u.imm = uint64(l.in.Imm)
	}
}

// from is source, of memory as well.
func (l *lowerer) from(u *uop, a x86.Arg) {
	if a.Kind == x86.MemOp {
		l.load(t1, a)
		u.src = t1
		return
	}
	l.source(u, a)
}

// load emits the load of a memory operand, extended with zeroes.
func (l *lowerer) load(dst uint8, a x86.Arg) {
	u := uop{op: [...]opcode{uLoadzx8, uLoadzx16, uLoad32, uLoad64}[width(a)], dst: dst}
	l.address(&u, a.Size, readOnly)
	l.emit(u)
}

// register makes register a what u reads and writes. into is to follow u.
func (l *lowerer) register(u *uop, a x86.Arg) {
	u.dst = a.Reg
	if a.Kind == x86.High {
		l.emit(uop{op: uGetHigh, dst: t0, src: a.Reg})
		u.dst = t0
	}
}

// into emits what puts the result of register's micro-operation where it belongs.
func (l *lowerer) into(a x86.Arg) {
	if a.Kind == x86.High {
		l.emit(uop{op: uSetHigh, dst: a.Reg, src: t0})
	}
}

// lowerBinary lowers an instruction of two operands, of which the first is the destination.
func lowerBinary(base opcode) lowerFunc {
	discards := base == uCmpR8 || base == uTestR8
	return func(l *lowerer) {
		d, s := l.in.Arg[0], l.in.Arg[1]
		op := base + width(d)
		switch {
		case d.Kind == x86.MemOp:
			u := uop{op: op + binaryM}
			l.source(&u, s)
			access := uint64(writeFirst)
			if discards {
				access = readOnly
			}
			l.address(&u, d.Size, access)
			l.emit(u)
			return
		case s.Kind == x86.MemOp:
			u := uop{op: op + binaryL}
			l.register(&u, d)
			l.address(&u, s.Size, readOnly)
			l.emit(u)
		default:
			u := uop{op: op}
			l.register(&u, d)
			l.source(&u, s)
			l.emit(u)
		}
		if !discards {
			l.into(d)
		}
	}
}

// lowerUnary lowers an instruction of one operand, or a shift by any count.
func lowerUnary(base opcode) lowerFunc {
	return func(l *lowerer) {
		d := l.in.Arg[0]
		u := uop{op: base + width(d)}
		l.source(&u, l.in.Arg[1])
		if d.Kind == x86.MemOp {
			u.op += unaryM
			l.address(&u, d.Size, writeFirst)
			l.emit(u)
			return
		}
		l.register(&u, d)
		l.emit(u)
		l.into(d)
	}
}

// lowerShift is lowerUnary for a shift or rotation that exists with an immediate count.
func lowerShift(base opcode) lowerFunc {
	lower := lowerUnary(base)
	return func(l *lowerer) {
		d, n := l.in.Arg[0], uint64(l.in.Imm)
		if wide := d.Kind == x86.GPR && d.Size >= 4; wide && l.in.Arg[1].Kind == x86.Imm {
			if n &= 8*uint64(d.Size) - 1; n != 0 {
				l.emit(uop{op: base + shiftI + width(d) - 2, dst: d.Reg, imm: n})
				return
			}
		}
		lower(l)
	}
}

func lowerImul(l *lowerer) {
	d, s := l.in.Arg[0], l.in.Arg[1]
	if s.Kind == x86.None {
		l.wholeRead((*CPU).imulWide)
		return
	}
	if d.Size == 2 {
		l.wholeRead((*CPU).imul16)
		return
	}
	u := uop{op: uImul32, dst: d.Reg, index: d.Reg}
	if d.Size == 8 {
		u.op = uImul64
	}
	l.from(&u, s)
	if l.in.Arg[2].Kind == x86.Imm {
		u.index, u.imm = rZero, uint64(l.in.Imm)
	}
	l.emit(u)
}

func lowerMov(l *lowerer) {
	d, s := l.in.Arg[0], l.in.Arg[1]
	switch {
	case d.Kind >= x86.SReg || s.Kind >= x86.SReg:
		lowerMovSystem(l)
	case d.Kind == x86.MemOp:
		u := uop{op: uStore8 + width(d)}
		l.source(&u, s)
		l.address(&u, d.Size, writeFirst)
		l.emit(u)
	case d.Kind == x86.High:
		u := uop{op: uMov64, dst: t0}
		l.from(&u, s)
		l.emit(u)
		l.into(d)
	case s.Kind == x86.MemOp:
		u := uop{op: uLoad8 + width(d), dst: d.Reg}
		l.address(&u, s.Size, readOnly)
		l.emit(u)
	default:
		u := uop{op: uMov8 + width(d), dst: d.Reg}
		l.source(&u, s)
		l.emit(u)
	}
}

func lowerMovzx(l *lowerer) {
	s := width(l.in.Arg[1])
	l.extend(uMovzx8+s, uLoadzx8+s)
}

func lowerMovsx(l *lowerer) {
	d, s := l.in.Arg[0], l.in.Arg[1]
	switch {
	case d.Size <= s.Size: // MOVSXD without REX.W
		lowerMov(l)
	case d.Size == 8:
		l.extend(uMovsx8to64+width(s), uLoadsx8to64+width(s))
	default:
		l.extend(uMovsx8to32+width(s), uLoadsx8to32+width(s))
	}
}

// extend lowers a move that extends: reg and mem are its micro-operations for a source in a register
// and in memory.
func (l *lowerer) extend(reg, mem opcode) {
	d, s := l.in.Arg[0], l.in.Arg[1]
	u := uop{op: reg, dst: d.Reg}
	if d.Size == 2 {
		u.dst = t0
	}
	if s.Kind == x86.MemOp {
		u.op = mem
		l.address(&u, s.Size, readOnly)
	} else {
		l.source(&u, s)
	}
	l.emit(u)
	if d.Size == 2 {
		l.emit(uop{op: uMov16, dst: d.Reg, src: t0})
	}
}

// lowerLea computes an address without a segment's base.
func lowerLea(l *lowerer) {
	d := l.in.Arg[0]
	if l.mode == x86.Mode64 {
		l.in.Mem.Seg = vmm.DS // has no base
		u := uop{op: uLea, dst: d.Reg}
		switch d.Size {
		case 4:
			u.op = uLea32
		case 2:
			u.dst = t0
		}
		l.address(&u, 0, readOnly)
		l.emit(u)
	} else {
		m := &l.in.Mem
		u := uop{op: uAddr32, dst: t0, base: m.Base, index: m.Index, shift: m.Shift, seg: rZero, disp: int32(m.Disp)}
		if m.Base == x86.NoReg {
			u.base = rZero
		}
		if m.Index == x86.NoReg {
			u.index = rZero
		}
		u.imm = math.MaxUint32
		if l.in.AddrSize == 2 {
			u.imm = math.MaxUint16
		}
		if d.Size == 4 {
			u.dst = d.Reg
		}
		l.emit(u)
	}
	if d.Size == 2 {
		l.emit(uop{op: uMov16, dst: d.Reg, src: t0})
	}
}

func lowerXchg(l *lowerer) {
	a, b := l.in.Arg[0], l.in.Arg[1]
	switch {
	case a.Kind == x86.GPR && b.Kind == x86.GPR && a.Size == 8:
		l.emit(uop{op: uXchg64, dst: a.Reg, src: b.Reg})
	case a.Kind == x86.GPR && b.Kind == x86.GPR && a.Size == 4:
		l.emit(uop{op: uXchg32, dst: a.Reg, src: b.Reg})
	default:
		l.whole((*CPU).xchg)
	}
}

func lowerBswap(l *lowerer) {
	switch d := l.in.Arg[0]; d.Size {
	case 8:
		l.emit(uop{op: uBswap64, dst: d.Reg})
	case 4:
		l.emit(uop{op: uBswap32, dst: d.Reg})
	default: // undefined; silicon clears the register
		l.emit(uop{op: uMov16, dst: d.Reg, src: rZero})
	}
}

func lowerCbw(l *lowerer) {
	switch l.in.OpSize {
	case 8:
		l.emit(uop{op: uMovsx32to64, dst: vmm.RAX, src: vmm.RAX})
	case 4:
		l.emit(uop{op: uMovsx16to32, dst: vmm.RAX, src: vmm.RAX})
	default:
		l.emit(uop{op: uMovsx8to32, dst: t0, src: vmm.RAX})
		l.emit(uop{op: uMov16, dst: vmm.RAX, src: t0})
	}
}

func lowerCwd(l *lowerer) {
	switch l.in.OpSize {
	case 8:
		l.emit(uop{op: uCqo})
	case 4:
		l.emit(uop{op: uCdq})
	default:
		l.whole((*CPU).cwd)
	}
}

// fast tells whether the instruction uses the stack or branches as the micro-operations for that do.
func (l *lowerer) fast() bool { return l.mode == x86.Mode64 && l.in.OpSize == 8 }

func lowerPush(l *lowerer) {
	a := l.in.Arg[0]
	switch {
	case a.Kind == x86.SReg:
		l.whole((*CPU).pushSegment)
	case l.fast():
		u := uop{op: uPush}
		l.from(&u, a)
		l.emit(u)
	default:
		l.wholeRead((*CPU).pushArg)
	}
}

func lowerPop(l *lowerer) {
	a := l.in.Arg[0]
	switch {
	case a.Kind == x86.SReg:
		lowerPopSegment(l)
	case a.Kind == x86.GPR && l.fast():
		l.emit(uop{op: uPop, dst: a.Reg})
	default:
		// The address of a memory operand is found after the pop.
		l.emit(l.bareUop((*CPU).popArg, uInst))
	}
}

func lowerLeave(l *lowerer) {
	if l.fast() {
		l.emit(uop{op: uLeave})
		return
	}
	l.whole((*CPU).leaveFrame)
}

func lowerSetcc(l *lowerer) {
	u := uop{op: uSetO + opcode(l.in.Op-x86.SETO)}
	d := l.in.Arg[0]
	if d.Kind == x86.MemOp {
		u.dst = t0
		l.emit(u)
		u = uop{op: uStore8, src: t0}
		l.address(&u, 1, writeFirst)
		l.emit(u)
		return
	}
	l.register(&u, d)
	l.emit(u)
	l.into(d)
}

func lowerCmov(l *lowerer) {
	d, s := l.in.Arg[0], l.in.Arg[1]
	u := uop{op: uCmov32O + opcode(l.in.Op-x86.CMOVO), dst: d.Reg}
	switch d.Size {
	case 2:
		l.wholeRead((*CPU).cmov16)
		return
	case 8:
		u.op += uCmov64O - uCmov32O
	}
	l.from(&u, s)
	l.emit(u)
}

func lowerJcc(l *lowerer) {
	if !l.fast() {
		l.wholeEnd((*CPU).jcc)
		return
	}
	cc := uint8(l.in.Op - x86.JO)
	l.near = [2]bool{l.nearTo(0), l.nearTo(l.in.Imm)}
	if !l.fuse(cc) {
		l.end(uop{op: uJO + opcode(cc), imm: uint64(l.in.Imm)})
	}
}

// fuse makes one micro-operation of a comparison that was just lowered and the branch on condition cc that is
// being lowered, if there is one for both.
func (l *lowerer) fuse(cc uint8) bool {
	if len(l.ops) == 0 || !l.near[1] {
		return false
	}
	u := &l.ops[len(l.ops)-1]
	if u.n != l.n-1 || u.imm != uint64(int64(int32(u.imm))) {
		return false
	}
	for _, f := range fusions {
		if f.compare == u.op && f.cond == cc {
			u.op, u.fn = f.op, fnNumber(f.op)
			u.imm = u.imm&math.MaxUint32 | uint64(l.in.Imm)<<32
			u.len += l.in.Len
			l.fused, l.done = true, true
			return true
		}
	}
	return false
}

func lowerJmp(l *lowerer) {
	a := l.in.Arg[0]
	switch {
	case !l.fast():
		l.end(l.wholeUop((*CPU).jmpArg, uInstEnd, readOnly))
	case a.Kind == x86.Rel:
		l.near[0] = l.nearTo(l.in.Imm)
		l.end(uop{op: uJmp, imm: uint64(l.in.Imm)})
	default:
		u := uop{op: uJmpR}
		l.from(&u, a)
		l.end(u)
	}
}

func lowerCall(l *lowerer) {
	a := l.in.Arg[0]
	switch {
	case !l.fast():
		l.end(l.wholeUop((*CPU).callArg, uInstEnd, readOnly))
	case a.Kind == x86.Rel:
		l.near[0] = l.nearTo(l.in.Imm)
		l.end(uop{op: uCall, imm: uint64(l.in.Imm)})
	default:
		u := uop{op: uCallR}
		l.from(&u, a)
		l.end(u)
	}
}

func lowerRet(l *lowerer) {
	if !l.fast() {
		l.wholeEnd((*CPU).retArg)
		return
	}
	u := uop{op: uRet}
	l.source(&u, l.in.Arg[0])
	l.end(u)
}

// lowerString lowers a string instruction, which exec does for one element.
func lowerString(exec execFunc) lowerFunc {
	repeated := func(c *CPU, u *uop, in *x86.Inst) bool { return c.repeat(u, in, exec) }
	return func(l *lowerer) {
		if l.in.Rep == x86.RepNone {
			l.whole(exec)
			return
		}
		l.uncounted = true
		l.wholeEnd(repeated)
	}
}

// lowerStringIO is lowerString for those that reach for the bus.
func lowerStringIO(exec execFunc) lowerFunc {
	once := func(c *CPU, u *uop, in *x86.Inst) bool {
		return c.portAllowed(uint16(c.r[vmm.RDX]), in.OpSize) && exec(c, u, in) && c.leave(vmm.ExitAccess)
	}
	repeated := func(c *CPU, u *uop, in *x86.Inst) bool { return c.repeatIO(u, in, exec) }
	return func(l *lowerer) {
		if l.in.Rep == x86.RepNone {
			l.wholeEnd(once)
			return
		}
		l.uncounted = true
		l.wholeEnd(repeated)
	}
}

// lowerBitTest lowers a bit test, which changes the bit as change says.
func lowerBitTest(change bitChange) lowerFunc {
	test := func(c *CPU, u *uop, in *x86.Inst) bool { return c.bitTest(u, in, change) }
	inString := func(c *CPU, u *uop, in *x86.Inst) bool { return c.bitString(u, in, change) }
	return func(l *lowerer) {
		d, s := l.in.Arg[0], l.in.Arg[1]
		switch {
		case d.Kind == x86.MemOp && s.Kind == x86.GPR:
			// The address depends on the number of the bit, so that there is none to compute yet.
			l.emit(l.bareUop(inString, uInst))
		case d.Kind == x86.GPR && change == nil:
			u := uop{op: uBt, dst: d.Reg, shift: 8*d.Size - 1}
			l.source(&u, s)
			l.emit(u)
		case change == nil:
			l.wholeRead(test)
		default:
			l.whole(test)
		}
	}
}

// lowerNop lowers what does nothing here: hints, and what orders accesses.
func lowerNop(l *lowerer) { l.emit(uop{op: uNop}) }
