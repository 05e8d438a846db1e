package pair

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ftvm/epoch"
	"ftvm/replica"
	"ftvm/vmm"
)

// The tests of this file run in bubbles, in which time passes when nothing else happens, and in which
// "nothing more happens" can be seen. Connections are pipes there.

// bubble runs f in one.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Run("", func(t *testing.T) { synctest.Test(t, f) })
}

// pipes is a Listener of pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	fails  atomic.Int32 // so many Accepts fail
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	if p.fails.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return nil }

// dial is a backup's connection through p.
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

// follow starts s as the backup whose primary the test is.
func follow(t *testing.T, s *side) *peer {
	ours, theirs := net.Pipe()
	n := newNode(s.opt, replica.NewBackup)
	n.install(newLink(theirs), nil)
	s.start(t, n, nil)
	p := newPeer(t, newLink(ours), nil)
	p.SetDeadline(time.Time{})
	return p
}

// led starts s as the primary whose backup the test is.
func led(t *testing.T, s *side) *peer {
	t.Helper()
	ln := newPipes()
	s.start(t, NewPrimary(s.opt), ln)
	l, _, err := greet(ln.dial(), s.opt.Settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, l, nil)
	p.SetDeadline(time.Time{})
	synctest.Wait() // until it is installed
	return p
}

// listen keeps what the peer hears.
func (p *peer) listen() *[]replica.Message {
	var heard []replica.Message
	go func() {
		for {
			m, err := p.read()
			if err != nil {
				return
			}
			d, err := replica.Decode(m)
			if err != nil {
				p.t.Error(err)
				return
			}
			heard = append(heard, d)
		}
	}()
	return &heard
}

// TestTypeWaits: who types waits until the guest took what was typed before.
func TestTypeWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", write(0, 1, "x"), await(), open(), ask(20), off())
		s.disks[0].held = true
		s.startAlone(t)
		typed := make(chan int, 3)
		go func() {
			for i, text := range []string{"0123456789", "abcd", "efghij"} {
				s.Type([]byte(text))
				typed <- i
			}
		}()
		synctest.Wait()
		if len(typed) != 1 {
			t.Errorf("%d of 3 were taken while the guest takes nothing", len(typed))
		}
		s.disks[0].set(func(d *disk) { d.held = false })
		s.ends(t)
		synctest.Wait()
		if got := s.console.text(); got != "0123456789abcdefghij" || len(typed) != 3 {
			t.Errorf("%q came out of %d", got, len(typed))
		}
	})
}

// TestTypeEnds: who waits with Type does not wait for a node that is over.
func TestTypeEnds(t *testing.T) {
	for _, stop := range []func(s *side){
		func(s *side) { s.Quit("enough") }, func(s *side) { s.cancel() }, func(s *side) { s.Fail(errToy) },
	} {
		bubble(t, func(t *testing.T) {
			s := newSide("the primary", off())
			s.start(t, NewPrimary(s.opt), newPipes())
			typed := make(chan bool, 3)
			for range 3 {
				go func() { s.Type([]byte("x")); typed <- true }()
			}
			synctest.Wait()
			if len(typed) != 1 {
				t.Errorf("%d of 3 did not wait", len(typed))
			}
			stop(s)
			synctest.Wait()
			if len(typed) != 3 {
				t.Errorf("%d of 3 ended", len(typed))
			}
		})
	}
}

// TestHeartbeats: a primary goes on alone when its backup was silent for so many heartbeats, and
// tells it.
func TestHeartbeats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", say("x"), ask(1), off())
		s.opt.Heartbeat = 10 * time.Millisecond
		p := led(t, s)
		heard := p.listen()
		for range 20 { // it speaks: all is well
			p.say(replica.Ack{})
			time.Sleep(35 * time.Millisecond)
		}
		began := time.Now()
		p.say(replica.Ack{})
		s.log.awaitLine(t, "going on alone")
		if took := time.Since(began); took < 40*time.Millisecond || took > 50*time.Millisecond {
			t.Errorf("it waited for %v", took)
		}
		synctest.Wait()
		if g, ok := (*heard)[len(*heard)-1].(replica.Goodbye); !ok || g.Cause != replica.CauseDropped {
			t.Errorf("the last word is %+v", (*heard)[len(*heard)-1])
		}
		beats := 0
		for _, m := range *heard {
			if _, ok := m.(replica.Heartbeat); ok {
				beats++
			}
		}
		if beats < 73 || beats > 76 {
			t.Errorf("%d heartbeats in 750 ms", beats)
		}
	})
}

