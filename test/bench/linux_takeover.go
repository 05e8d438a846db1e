package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// errFalseAlarm is returned if a replica declares the other failed, which lives.
var errFalseAlarm = errors.New("a replica was declared failed while it lived: this host is too busy for its heartbeats")

// linuxTakeovers are those of a busy Linux guest.
type linuxTakeovers struct {
	All []linuxTakeover `json:"all"`
	// FalseAlarms is how often a replica was declared failed that lived.
	FalseAlarms int `json:"false_alarms"`
}

// linuxTakeover is one takeover of a busy Linux guest, in ms from the death.
type linuxTakeover struct {
	Death            death   `json:"death"`
	Detected         float64 `json:"detected_ms"`
	FirstInstruction float64 `json:"first_instruction_ms"`
	// Console is when the guest first printed something on the new primary.
	Console float64 `json:"console_ms"`
	Records int     `json:"records"`
	Others  float64 `json:"others_cpu"`
}

// death is how a primary dies.
type death string

const (
	// ofProcess is by SIGKILL: the kernel closes its connection.
	ofProcess death = "process"
	// ofHost is silent, by SIGSTOP: only heartbeats are missing.
	ofHost death = "host"
)

const (
	// Of --heartbeat and --suspect: the defaults.
	linuxHeartbeat = 10 * time.Millisecond
	linuxSuspect   = 5
	// What there should be at most, from the death of the process, and from when a silent one may be declared dead.
	targetTakeoverMs = 20.0
	// linuxKillSpread is over what time kills are spread, after the guest has become busy.
	linuxKillSpread = 100 * time.Millisecond
)

// takeovers kills so many primaries in each way, or fewer if there are as many false alarms.
func (b *linuxBench) takeovers(ctx context.Context, kills int) (*linuxTakeovers, error) {
	r := &linuxTakeovers{}
	for _, d := range []death{ofProcess, ofHost} {
		progress("Linux under replication: %d takeovers, death of the %s", kills, d)
		for i := 0; i < kills && r.FalseAlarms < kills; {
			t, err := b.takeover(ctx, d, linuxKillSpread*time.Duration(i)/time.Duration(kills))
			switch {
			case err == nil:
				r.All = append(r.All, t)
				i++
			case errors.Is(err, errFalseAlarm):
				r.FalseAlarms++
			default:
				return nil, fmt.Errorf("takeover %d: %w", i+1, err)
			}
		}
	}
	return r, nil
}

// takeover kills one primary, so long after its guest has become busy.
func (b *linuxBench) takeover(ctx context.Context, d death, after time.Duration) (t linuxTakeover, err error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	before, err := readUsage()
	if err != nil {
		return t, err
	}
	var impatience []string
	if d == ofHost {
		impatience = []string{"--heartbeat", linuxHeartbeat.String(), "--suspect", fmt.Sprint(linuxSuspect)}
	}
	s, err := b.pair(ctx, "busy", impatience...)
	died := time.Time{}
	defer func() {
		if s != nil {
			switch {
			case err != nil && s.silent(died.IsZero()):
				err = errFalseAlarm
			case err != nil:
				err = fmt.Errorf("%w\n%s", err, s.transcript())
			}
			err = errors.Join(err, s.close())
		}
	}()
	if err != nil {
		return t, err
	}
	primary, backup := s.processes[0], s.processes[1]
	if _, err := primary.Console.AwaitText(ctx, "bench int: begin"); err != nil {
		return t, err
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return t, ctx.Err()
	}
	died = time.Now()
	if d == ofProcess {
		died = primary.Kill()
	} else if err := primary.Signal(unix.SIGSTOP); err != nil {
		return t, err
	}
	line, err := backup.Console.AwaitText(ctx, "bench int: ")
	if err != nil {
		return t, err
	}
	primary.Kill()
	// The line may be one that was left over from before.
	if _, err := backup.Messages.AwaitText(ctx, "this replica is the primary now"); err != nil {
		return t, err
	}
	if err := backup.Signal(unix.SIGTERM); err != nil {
		return t, err
	}
	if err := ended(ctx, backup); err != nil {
		return t, err
	}
	stats, err := backup.Stats()
	if err != nil {
		return t, err
	}
	later, err := readUsage()
	if err != nil {
		return t, err
	}
	since := func(at time.Time) float64 { return ms(at.Sub(died)) }
	t = linuxTakeover{Death: d, Detected: since(time.Unix(0, stats.Takeover.DetectedNs)), Records: stats.Takeover.Records,
		FirstInstruction: since(time.Unix(0, stats.Takeover.FirstInstructionNs)), Console: since(line.At), Others: others(before, later)}
	if t.Detected < 0 {
		return t, errFalseAlarm
	}
	return t, nil
}

// silent tells whether a replica heard nothing of the other, which lived: the backup does all the time, the primary as long as alive
// says so.
func (s *site) silent(alive bool) bool {
	const verdict = "not a word"
	return len(s.processes) > 0 && strings.Contains(s.processes[0].Messages.String(), verdict) ||
		alive && len(s.processes) > 1 && strings.Contains(s.processes[1].Messages.String(), verdict)
}

func (r *linuxTakeovers) print(out io.Writer) {
	bound := ms(linuxHeartbeat * linuxSuspect)
	fmt.Fprintf(out, `
Takeover of a busy guest with %d MiB, 200 of them in use: ms from the death. Other programs had %.0f%% of the CPUs meanwhile.
A silent death may be detected after %v: %d heartbeats of %v. Of fewer than 100 takeovers, p99 is the slowest.
False alarms, after which the run was repeated: %d.

`, linuxMiB, 100*quantile(each(r.All, func(t linuxTakeover) float64 { return t.Others }), 0.5), linuxHeartbeat*linuxSuspect, linuxSuspect, linuxHeartbeat, r.FalseAlarms)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\ttimes\tmedian\tp99\tfastest\tp99, at most")
	for _, d := range []struct {
		death
		name  string
		limit float64
	}{{ofProcess, "SIGKILL", targetTakeoverMs}, {ofHost, "silence", bound + targetTakeoverMs}} {
		some := slices.DeleteFunc(slices.Clone(r.All), func(t linuxTakeover) bool { return t.Death != d.death })
		for _, row := range []struct {
			name  string
			value func(linuxTakeover) float64
			limit string
		}{
			{"detected", func(t linuxTakeover) float64 { return t.Detected }, ""},
			{"records used up, in number", func(t linuxTakeover) float64 { return float64(t.Records) }, ""},
			{"first instruction on the backup", func(t linuxTakeover) float64 { return t.FirstInstruction }, digits(d.limit)},
		} {
			values := each(some, row.value)
			fmt.Fprintf(w, "%s: %s\t%d\t%.1f\t%.1f\t%.1f\t%s\n", d.name, row.name, len(values), quantile(values, 0.5), quantile(values, 0.99), quantile(values, 0), row.limit)
		}
	}
	w.Flush()
}
