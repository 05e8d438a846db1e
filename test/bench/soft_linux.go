package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"ftvm/devices"
	"ftvm/host"
	"ftvm/test/harness"
	"ftvm/vmm"
	"ftvm/vmm/boot"
)

// linuxResult is Debian's kernel on engine soft and on QEMU.
type linuxResult struct {
	Kernel string `json:"kernel"`
	QEMU   string `json:"qemu,omitempty"` // empty: it is not here, and nothing is compared
	Races  []race `json:"races"`
	// MemoryMiB is what each ftvm had resident beyond the guest's memory, at most, as far as that was seen.
	MemoryMiB []float64 `json:"memory_mib"`
	Others    []float64 `json:"others_cpu"` // during each run
}

// race is the time that one load took on each system.
type race struct {
	Load string `json:"load"`
	// Instructions is how many engine soft retires for it.
	Instructions uint64 `json:"instructions"`
	// Seconds are by system, in the order of the rounds.
	Seconds map[string][]float64 `json:"seconds"`
}

const (
	bootLoad = "boot to init"
	// unpackLoad is the boot of a bzImage, which in QEMU unpacks itself. ftvm always unpacks it for the guest.
	unpackLoad = "the same, bzImage"
)

// benchLoads are those of guests/linux/src/bench.c.
var benchLoads = []string{"int", "sha", "chase-cached", "chase-memory", "getpid", "fork"}

// contestant is a system, and what it runs.
type contestant struct {
	system string
	boot   string   // which load its boot is
	task   string   // of guests/linux/init
	loads  []string // that the task does
}

const (
	softSystem   = "soft"
	icountSystem = "QEMU icount"
	plainSystem  = "QEMU"
)

// contestants take turns in this order; without QEMU there is only the first.
var contestants = []contestant{
	{softSystem, bootLoad, "bench", benchLoads},
	{icountSystem, bootLoad, "bench", benchLoads},
	{plainSystem, bootLoad, "bench", benchLoads},
	{icountSystem, unpackLoad, "poweroff", nil},
	{plainSystem, unpackLoad, "poweroff", nil},
}

const (
	linuxMiB  = 512
	linuxTime = 10 * time.Minute // bounds one run
	// linuxCmdline has both machines do without what only QEMU's has: APIC and ACPI.
	linuxCmdline = "console=ttyS0 noapic nolapic acpi=off pci=conf1 reboot=k panic=-1 ftvm.task="

	qemu = "qemu-system-x86_64"
	// qemuCPU is x86-64-v2 in the family and model of engine soft's CPU, by which the kernel knows that there is
	// no speculation to work around.
	qemuCPU = "Nehalem,model=28,stepping=10,+rdtscp,+pdpe1gb,+erms"
)

// linuxGuest is what `make guest-linux` makes.
type linuxGuest struct {
	image                    boot.Image
	bzImage, vmlinux, initrd string // paths
	name, qemuVersion        string
}

func openLinux(ctx context.Context, lab *harness.Lab, dir string) (g *linuxGuest, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	g = &linuxGuest{bzImage: filepath.Join(dir, "vmlinuz"), vmlinux: lab.Path("vmlinux"), initrd: filepath.Join(dir, "initrd.gz")}
	if g.image.Kernel, err = os.ReadFile(g.bzImage); err != nil {
		return nil, err
	}
	if g.image.Initrd, err = os.ReadFile(g.initrd); err != nil {
		return nil, err
	}
	if g.name, err = boot.Identify(g.image.Kernel); err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, qemu, "--version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		progress("Linux on engine soft is compared with nothing: there is no %s; Debian's package is qemu-system-x86", qemu)
		return g, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", qemu, err)
	}
	g.qemuVersion, _, _ = strings.Cut(string(version), "\n")
	vmlinux, err := boot.Vmlinux(g.image.Kernel, linuxMiB<<20)
	if err != nil {
		return nil, err
	}
	return g, os.WriteFile(g.vmlinux, vmlinux, 0o644)
}

