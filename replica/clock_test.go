package replica

import (
	"math"
	"math/rand/v2"
	"testing"

	"ftvm/vmm"
)

const ms = 1_000_000

// TestClock: guest time follows the wall clock, ahead at once, never back.
func TestClock(t *testing.T) {
	var c Clock
	for n, step := range []struct {
		passed     uint64 // on the monotonic clock, ms
		wall, want vmm.Time
	}{
		{0, 1000, 1000}, // the first Read: the guest was at 500
		{10, 1010, 1010},
		{10, 1021, 1021},  // the wall clock runs fast
		{10, 5000, 5000},  // somebody set it ahead
		{16, 4984, 5015},  // and back: 15 of 16 pass
		{160, 5144, 5165}, // 21 ahead
		{160, 5304, 5315}, // 11
		{160, 5464, 5465}, // 1
		{160, 5624, 5624}, // it has caught up
	} {
		c.mono -= step.passed * ms
		if got := c.Read(step.wall*ms, 0, 500*ms); got != step.want*ms {
			t.Errorf("step %d: guest time is %v, want %v", n, float64(got)/ms, step.want)
		}
	}
}

// TestClockOfAnotherHost: after a takeover guest time goes on from where it was.
func TestClockOfAnotherHost(t *testing.T) {
	for _, wall := range []vmm.Time{900, 1000, 1100} {
		var c Clock
		if got := c.Read(wall*ms, 12345, 1000*ms); got != max(wall, 1000)*ms {
			t.Errorf("the guest is at 1000, the host at %d: goes on at %v", wall, float64(got)/ms)
		}
	}
}

// TestWait: after as long as Wait says guest time is there, and not much before.
func TestWait(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		var c Clock
		wall, guest := vmm.Time(1000*ms+rng.Uint64N(100*ms)), vmm.Time(1000*ms+rng.Uint64N(100*ms))
		mono := rng.Uint64()
		now := c.Read(wall, mono, guest)
		until := now - 5 + vmm.Time(rng.Uint64N(2000*ms))
		wait := c.Wait(until)
		before, after := c, c
		if at := after.Read(wall+vmm.Time(wait), mono+wait, 0); at < until || wait > 0 && at > until+2 {
			t.Fatalf("wall %d, guest %d: %d ns after %d it is %d, not %d", wall, guest, wait, now, at, until)
		}
		if wait > 2 {
			if at := before.Read(wall+vmm.Time(wait)-3, mono+wait-3, 0); at >= until {
				t.Fatalf("wall %d, guest %d: 3 ns before it is %d already, and %d was awaited", wall, guest, at, until)
			}
		}
	}
	var c Clock
	c.Read(0, 0, 0)
	if w := c.Wait(math.MaxUint64); w != math.MaxUint64 {
		t.Errorf("the end of time is %d ns away", w)
	}
}

// TestPace: guest time goes a 16th slower than the guest's present pace; it slows down at once when the guest gets faster.
func TestPace(t *testing.T) {
	const first = 2 * vmm.RateUnit
	var p Pace
	rate := func() float64 { return float64(p.Rate(1, 10*ms, 0, first)) / vmm.RateUnit }
	if got := rate(); got != 2 {
		t.Errorf("while nothing is known it is %v ns a position, want 2", got)
	}
	p.Ran(100_000, ms/2) // not enough
	if got := rate(); got != 2 {
		t.Errorf("while little is known it is %v ns a position, want 2", got)
	}
	p.Ran(100_000, ms/2)
	check := func(what string, pace float64) {
		t.Helper()
		if got, want := rate(), pace*15/16; math.Abs(got-want) > 0.001*want {
			t.Errorf("%s: %v ns a position, want %v", what, got, want)
		}
	}
	check("5 ns a position", 5)
	p.Ran(500_000, ms)
	check("2 ns a position", 2)
	p.Ran(200_000, ms)
	check("5 ns a position, for once", 2.75)
	p.Ran(500_000, ms)
	p.Ran(1000, ms)
	check("1000 ns a position, for once", 3.5)
	for range 50 {
		p.Ran(100_000, ms)
	}
	check("10 ns a position", 10)
	p.Ran(0, ms) // no position: no pace
	check("the same", 10)
	for _, positions := range []uint64{1, math.MaxUint64} {
		p = Pace{}
		p.Ran(positions, 1<<62)
		p.Rate(math.MaxUint64, 1, math.MaxUint64, math.MaxUint64)
	}
}

// TestGuestTimeIsNear: however the guest's speed changes, guest time stays within 10 ms of the host's, when epochs end
// as a runner has them end: at their length, or when they are 10 ms old.
func TestGuestTimeIsNear(t *testing.T) {
	const epochNs = 10 * ms
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var c Clock
		var p Pace
		var host, guest uint64 = 1000 * ms, 1000 * ms
		speed, length := 5.0, uint64(20_000_000) // ns a position; the longest epoch
		for n := range 2000 {
			if rng.IntN(10) == 0 {
				speed = 0.3 * math.Exp(4*rng.Float64())
			}
			now := max(uint64(c.Read(vmm.Time(host), host, vmm.Time(guest))), guest)
			rate := p.Rate(length, epochNs, now-host, 2*vmm.RateUnit)
			ns := min(float64(length)*speed, epochNs) * (0.01 + 0.99*rng.Float64()) // other things end epochs, too
			positions := uint64(ns / speed)
			guest = now + uint64(float64(positions)*float64(rate)/vmm.RateUnit)
			host += uint64(ns)
			if off := int64(guest - host); off > epochNs || off < -epochNs {
				t.Fatalf("seed %d, epoch %d: guest time is off by %v ms", seed, n, float64(off)/ms)
			}
			if p.Ran(positions, uint64(ns)); positions > 0 {
				length = min(20_000_000, uint64(float64(positions)*epochNs/ns))
			}
			host += rng.Uint64N(ms / 10) // the boundary
		}
	}
}
