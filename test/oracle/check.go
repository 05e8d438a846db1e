package oracle

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Start starts a recorder for a test, and skips the test where that is not possible.
func Start(t testing.TB) *Recorder {
	t.Helper()
	r, err := NewRecorder()
	if errors.Is(err, ErrCannotRecord) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("the recorder: %v", err)
		}
	})
	return r
}

// batch is how many cases are generated, and recorded, at once.
const batch = 4096

// Live records cases from to to-1 of g as they are asked for.
func Live(t testing.TB, r *Recorder, g *Generator, from, to uint64) iter.Seq2[*Case, *Outcome] {
	return func(yield func(*Case, *Outcome) bool) {
		for n := from; n < to; n += batch {
			cases := g.Cases(n, min(n+batch, to))
			outcomes, err := r.Run(cases)
			if err != nil {
				t.Fatal(err)
			}
			for i := range cases {
				if !yield(&cases[i], &outcomes[i]) {
					return
				}
			}
		}
	}
}

// shown is how many mismatches of each form Check shows in full.
const shown = 3

// Check runs each case with run and compares what it did with the recorded outcome, except for what is
// undefined. run gets an Outcome that says "nothing happened yet" (the case's state, no exception, no changes), and
// makes it the engine's; its error is a mismatch as well. The first mismatches of each form are shown in full, then how many there
// are, by form.
func Check(t *testing.T, run func(*Case, *Outcome) error, records iter.Seq2[*Case, *Outcome]) {
	t.Helper()
	type tally struct {
		form            string
		cases, mismatch int
	}
	tallies := map[string]*tally{}
	total := 0
	for c, want := range records {
		name := "hand-written"
		if c.Form != nil {
			name = c.Form.Name
		}
		n := tallies[name]
		if n == nil {
			n = &tally{form: name}
			tallies[name] = n
		}
		n.cases++
		total++
		got := Outcome{CS: c.Mode.CS(), State: c.State, Vector: NoVector}
		var differ []string
		if err := run(c, &got); err != nil {
			differ = []string{err.Error()}
		} else {
			differ = Compare(c, want, &got)
		}
		if len(differ) == 0 {
			continue
		}
		if n.mismatch++; n.mismatch <= shown {
			t.Errorf("%v\n\t%s\nexpected, got:\n\t%s\nbefore:\n%s", c, Disassemble(c), strings.Join(differ, "\n\t"), c.Before())
		}
	}
	var wrong []*tally
	for _, n := range tallies {
		if n.mismatch > 0 {
			wrong = append(wrong, n)
		}
	}
	slices.SortFunc(wrong, func(a, b *tally) int {
		return cmp.Or(cmp.Compare(b.mismatch, a.mismatch), cmp.Compare(a.form, b.form))
	})
	for _, n := range wrong {
		t.Errorf("%-32s %6d of %6d cases differ", n.form, n.mismatch, n.cases)
	}
	if len(wrong) > 0 {
		t.Errorf("%d of %d forms differ; go run ./test/oracle/record -seed N -case N shows one case", len(wrong), len(tallies))
	}
	t.Logf("%d cases of %d forms", total, len(tallies))
}

// Compare lists in what got differs from want, c's recorded outcome, where that is defined.
func Compare(c *Case, want, got *Outcome) []string {
	var differ []string
	field := func(name string, want, got, undefined uint64) {
		if (want^got)&^undefined != 0 {
			differ = append(differ, fmt.Sprintf("%-8s %#x, %#x", name, want, got))
		}
	}
	if want.Vector != got.Vector {
		differ = append(differ, fmt.Sprintf("%-8s %s, %s", "vector", vector(want), vector(got)))
	} else if want.Vector != NoVector {
		field("error", uint64(want.Error), uint64(got.Error), 0)
		if want.Vector == vecPF {
			field("CR2", want.CR2, got.CR2, 0)
		}
	}
	var m Mask
	if want.Vector == NoVector || want.Vector == vecBP || want.Vector == vecOF {
		m = Undefined(c)
	}
	field("CS", uint64(want.CS), uint64(got.CS), 0)
	field("RIP", want.RIP, got.RIP, 0)
	for i := range want.GPR {
		undefined := m.GPR[i]
		if want.CS == CS32 {
			undefined |= 0xffff_ffff << 32
		}
		field(registerName(i), want.GPR[i], got.GPR[i], undefined)
	}
	if (want.Flags^got.Flags)&^m.Flags != 0 {
		differ = append(differ, fmt.Sprintf("%-8s %s, %s", "flags", flags(want.Flags), flags(got.Flags)))
		if m.Flags != 0 {
			differ[len(differ)-1] += " (undefined: " + flags(m.Flags) + ")"
		}
	}
	differ = append(differ, compareFX(c, &want.FX, &got.FX, &m)...)
	return append(differ, compareMemory(c, want.Memory, got.Memory, &m)...)
}

