package pair

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"ftvm/epoch"
	"ftvm/replica"
	"ftvm/vmm"
)

// next waits for something to do.
func (n *Node) next() replica.Task {
	for {
		n.mu.Lock()
		t := n.core.Next()
		n.mu.Unlock()
		if t.Kind != replica.TaskWait {
			return t
		}
		n.rest(time.Time{})
	}
}

// loop runs the machine.
func (n *Node) loop() error {
	for {
		var err error
		switch t := n.next(); t.Kind {
		case replica.TaskStop:
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.core.Result()
		case replica.TaskRun:
			err = n.runEpoch()
		case replica.TaskFailover:
			err = n.runFailover()
		case replica.TaskReplay:
			err = n.replay(t.Record)
		}
		if err != nil && !errors.Is(err, epoch.ErrInterrupted) {
			n.Fail(err)
		}
	}
}

// runEpoch goes on with the present epoch as the primary, to its end.
func (n *Node) runEpoch() error {
	began := time.Now()
	if began.Sub(n.opened) > n.opt.EpochTime/lateness && !n.renewed {
		return n.renew()
	}
	n.renewed = false
	over := func() bool {
		// Age ends no epoch in which the guest did not move: if a boundary takes longer
		// than EpochTime, it never would.
		return n.wanted.Load() || n.isOver() || n.roomAgain() || n.moved() > 0 && n.old()
	}
	ends := func() bool { return over() || n.stand(began) && over() }
	var reason vmm.StopReason
	for awaited := true; awaited; {
		var err error
		awaited = false
		if reason, err = n.stretch(ends); err == nil && reason == vmm.StopHalted {
			awaited, err = n.await()
		}
		if err != nil {
			return err
		}
	}
	worked := time.Since(began) - n.stood
	n.worked = uint64(worked)
	took := max(1, worked-n.waited)
	if moved := n.moved(); moved > 0 {
		n.pace = max(minLength, uint64(float64(moved)*float64(n.opt.EpochTime)/float64(took)))
		n.speed.Ran(moved, uint64(took))
	}
	// A halted guest needs nothing but an input or its timer. If it worked before, the
	// backup should get to know at once where that ended.
	if reason == vmm.StopHalted && time.Since(n.opened) < idleCut {
		n.idle()
	}
	return n.boundary()
}

// stretch runs the machine on in the present epoch until the epoch is to end, or the guest halts.
func (n *Node) stretch(ends func() bool) (reason vmm.StopReason, err error) {
	for {
		length := n.checkpoint()
		if reason, err = n.run(length, func() bool { n.drainRequests(); return ends() }); err != nil {
			return 0, err
		}
		checked := reason == vmm.StopPosition && n.moved() == length // else it is the end of the epoch's full length
		kicked := reason == vmm.StopPaused && n.kicked.Swap(false)   // else it is the guest that wants a boundary
		if !checked && !kicked {
			break
		}
		if ends() { // else it was a kick for what was dealt with since
			reason = vmm.StopPaused
			break
		}
	}
	if reason != vmm.StopPaused || !n.exact() {
		return reason, nil
	}
	// An epoch that is wanted to end is given some length all the same: what comes right after goes with the same
	// record, and a guest to which much comes gets on. So does a guest that is about to halt for what has come.
	short := n.pace / shortest
	if n.awaitable() {
		short += n.moved()
	}
	for err == nil && reason == vmm.StopPaused && n.moved() < short {
		reason, err = n.run(short, func() bool { n.drainRequests(); return n.isOver() })
	}
	return reason, err
}

// stand waits while the backup is too far behind for the machine to run on in the present epoch, which began to run at a time. It
// reports whether it had to.
func (n *Node) stand(began time.Time) (stood bool) {
	stopped := time.Now()
	ran := stopped.Sub(began) - n.stood
	for uint64(ran) >= n.room.Load() && !n.isOver() {
		n.rest(time.Time{})
		stood = true
	}
	if stood {
		n.stood += time.Since(stopped)
	}
	return stood
}

