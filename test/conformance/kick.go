package conformance

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"ftvm/vmm"
)

// kickBefore kicks while no Run is under way.
func kickBefore(t *testing.T, make maker) {
	p := program{kernel: code("e6 80", "e6 f4")} // out 0x80, al; out endPort, al
	g := p.start(t, make)
	before := g.state()
	g.cpu.Kick()
	g.cpu.Kick()
	if x := g.run(forever, false); x.Reason != vmm.ExitKick || x.Mid {
		t.Fatalf("Run after Kick: exit %+v, want ExitKick and not Mid", x)
	}
	wantState(t, g.state(), before)
	g.wantBus()
	// Kicks are not counted.
	g.runToEnd()
	g.wantBus("out 80 00", "out f4 00")
}

// kickLoop kicks a guest that never exits, from another goroutine, at all moments around
// the start of Run. If a kick is lost, Run does not return.
func kickLoop(t *testing.T, new maker) {
	for _, cpl := range []int{0, 3} {
		body := code("eb fe") // jmp to itself
		p := program{kernel: body, user: body, atCPL3: cpl == 3}
		g := p.start(t, new)
		k := startKicker(g.cpu)
		rounds := 2000
		if runtime.NumCPU() == 1 {
			rounds = 50 // each waits for the guest's time slice to end
		}
		for round := range rounds {
			lost := time.AfterFunc(10*time.Second, func() {
				t.Errorf("at CPL%d: the kick of round %d was lost", cpl, round)
				g.cpu.Kick()
			})
			for !k.kick(round % 500) {
				runtime.Gosched()
			}
			x := g.run(forever, false)
			lost.Stop()
			if x.Reason != vmm.ExitKick {
				t.Errorf("at CPL%d, round %d: exit %+v, want ExitKick", cpl, round, x)
			}
			if x.Mid && g.cpu.Clock().Exact {
				t.Errorf("at CPL%d, round %d: Mid on an exact clock", cpl, round)
			}
			if t.Failed() {
				break
			}
		}
		k.stop()
	}
}

// kickStorm kicks all the time while a guest makes accesses: there are no more returns than
// kicks, and otherwise nothing changes.
func kickStorm(t *testing.T, new maker) {
	want := workout.start(t, new)
	want.lockstep(forever, nil)
	g := workout.start(t, new)
	k := startKicker(g.cpu)
	sent := uint64(0)
	g.lockstep(forever, func() {
		// The kicker may not have had a processor since the last order.
		for !k.kick(int(sent % 64)) {
			runtime.Gosched()
		}
		sent++
	})
	k.stop()
	if g.kicks == 0 || g.kicks > sent {
		t.Errorf("%d kicks made Run return ExitKick %d times", sent, g.kicks)
	}
	g.wantSame(want)
}

// kicker kicks an engine from a goroutine of its own. It waits for orders in a busy loop, to be
// at hand in the few hundred nanoseconds in which Run prepares to enter the guest.
type kicker struct {
	order atomic.Int64 // turns of an idle loop before the next kick; idle, or ended
	done  chan struct{}
}

const (
	idle  = -1
	ended = -2
)

func startKicker(cpu vmm.Engine) *kicker {
	k := &kicker{done: make(chan struct{})}
	k.order.Store(idle)
	go func() {
		defer close(k.done)
		var turns atomic.Uint32
		for {
			switch n := k.order.Load(); n {
			case ended:
				return
			case idle:
				runtime.Gosched()
			default:
				for range n {
					turns.Add(1)
				}
				cpu.Kick()
				k.order.Store(idle)
			}
		}
	}()
	return k
}

// kick orders a kick after so many turns, and reports whether the last one has been made.
func (k *kicker) kick(turns int) bool { return k.order.CompareAndSwap(idle, int64(turns)) }

// stop waits until the last kick is made.
func (k *kicker) stop() {
	for !k.order.CompareAndSwap(idle, ended) {
		runtime.Gosched()
	}
	<-k.done
}
