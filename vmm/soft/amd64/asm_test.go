package amd64

import (
	"encoding/hex"
	"strings"
	"testing"
)

// TestEncodings compares encodings with those of GNU as.
func TestEncodings(t *testing.T) {
	for _, c := range []struct {
		text, want string
		emit       func(a *Asm)
	}{
		{"add bl, cl", "00 cb", func(a *Asm) { a.Arith(ADD, 1, R(RBX), RCX) }},
		{"add sil, r9b", "44 00 ce", func(a *Asm) { a.Arith(ADD, 1, R(RSI), R9) }},
		{"add cx, r10w", "66 44 01 d1", func(a *Asm) { a.Arith(ADD, 2, R(RCX), R10) }},
		{"add esi, [r15-16]", "41 03 77 f0", func(a *Asm) { a.ArithLoad(ADD, 4, RSI, M(R15, -16)) }},
		{"add r8, [rdx+rcx]", "4c 03 04 0a", func(a *Asm) { a.ArithLoad(ADD, 8, R8, MX(RDX, RCX, 0, 0)) }},
		{"add [rdx+rcx], r13", "4c 01 2c 0a", func(a *Asm) { a.Arith(ADD, 8, MX(RDX, RCX, 0, 0), R13) }},
		{"and ecx, 4095", "81 e1 ff 0f 00 00", func(a *Asm) { a.ArithImm(AND, 4, R(RCX), 4095) }},
		{"and rdi, -4096", "48 81 e7 00 f0 ff ff", func(a *Asm) { a.ArithImm(AND, 8, R(RDI), -4096) }},
		{"cmp r12, 5", "49 83 fc 05", func(a *Asm) { a.ArithImm(CMP, 8, R(R12), 5) }},
		{"test dword [r15+0x200], 12", "41 f7 87 00 02 00 00 0c 00 00 00", func(a *Asm) { a.ArithImm(TEST, 4, M(R15, 0x200), 12) }},
		{"test eax, edi", "85 f8", func(a *Asm) { a.Arith(TEST, 4, R(RAX), RDI) }},
		{"mov r12, [rsp+8]", "4c 8b 64 24 08", func(a *Asm) { a.Load(8, R12, M(RSP, 8)) }},
		{"mov rbp, r14", "4c 89 f5", func(a *Asm) { a.Store(8, R(RBP), R14) }},
		{"mov byte [r13], 5", "41 c6 45 00 05", func(a *Asm) { a.StoreImm(1, M(R13, 0), 5) }},
		{"mov rcx, [rbp]", "48 8b 4d 00", func(a *Asm) { a.Load(8, RCX, M(RBP, 0)) }},
		{"mov rsi, [r12+r9*8+0x12345]", "4b 8b b4 cc 45 23 01 00", func(a *Asm) { a.Load(8, RSI, MX(R12, R9, 3, 0x12345)) }},
		{"lea rdx, [r11*4+16]", "4a 8d 14 9d 10 00 00 00", func(a *Asm) { a.Lea(8, RDX, MI(R11, 2, 16)) }},
		{"mov ecx, 0x12345678", "b9 78 56 34 12", func(a *Asm) { a.Const(RCX, 0x12345678) }},
		{"mov r9, -5", "49 c7 c1 fb ff ff ff", func(a *Asm) { a.Const(R9, ^uint64(4)) }},
		{"movabs rdi, 0x123456789abcdef0", "48 bf f0 de bc 9a 78 56 34 12", func(a *Asm) { a.Const(RDI, 0x123456789abcdef0) }},
		{"movzx edx, bpl", "40 0f b6 d5", func(a *Asm) { a.Movzx(RDX, R(RBP), 1) }},
		{"movsxd r8, [rdx+rcx]", "4c 63 04 0a", func(a *Asm) { a.Movsx(8, R8, MX(RDX, RCX, 0, 0), 4) }},
		{"movsx r10d, word [rbp]", "44 0f bf 55 00", func(a *Asm) { a.Movsx(4, R10, M(RBP, 0), 2) }},
		{"shl r11d, 1", "41 d1 e3", func(a *Asm) { a.Shift(SHL, 4, R(R11), 1) }},
		{"sar rdi, 63", "48 c1 ff 3f", func(a *Asm) { a.Shift(SAR, 8, R(RDI), 63) }},
		{"ror qword [r15], cl", "49 d3 0f", func(a *Asm) { a.ShiftCL(ROR, 8, M(R15, 0)) }},
		{"neg r14w", "66 41 f7 de", func(a *Asm) { a.Unary(NEG, 2, R(R14)) }},
		{"div rdi", "48 f7 f7", func(a *Asm) { a.Unary(DIV, 8, R(RDI)) }},
		{"inc byte [rdx+rcx]", "fe 04 0a", func(a *Asm) { a.Unary(INC, 1, MX(RDX, RCX, 0, 0)) }},
		{"imul r9, r10", "4d 0f af ca", func(a *Asm) { a.Imul(8, R9, R(R10)) }},
		{"imul ebx, [r15-128], 1000", "41 69 5f 80 e8 03 00 00", func(a *Asm) { a.ImulImm(4, RBX, M(R15, -128), 1000) }},
		{"bswap r13", "49 0f cd", func(a *Asm) { a.Bswap(8, R13) }},
		{"bt eax, 8", "0f ba e0 08", func(a *Asm) { a.BitTest(4, R(RAX), 8) }},
		{"bt r8, rcx", "49 0f a3 c8", func(a *Asm) { a.BitTestReg(8, R(R8), RCX) }},
		{"sete bpl", "40 0f 94 c5", func(a *Asm) { a.Set(E, R(RBP)) }},
		{"cmovl r9d, [r15-8]", "45 0f 4c 4f f8", func(a *Asm) { a.Cmov(L, 4, R9, M(R15, -8)) }},
		{"jmp rcx", "ff e1", func(a *Asm) { a.JmpTo(R(RCX)) }},
		{"jmp [rdx+8]", "ff 62 08", func(a *Asm) { a.JmpTo(M(RDX, 8)) }},
		{"movups xmm0, [rdx+rcx]", "0f 10 04 0a", func(a *Asm) { a.LoadVector(0, MX(RDX, RCX, 0, 0)) }},
		{"pshufd xmm0, xmm1, 0x1b", "66 0f 70 c1 1b", func(a *Asm) { a.Vector(0x66_00_70, 0, R(1)); a.Imm8(0x1b) }},
		{"palignr xmm0, xmm1, 3", "66 0f 3a 0f c1 03", func(a *Asm) { a.Vector(0x66_3a_0f, 0, R(1)); a.Imm8(3) }},
		{"cvttsd2si r8, qword [r15+16]", "f2 4d 0f 2c 47 10", func(a *Asm) { a.VectorInt(8, 0xf2_00_2c, R8, M(R15, 16)) }},
		{"ldmxcsr [r15+0x40]", "41 0f ae 57 40", func(a *Asm) { a.LoadMXCSR(M(R15, 0x40)) }},
		{"jmp to itself", "e9 fb ff ff ff", func(a *Asm) { a.Bind(a.Jmp(), 0) }},
		{"jb over lahf", "72 01 9f", func(a *Asm) { from := a.Skip(B); a.Lahf(); a.Land(from) }},
		{"lea rdx, [rip]", "48 8d 15 00 00 00 00", func(a *Asm) { a.LeaCode(RDX, 7) }},
	} {
		var a Asm
		mem := make([]byte, 16)
		a.Reset(mem)
		c.emit(&a)
		if got := hex.EncodeToString(mem[:a.At()]); got != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%s: % x, want %s", c.text, mem[:a.At()], c.want)
		}
	}
}
