package oracle

import (
	"fmt"
	"strconv"
	"strings"
)

// Form is one entry of the table of instructions: an opcode with its kinds of operands.
type Form struct {
	Name string // mnemonic and operands

	prefix byte   // mandatory prefix, or 0
	opcode []byte // without prefixes
	digit  int    // ModRM.reg where it is part of the opcode, or -1
	args   []arg

	only      [2]bool // by Mode: the form exists
	lock      bool    // LOCK is allowed, with a memory destination
	step      bool    // may not go on to the next instruction, so that the recorder has to step
	rep       bool    // a string instruction
	wide      bool    // the operand size is 64 bits in 64-bit mode, or 16 with a prefix
	branch    bool    // a near branch: as wide, and no operand-size prefix in 64-bit mode
	noPrefix  bool    // redundant prefixes would make it another instruction
	whole     bool    // all of it is there to be fetched, and not too long
	countInCL bool    // of a shift
	unit      unit

	undefined uint64                 // flags that the manual always leaves undefined
	mask      func(c *Case, m *Mask) // what else is undefined
	set       func(g *gen)           // chooses operands that make sense
	after     func(g *gen)           // the same, once the memory operand is known
}

// unit is the part of the CPU that a form's operands are in.
type unit uint8

const (
	unitInt unit = iota
	unitX87
	unitMMX
	unitSSE    // integers in XMM
	unitSingle // floating point in XMM
	unitDouble
)

// arg is an operand: the manual's code of where it is, and of its type (SDM vol. 2D, A.2).
type arg struct {
	kind byte // E G M R Z I J O X Y, V W U, P Q N; 0 if implied
	typ  string
}

// Forms is the table of instructions.
var Forms = parse(intTable + expand() + x87Table + sseTable)

// formByName finds forms for the corpus.
var formByName = func() map[string]*Form {
	m := make(map[string]*Form, len(Forms))
	for _, f := range Forms {
		if m[f.Name] != nil {
			panic("two forms are named " + f.Name)
		}
		m[f.Name] = f
	}
	return m
}()

