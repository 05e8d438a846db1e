package pair

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"ftvm/epoch"
	"ftvm/replica"
	"ftvm/vmm"
)

// peer is the other end of a node's connection, in the hands of a test.
type peer struct {
	*link
	t  *testing.T
	ln net.Listener // of a primary
}

func newPeer(t *testing.T, l *link, ln net.Listener) *peer {
	t.Cleanup(func() { l.Close() })
	l.SetDeadline(time.Now().Add(patience))
	return &peer{l, t, ln}
}

// enter comes to the primary at addr as a backup; session is nil the first time.
func enter(t *testing.T, addr string, session []byte) (*peer, []byte, error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l, session, err := greet(c, newSide("").opt.Settings, session)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return newPeer(t, l, nil), session, nil
}

// let makes s the backup of the test.
func let(t *testing.T, s *side) *peer {
	t.Helper()
	ln := listen(t)
	t.Cleanup(func() { ln.Close() })
	links := make(chan *link, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		l, err := answer(c, s.opt.Settings, func([]byte) ([]byte, error) { return []byte("session"), nil })
		if err != nil {
			t.Error(err)
			c.Close()
			return
		}
		links <- l
	}()
	s.startBackup(t, ln.Addr().String())
	return newPeer(t, <-links, ln)
}

func (p *peer) say(m replica.Message) {
	p.t.Helper()
	if err := p.write(replica.Encode(m)); err != nil {
		p.t.Fatal(err)
	}
}

// hear returns the next message.
func (p *peer) hear() replica.Message {
	p.t.Helper()
	m, err := p.read()
	if err != nil {
		p.t.Fatalf("listening: %v", err)
	}
	got, err := replica.Decode(m)
	if err != nil {
		p.t.Fatal(err)
	}
	return got
}

// hearUntil returns the first message that is as wanted.
func (p *peer) hearUntil(wanted func(m replica.Message) bool) replica.Message {
	p.t.Helper()
	for {
		if m := p.hear(); wanted(m) {
			return m
		}
	}
}

// records hears the records from one to before another, and nothing else.
func (p *peer) records(from, to epoch.Number) {
	p.t.Helper()
	for want := from; want < to; want++ {
		if m, ok := p.hear().(replica.RecordMessage); !ok || m.Epoch != want {
			p.t.Fatalf("heard %+v, want record %d", m, want)
		}
	}
}

func isGoodbye(m replica.Message) bool { _, ok := m.(replica.Goodbye); return ok }

// verified waits until the node says that it found so many boundaries equal.
func (p *peer) verified(n epoch.Number) {
	p.t.Helper()
	p.hearUntil(func(m replica.Message) bool { a, ok := m.(replica.Ack); return ok && a.Verified >= n })
}

// die is the end of the test's process.
func (p *peer) die() {
	p.ln.Close()
	p.Close()
}

// leader is a machine that a test runs as the primary does, for the sake of its records.
type leader struct {
	t *testing.T
	m *toy
	x *epoch.Executor
}

func lead(t *testing.T, script ...op) *leader {
	m := newToy(script)
	return &leader{t, m, epoch.NewExecutor(m, 3)}
}

// record runs the present epoch to its full length and returns the record that ends it, with inputs.
func (l *leader) record(inputs ...vmm.Input) replica.RecordMessage {
	l.t.Helper()
	if _, err := l.x.Run(nil); err != nil {
		l.t.Fatal(err)
	}
	b, err := l.x.Close()
	if err != nil {
		l.t.Fatal(err)
	}
	r := epoch.Record{Epoch: l.x.Opened(), Position: b.Position, Digest: b.Digest, Memory: b.Memory, Ended: b.Ended, Length: 7, Time: b.Time, Rate: toyTick * vmm.RateUnit, Inputs: inputs}
	if err := l.x.Open(r); err != nil {
		l.t.Fatal(err)
	}
	return replica.RecordMessage{Record: r}
}

