package sim

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"ftvm/replica"
)

// Time in here is virtual: nanoseconds since the start of the world.
const (
	microsecond = int64(1000)
	millisecond = 1000 * microsecond
	second      = 1000 * millisecond

	heartbeat = 10 * millisecond
	// lastFault is when the world stops being unkind; limit is when everything must be over.
	lastFault = 2 * second
	limit     = 60 * second
)

// event is something that happens to a process, or to the world if p is nil.
type event struct {
	at int64
	n  uint64 // orders events of the same time
	p  *proc
	do func()
}

// world is one run: the clock, the network, the arbiter, and what left for the outside.
type world struct {
	plan  plan
	rng   *rand.Rand
	now   int64
	n     uint64
	queue []event // binary heap by (at, n)
	procs [2]*proc

	cutUntil int64 // no message passes before
	arbiter  *proc // who won the test-and-set

	shared  image // the shared disk
	settled int64 // when the last request of a process that is gone reaches it

	frames   [][]byte // what left, each for the first time
	left     []chunk  // console output, in the order in which it left
	high     uint64   // bytes of console output that have left
	repeated uint64   // of those, left more than once
	again    uint64   // frames that left more than once
	typed    uint64   // lines that were typed so far
	quit     bool     // an operator ended the machine
	apart    bool     // for some time the replicas could not hear each other

	outside bool // check only what can be seen from the outside

	events     int
	violations []string
	trace      func(format string, args ...any) // nil: nobody reads it
}

// chunk is console output that left from a process.
type chunk struct {
	seq  uint64
	data []byte
}

// violate notes that something must not have happened.
func (w *world) violate(format string, args ...any) {
	v := fmt.Sprintf(format, args...)
	w.violations = append(w.violations, v)
	w.tell(nil, "VIOLATION: %s", v)
}

// tell writes a line of the trace.
func (w *world) tell(p *proc, format string, args ...any) {
	if w.trace == nil {
		return
	}
	name := "world"
	if p != nil {
		name = p.name
	}
	w.trace("%12.3f ms  %-7s  %s", float64(w.now)/1e6, name, fmt.Sprintf(format, args...))
}

// at makes do happen at a time; to a process that is paused then, when it goes on; to
// one that is gone, never.
func (w *world) at(t int64, p *proc, do func()) {
	w.n++
	w.push(event{max(t, w.now), w.n, p, do})
}

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.n < f.n }

func (w *world) push(e event) {
	w.queue = append(w.queue, e)
	q := w.queue
	i := len(q) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&q[up]) {
			break
		}
		q[i] = q[up]
		i = up
	}
	q[i] = e
}

func (w *world) pop() event {
	q := w.queue
	first, e := q[0], q[len(q)-1]
	q[len(q)-1] = event{}
	q = q[:len(q)-1]
	w.queue = q
	i := 0
	for len(q) > 0 {
		down := 2*i + 1
		if down >= len(q) {
			break
		}
		if down+1 < len(q) && q[down+1].before(&q[down]) {
			down++
		}
		if !q[down].before(&e) {
			break
		}
		q[i] = q[down]
		i = down
	}
	if len(q) > 0 {
		q[i] = e
	}
	return first
}

// run lets everything happen.
func (w *world) run() {
	for len(w.queue) > 0 && len(w.violations) == 0 {
		e := w.pop()
		if e.at > limit {
			return
		}
		w.now = e.at
		switch p := e.p; {
		case p == nil:
		case p.gone:
			continue
		case p.paused:
			p.inbox = append(p.inbox, e.do)
			continue
		}
		w.events++
		e.do()
	}
}

// chance is true n times of 100.
func (w *world) chance(n int) bool { return w.rng.IntN(100) < n }

// upTo draws a time in [0, d].
func (w *world) upTo(d int64) int64 { return w.rng.Int64N(d + 1) }

// around draws a delay whose usual size is d: mostly about d, rarely much more.
func (w *world) around(d int64) int64 {
	t := d/2 + w.upTo(d)
	if w.rng.IntN(16) == 0 {
		t += w.upTo(4 * d)
	}
	return t
}

// link is a connection; end 0 is the primary's, end 1 the backup's.
type link struct {
	conn   [2]uint64 // its number at each end, 0 before it is installed there
	newest [2]int64  // when the newest message arrives at each end
	lost   [2]int64  // what arrives at an end from then on is lost
	closed bool      // what is sent now is lost
}

func newLink() *link { return &link{lost: [2]int64{limit + 1, limit + 1}} }

// arrival draws when something sent now arrives.
func (w *world) arrival() int64 {
	return max(w.now, w.cutUntil) + w.around(w.plan.network)
}

// send brings a message to an end, after those sent before.
func (w *world) send(l *link, end int, m replica.Message) {
	if l.closed {
		return
	}
	if w.plan.encode {
		var err error
		if m, err = replica.Decode(replica.Encode(m)); err != nil {
			w.violate("a message does not survive encoding: %v", err)
			return
		}
	}
	t := max(l.newest[end], w.arrival())
	l.newest[end] = t
	p := w.procs[end]
	w.at(t, p, func() {
		if t < l.lost[end] && l.conn[end] != 0 {
			p.receive(l, m)
		}
	})
}

