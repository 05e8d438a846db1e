package oracle

import (
	"bytes"
	"flag"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var (
	seed  = flag.Uint64("seed", 1, "what live cases are generated from")
	cases = flag.Uint64("cases", 10000, "number of live cases")
)

// TestHandWritten holds the recorder to what everybody knows.
func TestHandWritten(t *testing.T) {
	const rsp = DataBase + 0x800
	tests := []struct {
		name string
		mode Mode
		code []byte
		set  func(c *Case)
		want func(o *Outcome) // what changes, RIP behind the instruction excepted
	}{
		{name: "NOP", code: []byte{0x90}},
		{name: "ADD EAX, ECX clears the upper half", code: []byte{0x01, 0xc8},
			set:  func(c *Case) { c.GPR[RAX], c.GPR[RCX] = 0x1_ffff_ffff, 1 },
			want: func(o *Outcome) { o.GPR[RAX] = 0; o.Flags |= CF | PF | AF | ZF }},
		{name: "INC EAX in 32-bit mode", mode: Mode32, code: []byte{0x40},
			set:  func(c *Case) { c.GPR[RAX] = 0x7f },
			want: func(o *Outcome) { o.GPR[RAX] = 0x80; o.Flags |= AF }},
		{name: "PUSHF shows no TF", code: []byte{0x66, 0x9c},
			set: func(c *Case) { c.Form = formByName["PUSHF Fv 9C"] },
			want: func(o *Outcome) {
				o.GPR[RSP] -= 2
				o.Memory = []Patch{{0x7fe, []byte{fixedFlags & 0xff, fixedFlags >> 8}}}
			}},
		{name: "PUSH RAX", code: []byte{0x50},
			set: func(c *Case) { c.GPR[RAX] = 0x0102_0304_0506_0708 },
			want: func(o *Outcome) {
				o.GPR[RSP] -= 8
				o.Memory = []Patch{{0x7f8, []byte{8, 7, 6, 5, 4, 3, 2, 1}}}
			}},
		{name: "FS has its base", code: []byte{0x64, 0xc6, 0x04, 0x25, 1, 0, 0, 0, 0},
			want: func(o *Outcome) { o.Memory = []Patch{{fsBase - DataBase + 1, []byte{0}}} }},
		{name: "FS in 32-bit mode", mode: Mode32, code: []byte{0x64, 0xc6, 0x05, 1, 0, 0, 0, 0},
			want: func(o *Outcome) { o.Memory = []Patch{{fsBase - DataBase + 1, []byte{0}}} }},
		{name: "GS ends, in 32-bit mode", mode: Mode32, code: []byte{0x65, 0xa0, 0, 0x30, 0, 0},
			want: func(o *Outcome) { o.RIP, o.Vector = CodeBase, 13 }},
		{name: "a write to the read-only page", code: []byte{0xa2, 0, 0x20, 0, 0x20, 0, 0, 0, 0},
			want: func(o *Outcome) { o.RIP, o.Vector, o.Error, o.CR2 = CodeBase, 14, 7, DataBase+0x2000 }},
		{name: "half of a read is not there", code: []byte{0x48, 0x8b, 0x04, 0x25, 0xfc, 0x3f, 0, 0x20},
			want: func(o *Outcome) { o.RIP, o.Vector, o.Error, o.CR2 = CodeBase, 14, 4, DataBase+DataSize }},
		{name: "one iteration of REP STOSB", code: []byte{0xf3, 0xaa},
			set: func(c *Case) { c.GPR[RAX], c.GPR[RCX], c.GPR[RDI] = 0, 2, rsp },
			want: func(o *Outcome) {
				o.RIP, o.GPR[RCX], o.GPR[RDI] = CodeBase, 1, rsp+1
				o.Memory = []Patch{{0x800, []byte{0}}}
			}},
		{name: "no iteration of REP STOSB", code: []byte{0xf3, 0xaa},
			set:  func(c *Case) { c.GPR[RCX] = 0 },
			want: func(o *Outcome) { o.GPR[RCX] = 0 }},
		{name: "a jump to what is not there", code: []byte{0xe9, 0, 0, 0, 0x10},
			want: func(o *Outcome) { o.RIP = CodeBase + 5 + 0x1000_0000 }},
		{name: "UD2", code: []byte{0x0f, 0x0b}, want: func(o *Outcome) { o.RIP, o.Vector = CodeBase, 6 }},
		{name: "INT3 is a trap", code: []byte{0xcc}, want: func(o *Outcome) { o.Vector = 3 }},
		{name: "INT 20h is not for CPL 3", code: []byte{0xcd, 0x20},
			want: func(o *Outcome) { o.RIP, o.Vector, o.Error = CodeBase, 13, 0x20<<3|2 }},
		{name: "16 bytes are too many", code: append(bytes.Repeat([]byte{0x3e}, 15), 0x90),
			want: func(o *Outcome) { o.RIP, o.Vector = CodeBase, 13 }},
		{name: "code that ends", code: []byte{0x48, 0xb8},
			set: func(c *Case) { c.RIP = CodeBase + CodeSize - 2 },
			want: func(o *Outcome) {
				o.RIP, o.Vector, o.Error, o.CR2 = CodeBase+CodeSize-2, 14, 0x14, CodeBase+CodeSize
			}},
		{name: "FLD1 pushes", code: []byte{0xd9, 0xe8},
			want: func(o *Outcome) {
				fx := o.FX
				for i := range 7 {
					copy(o.FX.ST(i+1), fx.ST(i))
				}
				copy(o.FX.ST(0), []byte{0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f})
				o.FX[fxFSW+1], o.FX[fxFTW] = 7<<3, 0x80
			}},
		{name: "DIVSD by zero, unmasked", code: []byte{0xf2, 0x0f, 0x5e, 0xc1},
			set: func(c *Case) { copy(c.FX.XMM(1), make([]byte, 8)); c.FX[fxMXCSR+1] = 0x1d },
			want: func(o *Outcome) {
				o.RIP, o.Vector = CodeBase, 19
				o.FX[fxMXCSR], o.FX[fxMXCSR+1] = 0x84, 0x1d
			}},
	}
	r := Start(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Case{Mode: test.mode, Code: test.code, State: Base(test.mode)}
			if test.set != nil {
				test.set(&c)
			}
			want := Outcome{CS: c.Mode.CS(), State: c.State, Vector: NoVector}
			want.RIP += uint64(len(c.Code))
			if test.want != nil {
				test.want(&want)
			}
			got, err := r.Run([]Case{c})
			if err != nil {
				t.Fatal(err)
			}
			if differ := Compare(&c, &want, &got[0]); len(differ) > 0 {
				t.Errorf("expected, got:\n\t%s", strings.Join(differ, "\n\t"))
			}
		})
	}
}

