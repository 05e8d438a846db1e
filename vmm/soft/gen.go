//go:build ignore

// gen writes micro_gen.go: the table of micro-operations, and those that exist for every width, form or
// condition.
package main

import (
	"bytes"
	"go/format"
	"log"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// byHand are the micro-operations that are written by hand, by their names without "op".
var byHand = []string{
	"Fault", "Missing", "Privileged", "Inst", "InstEnd", "Goto", "Const", "Index", "Addr32", "AddrSeg",
	"Nop", "GetHigh", "SetHigh", "Lea", "Lea32", "Bt", "Xchg32", "Xchg64", "Bswap32", "Bswap64", "Cdq", "Cqo",
	"Push", "Pop", "Leave", "Call", "CallR", "Ret", "Jmp", "JmpR",
	// Of MMX and SSE only what is not the computation itself, which goes by the instruction: see uVector.
	"CheckSSE", "CheckMMX", "CheckX87", "CheckWaiting", "CheckFX", "CheckAligned", "Wait", "EMMS", "EnterMMX", "TouchMMX",
	"LoadVector", "LoadAligned", "Load64V", "Load32V", "LoadSmallV", "StoreVector", "StoreAligned", "Store64V",
	"Store32V", "StoreLane", "MoveV", "MoveQ", "MoveLow64", "MoveLow32", "HighToLow", "ToGPR64",
	"ToGPR32", "FromGPR64", "FromGPR32", "InsertGPR", "InsertVector", "Extract",
}

// operation is one of the arithmetic operations of alu.go.
type operation struct {
	Name, Func string
	// Discards is set if only the flags are wanted.
	Discards bool
}

var binaries = []operation{
	{"Add", "add", false}, {"Or", "or", false}, {"Adc", "adc", false}, {"Sbb", "sbb", false},
	{"And", "and", false}, {"Sub", "sub", false}, {"Xor", "xor", false}, {"Cmp", "sub", true},
	{"Test", "and", true},
}

// shift is a shift or rotation. In most, the count is an immediate: for that there is a form of its own, where n
// is the count, neither 0 nor the width w of a, or more. Result is what becomes of a, CF and OF have the flags
// in their low bits, and Set is what sets them.
type shift struct{ Name, Func, Result, Set, CF, OF string }

var shifts = []shift{
	{"Rol", "rol", "bits.RotateLeft%[1]s(a, int(n))", "setCFOF(", "r", "r^r>>(%[1]s-1)"},
	{"Ror", "ror", "bits.RotateLeft%[1]s(a, -int(n))", "setCFOF(", "r>>(%[1]s-1)", "r>>(%[1]s-1)^r>>(%[1]s-2)"},
	{"Shl", "shl", "a<<n", "flagsShift(v, ", "a>>((%[1]s-n)&63)", "a>>((%[1]s-n)&63)^r>>(%[1]s-1)"},
	{"Shr", "shr", "a>>n", "flagsShift(v, ", "a>>((n-1)&63)", "a>>((n-1)&63)>>(%[1]s-1)"},
	{"Sar", "sar", "uint%[1]s(int%[1]s(a)>>n)", "flagsShift(v, ", "int%[1]s(a)>>((n-1)&63)", "0"},
}

// in puts the width into an expression of a shift.
func in(w, expression string) string { return strings.ReplaceAll(expression, "%[1]s", w) }

// quiet are the operations that exist without flags as well, for where nobody can see these: what r[dst]
// becomes of a, which it was, and b.
var quiet = []struct{ Name, Form, Result string }{
	{"Add", "R", "a + b"}, {"Or", "R", "a | b"}, {"And", "R", "a & b"}, {"Sub", "R", "a - b"}, {"Xor", "R", "a ^ b"},
	{"Add", "L", "a + b"}, {"Or", "L", "a | b"}, {"And", "L", "a & b"}, {"Sub", "L", "a - b"}, {"Xor", "L", "a ^ b"},
	{"Inc", "R", "a + 1"}, {"Dec", "R", "a - 1"}, {"Neg", "R", "-a"},
	{"Rol", "I", "bits.RotateLeft%[1]s(a, int(u.imm&63))"}, {"Ror", "I", "bits.RotateLeft%[1]s(a, -int(u.imm&63))"},
	{"Shl", "I", "a << (u.imm & 63)"}, {"Shr", "I", "a >> (u.imm & 63)"}, {"Sar", "I", "uint%[1]s(int%[1]s(a) >> (u.imm & 63))"},
}

// Effects of micro-operations on the arithmetic flags; those that are in none of these lists may read flags, or
// leave the block so that others can. All but the quiet ones themselves have no memory operand.
var (
	// setters set all of them, and read none.
	setters = []string{"Add", "Or", "And", "Sub", "Xor", "Cmp", "Test", "Neg"}
	// keepers neither read nor set any.
	keepers = []string{"Const", "Index", "Addr32", "Nop", "GetHigh", "SetHigh", "Lea", "Lea32", "Xchg32", "Xchg64",
		"Bswap32", "Bswap64", "Cdq", "Cqo", "Mov8", "Mov16", "Mov32", "Mov64", "Movzx8", "Movzx16",
		"Movsx8to32", "Movsx16to32", "Movsx8to64", "Movsx16to64", "Movsx32to64", "NotR8", "NotR16", "NotR32", "NotR64",
		"Imul32Quiet", "Imul64Quiet"}
)

// effects gives the names of the micro-operations that have an effect.
func effects() map[string][]string {
	all := map[string][]string{"flagsKept": slices.Clone(keepers)}
	set := func(names ...string) { all["flagsSet"] = append(all["flagsSet"], names...) }
	for _, name := range setters {
		for _, w := range widths {
			set(name + "R" + w)
		}
	}
	for _, name := range []string{"Shl", "Shr", "Sar"} {
		set(name+"I32", name+"I64")
	}
	for _, f := range fusable {
		for _, c := range conditions {
			if f.Form == "R" && operator(c, f.Name) != "" {
				set(f.Name + "R" + f.Width + "J" + c.Name)
			}
		}
	}
	for _, q := range quiet {
		for _, w := range widths[2:] {
			if q.Form != "L" {
				all["flagsKept"] = append(all["flagsKept"], q.Name+q.Form+w+"Quiet")
			}
		}
	}
	return all
}

var unaries = []operation{{"Inc", "inc", false}, {"Dec", "dec", false}, {"Neg", "neg", false}, {"Not", "not", false}}

// condition is a condition code: how it is found from the flags.
type condition struct {
	Name, Flags string
	// Cmp is the operator that it stands for after a comparison, of the type that Type and the width name;
	// where that is "", of the difference with 0. It is empty where there is no such operator.
	Type, Cmp string
	// Test is the operator that it stands for after a TEST, of the result with 0.
	Test string
}

// fusable are the forms of CMP and TEST that exist together with a conditional branch.
var fusable = []struct{ Name, Func, Form, Width string }{
	{"Cmp", "sub", "R", "8"}, {"Cmp", "sub", "R", "32"}, {"Cmp", "sub", "R", "64"},
	{"Cmp", "sub", "L", "32"}, {"Cmp", "sub", "L", "64"},
	{"Cmp", "sub", "M", "8"}, {"Cmp", "sub", "M", "16"}, {"Cmp", "sub", "M", "32"}, {"Cmp", "sub", "M", "64"},
	{"Test", "and", "R", "8"}, {"Test", "and", "R", "32"}, {"Test", "and", "R", "64"},
	{"Test", "and", "M", "8"}, {"Test", "and", "M", "32"},
}

// conditions are in the order of their encoding (SDM vol. 1, appendix B).
var conditions = []condition{
	{"O", "c.of()", "", "", ""},
	{"NO", "!c.of()", "", "", ""},
	{"B", "c.cf()", "uint", "<", ""},
	{"AE", "!c.cf()", "uint", ">=", ""},
	{"E", "c.zf()", "", "==", "=="},
	{"NE", "!c.zf()", "", "!=", "!="},
	{"BE", "c.cf() || c.zf()", "uint", "<=", ""},
	{"A", "!c.cf() && !c.zf()", "uint", ">", ""},
	{"S", "c.sf()", "", "<", "<"},
	{"NS", "!c.sf()", "", ">=", ">="},
	{"P", "c.pf()", "", "", ""},
	{"NP", "!c.pf()", "", "", ""},
	{"L", "c.sf() != c.of()", "int", "<", ""},
	{"GE", "c.sf() == c.of()", "int", ">=", ""},
	{"LE", "c.zf() || c.sf() != c.of()", "int", "<=", "<="},
	{"G", "!c.zf() && c.sf() == c.of()", "int", ">", ">"},
}

// operator is what c stands for after op, empty if nothing.
func operator(c condition, op string) string {
	if op == "Test" {
		return c.Test
	}
	return c.Cmp
}

var widths = []string{"8", "16", "32", "64"}

// extensions are the moves that extend with the sign; extending with zeroes to 32 bits does for 64 as well.
var extensions = []struct{ From, To string }{{"8", "32"}, {"16", "32"}, {"8", "64"}, {"16", "64"}, {"32", "64"}}

// names are those of all micro-operations, in an order that lets the opcode be computed: see the text.
func names() (all []string) {
	each := func(name string, suffixes ...string) {
		for _, s := range suffixes {
			all = append(all, name+s)
		}
	}
	var codes []string
	for _, c := range conditions {
		codes = append(codes, c.Name)
	}
	all = append(all, byHand...)
	for _, op := range binaries {
		for _, form := range []string{"R", "L", "M"} {
			each(op.Name+form, widths...)
		}
	}
	for _, op := range unaries {
		each(op.Name+"R", widths...)
		each(op.Name+"M", widths...)
	}
	for _, op := range shifts {
		each(op.Name+"R", widths...)
		each(op.Name+"M", widths...)
		each(op.Name+"I", widths[2:]...)
	}
	for _, name := range []string{"Mov", "Load", "LoadW", "Store"} {
		each(name, widths...)
	}
	for _, name := range []string{"Movzx", "Loadzx"} {
		each(name, widths[:2]...)
	}
	for _, name := range []string{"Movsx", "Loadsx"} {
		for _, x := range extensions {
			all = append(all, name+x.From+"to"+x.To)
		}
	}
	each("Imul", "32", "64", "32Quiet", "64Quiet")
	for _, q := range quiet {
		each(q.Name+q.Form, "32Quiet", "64Quiet")
	}
	each("J", codes...)
	each("Set", codes...)
	each("Cmov32", codes...)
	each("Cmov64", codes...)
	for _, f := range fusable {
		for _, c := range conditions {
			if operator(c, f.Name) != "" {
				all = append(all, f.Name+f.Form+f.Width+"J"+c.Name)
			}
		}
	}
	return all
}

// get is a word of w bits at p.
func get(w string) string {
	if w == "8" {
		return "uint64(p[0])"
	}
	return "uint64(binary.LittleEndian.Uint" + w + "(p[:]))"
}

// size is the number of bytes in a word of w bits.
func size(w string) string {
	return map[string]string{"8": "1", "16": "2", "32": "4", "64": "8"}[w]
}

var funcs = template.FuncMap{
	"operator": operator,
	"in":       in,
	"get":      get,
	"size":     size,
	// quietly puts operands of w bits into the result of a quiet operation.
	"quietly": func(result, w, b string) string {
		b = "uint" + w + "(" + b + ")"
		return regexp.MustCompile(`\b[ab]\b`).ReplaceAllStringFunc(in(w, result), func(s string) string {
			if s == "b" {
				return b
			}
			return "uint" + w + "(c.r[u.dst])"
		})
	},
	// load makes v the memory operand of w bits, extended with zeroes. It spells out what load8 to load64
	// do, which are not inlined.
	"load": func(w string) string {
		return "a, v := c.ea(u), uint64(0)\n" +
			"if p := c.read" + w + "(a); p != nil {\nv = " + get(w) +
			"\n} else {\nvar ok bool\nif v, ok = c.loadSlow(a, " + size(w) + "); !ok {\nreturn false\n}\n}"
	},
	// put writes a word of w bits at p.
	"put": func(w, v string) string {
		if w == "8" {
			return "p[0] = uint8(" + v + ")"
		}
		return "binary.LittleEndian.PutUint" + w + "(p[:], uint" + w + "(" + v + "))"
	},
}

var text = template.Must(template.New("").Funcs(funcs).Parse(`// Code generated by gen.go; DO NOT EDIT.

package soft

import (
	"encoding/binary"
	"math/bits"
)

// Micro-operations. Where one exists for several widths, they follow each other from 8 to 64 bits; where it
// exists for all conditions, these follow each other as encoded in Jcc.
const (
	uNone opcode = iota
{{- range .Names}}
	u{{.}}
{{- end}}
	numOpcodes
)

// micro is the table of micro-operations.
var micro = [numOpcodes]struct {
	name string
	fn   func(*CPU, *uop) bool
}{
{{- range .Names}}
	u{{.}}: {"{{.}}", (*CPU).op{{.}}},
{{- end}}
}

// fusions are the micro-operations that stand for a comparison and a conditional branch.
var fusions = [...]struct {
	compare opcode
	cond    uint8
	op      opcode
}{
{{- range $f := .Fusable}}{{range $i, $cond := $.Conditions}}{{if operator $cond $f.Name}}
	{u{{$f.Name}}{{$f.Form}}{{$f.Width}}, {{$i}}, u{{$f.Name}}{{$f.Form}}{{$f.Width}}J{{$cond.Name}}},
{{- end}}{{end}}{{end}}
}

// effects are those of micro-operations on the arithmetic flags.
var effects = [numOpcodes]effect{
{{- range $effect, $names := .Effects}}{{range $names}}
	u{{.}}: {{$effect}},
{{- end}}{{end}}
}

// quiets are the micro-operations that do the same without flags.
var quiets = [numOpcodes]opcode{
	uImul32: uImul32Quiet,
	uImul64: uImul64Quiet,
{{- range $q := .Quiet}}{{range $w := $.Wide}}
	u{{$q.Name}}{{$q.Form}}{{$w}}: u{{$q.Name}}{{$q.Form}}{{$w}}Quiet,
{{- end}}{{end}}
}

{{range $q := .Quiet}}{{range $w := $.Wide}}
func (c *CPU) op{{$q.Name}}{{$q.Form}}{{$w}}Quiet(u *uop) bool {
{{- if eq $q.Form "L"}}
	{{load $w}}
	c.r[u.dst] = uint64({{quietly $q.Result $w "v"}})
{{- else}}
	c.r[u.dst] = uint64({{quietly $q.Result $w "c.r[u.src] + u.imm"}})
{{- end}}
	return true
}
{{end}}{{end}}

{{range $op := .Binaries}}{{range $w := $.Widths}}
func (c *CPU) op{{$op.Name}}R{{$w}}(u *uop) bool {
{{- if $op.Discards}}
	c.{{$op.Func}}(c.r[u.dst], c.r[u.src]+u.imm, {{$w}})
{{- else}}
	c.set{{$w}}(u.dst, c.{{$op.Func}}(c.r[u.dst], c.r[u.src]+u.imm, {{$w}}))
{{- end}}
	return true
}

func (c *CPU) op{{$op.Name}}L{{$w}}(u *uop) bool {
	{{load $w}}
{{- if $op.Discards}}
	c.{{$op.Func}}(c.r[u.dst], v, {{$w}})
{{- else}}
	c.set{{$w}}(u.dst, c.{{$op.Func}}(c.r[u.dst], v, {{$w}}))
{{- end}}
	return true
}

func (c *CPU) op{{$op.Name}}M{{$w}}(u *uop) bool {
{{- if $op.Discards}}
	{{load $w}}
	c.{{$op.Func}}(v, c.r[u.src]+u.imm, {{$w}})
	return true
{{- else}}
	a := c.ea(u)
	if p := c.at{{$w}}(a); p != nil {
		{{put $w (printf "c.%s(%s, c.r[u.src]+u.imm, %s)" $op.Func (get $w) $w)}}
		return true
	}
	return c.modify(a, c.r[u.src]+u.imm, {{$w}}, (*CPU).{{$op.Func}})
{{- end}}
}
{{end}}{{end}}

{{range $op := .Shifts}}{{range $w := $.Widths}}
func (c *CPU) op{{$op.Name}}R{{$w}}(u *uop) bool {
	c.set{{$w}}(u.dst, c.{{$op.Func}}(c.r[u.dst], c.r[u.src]+u.imm, {{$w}}))
	return true
}

func (c *CPU) op{{$op.Name}}M{{$w}}(u *uop) bool {
	return c.modify(c.ea(u), c.r[u.src]+u.imm, {{$w}}, (*CPU).{{$op.Func}})
}
{{end}}{{range $w := $.Wide}}
func (c *CPU) op{{$op.Name}}I{{$w}}(u *uop) bool {
	a, n := uint{{$w}}(c.r[u.dst]), u.imm&63
	r := {{in $w $op.Result}}
	v := uint64(int{{$w}}(r))
	c.{{$op.Set}}uint64({{in $w $op.CF}}), uint64({{in $w $op.OF}}))
	c.set{{$w}}(u.dst, v)
	return true
}
{{end}}{{end}}

{{range $op := .Unaries}}{{range $w := $.Widths}}
func (c *CPU) op{{$op.Name}}R{{$w}}(u *uop) bool {
	c.set{{$w}}(u.dst, c.{{$op.Func}}(c.r[u.dst], 0, {{$w}}))
	return true
}

func (c *CPU) op{{$op.Name}}M{{$w}}(u *uop) bool {
	a := c.ea(u)
	if p := c.at{{$w}}(a); p != nil {
		{{put $w (printf "c.%s(%s, 0, %s)" $op.Func (get $w) $w)}}
		return true
	}
	return c.modify(a, 0, {{$w}}, (*CPU).{{$op.Func}})
}
{{end}}{{end}}

{{range $w := .Widths}}
func (c *CPU) opMov{{$w}}(u *uop) bool {
	c.set{{$w}}(u.dst, c.r[u.src]+u.imm)
	return true
}

func (c *CPU) opLoad{{$w}}(u *uop) bool {
	{{load $w}}
	c.set{{$w}}(u.dst, v)
	return true
}

func (c *CPU) opLoadW{{$w}}(u *uop) bool {
	v, ok := c.loadW{{$w}}(c.ea(u))
	if ok {
		c.set{{$w}}(u.dst, uint64(v))
	}
	return ok
}

func (c *CPU) opStore{{$w}}(u *uop) bool {
	a := c.ea(u)
	if p := c.at{{$w}}(a); p != nil {
		{{put $w "c.r[u.src]+u.imm"}}
		return true
	}
	return c.storeSlow(a, c.r[u.src]+u.imm, {{size $w}})
}
{{end}}

{{range .Narrow}}
func (c *CPU) opMovzx{{.}}(u *uop) bool {
	c.r[u.dst] = uint64(uint{{.}}(c.r[u.src]))
	return true
}

func (c *CPU) opLoadzx{{.}}(u *uop) bool {
	{{load .}}
	c.r[u.dst] = v
	return true
}
{{end}}

{{range .Extensions}}
func (c *CPU) opMovsx{{.From}}to{{.To}}(u *uop) bool {
	c.r[u.dst] = uint64(uint{{.To}}(int{{.From}}(c.r[u.src])))
	return true
}

func (c *CPU) opLoadsx{{.From}}to{{.To}}(u *uop) bool {
	{{load .From}}
	c.r[u.dst] = uint64(uint{{.To}}(int{{.From}}(v)))
	return true
}
{{end}}

func (c *CPU) opImul32(u *uop) bool {
	c.set32(u.dst, c.imul(c.r[u.src], c.r[u.index]+u.imm, 32))
	return true
}

func (c *CPU) opImul64(u *uop) bool {
	c.set64(u.dst, c.imul(c.r[u.src], c.r[u.index]+u.imm, 64))
	return true
}

{{range .Wide}}
func (c *CPU) opImul{{.}}Quiet(u *uop) bool {
	c.set{{.}}(u.dst, c.r[u.src]*(c.r[u.index]+u.imm))
	return true
}
{{end}}

{{range .Conditions}}
func (c *CPU) opJ{{.Name}}(u *uop) bool { return c.branch(u, {{.Flags}}) }

func (c *CPU) opSet{{.Name}}(u *uop) bool {
	c.set8(u.dst, bit({{.Flags}}))
	return true
}

func (c *CPU) opCmov32{{.Name}}(u *uop) bool {
	v := c.r[u.dst]
	if {{.Flags}} {
		v = c.r[u.src]
	}
	c.set32(u.dst, v)
	return true
}

func (c *CPU) opCmov64{{.Name}}(u *uop) bool {
	v := c.r[u.dst]
	if {{.Flags}} {
		v = c.r[u.src]
	}
	c.set64(u.dst, v)
	return true
}
{{end}}

{{range $f := .Fusable}}{{range $cond := $.Conditions}}{{$op := operator $cond $f.Name}}{{if $op}}
func (c *CPU) op{{$f.Name}}{{$f.Form}}{{$f.Width}}J{{$cond.Name}}(u *uop) bool {
{{- if ne $f.Form "R"}}
	{{load $f.Width}}
{{- end}}
	x, y := {{if eq $f.Form "M"}}v{{else}}c.r[u.dst]{{end}}, {{if eq $f.Form "L"}}v{{else}}c.r[u.src]+fusedImm(u){{end}}
{{- if and (eq $f.Name "Cmp") $cond.Type}}
	c.sub(x, y, {{$f.Width}})
	return c.fused(u, {{$cond.Type}}{{$f.Width}}(x) {{$op}} {{$cond.Type}}{{$f.Width}}(y))
{{- else}}
	return c.fused(u, int64(c.{{$f.Func}}(x, y, {{$f.Width}})) {{$op}} 0)
{{- end}}
}
{{end}}{{end}}{{end}}
`))

func main() {
	log.SetFlags(0)
	var out bytes.Buffer
	err := text.Execute(&out, map[string]any{
		"Names": names(), "Widths": widths, "Narrow": widths[:2], "Wide": widths[2:], "Binaries": binaries, "Shifts": shifts, "Unaries": unaries,
		"Extensions": extensions, "Conditions": conditions, "Fusable": fusable,
		"Quiet": quiet, "Effects": effects(),
	})
	if err != nil {
		log.Fatal(err)
	}
	src, err := format.Source(out.Bytes())
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("micro_gen.go", src, 0o666); err != nil {
		log.Fatal(err)
	}
}
