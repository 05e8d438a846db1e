package linux

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"ftvm/test/harness"
)

// clockError is how far the guest's clock may be from the host's. It is a few ms on a host that is not busy; by the RTC alone it
// would be up to half a second.
const clockError = 50 * time.Millisecond

// TestWallClock asks the guest for the time several times: it is the host's, between question and answer.
func TestWallClock(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	p, err := lab.Start("run", append([]string{"run"}, guest(t, "initrd.gz", "shell")...)...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Console.AwaitText(ctx, "built-in shell")
	check(t, err, p)
	for range 5 {
		asked := time.Now()
		told, answered, err := askTime(ctx, p)
		check(t, err, p)
		t.Logf("%v after the question, %v before the answer", told.Sub(asked), answered.Sub(told))
		if told.Before(asked.Add(-clockError)) || told.After(answered.Add(clockError)) {
			t.Errorf("asked at %s and answered at %s, the guest says that it is %s", asked.UTC(), answered.UTC(), told.UTC())
		}
	}
	check(t, p.Type("poweroff"), p)
	check(t, p.WaitFor(ctx, 0), p)
}

var adjtimex = regexp.MustCompile(`time\.tv_u?sec: *([0-9]+)`)

// askTime has the guest's shell read its clock, and returns what it said, and when.
func askTime(ctx context.Context, p *harness.Process) (told, answered time.Time, err error) {
	from := p.Console.Len()
	if err := p.Type("adjtimex"); err != nil {
		return told, answered, err
	}
	var values []int64 // seconds, microseconds
	for len(values) < 2 {
		l, err := p.Console.Await(ctx, from, func(l harness.Line) bool { return adjtimex.MatchString(l.Text) })
		if err != nil {
			return told, answered, fmt.Errorf("awaiting the time: %w", err)
		}
		v, err := strconv.ParseInt(adjtimex.FindStringSubmatch(l.Text)[1], 10, 64)
		if err != nil {
			return told, answered, err
		}
		values, from, answered = append(values, v), l.End, l.At
	}
	return time.Unix(values[0], values[1]*1000), answered, nil
}
