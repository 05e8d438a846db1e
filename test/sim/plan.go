package sim

import (
	"fmt"
	"math/rand/v2"

	"ftvm/replica"
	"ftvm/vmm"
)

// plan is what a seed says before the world starts. Much else is drawn on the way.
type plan struct {
	guest guest
	core  replica.Config
	// arbiter: whoever wants to go on alone asks it. Without one every such wish is granted,
	// and only what a pair without an arbiter promises to survive happens.
	arbiter bool
	fifo    bool // disks do requests in the order of submission
	encode  bool // messages go through the wire format

	memoryEvery  uint64
	epochLength  uint64
	awaits       uint64 // completions that may enter in an epoch
	epochTime    int64
	idleCut      int64
	early        int      // the primary ends an epoch early after so many slices of 100
	slice        int      // most positions that the machine runs without time passing
	step         [2]int64 // how long each replica computes for a slice
	network      int64
	notice       int64 // within what time an end notices that a connection broke
	dialTime     int64
	disk         int64
	console      int64
	arbiterDelay int64
	skew         int64
	rate         uint64 // about how fast guest time passes within an epoch
	late         int64  // how long a shared disk may be unsettled after a process is gone

	faults []fault
}

// moment is a place in a process's life at which a fault can hit it.
type moment uint8

const (
	momentTime     moment = iota // at a time
	momentPosition               // after a slice of an epoch as the primary
	momentBoundary               // with a record that is not applied yet
	momentSent                   // just after a record was sent
	momentSubmit                 // just after a disk request was submitted
	momentDisk                   // a disk request is done and nobody knows
	momentConsole                // console output left and nobody knows
	momentReplay                 // within an epoch that is repeated
	momentExecuted               // an epoch was repeated
	momentClaim                  // the claim is on its way
	momentClaimed                // the claim was answered
	momentFailover               // within the failover epoch
	momentRepeat                 // outstanding requests were issued again
	momentFrame                  // a frame left
	momentHandover               // just after the backup was asked to go on
	moments
)

var momentNames = [moments]string{"time", "position", "boundary", "sent", "submit", "disk", "console",
	"replay", "executed", "claim", "claimed", "failover", "repeat", "frame", "handover"}

// misery is what a fault does.
type misery uint8

const (
	miseryDie      misery = iota // the process dies
	miseryPower                  // its host dies
	miseryPause                  // the process stops for a while
	miseryLeave                  // an operator stops this replica
	miseryFail                   // its host is in trouble and the process knows
	miseryQuit                   // an operator ends the machine
	miseryBreak                  // the connection is lost
	miseryCut                    // no message passes for a while
	miserySlowDisk               // its disks do nothing for a while
	miserySick                   // its own disk has errors for a while
	miseryFar                    // the shared disk has errors for a while
	miseryClock                  // its clock is set
)

var miseryNames = [...]string{"die", "power cut", "pause", "leave", "fail", "quit", "break", "cut", "slow disk", "sick disk", "sick shared disk", "clock"}

// fault is one thing that goes wrong.
type fault struct {
	proc  int
	when  moment
	count int   // the count-th time
	at    int64 // for momentTime
	what  misery
	long  int64 // how long, for those that last
	used  bool
}

func (f fault) String() string {
	if f.when == momentTime {
		return fmt.Sprintf("%s of %s at %.3f ms (%.1f ms)", miseryNames[f.what], [2]string{"primary", "backup"}[f.proc], float64(f.at)/1e6, float64(f.long)/1e6)
	}
	return fmt.Sprintf("%s of %s at %s no. %d (%.1f ms)", miseryNames[f.what], [2]string{"primary", "backup"}[f.proc], momentNames[f.when], f.count, float64(f.long)/1e6)
}

