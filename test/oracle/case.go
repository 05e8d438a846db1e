package oracle

import (
	"encoding/binary"
	"fmt"
)

// Mode is how the code of a case is decoded.
type Mode uint8

const (
	Mode64 Mode = iota // 64-bit mode
	Mode32             // compatibility mode, CS.D = 1
)

// Selectors of CS, flat and with DPL 3.
const (
	CS64 = 0x33
	CS32 = 0x23
)

// CS is the selector that m is entered by.
func (m Mode) CS() uint16 {
	if m == Mode32 {
		return CS32
	}
	return CS64
}

func (m Mode) String() string {
	if m == Mode32 {
		return "32-bit"
	}
	return "64-bit"
}

// General registers, by their encoding.
const (
	RAX = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
)

// Flags in RFLAGS.
const (
	CF = 1 << 0
	PF = 1 << 2
	AF = 1 << 4
	ZF = 1 << 6
	SF = 1 << 7
	IF = 1 << 9
	DF = 1 << 10
	OF = 1 << 11
	AC = 1 << 18

	arith = CF | PF | AF | ZF | SF | OF
	// fixedFlags are set at CPL 3 under any kernel: bit 1 and IF.
	fixedFlags = 1<<1 | IF
)

// State is what an instruction at CPL 3 can read and write, memory excepted.
type State struct {
	GPR   [16]uint64 // by their encoding; in 32-bit mode eight, and those below 2^32
	RIP   uint64
	Flags uint64 // RFLAGS
	FX    FX
}

// FXSize is how much of an FXSAVE image is state: what follows is reserved.
const FXSize = 416

// FX is the image of x87, MMX and SSE that FXSAVE64 stores (SDM vol. 1, 10.5.1).
type FX [FXSize]byte

// Offsets in FX.
const (
	fxFCW, fxFSW, fxFTW, fxFOP, fxFIP, fxFDP = 0, 2, 4, 6, 8, 16
	fxMXCSR, fxMask                          = 24, 28
	fxST, fxXMM                              = 32, 160
)

// FCW, FSW and MXCSR are the control and status words.
func (f *FX) FCW() uint16   { return binary.LittleEndian.Uint16(f[fxFCW:]) }
func (f *FX) FSW() uint16   { return binary.LittleEndian.Uint16(f[fxFSW:]) }
func (f *FX) MXCSR() uint32 { return binary.LittleEndian.Uint32(f[fxMXCSR:]) }

// FTW has a bit for each physical x87 register that is not empty.
func (f *FX) FTW() byte { return f[fxFTW] }

// ST is x87 register ST(i), 10 bytes.
func (f *FX) ST(i int) []byte { return f[fxST+16*i:][:10:10] }

// XMM is register XMMi, 16 bytes.
func (f *FX) XMM(i int) []byte { return f[fxXMM+16*i:][:16:16] }

// Patch is data at an offset in the data area.
type Patch struct {
	Offset uint16
	Data   []byte
}

// Case is one instruction and the state before it.
type Case struct {
	Mode Mode
	// Code is the instruction, at State.RIP. What of it lies beyond the code area is not there.
	Code []byte
	State
	// Memory is what the data area holds, besides the pattern of Pristine; later ones lie over earlier ones.
	Memory []Patch

	// Form is the entry of the table of instructions that the generator used, and Operands what it
	// chose. Undefined goes by these; a case without has nothing undefined but what always is.
	Form *Form
	Operands

	// Seed and Index repeat the case: the Generator's seed, and the number of the case.
	Seed, Index uint64
}

// Operands is what a generated instruction works on.
type Operands struct {
	Size  uint8  // operand size in bytes: 1, 2, 4, 8
	Reg   uint8  // number of the register in ModRM.reg (with REX.R)
	RM    uint8  // number of the register in ModRM.rm, or in the opcode; NoReg if that is memory
	Imm   int64  // immediate
	Addr  uint64 // linear address of the memory operand
	Bytes uint16 // size of the memory operand, 0 if there is none
}

// NoReg is Operands.RM of an instruction with a memory operand.
const NoReg = 0xff

// NoVector is Outcome.Vector of an instruction that completed.
const NoVector = 0xff

// Outcome is what a case did. What is never compared of FX is zero (alwaysMasked).
type Outcome struct {
	CS uint16
	State
	// Vector is that of the exception it raised, or NoVector. Error is its error code, CR2 the
	// address of a page fault.
	Vector uint8
	Error  uint32
	CR2    uint64
	// Memory is what changed in the data area, as Changes has it.
	Memory []Patch
}

// Apply puts what c needs in memory into data, the data area.
func (c *Case) Apply(data []byte) {
	for _, p := range c.Memory {
		copy(data[p.Offset:], p.Data)
	}
}

// bytes returns n bytes of memory before c, from linear address addr, as far as there is memory.
func (c *Case) bytes(addr uint64, n int) []byte {
	out := make([]byte, 0, n)
	for i := range uint64(n) {
		b, ok := c.byteAt(addr + i)
		if !ok {
			break
		}
		out = append(out, b)
	}
	return out
}

// byteAt is the byte at addr before c.
func (c *Case) byteAt(addr uint64) (b byte, ok bool) {
	if code := addr - CodeBase; code < CodeSize {
		if at := addr - c.RIP; at < uint64(len(c.Code)) {
			return c.Code[at], true
		}
		return CodeFill, true
	}
	at := addr - DataBase
	if at >= DataSize {
		return 0, false
	}
	for i := len(c.Memory) - 1; i >= 0; i-- {
		if p := c.Memory[i]; at-uint64(p.Offset) < uint64(len(p.Data)) {
			return p.Data[at-uint64(p.Offset)], true
		}
	}
	return pristine[at], true
}

var pristine = Pristine()

// Changes lists the runs of bytes of after that differ from before, two states of the data area.
func Changes(before, after []byte) []Patch {
	var changes []Patch
	for i := 0; i < len(after); i++ {
		start := i
		for i < len(after) && after[i] != before[i] {
			i++
		}
		if i > start {
			changes = append(changes, Patch{Offset: uint16(start), Data: after[start:i:i]})
		}
	}
	return changes
}

// join makes one patch of those that touch each other.
func join(patches []Patch) []Patch {
	var out []Patch
	for _, p := range patches {
		if n := len(out); n > 0 && int(out[n-1].Offset)+len(out[n-1].Data) == int(p.Offset) {
			out[n-1].Data = append(out[n-1].Data, p.Data...)
			continue
		}
		out = append(out, p)
	}
	return out
}

// String names the case, in one line.
func (c *Case) String() string {
	name := "hand-written"
	if c.Form != nil {
		name = c.Form.Name
	}
	return fmt.Sprintf("%s (%s, % x, case %d of seed %d)", name, c.Mode, c.Code, c.Index, c.Seed)
}
