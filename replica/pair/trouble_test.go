package pair

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ftvm/host"
	"ftvm/replica"
	"ftvm/vmm"
)

var errBroken = errors.New("input/output error")

// sharing is a script that uses a shared disk.
var sharing = []op{write(1, 1, "one"), await(), say("written\n"), read(1, 1), write(0, 1, "uno"), await(), ask(1), read(1, 1), await(), show(), say("\nend\n"), off()}

// newSharingPair is newPair with a shared disk.
func newSharingPair(t *testing.T, change func(s *side), free <-chan struct{}) (p, b *side) {
	t.Helper()
	p, b = newSide("the primary", sharing...), newSide("the backup", sharing...)
	share(p, b, free)
	change(p)
	change(b)
	p.startPrimary(t)
	b.startBackup(t, p.address())
	p.log.awaitLine(t, "the backup is here")
	return p, b
}

// submitted is how many requests a disk got.
func (d *disk) requests() int {
	d.Lock()
	defer d.Unlock()
	return len(d.submitted)
}

// TestSharedDiskInLockstep: only the primary touches it; what it reads reaches the backup in records.
func TestSharedDiskInLockstep(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newSharingPair(t, change, nil)
		p.Type([]byte("x"))
		p.ends(t)
		b.ends(t)
		sameMachine(t, p, b)
		if got := p.console.text(); got != "written\nxone\x00\x00\x00\x00\x00\nend\n" {
			t.Errorf("showed %q", got)
		}
		if n := b.disks[1].requests(); n != 0 {
			t.Errorf("the backup sent %d requests to the shared disk", n)
		}
	})
}

// TestSharedDiskTakeover: a backup acquires the disk before it takes over, and issues the requests that no record has the
// completion of.
func TestSharedDiskTakeover(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		free := make(chan struct{})
		p, b := newSharingPair(t, change, free)
		p.console.awaitText(t, "written")
		p.die()
		b.log.awaitLine(t, "the other replica counts as failed")
		if n := b.disks[1].requests(); n != 0 {
			t.Errorf("%d requests left for a disk that the old primary still has", n)
		}
		close(free)
		b.log.awaitLine(t, "this replica is the primary now")
		b.Type([]byte("x"))
		b.ends(t)
		oneStream(t, p, b, "written\nxone\x00\x00\x00\x00\x00\nend\n")
		if got := b.disks[1].blocks[toyBlock]; got != "one\x00\x00\x00\x00\x00" {
			t.Errorf("the shared disk has %q", got)
		}
	})
}

// TestSharedDiskNotToBeHad: a backup that cannot acquire the disk stops and says so; it waits no longer than it is
// told, and not when it hears that the primary goes on.
func TestSharedDiskNotToBeHad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the backup", sharing...)
		share(newSide("", off()), s, nil)
		s.opt.Heartbeat, s.opt.AcquireTime = 10*time.Millisecond, 3*time.Second
		p := follow(t, s)
		heard := p.listen()
		began := time.Now()
		err := s.wait(t)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "shared disk 1 is not this host's") {
			t.Errorf("stopped with %v", err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 4*time.Second+drainTime {
			t.Errorf("it waited for %v", took)
		}
		synctest.Wait()
		if g, ok := (*heard)[len(*heard)-1].(replica.Goodbye); !ok || g.Cause != replica.CauseLeaving {
			t.Errorf("the last word is %+v", (*heard)[len(*heard)-1])
		}
	})
	bubble(t, func(t *testing.T) {
		s := newSide("the backup", sharing...)
		share(newSide("", off()), s, nil)
		s.opt.Heartbeat, s.opt.AcquireTime = 10*time.Millisecond, time.Hour
		p := follow(t, s)
		p.listen()
		time.Sleep(time.Minute)
		p.say(replica.Goodbye{Cause: replica.CauseDropped})
		p.Close()
		if err := s.wait(t); !errors.Is(err, replica.ErrDropped) {
			t.Errorf("stopped with %v", err)
		}
	})
	s := newSide("alone", sharing...)
	s.opt.Disks[1] = sharedDisk{s.disks[1], func(context.Context) error { return errBroken }}
	s.startAlone(t)
	if err := s.wait(t); !errors.Is(err, errBroken) {
		t.Errorf("stopped with %v", err)
	}
}

