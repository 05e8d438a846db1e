package x86

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func parseHex(t testing.TB, s string) []byte {
	t.Helper()
	code, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// TestDecode has the cases that are easily got wrong, checked by hand.
func TestDecode(t *testing.T) {
	for _, test := range []struct {
		mode Mode
		code string
		want string // as format writes it, from address 0
	}{
		// Registers.
		{Mode64, "00 e0", "add al,ah"},
		{Mode64, "40 00 e0", "add al,spl"},
		{Mode64, "4d 01 f8", "add r8,r15"},
		{Mode64, "40 b7 01", "mov dil,0x1"},
		{Mode64, "b7 01", "mov bh,0x1"},
		{Mode64, "4f 0f 6f fe", "movq mm7,mm6"}, // REX has no MMX registers
		{Mode64, "45 0f 28 c1", "movaps xmm8,xmm9"},
		{Mode64, "44 8e c0", "mov es,ax"}, // nor segment registers
		{Mode64, "44 0f 20 c0", "mov rax,cr8"},
		{Mode64, "0f 20 00", "mov rax,cr0"}, // mod is ignored
		{Mode32, "0f 22 d8", "mov cr3,eax"},
		{Mode16, "0f 21 f8", "mov eax,dr7"},

		// Operand sizes.
		{Mode64, "66 48 01 d8", "add rax,rbx"}, // REX.W goes before 66
		{Mode64, "48 66 01 d8", "add ax,bx"},   // REX must come last
		{Mode64, "50", "push rax"},
		{Mode64, "66 50", "push ax"},
		{Mode64, "6a ff", "push 0xffffffffffffffff"},
		{Mode64, "66 68 ff ff", "pushw 0xffff"},
		{Mode64, "68 00 00 00 80", "push 0xffffffff80000000"},
		{Mode64, "ff 20", "jmp QWORD PTR [rax]"},
		{Mode64, "66 e8 00 00 00 00", "call 0x6"}, // 66 is ignored, as by Intel
		{Mode32, "66 e8 fe ff", "callw 0x2"},
		{Mode32, "66 eb fd", "jmp 0x0"},
		{Mode16, "e9 fd ff", "jmp 0x0"},
		{Mode64, "48 b8 ff ff ff ff ff ff ff 7f", "mov rax,0x7fffffffffffffff"},
		{Mode64, "48 c7 c0 ff ff ff ff", "mov rax,0xffffffffffffffff"},
		{Mode64, "63 c1", "movsxd eax,ecx"},
		{Mode64, "66 63 c1", "movsxd ax,cx"},
		{Mode32, "63 c1", "arpl cx,ax"},
		{Mode64, "48 98", "cdqe"},
		{Mode64, "66 99", "cwd"},
		{Mode64, "48 cf", "iretq"},
		{Mode64, "c8 00 01 02", "enter 0x100,0x2"},
		{Mode64, "66 48 ed", "in eax,dx"},
		{Mode64, "48 6d", "ins DWORD PTR es:[rdi],dx"},
		{Mode64, "48 ff 18", "call TBYTE PTR [rax]"},
		{Mode32, "66 ff 28", "jmp DWORD PTR [eax]"},
		{Mode32, "9a 78 56 34 12 cd ab", "call 0xabcd:0x12345678"},
		{Mode32, "66 9a 34 12 cd ab", "call 0xabcd:0x1234"},
		{Mode32, "62 00", "bound eax,QWORD PTR [eax]"},
		{Mode32, "c4 00", "les eax,FWORD PTR [eax]"},
		{Mode64, "66 d9 30", "fnstenvw [rax]"},
		{Mode64, "f2 66 0f 38 f1 c1", "crc32 eax,cx"},
		{Mode64, "f2 48 0f 38 f0 c1", "crc32 rax,cl"},
		{Mode64, "66 0f 3a 16 c0 01", "pextrd eax,xmm0,0x1"},
		{Mode64, "66 48 0f 3a 16 c0 01", "pextrq rax,xmm0,0x1"},
		{Mode64, "0f c7 08", "cmpxchg8b QWORD PTR [rax]"},
		{Mode64, "48 0f c7 08", "cmpxchg16b XMMWORD PTR [rax]"},

		// Addresses.
		{Mode64, "8b 05 10 00 00 00", "mov eax,DWORD PTR [rip+0x10]"},
		{Mode64, "67 8b 05 f0 ff ff ff", "mov eax,DWORD PTR [eip+0xfffffffffffffff0]"},
		{Mode32, "8b 05 10 00 00 00", "mov eax,DWORD PTR ds:0x10"},
		{Mode64, "8b 04 25 00 00 00 80", "mov eax,DWORD PTR ds:0xffffffff80000000"},
		{Mode64, "8b 04 24", "mov eax,DWORD PTR [rsp]"},
		{Mode64, "42 8b 04 24", "mov eax,DWORD PTR [rsp+r12*1]"}, // index 4 with REX.X is R12
		{Mode64, "41 8b 04 24", "mov eax,DWORD PTR [r12]"},
		{Mode64, "41 8b 45 00", "mov eax,DWORD PTR [r13]"},
		{Mode64, "41 8b 05 00 00 00 00", "mov eax,DWORD PTR [rip+0x0]"}, // REX.B does not make it R13
		{Mode64, "43 8b 04 65 10 00 00 00", "mov eax,DWORD PTR [r12*2+0x10]"},
		{Mode64, "8b 44 c5 80", "mov eax,DWORD PTR [rbp+rax*8-0x80]"},
		{Mode64, "67 8b 00", "mov eax,DWORD PTR [eax]"},
		{Mode32, "67 8b 02", "mov eax,DWORD PTR [bp+si]"},
		{Mode32, "67 8b 06 34 12", "mov eax,DWORD PTR ds:0x1234"},
		{Mode16, "8b 46 fe", "mov ax,WORD PTR [bp-0x2]"},
		{Mode64, "a1 11 22 33 44 55 66 77 88", "mov eax,DWORD PTR ds:0x8877665544332211"},
		{Mode64, "67 a0 11 22 33 84", "mov al,BYTE PTR ds:0x84332211"},
		{Mode64, "8d 04 09", "lea eax,[rcx+rcx*1]"},

		// Segments.
		{Mode64, "64 8b 00", "mov eax,DWORD PTR fs:[rax]"},
		{Mode64, "2e 8b 00", "mov eax,DWORD PTR [rax]"},
		{Mode64, "65 2e 8b 00", "mov eax,DWORD PTR gs:[rax]"},
		{Mode32, "65 2e 8b 00", "mov eax,DWORD PTR cs:[eax]"},
		{Mode32, "3e 8b 45 00", "mov eax,DWORD PTR ds:[ebp]"},
		{Mode32, "26 a4", "movs BYTE PTR es:[edi],BYTE PTR es:[esi]"},
		{Mode64, "65 d7", "xlat BYTE PTR gs:[rbx]"},

		// Mandatory prefixes.
		{Mode64, "66 0f 58 c1", "addpd xmm0,xmm1"},
		{Mode64, "66 f2 0f 58 c1", "addsd xmm0,xmm1"}, // F2 and F3 go before 66
		{Mode64, "f2 f3 0f 58 c1", "addss xmm0,xmm1"}, // the last of F2 and F3 counts
		{Mode64, "f3 f2 0f 58 c1", "addsd xmm0,xmm1"},
		{Mode64, "f3 0f 16 c1", "movshdup xmm0,xmm1"},
		{Mode64, "0f 16 c1", "movlhps xmm0,xmm1"},
		{Mode64, "0f 16 01", "movhps xmm0,QWORD PTR [rcx]"},
		{Mode64, "f3 0f bc c1", "bsf eax,ecx"}, // TZCNT is not there
		{Mode64, "f3 0f b8 c1", "popcnt eax,ecx"},
		{Mode64, "f3 0f 1e fa", "nop edx"}, // ENDBR64
		{Mode64, "90", "nop"},
		{Mode64, "48 90", "nop"},
		{Mode64, "f3 90", "pause"},
		{Mode64, "41 90", "xchg r8d,eax"},
		{Mode64, "f3 41 90", "xchg r8d,eax"},
		{Mode32, "40", "inc eax"},
		{Mode32, "48", "dec eax"},

		// x87.
		{Mode64, "d8 c1", "fadd st(0),st(1)"},
		{Mode64, "dc c1", "fadd st(1),st(0)"},
		{Mode64, "dc e1", "fsubr st(1),st(0)"},
		{Mode64, "de e9", "fsubp st(1),st(0)"},
		{Mode64, "db 28", "fld TBYTE PTR [rax]"},
		{Mode64, "df e0", "fnstsw ax"},
		{Mode64, "dd d9", "fstp st(1)"},

		// LOCK.
		{Mode64, "f0 0f b1 08", "cmpxchg DWORD PTR [rax],ecx"},
		{Mode64, "f0 0f ba 38 01", "btc DWORD PTR [rax],0x1"},
		{Mode64, "f0 86 00", "xchg BYTE PTR [rax],al"},

		{Mode64, "0f 0b", "ud2"},
		{Mode64, "c5 f8 77", "vex"},
		{Mode32, "c5 f8 77", "vex"},
		{Mode64, "62 f1", "evex"},
		{Mode64, "0f 0f c1 9e", "3dnow mm0,mm1,0x9e"},
	} {
		var in Inst
		code := parseHex(t, test.code)
		if err := Decode(code, test.mode, &in); err != nil {
			t.Errorf("%s: %v; want %s", test.code, err, test.want)
			continue
		}
		if got := format(&in, test.mode, uint64(in.Len)); got != test.want {
			t.Errorf("%s is %q, want %q", test.code, got, test.want)
		}
		if int(in.Len) != len(code) && in.Op != VEX && in.Op != EVEX {
			t.Errorf("%s has length %d", test.code, in.Len)
		}
	}
}

// TestFields has what format does not show.
func TestFields(t *testing.T) {
	noMem := Mem{Seg: 3, Base: NoReg, Index: NoReg}
	for _, test := range []struct {
		mode Mode
		code string
		want Inst
	}{
		{Mode64, "f3 a4", Inst{Op: MOVS, OpSize: 1, AddrSize: 8, Rep: RepE, Mem: noMem}},
		{Mode64, "f2 67 48 af", Inst{Op: SCAS, OpSize: 8, AddrSize: 4, Rep: RepNE, Mem: noMem}},
		{Mode64, "f3 c3", Inst{Op: RET, OpSize: 8, AddrSize: 8, Mem: noMem}},
		{Mode64, "f3 f2 c3", Inst{Op: RET, OpSize: 8, AddrSize: 8, Mem: noMem}},
		{Mode32, "64 c3", Inst{Op: RET, OpSize: 4, AddrSize: 4, Mem: Mem{Seg: 4, Base: NoReg, Index: NoReg}}},
		{Mode64, "f0 ff 04 24", Inst{
			Op: INC, OpSize: 4, AddrSize: 8, Lock: true,
			Arg: [4]Arg{{Kind: MemOp, Size: 4}}, Mem: Mem{Seg: 2, Base: 4, Index: NoReg},
		}},
		{Mode64, "83 c0 80", Inst{
			Op: ADD, OpSize: 4, AddrSize: 8, Arg: [4]Arg{{GPR, 0, 4}, {Kind: Imm, Size: 4}}, Imm: -128, Mem: noMem,
		}},
		{Mode64, "04 80", Inst{
			Op: ADD, OpSize: 4, AddrSize: 8, Arg: [4]Arg{{GPR, 0, 1}, {Kind: Imm, Size: 1}}, Imm: -128, Mem: noMem,
		}},
		{Mode64, "c0 e0 80", Inst{
			Op: SHL, OpSize: 4, AddrSize: 8, Arg: [4]Arg{{GPR, 0, 1}, {Kind: Imm, Size: 1}}, Imm: 128, Mem: noMem,
		}},
		{Mode64, "c2 00 80", Inst{
			Op: RET, OpSize: 8, AddrSize: 8, Arg: [4]Arg{{Kind: Imm, Size: 2}}, Imm: 0x8000, Mem: noMem,
		}},
		{Mode64, "b8 00 00 00 80", Inst{
			Op: MOV, OpSize: 4, AddrSize: 8, Arg: [4]Arg{{GPR, 0, 4}, {Kind: Imm, Size: 4}}, Imm: -1 << 31, Mem: noMem,
		}},
		{Mode64, "48 0f ae 00", Inst{
			Op: FXSAVE, OpSize: 8, AddrSize: 8, Arg: [4]Arg{{Kind: MemOp}}, Mem: Mem{Seg: 3, Base: 0, Index: NoReg},
		}},
		{Mode64, "0f 01 10", Inst{
			Op: LGDT, OpSize: 4, AddrSize: 8, Arg: [4]Arg{{Kind: MemOp, Size: 10}}, Mem: Mem{Seg: 3, Base: 0, Index: NoReg},
		}},
	} {
		code := parseHex(t, test.code)
		test.want.Len = uint8(len(code))
		in := Inst{Op: UD2, Imm: 1, Imm2: 2, Lock: true, Rep: RepE} // leftovers
		if err := Decode(code, test.mode, &in); err != nil || in.Len != test.want.Len {
			t.Errorf("%s: %v, length %d", test.code, err, in.Len)
		}
		if in != test.want {
			t.Errorf("%s is %+v, want %+v", test.code, in, test.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		mode Mode
		code string
		want error
		len  uint8 // how many bytes were looked at
	}{
		{Mode64, "", ErrShort, 0},
		{Mode64, "66 66", ErrShort, 2},
		{Mode64, "0f", ErrShort, 1},
		{Mode64, "0f 38", ErrShort, 2},
		{Mode64, "8b 84 24 00 00", ErrShort, 5},
		{Mode64, "48 b8 00 00 00 00 00 00 00", ErrShort, 9},
		{Mode64, "f0 c7 c0 00 00", ErrShort, 5}, // though LOCK makes it undefined
		{Mode64, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66", ErrTooLong, 15},
		{Mode64, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", ErrTooLong, 15},
		{Mode64, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 01 c0", ErrTooLong, 15},
		{Mode64, "06", ErrUndefined, 1},
		{Mode64, "0f 04", ErrUndefined, 2},
		{Mode64, "8d c0", ErrUndefined, 2}, // LEA of a register
		{Mode64, "0f 13 c0", ErrUndefined, 3},
		{Mode64, "8e c8", ErrUndefined, 2}, // MOV to CS
		{Mode64, "8c f0", ErrUndefined, 2}, // segment register 6
		{Mode64, "0f 20 c8", ErrUndefined, 3},
		{Mode64, "44 0f 23 c0", ErrUndefined, 4}, // DR8
		{Mode64, "f0 01 c0", ErrUndefined, 3},    // LOCK with a register
		{Mode64, "f0 8b 00", ErrUndefined, 3},
		{Mode64, "f0 83 38 00", ErrUndefined, 4}, // CMP does not write
		{Mode64, "f0 0f 20 c0", ErrUndefined, 4}, // CR8 on AMD
		{Mode64, "f3 0f 54 c1", ErrUndefined, 4}, // F3 with NP and 66
		{Mode64, "66 0f ae 00", ErrUndefined, 4},
		{Mode64, "ff b8 00 00 00 00", ErrUndefined, 6}, // all of it is looked at
		{Mode64, "0f 3a ff 40 00 00", ErrUndefined, 6},
	} {
		in := Inst{Op: UD2, Imm: 1}
		err := Decode(parseHex(t, test.code), test.mode, &in)
		if !errors.Is(err, test.want) || in != (Inst{Len: test.len}) {
			t.Errorf("%s: %v, %+v; want %v, length %d", test.code, err, in, test.want, test.len)
		}
	}
}

// TestEveryOp makes sure that the samples, and so the oracles, leave nothing out.
func TestEveryOp(t *testing.T) {
	var seen [NumOps]bool
	for _, mode := range []Mode{Mode64, Mode32} {
		for _, s := range samples(t, mode) {
			seen[s.inst.Op] = true
		}
	}
	for op := range NumOps {
		if !seen[op] {
			t.Errorf("no sample is %s", op)
		}
	}
}

// TestOpcodes checks that the rows of the table agree with each other.
func TestOpcodes(t *testing.T) {
	for m := range opcodes {
		for b, o := range opcodes[m] {
			for _, f := range o.forms[:len(o.forms)-1] {
				if f.match&^f.mask != 0 {
					t.Errorf("map %d, %02x: a form of %s demands %#x, of %#x", m, b, f.op, f.match, f.mask)
				}
				if modRM := f.attr&attrModRM != 0; modRM != o.modRM {
					t.Errorf("map %d, %02x: the forms do not agree whether there is a ModRM byte", m, b)
				}
			}
		}
	}
}

func TestString(t *testing.T) {
	for op, want := range map[Op]string{
		Invalid: "(invalid)", ADD: "add", JO + 4: "je", SETO + 15: "setg", MOVS: "movs", MOVSD: "movsd", NOW3D: "3dnow", EVEX: "evex",
		NumOps: "(invalid)",
	} {
		if got := op.String(); got != want {
			t.Errorf("Op %d is %q, want %q", op, got, want)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	var codes [][]byte
	for _, s := range samples(t, Mode64)[:1000] {
		codes = append(codes, s.code, s.code[:3])
	}
	var in Inst
	n := testing.AllocsPerRun(10, func() {
		for _, code := range codes {
			_ = Decode(code, Mode64, &in)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for %d instructions", n, len(codes))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x66, 0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x84, 0x8d, 1, 2, 3, 4}, uint8(Mode64))
	f.Add([]byte{0xf0, 0x67, 0x81, 0x06, 1, 2, 3, 4}, uint8(Mode32))
	f.Add(bytes.Repeat([]byte{0x66}, 20), uint8(Mode16))
	f.Fuzz(func(t *testing.T, code []byte, m uint8) {
		mode := Mode(m % 3)
		var in Inst
		err := Decode(code, mode, &in)
		if int(in.Len) > min(len(code), MaxLen) {
			t.Fatalf("length %d", in.Len)
		}
		again := Inst{Op: UD2, Imm: -1, Lock: true}
		if e := Decode(code, mode, &again); e != err || again != in {
			t.Fatalf("%+v, %v; again: %+v, %v", in, err, again, e)
		}
		switch err {
		case ErrShort:
			if len(code) >= MaxLen {
				t.Fatalf("%v of %d bytes", err, len(code))
			}
			return
		case ErrTooLong:
			if len(code) < MaxLen {
				t.Fatalf("%v of %d bytes", err, len(code))
			}
			return
		}
		// What is behind an instruction does not matter, and what is in it does.
		longer := append(code[:in.Len:in.Len], 0xcc, 0xcc)
		if e := Decode(longer, mode, &again); e != err || again != in {
			t.Fatalf("%+v, %v; with more bytes: %+v, %v", in, err, again, e)
		}
		for n := range in.Len {
			if e := Decode(code[:n], mode, &again); e != ErrShort {
				t.Fatalf("%+v; of %d bytes: %+v, %v", in, n, again, e)
			}
		}
		for i, a := range in.Arg {
			if a.Kind == None && a != (Arg{}) || a.Kind != None && i > 0 && in.Arg[i-1].Kind == None {
				t.Fatalf("operands %+v", in.Arg)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, bench := range []struct{ name, code string }{
		{"MOV", "48 8b 44 24 08"},
		{"ADD", "48 83 c4 18"},
		{"Jcc", "0f 84 10 00 00 00"},
		{"LOCK-CMPXCHG", "f0 48 0f b1 0d 00 00 00 00"},
		{"PXOR", "66 0f ef c0"},
		{"FCOS", "d9 ff"},
	} {
		code := append(parseHex(b, bench.code), make([]byte, MaxLen)...)
		b.Run(bench.name, func(b *testing.B) {
			var in Inst
			for b.Loop() {
				if err := Decode(code, Mode64, &in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
