package float

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var (
	cases = flag.Int("cases", 10_000, "cases per instruction in TestSilicon")
	seed  = flag.Uint64("seed", 1, "seed of TestSilicon")
)

// record and outcome are those of testdata/silicon.c.
type record struct {
	Op, Control uint32
	A, B        [2]uint64
}

type outcome struct {
	Result, Mem [2]uint64
	RAX         uint64
	ST1         [2]uint64
	Status      uint32
	_           uint32
}

// instruction is one that is compared: what the CPU executes, where its operands come from, and what
// this package makes of it.
type instruction struct {
	insn string
	x87  bool
	a, b operandKind
	// run computes what is to be compared of an outcome; its Status needs no more than the condition codes.
	run func(e *Env, r *record) outcome
	// amd says that manuals leave a part of this open, and that it is done as AMD's CPUs do.
	amd bool
	// tolerance is how many results in a million may be one unit off in the last place. Silicon does not round
	// transcendental results correctly.
	tolerance int
}

// batch is the number of cases that go through the pipe at once.
const batch = 5_000

// TestSilicon compares with the CPU it runs on.
func TestSilicon(t *testing.T) {
	cpu := startSilicon(t)
	amd := isAMD()
	for op, in := range instructions {
		t.Run(in.insn, func(t *testing.T) {
			if in.amd && !amd {
				t.Skip("needs an AMD CPU: manuals leave a part of this open, and others differ")
			}
			rnd := rand.New(rand.NewPCG(*seed, uint64(op)))
			j := judge{t: t, in: &in}
			for done := 0; done < *cases && j.wrong < 5; done += batch {
				records := make([]record, min(batch, *cases-done))
				for i := range records {
					records[i] = in.generate(rnd)
					records[i].Op = uint32(op)
				}
				for i, real := range cpu.execute(t, records) {
					j.compare(&records[i], real)
				}
			}
			j.done()
		})
	}
}

// judge compares the outcomes of one instruction.
type judge struct {
	t             *testing.T
	in            *instruction
	n, wrong, off int
}

func (j *judge) compare(r *record, real outcome) {
	j.n++
	e := r.env(j.in.x87)
	ours := j.in.run(&e, r)
	ours.Status |= uint32(e.Flags)
	compared := uint32(All)
	if j.in.x87 {
		compared |= statusC0 | statusC1 | statusC2 | statusC3
		if e.C1 {
			ours.Status |= statusC1
		}
	}
	ours.Status &= compared
	real.Status &= compared
	if !j.in.x87 && e.Flags&^e.Mask != 0 {
		// The destination is unchanged.
		ours.Result, ours.RAX = [2]uint64{}, 0
		real.Result, real.RAX = [2]uint64{}, 0
	}
	if ours == real {
		return
	}
	if j.in.tolerance > 0 && ours.neighbour(real) {
		if ours.Result != real.Result || ours.ST1 != real.ST1 {
			j.off++
		}
		return
	}
	if j.wrong++; j.wrong <= 5 {
		j.t.Errorf("%s with %+v (seed %d)\na    %s\nb    %s\nours %s\nreal %s", j.in.insn, r.env(j.in.x87), *seed,
			hex(r.A), hex(r.B), ours, real)
	}
}

func (j *judge) done() {
	if j.in.tolerance == 0 {
		return
	}
	j.t.Logf("%d of %d results are one unit off", j.off, j.n)
	if j.off*1_000_000 > j.n*j.in.tolerance {
		j.t.Errorf("that is more than %d in a million", j.in.tolerance)
	}
}

// neighbour tells whether o and p differ in nothing but the last place of a result, or in C1, which is about what comes
// after that.
func (o outcome) neighbour(p outcome) bool {
	if !near(o.Result, p.Result) || !near(o.ST1, p.ST1) {
		return false
	}
	o.Result, o.ST1 = p.Result, p.ST1
	o.Status, p.Status = o.Status&^statusC1, p.Status&^statusC1
	return o == p
}

