package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"ftvm/test/harness"
)

// replicatedResult is what replication costs a Linux guest on engine soft.
type replicatedResult struct {
	// TripUs is a round trip between the hosts: two programs, over the loopback interface.
	TripUs float64 `json:"trip_us"`
	// Plain, Replicated and Twice are as in comparison, one of each for each round.
	Plain      []trial `json:"plain"`
	Replicated []trial `json:"replicated"`
	Twice      []trial `json:"plain_twice"`
}

// linuxLoad is one thing that the guest does in task replicated of guests/linux.
type linuxLoad struct {
	name   string // on its console, or of what a client does with it
	title  string
	target float64 // what the ratio should be at most; 0: nothing was promised
}

// Those that the guest begins by itself, in its order.
var guestLoads = []linuxLoad{
	{"int", "compute-bound: integer mix, 4 times", 1.03},
	{"sha", "compute-bound: SHA-256, 128 MiB", 1.03},
	{"getpid", "kernel-heavy: 4*10^6 getpid", 1.05},
	{"fork", "kernel-heavy: 2000 fork and exec", 1.05},
	{"write", "disk write, 512 MiB by 64 KiB", 1.15},
	{"write-flushed", "disk write, 2000 of 4 KiB, each flushed", 1.15},
	{"read", "disk read, 512 MiB by 64 KiB", 1.05},
	{"read-small", "disk read, 10000 of 4 KiB", 1.05},
}

// Those that a client has the guest's server do.
const (
	tripLoad    = "trip"
	sendLoad    = "send"
	receiveLoad = "receive"
	idleLoad    = "idle"
)

var clientLoads = []linuxLoad{
	{sendLoad, "bulk TCP out, 64 MiB", 0},
	{receiveLoad, "bulk TCP in, 64 MiB", 0},
}

// addedTripUs is how much longer a round trip to a replicated guest should take at most, besides one between the hosts.
const addedTripUs = 100

// trial is what one run of the guest showed, or of two that ran at once the slower in each part.
type trial struct {
	// Seconds are what the parts of each load took, LogBytes what the primary sent to its backup meanwhile.
	Seconds  map[string][]float64 `json:"seconds"`
	LogBytes map[string]uint64    `json:"log_bytes"`
	// TripUs is the median of a round trip, SlowTripUs what 99 of 100 do not exceed.
	TripUs     float64 `json:"trip_us"`
	SlowTripUs float64 `json:"slow_trip_us"`
	// IdleCPU are the shares of a CPU that the replicas used while the guest was idle.
	IdleCPU []float64 `json:"idle_cpu"`
	Others  float64   `json:"others_cpu"`
}

// linuxBench runs the guest.
type linuxBench struct {
	lab            *harness.Lab
	kernel, initrd string // paths
	idle           time.Duration
}

// openLinuxBench finds the guest. It returns nil if it cannot be run here.
func openLinuxBench(lab *harness.Lab, p *plan) *linuxBench {
	b, err := findLinux(lab, p)
	if err != nil {
		progress("Linux under replication is left out: %v", err)
	}
	return b
}

func findLinux(lab *harness.Lab, p *plan) (*linuxBench, error) {
	dir, err := filepath.Abs(p.linux)
	if err != nil {
		return nil, err
	}
	b := &linuxBench{lab, filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.gz"), time.Duration(p.idleS) * time.Second}
	for _, path := range []string{b.kernel, b.initrd} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("%w; make guest-linux gets it", err)
		}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces take root")
	}
	return b, nil
}

// compare runs the guest plain and replicated in turns.
func (b *linuxBench) compare(ctx context.Context, p *plan) (r *replicatedResult, err error) {
	r = &replicatedResult{}
	if r.TripUs, err = tripUs(); err != nil {
		return nil, err
	}
	ways := []struct {
		run func(context.Context) (trial, error)
		to  *[]trial
	}{{b.plain, &r.Plain}, {b.replicated, &r.Replicated}, {b.twice, &r.Twice}}
	spare := min(p.spare, p.rounds)
	for round := range p.rounds {
		progress("Linux under replication, round %d of %d", round+1, p.rounds)
		best, err := leastDisturbed(len(ways), &spare, func(t trial) float64 { return t.Others }, func(i int) (trial, error) {
			return ways[i].run(ctx)
		})
		if err != nil {
			return nil, err
		}
		for i, t := range best {
			*ways[i].to = append(*ways[i].to, t)
		}
	}
	return r, nil
}

