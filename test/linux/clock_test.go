package linux

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ftvm/test/harness"
	"ftvm/test/need"
)

const (
	// clockError is how far guest time may be from the wall clock of the host.
	clockError = 10 * time.Millisecond
	// bootError is how far the guest's clock may be from guest time. While Linux boots, it counts ticks of 4 ms, and before that, for
	// as long as half a million instructions take, nothing at all. What it loses there on a busy host it lacks for good.
	bootError = 50 * time.Millisecond
)

// TestWallClock asks the guest for the time, while it waits and while it computes and writes to its disk. What it tells is
// between question and answer, give or take clockError, however long an answer takes on a busy host; and often enough
// the answers come so fast that there is no room for a larger error.
func TestWallClock(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		ctx := within(t, 2*time.Minute)
		image := filepath.Join(t.TempDir(), "disk")
		if err := lab.CreateDisk(ctx, image, "16M"); err != nil {
			t.Fatal(err)
		}
		p, err := lab.Start("run", append([]string{"run", "--disk", image}, need.Guest(t, "initrd.gz", "shell")...)...)
		if err != nil {
			t.Fatal(err)
		}
		askTimes(t, ctx, p)
	})
	t.Run("replicated", func(t *testing.T) {
		ctx := within(t, 2*time.Minute)
		askTimes(t, ctx, pair(t, ctx, "shell").Primary)
	})
}

// tells has the guest's shell answer each line with it and the time, until there is an empty one. The prompt would come
// between the lines, and what is typed would be shown.
const tells = `stty -echo; echo "go$((1))"; while read -r q && [ "$q" != "" ]; do echo "time $q $EPOCHREALTIME"; done; stty echo`

// works has it compute and write to its disk meanwhile.
const works = `while :; do sha256sum /bin/busybox; done >/dev/null & ` +
	`while :; do dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null; done & `

// proven is how many answers must leave no room for an error of more than clockError; mostAsked is after how many questions the host is
// too busy for that.
const (
	proven    = 20
	mostAsked = 1000
)

func askTimes(t *testing.T, ctx context.Context, p *harness.Process) {
	s := &shell{t, ctx, p, 0}
	s.await("built-in shell")
	var boot time.Duration
	for i, command := range []string{tells, works + tells} {
		s.enter(command)
		if i == 0 {
			boot = s.bootError(0)
		}
		good, asked := 0, 0
		for ; good < proven && asked < mostAsked; asked++ {
			a := s.ask(asked)
			early, late := a.told.Sub(a.asked)-boot, a.told.Sub(a.answered)-boot // the error is between these
			if early < -clockError || late > clockError {
				t.Fatalf("asked at %s and answered at %s, it says that it is %s, by a clock that was %v ahead after booting",
					a.asked.UTC(), a.answered.UTC(), a.told.UTC(), boot)
			}
			if early <= clockError && late >= -clockError {
				good++
			}
		}
		t.Logf("%d of %d answers show an error of %v at most, apart from %v since booting", good, asked, clockError, boot)
		if good < proven {
			t.Errorf("only %d of %d answers came soon enough", good, asked)
		}
		check(t, p.Type(""), p)
	}
	check(t, p.Type("poweroff"), p)
	check(t, p.WaitFor(ctx, 0), p)
}

// shell is a guest with a shell on its console, which is read to byte from.
type shell struct {
	t    *testing.T
	ctx  context.Context
	p    *harness.Process
	from int
}

// await waits for a line with text.
func (s *shell) await(text string) harness.Line {
	s.t.Helper()
	l, err := s.p.Console.Await(s.ctx, s.from, func(l harness.Line) bool { return strings.Contains(l.Text, text) })
	check(s.t, err, s.p)
	s.from = l.End
	return l
}

// enter has the shell carry out a command, and waits until that says go1.
func (s *shell) enter(command string) {
	s.t.Helper()
	check(s.t, s.p.Type(command), s.p)
	s.await("go1")
}

// answer is what the guest told the time to be, somewhen between question and answer.
type answer struct{ asked, told, answered time.Time }

func (s *shell) ask(question int) answer {
	s.t.Helper()
	asked := time.Now()
	check(s.t, s.p.Type(strconv.Itoa(question)), s.p)
	l := s.await(fmt.Sprintf("time %d ", question))
	return answer{asked, guestTime(s.t, l.Text), l.At}
}

// bootError is how far the guest's clock is ahead of the host's, which is so much ahead of ours, by the answer that came fastest.
func (s *shell) bootError(host time.Duration) time.Duration {
	s.t.Helper()
	best := s.ask(0)
	for i := range 20 {
		if a := s.ask(i); a.answered.Sub(a.asked) < best.answered.Sub(best.asked) {
			best = a
		}
	}
	ahead := best.told.Sub(best.asked) - best.answered.Sub(best.asked)/2 - host
	if ahead.Abs() > bootError {
		s.t.Errorf("asked at %s and answered at %s, the guest, just booted, says that it is %s", best.asked.UTC(), best.answered.UTC(), best.told.UTC())
	}
	return ahead
}

// guestTime is the time at the end of a line, as ash has it in EPOCHREALTIME.
func guestTime(t *testing.T, line string) time.Time {
	t.Helper()
	s, us, _ := strings.Cut(line[strings.LastIndex(line, " ")+1:], ".")
	seconds, err := strconv.ParseInt(s, 10, 64)
	micros, err2 := strconv.ParseInt(us, 10, 64)
	if err != nil || err2 != nil {
		t.Fatalf("%q does not end with a time", line)
	}
	return time.Unix(seconds, micros*1000)
}

// aheadEnv is what sets a replica's clock, in the test build of replica/pair.
const aheadEnv = "FTVM_CLOCK_AHEAD"

