package services

import (
	"context"
	"flag"
	"strings"
	"testing"
	"time"

	"ftvm/test/harness"
)

var soak = flag.String("soak", "", "what the guest does in TestSoak: writes:ROUNDS, or regress:ROUNDS, which is PostgreSQL's regression tests")

// TestPowerOff: nothing dies. When the guest has switched itself off, both images are the same and sound.
func TestPowerOff(t *testing.T) {
	if *kills == 0 {
		t.Skip("it boots a guest, which takes half a minute: ask for it with -kills=N")
	}
	ctx := within(t, limit)
	p := start(ctx, t, args(true)...)
	loads, err := connectLoads(ctx, p.world, *seed)
	check(t, err)
	nothing := make(chan struct{})
	close(nothing)
	check(t, <-runLoads(ctx, loads, nothing))
	check(t, verify(ctx, loads, p.replicas[0]))
	check(t, p.powerOff(ctx, p.replicas[:]...))
	check(t, p.sameImages(ctx))
}

// logLines logs each line that contains text when it comes, until the test ends.
func logLines(ctx context.Context, t *testing.T, s *harness.Stream, text string) {
	ctx, cancel := context.WithCancel(ctx)
	began, ended := time.Now(), make(chan struct{})
	go func() {
		defer close(ended)
		for from := 0; ; {
			l, err := s.Await(ctx, from, func(l harness.Line) bool { return strings.Contains(l.Text, text) })
			if err != nil {
				return
			}
			t.Logf("%.0f s: %s", l.At.Sub(began).Seconds(), l.Text)
			from = l.End
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

// TestSoak: a guest that works for long does so in lockstep: no digest differs, and the images are the same at the end.
func TestSoak(t *testing.T) {
	if *soak == "" {
		t.Skip("it takes as long as the work: ask for it with -soak=regress:N")
	}
	ctx := within(t, 6*time.Hour)
	p := start(ctx, t, "--append", "ftvm.work="+*soak)
	name, _, _ := strings.Cut(*soak, ":")
	logLines(ctx, t, p.replicas[0].Console, "ftvm: work")
	check(t, p.replicas[1].WaitFor(ctx, 0)) // first, as one that diverged ends at once
	check(t, p.replicas[0].WaitFor(ctx, 0))
	done := "ftvm: work " + name + " ended with 0"
	if !strings.Contains(p.replicas[0].Console.String(), done) {
		t.Errorf("the console does not show %q:\n%s", done, p.replicas[0].Console)
	}
	stats, err := p.replicas[1].Stats()
	check(t, err)
	t.Logf("%d instructions in %d epochs, no divergence", stats.Position, stats.Epochs)
	check(t, p.sameImages(ctx))
}