func (b *linuxBench) plain(ctx context.Context) (trial, error) {
	return b.trial(ctx, func() ([]*site, error) { return b.plains("plain") })
}

func (b *linuxBench) twice(ctx context.Context) (trial, error) {
	return b.trial(ctx, func() ([]*site, error) { return b.plains("plain", "other") })
}

func (b *linuxBench) replicated(ctx context.Context) (trial, error) {
	return b.trial(ctx, func() ([]*site, error) {
		s, err := b.pair(ctx, "replicated")
		return []*site{s}, err
	})
}

// took is how long a load took, in seconds.
func (t trial) took(load string) (sum float64) {
	for _, part := range t.Seconds[load] {
		sum += part
	}
	return sum
}

// trial runs guests to their ends. Of several it gives the slower one's time for each part of a load: replicas go at that speed at best.
func (b *linuxBench) trial(ctx context.Context, start func() ([]*site, error)) (slower trial, err error) {
	ctx, cancel := context.WithTimeout(ctx, linuxTime)
	defer cancel()
	before, err := readUsage()
	if err != nil {
		return slower, err
	}
	sites, err := start()
	defer func() {
		for _, s := range sites {
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, s.transcript())
			}
			err = errors.Join(err, s.close())
		}
	}()
	if err != nil {
		return slower, err
	}
	trials, errs := make([]trial, len(sites)), make(chan error)
	for i, s := range sites {
		go func() { errs <- s.run(ctx, &trials[i], b.idle) }()
	}
	for range sites {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return slower, err
	}
	after, err := readUsage()
	slower = trials[0]
	for _, t := range trials[1:] {
		for load, parts := range slower.Seconds {
			for i := range parts {
				parts[i] = max(parts[i], t.Seconds[load][i])
			}
		}
		slower.TripUs = max(slower.TripUs, t.TripUs)
	}
	slower.Others = others(before, after)
	return slower, err
}