// TestSilentPrimary: a backup takes over when its primary was silent for so many heartbeats.
func TestSilentPrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the backup", say("x"), off())
		s.opt.Heartbeat = 10 * time.Millisecond
		p := follow(t, s)
		heard := p.listen()
		l := lead(t, s.machine.script...)
		p.say(l.record())
		for range 20 {
			p.say(replica.Heartbeat{})
			time.Sleep(35 * time.Millisecond)
		}
		if s.console.text() != "" {
			t.Errorf("showed %q", s.console.text())
		}
		began := time.Now()
		p.say(replica.Heartbeat{})
		s.ends(t)
		if took := time.Since(began); took < 40*time.Millisecond || took > 50*time.Millisecond+drainTime {
			t.Errorf("it waited for %v", took)
		}
		if s.console.text() != "x" {
			t.Errorf("showed %q", s.console.text())
		}
		synctest.Wait()
		dropped := func(m replica.Message) bool {
			g, ok := m.(replica.Goodbye)
			return ok && g.Cause == replica.CauseDropped
		}
		if !slices.ContainsFunc(*heard, dropped) {
			t.Errorf("the old primary was not told: %+v", *heard)
		}
	})
}

// TestLag: a primary waits for a backup that holds records but does not execute them.
func TestLag(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", think(1000), off())
		s.opt.Core.MaxLag = 10
		p := led(t, s)
		heard := p.listen()
		p.say(replica.Ack{})
		for verified := range epoch.Number(20) {
			synctest.Wait()
			newest := epoch.Number(0)
			for _, m := range *heard {
				if r, ok := m.(replica.RecordMessage); ok {
					newest = r.Epoch
				}
			}
			if want := verified + 10; newest != want {
				t.Fatalf("%d epochs are verified, the newest record is %d, want %d", verified, newest, want)
			}
			p.say(replica.Ack{Held: newest + 1, Verified: verified + 1})
		}
	})
}

// TestTimeAfterWaiting: a guest that had to wait for its backup goes on with the time of now; but every other epoch begins in any case.
func TestTimeAfterWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", think(1000), off())
		s.opt.Core.MaxLag, s.opt.EpochTime = 10, 10*time.Millisecond
		p := led(t, s)
		heard := p.listen()
		p.say(replica.Ack{})
		newest := func(want epoch.Number) (r epoch.Record) {
			t.Helper()
			synctest.Wait()
			for _, m := range *heard {
				if m, ok := m.(replica.RecordMessage); ok {
					r = m.Record
				}
			}
			if r.Epoch != want {
				t.Fatalf("the newest record is %d, want %d", r.Epoch, want)
			}
			return r
		}
		at := newest(10).Position
		for n := range epoch.Number(6) {
			time.Sleep(time.Second)
			p.say(replica.Ack{Held: 11 + n, Verified: 1 + n})
			r := newest(11 + n)
			renewed := n%2 == 0
			if r.Time != vmm.Time(time.Now().UnixNano()) || (r.Position == at) != renewed {
				t.Errorf("record %d is of position %d after %d, and of time %d; it is %d", r.Epoch, r.Position, at, r.Time, time.Now().UnixNano())
			}
			at = r.Position
		}
		s.quit(t)
	})
}

// TestOutputWaits: an output leaves when the record that opened its epoch is acknowledged; if commit
// means verified, when that epoch was executed. A boundary is made at once for that.
func TestOutputWaits(t *testing.T) {
	for _, verified := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s := newSide("the primary", say("x"), ask(1), off())
			s.opt.Core.Verified = verified
			p := led(t, s)
			heard := p.listen()
			p.say(replica.Ack{})
			time.Sleep(time.Minute) // and no longer, whatever happens
			synctest.Wait()
			if s.console.text() != "" {
				t.Error("an output left before its record was held")
			}
			p.say(replica.Ack{Held: 1})
			synctest.Wait()
			if got := s.console.text(); (got == "x") == verified {
				t.Errorf("showed %q when its record was held", got)
			}
			if verified {
				if len(*heard) != 2 {
					t.Fatalf("heard %d messages, want 2 records", len(*heard))
				}
				p.say(replica.Ack{Held: 2, Verified: 1})
				synctest.Wait()
				if s.console.text() != "" {
					t.Error("an output left before its epoch was verified")
				}
				p.say(replica.Ack{Held: 2, Verified: 2})
				synctest.Wait()
				if got := s.console.text(); got != "x" {
					t.Errorf("showed %q when its epoch was verified", got)
				}
			}
			if r := s.quit(t); r.GateWaitSeconds < 60 || r.GateWaitSeconds > 61 {
				t.Errorf("the output waited for %v s", r.GateWaitSeconds)
			}
		})
	}
}

