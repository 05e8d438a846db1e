package services

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"ftvm/test/harness"
)

var (
	kills = flag.Int("kills", 0, "how many primaries TestKills kills, one after the other")
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano())%1e9, "seed of the first kill; each next one has the next")
)

// scenario is one kill.
type scenario struct {
	seed  uint64
	death death
	// delay is from when all services have been used to the death.
	delay time.Duration
	// writes has the guest write to its disk all the time, besides.
	writes bool
}

// death is how the primary's host dies.
type death string

const (
	// ofProcess is seen at once: the kernel under it closes its connections.
	ofProcess death = "process"
	// ofHost is silent: the cable is pulled, then the process killed.
	ofHost death = "host"
	// alive is that of nobody: what clients see before.
	alive death = "none"
)

// draw draws a scenario from a seed.
func draw(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 0))
	s := scenario{seed: seed, death: ofProcess, delay: time.Duration(r.Int64N(int64(2 * time.Second))), writes: r.IntN(2) == 0}
	if seed%3 == 0 { // one of any three in a row
		s.death = ofHost
	}
	return s
}

func (s scenario) String() string {
	return fmt.Sprintf("death of the primary's %s after %v (the guest writes besides: %t)", s.death, s.delay.Round(time.Millisecond), s.writes)
}

// args are the replicas' for a guest that writes to its disk all the time, or does not.
func args(writes bool) []string {
	if writes {
		return []string{"--append", "ftvm.work=writes"}
	}
	return nil
}

// TestKills: hosts die, and clients of the guest see a pause and nothing else.
func TestKills(t *testing.T) {
	if *kills == 0 {
		t.Skip("each kill boots a guest, which takes half a minute: ask for them with -kills=N")
	}
	path := image(t)
	began := time.Now()
	var all tally
	for i := range *kills {
		s := draw(*seed + uint64(i))
		took := time.Now()
		err := all.add(s, killOnce(path, s))
		t.Logf("seed %d: %s: %.1f s", s.seed, s, time.Since(took).Seconds())
		if err != nil {
			t.Errorf("%v\nrepeat it with: go test ./test/services -v -run TestKills -kills=1 -seed=%d", err, s.seed)
			break
		}
	}
	t.Logf("%s%.1f s for each", &all, time.Since(began).Seconds()/float64(max(1, all.kills)))
}

// outcome is what became of a scenario.
type outcome struct {
	killed time.Time
	loads  []*load
	// detected and firstInstruction are the new primary's, from the death on.
	detected, firstInstruction time.Duration
	err                        error
}

func killOnce(image string, s scenario) (o outcome) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	p, err := startPair(ctx, image, args(s.writes)...)
	if err == nil {
		err = s.run(ctx, p, &o)
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, p.transcript())
	}
	o.err = errors.Join(err, p.remove())
	return o
}

// run kills the primary while all services are in use, and looks at what is left.
func (s scenario) run(ctx context.Context, p *pair, o *outcome) (err error) {
	if o.loads, err = connectLoads(ctx, p.world, s.seed); err != nil {
		return err
	}
	dead, survivor := p.replicas[0], p.replicas[1]
	killed := make(chan struct{})
	failed := runLoads(ctx, o.loads, killed)
	for _, l := range o.loads {
		select {
		case <-l.began:
		case err := <-failed:
			return err
		}
	}
	pass(s.delay)
	if s.death == ofHost {
		if err := p.unplug(0); err != nil {
			return err
		}
	}
	o.killed = dead.Kill()
	close(killed)
	if err := dead.WaitFor(ctx, harness.Killed); err != nil {
		return err
	}
	if err := <-failed; err != nil {
		return err
	}
	if err := errors.Join(verify(ctx, o.loads, survivor), p.powerOff(ctx, survivor)); err != nil {
		return err
	}
	stats, err := survivor.Stats()
	if err != nil {
		return err
	}
	if stats.Takeover == nil {
		return errors.New("the statistics of the survivor report no takeover")
	}
	o.detected = time.Unix(0, stats.Takeover.DetectedNs).Sub(o.killed)
	o.firstInstruction = time.Unix(0, stats.Takeover.FirstInstructionNs).Sub(o.killed)
	if err := errors.Join(fsck(ctx, p.images[1], false), fsck(ctx, p.images[0], true)); err != nil {
		return err
	}
	// So far the guest may have answered out of its memory.
	if err = p.boot(ctx, 1); err == nil {
		err = errors.Join(verify(ctx, o.loads, p.again), p.powerOff(ctx, p.again))
	}
	if err != nil {
		err = fmt.Errorf("booted again from the survivor's image: %w", err)
	}
	return err
}

// verify says whether all that was acknowledged is there, in a guest whose console is p's.
func verify(ctx context.Context, loads []*load, p *harness.Process) error {
	for _, l := range loads {
		if err := l.verify(ctx, l.acked, p); err != nil {
			return fmt.Errorf("%s: after %d were acknowledged: %w", l.name, l.acked, err)
		}
	}
	return nil
}

// runLoads runs all loads. The channel gives what went wrong, once, or nil when all are done.
func runLoads(ctx context.Context, loads []*load, killed <-chan struct{}) <-chan error {
	ctx, cancel := context.WithCancel(ctx)
	each := make(chan error)
	for _, l := range loads {
		go func() { each <- l.run(ctx, killed) }()
	}
	all := make(chan error, 1)
	go func() {
		var first error
		for range loads {
			if err := <-each; err != nil && first == nil {
				first = err
				all <- err
			}
		}
		cancel()
		close(all)
	}()
	return all
}

// tally sums up outcomes.
type tally struct {
	kills, failed int
	rows          []row
}

// row is the times of one kind.
type row struct {
	name  string
	death death
	times []time.Duration
	acked int
}

// add counts an outcome, whose error it returns.
func (a *tally) add(s scenario, o outcome) error {
	a.kills++
	if o.err != nil {
		a.failed++
		return o.err
	}
	a.time("detected", s.death, o.detected, 0)
	a.time("first instruction", s.death, o.firstInstruction, 0)
	for _, l := range o.loads {
		before, after := l.pauses(o.killed)
		a.time(l.name, alive, before, 0)
		a.time(l.name, s.death, after, l.acked)
	}
	return nil
}

func (a *tally) time(name string, d death, t time.Duration, acked int) {
	i := slices.IndexFunc(a.rows, func(r row) bool { return r.name == name && r.death == d })
	if i < 0 {
		i = len(a.rows)
		for j, r := range a.rows { // beside others of that name
			if r.name == name {
				i = j + 1
			}
		}
		a.rows = slices.Insert(a.rows, i, row{name: name, death: d})
	}
	a.rows[i].times = append(a.rows[i].times, t)
	a.rows[i].acked += acked
}

func (a *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d kills, %d with something lost or amiss\n", a.kills, a.failed)
	fmt.Fprintf(&b, "takeover, and longest pause; ms     death    median       p99       max   kills   acknowledged\n")
	for _, r := range a.rows {
		slices.Sort(r.times)
		n := len(r.times)
		ms := func(i int) float64 { return float64(r.times[i]) / float64(time.Millisecond) }
		fmt.Fprintf(&b, "  %-30s %8s  %8.1f  %8.1f  %8.1f  %6d", r.name, r.death, ms(n/2), ms((n*99+99)/100-1), ms(n-1), n)
		if r.acked > 0 {
			fmt.Fprintf(&b, "  %13d", r.acked)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}
