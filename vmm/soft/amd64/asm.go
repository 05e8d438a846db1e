package amd64

import "encoding/binary"

// Reg is a general register, or an XMM register, by its encoding.
type Reg uint8

const (
	RAX Reg = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)

// Operand is what ModRM names: a register, or memory.
type Operand struct {
	// base is the register itself, or that of the address.
	base, index Reg
	shift       uint8
	memory      bool
	noBase      bool
	disp        int32
}

// R is a register as an operand.
func R(r Reg) Operand { return Operand{base: r} }

// M is memory at a register and a displacement.
func M(base Reg, disp int32) Operand {
	return Operand{base: base, index: RSP, memory: true, disp: disp}
}

// MX is memory at base + index<<shift + disp. index is not RSP.
func MX(base, index Reg, shift uint8, disp int32) Operand {
	return Operand{base: base, index: index, shift: shift, memory: true, disp: disp}
}

// MI is memory at index<<shift + disp. index is not RSP.
func MI(index Reg, shift uint8, disp int32) Operand {
	return Operand{base: RBP, index: index, shift: shift, memory: true, noBase: true, disp: disp}
}

// IsMem tells whether o is memory.
func (o Operand) IsMem() bool { return o.memory }

// Reg is the register that o is, which is not memory.
func (o Operand) Reg() Reg { return o.base }

// Asm writes instructions. There must be room for them: Len can tell.
type Asm struct {
	mem []byte
	at  int
}

// Reset makes a write to mem, from its start.
func (a *Asm) Reset(mem []byte) { a.mem, a.at = mem, 0 }

// At is the offset of the next instruction.
func (a *Asm) At() int { return a.at }

// Room is how many bytes can be written yet.
func (a *Asm) Room() int { return len(a.mem) - a.at }

func (a *Asm) byte(b byte) {
	a.mem[a.at] = b
	a.at++
}

func (a *Asm) u32(v uint32) {
	binary.LittleEndian.PutUint32(a.mem[a.at:], v)
	a.at += 4
}

// immediate writes one of an instruction with operands of size bytes.
func (a *Asm) immediate(size uint8, v int32) {
	switch size {
	case 1:
		a.byte(byte(v))
	case 2:
		a.byte(byte(v))
		a.byte(byte(v >> 8))
	default:
		a.u32(uint32(v))
	}
}

// escape marks opcodes of the two-byte table.
const escape = 0x0f00

// op writes an instruction up to its displacement. opcode is that for more than one byte; reg is a register or an
// extension of the opcode. byteReg and byteRM tell whether these are registers of one byte.
func (a *Asm) op(size uint8, opcode uint16, reg Reg, rm Operand, byteReg, byteRM bool) {
	if size == 2 {
		a.byte(0x66)
	}
	rex := byte(reg>>3<<2 | rm.base>>3)
	if rm.memory {
		rex |= byte(rm.index >> 3 << 1)
	}
	if size == 8 {
		rex |= 8
	}
	if rex != 0 || byteReg && reg >= RSP || byteRM && !rm.memory && rm.base >= RSP {
		a.byte(0x40 | rex)
	}
	if opcode >= escape {
		a.byte(0x0f)
	}
	a.byte(byte(opcode))
	a.modRM(reg, rm)
}

// modRM writes ModRM, SIB and displacement (SDM vol. 2A, 2.1.5).
func (a *Asm) modRM(reg Reg, rm Operand) {
	r := byte(reg & 7 << 3)
	if !rm.memory {
		a.byte(0xc0 | r | byte(rm.base&7))
		return
	}
	mod := byte(0)
	switch {
	case rm.noBase, rm.disp == 0 && rm.base&7 != RBP:
	case rm.disp == int32(int8(rm.disp)):
		mod = 0x40
	default:
		mod = 0x80
	}
	if rm.index == RSP && rm.base&7 != RSP {
		a.byte(mod | r | byte(rm.base&7))
	} else {
		a.byte(mod | r | 4)
		a.byte(rm.shift<<6 | byte(rm.index&7<<3) | byte(rm.base&7))
	}
	switch {
	case mod == 0x40:
		a.byte(byte(rm.disp))
	case mod == 0x80 || rm.noBase:
		a.u32(uint32(rm.disp))
	}
}

// sized writes an instruction whose opcode for one byte is one less than that for more.
func (a *Asm) sized(size uint8, opcode uint16, reg Reg, rm Operand, isReg bool) {
	one := size == 1
	if one {
		opcode--
	}
	a.op(size, opcode, reg, rm, one && isReg, one)
}

// Arith is an operation of two operands, by its number in the opcode.
type Arith uint8

const (
	ADD Arith = iota
	OR
	ADC
	SBB
	AND
	SUB
	XOR
	CMP
	// TEST is not one of this group, but has the same forms.
	TEST
)

// Arith is dst op= src.
func (a *Asm) Arith(op Arith, size uint8, dst Operand, src Reg) {
	if op == TEST {
		a.sized(size, 0x85, src, dst, true)
		return
	}
	a.sized(size, uint16(op)<<3|1, src, dst, true)
}