// quit ends the machine and returns the report.
func (s *side) quit(t *testing.T) Report {
	t.Helper()
	s.Quit("enough")
	s.ends(t)
	return s.Report()
}

// TestLeaveWaitsForConsole: a primary that leaves tells its backup that all it has let out has left,
// so that nothing is repeated; but it does not wait for long. Meanwhile it lives, and says so.
func TestLeaveWaitsForConsole(t *testing.T) {
	for _, row := range []struct {
		takes time.Duration // of the console, for all it was given
		left  uint64        // as the last word has it
	}{
		{0, 6}, {80 * time.Millisecond, 6}, {time.Hour, 0},
	} {
		bubble(t, func(t *testing.T) {
			s := newSide("the primary", say("abcdef"), ask(1), off())
			s.opt.Heartbeat = 10 * time.Millisecond
			s.console.held = true
			p := led(t, s)
			heard := p.listen()
			p.say(replica.Ack{})
			synctest.Wait()
			p.say(replica.Ack{Held: 1})
			s.console.awaitText(t, "abcdef")
			began := time.Now()
			s.cancel()
			go func() {
				time.Sleep(min(row.takes, consoleTime))
				if row.takes < consoleTime {
					s.ConsoleSent(6, nil)
				}
				time.Sleep(consoleTime)
				p.Close()
			}()
			s.ends(t)
			synctest.Wait()
			if g, ok := (*heard)[len(*heard)-1].(replica.Goodbye); !ok || g.Cause != replica.CauseLeaving || g.Left.Console != row.left {
				t.Errorf("console takes %v: the last word is %+v, want that %d bytes left", row.takes, (*heard)[len(*heard)-1], row.left)
			}
			beats := 0
			for _, m := range *heard {
				if _, ok := m.(replica.Heartbeat); ok {
					beats++
				}
			}
			waited := min(row.takes, consoleTime)
			if want := int(waited / s.opt.Heartbeat); beats < want-1 || time.Since(began) < waited {
				t.Errorf("console takes %v: it said that it lives %d times in %v, want %d", row.takes, beats, waited, want)
			}
		})
	}
}

// TestPeerDoesNotRead: a replica that leaves waits for drainTime at most for its peer, which may
// also go on sending for ever.
func TestPeerDoesNotRead(t *testing.T) {
	for _, sends := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s := newSide("the backup", ask(1), off())
			p := follow(t, s)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for sends && p.write(replica.Encode(replica.Heartbeat{})) == nil {
					time.Sleep(time.Millisecond)
				}
			}()
			synctest.Wait()
			began := time.Now()
			s.cancel()
			s.ends(t)
			if took := time.Since(began); took > drainTime {
				t.Errorf("it took %v to leave", took)
			}
			p.Close()
			<-done
		})
	}
}

// TestOldConnectionIsClosed: one that was replaced does not stay open, whatever its other end does.
func TestOldConnectionIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", ask(1), off())
		p := led(t, s)
		l, _, err := greet(s.ln.(*pipes).dial(), s.opt.Settings, s.session)
		if err != nil {
			t.Fatal(err)
		}
		newPeer(t, l, nil)
		began := time.Now()
		if m, err := p.read(); err == nil {
			t.Errorf("heard %v on the old connection", m)
		}
		if took := time.Since(began); took > drainTime {
			t.Errorf("it was closed after %v", took)
		}
	})
}

// TestSessionThatIsOver: a backup that was let in just before its session ended is not.
func TestSessionThatIsOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", ask(1), off())
		led(t, s)
		ours, theirs := net.Pipe()
		s.install(newLink(theirs), []byte("another"))
		if n, err := ours.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("it hears %d bytes, %v", n, err)
		}
		s.Type([]byte("x"))
		s.quit(t)
	})
}