// TestRecorderRepeats runs cases forwards and backwards: nothing of one may reach another.
func TestRecorderRepeats(t *testing.T) {
	r := Start(t)
	list := NewGenerator(*seed).Cases(0, *cases)
	forwards, err := r.Run(list)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(list)
	backwards, err := r.Run(list)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(backwards)
	slices.Reverse(list)
	for i := range list {
		if !reflect.DeepEqual(forwards[i], backwards[i]) {
			c := list[i]
			c.Form = nil // compare all of it
			t.Errorf("%v (%s) has two outcomes: %q", &list[i], Disassemble(&c), Compare(&c, &forwards[i], &backwards[i]))
		}
	}
}

// TestFormsExecute finds forms whose cases only ever fault.
func TestFormsExecute(t *testing.T) {
	r := Start(t)
	faulting := strings.Fields("HLT CLI STI IN OUT INS OUTS CLTS INVD WBINVD WRMSR RDMSR SYSRET MOVCR MOVDR LGDT LIDT " +
		"INVLPG LMSW LLDT LTR UD1 UD2 INT INT3")
	done := map[*Form]bool{}
	Live(t, r, NewGenerator(*seed), 0, 30*uint64(len(Forms)))(func(c *Case, o *Outcome) bool {
		done[c.Form] = done[c.Form] || o.Vector == NoVector
		return true
	})
	for _, f := range Forms {
		name, _, _ := strings.Cut(f.Name, " ")
		if done[f] == slices.Contains(faulting, name) {
			t.Errorf("%s: a case completed: %v", f.Name, done[f])
		}
	}
}

func TestGeneratorIsAFunctionOfItsSeed(t *testing.T) {
	a, b := NewGenerator(7).Cases(100, 300), NewGenerator(7).Cases(200, 300)
	if !reflect.DeepEqual(a[100:], b) {
		t.Error("a case depends on others before it")
	}
	if c := NewGenerator(8).Cases(200, 300); reflect.DeepEqual(b, c) {
		t.Error("two seeds give the same cases")
	}
}

// TestCorpus: what is committed covers all forms, and this CPU does the same.
func TestCorpus(t *testing.T) {
	cpu, records, err := Corpus()
	if err != nil {
		t.Fatal(err)
	}
	forms := map[*Form]int{}
	var list []Case
	for c := range records {
		forms[c.Form]++
		list = append(list, *c)
	}
	for _, f := range Forms {
		if forms[f] < 10 {
			t.Errorf("%d cases of %s", forms[f], f.Name)
		}
	}
	t.Logf("recorded on %s; this is %s", cpu, CPU())
	here, err := Start(t).Run(list)
	if err != nil {
		t.Fatal(err)
	}
	Check(t, func(_ *Case, o *Outcome) error {
		*o, here = here[0], here[1:]
		return nil
	}, records)
}

