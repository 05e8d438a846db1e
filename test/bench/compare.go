package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"

	"ftvm/test/harness"
)

// load is something for the guest to do.
type load struct {
	name    string
	engine  string
	options string // of the ledger
	txns    int
	target  float64 // what the ratio should be at most, at the default epoch; 0: nothing was promised
	epochs  []int   // lengths to try
	memory  bool    // images in memory
}

// defaultEpochs is what --epoch is if nobody sets it, by engine.
var defaultEpochs = map[string]int{"kvm": 1000, "soft": 100_000_000}

var decades = []int{10, 100, 1000, 10000}

// The compute-bound guest does about 50 ms of work in ring 3 for each transaction (on engine soft,
// 100 to 200). The disk-bound ones do nothing but write and print; without flush, hardly any time is
// the disk's and all is that of exits.
var loads = []load{
	{name: "compute-bound", engine: "kvm", options: "work=5000 period=0", txns: 24, target: 1.05, epochs: decades},
	{name: "disk, flushed", engine: "kvm", options: "work=0 period=0 flush=1", txns: 600, target: 1.2, epochs: decades},
	{name: "disk, flushed, in memory", engine: "kvm", options: "work=0 period=0 flush=1", txns: 600, epochs: []int{1000}, memory: true},
	{name: "disk, unflushed", engine: "kvm", options: "work=0 period=0 flush=0", txns: 800, target: 1.2, epochs: decades},
	{name: "compute-bound, engine soft", engine: "soft", options: "work=1000 period=0", txns: 24, epochs: []int{100_000_000}},
}

// comparison is what replication costs one load at one epoch length.
type comparison struct {
	Load       string   `json:"load"`
	Engine     string   `json:"engine"`
	Options    string   `json:"options"`
	Epoch      int      `json:"epoch"`
	Default    bool     `json:"default_epoch"`
	Target     float64  `json:"target,omitempty"` // at the default epoch only
	Txns       int      `json:"txns"`
	Plain      []sample `json:"plain"`
	Replicated []sample `json:"replicated"`
	// Twice are two plain guests on this machine at once, at the default epoch only: what sharing
	// it costs without any replication. Two hosts do not pay that.
	Twice []sample `json:"plain_twice,omitempty"`
	// Ratio and Sharing are of times per transaction of neighbouring runs: replicated by
	// plain, and plain twice by plain.
	Ratio   spread  `json:"ratio"`
	Sharing *spread `json:"sharing,omitempty"`
	// ByTwo is replicated by plain twice.
	ByTwo *spread `json:"ratio_by_two,omitempty"`
}

// memoryDir is where files lie in memory.
const memoryDir = "/dev/shm"