func vector(o *Outcome) string {
	if o.Vector == NoVector {
		return "none"
	}
	names := map[uint8]string{0: "#DE", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM"}
	s := names[o.Vector]
	if s == "" {
		s = fmt.Sprintf("vector %d", o.Vector)
	}
	s += fmt.Sprintf("(%#x)", o.Error)
	if o.Vector == vecPF {
		s += fmt.Sprintf(" at %#x", o.CR2)
	}
	return s
}

func registerName(i int) string {
	if i < 8 {
		return strings.Fields("RAX RCX RDX RBX RSP RBP RSI RDI")[i]
	}
	return fmt.Sprintf("R%d", i)
}

func flags(f uint64) string {
	s := fmt.Sprintf("%#x", f)
	for _, b := range []struct {
		bit  uint64
		name string
	}{{OF, "O"}, {DF, "D"}, {SF, "S"}, {ZF, "Z"}, {AF, "A"}, {PF, "P"}, {CF, "C"}} {
		if f&b.bit != 0 {
			s += " " + b.name
		}
	}
	return s
}

func compareFX(c *Case, want, got *FX, m *Mask) []string {
	var differ []string
	add := func(name string, want, got any) {
		differ = append(differ, fmt.Sprintf("%-8s %v, %v", name, want, got))
	}
	if want.FCW() != got.FCW() {
		add("FCW", hex(want.FCW()), hex(got.FCW()))
	}
	if (want.FSW()^got.FSW())&^m.FSW != 0 {
		add("FSW", hex(want.FSW()), hex(got.FSW()))
	}
	if want.FTW() != got.FTW() {
		add("FTW", hex(want.FTW()), hex(got.FTW()))
	}
	if want.MXCSR() != got.MXCSR() {
		add("MXCSR", hex(want.MXCSR()), hex(got.MXCSR()))
	}
	for i := range 8 {
		w, g := want.ST(i), got.ST(i)
		if !bytes.Equal(w, g) && !(m.Near && i < 2 && near(w, g)) {
			add(fmt.Sprintf("ST%d", i), f80(w), f80(g))
		}
	}
	for i := range 16 {
		w, g := want.XMM(i), got.XMM(i)
		if !bytes.Equal(w, g) && !(m.Estimate && i == int(c.Reg) && estimated(w, g)) {
			add(fmt.Sprintf("XMM%d", i), hex(reversed(w)), hex(reversed(g)))
		}
	}
	return differ
}

func hex(v any) string { return fmt.Sprintf("%x", v) }

// f80 has the highest byte first, and a point behind sign and exponent.
func f80(b []byte) string { r := reversed(b); return fmt.Sprintf("%x.%x", r[:2], r[2:]) }

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

// near reports whether two 80-bit numbers differ by at most one in the last place.
func near(a, b []byte) bool {
	fa, fb := binary.LittleEndian.Uint64(a), binary.LittleEndian.Uint64(b)
	ea, eb := binary.LittleEndian.Uint16(a[8:]), binary.LittleEndian.Uint16(b[8:])
	switch eb - ea {
	case 0:
		return fa-fb+1 <= 2
	case 1: // the significand wraps from all ones to one half
		return fa == math.MaxUint64 && fb == 1<<63
	case 0xffff:
		return fb == math.MaxUint64 && fa == 1<<63
	}
	return false
}

// estimated reports whether each single in a and b is the same, or near enough for an estimate.
func estimated(a, b []byte) bool {
	for i := 0; i < 16; i += 4 {
		ba, bb := binary.LittleEndian.Uint32(a[i:]), binary.LittleEndian.Uint32(b[i:])
		fa, fb := float64(math.Float32frombits(ba)), float64(math.Float32frombits(bb))
		if ba != bb && !(math.Abs(fa-fb) <= math.Abs(fa)/2048) {
			return false
		}
	}
	return true
}

func compareMemory(c *Case, want, got []Patch, m *Mask) []string {
	if slices.EqualFunc(want, got, func(a, b Patch) bool { return a.Offset == b.Offset && bytes.Equal(a.Data, b.Data) }) {
		return nil
	}
	before := slices.Clone(pristine)
	c.Apply(before)
	after := func(changes []Patch) []byte {
		data := slices.Clone(before)
		for _, p := range changes {
			copy(data[p.Offset:], p.Data)
		}
		for _, r := range m.Memory {
			for i := range r[1] {
				if at := r[0] + i; at >= 0 && at < DataSize {
					data[at] = 0
				}
			}
		}
		return data
	}
	w, g := after(want), after(got)
	var differ []string
	for _, p := range Changes(w, g) {
		end := int(p.Offset) + len(p.Data)
		differ = append(differ, fmt.Sprintf("[%#x] % x, % x (was % x)", DataBase+int(p.Offset), w[p.Offset:end], p.Data, before[p.Offset:end]))
	}
	return differ
}

// Before shows the state of c in full.
func (c *Case) Before() string {
	var b strings.Builder
	for i, v := range c.GPR {
		if i < 8 || c.Mode == Mode64 {
			fmt.Fprintf(&b, "\t%-3s %016x", registerName(i), v)
			if i%4 == 3 {
				b.WriteByte('\n')
			}
		}
	}
	fmt.Fprintf(&b, "\tRIP %016x\tflags %s\n", c.RIP, flags(c.Flags))
	if c.Bytes > 0 {
		fmt.Fprintf(&b, "\toperand of %d bytes at %#x: % x\n", c.Bytes, c.Addr, c.bytes(c.Addr, int(c.Bytes)))
	}
	if c.Form == nil || c.Form.unit != unitInt {
		fmt.Fprintf(&b, "\tFCW %04x\tFSW %04x\tFTW %02x\tMXCSR %04x\n", c.FX.FCW(), c.FX.FSW(), c.FX.FTW(), c.FX.MXCSR())
		for i := range 8 {
			fmt.Fprintf(&b, "\tST%d %s\tXMM%d %x\tXMM%d %x\n", i, f80(c.FX.ST(i)), i, reversed(c.FX.XMM(i)), i+8, reversed(c.FX.XMM(i+8)))
		}
	}
	for _, p := range c.Memory {
		fmt.Fprintf(&b, "\t[%#x] % x\n", DataBase+int(p.Offset), p.Data)
	}
	return b.String()
}

// Disassemble is what objdump says about the instruction, or nothing if there is none.
func Disassemble(c *Case) string {
	dir, err := os.MkdirTemp("", "oracle")
	if err != nil {
		return ""
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "code")
	if err := os.WriteFile(file, append(slices.Clone(c.Code), bytes.Repeat([]byte{CodeFill}, 15)...), 0o600); err != nil {
		return ""
	}
	machine := "i386:x86-64"
	if c.Mode == Mode32 {
		machine = "i386"
	}
	out, err := exec.Command("objdump", "-D", "-b", "binary", "-m", machine, "-M", "intel", "--insn-width=16",
		fmt.Sprintf("--adjust-vma=%#x", c.RIP), file).Output()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Split(strings.TrimSpace(line), "\t"); len(f) == 3 {
			return strings.Join(strings.Fields(f[2]), " ")
		}
	}
	return ""
}