// TestP7Interleavings: requests without a completion in a record are the guest's at the end of
// the failover epoch, whenever they were done. Those that failed are issued again. Requests 0
// and 1 are made before the takeover, request 2 in the failover epoch.
func TestP7Interleavings(t *testing.T) {
	script := []op{read(0, 1), read(0, 2), think(6), read(0, 3), think(30), await(), off()}
	for i := range 24 {
		before, during, fail := i/2%3, i/6, i%2 == 1 // requests done before the primary died, and in the failover epoch
		if before+during <= 3 {
			t.Run(fmt.Sprintf("before=%d/during=%d/fail=%v", before, during, fail), func(t *testing.T) {
				t.Parallel()
				b := newSide("the backup", script...)
				b.disks[0].held, b.disks[0].marked = true, true
				if fail {
					b.disks[0].broken = errBroken
				}
				b.machine.hooks[11] = func() {
					for range during {
						b.disks[0].finish()
					}
				}
				p := let(t, b)
				l := lead(t, script...)
				p.say(l.record())
				p.say(l.record())
				p.verified(2)
				for range before {
					b.disks[0].finish()
				}
				p.die()
				b.log.awaitLine(t, "this replica is the primary now")
				b.disks[0].set(func(d *disk) { d.held, d.broken = false, nil })
				b.ends(t)
				var got, want []string
				for _, in := range b.machine.delivered {
					got = append(got, string(in.Data))
				}
				for seq := range 3 {
					try := 1
					if fail && seq < before+during {
						try = 2
					}
					want = append(want, fmt.Sprintf("r%d.%d\n", seq, try))
				}
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("the guest got %q, want %q", got, want)
				}
				if r := b.Report(); r.Takeover == nil || r.Takeover.Repeated != len(want) {
					t.Errorf("report %+v, takeover %+v", r, r.Takeover)
				}
			})
		}
	}
}

// TestP7WhileCompletionsCome: the same with a disk that does not wait for anybody.
func TestP7WhileCompletionsCome(t *testing.T) {
	var script []op
	for i := range uint64(40) {
		script = append(script, read(0, i))
	}
	script = append(script, await(), off())
	for range 20 {
		b := newSide("the backup", script...)
		b.opt.EpochLength = 1
		b.disks[0].marked = true
		p := let(t, b)
		l := lead(t, script...)
		p.say(l.record())
		p.say(l.record())
		p.die()
		b.ends(t)
		seen := map[uint64]int{}
		for _, in := range b.machine.delivered {
			seen[in.ID]++
			if string(in.Data) != fmt.Sprintf("r%d.1\n", in.ID) {
				t.Errorf("request %d completed with %q", in.ID, in.Data)
			}
		}
		for i := range uint64(40) {
			if seen[i] != 1 {
				t.Errorf("request %d completed %d times", i, seen[i])
			}
		}
	}
}

// TestBackupWaitsForItsDisk: a completion in a record waits for this replica's own disk, whose data
// it gets; and such a request is not issued again.
func TestBackupWaitsForItsDisk(t *testing.T) {
	script := []op{read(0, 1), read(0, 2), await(), show(), off()}
	b := newSide("the backup", script...)
	b.opt.Core.Verified = true // so that it acknowledges every boundary
	b.disks[0].held, b.disks[0].marked = true, true
	p := let(t, b)
	l := lead(t, script...)
	p.say(l.record())
	p.say(l.record(vmm.Input{Kind: vmm.InputDisk, ID: 0, Local: true, Data: []byte("r0.1\n")}))
	p.say(l.record(vmm.Input{Kind: vmm.InputDisk, ID: 1, Local: true, Data: []byte("r1.1\n")}))
	b.disks[0].awaitRequests(t, 2)
	b.disks[0].finish()
	p.verified(2)
	p.die()
	b.log.awaitLine(t, "taking over: 1 records to use up")
	b.disks[0].finish()
	b.ends(t)
	if b.console.text() != "r1.1\n" || len(b.machine.delivered) != 2 || len(b.disks[0].submitted) != 2 {
		t.Errorf("showed %q, the guest got %v, the disk %v", b.console.text(), b.machine.delivered, b.disks[0].submitted)
	}
}

// TestStopWhileWaitingForDisk: a replica that waits for its disk can be told to leave.
func TestStopWhileWaitingForDisk(t *testing.T) {
	script := []op{read(0, 1), await(), off()}
	b := newSide("the backup", script...)
	b.disks[0].held = true
	p := let(t, b)
	l := lead(t, script...)
	p.say(l.record())
	p.say(l.record(vmm.Input{Kind: vmm.InputDisk, ID: 0, Local: true}))
	b.disks[0].awaitRequests(t, 1)
	b.cancel()
	p.hearUntil(isGoodbye)
	p.Close()
	b.ends(t)
}

