package soft_test

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"

	"ftvm/devices"
	"ftvm/vmm"
	"ftvm/vmm/boot"
	"ftvm/vmm/soft"
)

var (
	linuxPositions = flag.Uint64("positions", 100e6, "how far TestLinuxCompiled runs")
	linuxSeed      = flag.Uint64("stops", 1, "seed of where TestLinuxCompiled stops")
	linuxTask      = flag.String("task", "poweroff", "what the guest of TestLinuxCompiled does")
)

const linuxGuest = "../../guests/linux/out/"

// TestLinuxCompiled boots Linux compiled and interpreted side by side, which stop at the same random positions and
// must then be in the same state. All of a boot, which takes some 20 s:
//
//	go test ./vmm/soft -run TestLinuxCompiled -positions 2000000000 -stops 2 -task bench-fork
func TestLinuxCompiled(t *testing.T) {
	kernel, err := os.ReadFile(linuxGuest + "vmlinuz")
	if err != nil {
		t.Skipf("%v: make guest-linux gets it", err)
	}
	initrd, err := os.ReadFile(linuxGuest + "initrd.gz")
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 20
	start := func(o soft.Options) (*vmm.Machine, *soft.CPU, []byte) {
		mem := make([]byte, size)
		ram := vmm.NewRAM(mem)
		state, err := boot.Load(ram, boot.Image{Kernel: kernel, Initrd: initrd,
			Cmdline: "console=ttyS0 quiet acpi=off panic=-1 ftvm.task=" + *linuxTask})
		if err != nil {
			t.Fatal(err)
		}
		cpu := soft.New(ram, o)
		if err := cpu.SetState(state); err != nil {
			t.Fatal(err)
		}
		m := vmm.NewMachine(cpu, ram, devices.New(devices.Config{}, ram))
		return m, cpu, mem
	}
	compiled, a, memA := start(soft.Options{Code: soft.Compiled(t).Code})
	interpreted, b, memB := start(soft.Options{})
	machines := [2]*vmm.Machine{compiled, interpreted}
	r := rand.New(rand.NewPCG(*linuxSeed, 0))
	var stateA, stateB vmm.CPUState
	for stops, halts := 0, 0; uint64(interpreted.Position()) < *linuxPositions; stops++ {
		n := 1 + r.Uint64N(1<<r.IntN(24))
		var reasons [2]vmm.StopReason
		until := interpreted.Position() + vmm.Position(n)
		for i, m := range machines {
			if reasons[i], err = m.Run(until, nil); err != nil {
				t.Fatal(err)
			}
			m.Outputs(nil)
		}
		a.State(&stateA)
		b.State(&stateB)
		if reasons[0] != reasons[1] || !reflect.DeepEqual(stateA, stateB) {
			t.Fatalf("after %d stops, between positions %d and %d, with -stops %d:\ncompiled    %v %v\ninterpreted %v %v",
				stops, until-vmm.Position(n), stateB.Position, *linuxSeed, reasons[0], &stateA, reasons[1], &stateB)
		}
		if reasons[0] == vmm.StopEnded {
			end, _ := interpreted.End()
			t.Logf("the guest ended: %v", end)
			break
		}
		now := interpreted.Time()
		if due, ok := interpreted.Deadline(); ok && reasons[0] == vmm.StopHalted {
			now = max(now, due)
			halts++
		}
		for _, m := range machines {
			var inputs []vmm.Input
			if want := m.EntropyWanted(); want > 0 {
				inputs = append(inputs, vmm.Input{Kind: vmm.InputEntropy, Data: bytes.Repeat([]byte{byte(stops)}, want)})
			}
			if err := m.Apply(now, soft.TickNs*vmm.RateUnit, inputs); err != nil {
				t.Fatal(err)
			}
		}
		if stops%1000 == 0 && !bytes.Equal(memA, memB) {
			t.Fatalf("memory differs at position %d", stateB.Position)
		}
	}
	if !bytes.Equal(memA, memB) {
		t.Fatalf("memory differs at position %d", stateB.Position)
	}
	t.Logf("alike up to position %d", stateB.Position)
}