// near tells whether two extended values are equal or neighbours.
func near(a, b [2]uint64) bool {
	const most = ^uint64(0)
	switch {
	case a == b:
		return true
	case a[1] == b[1]:
		return a[0]-b[0] == 1 || b[0]-a[0] == 1
	case a[1]+1 == b[1]:
		return a[0] == most && b[0] == integerBit
	}
	return b[1]+1 == a[1] && b[0] == most && a[0] == integerBit
}

func hex(v [2]uint64) string { return fmt.Sprintf("%016x:%016x", v[1], v[0]) }

func (o outcome) String() string {
	return fmt.Sprintf("%s mem %s rax %x st1 %s status %04x", hex(o.Result), hex(o.Mem), o.RAX, hex(o.ST1), o.Status)
}

// Bits of the x87 status word.
const (
	statusC0 = 1 << 8
	statusC1 = 1 << 9
	statusC2 = 1 << 10
	statusC3 = 1 << 14
)

// env is the Env that r.Control describes.
func (r *record) env(x87 bool) Env {
	c := r.Control
	if x87 {
		return Env{Round: Rounding(c >> 10 & 3), Prec: Precision(c >> 8 & 3), Mask: uint8(c & All)}
	}
	return Env{
		Round: Rounding(c >> 13 & 3), Mask: uint8(c >> 7 & All), Flags: uint8(c & All),
		DAZ: c&(1<<6) != 0, FTZ: c&(1<<15) != 0,
	}
}

// generate makes one case. Half of them mask all exceptions.
func (in *instruction) generate(rnd *rand.Rand) record {
	var r record
	r.A = in.a.value(rnd, nil)
	r.B = in.b.value(rnd, &r.A)
	mask := uint32(All)
	if rnd.IntN(2) == 0 {
		mask = rnd.Uint32() & All
		if rnd.IntN(2) == 0 {
			mask = All &^ (1 << rnd.IntN(6))
		}
	}
	round := rnd.Uint32N(4)
	if in.x87 {
		prec := []uint32{0, 2, 3, 3}[rnd.IntN(4)]
		r.Control = 1<<6 | mask | prec<<8 | round<<10
		return r
	}
	r.Control = mask<<7 | round<<13
	if rnd.IntN(3) == 0 {
		r.Control |= 1 << 6
	}
	if rnd.IntN(3) == 0 {
		r.Control |= 1 << 15
	}
	if mask == All {
		r.Control |= []uint32{0, PE, All}[rnd.IntN(3)]
	}
	return r
}

// operandKind says how a register or memory operand is to be filled.
type operandKind struct {
	fracBits, expBits int // of a floating-point format; fracBits 64 has an explicit integer bit
	special           func(*rand.Rand) [2]uint64
}

var (
	f32  = operandKind{fracBits: 23, expBits: 8}
	f64  = operandKind{fracBits: 52, expBits: 11}
	f80  = operandKind{fracBits: 64, expBits: 15}
	ints = operandKind{special: func(rnd *rand.Rand) [2]uint64 {
		v := pattern(rnd)
		if rnd.IntN(2) == 0 {
			v = uint64(int64(v) >> rnd.IntN(64))
		}
		return [2]uint64{v}
	}}
	none = operandKind{special: func(*rand.Rand) [2]uint64 { return [2]uint64{} }}
)