// statuses returns the status of each completion that the guest got.
func (m *toy) statuses() (s []vmm.DiskStatus) {
	for _, in := range m.delivered {
		s = append(s, in.Status)
	}
	return s
}

// TestDiskErrorAlone: a guest without a backup gets the error, and goes on; people are told, not too often.
func TestDiskErrorAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("alone", write(0, 1, "a"), await(), write(0, 1, "b"), await(), ask(1), write(0, 1, "c"), await(), say("end"), off())
		s.disks[0].broken = errBroken
		s.startAlone(t)
		synctest.Wait()
		s.disks[0].set(func(d *disk) { d.broken = nil })
		s.Type([]byte("x"))
		s.ends(t)
		if got := s.machine.statuses(); !slices.Equal(got, []vmm.DiskStatus{vmm.DiskError, vmm.DiskError, vmm.DiskOK}) {
			t.Errorf("the guest got %v", got)
		}
		if !slices.Equal(s.log.lines, []string{errBroken.Error()}) {
			t.Errorf("said %q", s.log.lines)
		}
	})
}

// TestSharedDiskError: another host would do no better, so the guest gets the error; on both replicas.
func TestSharedDiskError(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newSharingPair(t, func(s *side) { change(s); s.disks[1].broken = errBroken }, nil)
		p.Type([]byte("x"))
		p.ends(t)
		b.ends(t)
		sameMachine(t, p, b)
		p.log.awaitLine(t, errBroken.Error())
		if got := b.machine.statuses(); !slices.Contains(got, vmm.DiskError) || !slices.Equal(got, p.machine.statuses()) {
			t.Errorf("the guest got %v, on the backup %v", p.machine.statuses(), got)
		}
	})
}

// TestBothDisksBroken: two replicas that would both leave do not leave the guest alone: one goes on, and the guest gets the
// errors.
func TestBothDisksBroken(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, func(s *side) { change(s); s.disks[0].broken = errBroken }, work...)
		if err := p.wait(t); !errors.Is(err, errBroken) {
			t.Errorf("the primary stopped with %v", err)
		}
		b.Type([]byte("hello, world"))
		b.log.awaitLine(t, "this replica is the primary now")
		b.Type([]byte("hello, world"))
		b.ends(t)
		if got := b.machine.statuses(); !slices.Contains(got, vmm.DiskError) || !slices.Contains(got, vmm.DiskOK) {
			t.Errorf("the guest got %v", got)
		}
	})
}

// TestLostNetwork: a primary that loses an interface has its backup go on; one that is alone goes on.
func TestLostNetwork(t *testing.T) {
	p, b := newPair(t, nil, work...)
	p.console.awaitText(t, "uno")
	b.Trouble("interface 0", errBroken) // nobody asks it to leave for that
	b.log.awaitLine(t, errBroken.Error())
	p.Trouble("interface 0", errBroken)
	if err := p.wait(t); !errors.Is(err, errBroken) {
		t.Errorf("the primary stopped with %v", err)
	}
	b.log.awaitLine(t, "this replica is the primary now")
	b.Trouble("interface 0", errBroken)
	b.Type([]byte("hello, world"))
	b.ends(t)
	oneStream(t, p, b, workShows)
}

