package x86

import (
	"fmt"
	"strconv"
	"strings"
)

// opcode is what is known of an opcode.
type opcode struct {
	// forms are those of the opcode; the first that fits is taken. The last fits always.
	forms []form
	// first is the first of forms that can fit, by the mod and reg fields of the selector.
	first [16]uint8
	// modRM is set if a ModRM byte follows; anyMod if its mod field is ignored.
	modRM, anyMod bool
}

// The opcode maps: one-byte opcodes, and those behind 0F, 0F 38 and 0F 3A.
const (
	map1 = iota
	map0F
	map0F38
	map0F3A
	numMaps
)

// form is one instruction form.
type form struct {
	// The form fits if selector&mask == match.
	mask, match selector
	op          Op
	attr        attr
	args        [4]operand
}

// selector is all of an instruction that selects a form of its opcode.
type selector uint16

const (
	selRM  selector = 7      // the rm field of ModRM
	selReg selector = 7 << 3 // its reg field
	selMod selector = 1 << 6 // whether its mod field says that rm is a register
	selPfx selector = 3 << 7 // the mandatory prefix
	sel66  selector = 1 << 7
	selF3  selector = 2 << 7
	selF2  selector = 3 << 7
	selW   selector = 1 << 9
	selB   selector = 1 << 10
	sel64  selector = 1 << 11 // 64-bit mode
)

// attr is what a form says of the instruction as a whole; the names are the table's.
type attr uint8

const (
	attrD64 attr = 1 << iota
	attrF64
	attrZ
	attrByte
	attrLock
	attrRep
	attrAnyMod
	attrModRM // there is a ModRM byte
)

// operand says where an operand comes from.
type operand struct {
	method method
	// reg is the number of the register, where the method does not find it in the instruction.
	reg uint8
	// size is that of a register or immediate, memSize that of memory, in bytes or as a size code.
	size, memSize uint8
}

// method is how an operand is found; the letters are the table's.
type method uint8

const (
	noOperand method = iota

	// By ModRM.
	methodC
	methodD
	methodE // E, M, R
	methodG
	methodP
	methodQ // Q, N
	methodS
	methodV
	methodW // W, U
	methodSTi

	// By bytes after that.
	methodA
	methodI
	methodI2 // the second immediate
	methodSI
	methodJ
	methodO

	// By the opcode.
	methodZ
	methodGPR
	methodSReg
	methodST
	methodOne
)

func (m method) inModRM() bool { return methodC <= m && m <= methodSTi }
func (m method) behind() bool  { return methodA <= m && m <= methodO }

// Size codes, for sizes that depend on the instruction. The letters are the table's.
const (
	sizeV uint8 = 0x80 + iota
	sizeY
	sizeN
	sizeZ
	sizeP
	sizeA
	sizeS
	sizeE
	sizeF
)

// methods are the addressing methods by letter, with what they demand of the mod field.
var methods = map[string]struct {
	method
	demand
}{
	"A": {method: methodA}, "C": {method: methodC}, "D": {method: methodD}, "E": {method: methodE}, "G": {method: methodG},
	"I": {method: methodI}, "J": {method: methodJ}, "M": {methodE, demand{selMod, 0}}, "N": {methodQ, demand{selMod, selMod}},
	"O": {method: methodO}, "P": {method: methodP}, "Q": {method: methodQ}, "R": {methodE, demand{selMod, selMod}},
	"S": {method: methodS}, "U": {methodW, demand{selMod, selMod}}, "V": {method: methodV}, "W": {method: methodW},
	"Z": {method: methodZ}, "sI": {method: methodSI},
}

// sizes are the types by letter.
var sizes = map[string]uint8{
	"": 0, "b": 1, "w": 2, "d": 4, "q": 8, "t": 10, "x": 16,
	"v": sizeV, "y": sizeY, "n": sizeN, "z": sizeZ, "p": sizeP, "a": sizeA, "s": sizeS, "e": sizeE, "f": sizeF,
}

// fixed are the operands that are not in the instruction.
var fixed = map[string]operand{
	"AL": {methodGPR, 0, 1, 0}, "CL": {methodGPR, 1, 1, 0}, "AX": {methodGPR, 0, 2, 0}, "DX": {methodGPR, 2, 2, 0},
	"rAX": {methodGPR, 0, sizeV, 0},
	"ES":  {methodSReg, 0, 2, 0}, "CS": {methodSReg, 1, 2, 0}, "SS": {methodSReg, 2, 2, 0}, "DS": {methodSReg, 3, 2, 0},
	"FS": {methodSReg, 4, 2, 0}, "GS": {methodSReg, 5, 2, 0},
	"ST": {methodST, 0, 10, 0}, "STi": {methodSTi, 0, 10, 0},
	"1": {methodOne, 0, 1, 0},
}

// attrs are the words of row.code that are attributes.
var attrs = map[string]attr{
	"d64": attrD64, "f64": attrF64, "z": attrZ, "byte": attrByte, "lock": attrLock, "rep": attrRep,
	"anymod": attrAnyMod, "/r": attrModRM,
}

// demand is a part of what a form demands of the selector.
type demand struct{ mask, match selector }

// prefixes are the mandatory prefixes. They are the first word of row.code; the same bytes are opcodes after others.
var prefixes = map[string]demand{"np": {selPfx, 0}, "66": {selPfx, sel66}, "F3": {selPfx, selF3}, "F2": {selPfx, selF2}}

// demands are the other words of row.code that demand something.
var demands = map[string]demand{
	"mem": {selMod, 0}, "reg": {selMod, selMod}, "w0": {selW, 0}, "w1": {selW, selW}, "b0": {selB, 0},
	"i64": {sel64, 0}, "o64": {sel64, sel64},
}