// A line is: mnemonic, opcode, operands, options. The opcode is in hex, with its mandatory prefix before and
// the digit of ModRM.reg behind a slash; operands are the manual's codes, and what is implied stands
// as the manual writes it. Two more codes: Z is the register in the opcode's last bits, and what follows M for x87 is the format.
//
// Options: lock, step, rep, wide, branch, alone (no redundant prefixes), whole; 32 and 64, the only mode; x87, mmx and
// sse, where operands do not tell the unit;
// u=FLAGS, undefined flags; the rest are names in masks and setters.
const intTable = `
TEST  84    Eb,Gb     u=A
TEST  85    Ev,Gv     u=A
TEST  A8    AL,Ib     u=A
TEST  A9    rAX,Iz    u=A
TEST  F6/0  Eb,Ib     u=A
TEST  F7/0  Ev,Iz     u=A
NOT   F6/2  Eb        lock
NOT   F7/2  Ev        lock
NEG   F6/3  Eb        lock
NEG   F7/3  Ev        lock
MUL   F6/4  Eb        u=SZAP
MUL   F7/4  Ev        u=SZAP
IMUL  F6/5  Eb        u=SZAP
IMUL  F7/5  Ev        u=SZAP
IMUL  0FAF  Gv,Ev     u=SZAP
IMUL  69    Gv,Ev,Iz  u=SZAP
IMUL  6B    Gv,Ev,Ibs u=SZAP
DIV   F6/6  Eb        u=OSZAPC div
DIV   F7/6  Ev        u=OSZAPC div
IDIV  F6/7  Eb        u=OSZAPC div
IDIV  F7/7  Ev        u=OSZAPC div
INC   FE/0  Eb        lock
INC   FF/0  Ev        lock
INC   40    Zv        32
DEC   FE/1  Eb        lock
DEC   FF/1  Ev        lock
DEC   48    Zv        32
MOV   88    Eb,Gb
MOV   89    Ev,Gv
MOV   8A    Gb,Eb
MOV   8B    Gv,Ev
MOV   8C    Ev,Sw     sreg
MOV   A0    AL,Ob
MOV   A1    rAX,Ov
MOV   A2    Ob,AL
MOV   A3    Ov,rAX
MOV   B0    Zb,Ib
MOV   B8    Zv,Iv
MOV   C6/0  Eb,Ib
MOV   C7/0  Ev,Iz
XCHG  86    Eb,Gb     lock
XCHG  87    Ev,Gv     lock
XCHG  90    Zv,rAX
LEA   8D    Gv,M
MOVZX 0FB6  Gv,Eb
MOVZX 0FB7  Gv,Ew
MOVSX 0FBE  Gv,Eb
MOVSX 0FBF  Gv,Ew
MOVSXD 63   Gv,Ed     64 movsxd
ARPL  63    Ew,Gw     32
CBW   98    rAX
CWD   99    rDX,rAX
LAHF  9F    AH
SAHF  9E    AH
CLC   F8    -
STC   F9    -
CMC   F5    -
CLD   FC    -
STD   FD    -
PUSH  50    Zv        wide stack
PUSH  68    Iz        wide stack
PUSH  6A    Ibs       wide stack
PUSH  FF/6  Ev        wide stack
PUSH  06    ES        32 wide stack pushseg
PUSH  0E    CS        32 wide stack pushseg
PUSH  16    SS        32 wide stack pushseg
PUSH  1E    DS        32 wide stack pushseg
PUSH  0FA0  FS        wide stack pushseg
PUSH  0FA8  GS        wide stack pushseg
POP   58    Zv        wide stack
POP   8F/0  Ev        wide stack
PUSHF 9C    Fv        wide stack
POPF  9D    Fv        wide step popf
PUSHA 60    -         32 stack
POPA  61    -         32 stack
ENTER C8    Iw,Ib     wide enter
LEAVE C9    -         wide leave
XLAT  D7    -         xlat
BSWAP 0FC8  Zv        bswap
XADD  0FC0  Eb,Gb     lock
XADD  0FC1  Ev,Gv     lock
CMPXCHG 0FB0 Eb,Gb    lock cmpxchg
CMPXCHG 0FB1 Ev,Gv    lock cmpxchg
CMPXCHG8B 0FC7/1 Mc   lock alone cmpxchg8b
BT    0FA3  Ev,Gv     u=OSAP bt
BTS   0FAB  Ev,Gv     u=OSAP bt lock
BTR   0FB3  Ev,Gv     u=OSAP bt lock
BTC   0FBB  Ev,Gv     u=OSAP bt lock
BT    0FBA/4 Ev,Ib    u=OSAP
BTS   0FBA/5 Ev,Ib    u=OSAP lock
BTR   0FBA/6 Ev,Ib    u=OSAP lock
BTC   0FBA/7 Ev,Ib    u=OSAP lock
BSF   0FBC  Gv,Ev     u=OSAPC alone bsf
BSR   0FBD  Gv,Ev     u=OSAPC alone bsf
POPCNT F30FB8 Gv,Ev   alone
CRC32 F20F38F0 Gy,Eb  alone
CRC32 F20F38F1 Gy,Ev  alone
SHLD  0FA4  Ev,Gv,Ib  shiftdouble
SHLD  0FA5  Ev,Gv,CL  shiftdouble cl
SHRD  0FAC  Ev,Gv,Ib  shiftdouble
SHRD  0FAD  Ev,Gv,CL  shiftdouble cl
JMP   EB    Jb        step branch
JMP   E9    Jz        step branch
JMP   FF/4  Ev        step branch target
CALL  E8    Jz        step branch stack
CALL  FF/2  Ev        step branch call
RET   C3    -         step branch ret
RET   C2    Iw        step branch ret
LOOPNE E0   Jb        step branch loop alone
LOOPE E1    Jb        step branch loop alone
LOOP  E2    Jb        step branch loop
JRCXZ E3    Jb        step branch loop
MOVS  A4    Yb,Xb     rep step
MOVS  A5    Yv,Xv     rep step
CMPS  A6    Xb,Yb     rep step equal
CMPS  A7    Xv,Yv     rep step equal
STOS  AA    Yb,AL     rep step
STOS  AB    Yv,rAX    rep step
LODS  AC    AL,Xb     rep step
LODS  AD    rAX,Xv    rep step
SCAS  AE    AL,Yb     rep step equal
SCAS  AF    rAX,Yv    rep step equal
INS   6C    Yb,DX     rep step
OUTS  6F    DX,Xz     rep step
DAA   27    AL        32 u=O
DAS   2F    AL        32 u=O
AAA   37    AX        32 u=OSZP
AAS   3F    AX        32 u=OSZP
AAM   D4    AX,Ib     32 u=OAC
AAD   D5    AX,Ib     32 u=OAC
BOUND 62    Gv,Ma     32 bound
INTO  CE    -         32 step
INT3  CC    -         step
INT   CD    Ib        interrupt
NOP   90    -         step
PAUSE F390  -         alone
NOP   0F1F  Ev
NOP   0F19  Ev
PREFETCHT 0F18 Mb
PREFETCHW 0F0D/1 Mb
MOVNTI 0FC3 My,Gy     alone
UD2   0F0B  -
UD1   0FB9  Gd,Ed     whole
LFENCE 0FAE/5 -       alone
MFENCE 0FAE/6 -       alone
SFENCE 0FAE/7 -       alone
CLFLUSH 0FAE/7 Mb     alone
HLT   F4    -
CLI   FA    -
STI   FB    -
IN    E4    AL,Ib
IN    ED    eAX,DX
OUT   E7    Ib,eAX
OUT   EE    DX,AL
CLTS  0F06  -
INVD  0F08  -         alone
WBINVD 0F09 -         alone
WRMSR 0F30  -
RDMSR 0F32  -
SYSRET 0F07 -
MOVCR 0F20  Ry,Cy     alone control
MOVCR 0F22  Cy,Ry     alone control
MOVDR 0F21  Ry,Dy     alone control
MOVDR 0F23  Dy,Ry     alone control
LGDT  0F01/2 Ms
LIDT  0F01/3 Ms
INVLPG 0F01/7 Mb
LMSW  0F01/6 Ew
LLDT  0F00/2 Ew
LTR   0F00/3 Ew
LDMXCSR 0FAE/2 Md     alone sse ldmxcsr
STMXCSR 0FAE/3 Md     alone sse
FXSAVE 0FAE/0 Mx      alone mmx fxsave
FXRSTOR 0FAE/1 Mx     alone mmx
`

