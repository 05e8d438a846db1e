package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ftvm/test/harness"
)

// sample is one run of a guest to its end, or the mean of two that ran at once.
type sample struct {
	// TxnMs is how long a transaction took, from the first printed one to the last.
	TxnMs float64 `json:"txn_ms"`
	// Others is the share of the machine's CPUs that other programs had meanwhile.
	Others float64 `json:"others_cpu"`
	// EpochsPerTxn and PositionsPerEpoch tell how long epochs were: they may end before
	// their length, by time or because an input waits.
	EpochsPerTxn      float64 `json:"epochs_per_txn"`
	PositionsPerEpoch float64 `json:"positions_per_epoch"`
	// GateWaitMs is how long the outputs of one transaction waited for their commits, added up.
	GateWaitMs float64 `json:"gate_wait_ms_per_txn"`
	// LogBytesPerS is what the primary sent, by wall time of the guest's life.
	LogBytesPerS float64 `json:"log_bytes_per_second"`
}

// runTime bounds one run of a guest.
const runTime = 2 * time.Minute

// diskSize is that of the images, as for --size.
const diskSize = "16M"

// runner runs guests with images in a directory of its own.
type runner struct {
	lab *harness.Lab
	dir string
}

// way is how a guest is run. It returns the processes whose progress counts, when all have ended.
type way func(r runner, ctx context.Context, args []string) ([]*harness.Process, error)

// sample runs a guest with txns transactions, and measures it; where there are several, their mean.
func (r runner) sample(ctx context.Context, run way, txns int, args ...string) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	before, err := readUsage()
	if err != nil {
		return s, err
	}
	processes, err := run(r, ctx, args)
	if err != nil {
		return s, err
	}
	after, err := readUsage()
	if err != nil {
		return s, err
	}
	for _, p := range processes {
		one, err := measure(p, txns)
		if err != nil {
			return s, fmt.Errorf("%w\n%s", err, p.Transcript())
		}
		s.add(one, 1/float64(len(processes)))
	}
	s.Others = others(before, after)
	return s, nil
}

// plain runs a guest by `ftvm run`.
func (r runner) plain(ctx context.Context, args []string) ([]*harness.Process, error) {
	return r.plains(ctx, []string{"plain"}, args)
}

// twice runs two guests by `ftvm run` at once, which have nothing to do with each other.
func (r runner) twice(ctx context.Context, args []string) ([]*harness.Process, error) {
	return r.plains(ctx, []string{"plain", "other"}, args)
}

func (r runner) plains(ctx context.Context, names []string, args []string) (all []*harness.Process, err error) {
	for _, name := range names {
		image, err := r.image(ctx, name)
		if err != nil {
			return nil, err
		}
		defer os.Remove(image)
		p, err := r.lab.Start(name, append([]string{"run", "--disk", image}, args...)...)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	for _, p := range all {
		if err := ended(ctx, p); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// replicated runs a guest by `ftvm primary` and `ftvm backup`. The primary's progress counts.
func (r runner) replicated(ctx context.Context, args []string) ([]*harness.Process, error) {
	var images [2]string
	for i, name := range []string{"primary", "backup"} {
		image, err := r.image(ctx, name)
		if err != nil {
			return nil, err
		}
		defer os.Remove(image)
		images[i] = image
	}
	primary, addr, err := r.lab.StartPrimary(ctx, images[0], args...)
	if err != nil {
		return nil, err
	}
	backup, err := r.lab.StartBackup(addr, images[1], args...)
	if err != nil {
		return nil, err
	}
	if err := ended(ctx, primary); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, backup.Transcript())
	}
	return []*harness.Process{primary}, ended(ctx, backup)
}

// image makes an empty disk image and returns its path.
func (r runner) image(ctx context.Context, name string) (string, error) {
	path := filepath.Join(r.dir, name+".img")
	return path, r.lab.CreateDisk(ctx, path, diskSize)
}

// ended waits until a guest has switched itself off.
func ended(ctx context.Context, p *harness.Process) error {
	if err := p.WaitFor(ctx, 0); err != nil {
		p.Kill()
		return fmt.Errorf("%w\n%s", err, p.Transcript())
	}
	return nil
}

// measure takes a run's figures from its console and its statistics.
func measure(p *harness.Process, txns int) (s sample, err error) {
	stats, err := p.Stats()
	if err != nil {
		return s, err
	}
	lines := p.Console.Lines(0)
	at := map[uint64]time.Time{}
	for _, l := range lines {
		if t := harness.Txns([]byte(l.Text + "\n")); len(t) == 1 {
			at[t[0].Seq] = l.At
		}
	}
	first, last := at[1], at[uint64(txns)]
	if first.IsZero() || last.IsZero() || len(at) != txns {
		return s, fmt.Errorf("the console shows %d transactions, want %d", len(at), txns)
	}
	n := float64(txns)
	s.TxnMs = ms(last.Sub(first)) / (n - 1)
	s.EpochsPerTxn = float64(stats.Epochs) / n
	s.PositionsPerEpoch = float64(stats.Position) / float64(stats.Epochs)
	s.GateWaitMs = stats.GateWaitSeconds * 1000 / n
	s.LogBytesPerS = float64(stats.ShippedBytes) / lines[len(lines)-1].At.Sub(lines[0].At).Seconds()
	return s, nil
}

// add adds the figures of a run with a weight.
func (s *sample) add(t sample, weight float64) {
	s.TxnMs += weight * t.TxnMs
	s.EpochsPerTxn += weight * t.EpochsPerTxn
	s.PositionsPerEpoch += weight * t.PositionsPerEpoch
	s.GateWaitMs += weight * t.GateWaitMs
	s.LogBytesPerS += weight * t.LogBytesPerS
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
