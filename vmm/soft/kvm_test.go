package soft

import (
	"bytes"
	"errors"
	"io/fs"
	"runtime"
	"testing"

	"ftvm/vmm"
	"ftvm/vmm/kvm"
)

// systemGuests are small guests that do what kernels do. They end in HLT at CPL 0.
var systemGuests = []struct {
	name  string
	build func(g *guest)
}{
	{"faults at CPL0", func(g *guest) {
		// Each handler counts and skips the instruction, whose length is in R15.
		g.skipping(excUD, false)
		g.skipping(excGP, true)
		g.skipping(excPF, true)
		g.skipping(excNP, true)
		g.skipping(excSS, true)
		g.skipping(excDE, false)
		g.put64(gdtAt+selFree, descData&^descPresent)
		g.put(codeAt, machineCode(
			"41 bf 02 00 00 00 0f 0b",                   // mov r15d, 2; ud2
			"41 bf 08 00 00 00 48 8b 04 25 00 00 20 00", // mov rax, [2 MiB]
			"41 bf 08 00 00 00 48 89 04 25 00 00 20 00", // mov [2 MiB], rax
			"41 bf 02 00 00 00 31 c9 f7 f1",             // xor ecx, ecx; div ecx
			"b8 48 00 00 00 8e d8 8e d0",                // mov eax, selFree; mov ds, eax; mov ss, eax
			"b8 34 12 00 00 8e c0",                      // mov eax, 0x1234; mov es, eax
			"b9 34 12 00 00 0f 32",                      // mov ecx, 0x1234; rdmsr
			"48 b8 00 00 00 00 00 00 00 80",             // mov rax, 1<<63
			"41 bf 03 00 00 00 48 8b 18",                // mov rbx, [rax]
			"f4"))
	}},
	{"segments", func(g *guest) {
		g.put64(gdtAt+selFree, descData|0x12_3456<<16, descReadOnly, descExecOnly, descConform)
		g.put(codeAt, machineCode(
			"b8 48 00 00 00 8e e0 8e e8",       // mov eax, selFree; mov fs, eax; mov gs, eax
			"b8 50 00 00 00 8e d8",             // mov eax, selFree+8; mov ds, eax
			"b8 10 00 00 00 8e d0 8e d8 8e c0", // mov eax, selData; mov ss, eax; mov ds, eax; mov es, eax
			"8c e6 8c d7 41 8c d8",             // mov esi, fs; mov edi, ss; mov r8d, ds
			"0f a0 0f a9",                      // push fs; pop gs
			"0f 00 cd 0f 01 04 25 00 00 05 00", // str ebp; sgdt [dataAt]
			"0f 01 0c 25 10 00 05 00",          // sidt [dataAt+16]
			"41 0f 01 e1",                      // smsw r9d
			"f4"))
	}},
	{"to CPL3 and back", func(g *guest) {
		// Selectors as Linux has them: some hosts have no others at CPL 3.
		const userCS, userSS = 0x33, 0x2b
		g.put64(gdtAt+userSS&^3, descData|descDPL3|descAccessed, descCode64|descDPL3|descAccessed)
		g.s.TR.Selector = selFree
		// Hosts whose KVM is software do not drop segments that CPL 3 has no right to.
		for _, i := range []int{vmm.ES, vmm.DS, vmm.FS, vmm.GS} {
			g.s.Seg[i] = nullSegment(0)
		}
		g.put64(stackAt-40, userAt, userCS, flagFixed|flagIF|flagDF, userSP, userSS)
		g.put(codeAt, machineCode("48 83 ec 28 48 cf"))           // sub rsp, 40; iretq
		g.put(userAt, machineCode("9c 58 0f 0b"))                 // pushf; pop rax; ud2
		g.put(vectors+excUD*16, machineCode("5d 41 58 41 59 f4")) // pop rbp; pop r8; pop r9; hlt
	}},
	{"call and return far", func(g *guest) {
		g.put64(dataAt, codeAt+0x100, selCode64)
		g.put(codeAt, machineCode("48 ff 1c 25 00 00 05 00 f4"))
		g.put(codeAt+0x100, machineCode("48 89 e3 48 8b 0c 24 48 8b 54 24 08 48 cb"))
	}},
	{"flags", func(g *guest) {
		g.put(codeAt, machineCode(
			"68 d7 0e 24 00 9d 9c 58", // push 0x240ed7; popf; pushf; pop rax
			"6a 02 9d 9c 5b",          // push 2; popf; pushf; pop rbx
			"fb fa fd fc f9 f5 9c 59", // sti; cli; std; cld; stc; cmc; pushf; pop rcx
			"f4"))
	}},
	{"control registers", func(g *guest) {
		g.skipping(excGP, true)
		g.put(codeAt, machineCode(
			"41 bf 03 00 00 00",
			"0f 20 c0 48 0d 00 00 00 20 0f 22 c0",    // mov rax, cr0; or rax, NW; mov cr0, rax
			"0f 20 e3 48 83 e3 df 0f 22 e3",          // mov rbx, cr4; and rbx, ~PAE; mov cr4, rbx
			"b9 05 00 00 00 44 0f 22 c1 44 0f 20 c2", // mov ecx, 5; mov cr8, rcx; mov rdx, cr8
			"0f 06 0f 20 c6",                         // clts; mov rsi, cr0
			"f4"))
	}},
	{"paging", func(g *guest) {
		g.skipping(excPF, true)
		pte := func(a uint64) uint64 { return ptAt + a>>12*8 }
		g.put64(pte(dataAt+0x1000), (dataAt+0x1000)|pteP|pteU)
		g.put64(pte(dataAt+0x2000), (dataAt+0x2000)|pteP|pteW|pteNX)
		g.put(codeAt, machineCode(
			"41 bf 08 00 00 00",
			"48 8b 04 25 00 00 05 00", // mov rax, [dataAt]
			"48 89 04 25 08 00 05 00", // mov [dataAt+8], rax
			"48 8b 04 25 00 10 05 00", // mov rax, [dataAt+0x1000]
			"48 89 04 25 00 10 05 00", // mov [dataAt+0x1000], rax: read-only
			"48 8b 1c 25 00 20 05 00", // mov rbx, [dataAt+0x2000]
			"48 8b 0c 25 90 42 00 00", // mov rcx, [its entry]
			"48 8b 14 25 88 42 00 00", // mov rdx, [that of dataAt+0x1000]
			"c6 04 25 88 42 00 00 00", // mov byte [that], 0: absent
			"0f 01 3c 25 00 10 05 00", // invlpg [dataAt+0x1000]
			"48 8b 04 25 00 10 05 00", // mov rax, [dataAt+0x1000]
			"48 8b 34 25 fc ff 1f 00", // mov rsi, [2 MiB - 4]
			"f4"))
	}},
	{"double fault", func(g *guest) {
		g.gate64(excDF, selCode64, vectors+excDF*16, 0x8e, 1)
		g.put(codeAt, machineCode("bc 00 00 21 00 50"))           // mov esp, 2 MiB + 64 KiB; push rax
		g.put(vectors+excDF*16, machineCode("80 64 24 1a fe f4")) // and byte [rsp+0x1a], ~1: RF; hlt
	}},
	{"queries of descriptors", func(g *guest) {
		g.put64(gdtAt+selFree, descData, descExecOnly)
		g.put(codeAt, machineCode(
			"b8 48 00 00 00 0f 02 c8 0f 03 d0",       // mov eax, selFree; lar ecx, eax; lsl edx, eax
			"0f 00 e0 0f 00 e8",                      // verr ax; verw ax
			"b8 50 00 00 00 0f 02 d8 0f 00 e0 9c 5e", // mov eax, selFree+8; lar ebx, eax; verr ax; pushf; pop rsi
			"f4"))
	}},
	{"gates", func(g *guest) {
		g.skipping(excGP, true)
		g.skipping(excNP, true)
		g.gate64(0x31, selCode64, codeAt+0x200, 0x8f, 1)
		g.gate64(0x32, selCode64, codeAt+0x200, 0x0e, 0)
		g.gate64(0x33, selData, codeAt+0x200, 0x8e, 0)
		g.put(codeAt+0x200, machineCode("41 ff c6 49 89 e5 48 cf")) // inc r14d; mov r13, rsp; iretq
		g.put(codeAt, machineCode("41 bf 02 00 00 00 cd 31 cd 32 cd 33 f4"))
	}},
}

