package pair

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/epoch"
	"ftvm/host"
	"ftvm/replica"
	"ftvm/vmm"
)

// Machine is what a node runs; *vmm.Machine is one.
type Machine interface {
	epoch.Machine
	Clock() vmm.Clock
	Deadline() (vmm.Time, bool)
	Outputs(dst []vmm.Output) []vmm.Output
	RequestsWait() bool
	EntropyWanted() int
	ConsoleRoom() int
	Exits() uint64
	Kick()
}

// Disk carries out the requests of one disk of the machine in the order in which they are
// submitted, and tells Node.DiskDone of each. *host.Disk is one.
type Disk interface{ Submit(vmm.Output) }

// Console shows the machine's console output to the outside world, in order, and tells
// Node.ConsoleSent how far it came. *host.Console is one.
type Console interface{ Submit(vmm.Output) }

// Options is what a node needs.
type Options struct {
	Machine Machine
	Disks   []Disk
	Console Console
	Log     *slog.Logger
	// Settings must be equal on both replicas.
	Settings []Setting
	Core     replica.Config
	// Heartbeat is the length of a tick of the core.
	Heartbeat time.Duration
	// EpochLength is the longest that an epoch may become, in positions.
	EpochLength uint64
	// EpochTime is after how long the primary ends an epoch at the next exit, so that the
	// backup is never far from knowing where the primary is.
	EpochTime time.Duration
	// MemoryEvery: digests cover memory at every such boundary; 0 is never.
	MemoryEvery uint64
}

// Node is one replica.
type Node struct {
	opt Options
	x   *epoch.Executor

	mu      sync.Mutex
	core    *replica.Core
	outbox  *outbox
	conn    uint64 // number of the newest connection
	session []byte
	taken   bool   // a backup was let in, on a primary
	addr    string // of the primary, on a backup
	// local holds, on a backup, what its own disks said of requests: nothing yet (nil), or the
	// result. On a primary completions are inputs.
	local map[request]*result
	// stale counts the completions to come of requests that were issued again since.
	stale    map[request]int
	produced []time.Time // when each output that waits in the gate was made
	stats    stats
	typed    []byte       // console input for the next boundaries
	untyped  *sync.Cond   // typed is empty, or the node stopped
	role     replica.Role // the last one before Ending or Stopped
	tookOver bool

	over    chan struct{} // closed when the core has stopped
	wake    chan struct{} // something changed; capacity 1
	wanted  atomic.Bool   // the primary should end the epoch
	stopped atomic.Bool

	// Of the goroutine that runs the machine.
	outs   []vmm.Output
	opened time.Time     // when the present epoch was opened
	begun  vmm.Position  // where
	pace   time.Duration // what the guest took for a position in the last epoch that had any
	due    time.Time     // when it should end
}

type request struct {
	device uint32
	id     uint64
}

type result struct{ data []byte }

func newNode(opt Options, core *replica.Core) *Node {
	n := &Node{opt: opt, core: core, x: epoch.NewExecutor(opt.Machine, opt.MemoryEvery),
		local: map[request]*result{}, stale: map[request]int{}, wake: make(chan struct{}, 1), over: make(chan struct{}), stats: stats{started: time.Now()}}
	n.untyped = sync.NewCond(&n.mu)
	return n
}

// NewAlone makes a node without another replica.
func NewAlone(opt Options) *Node { return newNode(opt, replica.NewPrimary(opt.Core, true)) }

// NewPrimary makes a node that starts the machine once a backup came.
func NewPrimary(opt Options) *Node {
	n := newNode(opt, replica.NewPrimary(opt.Core, false))
	n.session = newSession()
	return n
}

func newSession() []byte {
	s := make([]byte, 16)
	rand.Read(s)
	return s
}

// NewBackup makes a node that follows the primary at addr. It fails if the primary cannot be
// reached or refuses.
func NewBackup(ctx context.Context, addr string, opt Options) (*Node, error) {
	n := newNode(opt, replica.NewBackup(opt.Core))
	n.addr = addr
	l, err := n.dial(ctx)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("primary at %s: %w: start the primary first, or look at --peer", addr, unix.ECONNREFUSED)
	case err != nil:
		return nil, fmt.Errorf("primary at %s: %w", addr, err)
	}
	n.install(l)
	return n, nil
}

// Run runs the machine on the calling goroutine until it is over, and returns why: nil if
// the guest came to its end or an operator ended it. ln is where a primary's backup comes
// to; Run closes it. When ctx is cancelled this replica leaves.
func (n *Node) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if ln != nil {
		defer ln.Close()
		go n.accept(ln)
	}
	go n.tick(ctx)
	err := n.loop()
	n.mu.Lock()
	box := n.outbox
	n.mu.Unlock()
	if box != nil {
		box.drain()
	}
	return err
}

// Quit ends the virtual machine (on a backup: only this replica). Any goroutine may call it.
func (n *Node) Quit(reason string) { n.step(func(c *replica.Core) { c.Quit(reason) }) }

// Fail stops this replica because of trouble of its host.
func (n *Node) Fail(err error) { n.step(func(c *replica.Core) { c.Fail(err) }) }

