package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ftvm/devices"
	"ftvm/host"
	"ftvm/replica/pair"
	"ftvm/vmm"
	"ftvm/vmm/boot"
	"ftvm/vmm/soft"
)

// guestFlags describe the virtual machine. They are the same for every command that runs one.
type guestFlags struct {
	image         imageFlags
	name, mem     string
	engine, clock string
	epoch         uint64
	disks, nets   []string
	digestMemory  uint64
	// replicated is set if the machine is compared with another replica's.
	replicated bool
}

func (g *guestFlags) register(c *cobra.Command) {
	f := c.Flags()
	g.image.register(f)
	f.StringVar(&g.name, "name", "ftvm", "the machine's name, of which its network addresses are made")
	f.StringVar(&g.mem, "mem", "", "guest memory (default: 64M for the embedded guest, 512M for others)")
	f.StringVar(&g.engine, "engine", "auto", "what executes the guest: kvm, soft (a CPU in software: exact, for any guest on any host), or auto")
	f.StringVar(&g.clock, "clock", "", "what positions count: exits or step (slow; for tests) of kvm, instructions of soft")
	f.Uint64Var(&g.epoch, "epoch", 0, "longest epoch, in counts of the clock (default: 1000 exits, 100000000 instructions)")
	f.StringArrayVar(&g.disks, "disk", nil, "disk image, raw: FILE[,shared][,ro][,serial=TEXT], or nbd://HOST[:PORT]/[EXPORT][,ro][,serial=TEXT][,size=SIZE]; may be given more than once")
	f.StringArrayVar(&g.nets, "net", nil, "network interface: tap=NAME[,bridge=NAME][,mac=ADDRESS]; may be given more than once")
	f.Uint64Var(&g.digestMemory, "digest-memory", 1000, "compare all of guest memory once in the length of N epochs (see --epoch); the guest stands meanwhile; 0 is never")
}

// memoryEvery is in how many positions guest memory is compared once.
func (g *guestFlags) memoryEvery() uint64 {
	if over, n := bits.Mul64(g.digestMemory, g.epoch); over == 0 {
		return n
	}
	return 0 // no machine runs for so long
}

// guest is a virtual machine that is ready to run, with its outside halves.
type guest struct {
	machine  *vmm.Machine
	roams    bool // see pair.Options
	mem      []byte
	disks    []host.Storage
	taps     []*host.Tap
	settings []pair.Setting
	// undefined counts the instructions that raised #UD because the engine does not have them; nil if it
	// cannot tell.
	undefined func() map[string]uint64
}

// Guest memory if --mem is not given, in bytes.
const (
	ledgerMem = 64 << 20
	linuxMem  = 512 << 20
)

