package soft_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"ftvm/test/oracle"
	"ftvm/vmm"
	"ftvm/vmm/soft"
)

// A wild guest executes random bytes at CPL 3. Whatever they raise is caught by a handler that steps over one
// byte and goes on, so that it never ends. It can write to its own code, call ports and read the clock.
const (
	wildPages  = 4 // at codeAddr, readable, writable and executable
	wildPhys   = 0x10_0000
	kernelPhys = 0x20_0000
	wildKernel = 0xffff_8000_0000_0000
	wildStub   = 32 // bytes for each handler

	wildGDT, wildIDT, wildTSS, wildStack, wildHandlers = 0x0, 0x1000, 0x2000, 0x4000, 0x4000
)

// newWild is a wild guest whose code is given, repeated to fill its pages.
func newWild(tb testing.TB, text []byte, o soft.Options) *machine {
	tb.Helper()
	m := newMachine(4<<20, o)
	m.mapPages(codeAddr, wildPhys, wildPages, pageP|pageW|pageU)
	m.mapPages(wildKernel, kernelPhys, 8, pageP|pageW)
	for i := 0; i < wildPages*vmm.PageSize; i += len(text) {
		m.ram.Write(vmm.GPA(wildPhys+i), text[:min(len(text), wildPages*vmm.PageSize-i)])
	}
	for v := range uint64(256) {
		handler := wildKernel + wildHandlers + v*wildStub
		m.write64(vmm.GPA(kernelPhys+wildIDT+16*v), handler&0xffff|0x10<<16|0xee00<<32|handler>>16&0xffff<<48)
		m.write64(vmm.GPA(kernelPhys+wildIDT+16*v+8), handler>>32)
		stub := code("ff0424", // inc dword [rsp]
			"81 24 24 ff 3f 00 00", // and dword [rsp], 0x3fff
			"81 0c 24 00 00 40 00", // or dword [rsp], codeAddr
			"bb 00 04 40 00",       // mov ebx, codeAddr+0x400
			"48 cf")                // iretq
		switch v {
		case 8, 10, 11, 12, 13, 14, 17:
			stub = append(code("48 83 c4 08"), stub...) // add rsp, 8
		}
		m.ram.Write(vmm.GPA(kernelPhys+wildHandlers+v*wildStub), stub)
	}
	for sel, d := range map[uint64]uint64{0x10: 0x00af_9b00_0000_ffff, 0x18: 0x00cf_9300_0000_ffff,
		0x20: 0x00cf_fb00_0000_ffff, 0x28: 0x00cf_f300_0000_ffff, 0x30: 0x00af_fb00_0000_ffff} {
		m.write64(vmm.GPA(kernelPhys+wildGDT+sel), d)
	}
	m.write64(kernelPhys+wildTSS+4, wildKernel+wildStack)
	m.write64(kernelPhys+wildTSS+0x60, 0x68<<48)

	s := longMode()
	s.RFLAGS |= 3 << 12 // IOPL 3
	s.RIP = codeAddr
	s.GPR = [16]uint64{0, 1, 2, codeAddr + 0x400, codeAddr + 0x2000, codeAddr + 0x1ffc, codeAddr + 0x800, codeAddr + 0x1800}
	s.GDT = vmm.Table{Base: wildKernel + wildGDT, Limit: 0x37}
	s.IDT = vmm.Table{Base: wildKernel + wildIDT, Limit: 256*16 - 1}
	s.TR = vmm.Segment{Selector: 0x40, Base: wildKernel + wildTSS, Limit: 0x67, Access: 0xb | vmm.SegP}
	if err := m.SetState(s); err != nil {
		tb.Fatal(err)
	}
	return m
}

// clockBus is a bus whose answers are a function of the position.
type clockBus struct{ cpu *soft.CPU }

func (b clockBus) Now() vmm.Time             { return vmm.Time(b.cpu.Position() * soft.TickNs) }
func (b clockBus) PortOut(uint16, []byte)    {}
func (b clockBus) MemOut(vmm.GPA, []byte)    {}
func (b clockBus) MemIn(_ vmm.GPA, p []byte) { b.PortIn(0, p) }
func (b clockBus) PortIn(_ uint16, p []byte) {
	for i := range p {
		p[i] = byte(b.cpu.Position()) + byte(i)
	}
}

