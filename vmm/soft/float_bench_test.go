package soft_test

import (
	"encoding/binary"
	"math"
	"testing"

	"ftvm/vmm"
	"ftvm/vmm/soft"
)

// floatLoops are programs without an end that work with vectors and floating point.
var floatLoops = []struct {
	name string
	code []byte
}{
	{"double array", code(
		"b9 00 02 00 00",    // mov    ecx,512
		"f2 0f 10 4c ce f8", // movsd  xmm1,[rsi+rcx*8-8]
		"f2 0f 59 c8",       // mulsd  xmm1,xmm0
		"f2 0f 58 4c cf f8", // addsd  xmm1,[rdi+rcx*8-8]
		"f2 0f 11 4c cf f8", // movsd  [rdi+rcx*8-8],xmm1
		"48 ff c9",          // dec    rcx
		"75 e5",             // jne    to the load
		"eb de",             // jmp    to the start
	)},
	{"double scalar", code(
		"f2 0f 2a c9",       // cvtsi2sd xmm1,ecx
		"66 0f 28 d1",       // movapd xmm2,xmm1
		"f2 0f 59 d1",       // mulsd  xmm2,xmm1
		"f2 0f 58 d1",       // addsd  xmm2,xmm1
		"f2 0f 5e d0",       // divsd  xmm2,xmm0
		"66 0f 2e d1",       // ucomisd xmm2,xmm1
		"f2 0f 2c c2",       // cvttsd2si eax,xmm2
		"ff c1",             // inc    ecx
		"81 e1 ff ff 00 00", // and    ecx,0xffff
		"77 da",             // ja     to the start
		"eb d8",             // jmp    to the start
	)},
	{"string search", code(
		"b9 00 01 00 00",       // mov    ecx,256
		"66 0f ef c0",          // pxor   xmm0,xmm0
		"f3 0f 6f 0e",          // movdqu xmm1,[rsi]
		"66 0f 74 c8",          // pcmpeqb xmm1,xmm0
		"66 0f d7 c1",          // pmovmskb eax,xmm1
		"48 83 c6 10",          // add    rsi,16
		"85 c0",                // test   eax,eax
		"ff c9",                // dec    ecx
		"75 ea",                // jne    to the load
		"48 81 ee 00 10 00 00", // sub    rsi,4096
		"eb d8",                // jmp    to the start
	)},
	{"vector copy", code(
		"b9 80 00 00 00", // mov    ecx,128
		"0f 10 04 ce",    // movups xmm0,[rsi+rcx*8]
		"0f 10 4c ce 10", // movups xmm1,[rsi+rcx*8+16]
		"0f 11 04 cf",    // movups [rdi+rcx*8],xmm0
		"0f 11 4c cf 10", // movups [rdi+rcx*8+16],xmm1
		"83 e9 04",       // sub    ecx,4
		"75 e9",          // jne    to the first load
		"eb e2",          // jmp    to the start
	)},
	{"vector integer", code(
		"66 0f fe c1",    // paddd  xmm0,xmm1
		"66 0f ef d8",    // pxor   xmm3,xmm0
		"66 0f 38 00 dc", // pshufb xmm3,xmm4
		"66 0f fe d3",    // paddd  xmm2,xmm3
		"66 0f ef ca",    // pxor   xmm1,xmm2
		"66 0f 6f e9",    // movdqa xmm5,xmm1
		"66 0f 72 f1 0c", // pslld  xmm1,12
		"66 0f 72 d5 14", // psrld  xmm5,20
		"66 0f eb cd",    // por    xmm1,xmm5
		"66 0f 70 d2 4e", // pshufd xmm2,xmm2,0x4e
		"66 0f 6c f1",    // punpcklqdq xmm6,xmm1
		"ff c9",          // dec    ecx
		"75 cc",          // jne    to the start
		"eb ca",          // jmp    to the start
	)},
	{"rounding", code(
		"ba 03 00 00 00",       // mov    edx,3
		"f2 0f 2a c2",          // cvtsi2sd xmm0,edx
		"0f ae 5e 08",          // stmxcsr [rsi+8]
		"81 76 08 00 60 00 00", // xor    dword [rsi+8],0x6000
		"0f ae 56 08",          // ldmxcsr [rsi+8]
		"f2 0f 2a c9",          // cvtsi2sd xmm1,ecx
		"f2 0f 5e c8",          // divsd  xmm1,xmm0
		"f2 0f 11 0f",          // movsd  [rdi],xmm1
		"48 33 07",             // xor    rax,[rdi]
		"ff c1",                // inc    ecx
		"eb d5",                // jmp    to the start
	)},
	{"x87", code(
		"dd 06",    // fld    qword [rsi]
		"dc 46 08", // fadd   qword [rsi+8]
		"d8 c8",    // fmul   st,st
		"dd 1f",    // fstp   qword [rdi]
		"db 06",    // fild   dword [rsi]
		"db 5f 08", // fistp  dword [rdi+8]
		"ff c9",    // dec    ecx
		"75 ee",    // jne    to the start
		"eb ec",    // jmp    to the start
	)},
}

// floatProgram is program, with numbers in memory and in XMM0.
func floatProgram(tb testing.TB, code []byte, o soft.Options) *machine {
	m := program(tb, code, o)
	s := m.state(tb)
	binary.LittleEndian.PutUint64(s.FX[160:], math.Float64bits(1.1))
	if err := m.SetState(s); err != nil {
		tb.Fatal(err)
	}
	for i := range 1024 {
		m.write64(0x20_0000+vmm.GPA(8*i), math.Float64bits(1+float64(i)/7))
	}
	return m
}

// BenchmarkFloatLoop reports millions of instructions per second.
func BenchmarkFloatLoop(b *testing.B) {
	for _, l := range floatLoops {
		b.Run(l.name+"/interpreted", func(b *testing.B) { benchmarkLoop(b, floatProgram(b, l.code, soft.Options{})) })
		b.Run(l.name+"/compiled", func(b *testing.B) { benchmarkLoop(b, floatProgram(b, l.code, soft.Compiled(b))) })
	}
}

// TestFloatLoopsAllocateNothing is TestLoopsAllocateNothing for these.
func TestFloatLoopsAllocateNothing(t *testing.T) {
	for _, l := range floatLoops {
		allocatesNothing(t, l.name+", interpreted", floatProgram(t, l.code, soft.Options{}))
		allocatesNothing(t, l.name+", compiled", floatProgram(t, l.code, soft.Compiled(t)))
	}
}

// TestFloatLoopsStopAndGo: they do the same however they are executed.
func TestFloatLoopsStopAndGo(t *testing.T) {
	for i, l := range floatLoops {
		wildSame(t, l.code, 5000, uint64(i))
	}
}