func compareAll(ctx context.Context, lab *harness.Lab, p *plan) (all []comparison, err error) {
	for _, l := range loads {
		if !slices.Contains(p.parts, l.engine) {
			continue
		}
		r := runner{lab, lab.Path(".")}
		if l.memory {
			if fs, err := fileSystem(memoryDir); err != nil || fs != "tmpfs" {
				progress("%s: left out, %s is not in memory here", l.name, memoryDir)
				continue
			}
			if r.dir, err = os.MkdirTemp(memoryDir, "ftvm-"); err != nil {
				return nil, err
			}
		}
		some, err := compare(ctx, r, l, p)
		if l.memory {
			err = errors.Join(err, os.RemoveAll(r.dir))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// compare runs one load, plain and replicated in turns, at all its epoch lengths in turns.
func compare(ctx context.Context, r runner, l load, p *plan) ([]comparison, error) {
	txns := l.txns / p.shorten
	args := []string{"--engine", l.engine, "--cmdline", fmt.Sprintf("%s txns=%d", l.options, txns)}
	all := make([]comparison, len(l.epochs))
	for i, epoch := range l.epochs {
		all[i] = comparison{Load: l.name, Engine: l.engine, Options: l.options, Epoch: epoch, Txns: txns}
		if all[i].Default = epoch == defaultEpochs[l.engine]; all[i].Default {
			all[i].Target = l.target
		}
	}
	for round := range p.rounds {
		progress("%s, round %d of %d", l.name, round+1, p.rounds)
		for i := range all {
			if err := all[i].round(ctx, r, args, &p.spare); err != nil {
				return nil, err
			}
		}
	}
	for i := range all {
		c := &all[i]
		c.Ratio = ratios(c.Replicated, c.Plain)
		if c.Twice != nil {
			sharing, byTwo := ratios(c.Twice, c.Plain), ratios(c.Replicated, c.Twice)
			c.Sharing, c.ByTwo = &sharing, &byTwo
		}
	}
	return all, nil
}

// disturbed is the share of the CPUs in the hands of others from which on a round is taken again.
const disturbed = 0.05

// round runs each kind once, one after the other.
func (c *comparison) round(ctx context.Context, r runner, args []string, spare *int) error {
	kinds := []struct {
		run  way
		args []string
		to   *[]sample
	}{
		{runner.plain, args, &c.Plain},
		{runner.replicated, append(args, "--epoch", fmt.Sprint(c.Epoch)), &c.Replicated},
		{runner.twice, args, &c.Twice},
	}
	if !c.Default {
		kinds = kinds[:2]
	}
	best, err := leastDisturbed(len(kinds), spare, func(s sample) float64 { return s.Others }, func(i int) (sample, error) {
		return r.sample(ctx, kinds[i].run, c.Txns, kinds[i].args...)
	})
	for i, s := range best {
		*kinds[i].to = append(*kinds[i].to, s)
	}
	return err
}

// leastDisturbed takes a round of n measurements; while there are spare rounds, again if it was disturbed.
// It returns the least disturbed round.
func leastDisturbed[T any](n int, spare *int, others func(T) float64, run func(i int) (T, error)) (best []T, err error) {
	for least := math.Inf(1); ; *spare-- {
		samples := make([]T, n)
		for i := range samples {
			if samples[i], err = run(i); err != nil {
				return nil, err
			}
		}
		if most := slices.Max(each(samples, others)); most < least {
			best, least = samples, most
		}
		if least <= disturbed || *spare == 0 {
			return best, nil
		}
	}
}

func ratios(of, by []sample) spread {
	values := make([]float64, len(of))
	for i := range values {
		values[i] = of[i].TxnMs / by[i].TxnMs
	}
	return spreadOf(values)
}

func printProgress(out io.Writer, all []comparison) {
	fmt.Fprintf(out, `
What replication costs: time per transaction, plain "ftvm run" against "ftvm primary" with "ftvm backup",
run in turns, %d times each; median (lowest to highest).

  *              the default epoch
  ratio          replicated by plain, of neighbouring runs
  plain twice    two plain guests at once by one, the same way: what is due to sharing this machine
  by two         replicated by two plain guests at once: what is due to replication
  epochs/txn     epochs end before their length for an input, or by --epoch-time
  gate wait      of all outputs of a transaction, added up; most wait while the guest goes on

`, len(all[0].Plain))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "load\tepoch\tplain ms\treplicated ms\tratio\ttarget\tplain twice\tby two\tepochs/txn\tpositions/epoch\tgate wait ms\tCPU of others")
	for i := range all {
		all[i].print(w)
	}
	w.Flush()
}

func (c *comparison) print(w io.Writer) {
	median := func(f func(sample) float64) float64 { return quantile(each(c.Replicated, f), 0.5) }
	txn := func(s sample) float64 { return s.TxnMs }
	mark, target, sharing, byTwo := "", "", "", ""
	if c.Default {
		mark = "*"
	}
	if c.Target != 0 {
		target = fmt.Sprintf("%.2f", c.Target)
	}
	if c.Sharing != nil {
		sharing, byTwo = c.Sharing.String(), c.ByTwo.String()
	}
	fmt.Fprintf(w, "%s\t%d%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%.1f\t%.2f\t%.0f%%\n", c.Load, c.Epoch, mark,
		spreadOf(each(c.Plain, txn)), spreadOf(each(c.Replicated, txn)), c.Ratio, target, sharing, byTwo,
		median(func(s sample) float64 { return s.EpochsPerTxn }),
		median(func(s sample) float64 { return s.PositionsPerEpoch }),
		median(func(s sample) float64 { return s.GateWaitMs }),
		100*quantile(each(append(c.Plain, c.Replicated...), func(s sample) float64 { return s.Others }), 0.5))
}
