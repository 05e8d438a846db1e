package failover

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/test/harness"
)

// start starts a pair with a guest's options.
func start(ctx context.Context, t *testing.T, cmdline string) *harness.Pair {
	t.Helper()
	return startFor(ctx, t, scenario{args: []string{"--cmdline", cmdline}})
}

// startFor starts the pair of a scenario; if the test fails, its report shows what both said.
func startFor(ctx context.Context, t *testing.T, s scenario) *harness.Pair {
	t.Helper()
	p, err := s.start(ctx)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Transcript())
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	check(t, err)
	return p
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// said fails the test if p did not say text.
func said(t *testing.T, p *harness.Process, text string) {
	t.Helper()
	if !strings.Contains(p.Messages.String(), text) {
		t.Errorf("%s does not say %q", p.Name, text)
	}
}

func notSaid(t *testing.T, p *harness.Process, text string) {
	t.Helper()
	if strings.Contains(p.Messages.String(), text) {
		t.Errorf("%s says %q", p.Name, text)
	}
}

func awaitTxn(ctx context.Context, t *testing.T, p *harness.Process, seq uint64) {
	t.Helper()
	_, err := p.AwaitTxn(ctx, seq)
	check(t, err)
}

// TestPowerOff: the guest's end is the end of both, with the same image.
func TestPowerOff(t *testing.T) {
	ctx := begin(t)
	p := start(ctx, t, "period=1")
	awaitTxn(ctx, t, p.Primary, 5)
	check(t, p.Primary.Type("stop"))
	for _, r := range []*harness.Process{p.Primary, p.Backup} {
		check(t, r.WaitFor(ctx, 0))
		said(t, r, "the guest ended: power-off")
		notSaid(t, r, "taking over")
	}
	check(t, harness.SameImage(p.Images[0], p.Images[1]))
	if n := p.Backup.Console.Len(); n != 0 {
		t.Errorf("the backup printed %d bytes on the console, want none", n)
	}
}

// TestGuestCrash: a triple fault is the guest's own. Both replicas tell of it, alike, and nobody
// takes over.
func TestGuestCrash(t *testing.T) {
	ctx := begin(t)
	p := start(ctx, t, "period=1")
	awaitTxn(ctx, t, p.Primary, 5)
	check(t, p.Primary.Type("crash"))
	var reports [2][]string
	for i, r := range []*harness.Process{p.Primary, p.Backup} {
		check(t, r.WaitFor(ctx, 101))
		notSaid(t, r, "taking over")
		reports[i] = crashReport(r)
	}
	if !slices.Equal(reports[0], reports[1]) {
		t.Errorf("the replicas report the crash differently:\n%q\n%q", reports[0], reports[1])
	}
	text := strings.Join(reports[0], "\n")
	for _, want := range []string{`position [0-9]+`, `(?i)rip`, `(?i)rsp`, `(?i)cr3`} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the report of the crash shows no %s:\n%s", want, text)
		}
	}
	check(t, harness.SameImage(p.Images[0], p.Images[1]))
}

// crashReport is what ftvm said from the crash on.
func crashReport(p *harness.Process) (lines []string) {
	for _, l := range p.Messages.Lines(0) {
		if len(lines) > 0 || strings.Contains(l.Text, "the guest ended") {
			lines = append(lines, l.Text)
		}
	}
	return lines
}

// TestPrimaryLeaves: an operator who stops the primary hands over to the backup, which need not
// suspect anything first.
func TestPrimaryLeaves(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			ctx := begin(t)
			p := start(ctx, t, "period=1")
			awaitTxn(ctx, t, p.Primary, 5)
			sent := time.Now()
			check(t, p.Primary.Signal(sig))
			check(t, p.Primary.WaitFor(ctx, 0))
			check(t, finish(ctx, p, p.Primary, p.Backup))
			v, err := lab.Judge(ctx, p, p.Primary)
			check(t, err)
			said(t, p.Backup, "it leaves")
			notSaid(t, p.Backup, "not a word")
			if v.RepeatedBytes != 0 {
				t.Errorf("%d bytes are repeated, though the primary could tell what had left", v.RepeatedBytes)
			}
			stats, err := p.Backup.Stats()
			check(t, err)
			t.Logf("the backup took over %v after the signal", time.Unix(0, stats.Takeover.DetectedNs).Sub(sent))
		})
	}
}

