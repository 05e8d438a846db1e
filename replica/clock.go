package replica

import (
	"math"
	"math/bits"

	"ftvm/vmm"
)

// slew is by what part a guest whose time is ahead of the host's is slowed down.
const slew = 16

// Clock makes guest time of a host's two clocks. Guest time follows the host's wall clock, also when that
// jumps ahead. It never goes back: when the wall clock is behind it (it was set back, or the machine was taken over from a
// host whose clock is ahead), guest time goes on with the monotonic clock, a 16th slower, until
// the wall clock has caught up.
type Clock struct {
	begun      bool
	last, wall vmm.Time
	mono       uint64
}

// Read is what guest time should be now. wall is the host's wall clock; mono its monotonic one, ns since any time; guest is
// the machine's own time, from which the first Read goes on.
func (c *Clock) Read(wall vmm.Time, mono uint64, guest vmm.Time) vmm.Time {
	if !c.begun {
		c.begun, c.last, c.mono = true, guest, mono
	}
	passed := mono - c.mono
	c.last, c.wall, c.mono = max(c.last+vmm.Time(passed-passed/slew), wall), wall, mono
	return c.last
}

// Wait is how many ns after the last Read guest time will be t, if nobody sets the clocks; 0 if it is that already.
func (c *Clock) Wait(t vmm.Time) uint64 {
	if t <= c.last {
		return 0
	}
	ahead := uint64(t - c.last)
	slowed := min(ahead/(slew-1)+1, math.MaxUint64-ahead)
	return min(ahead+slowed, uint64(t-c.wall)) // the wall clock may catch up before
}

// Pace is how fast a guest runs on an exact clock, for the rate of its time.
type Pace struct {
	positions, ns uint64 // that ran since the last estimate
	estimate      uint64 // ns for vmm.RateUnit positions; 0 is unknown
}

// paceNs is how long a guest must have run for an estimate.
const paceNs = 1_000_000

// Ran tells that so many positions took so long.
func (p *Pace) Ran(positions, ns uint64) {
	p.positions += positions
	p.ns += ns
	if p.ns < paceNs || p.positions == 0 {
		return
	}
	now := max(1, scale(p.ns, vmm.RateUnit, p.positions))
	// Faster code is believed at once, slower code by and by: guest time should rather lag than outrun.
	if p.estimate != 0 && now > p.estimate {
		// And a host that was busy with other things for a moment must not make the guest seem slower by orders of magnitude.
		now = p.estimate + (min(now, 4*p.estimate)-p.estimate+3)/4
	}
	*p = Pace{estimate: now}
}

// Rate is what an epoch should be given that has so many positions at most and is to last for epochNs, when guest time
// is ahead by lead ns: a 16th less than the pace, and so much less that guest time never gets ahead by more than
// epochNs. first is for a guest whose pace is not known yet.
func (p *Pace) Rate(length, epochNs, lead uint64, first vmm.Rate) vmm.Rate {
	rate := uint64(first)
	if p.estimate != 0 {
		rate = p.estimate - p.estimate/slew
	}
	rate = min(rate, scale(epochNs, vmm.RateUnit, length))
	return vmm.Rate(scale(rate, epochNs-min(lead, epochNs), epochNs))
}

// scale is a*b/c, or the most that there is.
func scale(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return math.MaxUint64
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}