// renew ends an epoch that has not begun, as the guest had to wait for its backup: guest time would go on from when the record was made.
// The next one begins, however long it had to wait: otherwise the guest might never get on.
func (n *Node) renew() error {
	if _, err := n.run(0, n.isOver); err != nil {
		return err
	}
	n.worked, n.renewed = 0, true
	return n.boundary()
}

// shortest is what part of EpochTime, by the guest's pace, an epoch on an exact clock has at least, unless the guest halts: 50 us
// of 10 ms.
const shortest = 200

// idleCut is how long an epoch of a guest that goes idle must have been for a boundary of its own.
const idleCut = time.Millisecond

func (n *Node) exact() bool { return n.opt.Machine.Clock().Exact }

// moved is how many positions the present epoch has so far.
func (n *Node) moved() uint64 { return uint64(n.opt.Machine.Position() - n.begun) }

// run runs the machine until the epoch has the given length at most, and goes on after kicks that were not meant to stop it.
func (n *Node) run(length uint64, pause func() bool) (vmm.StopReason, error) {
	for {
		reason, err := n.x.RunUpTo(length, pause)
		n.drain()
		switch {
		case err != nil:
			return 0, err
		case n.isOver():
			return 0, epoch.ErrInterrupted
		case reason != vmm.StopKicked:
			return reason, nil
		}
	}
}

// checkpoint is how long the epoch is when it is time to look whether it has become too old: on an exact clock a guest may run
// for long without an exit.
func (n *Node) checkpoint() uint64 {
	if !n.exact() {
		return math.MaxUint64
	}
	moved := n.moved()
	return moved + max(max(n.pace, moved)/checkpoints, minLength)
}

// checkpoints is how many there are in EpochTime, by the guest's pace.
const checkpoints = 32

// idle waits until the guest has a reason to wake.
func (n *Node) idle() {
	until := n.guestTimer()
	for !n.wanted.Load() && !n.isOver() && !n.arriving() {
		if n.rest(until) {
			return
		}
	}
}

// guestTimer is when the timer is due for which a halted guest waits, zero if there is none.
func (n *Node) guestTimer() time.Time {
	t, ok := n.opt.Machine.Deadline()
	if !ok {
		return time.Time{}
	}
	now := time.Now()
	n.guestTime(now)
	return now.Add(time.Duration(min(n.clock.Wait(t), uint64(time.Hour)))) // or look again
}

// await waits, on a primary whose guest is halted, for the oldest request to the replica's own disks, and lets its completion enter.
// It reports false if the epoch is to end instead.
func (n *Node) await() (bool, error) {
	if !n.x.MayAwait() {
		return false, nil
	}
	began, until := time.Now(), time.Time{}
	defer func() { n.waited += time.Since(began) }()
	for {
		n.mu.Lock()
		in, come := n.core.Await()
		_, _, outstanding := n.core.Oldest()
		wanted := n.core.BoundaryWanted() || !n.crowded.Load() && slices.ContainsFunc(n.frames, func(f [][]byte) bool { return len(f) > 0 })
		n.wanted.Store(wanted) // the completion alone is no reason any more
		n.mu.Unlock()
		switch {
		case come:
			n.wait += (time.Since(began) - n.wait) / waits
			return true, n.x.Await(in)
		case !outstanding || wanted || n.isOver() || n.arriving() || n.moved() > 0 && n.old():
			return false, nil
		case until.IsZero():
			until = n.guestTimer()
			if n.moved() > 0 && (until.IsZero() || n.due.Before(until)) {
				until = n.due
			}
		}
		if n.rest(until) {
			return false, nil
		}
	}
}

// waits is over how many waits for a completion their time is averaged.
const waits = 8

