package x86

// Mode is how code is decoded: by the CS descriptor and EFER.LMA (SDM vol. 3A, 3.4.5).
type Mode uint8

const (
	Mode64 Mode = iota // 64-bit mode
	Mode32             // protected or compatibility mode, CS.D = 1
	Mode16             // protected or compatibility mode, CS.D = 0
)

// MaxLen is the longest instruction in bytes; a longer one raises #GP (SDM vol. 2A, 2.3.11).
const MaxLen = 15

// Inst is one decoded instruction.
type Inst struct {
	Op  Op
	Len uint8 // in bytes, all prefixes included

	// OpSize and AddrSize are the effective operand and address size in bytes: 2, 4 or 8; OpSize is 1 for
	// strings of bytes. OpSize is that of the instruction's default rule (8 for near branches and pushes in
	// 64-bit mode); what each operand really takes is in its Arg.
	OpSize, AddrSize uint8

	Rep  Rep
	Lock bool // F0 is present, and allowed here

	// Arg are the operands in the order of the manual's Intel syntax; the unused ones have
	// Kind None. Implicit operands that the opcode map names (AL, CL, DX, 1 ...) are among them; those
	// that it does not (the registers of string instructions, RDX:RAX of MUL, flags) are not.
	Arg [4]Arg
	// Mem is the memory operand, if an Arg has Kind MemOp. If none has, Mem.Seg still is the segment for operands in
	// memory that are implied (strings, XLAT, MASKMOVQ): DS or its override.
	Mem Mem
	// Imm is the immediate, if an Arg has Kind Imm: sign-extended to 64 bits where it is an operand of arithmetic or a
	// move, zero-extended where it is a count, port, vector or control byte. It is the
	// displacement to be added to the next instruction's address for Rel; the offset of a far pointer (Far).
	Imm int64
	// Imm2 is the second immediate: the selector of a far pointer, or the nesting level of ENTER.
	Imm2 uint16
}

// Rep is the repeat prefix, where it acts as one. Where F2 or F3 select another
// instruction (ADDSD, POPCNT, PAUSE) it is part of Op, and Rep is RepNone.
type Rep uint8

const (
	RepNone Rep = iota
	RepE        // F3: REP, REPE
	RepNE       // F2
)

// Arg is an operand.
type Arg struct {
	Kind Kind
	Reg  uint8 // number of the register, by its encoding
	Size uint8 // in bytes; 0 where it means nothing (LEA's memory, INVLPG)
}

// Kind says what an operand is.
type Kind uint8

const (
	None  Kind = iota
	GPR        // general register Reg, its low Size bytes
	High       // AH, CH, DH, BH: Reg is 0 to 3 (of AX, CX, DX, BX), Size 1
	MemOp      // memory, at Inst.Mem
	Imm        // Inst.Imm
	Imm2       // Inst.Imm2
	Rel        // branch target: Inst.Imm from the end of the instruction
	Far        // far pointer Imm2:Imm
	SReg       // segment register, 0 to 5: ES CS SS DS FS GS
	CReg       // control register
	DReg       // debug register
	ST         // x87 stack register ST(Reg)
	MMX        // MM register
	XMM        // XMM register
)

// Mem is a memory operand: segment:[base + index*scale + disp], truncated to AddrSize.
type Mem struct {
	Seg   uint8 // segment register, overrides applied: 0 to 5
	Base  uint8 // general register, NoReg, or RegIP (the address of the next instruction)
	Index uint8 // general register or NoReg
	Shift uint8 // the index is shifted left by this: 0 to 3
	Disp  int64
}

const (
	NoReg = 0xff
	RegIP = 0xfe
)