// TestClockOfAnotherHost kills a primary whose host's clock is ahead of the backup's, or behind it, under a guest that shows the
// time all the while. What the world sees of that never goes back. Behind, the guest's clock goes on a 16th slower, until the
// new host's has caught up; ahead, it is the new host's at once.
func TestClockOfAnotherHost(t *testing.T) {
	const differ = 5 * time.Second
	other, err := harness.Open("simfault")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, row := range []struct {
		name    string
		ahead   time.Duration // of the primary's clock
		watched time.Duration
	}{{"behind", differ, 2 * time.Second}, {"ahead", -differ, time.Second / 2}} {
		t.Run(row.name, func(t *testing.T) {
			ahead := row.ahead
			ctx := within(t, 2*time.Minute)
			args := need.Guest(t, "initrd.gz", "shell")
			var images [2]string
			for i := range images {
				images[i] = filepath.Join(t.TempDir(), "disk")
				if err := other.CreateDisk(ctx, images[i], "16M"); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv(aheadEnv, ahead.String())
			primary, addr, err := other.StartPrimary(ctx, images[0], args...)
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv(aheadEnv, "0s")
			backup, err := other.StartBackup(addr, images[1], args...)
			if err != nil {
				t.Fatal(err)
			}
			s := &shell{t, ctx, primary, 0}
			s.await("built-in shell")
			s.enter(tells)
			boot := s.bootError(ahead)
			s.enter("\n" + `stty -echo; while :; do echo "now $EPOCHREALTIME"; sleep 0.003; done & echo "go$((1))"`)
			for range 100 {
				s.await("now ")
			}
			killed := primary.Kill()
			survivor := &shell{t, ctx, backup, 0}
			until := killed.Add(row.watched)
			for at := killed; at.Before(until); at = survivor.await("now ").At {
			}
			check(t, backup.Type("poweroff"), backup)
			check(t, backup.WaitFor(ctx, 0), backup)
			neverBack(t, primary, backup)
			times := timesOf(t, backup)
			if ahead > 0 {
				slowed(t, times, ahead+boot)
			} else {
				jumped(t, times, ahead+boot, boot)
			}
		})
	}
}

// neverBack checks the times that the world saw of both replicas.
func neverBack(t *testing.T, primary, backup *harness.Process) {
	t.Helper()
	stats, err := backup.Stats()
	check(t, err, backup)
	if stats.Takeover == nil {
		t.Fatalf("the backup did not take over\n%s", backup.Transcript())
	}
	console, _, err := harness.Join(primary.Console.Bytes(), backup.Console.Bytes(), stats.Takeover.ConsoleFrom)
	if err != nil {
		t.Fatal(err)
	}
	var last time.Time
	count := 0
	for line := range strings.Lines(string(console)) {
		if line = strings.TrimRight(line, "\r\n"); strings.HasPrefix(line, "now ") {
			now := guestTime(t, line)
			if now.Before(last) {
				t.Errorf("after %s the guest says that it is %s", last.UTC(), now.UTC())
			}
			last, count = now, count+1
		}
	}
	t.Logf("%d times, never back", count)
}

// shownTime is a time that a guest showed, and when that came.
type shownTime struct{ told, at time.Time }

// ahead is how far the guest's clock is ahead of the host's, at least.
func (s shownTime) ahead() time.Duration { return s.told.Sub(s.at) }

// timesOf is what a new primary showed, without a first line that may not be whole.
func timesOf(t *testing.T, p *harness.Process) (all []shownTime) {
	t.Helper()
	for i, l := range p.Console.Lines(0) {
		if i > 0 && strings.HasPrefix(l.Text, "now ") {
			all = append(all, shownTime{guestTime(t, l.Text), l.At})
		}
	}
	return all
}

// slowed checks that a guest's clock, which was so far ahead, goes 15/16 as fast as the host's. What says most is the line of many
// that came with the least delay.
func slowed(t *testing.T, times []shownTime, ahead time.Duration) {
	t.Helper()
	first, last := prompt(times[:len(times)/4]), prompt(times[len(times)*3/4:])
	speed := float64(last.told.Sub(first.told)) / float64(last.at.Sub(first.at))
	t.Logf("%v ahead, then %v: %.4f as fast", first.ahead(), last.ahead(), speed)
	if speed < 0.92 || speed > 0.955 {
		t.Errorf("guest time goes %.4f as fast as the host's, want %.4f", speed, 15./16)
	}
	if first.ahead() < ahead-time.Second || first.ahead() > ahead+clockError {
		t.Errorf("after the takeover it is %v ahead, want almost %v", first.ahead(), ahead)
	}
}

// prompt is the time that came with the least delay.
func prompt(times []shownTime) shownTime {
	best := times[0]
	for _, s := range times {
		if s.ahead() > best.ahead() {
			best = s
		}
	}
	return best
}

// jumped checks that a guest's clock is ahead of the host's by from until the failover epoch is over, and by to from then on.
func jumped(t *testing.T, times []shownTime, from, to time.Duration) {
	t.Helper()
	before := 0
	for before < len(times) && times[before].ahead() < (from+to)/2 {
		before++
	}
	near := 0
	for _, s := range times[before:] {
		if s.ahead() > to+clockError {
			t.Fatalf("after the takeover the guest's clock is %v ahead, want %v", s.ahead(), to)
		}
		if s.ahead() >= to-clockError {
			near++
		}
	}
	t.Logf("%d times before it jumped, %d after, of which %d came so soon that they show an error of %v at most", before, len(times)-before, near, clockError)
	if before > proven || near < proven {
		t.Error("the guest's clock is not the new host's at once")
	}
}
