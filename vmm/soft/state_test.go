package soft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"ftvm/vmm"
)

// TestStateRoundTrip: what SetState took, State gives back.
func TestStateRoundTrip(t *testing.T) {
	g := newGuest(t)
	s := g.s
	s.Position = 12345
	s.RFLAGS = flagFixed | flagsArith&^flagZF | flagIF | flagDF | flagID | flagRF
	for i := range s.GPR {
		s.GPR[i] = uint64(i) * 0x1111_2222_3333_4445
	}
	s.RIP, s.CR2, s.CR8, s.APICBase, s.XCR0 = 0xffff_8000_0000_1234, 1<<63, 5, 0xfee0_0900, 1
	s.Seg[vmm.FS].Base, s.Seg[vmm.GS].Base = 0x1234_5678_9abc, 1<<63|5
	s.LDT = vmm.Segment{Selector: 8, Base: ldtAt, Limit: 15, Access: sysLDT | vmm.SegP}
	s.DR, s.DR6, s.DR7 = [4]uint64{1, 2, 3, 4}, dr6Fixed|1, dr7Fixed|1 // an instruction breakpoint: RF counts
	for i := range s.MSR {
		s.MSR[i] = uint64(i) + 1
	}
	s.MSR[msrPAT] = 0x0007_0406_0007_0406
	s.TSCAdjust, s.WallClock, s.SystemTime = ^uint64(6), dataAt, dataAt|clockEnabled
	binary.LittleEndian.PutUint32(s.FX[28:], 0xffff) // MXCSR_MASK
	for i := 160; i < 416; i++ {
		s.FX[i] = byte(i * 7)
	}
	s.Events = vmm.Events{HasException: true, Exception: excDB, HasPayload: true, Payload: dr6BS, Shadow: shadowSTI}
	if err := g.SetState(&s); err != nil {
		t.Fatal(err)
	}
	if got := g.state(); !reflect.DeepEqual(*got, s) {
		t.Errorf("state\n%+v\nwant\n%+v", *got, s)
	}
}

func TestStateIsChecked(t *testing.T) {
	for name, change := range map[string]func(s *vmm.CPUState){
		"real mode":               func(s *vmm.CPUState) { s.CR0 &^= cr0PE | cr0PG },
		"wide CR0":                func(s *vmm.CPUState) { s.CR0 |= 1 << 40 },
		"virtual-8086 mode":       func(s *vmm.CPUState) { s.RFLAGS |= flagVM },
		"RFLAGS":                  func(s *vmm.CPUState) { s.RFLAGS |= 1 << 22 },
		"CR4":                     func(s *vmm.CPUState) { s.CR4 |= 1 << 18 },
		"EFER":                    func(s *vmm.CPUState) { s.EFER |= 1 << 12 },
		"LMA without LME":         func(s *vmm.CPUState) { s.EFER &^= eferLME },
		"LMA without paging":      func(s *vmm.CPUState) { s.CR0 &^= cr0PG },
		"paging and LME, no LMA":  func(s *vmm.CPUState) { s.EFER &^= eferLMA },
		"long mode without PAE":   func(s *vmm.CPUState) { s.CR4 &^= cr4PAE },
		"CS with L and D":         func(s *vmm.CPUState) { s.Seg[vmm.CS].Access |= vmm.SegDB },
		"CR3":                     func(s *vmm.CPUState) { s.CR3 |= 1 << 52 },
		"CR8":                     func(s *vmm.CPUState) { s.CR8 = 16 },
		"LSTAR":                   func(s *vmm.CPUState) { s.MSR[msrLSTAR] = 1 << 47 },
		"PAT":                     func(s *vmm.CPUState) { s.MSR[msrPAT] = 2 },
		"an interrupt":            func(s *vmm.CPUState) { s.Events.HasInterrupt = true },
		"a non-maskable one":      func(s *vmm.CPUState) { s.Events.NMI = 1 },
		"shadow":                  func(s *vmm.CPUState) { s.Events.Shadow = 4 },
		"exception":               func(s *vmm.CPUState) { s.Events.HasException, s.Events.Exception = true, 32 },
		"another engine's states": func(s *vmm.CPUState) { s.Ext = []byte{1} },
	} {
		g := newGuest(t)
		g.start()
		before := g.state()
		change(&g.s)
		if err := g.SetState(&g.s); !errors.Is(err, errState) {
			t.Errorf("%s: error %v", name, err)
		}
		if !reflect.DeepEqual(g.state(), before) {
			t.Errorf("%s: a state that was refused has changed something", name)
		}
	}
}

