package failover

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	kills = flag.Int("kills", 5, "how many replicas TestKills kills, one after the other")
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano())%1e9, "seed of the first kill; each next one has the next")
)

func TestKills(t *testing.T) {
	begin(t)
	began := time.Now()
	var all tally
	for i := range *kills {
		one := *seed + uint64(i)
		if !killOnce(t, one, &all) {
			break
		}
	}
	t.Logf("%s\n%.1f s for each", &all, time.Since(began).Seconds()/float64(max(1, all.kills)))
}

// killOnce runs the scenario of one seed, and reports whether nothing was lost.
func killOnce(t *testing.T, seed uint64, all *tally) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	s := draw(seed)
	o, pair, err := s.run(ctx)
	all.add(s, o, err == nil)
	if err != nil {
		t.Errorf("seed %d: %s: %v\n%srepeat it with: go test ./test/failover -v -run TestKills -kills=1 -seed=%d",
			seed, s, err, pair.Transcript(), seed)
	}
	if err := pair.Remove(); err != nil {
		t.Error(err)
	}
	return err == nil
}

// tally sums up outcomes.
type tally struct {
	kills, failed                         int
	printed, repeatedBytes, repeatedLines int
	by                                    map[string]int
	detected, firstInstruction, newTxn    []time.Duration
}

func (a *tally) add(s scenario, o outcome, well bool) {
	if a.by == nil {
		a.by = map[string]int{}
	}
	a.kills++
	if !well {
		a.failed++
	}
	a.by[fmt.Sprintf("%s %s", s.victim, s.moment)]++
	a.printed += o.Printed
	a.repeatedBytes += o.RepeatedBytes
	a.repeatedLines += o.RepeatedLines
	if o.detected != 0 {
		a.detected = append(a.detected, o.detected)
		a.firstInstruction = append(a.firstInstruction, o.firstInstruction)
		a.newTxn = append(a.newTxn, o.newTxn)
	}
}

func (a *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d kills, %d with something lost or amiss; %d transactions printed, %d lines (%d bytes) repeated\n",
		a.kills, a.failed, a.printed, a.repeatedLines, a.repeatedBytes)
	for _, what := range slices.Sorted(maps.Keys(a.by)) {
		fmt.Fprintf(&b, "  %4d %s\n", a.by[what], what)
	}
	fmt.Fprintf(&b, "takeovers, from SIGKILL to   median      p99      max   (of %d)\n", len(a.detected))
	for _, row := range []struct {
		name  string
		times []time.Duration
	}{
		{"detected", a.detected},
		{"first instruction", a.firstInstruction},
		{"first new transaction", a.newTxn},
	} {
		if n := len(row.times); n > 0 {
			slices.Sort(row.times)
			ms := func(i int) float64 { return float64(row.times[i]) / float64(time.Millisecond) }
			fmt.Fprintf(&b, "  %-24s %7.2f  %7.2f  %7.2f ms\n", row.name, ms(n/2), ms((n*99+99)/100-1), ms(n-1))
		}
	}
	return b.String()
}