// ArithLoad is dst op= src.
func (a *Asm) ArithLoad(op Arith, size uint8, dst Reg, src Operand) {
	if op == TEST {
		a.sized(size, 0x85, dst, src, true)
		return
	}
	a.sized(size, uint16(op)<<3|3, dst, src, true)
}

// ArithImm is dst op= v, v being sign-extended.
func (a *Asm) ArithImm(op Arith, size uint8, dst Operand, v int32) {
	switch {
	case op == TEST:
		a.sized(size, 0xf7, 0, dst, false)
		a.immediate(size, v)
	case size > 1 && v == int32(int8(v)):
		a.op(size, 0x83, Reg(op), dst, false, false)
		a.byte(byte(v))
	default:
		a.sized(size, 0x81, Reg(op), dst, false)
		a.immediate(size, v)
	}
}

// Store is dst = src.
func (a *Asm) Store(size uint8, dst Operand, src Reg) { a.sized(size, 0x89, src, dst, true) }

// Load is dst = src.
func (a *Asm) Load(size uint8, dst Reg, src Operand) { a.sized(size, 0x8b, dst, src, true) }

// StoreImm is dst = v, v being sign-extended.
func (a *Asm) StoreImm(size uint8, dst Operand, v int32) {
	a.sized(size, 0xc7, 0, dst, false)
	a.immediate(size, v)
}

// Const is dst = v, without a change to the flags.
func (a *Asm) Const(dst Reg, v uint64) {
	rex := byte(dst >> 3)
	switch {
	case v>>32 == 0:
		if rex != 0 {
			a.byte(0x40 | rex)
		}
		a.byte(0xb8 | byte(dst&7))
		a.u32(uint32(v))
	case v == uint64(int32(v)):
		a.StoreImm(8, R(dst), int32(v))
	default:
		a.byte(0x48 | rex)
		a.byte(0xb8 | byte(dst&7))
		a.u32(uint32(v))
		a.u32(uint32(v >> 32))
	}
}

// Movzx is dst = src, which has from bytes, 1 or 2, extended with zeros to 8.
func (a *Asm) Movzx(dst Reg, src Operand, from uint8) {
	a.op(4, escape|0xb6|uint16(from>>1), dst, src, false, from == 1)
}

// Movsx is dst, of size bytes, 4 or 8, = src, which has from bytes, fewer, extended with its sign.
func (a *Asm) Movsx(size uint8, dst Reg, src Operand, from uint8) {
	if from == 4 {
		a.op(size, 0x63, dst, src, false, false)
		return
	}
	a.op(size, escape|0xbe|uint16(from>>1), dst, src, false, from == 1)
}

// Lea is dst = the address that src is at.
func (a *Asm) Lea(size uint8, dst Reg, src Operand) { a.op(size, 0x8d, dst, src, false, false) }

// LeaCode is dst = the address of this code's offset to.
func (a *Asm) LeaCode(dst Reg, to int) {
	a.byte(0x48 | byte(dst>>3<<2))
	a.byte(0x8d)
	a.byte(byte(dst&7<<3) | 5)
	a.u32(uint32(to - (a.at + 4)))
}

// Shift is an operation of a shift or rotation, by its number in ModRM.
type Shift uint8

const (
	ROL Shift = 0
	ROR Shift = 1
	SHL Shift = 4
	SHR Shift = 5
	SAR Shift = 7
)

// Shift shifts dst by n.
func (a *Asm) Shift(op Shift, size uint8, dst Operand, n uint8) {
	if n == 1 {
		a.sized(size, 0xd1, Reg(op), dst, false)
		return
	}
	a.sized(size, 0xc1, Reg(op), dst, false)
	a.byte(n)
}

// ShiftCL shifts dst by CL.
func (a *Asm) ShiftCL(op Shift, size uint8, dst Operand) { a.sized(size, 0xd3, Reg(op), dst, false) }

// Unary is an operation of one operand: its opcode, and its number in ModRM.
type Unary uint16

const (
	NOT  Unary = 0xf7<<8 | 2
	NEG  Unary = 0xf7<<8 | 3
	MUL  Unary = 0xf7<<8 | 4
	IMUL Unary = 0xf7<<8 | 5
	DIV  Unary = 0xf7<<8 | 6
	INC  Unary = 0xff << 8
	DEC  Unary = 0xff<<8 | 1
)

// Unary is dst = op dst; MUL and IMUL are RDX:RAX = RAX * dst, and DIV divides RDX:RAX by it.
func (a *Asm) Unary(op Unary, size uint8, dst Operand) {
	a.sized(size, uint16(op>>8), Reg(op&7), dst, false)
}

// Imul is dst *= src; size is more than 1.
func (a *Asm) Imul(size uint8, dst Reg, src Operand) { a.op(size, escape|0xaf, dst, src, false, false) }

// ImulImm is dst = src * v; size is more than 2.
func (a *Asm) ImulImm(size uint8, dst Reg, src Operand, v int32) {
	a.op(size, 0x69, dst, src, false, false)
	a.u32(uint32(v))
}