// TestPendingExceptions: what State says is pending is delivered once it is restored.
func TestPendingExceptions(t *testing.T) {
	for _, c := range []struct {
		events vmm.Events
		vector uint64
		code   uint64
		cr2    uint64
	}{
		{vmm.Events{HasException: true, Exception: excPF, HasErrorCode: true, ErrorCode: 2, HasPayload: true, Payload: 0x1234}, excPF, 2, 0x1234},
		{vmm.Events{HasException: true, Exception: excPF, HasErrorCode: true, ErrorCode: 2}, excPF, 2, 0x5678},
		{vmm.Events{HasException: true, Exception: excGP, HasErrorCode: true, ErrorCode: 8, Shadow: shadowSTI}, excGP, 8, 0x5678},
		{vmm.Events{HasException: true, Exception: excDB, HasPayload: true, Payload: dr6BS}, excDB, codeAt, 0x5678},
	} {
		g := newGuest(t)
		g.s.CR2, g.s.Events = 0x5678, c.events
		g.s.RFLAGS |= flagIF
		g.put(codeAt, machineCode("90 f4"))
		g.start()
		if g.interruptible() {
			t.Error("interruptible with an exception pending")
		}
		g.run(10)
		g.want("vector", uint64(g.handled()), c.vector)
		g.want("top of the stack", g.get64(g.r[vmm.RSP]), c.code)
		g.want("cr2", g.cr2, c.cr2)
		g.want("dr6", g.dr6&^dr6Fixed, c.events.Payload&dr6BS)
	}
}

// FuzzSystem runs a guest whose state and memory are hostile: nothing panics, it comes to an end of its positions, and
// a second run that stops and goes on in a new CPU at each position does the same.
func FuzzSystem(f *testing.F) {
	f.Add(machineCode("0f 0b"), machineCode("00 01 02 03"))
	f.Add(machineCode("50 58 cf 48 cf cb ff 2c 24"), machineCode("80 41 00 ff 13 90 77"))
	f.Add(machineCode("8e d0 0f 22 d8 0f 01 3c 24 0f 30"), machineCode("01 02"))
	f.Fuzz(func(t *testing.T, code, noise []byte) {
		g := newGuest(t)
		if len(code) > 4096 || len(noise) > 1024 {
			return
		}
		g.put(codeAt, code)
		// Pairs in noise change bytes of what the CPU itself reads, and the state.
		for i := 0; i+3 < len(noise); i += 4 {
			at := uint64(binary.LittleEndian.Uint16(noise[i:]))
			if noise[i+2]&1 == 0 {
				g.put(pml4At+at%0x8000, noise[i+3:i+4])
			} else {
				a := vmm.NewSaver(nil)
				g.s.State(a)
				b := bytes.Clone(a.Data())
				b[at%uint64(len(b))] ^= noise[i+3]
				s := vmm.CPUState{}
				l := vmm.NewLoader(b)
				if s.State(l); l.Finish() == nil && check(&s) == nil {
					g.s = s
				}
			}
		}
		g.s.Position = 0
		memory := bytes.Clone(g.ram.View(0, testRAM))
		const positions = 300
		straight := func() (*vmm.CPUState, []byte) {
			g.put(0, memory)
			g.start()
			for g.pos < positions {
				if _, err := g.Run(positions, false, &g.bus); err != nil {
					t.Fatal(err)
				}
				if g.dead {
					break
				}
			}
			return g.state(), bytes.Clone(g.ram.View(0, testRAM))
		}
		s1, m1 := straight()
		end := g.pos
		h := &guest{CPU: New(vmm.NewRAM(bytes.Clone(memory)), Options{}), t: t, s: g.s}
		h.bus.cpu = h.CPU
		h.start()
		for h.pos < end {
			if _, err := h.Run(h.pos+1, false, &h.bus); err != nil {
				t.Fatal(err)
			}
		}
		if s2 := h.state(); !reflect.DeepEqual(s1, s2) {
			t.Errorf("straight through\n%v\nstep by step\n%v", s1, s2)
		}
		if m2 := h.ram.View(0, testRAM); !bytes.Equal(m1, m2) {
			t.Error("memory differs")
		}
	})
}

// TestStateAllocatesNothing: it is taken at each boundary.
func TestStateAllocatesNothing(t *testing.T) {
	g := newGuest(t)
	g.start()
	var s vmm.CPUState
	if n := testing.AllocsPerRun(100, func() { g.State(&s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkState(b *testing.B) {
	g := newGuest(b)
	if err := g.SetState(&g.s); err != nil {
		b.Fatal(err)
	}
	var s vmm.CPUState
	for b.Loop() {
		g.State(&s)
	}
}