// TestGuestEndsInHeldRecords: the primary died after its guest's end, before it could say so. The
// backup has nothing to take over, but shows what was not known to have left.
func TestGuestEndsInHeldRecords(t *testing.T) {
	script := []op{say("bye\n"), off()}
	b := newSide("the backup", script...)
	var p *peer
	b.machine.hooks[0] = func() { // hold it up until the primary is dead
		p.die()
		b.log.awaitLine(t, "taking over")
	}
	p = let(t, b)
	l := lead(t, script...)
	p.say(l.record())
	p.say(l.record())
	b.ends(t)
	r := b.Report()
	if b.console.text() != "bye\n" || r.End != "power-off" {
		t.Errorf("showed %q, report %+v", b.console.text(), r)
	}
	if k := r.Takeover; k != nil && (k.DetectedNs < 0 || k.FirstInstructionNs < 0 || k.PrimaryNs < 0) {
		t.Errorf("takeover %+v tells of times before 1970", *k)
	}
}

// TestOver: a backup that hears of the end of the machine ends, whatever the reason is called.
func TestOver(t *testing.T) {
	for _, reason := range []string{"somebody typed Ctrl-A x", ""} {
		for _, cause := range []replica.Cause{replica.CauseQuit, replica.CauseEnded} {
			t.Run(fmt.Sprintf("%d %q", cause, reason), func(t *testing.T) {
				b := newSide("the backup", say("x"), ask(1), off())
				p := let(t, b)
				l := lead(t, b.machine.script...)
				p.say(l.record())
				p.say(replica.Goodbye{Cause: cause, Reason: reason})
				p.ln.Close()
				b.ends(t)
				if b.console.text() != "" {
					t.Errorf("the backup showed %q", b.console.text())
				}
			})
		}
	}
}

// TestDropped: a replica that is told that it does not count any more stops.
func TestDropped(t *testing.T) {
	b := newSide("the backup", say("x"), ask(1), off())
	p := let(t, b)
	p.say(replica.Goodbye{Cause: replica.CauseDropped, Reason: "too late"})
	if err := b.wait(t); !errors.Is(err, replica.ErrDropped) {
		t.Errorf("the backup stopped with %v", err)
	}

	s := newSide("the primary", say("x"), ask(1), off())
	s.startPrimary(t)
	q, _, err := enter(t, s.address(), nil)
	if err != nil {
		t.Fatal(err)
	}
	q.say(replica.Goodbye{Cause: replica.CauseDropped, Reason: "too late"})
	if err := s.wait(t); !errors.Is(err, replica.ErrDropped) {
		t.Errorf("the primary stopped with %v", err)
	}
}

