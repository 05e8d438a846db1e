package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

var (
	seeds     = flag.Uint64("seeds", 5000, "how many seeds TestSeeds runs")
	firstSeed = flag.Uint64("seed", 0, "the first of them")
)

// outcome is what a run of one seed, or of many, came to.
type outcome struct {
	seeds      uint64
	events     uint64
	takeovers  uint64 // backups that took over
	alone      uint64 // primaries that went on alone
	repeated   uint64 // console bytes that left twice, because nobody knew that they had left
	frames     uint64 // frames that left
	again      uint64 // of those, so often again
	violations []string
}

func (o *outcome) add(p outcome) {
	o.seeds += p.seeds
	o.events += p.events
	o.takeovers += p.takeovers
	o.alone += p.alone
	o.repeated += p.repeated
	o.frames += p.frames
	o.again += p.again
}

// runSeed runs the world of a seed to its end.
func runSeed(seed uint64, outside bool, trace func(format string, args ...any)) (o outcome) {
	w := newWorld(seed, trace)
	w.outside = outside
	defer func() {
		if p := recover(); p != nil {
			if trace != nil {
				panic(p) // with its stack
			}
			w.violate("panic: %v", p)
		}
		o = outcome{1, uint64(w.events), count(w.procs[1].alone), count(w.procs[0].alone), w.repeated, uint64(len(w.frames)), w.again, w.violations}
	}()
	w.run()
	if len(w.violations) == 0 {
		w.check()
	}
	return
}

func count(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// search runs seeds from first on, up to n of them or to a violation, on all CPUs. bad is the
// lowest seed with a violation among those that ran, if sum has violations.
func search(first, n uint64, progress func(sum outcome)) (bad uint64, sum outcome) {
	const batch = 256
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := first
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			for next < first+n && len(sum.violations) == 0 {
				from, to := next, min(next+batch, first+n)
				next = to
				mu.Unlock()
				var mine outcome
				seed := from
				for ; seed < to && len(mine.violations) == 0; seed++ {
					o := runSeed(seed, false, nil)
					mine.add(o)
					mine.violations = o.violations
				}
				mu.Lock()
				sum.add(mine)
				if len(mine.violations) > 0 && (len(sum.violations) == 0 || seed-1 < bad) {
					bad, sum.violations = seed-1, mine.violations
				}
				progress(sum)
			}
		})
	}
	wg.Wait()
	return
}

// TestSeeds runs many worlds and looks for a violation. One seed with -v shows all that happens in it.
func TestSeeds(t *testing.T) {
	if *seeds == 1 && testing.Verbose() {
		o := runSeed(*firstSeed, false, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
		if len(o.violations) > 0 {
			t.Fatalf("seed %d: %v", *firstSeed, o.violations)
		}
		return
	}
	start := time.Now()
	told := start
	bad, sum := search(*firstSeed, *seeds, func(sum outcome) {
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			fmt.Fprintf(os.Stderr, "%d of %d seeds, %.0f a second\n", sum.seeds, *seeds, float64(sum.seeds)/time.Since(start).Seconds())
		}
	})
	if len(sum.violations) > 0 {
		t.Fatalf("seed %d: %v\nto see what happened: go test ./test/sim -run TestSeeds -seed=%d -seeds=1 -v", bad, sum.violations, bad)
	}
	t.Logf("%d seeds without a violation, %.0f a second: %d events, %d takeovers, %d primaries that went on alone, %d console bytes repeated, %d frames sent, %d again",
		sum.seeds, float64(sum.seeds)/time.Since(start).Seconds(), sum.events, sum.takeovers, sum.alone, sum.repeated, sum.frames, sum.again)
}

// TestSameSeedSameRun: a seed says everything.
func TestSameSeedSameRun(t *testing.T) {
	for seed := range uint64(20) {
		var runs [2][]string
		for i := range runs {
			runSeed(seed, false, func(format string, args ...any) { runs[i] = append(runs[i], fmt.Sprintf(format, args...)) })
		}
		if len(runs[0]) != len(runs[1]) {
			t.Fatalf("seed %d: %d lines of trace, then %d", seed, len(runs[0]), len(runs[1]))
		}
		for i := range runs[0] {
			if runs[0][i] != runs[1][i] {
				t.Fatalf("seed %d: first %q, then %q", seed, runs[0][i], runs[1][i])
			}
		}
	}
}
