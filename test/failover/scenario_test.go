package failover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"ftvm/test/harness"
)

// scenario is one kill.
type scenario struct {
	victim victim
	moment moment
	// skip is how many transactions, or for midWrite how many writes, go by first.
	skip int
	// delay is from then to the kill; for midTakeover from the primary's kill to the backup's.
	delay time.Duration
	// network is how long the replicas' words to each other take.
	network time.Duration
	args    []string
}

type victim string

const (
	primary victim = "primary"
	backup  victim = "backup"
	// both is the primary, and then the backup while it takes over.
	both victim = "both"
)

type moment string

const (
	// midEpoch: some time after the start, which includes the guest's boot.
	midEpoch moment = "mid-epoch"
	// midWrite: right after a write to the victim's image, so before its flush is complete.
	midWrite moment = "mid-disk-write"
	// idle: while the guest is halted between two transactions.
	idle moment = "idle"
	// midTakeover: while the backup takes over.
	midTakeover moment = "mid-takeover"
)

// draw draws a scenario from a seed.
func draw(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 0))
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	s := scenario{victim: primary}
	if r.IntN(3) == 0 {
		s.victim = backup
	}
	work, period := pick(r, 0, 50, 500), pick(r, 0, 1, 3)
	switch s.moment = pick(r, midEpoch, midWrite, idle, midTakeover); s.moment {
	case midEpoch:
		s.delay = upTo(300 * time.Millisecond)
	case midWrite:
		s.skip, s.delay = r.IntN(20), pick(r, 0, upTo(100*time.Microsecond), upTo(2*time.Millisecond))
	case idle:
		work, period = 0, 30
		s.skip, s.delay = 1+r.IntN(2), 10*time.Millisecond+upTo(280*time.Millisecond)
	case midTakeover:
		s.victim = both
		s.skip, s.delay = 1+r.IntN(10), upTo(15*time.Millisecond)
	}
	s.network = pick(r, 0, 0, upTo(10*time.Millisecond))
	flush, epoch, commit := pick(r, 0, 1, 1, 1), pick(r, 100, 1000, 10000), pick(r, "held", "held", "verified")
	engine := pick(r, "kvm", "kvm", "soft")
	if engine == "soft" {
		epoch *= 1000 // instructions, not exits
	}
	s.args = []string{
		"--cmdline", fmt.Sprintf("work=%d period=%d flush=%d", work, period, flush),
		"--engine", engine, "--epoch", fmt.Sprint(epoch), "--commit", commit,
	}
	return s
}

func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

func (s scenario) String() string {
	return fmt.Sprintf("kill %s %s (after %d, %v later; network %v) %q", s.victim, s.moment, s.skip, s.delay, s.network, s.args)
}

// outcome is what became of a scenario in which nothing was lost.
type outcome struct {
	harness.Verdict
	// The times of a takeover, from the primary's kill on; zero without one, and where our own
	// network is in between.
	detected, firstInstruction, newTxn time.Duration
}

// more is how many transactions the survivor must make.
const more = 3

// start starts the pair. On an error it may hold what was started.
func (s scenario) start(ctx context.Context) (*harness.Pair, error) {
	return lab.StartPair(ctx, harness.PairOptions{Size: "8M", Delay: s.network, Args: s.args})
}

// run runs a scenario to its end. The pair is for the report if there is an error.
func (s scenario) run(ctx context.Context) (outcome, *harness.Pair, error) {
	p, err := s.start(ctx)
	if err != nil {
		return outcome{}, p, err
	}
	o, err := s.kill(ctx, p)
	return o, p, err
}

func (s scenario) kill(ctx context.Context, p *harness.Pair) (o outcome, err error) {
	if err := s.await(ctx, p); err != nil {
		return o, err
	}
	if s.moment != midTakeover {
		pass(s.delay)
	}
	if s.victim == backup {
		return s.killBackup(ctx, p)
	}
	dies, survivor := p.Primary, p.Backup
	killed := dies.Kill()
	if s.moment == midTakeover {
		pass(s.delay)
		survivor.Kill()
	}
	if err := dies.WaitFor(ctx, harness.Killed); err != nil {
		return o, err
	}
	if s.moment == midTakeover {
		o.Verdict, err = lab.JudgeBoth(ctx, p)
		return o, err
	}
	if err := finish(ctx, p, dies, survivor); err != nil {
		return o, err
	}
	if o.Verdict, err = lab.Judge(ctx, p, dies); err != nil || s.network > 0 {
		return o, err
	}
	stats, err := survivor.Stats()
	if err != nil {
		return o, err
	}
	o.detected = time.Unix(0, stats.Takeover.DetectedNs).Sub(killed)
	o.firstInstruction = time.Unix(0, stats.Takeover.FirstInstructionNs).Sub(killed)
	o.newTxn = o.NewTxn.Sub(killed)
	return o, nil
}

// killBackup kills the backup. If that was before the guest's first instruction, the primary waits for another
// backup: it comes, and is killed later.
func (s scenario) killBackup(ctx context.Context, p *harness.Pair) (o outcome, err error) {
	read := 0 // bytes of the primary's messages
	for delay := s.delay; ; {
		p.Backup.Kill()
		if err := p.Backup.WaitFor(ctx, harness.Killed); err != nil {
			return o, err
		}
		another := false
		l, err := p.Primary.Messages.Await(ctx, read, func(l harness.Line) bool {
			another = strings.Contains(l.Text, "waiting for another backup")
			return another || strings.Contains(l.Text, "going on alone")
		})
		if err != nil {
			return o, fmt.Errorf("awaiting that the primary misses its backup: %w", err)
		}
		if !another {
			break
		}
		read = l.End
		if err := lab.AddBackup(ctx, p); err != nil {
			return o, err
		}
		delay += 2*s.network + time.Millisecond
		pass(delay)
	}
	if err := finish(ctx, p, p.Backup, p.Primary); err != nil {
		return o, err
	}
	o.Verdict, err = lab.Judge(ctx, p, p.Backup)
	return o, err
}

// await waits until the guest has done what is to go before the kill.
func (s scenario) await(ctx context.Context, p *harness.Pair) error {
	switch s.moment {
	case idle, midTakeover:
		_, err := p.Primary.AwaitTxn(ctx, uint64(s.skip))
		return err
	case midWrite:
		image := p.Images[0]
		if s.victim == backup {
			image = p.Images[1]
		}
		return awaitWrites(ctx, image, s.skip+1)
	}
	return nil
}

func awaitWrites(ctx context.Context, image string, n int) error {
	w, err := harness.NewWatch(image)
	if err != nil {
		return err
	}
	defer w.Close()
	for range n {
		if err := w.Await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// finish lets the survivor make some transactions and then stop.
func finish(ctx context.Context, p *harness.Pair, dead, survivor *harness.Process) error {
	alone := "going on alone"
	if dead == p.Primary {
		alone = "is the primary now"
	}
	if _, err := survivor.Messages.AwaitText(ctx, alone); err != nil {
		return err
	}
	var last uint64
	for _, r := range []*harness.Process{dead, survivor} {
		if txns := harness.Txns(r.Console.Bytes()); len(txns) > 0 {
			last = max(last, txns[len(txns)-1].Seq)
		}
	}
	if _, err := survivor.AwaitTxn(ctx, last+more); err != nil {
		return err
	}
	return survivor.Type("stop")
}

// pass lets a drawn time pass. It is not a wait for anything: it chooses the moment.
func pass(d time.Duration) { <-time.After(d) }