// expand makes the forms that come in rows of eight or sixteen, or in pairs.
func expand() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for i, op := range strings.Fields("ADD OR ADC SBB AND SUB XOR CMP") {
		options, lock := "", "lock"
		if op == "OR" || op == "AND" || op == "XOR" {
			options = "u=A"
		}
		if op == "CMP" {
			lock = ""
		}
		add("%s %02X Eb,Gb %s %s", op, 8*i, options, lock)
		add("%s %02X Ev,Gv %s %s", op, 8*i+1, options, lock)
		add("%s %02X Gb,Eb %s", op, 8*i+2, options)
		add("%s %02X Gv,Ev %s", op, 8*i+3, options)
		add("%s %02X AL,Ib %s", op, 8*i+4, options)
		add("%s %02X rAX,Iz %s", op, 8*i+5, options)
		add("%s 80/%d Eb,Ib %s %s", op, i, options, lock)
		add("%s 81/%d Ev,Iz %s %s", op, i, options, lock)
		add("%s 82/%d Eb,Ib 32 %s %s", op, i, options, lock)
		add("%s 83/%d Ev,Ibs %s %s", op, i, options, lock)
	}
	for i, op := range strings.Fields("ROL ROR RCL RCR SHL SHR SAL SAR") {
		class := "shift"
		if i < 4 {
			class = "rotate"
		}
		add("%s C0/%d Eb,Ib %s", op, i, class)
		add("%s C1/%d Ev,Ib %s", op, i, class)
		add("%s D0/%d Eb,1 %s", op, i, class)
		add("%s D1/%d Ev,1 %s", op, i, class)
		add("%s D2/%d Eb,CL %s cl", op, i, class)
		add("%s D3/%d Ev,CL %s cl", op, i, class)
	}
	for i, cc := range strings.Fields("O NO B AE E NE BE A S NS P NP L GE LE G") {
		add("J%s %02X Jb step branch", cc, 0x70+i)
		add("J%s 0F%02X Jz step branch", cc, 0x80+i)
		add("CMOV%s 0F%02X Gv,Ev", cc, 0x40+i)
		add("SET%s 0F%02X Eb", cc, 0x90+i)
	}
	both := strings.Fields(bothTable)
	for i := 0; i < len(both); i += 2 {
		imm := ""
		if both[i+1] == "PALIGNR" {
			imm = ",Ib lanes"
		}
		add("%s %s Pq,Qq%s", both[i+1], both[i], imm)
		add("%s 66%s Vdq,Wdq%s", both[i+1], both[i], imm)
	}
	return b.String()
}