// build puts the machine together. The calling goroutine is locked to its thread.
func (g *guestFlags) build(log *slog.Logger) (_ *guest, err error) {
	if err := g.checkEngine(); err != nil {
		return nil, err
	}
	size := uint64(0)
	if g.mem != "" {
		if size, err = host.ParseSize(g.mem); err != nil {
			return nil, fmt.Errorf("--mem: %w", err)
		}
	}
	img, err := g.image.read()
	if err != nil {
		return nil, err
	}
	nets, err := g.parseNets()
	if err != nil {
		return nil, err
	}
	specs, err := g.parseDisks()
	if err != nil {
		return nil, err
	}

	v := &guest{}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.close())
		}
	}()
	var config devices.Config
	for _, n := range nets {
		config.NICs = append(config.NICs, devices.NIC{MAC: n.MAC})
	}
	for _, spec := range specs {
		d, err := spec.Open(func(why error) { log.Warn("waiting for "+spec.String(), "reason", why) })
		if err != nil {
			return nil, err
		}
		v.disks = append(v.disks, d)
		config.Disks = append(config.Disks, devices.Disk{SizeBytes: d.Size(), ReadOnly: spec.ReadOnly, Serial: spec.Serial, Shared: spec.Shared})
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if err := g.image.find(&img, v.disks, specs); err != nil {
		return nil, err
	}
	if img.where != "" {
		log.Info("booting from " + img.where)
	}
	kind, why := g.chooseEngine(img.ledger)
	if g.mem == "" {
		size = linuxMem
		if img.ledger {
			size = ledgerMem
		}
	}
	var identities []string
	if g.replicated { // it takes a second for each GiB or so
		if identities, err = identify(v.disks, specs, log); err != nil {
			return nil, err
		}
	}
	if err := v.openTaps(nets); err != nil {
		return nil, err
	}

	mem, unlocked, err := kind.alloc(size)
	if err != nil {
		return nil, fmt.Errorf("--mem %s: %w", host.FormatSize(size), err)
	}
	v.mem = mem
	if unlocked != nil {
		log.Warn(unlocked.Error())
	}
	ram := vmm.NewRAM(mem)
	img.HideRTC = kind.tellsTime
	state, err := boot.Load(ram, img.Image)
	if err != nil && img.where != "" {
		err = fmt.Errorf("%w: it is on %s; %s", err, img.where, giveKernel)
	}
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", img.kernel, err)
	}
	engine, model, err := kind.make(ram, g.clock, log)
	if err != nil {
		return nil, err
	}
	v.machine, v.roams = vmm.NewMachine(engine, ram, devices.New(config, ram)), kind.roams
	if err := engine.SetState(state); err != nil {
		return nil, err
	}
	if c, ok := engine.(*soft.CPU); ok {
		v.undefined = c.Undefined
	}
	v.settings = []pair.Setting{
		{Name: "guest memory", Value: host.FormatSize(size)},
		{Name: "kernel", Value: fmt.Sprintf("%s, sha256 %x", img.kernel, sha256.Sum256(img.Kernel))},
		{Name: "initrd", Value: describe(img.Initrd)},
		{Name: "command line", Value: fmt.Sprintf("%q", img.Cmdline)},
		{Name: "engine", Value: kind.name},
		{Name: "clock", Value: engine.Clock().Name},
		{Name: "epoch length", Value: fmt.Sprint(g.epoch)},
		{Name: "memory digest interval", Value: fmt.Sprint(g.digestMemory)},
		{Name: "number of disks", Value: fmt.Sprint(len(v.disks))},
		{Name: "number of network interfaces", Value: fmt.Sprint(len(nets))},
		{Name: "CPU model", Value: model},
	}
	for i, id := range identities {
		v.settings = append(v.settings, pair.Setting{Name: fmt.Sprintf("disk %d", i), Value: id})
	}
	for i, n := range nets {
		v.settings = append(v.settings, pair.Setting{Name: fmt.Sprintf("network interface %d", i), Value: n.MAC.String()})
	}
	if why != "" {
		why = " (" + why + ")"
	}
	debug.FreeOSMemory() // what unpacking a kernel took is several times what the rest will
	log.Info(fmt.Sprintf("guest: %s, %s of memory, engine %s%s, clock %s", img.kernel, host.FormatSize(size), kind.name, why, engine.Clock().Name))
	return v, nil
}

// shares reports whether other hosts reach a disk.
func (v *guest) shares() bool {
	return slices.ContainsFunc(v.disks, func(d host.Storage) bool { _, shared := d.(pair.SharedDisk); return shared })
}

// close gives everything back, in the order in which it may be given back.
func (v *guest) close() error {
	var errs []error
	if v.machine != nil {
		errs = append(errs, v.machine.Close())
	}
	for _, d := range v.disks {
		errs = append(errs, d.Close())
	}
	for _, t := range v.taps {
		errs = append(errs, t.Close())
	}
	if v.mem != nil {
		errs = append(errs, host.FreeRAM(v.mem))
	}
	return errors.Join(errs...)
}

// registers formats the end of a guest that crashed.
func registers(end vmm.End) string {
	var b bytes.Buffer
	for line := range strings.Lines(end.Detail) {
		b.WriteString("  " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}
