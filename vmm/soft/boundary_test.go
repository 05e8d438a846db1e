package soft_test

import (
	"testing"

	"ftvm/devices"
	"ftvm/guests/ledger"
	"ftvm/vmm"
	"ftvm/vmm/boot"
	"ftvm/vmm/soft"
)

// ledgerMachine is the embedded guest on a whole machine, at its start.
func ledgerMachine(tb testing.TB) *vmm.Machine {
	tb.Helper()
	ram := vmm.NewRAM(make([]byte, 32<<20))
	state, err := boot.Load(ram, boot.Image{Kernel: ledger.ELF, Cmdline: "work=1000000"})
	if err != nil {
		tb.Fatal(err)
	}
	cpu := soft.New(ram)
	m := vmm.NewMachine(cpu, ram, devices.New(devices.Config{Disks: []devices.Disk{{SizeBytes: 16 << 20}}}, ram))
	if err := cpu.SetState(state); err != nil {
		tb.Fatal(err)
	}
	return m
}

// BenchmarkDigest is the digest of registers and devices at a boundary.
func BenchmarkDigest(b *testing.B) {
	m := ledgerMachine(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Digest(false); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStop is what an epoch of one position costs, its record, digest and outputs excepted: Run up to a
// boundary, and Apply.
func BenchmarkStop(b *testing.B) {
	m := ledgerMachine(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Run(m.Position()+1, nil); err != nil {
			b.Fatal(err)
		}
		if err := m.Apply(m.Time(), nil); err != nil {
			b.Fatal(err)
		}
	}
}
