package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"ftvm/host"
	"ftvm/vmm"
	"ftvm/vmm/kvm"
	"ftvm/vmm/soft"
)

// An engineKind is what --engine chooses from.
type engineKind struct {
	name string
	// clocks are what --clock chooses from; the first is the default.
	clocks []string
	// epoch is the default of --epoch, in counts of its clocks.
	epoch uint64
	// alloc gives it guest memory; see host.AllocFixedRAM.
	alloc func(size uint64) (mem []byte, unlocked, err error)
	// make makes one, and tells which CPU the guest sees, for replicas to compare.
	make func(ram *vmm.RAM, clock string) (e vmm.Engine, model string, err error)
}

var engineKinds = []engineKind{
	{"kvm", []string{"exits", "step"}, 1000, host.AllocFixedRAM, func(ram *vmm.RAM, clock string) (vmm.Engine, string, error) {
		e, err := kvm.New(ram, kvm.Options{Clock: clock})
		return e, kvm.CPUModel(), err
	}},
	{"soft", []string{"instructions"}, 20_000_000, func(size uint64) (mem []byte, _, err error) {
		mem, err = host.AllocRAM(size)
		return mem, nil, err
	}, func(ram *vmm.RAM, _ string) (vmm.Engine, string, error) {
		return soft.New(ram), soft.Model, nil
	}},
}

// chooseEngine finds the engine that --engine and --clock name, and completes the flags. why tells people what
// was chosen for them, and the reason.
func (g *guestFlags) chooseEngine() (k *engineKind, why string, err error) {
	name := g.engine
	if g.clock != "" && !slices.ContainsFunc(engineKinds, func(k engineKind) bool { return slices.Contains(k.clocks, g.clock) }) {
		return nil, "", fmt.Errorf("--clock %s: there are exits and step of engine kvm, and instructions of engine soft", g.clock)
	}
	if name == "auto" {
		name, why = g.autoEngine()
	}
	i := slices.IndexFunc(engineKinds, func(k engineKind) bool { return k.name == name })
	if i < 0 {
		return nil, "", fmt.Errorf("--engine %s: there are auto, kvm and soft", g.engine)
	}
	k = &engineKinds[i]
	if g.clock == "" {
		g.clock = k.clocks[0]
	}
	if !slices.Contains(k.clocks, g.clock) {
		return nil, "", fmt.Errorf("--clock %s: engine %s has the clock %s", g.clock, name, strings.Join(k.clocks, " or "))
	}
	if g.epoch == 0 {
		g.epoch = k.epoch
	}
	return k, why, nil
}

// autoEngine chooses by what lockstep needs: kvm where it holds there for this guest, else soft.
func (g *guestFlags) autoEngine() (name, why string) {
	_, err := os.Stat("/dev/kvm")
	switch {
	case g.clock == "instructions":
		return "soft", "for the clock instructions"
	case g.clock != "":
		return "kvm", "for the clock " + g.clock
	case g.kernel != "":
		return "soft", "KVM cannot keep replicas of just any kernel alike"
	case errors.Is(err, fs.ErrNotExist):
		return "soft", "there is no /dev/kvm"
	}
	return "kvm", "the ledger guest uses nothing that differs between hosts"
}