// awaitable reports whether the epoch need not end if the guest halts soon: only the completion is there that it will wait for.
func (n *Node) awaitable() bool {
	if !n.x.MayAwait() {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.core.Awaitable()
}

// rest waits until something changed, or a time has come, which it reports; the zero time never does.
func (n *Node) rest(until time.Time) (come bool) {
	if !until.IsZero() {
		now := time.Now()
		if !now.Before(until) {
			return true
		}
		// Arming it wakes a thread. There may be thousands of rests, each for less than a timer's time: one that
		// is armed for an earlier time stays so, and then it is seen what for.
		if !n.armed.After(now) || until.Before(n.armed) {
			n.alarm.Reset(until.Sub(now))
			n.armed = until
		}
	}
	n.resting.Store(true)
	defer n.resting.Store(false)
	n.pause()
	n.life.Add(1)
	return !until.IsZero() && !time.Now().Before(until)
}

// pause waits until something changed.
func (n *Node) pause() {
	if n.opt.Roams {
		// Who waits locked to its thread has other threads do the work of others, and each time two meet.
		runtime.UnlockOSThread()
		defer runtime.LockOSThread()
	}
	<-n.wake
}

// guestTime is what guest time should be now.
func (n *Node) guestTime(now time.Time) vmm.Time {
	return n.clock.Read(wallTime(now), uint64(now.Sub(n.stats.started)), n.opt.Machine.Time())
}

// arriving reports whether something waits that the guest can take.
func (n *Node) arriving() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.typed) > 0 && n.opt.Machine.ConsoleRoom() > 0 {
		return true
	}
	for i, frames := range n.frames {
		if len(frames) > 0 && n.opt.Machine.FrameRoom(uint32(i), frames[:1]) > 0 {
			return true
		}
	}
	return false
}

// roomAgain reports whether the guest made room for frames for which it had none at the last boundary. (What is typed waits
// for the end of the epoch: a guest reads it byte by byte.)
func (n *Node) roomAgain() bool { return n.crowded.Load() && n.arriving() }

// runFailover runs the failover epoch (P6).
func (n *Node) runFailover() error {
	n.mu.Lock()
	n.stats.takeover.firstInstruction = time.Now()
	n.mu.Unlock()
	for {
		reason, err := n.run(math.MaxUint64, func() bool { n.drainRequests(); return n.isOver() })
		awaited := false
		if err == nil && reason == vmm.StopHalted && n.x.MayAwait() {
			awaited, err = n.follow()
		}
		switch {
		case errors.Is(err, errDisk):
			return fmt.Errorf("%w: the primary may have gone on from there, so its image is the one to start from", err)
		case err != nil:
			return err
		case !awaited && reason != vmm.StopPaused: // by a kick that came before
			return n.boundary()
		}
	}
}

// errDisk is why a backup cannot follow.
var errDisk = errors.New("this host's disk failed what the primary's did")

// follow has the completion enter that the guest is halted for, as it entered on the primary: the replica's own disk says what it
// brings. It reports false if the guest waits for no disk of the replica.
func (n *Node) follow() (bool, error) {
	n.mu.Lock()
	device, id, ok := n.core.Oldest()
	n.mu.Unlock()
	if !ok {
		return false, nil
	}
	r, err := n.own(request{device, id})
	switch {
	case err != nil:
		return false, err
	case r.err != nil:
		return false, fmt.Errorf("%w: %w", errDisk, r.err)
	}
	if err := n.x.Await(vmm.Input{Kind: vmm.InputDisk, Device: device, ID: id, Data: r.data, Local: true}); err != nil {
		return false, err
	}
	n.step(func(c *replica.Core) { c.Awaited(device, id) })
	return true, nil
}

// boundary ends the present epoch and opens the next, as the primary.
func (n *Node) boundary() error {
	if n.isOver() {
		return nil
	}
	b, err := n.x.Close()
	if err != nil {
		return err
	}
	now := time.Now()
	var r epoch.Record
	n.step(func(c *replica.Core) {
		n.wanted.Store(false)
		failover := c.Role() == replica.Failover
		if !failover {
			n.environment(c)
		}
		r = c.Boundary(b, n.opening(b, now))
		n.stats.closed(b)
		if failover {
			n.stats.takeover.primary = time.Now()
		}
	})
	return n.open(r)
}