// Type gives the machine console input, and waits until the guest took what came before. What
// is typed at a backup is dropped (P3).
func (n *Node) Type(p []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.typed) > 0 && !n.stopped.Load() {
		n.untyped.Wait()
	}
	if r := n.core.Role(); r == replica.Backup || r == replica.Failover {
		return
	}
	n.typed = append(n.typed, p...)
	n.rouse()
}

// step lets f call the core, and does what the core then wants.
func (n *Node) step(f func(c *replica.Core)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n.core)
	if r := n.core.Role(); r < replica.Ending {
		n.role = r
	}
	for _, a := range n.core.Actions() {
		n.perform(a)
	}
	switch {
	case n.core.Role() == replica.Stopped:
		if !n.stopped.Swap(true) {
			n.opt.Machine.Kick()
			n.untyped.Broadcast()
			close(n.over)
		}
	case n.core.InputsWait() || n.opt.Core.Verified && n.core.OutputsWait():
		if !n.wanted.Swap(true) && n.opt.Machine.Clock().Exact {
			n.opt.Machine.Kick()
		}
	}
	n.rouse()
}

// rouse makes the goroutine that runs the machine look again whether it has something to do.
func (n *Node) rouse() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Node) perform(a replica.Action) {
	switch a.Kind {
	case replica.ActSend:
		n.outbox.put(a.Message)
	case replica.ActRelease:
		n.released(len(a.Outputs))
		for _, o := range a.Outputs {
			n.release(o)
		}
	case replica.ActRepeat:
		n.stats.takeover.repeated = len(a.Outputs)
		for _, o := range a.Outputs {
			n.repeat(o)
		}
	case replica.ActDial:
		go n.redial()
	case replica.ActClaim:
		n.stats.takeover.detected = time.Now()
		go n.step(func(c *replica.Core) { n.claimed(c) })
	case replica.ActHangUp:
		n.outbox.close()
		n.vacate()
	case replica.ActNotice:
		n.opt.Log.Info(a.Text)
	}
}

// claimed answers a claim. There is no arbiter, so every claim is won: see docs/LIMITS.md.
func (n *Node) claimed(c *replica.Core) {
	backup := c.Role() == replica.Backup
	c.Claimed(true)
	if backup {
		n.tookOver = true
		n.stats.takeover.records = c.Records()
		n.stats.takeover.consoleFrom = c.ConsoleLeft()
	}
}

// released accounts for the time that outputs spent in the gate.
func (n *Node) released(count int) {
	now := time.Now()
	count = min(count, len(n.produced))
	for _, t := range n.produced[:count] {
		n.stats.gateWait += now.Sub(t)
	}
	n.produced = append(n.produced[:0], n.produced[count:]...)
}

// release lets an output leave. Until this replica is the primary, what its disks say is
// kept until a record says that the primary's request is complete: a backup does what its
// primary's records say, not what its own host says (P3).
func (n *Node) release(o vmm.Output) {
	if o.Kind == vmm.OutputConsole {
		n.opt.Console.Submit(o)
		return
	}
	if !n.live() {
		n.local[request{o.Device, o.Seq}] = nil
	}
	n.opt.Disks[o.Device].Submit(o)
}

// repeat issues a request again (P7); what came or comes of the first time does not count.
func (n *Node) repeat(o vmm.Output) {
	key := request{o.Device, o.Seq}
	if r, issued := n.local[key]; issued && r == nil {
		n.stale[key]++
	}
	delete(n.local, key)
	n.opt.Disks[o.Device].Submit(o)
}

// live reports whether completions are inputs.
func (n *Node) live() bool {
	r := n.core.Role()
	return r == replica.Primary || r == replica.Ending
}

// DiskDone tells that a request of a disk is done.
func (n *Node) DiskDone(device uint32, done host.Completion) {
	key := request{device, done.Seq}
	n.step(func(c *replica.Core) {
		_, kept := n.local[key]
		switch {
		case done.Err != nil:
			c.Fail(done.Err)
		case n.stale[key] > 0:
			if n.stale[key]--; n.stale[key] == 0 {
				delete(n.stale, key)
			}
		case kept:
			n.local[key] = &result{done.Data}
		default:
			c.Input(vmm.Input{Kind: vmm.InputDisk, Device: device, ID: done.Seq, Status: done.Status, Data: done.Data})
		}
	})
}

