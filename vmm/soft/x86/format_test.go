package x86

import (
	"fmt"
	"strings"
)

// format writes inst in Intel's syntax, the way objdump -M intel does, but without prefixes. next is the address
// behind inst.
func format(in *Inst, mode Mode, next uint64) string {
	var args []string
	for _, a := range in.Arg {
		if arg := formatArg(in, a, mode, next); arg != "" {
			args = append(args, arg)
		}
	}
	if implied := formatImplied(in); implied != "" {
		args = append(args, implied)
	}
	return strings.TrimRight(mnemonic(in, mode)+" "+strings.Join(args, ","), " ")
}

// bySize are the names of those that have one for each size of operand or address.
var bySize = map[Op]map[uint8]string{
	CBW:     {2: "cbw", 4: "cwde", 8: "cdqe"},
	CWD:     {2: "cwd", 4: "cdq", 8: "cqo"},
	IRET:    {2: "iretw", 4: "iret", 8: "iretq"},
	RETF:    {2: "retfw", 4: "retf", 8: "retfq"},
	SYSRET:  {2: "sysretw", 4: "sysretd", 8: "sysretq"},
	SYSEXIT: {2: "sysexitw", 4: "sysexitd", 8: "sysexitq"},
	JRCXZ:   {2: "jcxz", 4: "jecxz", 8: "jrcxz"},
}

// mnemonic is the name of in with the suffix for its size that objdump gives it.
func mnemonic(in *Inst, mode Mode) string {
	name := in.Op.String()
	switch in.Op {
	case JRCXZ:
		return bySize[in.Op][in.AddrSize]
	case CBW, CWD, IRET, RETF, SYSRET, SYSEXIT:
		return bySize[in.Op][in.OpSize]
	case CALLF, JMPF:
		return strings.TrimSuffix(name, "f")
	case FXSAVE, FXRSTOR, XSAVE, XSAVEC, XSAVEOPT, XSAVES, XRSTOR, XRSTORS:
		if in.OpSize == 8 {
			return name + "64"
		}
	case SGDT, SIDT, LGDT, LIDT:
		if mode != Mode64 {
			return name + map[uint8]string{2: "w", 4: "d"}[in.OpSize]
		}
	case CMPPS, CMPPD, CMPSS, CMPSD:
		if in.Imm < 8 {
			return "cmp" + strings.Fields("eq lt le unord neq nlt nle ord")[in.Imm] + name[3:]
		}
	case PUSH, POP:
		if kind := in.Arg[0].Kind; in.OpSize == 2 && (kind == Imm || kind == SReg) {
			return name + "w"
		}
	case CALL, JMP:
		if in.OpSize == 2 && in.Arg[0].Kind == Rel && (in.Op == CALL || int64(int8(in.Imm)) != in.Imm) {
			return name + "w"
		}
	case PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE, RET, FLDENV, FNSTENV, FRSTOR, FNSAVE:
		if in.OpSize == 2 {
			return name + "w"
		}
	}
	return name
}

// formatImplied writes the operands of strings and XLAT, which Inst.Arg does not have.
func formatImplied(in *Inst) string {
	pointer := func(seg uint8, reg uint8) string {
		return fmt.Sprintf("%s PTR %s:[%s]", pointers[in.OpSize], segments[seg], register(reg, in.AddrSize))
	}
	const es, ax, bx, si, di = 0, 0, 3, 6, 7
	switch in.Op {
	case MOVS:
		return pointer(es, di) + "," + pointer(in.Mem.Seg, si)
	case CMPS:
		return pointer(in.Mem.Seg, si) + "," + pointer(es, di)
	case STOS:
		return pointer(es, di) + "," + register(ax, in.OpSize)
	case LODS:
		return register(ax, in.OpSize) + "," + pointer(in.Mem.Seg, si)
	case SCAS:
		return register(ax, in.OpSize) + "," + pointer(es, di)
	case INS:
		return pointer(es, di) + ",dx"
	case OUTS:
		return "dx," + pointer(in.Mem.Seg, si)
	case XLAT:
		return fmt.Sprintf("BYTE PTR %s:[%s]", segments[in.Mem.Seg], register(bx, in.AddrSize))
	}
	return ""
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
		return fmt.Sprintf("st(%d)", a.Reg)
	case MMX:
		return fmt.Sprintf("mm%d", a.Reg)
	case XMM:
		return fmt.Sprintf("xmm%d", a.Reg)
	case Imm:
		if in.Op >= CMPPS && in.Op <= CMPSD && in.Imm < 8 {
			return "" // part of the mnemonic
		}
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
	return ""
}

// low is a mask for size bytes.
func low(size uint8) uint64 { return ^uint64(0) >> (64 - 8*uint(size)) }

var pointers = map[uint8]string{
	1: "BYTE", 2: "WORD", 4: "DWORD", 6: "FWORD", 8: "QWORD", 10: "TBYTE", 16: "XMMWORD",
}

// unsized are those whose memory objdump writes without a size.
var unsized = map[Op]bool{SGDT: true, SIDT: true, LGDT: true, LIDT: true, LDDQU: true, INVPCID: true}

func formatMem(in *Inst, size uint8, mode Mode) string {
	m := &in.Mem
	var s strings.Builder
	switch name := pointers[size]; {
	case in.Op == INVLPG:
		s.WriteString("BYTE PTR ")
	case name != "" && !unsized[in.Op]:
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
	if m.Base == RegIP {
		fmt.Fprintf(&s, "+%#x", uint64(m.Disp))
	} else if m.Disp != 0 {
		fmt.Fprintf(&s, "%+#x", m.Disp)
	}
	s.WriteString("]")
	return s.String()
}
