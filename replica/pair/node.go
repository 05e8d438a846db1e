package pair

import (
	"context"
	"errors"
	"fmt"
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

	notices chan string   // for the log
	over    chan struct{} // closed when the core has stopped
	wake    chan struct{} // something changed; capacity 1
	wanted  atomic.Bool   // the primary should end the epoch
	stopped atomic.Bool

	// Of the goroutine that runs the machine.
	outs   []vmm.Output
	opened time.Time    // when the present epoch was opened
	begun  vmm.Position // where
	pace   uint64       // positions that the guest would have made in EpochTime, by the last epoch that had any
	due    time.Time    // when it should end
}

type request struct {
	device uint32
	id     uint64
}

type result struct{ data []byte }

func newNode(opt Options, core *replica.Core) *Node {
	n := &Node{opt: opt, core: core, x: epoch.NewExecutor(opt.Machine, opt.MemoryEvery),
		local: map[request]*result{}, stale: map[request]int{}, wake: make(chan struct{}, 1),
		notices: make(chan string, 64), over: make(chan struct{}), stats: stats{started: time.Now()}}
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
	told := make(chan struct{})
	go n.tell(told)
	err := n.loop()
	n.mu.Lock()
	box := n.outbox
	n.mu.Unlock()
	if box != nil {
		box.drain()
	}
	select {
	case <-told:
	case <-time.After(drainTime):
	}
	return err
}

// tell logs notices until the core has stopped, and then the last ones.
func (n *Node) tell(told chan<- struct{}) {
	defer close(told)
	for {
		select {
		case text := <-n.notices:
			n.opt.Log.Info(text)
		case <-n.over:
			for len(n.notices) > 0 {
				n.opt.Log.Info(<-n.notices)
			}
			return
		}
	}
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
		select {
		case n.notices <- a.Text:
		default: // nobody reads the log: that must not stop a replica
		}
	}
}

// claimed answers a claim. There is no arbiter, so every claim is won: see docs/LIMITS.md.
func (n *Node) claimed(c *replica.Core) {
	backup := c.Role() == replica.Backup
	c.Claimed(true)
	if backup && c.Alone() {
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

// tick is the core's clock.
func (n *Node) tick(ctx context.Context) {
	t := time.NewTicker(n.opt.Heartbeat)
	defer t.Stop()
	leave := func(c *replica.Core) { c.Leave("its operator stopped it") }
	told := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case <-t.C:
			n.step((*replica.Core).Tick)
		case <-told:
			told, late = nil, time.After(consoleTime)
			n.step(leave)
		case <-late:
			n.step(leave)
		case <-n.over:
			return
		}
	}
}

// consoleTime bounds how long a replica that leaves waits for its console to take what was
// let out.
const consoleTime = 100 * time.Millisecond