// value makes an operand. other, if there is one, is of the same format often enough for its neighbourhood to be
// interesting.
func (k operandKind) value(rnd *rand.Rand, other *[2]uint64) [2]uint64 {
	if k.special != nil {
		return k.special(rnd)
	}
	top := 1<<k.expBits - 1
	bias := top / 2
	exp := rnd.IntN(top + 1)
	switch rnd.IntN(12) {
	case 0:
		exp = 0
	case 1:
		exp = rnd.IntN(4)
	case 2:
		exp = top
	case 3:
		exp = top - rnd.IntN(4)
	case 4, 5:
		exp = bias - 4 + rnd.IntN(8)
	case 6, 7, 8:
		exp = max(0, bias-70+rnd.IntN(140))
	case 9:
		exp = min(top, max(0, bias/2-4+rnd.IntN(8)))
	}
	frac := pattern(rnd)
	sign := rnd.Uint64() & 1
	if other != nil && rnd.IntN(3) == 0 {
		// Close to the other operand: the same exponent or one near, some bits of the significand.
		if k.fracBits == 64 {
			exp, frac = int(other[1]&0x7fff), other[0]<<1
		} else {
			exp, frac = int(other[0]>>k.fracBits)&top, other[0]<<(64-k.fracBits)
		}
		switch rnd.IntN(4) {
		case 0:
			frac ^= pattern(rnd) >> rnd.IntN(64)
		case 1:
			frac += uint64(rnd.IntN(5) - 2)
		case 2:
			frac = pattern(rnd)
		}
		exp = min(top, max(0, exp+[]int{0, 0, 0, 1, -1, 2, -2, rnd.IntN(140) - 70}[rnd.IntN(8)]))
	}
	if k.fracBits < 64 {
		v := sign<<(k.fracBits+k.expBits) | uint64(exp)<<k.fracBits | frac>>(64-k.fracBits)
		return [2]uint64{v, 0}
	}
	v := frac >> 1
	// The integer bit follows the exponent, but for encodings that are not regular.
	if regular := rnd.IntN(16) != 0; regular == (exp != 0) {
		v |= 1 << 63
	}
	return [2]uint64{v, sign<<15 | uint64(exp)}
}

// pattern makes 64 bits, often with long runs of equal ones.
func pattern(rnd *rand.Rand) uint64 {
	v := rnd.Uint64()
	switch rnd.IntN(10) {
	case 0:
		return 0
	case 1:
		return ^uint64(0)
	case 2:
		return 1 << rnd.IntN(64)
	case 3:
		return ^uint64(0) << rnd.IntN(64)
	case 4:
		return v << rnd.IntN(64)
	case 5:
		// Ones or zeros with a few bits of difference anywhere.
		return -(v & 1) ^ 1<<rnd.IntN(64) ^ 1<<rnd.IntN(64)
	}
	return v
}

// silicon is the process that executes instructions.
type silicon struct {
	in  io.Writer
	out io.Reader
}

func startSilicon(t *testing.T) *silicon {
	t.Helper()
	if runtime.GOARCH != "amd64" || runtime.GOOS != "linux" {
		t.Skip("needs an x86-64 CPU and Linux")
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc to compile testdata/silicon.c: ", err)
	}
	dir := t.TempDir()
	var ops strings.Builder
	for i, in := range instructions {
		macro := "SSE"
		if in.x87 {
			macro = "X87"
		}
		fmt.Fprintf(&ops, "%s(%d, %q)\n", macro, i, strings.ReplaceAll(in.insn, "%", "%%"))
	}
	if err := os.WriteFile(filepath.Join(dir, "ops.h"), []byte(ops.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "silicon")
	if out, err := exec.Command(gcc, "-O1", "-Wall", "-Werror", "-I", dir, "-o", exe, "testdata/silicon.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	cmd := exec.Command(exe)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("silicon: %v", err)
		}
	})
	return &silicon{in, out}
}

// isAMD tells whether this host's CPU is one of AMD's.
func isAMD() bool {
	info, _ := os.ReadFile("/proc/cpuinfo")
	return bytes.Contains(info, []byte("AuthenticAMD"))
}

// execute has a batch of records executed.
func (s *silicon) execute(t *testing.T, records []record) []outcome {
	t.Helper()
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, uint32(len(records)))
	binary.Write(&b, binary.LittleEndian, records)
	if _, err := s.in.Write(b.Bytes()); err != nil {
		t.Fatal("silicon: ", err)
	}
	outcomes := make([]outcome, len(records))
	if err := binary.Read(s.out, binary.LittleEndian, outcomes); err != nil {
		t.Fatal("silicon: ", err)
	}
	return outcomes
}