// measure runs the guest on all systems in turns.
func (g *linuxGuest) measure(ctx context.Context, lab *harness.Lab, p *plan) (*linuxResult, error) {
	r := &linuxResult{Kernel: g.name, QEMU: g.qemuVersion}
	for _, load := range append([]string{bootLoad, unpackLoad}, benchLoads...) {
		r.Races = append(r.Races, race{Load: load, Seconds: map[string][]float64{}})
	}
	takePart := contestants
	if g.qemuVersion == "" {
		takePart = contestants[:1]
	}
	var runs []linuxRun
	spare := p.rounds / 2 // a round takes a minute
	for round := range p.rounds {
		progress("Linux on engine soft and QEMU, round %d of %d", round+1, p.rounds)
		var err error
		runs, err = leastDisturbed(len(takePart), &spare, func(r linuxRun) float64 { return r.others }, func(i int) (linuxRun, error) {
			return g.run(ctx, lab, takePart[i])
		})
		if err != nil {
			return nil, err
		}
		runs[0].seconds[unpackLoad] = runs[0].seconds[bootLoad]
		for i, run := range runs {
			c := takePart[i]
			if len(c.loads) > 0 && !slices.Equal(run.results, runs[0].results) {
				return nil, fmt.Errorf("the loads compute %q on %s, and %q on %s", runs[0].results, softSystem, run.results, c.system)
			}
			for _, l := range r.Races {
				if s, ok := run.seconds[l.Load]; ok {
					l.Seconds[c.system] = append(l.Seconds[c.system], s)
				}
			}
			r.Others = append(r.Others, run.others)
		}
		if peak := runs[0].peak; peak != 0 {
			r.MemoryMiB = append(r.MemoryMiB, float64(peak)/(1<<20))
		}
	}
	progress("Linux on engine soft, counting instructions")
	t, err := g.count(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(t.results, runs[0].results) {
		return nil, fmt.Errorf("the loads compute %q, and %q in another run on engine soft", runs[0].results, t.results)
	}
	t.begin[unpackLoad], t.end[unpackLoad] = t.begin[bootLoad], t.end[bootLoad]
	for i := range r.Races {
		l := &r.Races[i]
		l.Instructions = uint64(t.end[l.Load] - t.begin[l.Load])
	}
	return r, nil
}

// linuxRun is what one run showed.
type linuxRun struct {
	seconds map[string]float64 // by load
	results []string
	peak    uint64 // bytes resident at most, without the guest's memory, as far as it was seen
	others  float64
}

func (g *linuxGuest) run(ctx context.Context, lab *harness.Lab, c contestant) (r linuxRun, err error) {
	ctx, cancel := context.WithTimeout(ctx, linuxTime)
	defer cancel()
	before, err := readUsage()
	if err != nil {
		return r, err
	}
	t := newTimeline(time.Now())
	p, err := g.start(lab, c)
	if err != nil {
		return r, err
	}
	peak := peakMemory(p)
	if err := ended(ctx, p); err != nil {
		return r, err
	}
	r.peak = <-peak
	after, err := readUsage()
	if err != nil {
		return r, err
	}
	for _, l := range p.Console.Lines(0) {
		t.line(l.Text, l.At)
	}
	r.seconds, r.results, r.others = map[string]float64{}, t.results, others(before, after)
	for _, load := range append([]string{bootLoad}, c.loads...) {
		from, to := t.begin[load], t.end[load]
		if from.IsZero() || to.IsZero() {
			return r, fmt.Errorf("the console does not show %q from beginning to end\n%s", load, p.Transcript())
		}
		if load == bootLoad {
			load = c.boot
		}
		r.seconds[load] = to.Sub(from).Seconds()
	}
	return r, nil
}

// peakMemory watches the memory of a process until it has ended, and then sends the most that it saw.
func peakMemory(p *harness.Process) <-chan uint64 {
	most := make(chan uint64, 1)
	go func() {
		var peak uint64
		for range time.Tick(50 * time.Millisecond) {
			now, err := p.Memory()
			if err != nil || now == 0 { // a process that has ended has none
				break
			}
			peak = max(peak, now)
		}
		most <- peak
	}()
	return most
}

func (g *linuxGuest) start(lab *harness.Lab, c contestant) (*harness.Process, error) {
	if c.system == softSystem {
		return lab.Start(c.system, "run", "--engine", "soft", "--mem", fmt.Sprintf("%dM", linuxMiB),
			"--kernel", g.bzImage, "--initrd", g.initrd, "--cmdline", linuxCmdline+c.task)
	}
	kernel := g.vmlinux
	if c.boot == unpackLoad {
		kernel = g.bzImage
	}
	args := []string{"-accel", "tcg", "-cpu", qemuCPU, "-m", fmt.Sprint(linuxMiB), "-nodefaults", "-display", "none",
		"-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", g.initrd, "-append", linuxCmdline + c.task}
	if c.system == icountSystem {
		args = append(args, "-icount", "shift=0")
	}
	return lab.StartProgram(c.system, qemu, args...)
}

// timeline tells where on the guest's console loads begin and end, in time or in positions.
type timeline[T any] struct {
	begin, end map[string]T
	results    []string
}

// newTimeline is that of a guest that starts.
func newTimeline[T any](start T) timeline[T] {
	return timeline[T]{begin: map[string]T{bootLoad: start}, end: map[string]T{}}
}

var benchLine = regexp.MustCompile(`^bench (\S+): (?:begin|end, .* result (\d+))$`)

func (t *timeline[T]) line(text string, at T) {
	m := benchLine.FindStringSubmatch(text)
	switch {
	case strings.HasPrefix(text, "ftvm: init, "):
		t.end[bootLoad] = at
	case m == nil:
	case m[2] == "":
		t.begin[m[1]] = at
	default:
		t.end[m[1]] = at
		t.results = append(t.results, m[1]+" "+m[2])
	}
}

// count runs the guest in this process, to know the positions of what it prints. Guest time is a function of
// the position alone, so that every such run is the same; a run in real time differs by its timer interrupts.
func (g *linuxGuest) count(ctx context.Context) (t timeline[vmm.Position], err error) {
	mem, err := host.AllocRAM(linuxMiB << 20)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, host.FreeRAM(mem)) }()
	image := g.image
	image.Cmdline = linuxCmdline + "bench"
	m, err := softMachine(mem, image, devices.Config{})
	if err != nil {
		return t, err
	}
	defer m.Close()
	t = newTimeline(m.Position())
	var console []byte
	watch := func() bool {
		for _, o := range m.Outputs(nil) {
			console = append(console, o.Data...)
		}
		for {
			line, rest, whole := bytes.Cut(console, []byte("\n"))
			if !whole {
				return false
			}
			t.line(strings.TrimRight(string(line), "\r"), m.Position())
			console = rest
		}
	}
	const epoch = 10_000_000
	for ctx.Err() == nil {
		reason, err := m.Run(m.Position()+epoch, watch)
		if err != nil {
			return t, err
		}
		if end, ended := m.End(); ended && end.Kind == vmm.EndPowerOff {
			return t, nil
		} else if ended {
			return t, fmt.Errorf("the guest ended: %s", end)
		}
		now := m.Time()
		if due, ok := m.Deadline(); ok && reason == vmm.StopHalted {
			now = max(now, due)
		}
		var inputs []vmm.Input
		if n := m.EntropyWanted(); n > 0 {
			inputs = []vmm.Input{{Kind: vmm.InputEntropy, Data: make([]byte, n)}}
		}
		if err := m.Apply(now, m.Clock().Rate(), inputs); err != nil {
			return t, err
		}
	}
	return t, ctx.Err()
}