func TestCorpusRoundTrip(t *testing.T) {
	list := NewGenerator(3).Cases(0, 2000)
	outcomes := make([]Outcome, len(list))
	for i := range outcomes { // any will do
		outcomes[i] = Outcome{CS: CS32, State: list[(i+1)%len(list)].State, Vector: uint8(i), Error: uint32(i), CR2: uint64(i) << 40,
			Memory: list[i].Memory}
	}
	var file bytes.Buffer
	if err := WriteCorpus(&file, "a CPU", list, outcomes); err != nil {
		t.Fatal(err)
	}
	cpu, records, err := ReadCorpus(file.Bytes())
	if err != nil || cpu != "a CPU" {
		t.Fatalf("CPU %q, error %v", cpu, err)
	}
	i := 0
	for c, o := range records {
		if !reflect.DeepEqual(*c, list[i]) || !reflect.DeepEqual(*o, outcomes[i]) {
			t.Fatalf("case %d came back as\n%+v\n%+v\nand was\n%+v\n%+v", i, *c, *o, list[i], outcomes[i])
		}
		i++
	}
	if i != len(list) {
		t.Errorf("%d of %d cases came back", i, len(list))
	}
	for n := 0; n < file.Len(); n += 1 + n/8 {
		if _, _, err := ReadCorpus(file.Bytes()[:n]); err == nil {
			t.Errorf("no error for %d of %d bytes", n, file.Len())
		}
	}
}

// TestCompare: a difference is seen exactly where it is defined.
func TestCompare(t *testing.T) {
	shl := Case{Mode: Mode64, Form: formByName["SHL Ev,Ib C1/4"], State: Base(Mode64), Operands: Operands{Size: 4, Imm: 3}}
	shl1 := Case{Mode: Mode64, Form: formByName["SHL Ev,1 D1/4"], State: Base(Mode64), Operands: Operands{Size: 4}}
	fsin := Case{Mode: Mode64, Form: formByName["FSIN - D9FE"], State: Base(Mode64)}
	rcp := Case{Mode: Mode64, Form: formByName["RCPPS Vps,Wps 0F53"], State: Base(Mode64), Operands: Operands{Reg: 2}}
	tests := []struct {
		name   string
		c      *Case
		change func(o *Outcome)
		seen   bool
	}{
		{"nothing", &shl, func(o *Outcome) {}, false},
		{"OF after a shift by 3", &shl, func(o *Outcome) { o.Flags ^= OF }, false},
		{"CF after a shift by 3", &shl, func(o *Outcome) { o.Flags ^= CF }, true},
		{"OF after a shift by 1", &shl1, func(o *Outcome) { o.Flags ^= OF }, true},
		{"AF after a shift by 1", &shl1, func(o *Outcome) { o.Flags ^= AF }, false},
		{"a register", &shl, func(o *Outcome) { o.GPR[9] ^= 1 << 63 }, true},
		{"memory", &shl, func(o *Outcome) { o.Memory = []Patch{{7, []byte{0}}} }, true},
		{"an exception", &shl, func(o *Outcome) { o.Vector = 6 }, true},
		{"FDP", &fsin, func(o *Outcome) { o.FX[fxFDP] ^= 1 }, false},
		{"C2 of FSIN", &fsin, func(o *Outcome) { o.FX[fxFSW+1] ^= fswC2 >> 8 }, true},
		{"the last bit of FSIN", &fsin, func(o *Outcome) { o.FX.ST(0)[0]++ }, false},
		{"the second-last bit of FSIN", &fsin, func(o *Outcome) { o.FX.ST(0)[0] ^= 2 }, true},
		{"another register after FSIN", &fsin, func(o *Outcome) { o.FX.ST(5)[0] ^= 1 }, true},
		{"the last bit of an estimate", &rcp, func(o *Outcome) { o.FX.XMM(2)[4] ^= 1 }, false},
		{"the sign of an estimate", &rcp, func(o *Outcome) { o.FX.XMM(2)[7] ^= 0x80 }, true},
		{"another register than the estimate's", &rcp, func(o *Outcome) { o.FX.XMM(3)[4] ^= 1 }, true},
	}
	for _, test := range tests {
		want := Outcome{CS: CS64, State: test.c.State, Vector: NoVector}
		got := want
		test.change(&got)
		if differ := Compare(test.c, &want, &got); (len(differ) > 0) != test.seen {
			t.Errorf("%s: %q", test.name, differ)
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	g := NewGenerator(1)
	for n := range b.N {
		g.Case(uint64(n))
	}
}

func BenchmarkRecord(b *testing.B) {
	r := Start(b)
	list := NewGenerator(1).Cases(0, 20000)
	for n := 0; n < b.N; n += len(list) {
		if _, err := r.Run(list); err != nil {
			b.Fatal(err)
		}
	}
}