// TestWaitsAreNotThePace: how fast a guest is says what it did while it ran, and not how long its disk took.
func TestWaitsAreNotThePace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", think(20), write(0, 1, "a"), await(), off())
		s.machine.exact, s.opt.EpochLength, s.opt.EpochTime = true, 1e6, 100*time.Millisecond
		s.machine.each = func() { time.Sleep(time.Millisecond) }
		s.disks[0].held = true
		s.startAlone(t)
		s.disks[0].awaitRequests(t, 1)
		time.Sleep(50 * time.Millisecond)
		s.Frames(0, [][]byte{{'x'}})
		synctest.Wait()
		if s.pace != 100 {
			t.Errorf("%d positions in %v, want 100", s.pace, s.opt.EpochTime)
		}
		s.disks[0].finish()
		s.ends(t)
	})
}

// TestSilentStrangers: they do not keep the backup out, and are not waited for.
func TestSilentStrangers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", off())
		ln := newPipes()
		s.start(t, NewPrimary(s.opt), ln)
		for range 10 {
			ln.dial()
		}
		began := time.Now()
		l, _, err := greet(ln.dial(), s.opt.Settings, nil)
		if err != nil || time.Since(began) != 0 {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		newPeer(t, l, nil)
		s.log.awaitLine(t, "turned away a peer: the peer does not answer within 5s")
		if took := time.Since(began); took != handshakeTime {
			t.Errorf("they were turned away after %v", took)
		}
	})
}

// TestAcceptFails: for a while; the backup gets in afterwards.
func TestAcceptFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", off())
		ln := newPipes()
		ln.fails.Store(3)
		s.start(t, NewPrimary(s.opt), ln)
		l, _, err := greet(ln.dial(), s.opt.Settings, nil)
		if err != nil {
			t.Fatal(err)
		}
		newPeer(t, l, nil)
		synctest.Wait()
		s.log.awaitLine(t, "a connection could not be accepted: too many open files")
	})
}

// TestIdle: a guest that waits makes no epochs, whatever time passes; a halted guest's alarm ends one.
func TestIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", ask(1), off())
		s.opt.Heartbeat, s.opt.EpochTime = 10*time.Millisecond, 5*time.Millisecond
		s.startAlone(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.Type([]byte("x"))
		s.ends(t)
		if r := s.Report(); r.Epochs > 5 || r.WallSeconds < 60 {
			t.Errorf("report %+v", r)
		}
	})
}

// TestOldEpochs: epochs that are too old as soon as they begin do not keep the guest from moving.
func TestOldEpochs(t *testing.T) {
	s := newSide("alone", work...)
	s.opt.EpochTime = 1
	s.startAlone(t)
	s.Type([]byte("hello, world"))
	s.ends(t)
	if got := s.console.text(); got != workShows {
		t.Errorf("showed %q, want %q", got, workShows)
	}
}

// TestOldEpochsWithoutExits: on an exact clock a guest may run for long without an exit; its epochs end all the same.
func TestOldEpochsWithoutExits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", think(1000), off())
		s.machine.exact, s.machine.blind = true, true
		s.opt.EpochLength, s.opt.EpochTime = 1_000_000, 10*time.Millisecond
		s.machine.each = func() { time.Sleep(time.Millisecond) }
		s.startAlone(t)
		s.ends(t)
		if r := s.Report(); r.Epochs < 90 || r.Epochs > 130 {
			t.Errorf("%d epochs in 1 s", r.Epochs)
		}
	})
}

// TestTimerInTime: an epoch outlives the guest's timers that the machine's own count has fire in time.
func TestTimerInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", think(100_000), off())
		s.machine.exact, s.machine.blind, s.machine.period = true, true, vmm.Time(4*time.Millisecond)
		s.opt.EpochLength, s.opt.EpochTime = 1_000_000, 10*time.Millisecond
		s.machine.each = func() { time.Sleep(toyTick) }
		s.startAlone(t)
		s.ends(t)
		if r := s.Report(); r.Epochs < 10 || r.Epochs > 14 {
			t.Errorf("%d epochs in 0.1 s", r.Epochs)
		}
	})
}

// TestNap: a halted guest's alarm ends its epoch in time, and no earlier.
func TestNap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", nap(50*time.Millisecond), say("x"), nap(10*time.Second), off())
		s.opt.EpochTime = 5 * time.Millisecond
		began := time.Now()
		s.startAlone(t)
		s.console.awaitText(t, "x")
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("the first nap took %v", took)
		}
		s.ends(t)
		if took := time.Since(began) - 50*time.Millisecond; took < 10*time.Second || took > 10*time.Second+time.Millisecond {
			t.Errorf("the second nap took %v", took)
		}
		if r := s.Report(); r.Epochs > 10 {
			t.Errorf("report %+v", r)
		}
	})
}