// targets are what engine soft should reach at least, in MIPS; no other load has one.
var targets = map[string]float64{bootLoad: targetBootMIPS, "int": targetHotMIPS, "sha": targetHotMIPS, "chase-cached": targetHotMIPS}

func (r *linuxResult) print(out io.Writer) {
	fmt.Fprintf(out, `
Engine soft: %s with %d MiB, in turns with
%s, %d times each; wall time, median (lowest to highest).
Other programs had %.0f%% of the CPUs meanwhile.

  million        instructions, counted in a run of their own
  MIPS           of these, on engine soft
  QEMU icount    -accel tcg -icount shift=0
  ratio          of times, engine soft by QEMU icount, in the same round
  QEMU           -accel tcg
  bzImage        unpacks itself in QEMU; for the other rows QEMU is given what is in it

`, r.Kernel, linuxMiB, cmp.Or(r.QEMU, "nothing, because QEMU is not here"), len(r.Races[0].Seconds[softSystem]), 100*quantile(r.Others, 0.5))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "load\tmillion\tsoft, s\tMIPS\tat least\tQEMU icount, s\tratio\tat most\tQEMU, s")
	for _, l := range r.Races {
		atLeast, atMost := "", ""
		if mips, ok := targets[l.Load]; ok {
			atLeast = fmt.Sprintf("%.0f", mips)
		}
		if l.Load == bootLoad {
			atMost = digits(targetBootRatio)
		}
		fmt.Fprintf(w, "%s\t%.1f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Load, l.million(), l.seconds(softSystem), l.mips(), atLeast,
			l.seconds(icountSystem), l.ratio(), atMost, l.seconds(plainSystem))
	}
	w.Flush()
}

func (l *race) million() float64 { return float64(l.Instructions) / 1e6 }

func (l *race) mips() spread {
	return spreadOf(each(l.Seconds[softSystem], func(s float64) float64 { return l.million() / s }))
}

// seconds shows the times on one system.
func (l *race) seconds(system string) string {
	if len(l.Seconds[system]) == 0 {
		return "–"
	}
	return spreadOf(l.Seconds[system]).String()
}

// ratio shows how much longer engine soft takes than QEMU.
func (l *race) ratio() string {
	values := slices.Clone(l.Seconds[softSystem])
	for i, s := range l.Seconds[icountSystem] {
		values[i] /= s
	}
	if len(l.Seconds[icountSystem]) == 0 {
		return "–"
	}
	return spreadOf(values).String()
}
