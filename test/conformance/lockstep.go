package conformance

import (
	"bytes"
	"fmt"
	"testing"

	"ftvm/vmm"
)

// workout is a guest that does a bit of everything: it computes at CPL3 with general, x87 and
// SSE registers, makes accesses of all kinds at both levels, faults, and takes interrupts.
// UD2 is its system call. After four rounds it ends.
var workout = program{
	kernel: code(
		"b9 00 00 02 00",    // mov ecx, userAddr
		"41 bb 02 32 00 00", // mov r11d, IF, IOPL 3
		"41 bf 04 00 00 00", // mov r15d, 4
		"48 0f 07",          // sysretq
	),
	user: code(
		"b9 64 00 00 00",          // start: mov ecx, 100
		"48 69 c0 66 ce ee 5d",    // again: imul rax, rax, 0x5deece66
		"48 01 c8",                // add rax, rcx
		"48 c1 c8 07",             // ror rax, 7
		"ff c9",                   // dec ecx
		"75 ee",                   // jnz again
		"66 48 0f 6e c0",          // movq xmm0, rax
		"66 0f d4 c8",             // paddq xmm1, xmm0
		"f2 0f 59 d0",             // mulsd xmm2, xmm0
		"d9 e8",                   // fld1
		"d8 c0",                   // fadd st, st
		"dd 1c 25 00 01 05 00",    // fstp qword [dataAddr+0x100]
		"48 89 04 25 08 01 05 00", // mov [dataAddr+0x108], rax
		"e6 81",                   // out 0x81, al
		"bb 00 00 00 40",          // mov ebx, absentAddr
		"48 8b 13",                // mov rdx, [rbx]
		"0f 0b",                   // ud2
		"eb bb",                   // jmp start
	),
	handlers: map[uint8][]byte{
		vector: counting,
		6: code( // #UD
			"50",                   // push rax
			"51",                   // push rcx
			"ba f8 03 00 00",       // mov edx, 0x3f8
			"be 00 00 05 00",       // mov esi, dataAddr
			"b9 03 00 00 00",       // mov ecx, 3
			"f3 6e",                // rep outsb
			"bb 00 00 00 d0",       // mov ebx, mmioAddr
			"48 8b 03",             // mov rax, [rbx]
			"89 43 08",             // mov [rbx+8], eax
			"48 01 83 fe 0f 00 00", // add [rbx+0xffe], rax
			"fb",                   // sti
			"f4",                   // hlt
			"fa",                   // cli
			"41 ff cf",             // dec r15d
			"74 09",                // jz end
			"59",                   // pop rcx
			"58",                   // pop rax
			"48 83 04 24 02",       // add qword [rsp], 2
			"48 cf",                // iretq
			"e6 f4",                // end: out endPort, al
		),
		14: code( // #PF: note it, go on behind the access
			"50",                      // push rax
			"0f 20 d0",                // mov rax, cr2
			"48 89 04 25 08 02 05 00", // mov [dataAddr+0x208], rax
			"48 8b 44 24 08",          // mov rax, [rsp+8]
			"48 89 04 25 10 02 05 00", // mov [dataAddr+0x210], rax
			"58",                      // pop rax
			"48 83 c4 08",             // add rsp, 8
			"48 83 04 24 03",          // add qword [rsp], 3
			"48 cf",                   // iretq
		),
	},
	data: []byte("xyz"),
}

// lockstep runs the guest to its end or to the given position, and interrupts it at every
// third position at which that is possible. The state at each stop goes into g.trace. While it runs, it calls during, if not nil, before each Run.
func (g *guest) lockstep(until vmm.Position, during func()) {
	g.t.Helper()
	for !g.bus.ended && g.cpu.Position() < until {
		if during != nil {
			during()
		}
		x := g.run(until, false)
		switch x.Reason {
		case vmm.ExitAccess, vmm.ExitHalt, vmm.ExitPosition:
		case vmm.ExitKick:
			g.kicks++
			continue // where it stopped now, it did not stop without the kick
		default:
			g.t.Fatalf("exit %+v\n%v\nbus: %q", x, g.state(), g.bus.log)
		}
		if g.interruptible() && g.cpu.Position()%3 == 0 {
			g.interrupt(vector)
		}
		g.trace = append(g.trace, g.state())
	}
}

// wantSame checks that two runs of the same program were the same: accesses, states at the
// stops that both made, and memory in the end.
func (g *guest) wantSame(want *guest) {
	g.t.Helper()
	g.wantBus(want.bus.log...)
	at := map[vmm.Position]*vmm.CPUState{}
	for _, s := range want.trace {
		at[s.Position] = s
	}
	compared := 0
	for _, s := range g.trace {
		if w := at[s.Position]; w != nil {
			compared++
			wantState(g.t, s, w)
			if g.t.Failed() {
				break
			}
		}
	}
	if compared == 0 {
		g.t.Errorf("stops at no position in common: %d and %d stops", len(g.trace), len(want.trace))
	}
	g.wantMemory(0, want.ram.View(0, ramSize))
}

