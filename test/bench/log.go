package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"ftvm/test/harness"
)

// logRate is how much the primary sends to its backup.
type logRate struct {
	Load       string  `json:"load"`
	BytesPerS  float64 `json:"bytes_per_second"`
	EpochsPerS float64 `json:"epochs_per_second"`
}

// logRates tells of the busy guests that were compared, at the default epoch, and watches an idle one.
func logRates(ctx context.Context, lab *harness.Lab, p plan, busy []comparison) (all []logRate, err error) {
	for _, c := range busy {
		if !c.Default {
			continue
		}
		median := func(f func(sample) float64) float64 { return quantile(each(c.Replicated, f), 0.5) }
		all = append(all, logRate{Load: c.Load,
			BytesPerS:  median(func(s sample) float64 { return s.LogBytesPerS }),
			EpochsPerS: median(func(s sample) float64 { return s.EpochsPerTxn / s.TxnMs * 1000 })})
	}
	progress("an idle guest")
	idle, err := watchIdle(ctx, lab, time.Duration(p.idleS)*time.Second)
	if err != nil {
		return nil, fmt.Errorf("idle: %w", err)
	}
	return append(all, idle), nil
}

// watchIdle lets a guest do nothing but answer its timer, 100 times a second.
func watchIdle(ctx context.Context, lab *harness.Lab, d time.Duration) (r logRate, err error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	p, err := lab.StartPair(ctx, harness.PairOptions{Size: diskSize, Args: []string{"--cmdline", "work=0 period=100000000"}})
	if err != nil {
		return r, err
	}
	defer p.Remove()
	began, err := p.Primary.AwaitTxn(ctx, 1)
	if err != nil {
		return r, err
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if err := p.Primary.Type("stop"); err != nil {
		return r, err
	}
	for _, q := range []*harness.Process{p.Primary, p.Backup} {
		if err := ended(ctx, q); err != nil {
			return r, err
		}
	}
	lines := p.Primary.Console.Lines(0)
	s := lines[len(lines)-1].At.Sub(began.At).Seconds()
	stats, err := p.Primary.Stats()
	if err != nil {
		return r, err
	}
	return logRate{Load: "idle", BytesPerS: float64(stats.ShippedBytes) / s, EpochsPerS: float64(stats.Epochs) / s}, nil
}

func printLog(out io.Writer, all []logRate) {
	fmt.Fprint(out, "\nThe log: what the primary sends to its backup, heartbeats included, at the default epoch.\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "load\tbytes/s\tepochs/s")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\n", r.Load, r.BytesPerS, r.EpochsPerS)
	}
	w.Flush()
}