// ConsoleSent tells that all console output before byte seq has left.
func (n *Node) ConsoleSent(seq uint64, err error) {
	n.step(func(c *replica.Core) {
		c.ConsoleWritten(seq)
		if err != nil {
			c.Fail(err)
		}
	})
}

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
		n.pace = time.Since(n.opened) / time.Duration(moved)
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
	var entropy []byte
	if want := n.opt.Machine.EntropyWanted(); want > 0 {
		entropy = make([]byte, want)
		rand.Read(entropy)
	}
	now := time.Now()
	var r epoch.Record
	n.wanted.Store(false)
	n.step(func(c *replica.Core) {
		failover := c.Role() == replica.Failover
		if !failover {
			n.environment(c, entropy)
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
	length := n.opt.EpochLength
	if n.pace > 0 {
		length = min(length, max(minLength, uint64(n.opt.EpochTime/n.pace)))
	}
	return length
}

// environment gives the core what a boundary brings besides completions.
func (n *Node) environment(c *replica.Core, entropy []byte) {
	if len(entropy) > 0 {
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

// tick is the core's clock.
func (n *Node) tick(ctx context.Context) {
	t := time.NewTicker(n.opt.Heartbeat)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			n.step((*replica.Core).Tick)
		case <-ctx.Done():
			leave := func(c *replica.Core) { c.Leave("its operator stopped it") }
			n.step(leave)
			select {
			case <-time.After(consoleTime):
				n.step(leave)
			case <-n.over:
			}
			return
		}
	}
}

// consoleTime bounds how long a replica that leaves waits for its console to take what was
// let out.
const consoleTime = 100 * time.Millisecond

// install makes l the present connection.
func (n *Node) install(l *link) {
	box := newOutbox(l, &n.stats.shipped)
	var conn uint64
	n.step(func(c *replica.Core) { // in one step: connections that come together keep their order
		if n.outbox != nil {
			n.outbox.close()
		}
		n.conn++
		conn = n.conn
		n.outbox = box
		c.Connected(conn)
		if c.Role() == replica.Stopped { // Run may have returned, and closes nothing any more
			box.close()
		}
	})
	go n.read(l, box, conn)
}

// read hands the core what the peer says, up to its last word.
func (n *Node) read(l *link, box *outbox, conn uint64) {
	defer close(l.gone)
	defer l.Close()
	for last := false; !last; {
		p, err := l.read()
		if err != nil {
			break
		}
		m, err := replica.Decode(p)
		if err != nil {
			n.step(func(c *replica.Core) { c.PeerBroke(conn, err) })
			// Our last word is to be heard: to close with unread data would take it back.
			box.close()
			io.Copy(io.Discard, l.r)
			break
		}
		n.step(func(c *replica.Core) { c.Receive(conn, m) })
		_, last = m.(replica.Goodbye)
	}
	n.step(func(c *replica.Core) { c.Disconnected(conn) })
}

// accept lets backups in, on a primary.
func (n *Node) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files: it passes, or the next one tells
			n.opt.Log.Warn("a connection could not be accepted", "error", err)
			time.Sleep(handshakeTime / 10)
			continue
		}
		go n.welcome(c)
	}
}

// welcome lets one backup in, or turns it away.
func (n *Node) welcome(c net.Conn) {
	began := false // it was let in for the first time
	l, err := answer(c, n.opt.Settings, func(session []byte) ([]byte, error) {
		mine, err := n.admit(session)
		began = err == nil && len(session) == 0
		return mine, err
	})
	if err != nil {
		c.Close()
		if began {
			n.mu.Lock()
			n.vacate()
			n.mu.Unlock()
		}
		var refused *RefusedError
		if errors.As(err, &refused) {
			err = errors.New(refused.Reason)
		}
		n.opt.Log.Warn("turned away a peer", "peer", c.RemoteAddr(), "reason", err)
		return
	}
	n.install(l)
	n.opt.Log.Info("the backup is here", "peer", c.RemoteAddr())
}

// admit decides on a backup: a new one only before the machine runs, later only the same.
func (n *Node) admit(session []byte) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case len(session) > 0 && !bytes.Equal(session, n.session):
		return n.session, errOtherMachine
	case len(session) == 0 && n.core.Role() == replica.Stopped:
		return nil, errors.New("the primary has stopped")
	case n.core.Alone():
		return nil, errors.New("the primary went on alone; a backup can join only a machine that starts")
	case len(session) == 0 && n.taken:
		return nil, errors.New("the primary has its backup; another can join only a machine that starts")
	}
	n.taken = true
	return n.session, nil
}

// vacate makes room for another first backup. It gets a session of its own, so that the one
// before cannot come back in its place.
func (n *Node) vacate() {
	n.taken = false
	n.session = newSession()
}

// dial connects to the primary.
func (n *Node) dial(ctx context.Context) (*link, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", n.addr)
	if err != nil {
		return nil, err
	}
	l, session, err := greet(c, n.opt.Settings, n.session)
	if err != nil {
		c.Close()
		return nil, err
	}
	n.session = session
	return l, nil
}

// redial tries to get a lost connection back.
func (n *Node) redial() {
	ctx, cancel := context.WithTimeout(context.Background(), n.opt.Heartbeat*time.Duration(max(1, n.opt.Core.SuspectTicks)))
	defer cancel()
	l, err := n.dial(ctx)
	var refused *RefusedError
	switch {
	case err == nil:
		n.install(l)
	case errors.As(err, &refused):
		n.step(func(c *replica.Core) { c.Refused(err) })
	default:
		// Either proves that the process which this backup followed is no more.
		gone := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, errOtherMachine)
		n.step(func(c *replica.Core) { c.Unreachable(gone) })
	}
}