// TestBackupLeaves: an operator who stops the backup leaves the primary unharmed.
func TestBackupLeaves(t *testing.T) {
	ctx := begin(t)
	p := start(ctx, t, "period=1")
	awaitTxn(ctx, t, p.Primary, 5)
	check(t, p.Backup.Signal(unix.SIGTERM))
	check(t, p.Backup.WaitFor(ctx, 0))
	check(t, finish(ctx, p, p.Backup, p.Primary))
	_, err := lab.Judge(ctx, p, p.Backup)
	check(t, err)
	said(t, p.Primary, "it leaves")
}

// TestPrimaryStalls: a primary that its host stops for longer than the backup waits is
// replaced. When it wakes it finds out and stops, and what it still lets out is what the new primary
// lets out as well.
func TestPrimaryStalls(t *testing.T) {
	const stall = 2 * time.Second
	ctx := begin(t)
	p := start(ctx, t, "period=1")
	awaitTxn(ctx, t, p.Primary, 5)
	stopped := time.Now()
	check(t, p.Primary.Signal(unix.SIGSTOP))
	_, err := p.Backup.Messages.AwaitText(ctx, "is the primary now")
	check(t, err)
	_, err = p.Backup.Console.Await(ctx, 0, func(l harness.Line) bool { return l.At.Sub(stopped) > stall })
	check(t, err)
	check(t, p.Primary.Signal(unix.SIGCONT))
	check(t, p.Primary.WaitFor(ctx, 1))
	said(t, p.Primary, "the other replica goes on without this one")
	check(t, finish(ctx, p, p.Primary, p.Backup))
	_, err = lab.Judge(ctx, p, p.Primary)
	check(t, err)
}

// TestBackupStalls: a backup that its host stops is left behind. When it wakes it finds out,
// stops, and has not taken over.
func TestBackupStalls(t *testing.T) {
	ctx := begin(t)
	p := start(ctx, t, "period=1")
	awaitTxn(ctx, t, p.Primary, 5)
	check(t, p.Backup.Signal(unix.SIGSTOP))
	_, err := p.Primary.Messages.AwaitText(ctx, "going on alone")
	check(t, err)
	check(t, p.Backup.Signal(unix.SIGCONT))
	check(t, p.Backup.WaitFor(ctx, 1))
	said(t, p.Backup, "the other replica goes on without this one")
	notSaid(t, p.Backup, "taking over")
	check(t, finish(ctx, p, p.Backup, p.Primary))
	_, err = lab.Judge(ctx, p, p.Backup)
	check(t, err)
}

// TestTranscript: the report of a failure shows where a replica that still runs got stuck: its goroutines that wait. Of
// one that executes at that moment Go may show only who created it.
func TestTranscript(t *testing.T) {
	ctx := begin(t)
	p := start(ctx, t, "period=1")
	awaitTxn(ctx, t, p.Primary, 1)
	for _, r := range []*harness.Process{p.Primary, p.Backup} {
		for _, want := range []string{"still running: ", "created by ftvm/replica/pair.(*Node).Run", "ended: exit status 2"} {
			if got := r.Transcript(); !strings.Contains(got, want) {
				t.Errorf("the transcript of %s does not show %q:\n%s", r.Name, want, got)
			}
		}
	}
}

// TestBackupDiesEarly: a backup dies after it was let in and before its first word, without which the machine does not
// begin. The primary waits for another one, and nothing is lost.
func TestBackupDiesEarly(t *testing.T) {
	ctx := begin(t)
	s := scenario{victim: backup, moment: midEpoch, network: 200 * time.Millisecond, args: []string{"--cmdline", "period=1"}}
	p := startFor(ctx, t, s)
	_, err := s.kill(ctx, p)
	check(t, err)
	said(t, p.Primary, "waiting for another backup")
}