// TestHalfARecord: a connection that ends within a message is a lost connection, no broken peer.
func TestHalfARecord(t *testing.T) {
	for _, half := range []string{"\x50", "\xff\xff", "\x50abc", strings.Repeat("\xff", 20)} {
		b := newSide("the backup", say("x"), off())
		p := let(t, b)
		l := lead(t, b.machine.script...)
		p.say(l.record())
		p.ln.Close() // first, so that the backup finds nobody when it comes back
		if _, err := p.Write([]byte(half)); err != nil {
			t.Fatal(err)
		}
		p.Close()
		b.ends(t)
		if b.console.text() != "x" {
			t.Errorf("after %q it showed %q", half, b.console.text())
		}
	}
}

// TestBadRecord: what a backup cannot apply stops it, and is the peer's fault.
func TestBadRecord(t *testing.T) {
	script := []op{read(0, 1), await(), off()}
	for _, row := range []struct {
		name   string
		change func(r *epoch.Record)
		want   string
	}{
		{"time goes back", func(r *epoch.Record) { r.Time = 0 }, "time would go back"},
		{"a completion of no request", func(r *epoch.Record) { r.Inputs = []vmm.Input{{Kind: vmm.InputDisk, ID: 7, Local: true}} },
			"a completion of request 7 of disk 0, which the guest did not make"},
		{"a completion of no disk", func(r *epoch.Record) { r.Inputs = []vmm.Input{{Kind: vmm.InputDisk, Device: 99, Local: true}} },
			"a completion of request 0 of disk 99, which the guest did not make"},
		{"a completion twice", func(r *epoch.Record) {
			r.Inputs = []vmm.Input{{Kind: vmm.InputDisk, Local: true}, {Kind: vmm.InputDisk, Local: true}}
		},
			"a completion of request 0 of disk 0, which the guest did not make"},
		{"too much input", func(r *epoch.Record) { r.Inputs = []vmm.Input{{Kind: vmm.InputConsole, Data: make([]byte, 100)}} }, "no room"},
		{"another number", func(r *epoch.Record) { r.Epoch += 5 }, "record 6 came where 1 is next"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := newSide("the backup", script...)
			p := let(t, b)
			l := lead(t, script...)
			p.say(l.record())
			r := l.record()
			row.change(&r.Record)
			p.say(r)
			g := p.hearUntil(isGoodbye).(replica.Goodbye)
			p.Close()
			err := b.wait(t)
			if !errors.Is(err, replica.ErrPeer) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("the backup stopped with %v, want %q", err, row.want)
			}
			if g.Cause != replica.CauseLeaving || g.Reason != err.Error() {
				t.Errorf("its last word was %+v", g)
			}
		})
	}
}

// TestPeerThatLies: a primary goes on without a backup that breaks the protocol.
func TestPeerThatLies(t *testing.T) {
	for name, lie := range map[string]replica.Message{
		"it holds what was never sent": replica.Ack{Held: 1000},
		"a record":                     replica.RecordMessage{Record: epoch.Record{Length: 1}},
		"the machine is over":          replica.Goodbye{Cause: replica.CauseEnded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSide("the primary", say("x"), ask(1), off())
			s.startPrimary(t)
			p, _, err := enter(t, s.address(), nil)
			if err != nil {
				t.Fatal(err)
			}
			p.say(replica.Ack{})
			p.hear()
			p.say(lie)
			s.log.awaitLine(t, "going on alone")
			s.Type([]byte("y"))
			p.Close()
			s.ends(t)
			if got := s.console.text(); got != "xy" {
				t.Errorf("showed %q", got)
			}
		})
	}
}

// TestSlowConsole: a guest does not fill the memory of a host whose console nobody reads.
func TestSlowConsole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var script []op
		for range 100 {
			script = append(script, say(strings.Repeat("x", 100_000)))
		}
		s := newSide("alone", append(script, off())...)
		s.console.held = true
		s.startAlone(t)
		synctest.Wait()
		shown := uint64(len(s.console.text()))
		if shown < 1<<20 || shown > 3<<20 {
			t.Errorf("%d bytes were handed out", shown)
		}
		for last := uint64(0); shown < 10_000_000; synctest.Wait() {
			if shown == last {
				t.Fatalf("stuck at %d bytes", shown)
			}
			last = shown
			s.ConsoleSent(shown, nil)
			synctest.Wait()
			shown = uint64(len(s.console.text()))
		}
		s.ConsoleSent(shown, nil)
		s.ends(t)
	})
}