// hangUp tells an end at time t that the connection is lost; what arrives there before is
// read first.
func (w *world) hangUp(l *link, end int, t int64) {
	p := w.procs[end]
	l.lost[end] = min(l.lost[end], t)
	w.at(t, p, func() {
		if conn := l.conn[end]; conn != 0 {
			w.tell(p, "connection %d is lost", conn)
			p.step(func(c *replica.Core) { c.Disconnected(conn) })
		}
	})
}

// reset loses a connection while both ends live. Each gets to know at its own time, after
// some of what was under way.
func (w *world) reset(l *link) {
	w.tell(nil, "the connection breaks")
	l.closed = true
	for end := range l.lost {
		w.hangUp(l, end, max(w.now, w.cutUntil*int64(w.rng.IntN(2)))+w.upTo(w.plan.notice))
	}
}

// dial is a backup's attempt to connect. What it comes to, the backup hears once.
func (w *world) dial(b *proc) {
	b.dials++
	attempt, a := b.dials, w.procs[0]
	hear := func(t int64, what string, tell func()) {
		w.at(t, b, func() {
			if b.heard < attempt {
				b.heard = attempt
				w.tell(b, "dials: %s", what)
				tell()
			}
		})
	}
	unreachable := func(refused bool) func() {
		return func() { b.step(func(c *replica.Core) { c.Unreachable(refused) }) }
	}
	hear(w.now+w.plan.dialTime, "no answer", unreachable(false))
	if w.now < w.cutUntil {
		return
	}
	w.at(w.arrival(), nil, func() {
		switch {
		case w.now < w.cutUntil, a.gone && a.powerCut:
			// Packets go nowhere.
		case a.gone:
			hear(w.arrival(), "connection refused", unreachable(true))
		default:
			w.at(w.now, a, func() {
				// As Node.admit. A primary that waits for another backup has another session.
				if a.core.Alone() || a.granted && a.core.Role() == replica.Waiting {
					hear(w.arrival(), "turned away", func() {
						b.step(func(c *replica.Core) { c.Refused(errors.New("the primary went on alone")) })
					})
					return
				}
				w.connect(w.upTo(w.plan.network), func(t int64, install func()) {
					hear(t, "connected", install)
				})
			})
		}
	})
}

// connect makes a connection: the primary, which has said yes, installs it after some
// time; answered is called with the time at which the backup hears, and what it does then.
func (w *world) connect(after int64, answered func(t int64, install func())) {
	l := newLink()
	a, b := w.procs[0], w.procs[1]
	l.newest[0], l.newest[1] = w.now+after, w.arrival()
	w.at(l.newest[0], a, func() { a.install(l) })
	answered(l.newest[1], func() { b.install(l) })
	// A backup that did not wait for the answer closes the connection.
	w.at(l.newest[1], b, func() {
		if l.conn[1] == 0 {
			l.closed = true
			w.hangUp(l, 0, w.arrival())
		}
	})
}

// claim asks the arbiter, or grants every claim if there is none.
func (w *world) claim(p *proc) {
	if !w.plan.arbiter {
		w.at(w.now, p, func() { p.claimed(true) })
		return
	}
	w.at(w.now+w.around(w.plan.arbiterDelay), nil, func() {
		if w.arbiter == nil && (!p.gone || w.chance(50)) {
			w.arbiter = p
			w.tell(p, "wins at the arbiter")
		}
		won := w.arbiter == p
		w.at(w.now+w.around(w.plan.arbiterDelay), p, func() { p.claimed(won) })
	})
}

// sendFrame notes a frame that leaves, from process p.
func (w *world) sendFrame(p *proc, seq uint64, data []byte) {
	w.tell(p, "frame %d: %x", seq, data)
	switch sent := uint64(len(w.frames)); {
	case seq > sent:
		w.violate("frames %d to %d are missing: %s sends %d", sent, seq-1, p.name, seq)
	case seq == sent:
		w.frames = append(w.frames, data)
	default:
		w.again++
		if !bytes.Equal(w.frames[seq], data) {
			w.violate("frame %d left as %x, and leaves from the %s as %x", seq, w.frames[seq], p.name, data)
		}
	}
}

// leave notes console output that leaves, from process p.
func (w *world) leave(p *proc, seq uint64, data []byte) {
	if len(data) == 0 {
		return
	}
	w.tell(p, "console %d: %q", seq, data)
	end := seq + uint64(len(data))
	if seq > w.high {
		w.violate("console bytes %d to %d are missing: %s prints what comes after", w.high, seq, p.name)
	}
	if seq < w.high {
		w.repeated += min(w.high, end) - seq
	}
	w.high = max(w.high, end)
	w.left = append(w.left, chunk{seq, slices.Clip(data)})
}
