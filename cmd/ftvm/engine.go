package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	// tellsTime is set if the CPU tells the guest the time, to the nanosecond.
	tellsTime bool
	// roams is set if the CPU may be run by one thread after the other. KVM wants all calls for one to come from one thread.
	roams bool
	// alloc gives it guest memory; see host.AllocFixedRAM.
	alloc func(size uint64) (mem []byte, unlocked, err error)
	// make makes one, and tells which CPU the guest sees, for replicas to compare.
	make func(ram *vmm.RAM, clock string, log *slog.Logger) (e vmm.Engine, model string, err error)
}

// codeSize is the size of engine soft's memory for compiled code, in bytes: more than twice what a Linux boot fills.
// Resident is what is in use.
const codeSize = 16 << 20

var engineKinds = []engineKind{
	{"kvm", []string{"exits", "step"}, 1000, false, false, host.AllocFixedRAM, func(ram *vmm.RAM, clock string, _ *slog.Logger) (vmm.Engine, string, error) {
		e, err := kvm.New(ram, kvm.Options{Clock: clock})
		return e, kvm.CPUModel(), err
	}},
	{"soft", []string{"instructions"}, 100_000_000, true, true, func(size uint64) (mem []byte, _, err error) {
		mem, err = host.AllocRAM(size)
		return mem, nil, err
	}, func(ram *vmm.RAM, _ string, log *slog.Logger) (vmm.Engine, string, error) {
		code, err := host.AllocCode(codeSize)
		if err != nil {
			log.Warn("engine soft interprets the guest, which is several times slower than compiling it", "reason", err)
		}
		return soft.New(ram, soft.Options{Code: code}), soft.Model, nil
	}},
}

// checkEngine turns down an --engine or a --clock that there is not, or that do not fit together.
func (g *guestFlags) checkEngine() error {
	if g.clock != "" && !slices.ContainsFunc(engineKinds, func(k engineKind) bool { return slices.Contains(k.clocks, g.clock) }) {
		return fmt.Errorf("--clock %s: there are exits and step of engine kvm, and instructions of engine soft", g.clock)
	}
	if g.engine == "auto" {
		return nil
	}
	i := slices.IndexFunc(engineKinds, func(k engineKind) bool { return k.name == g.engine })
	if i < 0 {
		return fmt.Errorf("--engine %s: there are auto, kvm and soft", g.engine)
	}
	if k := engineKinds[i]; g.clock != "" && !slices.Contains(k.clocks, g.clock) {
		return fmt.Errorf("--clock %s: engine %s has the clock %s", g.clock, k.name, strings.Join(k.clocks, " or "))
	}
	return nil
}

// chooseEngine finds the engine that --engine and --clock name for a guest, which is the ledger or another one, and completes
// the flags. why tells people what was chosen for them, and the reason.
func (g *guestFlags) chooseEngine(ledger bool) (k *engineKind, why string) {
	name := g.engine
	if name == "auto" {
		name, why = g.autoEngine(ledger)
	}
	k = &engineKinds[slices.IndexFunc(engineKinds, func(k engineKind) bool { return k.name == name })]
	if g.clock == "" {
		g.clock = k.clocks[0]
	}
	if g.epoch == 0 {
		g.epoch = k.epoch
	}
	return k, why
}

// autoEngine chooses by what lockstep needs: kvm where it holds there for this guest, else soft.
func (g *guestFlags) autoEngine(ledger bool) (name, why string) {
	_, err := os.Stat("/dev/kvm")
	switch {
	case g.clock == "instructions":
		return "soft", "for the clock instructions"
	case g.clock != "":
		return "kvm", "for the clock " + g.clock
	case !ledger:
		return "soft", "KVM cannot keep replicas of just any kernel alike"
	case errors.Is(err, fs.ErrNotExist):
		return "soft", "there is no /dev/kvm"
	}
	return "kvm", "the ledger guest uses nothing that differs between hosts"
}
