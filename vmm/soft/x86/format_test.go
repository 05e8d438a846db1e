package x86

import (
	"fmt"
	"strings"
)

// format writes inst in Intel's syntax as objdump -M intel does, but without prefixes. next is the address behind inst.
func format(in *Inst, mode Mode, next uint64) string {
	var args []string
	for _, a := range in.Arg {
		if a.Kind != None {
			args = append(args, formatArg(in, a, mode, next))
		}
	}
	return strings.TrimRight(in.Op.String()+" "+strings.Join(args, ","), " ")
}

var registers = map[uint8][]string{
	1: {"al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"},
	2: {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"},
	4: {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"},
	8: {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"},
}

// register is the name of a general register.
func register(n, size uint8) string {
	switch {
	case n == RegIP:
		return map[uint8]string{4: "eip", 8: "rip"}[size]
	case n < 8:
		return registers[size][n]
	}
	return fmt.Sprintf("r%d%s", n, map[uint8]string{1: "b", 2: "w", 4: "d"}[size])
}

var segments = []string{"es", "cs", "ss", "ds", "fs", "gs"}

func formatArg(in *Inst, a Arg, mode Mode, next uint64) string {
	switch a.Kind {
	case GPR:
		return register(a.Reg, a.Size)
	case High:
		return []string{"ah", "ch", "dh", "bh"}[a.Reg]
	case SReg:
		return segments[a.Reg]
	case CReg:
		return fmt.Sprintf("cr%d", a.Reg)
	case DReg:
		return fmt.Sprintf("dr%d", a.Reg)
	case ST:
		if a.Reg == 0 && in.Arg[1].Kind != None && (in.Arg[0] == a || in.Arg[0].Reg != 0) {
			return "st"
		}
		return fmt.Sprintf("st(%d)", a.Reg)
	case MMX:
		return fmt.Sprintf("mm%d", a.Reg)
	case XMM:
		return fmt.Sprintf("xmm%d", a.Reg)
	case Imm:
		return fmt.Sprintf("%#x", uint64(in.Imm)&low(a.Size))
	case Imm2:
		return fmt.Sprintf("%#x", in.Imm2)
	case Rel:
		size := in.OpSize
		if size == 4 && mode == Mode64 {
			size = 8
		}
		return fmt.Sprintf("%#x", (next+uint64(in.Imm))&low(size))
	case Far:
		return fmt.Sprintf("%#x:%#x", in.Imm2, in.Imm)
	case MemOp:
		return formatMem(in, a.Size, mode)
	}
	return fmt.Sprintf("kind %d", a.Kind)
}

// low is a mask for size bytes.
func low(size uint8) uint64 { return ^uint64(0) >> (64 - 8*uint(size)) }

var pointers = map[uint8]string{
	1: "BYTE", 2: "WORD", 4: "DWORD", 6: "FWORD", 8: "QWORD", 10: "TBYTE", 16: "XMMWORD",
}

func formatMem(in *Inst, size uint8, mode Mode) string {
	m := &in.Mem
	var s strings.Builder
	if name := pointers[size]; name != "" {
		s.WriteString(name + " PTR ")
	}
	byDefault := uint8(segDS)
	if m.Base == 4 || m.Base == 5 {
		byDefault = segSS
	}
	if m.Base == NoReg && m.Index == NoReg {
		fmt.Fprintf(&s, "%s:%#x", segments[m.Seg], uint64(m.Disp)&low(in.AddrSize))
		return s.String()
	}
	if m.Seg != byDefault {
		s.WriteString(segments[m.Seg] + ":")
	}
	s.WriteString("[")
	if m.Base != NoReg {
		s.WriteString(register(m.Base, in.AddrSize))
	}
	if m.Index != NoReg {
		if m.Base != NoReg {
			s.WriteString("+")
		}
		s.WriteString(register(m.Index, in.AddrSize))
		if in.AddrSize != 2 {
			fmt.Fprintf(&s, "*%d", 1<<m.Shift)
		}
	}
	if m.Disp != 0 {
		fmt.Fprintf(&s, "%+#x", m.Disp)
	}
	s.WriteString("]")
	return s.String()
}
