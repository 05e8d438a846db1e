package soft_test

import (
	"testing"

	"ftvm/vmm/soft"
)

// loops are programs without an end, each of one kind of work.
var loops = []struct {
	name string
	code []byte
}{
	{"integer", code(
		"89 c8",             // mov    eax,ecx
		"69 c0 0d 66 19 00", // imul   eax,eax,0x19660d
		"05 5f f3 6e 3c",    // add    eax,0x3c6ef35f
		"89 c2",             // mov    edx,eax
		"c1 ea 07",          // shr    edx,7
		"48 31 d3",          // xor    rbx,rdx
		"48 8d 74 83 05",    // lea    rsi,[rbx+rax*4+5]
		"81 e6 ff 0f 00 00", // and    esi,0xfff
		"48 01 f7",          // add    rdi,rsi
		"44 0f b6 c0",       // movzx  r8d,al
		"4d 29 c1",          // sub    r9,r8
		"49 c1 c1 05",       // rol    r9,5
		"48 ff c1",          // inc    rcx
		"4c 39 d1",          // cmp    rcx,r10
		"75 ca",             // jne    to the start
		"eb c8",             // jmp    to the start
	)},
	{"copy", code(
		"48 c7 c1 00 02 00 00", // mov    rcx,512
		"48 8b 44 ce f8",       // mov    rax,[rsi+rcx*8-8]
		"48 89 44 cf f8",       // mov    [rdi+rcx*8-8],rax
		"48 ff c9",             // dec    rcx
		"75 f1",                // jne    to the load
		"eb e8",                // jmp    to the start
	)},
	{"memory", code(
		"48 83 07 01",    // add    qword [rdi],1
		"8b 47 08",       // mov    eax,[rdi+8]
		"03 07",          // add    eax,[rdi]
		"25 ff 07 00 00", // and    eax,0x7ff
		"89 47 10",       // mov    [rdi+16],eax
		"83 7f 10 07",    // cmp    dword [rdi+16],7
		"74 e9",          // je     to the start
		"0f b6 14 06",    // movzx  edx,byte [rsi+rax]
		"ff 47 18",       // inc    dword [rdi+24]
		"f6 06 01",       // test   byte [rsi],1
		"75 dd",          // jne    to the start
		"eb db",          // jmp    to the start
	)},
	{"call", code(
		"89 cf",          // mov    edi,ecx
		"e8 07 00 00 00", // call   the push
		"48 01 c3",       // add    rbx,rax
		"ff c1",          // inc    ecx
		"eb f2",          // jmp    to the start
		"55",             // push   rbp
		"48 89 e5",       // mov    rbp,rsp
		"53",             // push   rbx
		"8d 47 01",       // lea    eax,[rdi+1]
		"5b",             // pop    rbx
		"5d",             // pop    rbp
		"c3",             // ret
	)},
	{"branch", code(
		"69 c0 6d 4e c6 41", // imul   eax,eax,0x41c64e6d
		"05 39 30 00 00",    // add    eax,0x3039
		"a9 00 00 01 00",    // test   eax,0x10000
		"74 0b",             // je     to the xor
		"01 c3",             // add    ebx,eax
		"a9 00 00 04 00",    // test   eax,0x40000
		"75 05",             // jne    to the cmp
		"ff ca",             // dec    edx
		"83 f3 05",          // xor    ebx,5
		"39 d3",             // cmp    ebx,edx
		"77 03",             // ja     to the sub
		"83 c2 03",          // add    edx,3
		"83 e9 01",          // sub    ecx,1
		"75 d4",             // jne    to the start
		"eb d2",             // jmp    to the start
	)},
	{"rep movsb", code(
		"b9 00 10 00 00",       // mov    ecx,4096
		"f3 a4",                // rep movsb
		"48 81 ee 00 10 00 00", // sub    rsi,4096
		"48 81 ef 00 10 00 00", // sub    rdi,4096
		"eb e9",                // jmp    to the start
	)},
}

// BenchmarkLoop reports millions of instructions per second.
func BenchmarkLoop(b *testing.B) {
	for _, l := range loops {
		b.Run(l.name+"/interpreted", func(b *testing.B) { benchmarkLoop(b, program(b, l.code, soft.Options{})) })
		b.Run(l.name+"/compiled", func(b *testing.B) { benchmarkLoop(b, program(b, l.code, soft.Compiled(b))) })
	}
}

func benchmarkLoop(b *testing.B, m *machine) {
	m.runFor(b, 100_000)
	const n = 1_000_000
	for b.Loop() {
		m.runFor(b, n)
	}
	b.ReportMetric(float64(b.N)*n/1e6/b.Elapsed().Seconds(), "MIPS")
	b.ReportMetric(0, "ns/op")
}

// TestLoopsAllocateNothing: code that was decoded once is executed without allocating memory.
func TestLoopsAllocateNothing(t *testing.T) {
	for _, l := range loops {
		allocatesNothing(t, l.name+", interpreted", program(t, l.code, soft.Options{}))
		allocatesNothing(t, l.name+", compiled", program(t, l.code, soft.Compiled(t)))
	}
}

func allocatesNothing(t *testing.T, name string, m *machine) {
	t.Helper()
	for range 100 { // a run that ends within a block makes a new one begin there
		m.runFor(t, 4999)
	}
	if n := testing.AllocsPerRun(10, func() { m.runFor(t, 4999) }); n != 0 {
		t.Errorf("%s: %v allocations", name, n)
	}
}
