package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ftvm/devices"
	"ftvm/guests/ledger"
	"ftvm/host"
	"ftvm/replica/pair"
	"ftvm/vmm"
	"ftvm/vmm/boot"
	"ftvm/vmm/soft"
)

// guestFlags describe the virtual machine. They are the same for every command that runs one.
type guestFlags struct {
	kernel, initrd, cmdline string
	mem                     string
	engine, clock           string
	epoch                   uint64
	disks                   []string
	digestMemory            uint64
}

func (g *guestFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&g.kernel, "kernel", "", "kernel image: vmlinux, bzImage, PVH or Multiboot ELF (default: the embedded guest \"ledger\")")
	f.StringVar(&g.initrd, "initrd", "", "initial RAM disk")
	f.StringVar(&g.cmdline, "cmdline", "", "kernel command line")
	f.StringVar(&g.mem, "mem", "64M", "guest memory")
	f.StringVar(&g.engine, "engine", "auto", "what executes the guest: kvm, soft (a CPU in software: exact, for any guest on any host), or auto")
	f.StringVar(&g.clock, "clock", "", "what positions count: exits or step (slow; for tests) of kvm, instructions of soft")
	f.Uint64Var(&g.epoch, "epoch", 0, "longest epoch, in counts of the clock (default: 1000 exits, 20000000 instructions)")
	f.StringArrayVar(&g.disks, "disk", nil, "disk image, raw; may be given more than once")
	f.Uint64Var(&g.digestMemory, "digest-memory", 1000, "compare all of guest memory at every N-th boundary; 0 is never")
}

// guest is a virtual machine that is ready to run, with its outside halves.
type guest struct {
	machine  *vmm.Machine
	mem      []byte
	disks    []*host.Disk
	settings []pair.Setting
	// undefined counts the instructions that raised #UD because the engine does not have them; nil if it
	// cannot tell.
	undefined func() map[string]uint64
}

// maxFile bounds what is read as a kernel or initrd, in bytes.
const maxFile = 1 << 31

// build puts the machine together. The calling goroutine is locked to its thread.
func (g *guestFlags) build(log *slog.Logger) (_ *guest, err error) {
	kind, why, err := g.chooseEngine()
	if err != nil {
		return nil, err
	}
	size, err := host.ParseSize(g.mem)
	if err != nil {
		return nil, fmt.Errorf("--mem: %w", err)
	}
	img := boot.Image{Kernel: ledger.ELF, Cmdline: g.cmdline}
	kernel := "the embedded ledger"
	if g.kernel != "" {
		if img.Kernel, err = readImage("--kernel", g.kernel); err != nil {
			return nil, err
		}
		if kernel, err = boot.Identify(img.Kernel); err != nil {
			return nil, fmt.Errorf("--kernel %s: %w", g.kernel, err)
		}
	}
	if g.initrd != "" {
		if img.Initrd, err = readImage("--initrd", g.initrd); err != nil {
			return nil, err
		}
	}

	v := &guest{}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.close())
		}
	}()
	var config devices.Config
	var identities []string
	for i, path := range g.disks {
		if slices.Contains(g.disks[:i], path) {
			return nil, fmt.Errorf("--disk %s is given twice: each disk of the guest needs an image of its own", path)
		}
		d, err := host.OpenDisk(path, host.OpenOptions{})
		if err != nil {
			return nil, err
		}
		v.disks = append(v.disks, d)
		if g.kernel == "" {
			if err := ledger.Check(d, int64(d.Size())); err != nil {
				return nil, fmt.Errorf("disk image %s: %w", path, err)
			}
		}
		id, err := d.Identity(nil)
		if err != nil {
			return nil, err
		}
		config.Disks = append(config.Disks, devices.Disk{SizeBytes: d.Size()})
		identities = append(identities, id.String())
	}
	if g.kernel == "" && len(v.disks) == 0 {
		return nil, errors.New("the ledger guest needs a disk: add --disk IMG (and create one with: ftvm disk create IMG --size 64M)")
	}

	if err := config.Validate(); err != nil {
		return nil, err
	}
	mem, unlocked, err := kind.alloc(size)
	if err != nil {
		return nil, fmt.Errorf("--mem %s: %w", g.mem, err)
	}
	v.mem = mem
	if unlocked != nil {
		log.Warn(unlocked.Error())
	}
	ram := vmm.NewRAM(mem)
	state, err := boot.Load(ram, img)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", kernel, err)
	}
	engine, model, err := kind.make(ram, g.clock)
	if err != nil {
		return nil, err
	}
	v.machine = vmm.NewMachine(engine, ram, devices.New(config, ram))
	if err := engine.SetState(state); err != nil {
		return nil, err
	}
	if c, ok := engine.(*soft.CPU); ok {
		v.undefined = c.Undefined
	}
	v.settings = []pair.Setting{
		{Name: "guest memory", Value: host.FormatSize(size)},
		{Name: "kernel", Value: fmt.Sprintf("%s, sha256 %x", kernel, sha256.Sum256(img.Kernel))},
		{Name: "initrd", Value: describe(img.Initrd)},
		{Name: "command line", Value: fmt.Sprintf("%q", g.cmdline)},
		{Name: "engine", Value: kind.name},
		{Name: "clock", Value: engine.Clock().Name},
		{Name: "epoch length", Value: fmt.Sprint(g.epoch)},
		{Name: "memory digest interval", Value: fmt.Sprint(g.digestMemory)},
		{Name: "number of disks", Value: fmt.Sprint(len(v.disks))},
		{Name: "CPU model", Value: model},
	}
	for i, id := range identities {
		v.settings = append(v.settings, pair.Setting{Name: fmt.Sprintf("disk %d", i), Value: id})
	}
	if why != "" {
		why = " (" + why + ")"
	}
	debug.FreeOSMemory() // what unpacking a kernel took is several times what the rest will
	log.Info(fmt.Sprintf("guest: %s, %s of memory, engine %s%s, clock %s", kernel, host.FormatSize(size), kind.name, why, engine.Clock().Name))
	return v, nil
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
	if v.mem != nil {
		errs = append(errs, host.FreeRAM(v.mem))
	}
	return errors.Join(errs...)
}

func readImage(flag, path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxFile {
		return nil, fmt.Errorf("%s %s: %s is too large", flag, path, host.FormatSize(uint64(info.Size())))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return data, nil
}

func describe(p []byte) string {
	if len(p) == 0 {
		return "none"
	}
	return fmt.Sprintf("sha256 %x", sha256.Sum256(p))
}

// registers formats the end of a guest that crashed.
func registers(end vmm.End) string {
	var b bytes.Buffer
	for line := range strings.Lines(end.Detail) {
		b.WriteString("  " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}
