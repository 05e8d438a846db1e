package kvm

import (
	"testing"

	"ftvm/vmm"
)

// BenchmarkPIO is one port access from CPL0, the cost of a position on the clock exits.
func BenchmarkPIO(b *testing.B) {
	g := benchTiny(b, "exits", "e6 80 eb fc") // again: out 0x80, al; jmp again
	bus := &tinyBus{}
	for b.Loop() {
		if x, err := g.Run(1<<60, false, bus); err != nil || x.Reason != vmm.ExitAccess {
			b.Fatal(x, err)
		}
	}
}

// BenchmarkStep is one position on the clock step.
func BenchmarkStep(b *testing.B) {
	g := benchTiny(b, "step", "90 eb fd") // again: nop; jmp again
	bus := &tinyBus{}
	for b.Loop() {
		if x, err := g.Run(g.Position()+1, false, bus); err != nil || x.Reason != vmm.ExitPosition {
			b.Fatal(x, err)
		}
	}
}

// BenchmarkState reads the registers, as at the end of each epoch.
func BenchmarkState(b *testing.B) {
	g := benchTiny(b, "exits", "f4")
	var s vmm.CPUState
	for b.Loop() {
		if err := g.State(&s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSetState(b *testing.B) {
	g := benchTiny(b, "exits", "f4")
	var s vmm.CPUState
	if err := g.State(&s); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := g.SetState(&s); err != nil {
			b.Fatal(err)
		}
	}
}

func benchTiny(b *testing.B, clock, code string) *tiny {
	lock(b)
	g, err := newTiny(clock, 0, machineCode(code), reportVector)
	skipWithoutKVM(b, err)
	b.Cleanup(func() { g.Close() })
	b.ReportAllocs()
	return g
}