// skipping makes a handler that notes the vector's error code in R14 and CR2 in R13, counts in R12, and skips as many bytes as
// R15 says.
func (g *guest) skipping(vector uint8, hasCode bool) {
	at := codeAt + 0x1000 + uint64(vector)*32
	code := "41 ff c4"
	if hasCode {
		code += "41 5e"
	}
	g.put(at, machineCode(code, "41 0f 20 d5 4c 01 3c 24 48 cf")) // inc r12d; pop r14; mov r13, cr2; add [rsp], r15; iretq
	g.gate64(vector, selCode64, at, 0x8e, 0)
}

// onKVM puts a guest on the host's KVM too, or skips the test.
func onKVM(t *testing.T, g *guest, clock string) (*kvm.Engine, *vmm.RAM) {
	ram := vmm.NewRAM(bytes.Clone(g.ram.View(0, testRAM)))
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	k, err := kvm.New(ram, kvm.Options{Clock: clock})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	if err := k.SetState(&g.s); err != nil {
		t.Fatal(err)
	}
	return k, ram
}

// TestAgainstKVM runs them on the host's KVM as well, and compares state and memory at the end. Where that KVM itself is
// software, it does not know all instructions at CPL 0; a guest that it gives up is passed over.
func TestAgainstKVM(t *testing.T) {
	for _, c := range systemGuests {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.s.XCR0, g.s.APICBase = 1, 0xfee0_0900
			c.build(g)
			k, ram := onKVM(t, g, "exits")
			x, err := k.Run(1<<40, false, &g.bus)
			if err != nil {
				t.Fatal(err)
			}
			if x.Reason == vmm.ExitUnsupported {
				t.Logf("not compared: %s", x.Detail)
				return
			}
			var want vmm.CPUState
			if err := k.State(&want); err != nil {
				t.Fatal(err)
			}
			g.start()
			if y := g.run(10000); y != x {
				t.Fatalf("exit %+v, on kvm %+v", y, x)
			}
			compareStates(t, g.state(), &want)
			a, b := g.ram.View(0, testRAM), ram.View(0, testRAM)
			for i := range a {
				if a[i] != b[i] {
					t.Errorf("memory at %#x: %#x, on kvm %#x", i, a[i], b[i])
				}
			}
		})
	}
}

