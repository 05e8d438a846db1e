package soft

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"ftvm/vmm"
)

// TestFloatAvailability: what CR0, CR4 and a pending x87 exception make of the first instruction of each kind.
func TestFloatAvailability(t *testing.T) {
	const none = -1
	kinds := []struct {
		name, code string
		// The vectors with CR0.TS, CR0.EM, without CR4.OSFXSR, and with an exception pending.
		ts, em, noSSE, pending int
	}{
		{"SSE", "0f 58 c1", excNM, excUD, excUD, none},                  // addps xmm0, xmm1
		{"SSE and MMX", "f3 0f d6 c1", excNM, excUD, excUD, excMF},      // movq2dq xmm0, mm1
		{"MXCSR", "0f ae 17", excNM, excUD, excUD, none},                // ldmxcsr [rdi]
		{"MMX", "0f fc c1", excNM, excUD, none, excMF},                  // paddb mm0, mm1
		{"EMMS", "0f 77", excNM, excUD, none, excMF},                    //
		{"x87", "d8 c1", excNM, excNM, none, excMF},                     // fadd st, st(1)
		{"x87 without waiting", "df e0", excNM, excNM, none, none},      // fnstsw ax
		{"FWAIT", "9b", none, none, none, excMF},                        //
		{"FXSAVE", "0f ae 07", excNM, excUD, none, none},                // fxsave [rdi]
		{"general registers", "f2 0f 38 f1 c1", none, none, none, none}, // crc32 eax, ecx
	}
	for _, k := range kinds {
		for _, c := range []struct {
			name string
			set  func(s *vmm.CPUState)
			want int
		}{
			{"nothing", func(*vmm.CPUState) {}, none},
			{"TS", func(s *vmm.CPUState) { s.CR0 = s.CR0&^cr0MP | cr0TS }, k.ts},
			{"EM", func(s *vmm.CPUState) { s.CR0 |= cr0EM }, k.em},
			{"no OSFXSR", func(s *vmm.CPUState) { s.CR4 &^= cr4OSFXSR }, k.noSSE},
			{"pending", func(s *vmm.CPUState) { s.FX[0], s.FX[2] = 0x7e, fpIE }, k.pending},
		} {
			g := newGuest(t)
			c.set(&g.s)
			g.s.GPR[vmm.RDI] = dataAt
			g.halt(k.code)
			if v := g.handled(); v != c.want {
				t.Errorf("%s with %s: vector %d, want %d", k.name, c.name, v, c.want)
			}
		}
	}
	// FWAIT heeds TS with MP only.
	g := newGuest(t)
	g.s.CR0 |= cr0TS | cr0MP
	g.halt("9b")
	g.want("vector of FWAIT with TS and MP", uint64(g.handled()), excNM)
}

// TestUnmaskedSSE: an unmasked exception is a fault, which leaves the destination alone and tells in MXCSR.
func TestUnmaskedSSE(t *testing.T) {
	for _, c := range []struct {
		name   string
		cr4    uint64
		vector uint64
	}{{"OSXMMEXCPT", cr4OSXMMEXCPT, excXM}, {"no OSXMMEXCPT", 0, excUD}} {
		g := newGuest(t)
		g.s.CR4 = g.s.CR4&^cr4OSXMMEXCPT | c.cr4
		binary.LittleEndian.PutUint32(g.s.FX[fxMXCSR:], mxcsrInit&^(1<<9)) // ZE unmasked
		binary.LittleEndian.PutUint64(g.s.FX[fxXMM:], math.Float64bits(1))
		g.halt("f2 0f 5e c1") // divsd xmm0, xmm1
		g.want(c.name+": vector", uint64(g.handled()), c.vector)
		g.want(c.name+": xmm0", g.fpu.v[0].lo, math.Float64bits(1))
		g.want(c.name+": mxcsr", uint64(g.fpu.mxcsr()), mxcsrInit&^(1<<9)|1<<2)
	}
}

// TestX87Exception: an unmasked exception is raised by the next waiting instruction, and can be
// found out and cleared by those that do not wait.
func TestX87Exception(t *testing.T) {
	g := newGuest(t)
	g.put(dataAt, []byte{0x7b, 0x03}) // ZE unmasked
	g.s.GPR[vmm.RDI] = dataAt
	g.halt("d9 2f", // fldcw [rdi]
		"d9 e8", "d9 ee", "de f9", // fld1; fldz; fdivp
		"df e0",    // fnstsw ax
		"89 47 08", // mov [rdi+8], eax
		"d9 ee")    // fldz
	g.want("vector", uint64(g.handled()), excMF)
	g.want("address", g.get64(g.r[vmm.RSP]), codeAt+13)
	g.want("status", uint64(g.fpu.status()), g.get64(dataAt+8)&0xffff)
	g.want("status", uint64(g.fpu.status()), swB|swES|1<<2|6<<11)
	g.want("address of the last instruction", g.fpu.ip, codeAt+6)

	g = newGuest(t)
	g.s.FX[0], g.s.FX[2] = 0x7e, fpIE
	g.halt("db e2", "d9 ee") // fnclex; fldz
	if v := g.handled(); v != -1 {
		t.Errorf("vector %d after FNCLEX", v)
	}
}