// run follows a guest from its start to its end.
func (s *site) run(ctx context.Context, t *trial, idle time.Duration) error {
	t.Seconds, t.LogBytes = map[string][]float64{}, map[string]uint64{}
	if err := s.watch(ctx, t); err != nil {
		return err
	}
	for _, l := range []struct {
		name string
		do   func(ctx context.Context, t *trial) error
	}{
		{tripLoad, s.trips},
		{sendLoad, s.send},
		{receiveLoad, s.receive},
		{idleLoad, func(ctx context.Context, t *trial) error { return s.idle(ctx, t, idle) }},
	} {
		begin, err := s.mark(time.Now())
		if err != nil {
			return err
		}
		if err := l.do(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		if err := s.add(t, l.name, begin, time.Now()); err != nil {
			return err
		}
	}
	if err := s.quit(ctx); err != nil {
		return err
	}
	for _, p := range s.processes {
		if err := ended(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// watch follows what the guest does by itself, until its server listens.
func (s *site) watch(ctx context.Context, t *trial) error {
	var begin mark
	for from := 0; ; {
		l, err := s.processes[0].Console.Next(ctx, from)
		if err != nil {
			return fmt.Errorf("waiting for the guest's server: %w", err)
		}
		from = l.End
		if l.Text == "io: listening" {
			return nil
		}
		switch m := benchLine.FindStringSubmatch(l.Text); {
		case m == nil:
		case strings.HasSuffix(l.Text, "begin"):
			if begin, err = s.mark(l.At); err != nil {
				return err
			}
		default:
			if err := s.add(t, m[1], begin, l.At); err != nil {
				return err
			}
		}
	}
}

// mark is a moment, and what the primary had sent by then.
type mark struct {
	at   time.Time
	sent uint64
}

func (s *site) mark(at time.Time) (mark, error) {
	sent, err := s.sent()
	return mark{at, sent}, err
}

// add adds what a load, or a part of it, took.
func (s *site) add(t *trial, load string, begin mark, at time.Time) error {
	end, err := s.mark(at)
	if err != nil {
		return err
	}
	t.Seconds[load] = append(t.Seconds[load], end.at.Sub(begin.at).Seconds())
	t.LogBytes[load] += end.sent - begin.sent
	return nil
}

// idle lets time pass.
func (s *site) idle(ctx context.Context, t *trial, d time.Duration) error {
	used := make([]time.Duration, len(s.processes))
	count := func(sign time.Duration) error {
		for i, p := range s.processes {
			c, err := p.CPUTime()
			if err != nil {
				return err
			}
			used[i] += sign * c
		}
		return nil
	}
	if err := count(-1); err != nil {
		return err
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return ctx.Err()
	}
	err := count(1)
	for _, u := range used {
		t.IdleCPU = append(t.IdleCPU, u.Seconds()/d.Seconds())
	}
	return err
}

func (r *replicatedResult) print(out io.Writer) {
	fmt.Fprintf(out, `
Linux on engine soft with %d MiB under replication: plain "ftvm run" against "ftvm primary" with "ftvm backup", in turns, %d times
each; median (lowest to highest). Other programs had %.0f%% of the CPUs meanwhile.

  ratio          of wall times, replicated by plain, of neighbouring runs
  plain twice    two plain guests at once, the slower in each part, by one: what is due to sharing this machine
  by two         replicated by two plain guests at once: what is due to replication
  fastest        the fastest of all replicated parts by the fastest plain one: without what neighbours of this host take
  log            what the primary sends to its backup
  disk           past the guest's cache; this host's cache holds the images

`, linuxMiB, len(r.Plain), 100*quantile(each(append(r.Plain[:len(r.Plain):len(r.Plain)], r.Replicated...), func(t trial) float64 { return t.Others }), 0.5))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "load\tplain, ms\treplicated, ms\tratio\tat most\tplain twice\tby two\tfastest\tlog, bytes/s")
	for _, l := range append(guestLoads[:len(guestLoads):len(guestLoads)], clientLoads...) {
		atMost := "–"
		if l.target != 0 {
			atMost = digits(l.target)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.0f\n", l.title, spreadOf(times(r.Plain, l.name)), spreadOf(times(r.Replicated, l.name)),
			r.ratio(r.Replicated, r.Plain, l.name), atMost, r.ratio(r.Twice, r.Plain, l.name), r.ratio(r.Replicated, r.Twice, l.name), fastest(r.Replicated, l.name)/fastest(r.Plain, l.name), r.log(l.name))
	}
	w.Flush()
	trip := func(t trial) float64 { return t.TripUs }
	plain, replicated := each(r.Plain, trip), each(r.Replicated, trip)
	added := make([]float64, len(plain))
	for i := range added {
		added[i] = replicated[i] - plain[i]
	}
	slow := func(all []trial) float64 {
		return quantile(each(all, func(t trial) float64 { return t.SlowTripUs }), 0.5)
	}
	fmt.Fprintf(out, `
TCP request and response of %d bytes, us: plain %s, replicated %s, added %s, which should be at most %.0f (a round trip
between the hosts, %.0f, and %d). One in a hundred takes %.0f, plain, and %.0f. Log: %.0f bytes/s.
`, tripBytes, spreadOf(plain), spreadOf(replicated), spreadOf(added), r.TripUs+addedTripUs, r.TripUs, addedTripUs, slow(r.Plain), slow(r.Replicated), r.log(tripLoad))
	cpu := func(all []trial, i int) spread {
		return spreadOf(each(all, func(t trial) float64 { return 100 * t.IdleCPU[i] }))
	}
	fmt.Fprintf(out, `
Idle, in %% of a CPU: plain %s, primary %s, backup %s. Log: %.0f bytes/s.
`, cpu(r.Plain, 0), cpu(r.Replicated, 0), cpu(r.Replicated, 1), r.log(idleLoad))
}

// times are what a load took in each trial, in ms.
func times(all []trial, load string) []float64 {
	return each(all, func(t trial) float64 { return 1e3 * t.took(load) })
}

// fastest is what the fastest part of a load took, in any trial.
func fastest(all []trial, load string) float64 {
	var parts []float64
	for _, t := range all {
		parts = append(parts, t.Seconds[load]...)
	}
	return quantile(parts, 0)
}

func (r *replicatedResult) ratio(of, by []trial, load string) spread {
	values := times(of, load)
	for i, ms := range times(by, load) {
		values[i] /= ms
	}
	return spreadOf(values)
}

func (r *replicatedResult) log(load string) float64 {
	return quantile(each(r.Replicated, func(t trial) float64 { return float64(t.LogBytes[load]) / t.took(load) }), 0.5)
}