func (f *form) demand(d demand) {
	f.mask |= d.mask
	f.match |= d.match
}

// opcodes is the table, compiled.
var opcodes = compile(integerTable[:], x87Table[:], simdTable[:])

// compile makes the opcode maps. It panics if a row is malformed: the table is part of the program.
func compile(tables ...[]row) *[numMaps][256]opcode {
	maps := new([numMaps][256]opcode)
	for _, table := range tables {
		for _, r := range table {
			compileRow(maps, r)
		}
	}
	for m := range maps {
		for o := range maps[m] {
			// Whatever is in these maps has a ModRM byte, and in the last an immediate, too.
			if m >= map0F38 {
				maps[m][o].modRM = true
			}
			maps[m][o].close(m == map0F3A)
		}
	}
	return maps
}

// close adds the form of what is undefined. Processors raise #UD for it once they have all of its bytes, and take
// it to be as long as what is defined; seen on Zen 5.
func (o *opcode) close(immediate bool) {
	f := form{op: Invalid}
	n := 0
	if o.modRM {
		f.args[n] = operand{method: methodE}
		n++
	}
	if immediate {
		f.args[n] = operand{method: methodI, size: 1}
	} else if len(o.forms) > 0 {
		for _, arg := range o.forms[0].args {
			if arg.method.behind() {
				f.args[n] = arg
				n++
			}
		}
	}
	o.forms = append(o.forms, f)
	for i := range o.first {
		s := selector(i) << 3
		for f := &o.forms[0]; (s^f.match)&f.mask&(selMod|selReg) != 0; f = &o.forms[o.first[i]] {
			o.first[i]++
		}
	}
}

// series is a number of values that one word of row.code stands for.
type series struct {
	first, step, n uint8
	ops            bool // each has an Op of its own
}

// compileRow adds the forms that r stands for to their opcodes.
func compileRow(maps *[numMaps][256]opcode, r row) {
	f := form{op: r.op}
	var code []string
	regs := series{n: 1}
	for i, word := range strings.Fields(r.code) {
		if d, ok := prefixes[word]; ok && i == 0 {
			f.demand(d)
		} else if d, ok := demands[word]; ok {
			f.demand(d)
		} else if a, ok := attrs[word]; ok {
			f.attr |= a
		} else if word[0] == '/' {
			regs = r.series(word[1:], 1)
			f.mask |= selReg
		} else {
			code = append(code, word)
		}
	}
	opMap := map1
	if code[0] == "0F" {
		opMap, code = map0F, code[1:]
		switch code[0] {
		case "38":
			opMap, code = map0F38, code[1:]
		case "3A":
			opMap, code = map0F3A, code[1:]
		}
	}
	codes := r.series(code[0], 8)
	if len(code) > 1 {
		modRM := r.series(code[1], 0)
		f.demand(demand{selMod | selReg, selMod | selector(modRM.first)&selReg})
		if modRM.n == 1 {
			f.demand(demand{selRM, selector(modRM.first) & selRM})
		}
	}
	r.operands(&f)
	if f.mask&(selMod|selReg|selRM) != 0 {
		f.attr |= attrModRM
	}
	for i := range codes.n {
		for j := range regs.n {
			g := f
			g.match |= selector(regs.first+j*regs.step) << 3
			if codes.ops {
				g.op += Op(i)
			}
			if regs.ops {
				g.op += Op(j)
			}
			o := &maps[opMap][codes.first+i*codes.step]
			o.forms = append(o.forms, g)
			o.modRM = o.modRM || g.attr&attrModRM != 0
			o.anyMod = o.anyMod || g.attr&attrAnyMod != 0
		}
	}
}

// series parses a word of row.code. step is that of a range.
func (r row) series(word string, step uint8) series {
	s := series{n: 1}
	number := word
	if first, ok := strings.CutSuffix(word, "+r"); ok {
		number, s.step, s.n = first, 1, 8
	} else if first, ok := strings.CutSuffix(word, "+i"); ok {
		number, s.step, s.n = first, 1, 8
	} else if first, ok := strings.CutSuffix(word, "+cc"); ok {
		number, s.step, s.n, s.ops = first, 1, 16, true
	} else if first, last, ok := strings.Cut(word, "-"); ok {
		number, s.step, s.n, s.ops = first, step, (r.hex(last)-r.hex(first))/step+1, true
	}
	s.first = r.hex(number)
	return s
}

func (r row) hex(s string) uint8 {
	n, err := strconv.ParseUint(s, 16, 8)
	if err != nil {
		panic(fmt.Sprintf("x86: row %q of %s: %v", r.code, r.op, err))
	}
	return uint8(n)
}

// operands compiles r.args into f.
func (r row) operands(f *form) {
	immediates := 0
	for i, word := range strings.Fields(r.args) {
		arg, ok := fixed[word]
		if !ok {
			letters := 1
			if word[0] == 's' {
				letters = 2
			}
			m, ok1 := methods[word[:letters]]
			regType, memType, two := strings.Cut(word[letters:], "/")
			if !two {
				memType = regType
			}
			size, ok2 := sizes[regType]
			memSize, ok3 := sizes[memType]
			if !ok1 || !ok2 || !ok3 {
				panic(fmt.Sprintf("x86: row %q of %s has operand %q", r.code, r.op, word))
			}
			f.demand(m.demand)
			arg = operand{method: m.method, size: size, memSize: memSize}
		}
		if arg.method == methodI {
			if immediates++; immediates == 2 {
				arg.method = methodI2
			}
		}
		if arg.method.inModRM() {
			f.attr |= attrModRM
		}
		f.args[i] = arg
	}
}