// opening decides how the next epoch begins.
func (n *Node) opening(b epoch.Boundary, now time.Time) replica.Opening {
	o := replica.Opening{Worked: n.worked, Time: n.guestTime(now), Rate: n.opt.Machine.Clock().Rate(), Length: n.nextLength(), Awaits: n.nextAwaits()}
	if n.exact() {
		o.Rate = n.speed.Rate(o.Length, uint64(n.opt.EpochTime), uint64(max(b.Time, o.Time)-o.Time), o.Rate)
	}
	return o
}

// minLength is the shortest length that an epoch is given, in positions.
const minLength = 8

// nextLength is the longest that the next epoch may become: as many positions as the guest, at its
// present pace, makes in EpochTime. That bounds in time what a backup runs as its
// failover epoch, without inputs.
func (n *Node) nextLength() uint64 {
	switch {
	case n.pace == 0:
		return n.opt.EpochLength
	case n.exact(): // it should end by itself, not by the host's clock
		return min(n.opt.EpochLength, n.pace-n.pace/lateness)
	default:
		return min(n.opt.EpochLength, n.pace)
	}
}

// maxAwaits is the most completions that may enter in an epoch without a record. A 64th of a record for each is next to nothing, and the
// backup's disk may be slower.
const maxAwaits = 64

// nextAwaits is how many completions may enter in the next epoch without a record: as many as come, lately, in EpochTime. That
// bounds in time what a backup waits for in its failover epoch.
func (n *Node) nextAwaits() uint64 {
	return min(maxAwaits, 1+uint64(n.opt.EpochTime/max(n.wait, time.Microsecond)))
}

// environment gives the core what a boundary brings besides completions.
func (n *Node) environment(c *replica.Core) {
	if want := n.opt.Machine.EntropyWanted(); want > 0 && want <= c.Room() {
		entropy := make([]byte, want)
		rand.Read(entropy)
		c.Input(vmm.Input{Kind: vmm.InputEntropy, Data: entropy})
	}
	if room := min(len(n.typed), n.opt.Machine.ConsoleRoom(), c.Room()); room > 0 {
		c.Input(vmm.Input{Kind: vmm.InputConsole, Data: append([]byte(nil), n.typed[:room]...)})
		n.typed = n.typed[room:]
	}
	n.crowded.Store(false)
	for i := range n.frames {
		n.takeFrames(c, uint32(i))
	}
	n.emptied.Broadcast()
}

// recordFrames and recordBytes are how many frames of an interface a record brings at most, and of how many bytes.
const (
	recordFrames = 256
	recordBytes  = 256 << 10
)

// takeFrames gives the core the frames of an interface for which the guest has room.
func (n *Node) takeFrames(c *replica.Core, device uint32) {
	waiting := n.frames[device]
	if len(waiting) == 0 {
		return
	}
	count, room := 0, min(recordBytes, c.Room())
	for count < min(len(waiting), recordFrames) && len(waiting[count]) <= room {
		room -= len(waiting[count])
		count++
	}
	count = n.opt.Machine.FrameRoom(device, waiting[:count])
	for _, frame := range waiting[:count] {
		c.Input(vmm.Input{Kind: vmm.InputFrame, Device: device, Data: frame})
	}
	if n.frames[device] = waiting[count:]; count < len(waiting) {
		n.crowded.Store(true)
	}
}

// open applies a record whose disk inputs have their data.
func (n *Node) open(r epoch.Record) error {
	if err := n.x.Open(r); err != nil {
		return err
	}
	n.opened, n.begun, n.waited, n.stood = time.Now(), n.opt.Machine.Position(), 0, 0
	n.setDue(n.opened)
	return nil
}

// setDue decides when the present epoch should end: at EpochTime, or when the guest's next timer is due, as it is now.
func (n *Node) setDue(now time.Time) {
	n.due, n.timer = n.opened.Add(n.opt.EpochTime), 0
	t, ok := n.opt.Machine.Deadline()
	if !ok {
		return
	}
	n.timer = t
	at := n.opt.Machine.Time()
	lasts := time.Duration(min(max(t, at)-at, vmm.Time(n.opt.EpochTime)))
	if n.exact() {
		lasts += n.opt.EpochTime / lateness // the machine's own count should be there before
	}
	if due := now.Add(lasts); due.Before(n.due) {
		n.due = due
	}
}

