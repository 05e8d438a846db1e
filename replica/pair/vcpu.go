package pair

import (
	"crypto/rand"
	"errors"
	"fmt"
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
		<-n.wake
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
	reason, err := n.run(func() bool {
		n.drainRequests()
		// Age ends no epoch in which the guest did not move: if a boundary takes longer
		// than EpochTime, it never would.
		return n.wanted.Load() || n.stopped.Load() || n.opt.Machine.Position() > n.begun && time.Now().After(n.due)
	})
	if err != nil {
		return err
	}
	if moved := n.opt.Machine.Position() - n.begun; moved > 0 {
		n.pace = max(minLength, uint64(float64(moved)*float64(n.opt.EpochTime)/float64(time.Since(n.opened))))
	}
	// A halted guest needs nothing but an input or its timer. If it worked before, the
	// backup should get to know at once where that ended.
	if reason == vmm.StopHalted && time.Since(n.opened) < idleCut {
		n.idle()
	}
	return n.boundary()
}

// idleCut is how long an epoch of a guest that goes idle must have been for a boundary of its own.
const idleCut = time.Millisecond

// run runs the machine, and goes on after kicks that were not meant to stop it.
func (n *Node) run(pause func() bool) (vmm.StopReason, error) {
	for {
		reason, err := n.x.Run(pause)
		n.drain()
		switch {
		case err != nil:
			return 0, err
		case n.stopped.Load():
			return 0, epoch.ErrInterrupted
		case reason != vmm.StopKicked:
			return reason, nil
		}
	}
}

// idle waits until the guest has a reason to wake.
func (n *Node) idle() {
	var timer <-chan time.Time
	if t, ok := n.opt.Machine.Deadline(); ok {
		timer = time.After(time.Until(time.Unix(0, int64(t))))
	}
	for !n.wanted.Load() && !n.stopped.Load() && !n.typing() {
		select {
		case <-timer:
			return
		case <-n.wake:
		}
	}
}

// typing reports whether console input waits that the guest can take.
func (n *Node) typing() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.typed) > 0 && n.opt.Machine.ConsoleRoom() > 0
}

// runFailover runs the failover epoch (P6).
func (n *Node) runFailover() error {
	n.mu.Lock()
	n.stats.takeover.firstInstruction = time.Now()
	n.mu.Unlock()
	for {
		reason, err := n.run(func() bool { n.drainRequests(); return n.stopped.Load() })
		if err != nil {
			return err
		}
		if reason != vmm.StopPaused { // by a kick that came before
			return n.boundary()
		}
	}
}

// boundary ends the present epoch and opens the next, as the primary.
func (n *Node) boundary() error {
	if n.stopped.Load() {
		return nil
	}
	b, err := n.x.Close()
	if err != nil {
		return err
	}
	now := time.Now()
	var r epoch.Record
	n.wanted.Store(false)
	n.step(func(c *replica.Core) {
		failover := c.Role() == replica.Failover
		if !failover {
			n.environment(c)
		}
		r = c.Boundary(b, vmm.Time(now.UnixNano()), n.nextLength())
		n.stats.closed(b)
		if failover {
			n.stats.takeover.primary = time.Now()
		}
	})
	return n.open(r)
}

// minLength is the shortest length that an epoch is given, in positions.
const minLength = 8

// nextLength is the longest that the next epoch may become: as many positions as the guest, at its
// present pace, makes in EpochTime. That bounds in time what a backup runs as its
// failover epoch, without inputs.
func (n *Node) nextLength() uint64 {
	if n.pace == 0 {
		return n.opt.EpochLength
	}
	return min(n.opt.EpochLength, n.pace)
}

// environment gives the core what a boundary brings besides completions.
func (n *Node) environment(c *replica.Core) {
	if want := n.opt.Machine.EntropyWanted(); want > 0 {
		entropy := make([]byte, want)
		rand.Read(entropy)
		c.Input(vmm.Input{Kind: vmm.InputEntropy, Data: entropy})
	}
	if room := min(len(n.typed), n.opt.Machine.ConsoleRoom()); room > 0 {
		c.Input(vmm.Input{Kind: vmm.InputConsole, Data: append([]byte(nil), n.typed[:room]...)})
		if n.typed = n.typed[room:]; len(n.typed) == 0 {
			n.untyped.Broadcast()
		}
	}
}

// open applies a record whose disk inputs have their data.
func (n *Node) open(r epoch.Record) error {
	if err := n.x.Open(r); err != nil {
		return err
	}
	n.opened, n.begun = time.Now(), n.opt.Machine.Position()
	n.due = n.opened.Add(n.opt.EpochTime)
	if t, ok := n.opt.Machine.Deadline(); ok {
		if at := time.Unix(0, int64(t)); at.Before(n.due) {
			n.due = at
		}
	}
	return nil
}

// replay repeats the primary's epoch that r ends, and applies r.
func (n *Node) replay(r epoch.Record) error {
	for {
		err := n.x.Replay(r, func() bool { n.drainRequests(); return n.stopped.Load() })
		n.drain()
		if err == nil {
			break
		}
		if !errors.Is(err, epoch.ErrInterrupted) || n.stopped.Load() {
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

// resolve gives the disk completions of a record the data that this replica's own disks
// returned, waiting for them where they are slower than the primary's.
func (n *Node) resolve(inputs []vmm.Input) ([]vmm.Input, error) {
	out := append([]vmm.Input(nil), inputs...)
	for i := range out {
		if out[i].Kind != vmm.InputDisk {
			continue
		}
		key := request{out[i].Device, out[i].ID}
		for {
			n.mu.Lock()
			r, known := n.local[key]
			if r != nil {
				delete(n.local, key)
			}
			n.mu.Unlock()
			if !known {
				return nil, fmt.Errorf("%w: a completion of request %d of disk %d, which the guest did not make", replica.ErrPeer, key.id, key.device)
			}
			if r != nil {
				out[i].Data = r.data
				break
			}
			if n.stopped.Load() {
				return nil, epoch.ErrInterrupted
			}
			<-n.wake
		}
	}
	return out, nil
}

// drainRequests hands the machine's outputs to the core if there is a disk request among
// them. Console bytes alone wait for the end of the epoch, so that they travel together.
func (n *Node) drainRequests() {
	if n.opt.Machine.RequestsWait() {
		n.drain()
	}
}

// drain hands the machine's outputs to the core.
func (n *Node) drain() {
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
