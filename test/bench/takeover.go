package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"ftvm/test/harness"
)

// takeovers are times from the SIGKILL of a primary, in ms, in the order of the kills.
type takeovers struct {
	// Detected: the backup declared it failed.
	Detected []float64 `json:"detected_ms"`
	// FirstInstruction: the backup had used up its records, and its guest ran on.
	FirstInstruction []float64 `json:"first_instruction_ms"`
	// NewTxn: a transaction was printed that had not been printed before.
	NewTxn []float64 `json:"new_transaction_ms"`
	Others float64   `json:"others_cpu"`
}

const (
	// takeoverOptions keep the guest busy: about 5 ms of computing, then a write and its flush.
	takeoverOptions = "work=500 period=0 txns=60"
	// takeoverTxn is the transaction after which the primary is killed, and killSpread the
	// time over which the kills are then spread: more than a transaction takes.
	takeoverTxn = 20
	killSpread  = 10 * time.Millisecond
)

func measureTakeovers(ctx context.Context, lab *harness.Lab, p plan) (t *takeovers, err error) {
	t = &takeovers{}
	before, err := readUsage()
	if err != nil {
		return t, err
	}
	progress("%d takeovers", p.kills)
	for i := range p.kills {
		if err := t.measure(ctx, lab, killSpread*time.Duration(i)/time.Duration(p.kills)); err != nil {
			return t, fmt.Errorf("takeover %d: %w", i+1, err)
		}
	}
	after, err := readUsage()
	t.Others = others(before, after)
	return t, err
}

// measure kills one primary, so long after it printed a transaction.
func (t *takeovers) measure(ctx context.Context, lab *harness.Lab, after time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	p, err := lab.StartPair(ctx, harness.PairOptions{Size: diskSize, Args: []string{"--cmdline", takeoverOptions}})
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, p.Transcript())
		}
		err = errors.Join(err, p.Remove())
	}()
	if err != nil {
		return err
	}
	if _, err := p.Primary.AwaitTxn(ctx, takeoverTxn); err != nil {
		return err
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return ctx.Err()
	}
	killed := p.Primary.Kill()
	v, err := lab.Judge(ctx, p, p.Primary)
	if err != nil {
		return err
	}
	stats, err := p.Backup.Stats()
	if err != nil {
		return err
	}
	since := func(at time.Time) float64 { return ms(at.Sub(killed)) }
	t.Detected = append(t.Detected, since(time.Unix(0, stats.Takeover.DetectedNs)))
	t.FirstInstruction = append(t.FirstInstruction, since(time.Unix(0, stats.Takeover.FirstInstructionNs)))
	t.NewTxn = append(t.NewTxn, since(v.NewTxn))
	return nil
}

func (t *takeovers) print(out io.Writer) {
	n := len(t.Detected)
	fmt.Fprintf(out, `
Takeover: ms from SIGKILL of the primary, %d times, in a guest that is busy (%s).
Other programs had %.0f%% of the CPUs meanwhile.
`, n, takeoverOptions, 100*t.Others)
	if n < 100 {
		fmt.Fprintln(out, "Of so few takeovers, p99 is the slowest.")
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tmedian\tp99\tfastest")
	for _, row := range []struct {
		name   string
		values []float64
	}{
		{"detected", t.Detected},
		{"first instruction on the backup", t.FirstInstruction},
		{"first new transaction", t.NewTxn},
	} {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\n", row.name, quantile(row.values, 0.5), quantile(row.values, 0.99), quantile(row.values, 0))
	}
	w.Flush()
}