// Bswap reverses the bytes of dst, 4 or 8.
func (a *Asm) Bswap(size uint8, dst Reg) {
	rex := byte(dst >> 3)
	if size == 8 {
		rex |= 8
	}
	if rex != 0 {
		a.byte(0x40 | rex)
	}
	a.byte(0x0f)
	a.byte(0xc8 | byte(dst&7))
}

// BitTest copies bit n of rm to CF.
func (a *Asm) BitTest(size uint8, rm Operand, n uint8) {
	a.op(size, escape|0xba, 4, rm, false, false)
	a.byte(n)
}

// BitTestReg copies bit n, modulo the size, of rm, which is a register, to CF.
func (a *Asm) BitTestReg(size uint8, rm Operand, n Reg) {
	a.op(size, escape|0xa3, n, rm, false, false)
}

// Cond is a condition, by its encoding (SDM vol. 1, appendix B).
type Cond uint8

const (
	O Cond = iota
	NO
	B
	AE
	E
	NE
	BE
	A
	S
	NS
	P
	NP
	L
	GE
	LE
	G
)

// Set is dst, one byte, = cc.
func (a *Asm) Set(cc Cond, dst Operand) { a.op(1, escape|0x90|uint16(cc), 0, dst, false, true) }

// Cmov is dst = src if cc. With size 4 the upper half of dst is cleared in any case.
func (a *Asm) Cmov(cc Cond, size uint8, dst Reg, src Operand) {
	a.op(size, escape|0x40|uint16(cc), dst, src, false, false)
}

// Lahf and Sahf copy SF, ZF, AF, PF and CF to AH and back.
func (a *Asm) Lahf() { a.byte(0x9f) }
func (a *Asm) Sahf() { a.byte(0x9e) }

// Ret returns.
func (a *Asm) Ret() { a.byte(0xc3) }

// JmpTo jumps to where target says.
func (a *Asm) JmpTo(target Operand) { a.op(4, 0xff, 4, target, false, false) }

// A Fixup is the place of a displacement that Bind sets.
type Fixup int

// Jmp jumps to the offset that the result is bound to; until then to the next instruction.
func (a *Asm) Jmp() Fixup {
	a.byte(0xe9)
	return a.fixup()
}

// Jcc is Jmp if cc.
func (a *Asm) Jcc(cc Cond) Fixup {
	a.byte(0x0f)
	a.byte(0x80 | byte(cc))
	return a.fixup()
}

func (a *Asm) fixup() Fixup {
	a.u32(0)
	return Fixup(a.at - 4)
}

// Bind makes the jump with displacement f go to offset to.
func (a *Asm) Bind(f Fixup, to int) {
	binary.LittleEndian.PutUint32(a.mem[f:], uint32(to-int(f)-4))
}

// Skip is a short Jcc; the result is to be given to Land.
func (a *Asm) Skip(cc Cond) int {
	a.byte(0x70 | byte(cc))
	a.byte(0)
	return a.at
}

// Land makes the jump that Skip returned from go to the next instruction, which is less than 128 bytes behind it.
func (a *Asm) Land(from int) { a.mem[from-1] = byte(a.at - from) }

// Vector is an operation on XMM registers and memory: in its low byte the last one of the opcode, in the next the one
// between 0F and that, if any, and above these the mandatory prefix, if any.
type Vector uint32

// The moves of 16 bytes, which need not be aligned.
const (
	vectorLoad  Vector = 0x10 // MOVUPS
	vectorStore Vector = 0x11
)

// LoadMXCSR and StoreMXCSR copy 4 bytes of memory to MXCSR and back.
func (a *Asm) LoadMXCSR(src Operand)  { a.op(4, escape|0xae, 2, src, false, false) }
func (a *Asm) StoreMXCSR(dst Operand) { a.op(4, escape|0xae, 3, dst, false, false) }

// LoadVector is XMM register dst = src.
func (a *Asm) LoadVector(dst Reg, src Operand) { a.Vector(vectorLoad, dst, src) }

// StoreVector is dst = XMM register src.
func (a *Asm) StoreVector(dst Operand, src Reg) { a.Vector(vectorStore, src, dst) }

// Vector is op with reg, an XMM or general register, and rm. Operands in memory of most operations of 16 bytes must be aligned.
func (a *Asm) Vector(op Vector, reg Reg, rm Operand) { a.VectorInt(4, op, reg, rm) }

// VectorInt is Vector for operations with an integer of size bytes, 4 or 8.
func (a *Asm) VectorInt(size uint8, op Vector, reg Reg, rm Operand) {
	if prefix := byte(op >> 16); prefix != 0 {
		a.byte(prefix)
	}
	rex := byte(reg>>3<<2 | rm.base>>3)
	if rm.memory {
		rex |= byte(rm.index >> 3 << 1)
	}
	if size == 8 {
		rex |= 8
	}
	if rex != 0 {
		a.byte(0x40 | rex)
	}
	a.byte(0x0f)
	if table := byte(op >> 8); table != 0 {
		a.byte(table)
	}
	a.byte(byte(op))
	a.modRM(reg, rm)
}

// Imm8 is the immediate of one byte that some of these operations have, right behind them.
func (a *Asm) Imm8(v uint8) { a.byte(v) }