// TestStepsOfKVM compares wherever the clock "step" stops: this engine must come by with the same registers. It does
// not stop between an exception and its handler, where some hosts' steps end.
func TestStepsOfKVM(t *testing.T) {
	for _, c := range systemGuests {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.s.XCR0, g.s.APICBase = 1, 0xfee0_0900
			c.build(g)
			k, _ := onKVM(t, g, "step")
			g.start()
			stops := 0
			for halted := false; !halted; stops++ {
				x, err := k.Run(k.Position()+1, false, &g.bus)
				if err != nil {
					t.Fatal(err)
				}
				if x.Reason == vmm.ExitUnsupported {
					t.Logf("compared up to %s", x.Detail)
					break
				}
				var want vmm.CPUState
				if err := k.State(&want); err != nil {
					t.Fatal(err)
				}
				if want.RIP >= vectors && want.RIP%16 == 0 || want.RIP >= codeAt+0x1000 && want.RIP%32 == 0 {
					continue
				}
				for n := 0; !sameRegisters(g.state(), &want); n++ {
					if n == 16 {
						t.Fatalf("kvm is at\n%v\nand this engine did not come by; it is at\n%v", &want, g.state())
					}
					x, _ := g.Run(g.pos+1, false, &g.bus)
					halted = x.Reason == vmm.ExitHalt
				}
			}
			t.Logf("%d stops, %d positions", stops, g.pos)
		})
	}
}

// sameRegisters compares what a step can show: with TF, by which KVM steps, in RFLAGS.
func sameRegisters(a, b *vmm.CPUState) bool {
	return a.RIP == b.RIP && a.GPR == b.GPR && a.CR2 == b.CR2 && (a.RFLAGS^b.RFLAGS)&^(flagTF|flagRF) == 0
}

// compareStates compares with what KVM says, where it has to be the same: not in MXCSR_MASK, nor in the hidden part of
// segment registers that are null.
func compareStates(t *testing.T, got, want *vmm.CPUState) {
	t.Helper()
	want.Position, want.FX = got.Position, got.FX
	for i := range want.Seg {
		if g, w := &got.Seg[i], &want.Seg[i]; g.Selector&^3 == 0 {
			*w = vmm.Segment{Selector: w.Selector, Access: g.Access}
		}
	}
	a, b := vmm.NewNamingSaver(), vmm.NewNamingSaver()
	got.Digestible(a)
	want.Digestible(b)
	for i, f := range a.Fields() {
		if x, y := a.Data()[f.Start:f.End], b.Data()[f.Start:f.End]; !bytes.Equal(x, y) {
			t.Errorf("field %d, %s = %x, on kvm %x", i, f.Name, x, y)
		}
	}
}