// repetition runs the workout twice.
func repetition(t *testing.T, make maker) {
	first, second := workout.start(t, make), workout.start(t, make)
	first.lockstep(forever, nil)
	second.lockstep(forever, nil)
	second.wantSame(first)
	if len(first.trace) != len(second.trace) {
		t.Errorf("%d stops, then %d", len(first.trace), len(second.trace))
	}
	for i := 1; i < len(first.trace); i++ {
		if a, b := first.trace[i-1].Position, first.trace[i].Position; a >= b {
			t.Errorf("position %d comes after %d", b, a)
		}
	}
	if x := first.trace[len(first.trace)-1]; x.GPR[15] != 0 {
		t.Errorf("r15 = %#x in the end, want 0", x.GPR[15])
	}
}

// restoration stops the workout at many positions, and goes on from each on a new engine with
// a copy of memory. The state travels in its saved form.
func restoration(t *testing.T, make maker) {
	want := workout.start(t, make)
	want.lockstep(forever, nil)
	stride := len(want.trace)/12 + 1
	for i := 0; i < len(want.trace)-1; i += stride {
		t.Run(fmt.Sprint("at position ", want.trace[i].Position), func(t *testing.T) {
			half := workout.start(t, make)
			half.lockstep(want.trace[i].Position, nil)

			a := vmm.NewSaver(nil)
			half.state().State(a)
			a = vmm.NewLoader(a.Data())
			s := new(vmm.CPUState)
			s.State(a)
			if err := a.Finish(); err != nil {
				t.Fatal(err)
			}
			ram := vmm.NewRAM(bytes.Clone(half.ram.View(0, ramSize)))

			g := resume(t, make, ram, s)
			wantState(t, g.state(), half.state())
			g.bus = half.bus
			g.bus.cpu = g.cpu
			g.lockstep(forever, nil)
			g.wantSame(want)
		})
	}
}

// positions stops an exact clock at each position that it is told.
func positions(t *testing.T, new maker) {
	p := program{kernel: append(bytes.Repeat(code("90"), 40), code("f4")...)} // nop, 40 times; hlt
	g := p.start(t, new)
	if !g.cpu.Clock().Exact {
		x := g.run(3, false)
		if x.Reason != vmm.ExitHalt && x.Reason != vmm.ExitPosition {
			t.Errorf("exit %+v", x)
		}
		return
	}
	for until, step := vmm.Position(0), vmm.Position(1); until < 30; step++ {
		until += step
		if x := g.run(until, false); x.Reason != vmm.ExitPosition || g.cpu.Position() != until {
			t.Errorf("Run(%d): exit %+v at position %d", until, x, g.cpu.Position())
		}
		g.want("rip", g.state().RIP, codeAddr+uint64(until))
	}
}

// roundTrip sets a state with a value in every register and reads it back.
func roundTrip(t *testing.T, make maker) {
	ram, s := (&program{kernel: code("90")}).load()
	g := resume(t, make, ram, s)
	s = g.state()
	s.Position = 12345
	for i := range s.GPR {
		s.GPR[i] = 0x0101_0101_0101_0101 * uint64(i+1)
	}
	s.RIP = codeAddr + 7
	s.RFLAGS |= 1<<0 | 1<<2 | 1<<4 | 1<<6 | 1<<7 | 1<<11 // CF PF AF ZF SF OF
	s.Seg[vmm.FS].Base, s.Seg[vmm.GS].Base = 0x7fff_1234_5678, 0xffff_8000_0000_1234
	s.CR2, s.CR8 = 0xdead_beef_000, 5
	s.DR = [4]uint64{0x1000, 0x2000, 0x3000, 0x4000}
	for i, msr := range vmm.MSRs {
		switch msr {
		case 0x277, 0xC0000103: // PAT holds memory types, TSC_AUX 32 bits
		default:
			s.MSR[i] = 0x1_0000 + uint64(i)
		}
	}
	for i := 32; i < 416; i++ { // ST(0)-ST(7), of 10 bytes each, and XMM0-XMM15
		if i >= 160 || i%16 < 10 {
			s.FX[i] = byte(i * 7)
		}
	}
	if err := g.cpu.SetState(s); err != nil {
		t.Fatal(err)
	}
	if g.cpu.Position() != s.Position {
		t.Errorf("Position = %d, want %d", g.cpu.Position(), s.Position)
	}
	wantState(t, g.state(), s)
}

// wantState checks that two states are equal on all replicas, and names the registers that
// are not.
func wantState(t *testing.T, got, want *vmm.CPUState) {
	t.Helper()
	a, b := vmm.NewNamingSaver(), vmm.NewNamingSaver()
	got.Digestible(a)
	want.Digestible(b)
	for i, f := range a.Fields() {
		if x, y := a.Data()[f.Start:f.End], b.Data()[f.Start:f.End]; !bytes.Equal(x, y) {
			t.Errorf("position %d: field %d, %s = %x, want %x", want.Position, i, f.Name, x, y)
		}
	}
}
