package soft

import (
	"io"
	"runtime"
	"runtime/pprof"
	"testing"

	"ftvm/vmm"
)

// TestCompiledCodeMoves: a branch to another page finds what is mapped there, however often it found something
// else before, and the walk that it takes marks the entry accessed.
func TestCompiledCodeMoves(t *testing.T) {
	const (
		target       = 0x1f_0000 // linear
		first, other = 0x10_0000, 0x10_1000
		entry        = ptAt + target/pageSize*8
	)
	g := newGuest(t)
	g.put(first, machineCode("ff c3 c3")) // inc ebx; ret
	g.put(other, machineCode("ff c5 c3")) // inc ebp; ret
	g.put64(entry, first|pteP|pteW|pteU)
	g.halt("b9 0a 00 00 00", // mov ecx, 10
		"b8 00 00 1f 00",                   // again: mov eax, target
		"ff d0 ff d0 ff d0",                // call rax three times
		"81 34 25 80 4f 00 00 20 10 00 00", // xor dword [entry], (first ^ other) | accessed
		"0f 01 38",                         // invlpg [rax]
		"ff c9",                            // dec ecx
		"75 e3")                            // jne again
	g.want("RBX", g.r[3], 15)
	g.want("RBP", g.r[5], 15)
	g.want("RCX", g.r[1], 0)
	g.want("entry", g.get64(entry), first|pteP|pteW|pteU)
}

// TestCompiledCodeComesBack: what runs compiled for ever can be kicked, and lets the collector and the profiler, whose signals
// arrive within it, do their work.
func TestCompiledCodeComesBack(t *testing.T) {
	g := newGuest(t)
	g.put(codeAt, machineCode("ff c0 eb fc")) // inc eax; jmp to it
	g.start()
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		t.Fatal(err)
	}
	defer pprof.StopCPUProfile()
	done := make(chan vmm.Exit)
	go func() {
		x, _ := g.Run(1<<60, false, &g.bus)
		done <- x
	}()
	for range 20 {
		runtime.GC()
	}
	g.Kick()
	if x := <-done; x.Reason != vmm.ExitKick {
		t.Errorf("exit %+v", x)
	}
	g.want("RAX", g.r[vmm.RAX]&0xffff_ffff, uint64(g.pos+1)/2&0xffff_ffff)
}