// parse makes forms of lines.
func parse(text string) []*Form {
	var forms []*Form
	for line := range strings.Lines(text) {
		if w := strings.Fields(line); len(w) > 0 {
			forms = append(forms, newForm(w[0], w[1], w[2], w[3:]))
		}
	}
	return forms
}

func newForm(mnemonic, opcode, args string, options []string) *Form {
	f := &Form{Name: mnemonic + " " + args + " " + opcode, digit: -1, only: [2]bool{true, true}}
	hex, digit, _ := strings.Cut(opcode, "/")
	if digit != "" {
		f.digit = int(digit[0] - '0')
	}
	for i := 0; i < len(hex); i += 2 {
		b, err := strconv.ParseUint(hex[i:i+2], 16, 8)
		if err != nil {
			panic(err)
		}
		f.opcode = append(f.opcode, byte(b))
	}
	if first := f.opcode[0]; len(f.opcode) > 1 && (first == 0x66 || first == 0xf2 || first == 0xf3) {
		f.prefix, f.opcode = first, f.opcode[1:]
	}
	for _, a := range strings.Split(args, ",") {
		f.addArg(a)
	}
	for _, o := range options {
		f.addOption(o)
	}
	// Elsewhere 66, F2 and F3 select another instruction.
	if len(f.opcode) > 1 && f.unit != unitInt {
		f.noPrefix = true
	}
	return f
}

// implied operands look like codes, but take no part in the encoding.
var implied = map[string]bool{"CL": true, "CS": true, "ES": true, "GS": true}

func (f *Form) addArg(a string) {
	kind, typ := a[0], a[1:]
	if !strings.ContainsRune("EGMRZIJOXYVWUPQNC", rune(kind)) || implied[a] {
		return
	}
	f.args = append(f.args, arg{kind, typ})
	u := unitInt
	switch {
	case strings.ContainsRune("PQN", rune(kind)):
		u = unitMMX
	case !strings.ContainsRune("VWU", rune(kind)):
	case typ == "ps" || typ == "ss":
		u = unitSingle
	case typ == "pd" || typ == "sd":
		u = unitDouble
	default:
		u = unitSSE
	}
	// Of MMX and SSE it is MMX, which brings in the state of x87.
	if u != unitInt && f.unit != unitMMX {
		f.unit = u
	}
}

func (f *Form) addOption(o string) {
	if flags, ok := strings.CutPrefix(o, "u="); ok {
		for _, letter := range flags {
			f.undefined |= flagLetters[letter]
		}
		return
	}
	known := true
	switch o {
	case "lock":
		f.lock = true
	case "step":
		f.step = true
	case "rep":
		f.rep, f.after = true, laters[o]
	case "wide":
		f.wide = true
	case "branch":
		f.wide, f.branch = true, true
	case "alone":
		f.noPrefix = true
	case "whole":
		f.whole = true
	case "32":
		f.only[Mode64] = false
	case "64":
		f.only[Mode32] = false
	case "x87":
		f.unit = unitX87
	case "mmx":
		f.unit = unitMMX
	case "sse":
		f.unit = unitSSE
	case "cl":
		f.countInCL = true
	default:
		known = false
	}
	if m, ok := masks[o]; ok {
		f.mask, known = m, true
	}
	if s, ok := setters[o]; ok {
		f.set, known = s, true
	}
	if s, ok := laters[o]; ok {
		f.after, known = s, true
	}
	if !known {
		panic("unknown option " + o + " of " + f.Name)
	}
}

var flagLetters = map[rune]uint64{'O': OF, 'S': SF, 'Z': ZF, 'A': AF, 'P': PF, 'C': CF}

// modRM reports whether the form has a ModRM byte.
func (f *Form) modRM() bool {
	if f.digit >= 0 {
		return true
	}
	for _, a := range f.args {
		if strings.ContainsRune("EGMRVWUPQNC", rune(a.kind)) {
			return true
		}
	}
	return false
}