// TestBackupCannotTakeOver: a primary whose backup says that it leaves, too, goes on.
func TestBackupCannotTakeOver(t *testing.T) {
	s := newSide("the primary", write(0, 1, "a"), await(), say("end"), off())
	s.disks[0].broken = errBroken
	s.startPrimary(t)
	p, _, err := enter(t, s.address(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.say(replica.Ack{})
	p.hearUntil(func(m replica.Message) bool { _, ok := m.(replica.Handover); return ok })
	p.say(replica.Goodbye{Cause: replica.CauseLeaving, Reason: "its disk is broken, too"})
	p.Close()
	s.ends(t)
	if got := s.console.text(); got != "end" || !slices.Equal(s.machine.statuses(), []vmm.DiskStatus{vmm.DiskError}) {
		t.Errorf("showed %q, the guest got %v", got, s.machine.statuses())
	}
}

// TestBackupDiskError: a backup finds its own disk broken when a record says that the primary's did the request. An
// error of a request that no record is about is forgotten when the request is issued again.
func TestBackupDiskError(t *testing.T) {
	script := []op{write(0, 1, "a"), write(0, 2, "b"), think(30), await(), say("end"), off()}
	s := newSide("the backup", script...)
	s.disks[0].broken = errBroken
	p := let(t, s)
	l := lead(t, script...)
	p.say(l.record())
	p.say(l.record())
	p.verified(2)
	s.disks[0].await(t, "both requests", func() bool { return s.disks[0].performed == 2 })
	p.say(l.record(vmm.Input{Kind: vmm.InputDisk, ID: 1, Local: true}))
	p.hearUntil(isGoodbye)
	p.die()
	if err := s.wait(t); !errors.Is(err, errBroken) {
		t.Errorf("the backup stopped with %v", err)
	}

	s = newSide("the backup", script...)
	s.disks[0].broken = errBroken
	s.machine.hooks[11] = func() { s.disks[0].set(func(d *disk) { d.broken = nil }) } // in the failover epoch
	p = let(t, s)
	l = lead(t, script...)
	p.say(l.record())
	p.say(l.record())
	p.verified(2)
	s.disks[0].await(t, "both requests", func() bool { return s.disks[0].performed == 2 })
	p.die()
	s.ends(t)
	if got := s.machine.statuses(); !slices.Equal(got, []vmm.DiskStatus{vmm.DiskOK, vmm.DiskOK}) {
		t.Errorf("the guest got %v", got)
	}
}

// TestFlushAtTakeover: what comes of requests to the replica's own disk counts, be it before or after the takeover. Only what failed before is
// tried again, but not a flush: writes are lost, whatever the next one says.
func TestFlushAtTakeover(t *testing.T) {
	script := []op{write(0, 1, "a"), flush(0), think(30), await(), off()}
	for _, broken := range []error{nil, errBroken} {
		for _, early := range []bool{false, true} {
			s := newSide("the backup", script...)
			s.disks[0].held, s.disks[0].broken = true, broken
			p := let(t, s)
			l := lead(t, script...)
			p.say(l.record())
			p.say(l.record())
			p.verified(2)
			if early {
				s.disks[0].finish()
				s.disks[0].finish()
			}
			p.die()
			s.log.awaitLine(t, "this replica is the primary now")
			if !early {
				s.disks[0].finish()
				s.disks[0].finish()
			}
			s.disks[0].set(func(d *disk) { d.held, d.broken = false, nil })
			s.ends(t)
			want, requests := []vmm.DiskStatus{vmm.DiskOK, vmm.DiskOK}, 2
			switch {
			case broken != nil && early:
				want[1], requests = vmm.DiskError, 3
			case broken != nil:
				want[0], want[1] = vmm.DiskError, vmm.DiskError
			}
			slices.SortFunc(s.machine.delivered, func(a, b vmm.Input) int { return cmp.Compare(a.ID, b.ID) })
			if got := s.machine.statuses(); !slices.Equal(got, want) || s.disks[0].requests() != requests {
				t.Errorf("broken %v, early %v: the guest got %v of %d requests, want %v of %d", broken, early, got, s.disks[0].requests(), want, requests)
			}
		}
	}
}

// TestLateCompletions: what a disk says after the end harms nobody.
func TestLateCompletions(t *testing.T) {
	s := newSide("alone", off())
	s.startAlone(t)
	s.ends(t)
	s.DiskDone(0, host.Completion{Err: errBroken, Status: vmm.DiskError})
	s.Trouble("disk 0", errBroken)
	s.Frames(0, [][]byte{{1}})
	s.Frames(0, [][]byte{{1}})
}

// hears waits for a tick of 10 ms, and reports whether a message as wanted was heard.
func hears(heard *[]replica.Message, wanted func(m replica.Message) bool) bool {
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
	return slices.ContainsFunc(*heard, wanted)
}

// TestStuckMachine: a replica whose machine does not get on leaves. One whose guest rests, or runs without an exit, does not.
func TestStuckMachine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", say("x"), think(5), off())
		s.opt.Heartbeat, s.opt.StuckTime = 10*time.Millisecond, time.Second
		stuck := make(chan struct{})
		s.machine.hooks[3] = func() { <-stuck }
		p := led(t, s)
		heard := p.listen()
		p.say(replica.Ack{})
		began := time.Now()
		for !hears(heard, isGoodbye) {
			if time.Since(began) > 2*time.Second {
				t.Fatal("it tells nobody")
			}
			p.say(replica.Ack{})
		}
		if took := time.Since(began); took < 900*time.Millisecond {
			t.Errorf("it left after %v", took)
		}
		close(stuck)
		p.Close()
		if err := s.wait(t); err == nil || !strings.Contains(err.Error(), "not got on") {
			t.Errorf("stopped with %v", err)
		}
	})
	for name, script := range map[string][]op{"resting": {ask(1), off()}, "spinning": {spin()}, "sleeping": {nap(time.Hour), off()}} {
		bubble(t, func(t *testing.T) {
			s := newSide(name, script...)
			s.opt.Heartbeat, s.opt.StuckTime = 10*time.Millisecond, time.Second
			p := led(t, s)
			p.listen()
			for range 500 {
				p.say(replica.Ack{})
				time.Sleep(10 * time.Millisecond)
			}
			s.quit(t)
		})
	}
}