// scale draws between lo and hi so that each order of magnitude is as likely as another.
func scale(rng *rand.Rand, lo, hi int64) int64 {
	v := lo
	for v < hi && rng.IntN(4) > 0 {
		v *= 2
	}
	v += rng.Int64N(v)
	return min(v, hi)
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

func newPlan(rng *rand.Rand) plan {
	p := plan{
		arbiter: rng.IntN(3) > 0,
		fifo:    rng.IntN(2) == 0,
		encode:  rng.IntN(8) == 0,
		core: replica.Config{
			Verified:     rng.IntN(4) == 0,
			MaxLag:       pick[uint64](rng, 0, 1, 4, 16, 64, 64),
			MaxWork:      uint64(pick(rng, 0, 1, millisecond, 20*millisecond)),
			SuspectTicks: 5 + rng.IntN(3),
		},
		memoryEvery:  pick[uint64](rng, 0, 1, 3),
		epochLength:  uint64(scale(rng, 1, 64)),
		awaits:       pick[uint64](rng, 0, 1, 4, 64),
		epochTime:    scale(rng, 100*microsecond, 20*millisecond),
		idleCut:      pick(rng, 2*millisecond, second),
		early:        pick(rng, 0, 5, 30, 60),
		slice:        pick(rng, 1, 4, 16),
		network:      scale(rng, 20*microsecond, 2*millisecond),
		notice:       5 * millisecond,
		dialTime:     20 * millisecond,
		disk:         scale(rng, 20*microsecond, 8*millisecond),
		console:      scale(rng, 10*microsecond, 4*millisecond),
		arbiterDelay: millisecond,
		skew:         scale(rng, 1, 20*millisecond),
		late:         scale(rng, 20*millisecond, 500*millisecond),
		rate:         uint64(scale(rng, microsecond, millisecond)) * vmm.RateUnit,
	}
	p.step[0] = scale(rng, 20*microsecond, 400*microsecond)
	p.step[1] = p.step[0] * pick[int64](rng, 1, 1, 4, 16, 64)
	p.guest = guest{
		salt:    rng.Uint64(),
		txns:    uint32(1 + rng.IntN(8)),
		crash:   rng.IntN(8) == 0,
		opsEach: uint32(scale(rng, 4, 40)),
		sleep:   uint64(scale(rng, 10*microsecond, 30*millisecond)),
		shared:  rng.IntN(3) == 0,
	}
	p.core.Shared = p.guest.shared
	// Half of all guests do a bit of everything, the others have a few habits.
	kinds := int(opKinds)
	if rng.IntN(2) == 0 {
		kinds = 1 + rng.IntN(4)
	}
	var habits [opKinds]op
	for i := range habits {
		habits[i] = op(rng.IntN(int(opKinds)))
	}
	for i := range p.guest.menu {
		switch {
		case rng.IntN(3) == 0:
			p.guest.menu[i] = opCompute
		case kinds == int(opKinds):
			p.guest.menu[i] = op(rng.IntN(kinds))
		default:
			p.guest.menu[i] = habits[rng.IntN(kinds)]
		}
	}
	if p.arbiter {
		p.network = scale(rng, 20*microsecond, 20*millisecond)
		p.notice = scale(rng, 100*microsecond, 100*millisecond)
		p.dialTime = scale(rng, 5*millisecond, 200*millisecond)
		p.arbiterDelay = scale(rng, 100*microsecond, 200*millisecond)
		p.anything(rng)
	} else {
		p.promised(rng)
	}
	return p
}

// anything draws faults of all kinds, for a pair with an arbiter. Most worlds begin with
// one that makes the backup take over while the guest is at work.
func (p *plan) anything(rng *rand.Rand) {
	if rng.IntN(4) > 0 {
		p.faults = append(p.faults, fault{
			what:  pick(rng, miseryDie, miseryDie, miseryDie, miseryPower, miseryPause, miseryCut),
			when:  pick(rng, momentPosition, momentBoundary, momentSent, momentSubmit, momentDisk, momentConsole),
			count: int(scale(rng, 1, 50)),
			long:  scale(rng, 100*millisecond, second),
		})
	}
	for range rng.IntN(4) {
		what := pick(rng, miseryDie, miseryDie, miseryDie, miseryPower, miseryPause, miseryPause,
			miseryLeave, miseryFail, miseryBreak, miseryBreak, miseryCut, miseryCut, miserySlowDisk, miserySick, miserySick, miseryFar, miseryClock)
		if rng.IntN(16) == 0 {
			what = miseryQuit
		}
		p.fault(rng, what, scale(rng, millisecond, second))
	}
}

// promised draws faults that a pair without an arbiter survives: one process that dies or
// is ended, and either connections that break and come back at once, or processes that
// stop for a while.
func (p *plan) promised(rng *rand.Rand) {
	short := pick(rng, miseryBreak, miseryPause, miserySlowDisk)
	if short == miseryPause {
		p.fault(rng, miseryPause, scale(rng, millisecond, 200*millisecond))
		return
	}
	at := int64(0)
	for range rng.IntN(4) {
		at += 100*millisecond + scale(rng, millisecond, 200*millisecond)
		p.faults = append(p.faults, fault{at: at, what: short, proc: rng.IntN(2), long: scale(rng, millisecond, 30*millisecond)})
	}
	switch rng.IntN(8) {
	case 0, 1:
	case 2: // both disks are full
		at := min(scale(rng, 100*microsecond, lastFault), lastFault)
		for i := range 2 {
			p.faults = append(p.faults, fault{proc: i, what: miserySick, at: at, long: second})
		}
	default:
		p.fault(rng, pick(rng, miseryDie, miseryDie, miseryPower, miseryLeave, miseryFail, miserySick), scale(rng, millisecond, 100*millisecond))
	}
	if rng.IntN(8) == 0 {
		p.fault(rng, miserySick, 100*millisecond)
		p.faults = append(p.faults, fault{when: momentHandover, count: 1, what: miseryBreak})
	}
	for range rng.IntN(3) {
		p.fault(rng, pick(rng, miseryFar, miseryClock), scale(rng, millisecond, 100*millisecond))
	}
	if rng.IntN(16) == 0 {
		p.fault(rng, miseryQuit, 0)
	}
}

func (p *plan) fault(rng *rand.Rand, what misery, long int64) {
	f := fault{proc: pick(rng, 0, 0, 1), what: what, long: long}
	if rng.IntN(3) == 0 {
		f.at = min(scale(rng, 100*microsecond, lastFault), lastFault)
	} else {
		f.when = moment(1 + rng.IntN(int(moments)-1))
		f.count = int(scale(rng, 1, 200))
	}
	p.faults = append(p.faults, f)
}

// moment lets the faults happen that were planned for it, and reports whether the process
// is gone.
func (p *proc) moment(m moment) bool {
	p.moments[m]++
	for i := range p.w.plan.faults {
		f := &p.w.plan.faults[i]
		if !f.used && f.when == m && f.proc == p.id && f.count == p.moments[m] && p.w.now < lastFault {
			f.used = true
			p.w.strike(*f)
		}
	}
	return p.gone
}

// strike lets a fault happen.
func (w *world) strike(f fault) {
	p := w.procs[f.proc]
	if p.gone {
		return
	}
	w.tell(p, "FAULT: %s", f)
	w.apart = w.apart || f.what == miseryPause || f.what == miseryBreak || f.what == miseryCut
	switch f.what {
	case miseryDie, miseryPower:
		p.die(f.what == miseryPower)
	case miseryPause:
		p.pause(f.long)
	case miseryLeave, miseryFail, miseryQuit:
		// Somebody else's goroutine says so, a moment later.
		w.at(w.now, p, func() { p.end(f.what) })
	case miseryBreak:
		if p.link != nil && !p.link.closed {
			w.reset(p.link)
		}
	case miseryCut:
		w.cutUntil = max(w.cutUntil, w.now+f.long)
	case miserySlowDisk:
		for i := range p.disks {
			p.disks[i].stuckUntil = w.now + f.long
		}
	case miserySick:
		p.disks[0].sickUntil = w.now + f.long
	case miseryFar:
		p.disks[sharedDisk].sickUntil = w.now + f.long
	case miseryClock:
		p.skew += f.long * int64(1-2*w.rng.IntN(2))
	}
}

// start makes a world of a seed.
func newWorld(seed uint64, trace func(format string, args ...any)) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0)), trace: trace}
	w.plan = newPlan(w.rng)
	if trace != nil {
		w.tell(nil, "core %+v, arbiter %v, fifo %v, epochs of %d and %.1f ms, network %.2f ms, disk %.2f ms, step %.2f ms", w.plan.core,
			w.plan.arbiter, w.plan.fifo, w.plan.epochLength, float64(w.plan.epochTime)/1e6, float64(w.plan.network)/1e6, float64(w.plan.disk)/1e6, float64(w.plan.step[0])/1e6)
		for _, f := range w.plan.faults {
			w.tell(nil, "planned: %s", f)
		}
	}
	for i := range w.procs {
		w.procs[i] = w.newProc(i)
	}
	for _, f := range w.plan.faults {
		if f.when == momentTime {
			w.at(f.at, nil, func() { w.strike(f) })
		}
	}
	w.connect(0, func(t int64, install func()) { w.at(t, w.procs[1], install) })
	w.at(w.upTo(20*millisecond), nil, w.typeLine)
	w.at(w.upTo(20*millisecond), nil, w.bringFrames)
	return w
}

// bringFrames lets frames arrive at one of the hosts, and again later.
func (w *world) bringFrames() {
	if w.now > lastFault {
		return
	}
	p := w.procs[w.rng.IntN(2)]
	frames := make([][]byte, 1+w.rng.IntN(2*maxArrived))
	for i := range frames {
		frames[i] = le.AppendUint64(nil, w.rng.Uint64())
	}
	w.at(w.now, p, func() { p.arrive(frames) })
	w.at(w.now+w.around(5*millisecond), nil, w.bringFrames)
}

// typeLine lets somebody type at one of the consoles, and again later.
func (w *world) typeLine() {
	if w.now > lastFault {
		return
	}
	w.typed++
	p, line := w.procs[w.rng.IntN(2)], []byte{'A' + byte(w.typed/26%26), 'A' + byte(w.typed%26)}
	w.at(w.now, p, func() { p.typeIn(line) })
	w.at(w.now+millisecond+w.upTo(50*millisecond), nil, w.typeLine)
}