// old reports whether the present epoch should end.
func (n *Node) old() bool {
	if n.stood > n.opt.EpochTime/lateness { // guest time goes on from when a record is made
		return true
	}
	now := time.Now()
	if !now.After(n.due) {
		return false
	}
	// Where the machine's own count had the timer fire, it needs no boundary. A count that is not exact says little of the time.
	if t, ok := n.opt.Machine.Deadline(); n.timer == 0 || !n.exact() || ok && t == n.timer {
		return true
	}
	n.setDue(now)
	return now.After(n.due)
}

// lateness is what part of EpochTime an epoch or a timer may be late on an exact clock before the epoch is ended by the host's clock.
const lateness = 8

// replay repeats the primary's epoch that r ends, and applies r.
func (n *Node) replay(r epoch.Record) error {
	for {
		err := n.x.Replay(r, func() bool { n.drainRequests(); return n.isOver() })
		n.drain()
		if err == nil {
			break
		}
		switch {
		case errors.Is(err, epoch.ErrAwait):
			awaited, err := n.follow()
			if err != nil {
				return err
			}
			if !awaited {
				return fmt.Errorf("%w: an awaited completion, where the guest waits for no disk of this replica", replica.ErrPeer)
			}
		case !errors.Is(err, epoch.ErrInterrupted) || n.isOver():
			return err
		}
	}
	inputs, err := n.resolve(r.Inputs)
	if err != nil {
		return err
	}
	r.Inputs = inputs
	if err := n.open(r); err != nil {
		return fmt.Errorf("%w: %w", replica.ErrPeer, err)
	}
	n.step(func(c *replica.Core) {
		n.stats.closed(epoch.Boundary{Position: r.Position, Digest: r.Digest})
		c.Executed()
	})
	return nil
}

// resolve gives the completions of a record that are of the replica's own disks the data that these
// returned, waiting for them where they are slower than the primary's.
func (n *Node) resolve(inputs []vmm.Input) ([]vmm.Input, error) {
	out := append([]vmm.Input(nil), inputs...)
	for i := range out {
		if out[i].Kind != vmm.InputDisk {
			continue
		}
		key := request{out[i].Device, out[i].ID}
		shared := n.opt.shared(key.device) != nil
		if out[i].Local == shared {
			return nil, fmt.Errorf("%w: a completion of disk %d, which is shared on one replica only", replica.ErrPeer, key.device)
		}
		if shared {
			continue
		}
		r, err := n.own(key)
		switch {
		case err != nil:
			return nil, err
		case r.err != nil && out[i].Status == vmm.DiskOK:
			return nil, fmt.Errorf("%w: %w", errDisk, r.err)
		}
		out[i].Data = r.data
	}
	return out, nil
}

// own waits for what one of the replica's own disks says of a request that a record names, or that the guest waits for.
func (n *Node) own(key request) (*result, error) {
	for {
		n.mu.Lock()
		r, known := n.local[key]
		if r != nil {
			delete(n.local, key)
		}
		n.mu.Unlock()
		switch {
		case !known:
			return nil, fmt.Errorf("%w: a completion of request %d of disk %d, which the guest did not make", replica.ErrPeer, key.id, key.device)
		case r != nil:
			return r, nil
		case n.isOver():
			return nil, epoch.ErrInterrupted
		}
		n.pause()
	}
}

// drainRequests hands the machine's outputs to the core if there is a disk request or a frame among
// them. Console bytes alone wait for the end of the epoch, so that they travel together.
func (n *Node) drainRequests() {
	n.life.Add(1)
	if n.opt.Machine.RequestsWait() {
		n.drain()
	}
}

// drain hands the machine's outputs to the core.
func (n *Node) drain() {
	n.life.Add(1)
	n.outs = n.opt.Machine.Outputs(n.outs[:0])
	if len(n.outs) == 0 {
		return
	}
	n.step(func(c *replica.Core) {
		if !c.Alone() && c.Role() != replica.Backup {
			now := time.Now()
			for range n.outs {
				n.produced = append(n.produced, now)
			}
		}
		c.Produced(n.outs)
	})
}