// wildTo runs to a position, through all other exits. It reports whether the guest lives.
func (m *machine) wildTo(tb testing.TB, until vmm.Position) bool {
	for m.Position() < until {
		x, err := m.Run(until, false, clockBus{m.CPU})
		if err != nil {
			tb.Fatal(err)
		}
		switch x.Reason {
		case vmm.ExitPosition, vmm.ExitAccess, vmm.ExitHalt:
		default:
			return false
		}
	}
	return true
}

// fresh puts another CPU in place of m's, with the same state but nothing cached.
func (m *machine) fresh(tb testing.TB) {
	s := m.state(tb)
	if err := m.Close(); err != nil {
		tb.Fatal(err)
	}
	m.CPU = soft.New(m.ram, m.options)
	if err := m.SetState(s); err != nil {
		tb.Fatal(err)
	}
}

// wildSame runs a wild guest to a position in several ways and checks that all end in the same state as when it is
// interpreted straight: one position at a time, in random stretches, the latter on a new CPU each time, and compiled.
func wildSame(t *testing.T, text []byte, until vmm.Position, seed uint64) {
	straight := newWild(t, text, soft.Options{})
	lives := straight.wildTo(t, until)
	want := straight.state(t)
	stretches := func(longest int, fresh bool) func(m *machine) bool {
		r := rand.New(rand.NewPCG(seed, 0))
		return func(m *machine) bool {
			for m.Position() < want.Position {
				n := 1 + vmm.Position(r.IntN(longest))
				if !m.wildTo(t, min(m.Position()+n, until)) {
					return false
				}
				if fresh {
					m.fresh(t)
				}
			}
			return true
		}
	}
	interpret, compile := soft.Options{}, soft.Compiled(t)
	for _, way := range []struct {
		name string
		o    soft.Options
		run  func(*machine) bool
	}{
		{"one by one", interpret, stretches(1, false)},
		{"in stretches", interpret, stretches(50, false)},
		{"on new CPUs", interpret, stretches(200, true)},
		{"compiled, straight", compile, func(m *machine) bool { return m.wildTo(t, until) }},
		{"compiled, in stretches", compile, stretches(50, false)},
		{"compiled, on new CPUs", compile, stretches(200, true)},
	} {
		name, m := way.name, newWild(t, text, way.o)
		if got := way.run(m); got != lives {
			t.Errorf("%s: lives is %v, want %v", name, got, lives)
		}
		got := m.state(t)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: at position %d\n%+v\nwant, at position %d\n%+v", name, got.Position, got, want.Position, want)
		}
		if !bytes.Equal(m.ram.View(0, m.ram.Size()), straight.ram.View(0, m.ram.Size())) {
			t.Errorf("%s: memory differs", name)
		}
	}
}

// wildText is random bytes or, for odd seeds, random instructions, among them short branches and strings.
func wildText(seed uint64) (text []byte) {
	r := rand.New(rand.NewPCG(seed, 1))
	g := oracle.NewGenerator(seed)
	for n := uint64(0); len(text) < wildPages*vmm.PageSize; n++ {
		switch {
		case seed%2 == 0:
			text = append(text, byte(r.Uint32()))
		case r.IntN(4) == 0:
			// cmp r32,r32 or test r32,r32; jcc
			text = append(text, [...]byte{0x39, 0x85}[r.IntN(2)], 0xc0|byte(r.IntN(64)), 0x70|byte(r.IntN(16)), byte(r.IntN(40)-20))
		case r.IntN(20) == 0:
			// mov ecx,...; mov edi,rbx; rep movs or stos
			text = append(text, 0xb9, byte(r.IntN(256)), 0, 0, 0, 0x89, 0xdf, 0xf3, [...]byte{0xa4, 0xa5, 0xaa, 0xab}[r.IntN(4)])
		default:
			text = append(text, g.Case(r.Uint64()).Code...)
		}
	}
	return text
}

// TestStopsChangeNothing: it makes no difference where a run is interrupted, or what is cached.
func TestStopsChangeNothing(t *testing.T) {
	n := uint64(30)
	if testing.Short() {
		n = 3
	}
	for seed := range n {
		wildSame(t, wildText(seed), 5000, seed)
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

// FuzzMachine looks for code that stops the host, or that does not do the same each time.
func FuzzMachine(f *testing.F) {
	for _, l := range loops {
		f.Add(l.code, uint64(0))
	}
	f.Add([]byte("000000%00\xc1L9\xd1u\xca\xeb\xc8"), uint64(0)) // ENTER makes a frame over code
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		if len(text) > 0 {
			wildSame(t, text, 500, seed)
		}
	})
}
