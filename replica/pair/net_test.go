package pair

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ftvm/replica"
	"ftvm/vmm"
)

// chatter is a script that sends and receives.
var chatter = []op{send(0, "a"), hear(1), send(1, "b"), think(9), send(0, "c"), hear(3), send(1, "d"), say("end\n"), off()}

// TestFramesInLockstep: what arrives at the primary reaches the guest, what arrives at the backup does not; what the guest
// sends leaves from the primary only, in order.
func TestFramesInLockstep(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, change, chatter...)
		b.Frames(0, [][]byte{[]byte("lost")})
		p.nets[0].awaitFrame(t, "a")
		p.Frames(0, [][]byte{[]byte("1")})
		p.nets[0].awaitFrame(t, "c")
		p.Frames(1, [][]byte{[]byte("2"), []byte("3"), []byte("4")})
		p.ends(t)
		b.ends(t)
		sameMachine(t, p, b)
		if got := p.console.text(); got != "1\n2\n3\n4\nend\n" {
			t.Errorf("the guest got %q", got)
		}
		if got := append(p.nets[0].frames(), p.nets[1].frames()...); !slices.Equal(got, []string{"a", "c", "b", "d"}) {
			t.Errorf("%q left", got)
		}
		if got := append(b.nets[0].frames(), b.nets[1].frames()...); len(got) > 0 || p.nets[0].announced != 0 || b.nets[0].announced != 0 {
			t.Errorf("%q left from the backup, announced %d, %d", got, p.nets[0].announced, b.nets[0].announced)
		}
	})
}

// TestFramesAfterTakeover: the survivor announces the machine's new place on each interface before it sends what is not
// known to have left. No frame is missing.
func TestFramesAfterTakeover(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, change, chatter...)
		p.Frames(0, [][]byte{[]byte("1")})
		p.nets[0].awaitFrame(t, "c")
		p.die()
		b.log.awaitLine(t, "this replica is the primary now")
		b.Frames(0, [][]byte{[]byte("2"), []byte("3"), []byte("4")})
		b.ends(t)
		oneStream(t, p, b, "1\n2\n3\n4\nend\n")
		for i, want := range []string{"ac", "bd"} {
			before, after := strings.Join(p.nets[i].frames(), ""), strings.Join(b.nets[i].frames(), "")
			if !strings.HasPrefix(want, before) || !strings.HasSuffix(want, after) || len(before)+len(after) < len(want) {
				t.Errorf("interface %d: %q left from the primary, then %q from the backup; want %q", i, before, after, want)
			}
			if b.nets[i].announced != 1 {
				t.Errorf("interface %d: announced when %d frames had left", i, b.nets[i].announced-1)
			}
		}
		var numbers []uint64
		for i := range b.nets {
			numbers = append(numbers, b.nets[i].numbers...)
		}
		slices.Sort(numbers)
		for i := 1; i < len(numbers); i++ {
			if numbers[i] != numbers[i-1]+1 {
				t.Errorf("frames %d left from the backup", numbers)
			}
		}
	})
}

// TestFramesWait: a record brings what the guest has room for. Whoever brings more waits.
func TestFramesWait(t *testing.T) {
	for _, exact := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s := newSide("alone", nap(time.Second), nap(time.Second), hear(7), off())
			s.machine.exact = exact
			s.startAlone(t)
			took := make(chan int, 3)
			go func() {
				for i, text := range []string{"one two three", "four", "five six seven"} {
					var frames [][]byte
					for word := range strings.FieldsSeq(text) {
						frames = append(frames, []byte(word))
					}
					s.Frames(0, frames)
					took <- i
				}
			}()
			synctest.Wait()
			if len(took) != 1 {
				t.Errorf("%d of 3 were taken while the guest takes nothing", len(took))
			}
			s.ends(t)
			synctest.Wait()
			if got := strings.Fields(s.console.text()); !slices.Equal(got, strings.Fields("one two three four five six seven")) {
				t.Errorf("the guest got %q", got)
			}
		})
	}
}

// TestFramesEndEpochs: on an exact clock a frame ends the epoch at once, but not when it has just begun: a guest gets on,
// however many frames come.
func TestFramesEndEpochs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", say("x"), think(10_000), off())
		s.machine.exact, s.opt.EpochLength, s.opt.EpochTime = true, 1_000_000, 200*50*time.Millisecond
		// A position takes 1 ms, and every 10 ms a frame comes.
		from := 0
		for i := range 1000 {
			s.machine.hooks[vmm.Position(10*i)] = func() { from++; go s.Frames(0, [][]byte{{}}) }
		}
		s.machine.each = func() { time.Sleep(time.Millisecond) }
		s.startAlone(t)
		s.ends(t)
		// 50 ms is the shortest epoch. The rest lasts for as long as EpochTime says.
		if r := s.Report(); r.Epochs < 200 || r.Epochs > 220 {
			t.Errorf("%d frames in 10 s made %d epochs", from, r.Epochs)
		}
	})
}

// TestFramesWakeTheGuest: a frame for a guest that waits costs one boundary.
func TestFramesWakeTheGuest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", hear(100), off())
		s.machine.exact = true
		s.startAlone(t)
		for range 100 {
			s.Frames(0, [][]byte{{'x'}})
			synctest.Wait()
		}
		s.ends(t)
		if r := s.Report(); r.Epochs > 103 {
			t.Errorf("100 frames made %d epochs", r.Epochs)
		}
	})
}

// TestManyFramesInARecord: frames that came together enter together.
func TestManyFramesInARecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", hear(8), off())
		p := led(t, s)
		heard := p.listen()
		p.say(replica.Ack{})
		synctest.Wait()
		p.say(replica.Ack{Held: 1, Verified: 1})
		var frames [][]byte
		for i := range 8 {
			frames = append(frames, fmt.Append(nil, i))
		}
		s.Frames(0, frames)
		synctest.Wait()
		entered := 0
		for _, in := range (*heard)[1].(replica.RecordMessage).Inputs {
			if in.Kind == vmm.InputFrame {
				entered++
			}
		}
		if entered != len(frames) {
			t.Errorf("heard %+v", (*heard)[1])
		}
	})
}
