package soft

import "ftvm/vmm/soft/x86"

// uop is a micro-operation: the engine's own, simpler instruction. Which of its fields an operation uses
// is said at its opcode.
//
// It holds no pointers: there may be a million of them, and whoever collects garbage would look at each.
type uop struct {
	// imm is an immediate operand, or a branch's displacement.
	imm uint64
	// The memory operand is at r[base] + r[index]<<shift + r[seg] + disp, a linear address.
	disp int32
	op   opcode
	// fn is the number of the function that executes it.
	fn fnNumber
	// off is the offset of the instruction from the first one of the block, in bytes.
	off uint16
	// n is how many instructions of the block come before this one.
	n uint8
	// len is the length of the instruction, in bytes.
	len uint8
	// dst and src are slots of the register file or numbers of XMM registers.
	dst, src                uint8
	base, index, seg, shift uint8
}

// opcode names a micro-operation. Executing needs only fn; opcodes are what other users of the form
// (a compiler, a dump) go by.
type opcode uint16

// uopFunc executes a micro-operation. It returns true if the next one follows, and otherwise sets CPU.stop.
type uopFunc = func(c *CPU, u *uop) bool

// fnNumber is the number of a uopFunc in functions. An opcode below numOpcodes is the number of its function.
type fnNumber uint16

// maxFunctions is a power of two, so that no index needs a check.
const maxFunctions = 1 << 12

var (
	functions [maxFunctions]uopFunc
	numbered  = fnNumber(numOpcodes)
)

func init() {
	for op := range micro {
		functions[op] = micro[op].fn
	}
}

// number gives a function its number. It is called while the tables of lowerings are made, not later.
func number(f uopFunc) fnNumber {
	functions[numbered] = f
	numbered++
	return numbered - 1
}

// do executes u.
func (u *uop) do(c *CPU) bool { return functions[u.fn%maxFunctions](c, u) }

// ea is the linear address of u's memory operand.
func (c *CPU) ea(u *uop) uint64 {
	return c.r[u.base] + c.r[u.index]<<(u.shift&3) + c.r[u.seg] + uint64(int64(u.disp))
}

// nextIP is the address of the instruction after u's.
func (c *CPU) nextIP(u *uop) uint64 {
	return c.r[rIP] + uint64(u.off) + uint64(u.len)
}

// instruction is a decoded instruction that one function executes whole: what is not worth
// micro-operations of its own.
type instruction struct {
	x86.Inst
	exec execFunc
}

// execFunc executes an instruction whole. u carries its memory operand and its place in the block. What it
// returns is as for uopFunc.
type execFunc func(c *CPU, u *uop, in *x86.Inst) bool

// opInst executes instruction number imm of the block.
func (c *CPU) opInst(u *uop) bool {
	in := &c.cur.insts[u.imm]
	return in.exec(c, u, &in.Inst)
}

// opInstEnd is opInst for the last instruction of a block. The instruction may change CPU.rip.
func (c *CPU) opInstEnd(u *uop) bool {
	in := &c.cur.insts[u.imm]
	c.rip = c.nextIP(u)
	return in.exec(c, u, &in.Inst)
}