// TestResend: a backup that comes back is sent what it does not hold, in order, and no more.
func TestResend(t *testing.T) {
	s := newSide("the primary", think(30), ask(1), off())
	s.startPrimary(t)
	p, session, err := enter(t, s.address(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.say(replica.Ack{})
	p.records(0, 4)
	for _, held := range []epoch.Number{0, 2, 3, 4} {
		gone := s.present().gone
		p.Close()
		<-gone
		if p, _, err = enter(t, s.address(), session); err != nil {
			t.Fatal(err)
		}
		p.say(replica.Ack{Held: held})
		p.records(held, 4)
	}
}

// TestStandsStill: a primary whose backup is too far behind stands still within an epoch, whatever comes, until the backup has
// executed more.
func TestStandsStill(t *testing.T) {
	s := newSide("the primary", think(1<<40))
	s.opt.EpochLength, s.opt.EpochTime = 1<<40, 15*time.Millisecond
	s.opt.Core.MaxWork = uint64(20 * time.Millisecond) // the second epoch may last for 5 ms
	s.startPrimary(t)
	p, _, err := enter(t, s.address(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.say(replica.Ack{})
	p.records(0, 2)
	for late := time.Now().Add(patience); !s.resting.Load(); runtime.Gosched() {
		if time.Now().After(late) {
			t.Fatal("the machine runs on")
		}
	}
	s.Frames(0, [][]byte{[]byte("a")}) // for which an epoch would end
	s.tick(2)                          // the first follows the record
	if m := p.hear(); m != (replica.Message)(replica.Heartbeat{}) {
		t.Fatalf("heard %+v while the machine should stand still", m)
	}
	p.say(replica.Ack{Held: 2, Verified: 2})
	p.records(2, 3)
}

// TestNonsenseIsAnswered: a backup that cannot go on after what it was told leaves, and the primary
// hears its last word, although it goes on sending.
func TestNonsenseIsAnswered(t *testing.T) {
	b := newSide("the backup", say("x"), off())
	p := let(t, b)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		nonsense := replica.Encode(replica.Goodbye{}) // a goodbye without a cause
		for {
			select {
			case <-stop:
				return
			default:
				if p.write(nonsense) != nil {
					return
				}
			}
		}
	}()
	m, err := p.read()
	for ; err == nil; m, err = p.read() {
		if g := m.GetGoodbye(); g != nil {
			break
		}
	}
	close(stop)
	<-done
	if err != nil {
		t.Errorf("the last word did not arrive: %v", err)
	}
	p.Close()
	if err := b.wait(t); !errors.Is(err, replica.ErrPeer) {
		t.Errorf("the backup stopped with %v", err)
	}
}

// TestLastWordArrives: although the peer keeps sending, and reads late.
func TestLastWordArrives(t *testing.T) {
	b := newSide("the backup", say("x"), ask(1), off())
	b.opt.Core.SuspectTicks = 1000
	p := let(t, b)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := range uint64(1 << 30) {
			select {
			case <-stop:
				return
			default:
				if p.write(replica.Encode(replica.Heartbeat{Left: epoch.Left{Console: i}})) != nil {
					return
				}
			}
		}
	}()
	b.tick(100)
	b.cancel()
	g := p.hearUntil(isGoodbye).(replica.Goodbye)
	if g.Cause != replica.CauseLeaving || g.Reason != "its operator stopped it" {
		t.Errorf("heard %+v", g)
	}
	close(stop)
	<-done
	p.Close()
	b.ends(t)
}

// TestRedial: what a backup that lost its connection concludes from what it finds at the address.
func TestRedial(t *testing.T) {
	refuses := func(reason error) func(c net.Conn, s *side) {
		return func(c net.Conn, s *side) {
			answer(c, s.opt.Settings, func([]byte) ([]byte, error) { return nil, reason })
		}
	}
	for _, row := range []struct {
		name  string
		does  func(c net.Conn, s *side)
		ticks int
		want  error
		log   string
	}{
		{"the primary, which went on alone", refuses(errors.New("too late")), 0, replica.ErrDropped, ""},
		{"another machine", refuses(errOtherMachine), 0, nil, "the primary's process is gone"},
		{"a stranger", func(c net.Conn, _ *side) { c.Write([]byte("220 mail.example.org ESMTP\r\n")) }, 5, nil, "not a word for 5 heartbeats"},
		{"one who hangs up", func(net.Conn, *side) {}, 5, nil, "not a word for 5 heartbeats"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := newSide("the backup", say("x"), off())
			p := let(t, b)
			l := lead(t, b.machine.script...)
			p.say(l.record())
			p.verified(0)
			p.hear()
			met := make(chan struct{}, 100)
			go func() {
				for {
					c, err := p.ln.Accept()
					if err != nil {
						return
					}
					row.does(c, b)
					c.Close()
					met <- struct{}{}
				}
			}()
			p.Close()
			<-met
			b.tick(row.ticks)
			if err := b.wait(t); !errors.Is(err, row.want) {
				t.Errorf("the backup stopped with %v, want %v", err, row.want)
			}
			if row.log != "" {
				b.log.awaitLine(t, row.log)
			}
			if (b.console.text() == "x") == (row.want != nil) {
				t.Errorf("the backup showed %q", b.console.text())
			}
		})
	}
}

// TestUnreachable: a primary that is not there is told about at once.
func TestUnreachable(t *testing.T) {
	ln := listen(t)
	addr := ln.Addr().String()
	ln.Close()
	_, err := NewBackup(context.Background(), addr, newSide("").opt)
	if want := "primary at " + addr + ": connection refused: start the primary first, or look at --peer"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewBackup(ctx, addr, newSide("").opt); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