// TestFXState: the state goes out as it came in, for each word of it, and what cannot be set is dropped.
func TestFXState(t *testing.T) {
	g := newGuest(t)
	for i := range g.s.FX[:fxXMM+256] {
		g.s.FX[i] = byte(37*i + 11)
	}
	g.start()
	once := g.state().FX
	g.s.FX = once
	g.start()
	if twice := g.state().FX; twice != once {
		t.Errorf("the state does not survive:\n% x\n% x", once, twice)
	}
	for i := range 8 {
		o := fxST + 16*i
		if !bytes.Equal(once[o:o+10], []byte{byte(37*o + 11), byte(37*o + 48), byte(37*o + 85), byte(37*o + 122), byte(37*o + 159),
			byte(37*o + 196), byte(37*o + 233), byte(37*o + 270), byte(37*o + 307), byte(37*o + 344)}) {
			t.Errorf("ST(%d) is % x", i, once[o:o+10])
		}
	}
	if n := bytes.Count(once[fxXMM+256:], []byte{0}); n != fxSize-fxXMM-256 {
		t.Errorf("reserved bytes are not 0: % x", once[fxXMM+256:])
	}

	// The guest saves the same.
	g.s.GPR[vmm.RDI] = dataAt
	g.s.FX[0], g.s.FX[2] = 0x7f, 0 // nothing is pending
	g.halt("48 0f ae 07")          // fxsave64 [rdi]
	saved := make([]byte, fxXMM+256)
	g.ram.Read(dataAt, saved)
	if now := g.state().FX; !bytes.Equal(saved, now[:len(saved)]) {
		t.Errorf("FXSAVE64 gives\n% x\nthe state is\n% x", saved, now)
	}
}

// TestFXSAVE32: outside 64-bit mode there are eight XMM registers. The others stay as they are.
func TestFXSAVE32(t *testing.T) {
	g := newGuest(t)
	g.in32()
	for i := range g.s.FX[fxXMM : fxXMM+256] {
		g.s.FX[fxXMM+i] = byte(i + 1)
	}
	g.s.GPR[vmm.RDI] = dataAt
	// fxsave [edi]; pxor xmm0, xmm0; fxrstor [edi]
	g.halt("0f ae 07", "66 0f ef c0", "0f ae 0f")
	saved := make([]byte, 256)
	g.ram.Read(dataAt+fxXMM, saved)
	if !bytes.Equal(saved[:128], g.s.FX[fxXMM:fxXMM+128]) || !bytes.Equal(saved[128:], make([]byte, 128)) {
		t.Errorf("saved % x", saved)
	}
	if fx := g.state().FX; !bytes.Equal(fx[fxXMM:fxXMM+256], g.s.FX[fxXMM:fxXMM+256]) {
		t.Errorf("XMM registers are % x", fx[fxXMM:fxXMM+256])
	}
}

// TestMXCSR: reserved bits are refused, and what was loaded is read back.
func TestMXCSR(t *testing.T) {
	for bit := range 32 {
		g := newGuest(t)
		g.s.GPR[vmm.RDI] = dataAt
		g.put64(dataAt, 1<<bit)
		g.halt("0f ae 17", "0f ae 5f 08") // ldmxcsr [rdi]; stmxcsr [rdi+8]
		if bit < 16 {
			g.want("vector", uint64(int64(g.handled())), math.MaxUint64)
			g.want("mxcsr", g.get64(dataAt+8), 1<<bit)
		} else {
			g.want("vector", uint64(g.handled()), excGP)
		}
	}
}

// TestEstimates: RCPSS and RSQRTSS are within the bounds that the manual gives, for all exponents.
func TestEstimates(t *testing.T) {
	const bound = 1.5 / 4096
	near := func(got uint32, want float64) bool {
		return math.Abs(float64(math.Float32frombits(got))-want) <= bound*math.Abs(want)
	}
	for exp := uint32(1); exp < 255; exp++ {
		for frac := uint32(0); frac < 1<<23; frac += 0x1_2345 {
			x := exp<<23 | frac
			v := float64(math.Float32frombits(x))
			if r := reciprocal(nil, 0, x); r != 0 && !near(r, 1/v) || r == 0 && 1/v > 0x1p-126 {
				t.Fatalf("reciprocal of %#x: %#x", x, r)
			}
			if r := reciprocalRoot(nil, 0, x); !near(r, 1/math.Sqrt(v)) {
				t.Fatalf("reciprocal root of %#x: %#x", x, r)
			}
		}
	}
	const sign, infinity, nan = 1 << 31, 0xff << 23, 0xffc0_0000
	for _, c := range []struct{ x, reciprocal, root uint32 }{
		{0, infinity, infinity},
		{sign, sign | infinity, sign | infinity},
		{1, infinity, infinity}, // denormal
		{sign | 1, sign | infinity, sign | infinity},
		{infinity, 0, 0},
		{sign | infinity, sign, nan},
		{infinity | 1, infinity | 1<<22 | 1, infinity | 1<<22 | 1}, // signalling NaN
		{0xbf80_0000, 0xbf80_0000, nan},                            // -1
	} {
		if r := reciprocal(nil, 0, c.x); r != c.reciprocal {
			t.Errorf("reciprocal of %#x: %#x, want %#x", c.x, r, c.reciprocal)
		}
		if r := reciprocalRoot(nil, 0, c.x); r != c.root {
			t.Errorf("reciprocal root of %#x: %#x, want %#x", c.x, r, c.root)
		}
	}
}

// TestX87Pointers: FIP and FDP are those of the last instruction that was not a control instruction, whether
// it met an exception or not; FDP is an offset.
func TestX87Pointers(t *testing.T) {
	g := newGuest(t)
	g.s.Seg[vmm.FS].Base = dataAt
	g.halt("64 dd 04 25 10 00 00 00", // fld qword fs:[0x10]
		"d9 e0",                   // fchs
		"9b",                      // fwait
		"9b d9 3c 25 00 00 05 00") // fstcw [dataAt]
	g.want("FIP", g.fpu.ip, codeAt+8)
	g.want("FDP", g.fpu.dp, 0x10)
}