// TestStuckDisk: a primary whose disk does not answer has its backup go on; a backup whose disk does not, leaves.
func TestStuckDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSide("the primary", write(0, 1, "x"), await(), off())
		s.opt.Heartbeat, s.opt.StuckTime = 10*time.Millisecond, time.Second
		s.disks[0].held = true
		p := led(t, s)
		heard := p.listen()
		isHandover := func(m replica.Message) bool { _, ok := m.(replica.Handover); return ok }
		for n := 0; !hears(heard, isHandover); n++ {
			if n > 200 {
				t.Fatal("it hands over to nobody")
			}
			p.say(replica.Ack{})
		}
		p.say(replica.Goodbye{Cause: replica.CauseDropped})
		p.Close()
		if err := s.wait(t); err == nil || !strings.Contains(err.Error(), "request 0 of disk 0 is not done after 1s") {
			t.Errorf("stopped with %v", err)
		}
	})
	bubble(t, func(t *testing.T) {
		script := []op{write(0, 1, "x"), await(), off()}
		s := newSide("the backup", script...)
		s.opt.Heartbeat, s.opt.StuckTime = 10*time.Millisecond, time.Second
		s.disks[0].held = true
		p := follow(t, s)
		heard := p.listen()
		l := lead(t, script...)
		p.say(l.record())
		p.say(l.record(vmm.Input{Kind: vmm.InputDisk, Local: true}))
		for n := 0; !hears(heard, isGoodbye); n++ {
			if n > 200 {
				t.Fatal("it does not leave")
			}
			p.say(replica.Heartbeat{})
		}
		p.Close()
		if err := s.wait(t); err == nil || !strings.Contains(err.Error(), "not got on") {
			t.Errorf("stopped with %v", err)
		}
	})
}
