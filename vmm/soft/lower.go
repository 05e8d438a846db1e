package soft

import (
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// lowerer turns decoded instructions into the micro-operations of a block.
type lowerer struct {
	mode x86.Mode
	// kept is set if the block will be kept: then its ways out may be near.
	kept bool
	// start is the offset of the block in its page.
	start uint64

	in    x86.Inst // the instruction being lowered
	off   uint16
	n     uint8
	ops   []uop
	insts []instruction
	// done is set by an instruction that ends the block; uncounted if its positions are not in the
	// block's count, because it takes as many as it finds: a REP string.
	done, uncounted bool
	fused           bool
	// sse is set once the block checks that SSE instructions may be executed.
	sse  bool
	near [2]bool
}

// lowerFunc lowers instruction l.in: it emits micro-operations.
type lowerFunc func(l *lowerer)

// lowering is how each instruction is lowered; nil if it is not implemented.
var lowering = lowerings(integerLowering, systemLowering, floatLowering)

// lowerEntry is a row of a table of lowerings.
type lowerEntry struct {
	op x86.Op
	fn lowerFunc
}

func lowerings(tables ...[]lowerEntry) (fns [x86.NumOps]lowerFunc) {
	for _, table := range tables {
		for _, e := range table {
			if fns[e.op] != nil {
				panic("soft: two lowerings of " + e.op.String())
			}
			fns[e.op] = e.fn
		}
	}
	return fns
}

func (l *lowerer) begin(mode x86.Mode, kept bool, start uint64) {
	*l = lowerer{mode: mode, kept: kept, start: start, ops: l.ops[:0], insts: l.insts[:0]}
}

// instruction lowers l.in, or what its decoding ended with.
func (l *lowerer) instruction(err error) {
	switch fn := lowering[l.in.Op]; {
	case err == x86.ErrTooLong:
		l.fault(excGP)
	case err != nil:
		l.fault(excUD)
	case fn == nil:
		l.end(uop{op: uMissing, imm: uint64(l.in.Op)})
	default:
		fn(l)
	}
	if !l.uncounted {
		l.n++
	}
	l.off += uint16(l.in.Len)
}

// emit appends a micro-operation of the instruction.
func (l *lowerer) emit(u uop) *uop {
	if u.fn == 0 {
		u.fn = fnNumber(u.op)
	}
	u.off, u.n, u.len = l.off, l.n, l.in.Len
	l.ops = append(l.ops, u)
	return &l.ops[len(l.ops)-1]
}

// end emits a micro-operation that ends the block: it sets CPU.rip, or returns false.
func (l *lowerer) end(u uop) *uop {
	l.done = true
	return l.emit(u)
}

// fault makes the instruction raise an exception; those that have an error code have 0.
func (l *lowerer) fault(vector uint8) { l.end(uop{op: uFault, imm: uint64(vector)}) }

// whole makes the instruction one that fn executes whole, between others.
func (l *lowerer) whole(fn execFunc) *uop { return l.emit(l.wholeUop(fn, uInst, writeFirst)) }

// wholeEnd is whole, for an instruction that ends the block: because it changes how instructions are
// executed, or where execution goes on. CPU.rip is that of the next instruction when fn is called. None of
// these writes its memory operand.
func (l *lowerer) wholeEnd(fn execFunc) *uop { return l.end(l.wholeUop(fn, uInstEnd, readOnly)) }

// wholeRead is whole, for an instruction that does not write its memory operand.
func (l *lowerer) wholeRead(fn execFunc) *uop { return l.emit(l.wholeUop(fn, uInst, readOnly)) }

func (l *lowerer) wholeUop(fn execFunc, op opcode, access uint64) uop {
	u := l.bareUop(fn, op)
	for _, a := range l.in.Arg {
		if a.Kind == x86.MemOp {
			l.address(&u, a.Size, access)
		}
	}
	return u
}

// bareUop is wholeUop without the address of a memory operand.
func (l *lowerer) bareUop(fn execFunc, op opcode) uop {
	l.insts = append(l.insts, instruction{l.in, fn})
	return uop{op: op, imm: uint64(len(l.insts) - 1), base: rZero, index: rZero, seg: rZero}
}

// inst, reads and instEnd are lowerFuncs for instructions that a function executes whole.
func inst(fn execFunc) lowerFunc    { return func(l *lowerer) { l.whole(fn) } }
func reads(fn execFunc) lowerFunc   { return func(l *lowerer) { l.wholeRead(fn) } }
func instEnd(fn execFunc) lowerFunc { return func(l *lowerer) { l.wholeEnd(fn) } }

// fallThrough ends a block whose last instruction does not.
func (l *lowerer) fallThrough() {
	// Not part of any instruction: it begins and ends where the next one begins.
	l.in.Len = 0
	l.near[0] = l.kept && l.mode == x86.Mode64 && l.start+uint64(l.off) < pageSize
	l.end(uop{op: uGoto})
}

// nearTo tells whether a branch by displacement rel stays in the block's page, for near.
func (l *lowerer) nearTo(rel int64) bool {
	to := int64(l.start) + int64(l.off) + int64(l.in.Len) + rel
	return l.kept && l.mode == x86.Mode64 && to >= 0 && to < pageSize
}

// What a memory operand is for, where segment limits and types are checked (not in 64-bit mode).
const (
	readOnly   = 0
	writeFirst = 1 // written, or read and then written
)

// address puts the memory operand of l.in into u. size is its size in bytes, 0 if it is not accessed.
// Where the address needs more than uop has room for, it emits micro-operations that put it into tEA.
func (l *lowerer) address(u *uop, size uint8, write uint64) {
	m := &l.in.Mem
	a := uop{base: m.Base, index: m.Index, shift: m.Shift, seg: rZero, dst: tEA}
	disp := m.Disp
	switch m.Base {
	case x86.NoReg:
		a.base = rZero
	case x86.RegIP:
		a.base = rIP
		disp += int64(l.off) + int64(l.in.Len)
	}
	if m.Index == x86.NoReg {
		a.index = rZero
	}
	if disp != int64(int32(disp)) {
		l.emit(uop{op: uConst, dst: tEA, imm: uint64(disp)})
		if a.index != rZero { // a full address (MOV moffs) has neither
			l.emit(uop{op: uIndex, dst: tEA, src: tEA, index: a.index, shift: a.shift})
			a.index = rZero
		}
		if a.base != rZero {
			a.index, a.shift = a.base, 0
		}
		a.base, disp = tEA, 0
	}
	a.disp = int32(disp)
	if l.mode == x86.Mode64 {
		if m.Seg >= vmm.FS {
			a.seg = rES + m.Seg
		}
		if l.in.AddrSize == 4 {
			a.op, a.imm = uAddr32, math.MaxUint32
			l.emit(a)
			a = uop{base: tEA, index: rZero, seg: rZero}
		}
	} else {
		a.op, a.src = uAddrSeg, m.Seg
		a.imm = write<<40 | uint64(size)<<32 | (1<<(8*l.in.AddrSize) - 1)
		l.emit(a)
		a = uop{base: tEA, index: rZero, seg: rZero}
	}
	u.base, u.index, u.shift, u.seg, u.disp = a.base, a.index, a.shift, a.seg, a.disp
}

// opFault raises exception imm.
func (c *CPU) opFault(u *uop) bool {
	if u.imm == excGP {
		return c.faultCode(excGP, 0)
	}
	return c.fault(uint8(u.imm))
}

// opMissing raises #UD for an instruction that exists but is not implemented.
func (c *CPU) opMissing(u *uop) bool {
	c.undefined[u.imm]++
	return c.fault(excUD)
}

// opGoto goes on at the end of u's instruction.
func (c *CPU) opGoto(u *uop) bool {
	c.rip = c.nextIP(u)
	c.way = 0
	return true
}

// opConst: r[dst] = imm.
func (c *CPU) opConst(u *uop) bool {
	c.r[u.dst] = u.imm
	return true
}

// opIndex: r[dst] = r[src] + r[index]<<shift.
func (c *CPU) opIndex(u *uop) bool {
	c.r[u.dst] = c.r[u.src] + c.r[u.index]<<(u.shift&3)
	return true
}

// opAddr32: r[dst] is the linear address of an operand whose offset is truncated to 32 bits.
func (c *CPU) opAddr32(u *uop) bool {
	c.r[u.dst] = (c.r[u.base]+c.r[u.index]<<(u.shift&3)+uint64(int64(u.disp)))&u.imm + c.r[u.seg]
	return true
}

// opAddrSeg: r[dst] is the linear address of an operand outside 64-bit mode. imm holds the mask for the
// offset in its low half, above it the operand's size, and whether it is written.
func (c *CPU) opAddrSeg(u *uop) bool {
	offset := (c.r[u.base] + c.r[u.index]<<(u.shift&3) + uint64(int64(u.disp))) & (u.imm & math.MaxUint32)
	a, ok := c.segmented(u.src, offset, uint64(uint8(u.imm>>32)), u.imm>>40 != 0)
	c.r[u.dst] = a
	return ok
}
