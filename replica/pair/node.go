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
	FrameRoom(device uint32, frames [][]byte) int
	Exits() uint64
	Kick()
}

// Disk carries out the requests of one disk of the machine, and tells Node.DiskDone of each. Requests that touch
// the same bytes keep the order in which they were submitted.
type Disk interface{ Submit(vmm.Output) }

// SharedDisk is a Disk that all hosts reach.
type SharedDisk interface {
	Disk
	// Acquire returns when no other host can do anything to the disk any more, and what it did is done. Nothing is
	// submitted before that.
	Acquire(ctx context.Context) error
}

// Net is the outside end of one of the machine's network interfaces; it tells Node.Frames what arrives.
type Net interface {
	// Submit sends a frame. It never blocks: when it returns, the frame has left, or is lost.
	Submit(vmm.Output)
	// Announce tells the network that the machine is here now. It does not block.
	Announce()
}

// Console shows the machine's console output to the outside world, in order, and tells
// Node.ConsoleSent how far it came. *host.Console is one.
type Console interface{ Submit(vmm.Output) }

// Options is what a node needs.
type Options struct {
	Machine Machine
	// Roams is set if the machine may be run by one thread after the other; else it is run by that which Run is called by
	// and is locked to, always.
	Roams   bool
	Disks   []Disk // a SharedDisk where the machine's requests are Shared
	Net     []Net
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
	// MemoryEvery: digests cover memory once in so many positions; 0 is never. See epoch.NewExecutor.
	MemoryEvery uint64
	// AcquireTime is how long to wait for shared disks.
	AcquireTime time.Duration
	// StuckTime is after how long without a sign of life the machine, or a disk, counts as failed.
	StuckTime time.Duration
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
	// Of tick.
	ticks int
	lived uint64 // life at the last tick
	quiet int    // ticks since then

	produced []time.Time // when each output that waits in the gate was made
	stats    stats
	typed    []byte       // console input for the next boundaries
	frames   [][][]byte   // for each interface, what arrived, for the next boundaries
	emptied  *sync.Cond   // typed or one of frames became empty, or the node is over
	role     replica.Role // the last one before Ending or Stopped
	tookOver bool
	issued   map[request]int      // on a primary, the tick at which each request that is not done was submitted
	told     map[string]time.Time // when people were last told of each trouble

	notices chan notice   // for the log
	over    chan struct{} // closed when the core has stopped
	wake    chan struct{} // something changed; capacity 1
	life    atomic.Uint64 // grows while the machine's goroutine gets on
	resting atomic.Bool   // it waits for something to do
	wanted  atomic.Bool   // the primary should end the epoch
	room    atomic.Uint64 // for how long it may run in it; see replica.Core.Headroom
	kicked  atomic.Bool   // the machine was kicked for that
	crowded atomic.Bool   // frames wait for which the guest had no room

	// Of the goroutine that runs the machine.
	outs    []vmm.Output
	clock   replica.Clock
	speed   replica.Pace
	opened  time.Time     // when the present epoch was opened
	begun   vmm.Position  // where
	worked  uint64        // for how long it ran in the present epoch, in ns
	waited  time.Duration // for how long the guest waited for completions in the present epoch
	stood   time.Duration // for how long it waited for the backup in it
	wait    time.Duration // how long it does so lately, for one
	renewed bool          // the present epoch came in place of one that had to wait
	pace    uint64        // positions that the guest would have made in EpochTime, by the last epoch that had any
	due     time.Time     // when it should end
	timer   vmm.Time      // the guest's timer for which it should, 0 if there is none
	alarm   *time.Timer   // ends a rest
	armed   time.Time     // when it does
}

// notice is something for the log.
type notice struct {
	level slog.Level
	text  string
}

type request struct {
	device uint32
	id     uint64
}

type result struct {
	status vmm.DiskStatus
	data   []byte
	err    error
}

func newNode(opt Options, core func(replica.Config) *replica.Core) *Node {
	for i := range opt.Disks {
		opt.Core.Shared = opt.Core.Shared || opt.shared(uint32(i)) != nil
	}
	n := &Node{opt: opt, core: core(opt.Core), x: epoch.NewExecutor(opt.Machine, opt.MemoryEvery),
		local: map[request]*result{}, wake: make(chan struct{}, 1), frames: make([][][]byte, len(opt.Net)), issued: map[request]int{},
		wait: opt.EpochTime, told: map[string]time.Time{}, notices: make(chan notice, 64), over: make(chan struct{}), stats: stats{started: time.Now()}}
	n.emptied = sync.NewCond(&n.mu)
	n.alarm = time.AfterFunc(time.Hour, n.rouse)
	n.alarm.Stop()
	return n
}

// shared is a disk that all hosts reach, or nil if each has its own.
func (o *Options) shared(device uint32) SharedDisk {
	if uint64(device) >= uint64(len(o.Disks)) {
		return nil
	}
	d, _ := o.Disks[device].(SharedDisk)
	return d
}

// NewAlone makes a node without another replica.
func NewAlone(opt Options) *Node {
	return newNode(opt, func(c replica.Config) *replica.Core { return replica.NewPrimary(c, true) })
}

// NewPrimary makes a node that starts the machine once a backup came.
func NewPrimary(opt Options) *Node {
	n := newNode(opt, func(c replica.Config) *replica.Core { return replica.NewPrimary(c, false) })
	n.session = newSession()
	return n
}

// NewBackup makes a node that follows the primary at addr. It fails if the primary cannot be
// reached or refuses.
func NewBackup(ctx context.Context, addr string, opt Options) (*Node, error) {
	n := newNode(opt, replica.NewBackup)
	n.addr = addr
	l, err := n.dial(ctx)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("primary at %s: %w: start the primary first, or look at --peer", addr, unix.ECONNREFUSED)
	case err != nil:
		return nil, fmt.Errorf("primary at %s: %w", addr, err)
	}
	n.install(l, n.session)
	return n, nil
}

// Run runs the machine on the calling goroutine until it is over, and returns why: nil if
// the guest came to its end or an operator ended it. ln is where a primary's backup comes
// to; Run closes it. When ctx is cancelled this replica leaves.
func (n *Node) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer n.alarm.Stop()
	if ln != nil {
		defer ln.Close()
	}
	n.mu.Lock()
	role := n.core.Role()
	n.mu.Unlock()
	if role == replica.Waiting || role == replica.Primary { // a backup acquires them when it must
		if err := n.acquire(ctx); err != nil {
			return err
		}
	}
	if ln != nil {
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
		case x := <-n.notices:
			n.opt.Log.Log(context.Background(), x.level, x.text)
		case <-n.over:
			for len(n.notices) > 0 {
				x := <-n.notices
				n.opt.Log.Log(context.Background(), x.level, x.text)
			}
			return
		}
	}
}

// say has something logged, unless nobody reads the log: that must not stop a replica.
func (n *Node) say(level slog.Level, text string) {
	select {
	case n.notices <- notice{level, text}:
	default:
	}
}

// complain tells people of trouble of an object, at most once a second. It is called under n.mu.
func (n *Node) complain(object string, err error) {
	if now := time.Now(); now.Sub(n.told[object]) >= time.Second {
		n.told[object] = now
		n.say(slog.LevelError, err.Error())
	}
}

// isOver reports whether the core has stopped.
func (n *Node) isOver() bool {
	select {
	case <-n.over:
		return true
	default:
		return false
	}
}

// Failed waits until this replica has stopped, which is before Run returns. It returns what it was, and what trouble made it stop; nil for none.
func (n *Node) Failed() (replica.Role, error) {
	<-n.over
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.role, n.core.Result()
}

// Quit ends the virtual machine (on a backup: only this replica). Any goroutine may call it.
func (n *Node) Quit(reason string) { n.step(func(c *replica.Core) { c.Quit(reason) }) }

// Fail stops this replica because of trouble of its host.
func (n *Node) Fail(err error) { n.step(func(c *replica.Core) { c.Fail(err) }) }

// Trouble tells of trouble of this host that the guest can live with, such as a lost network interface. A primary that has
// a backup hands the machine over; others go on, and say so.
func (n *Node) Trouble(object string, err error) {
	n.step(func(c *replica.Core) { n.trouble(c, object, err) })
}

func (n *Node) trouble(c *replica.Core, object string, err error) {
	if c.Alone() || c.Role() != replica.Primary {
		n.complain(object, err)
		return
	}
	c.Trouble(err)
}

// Type gives the machine console input, and waits until the guest took what came before. What
// is typed at a backup is dropped (P3).
func (n *Node) Type(p []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.typed) > 0 && !n.isOver() {
		n.emptied.Wait()
	}
	if r := n.core.Role(); r == replica.Backup || r == replica.Failover {
		return
	}
	n.typed = append(n.typed, p...)
	n.rouse()
}

// Frames gives the machine what arrived at one of its network interfaces, and waits until the guest took what came
// before. What arrives at a backup is dropped (P3). The frames are the node's from now on.
func (n *Node) Frames(device uint32, frames [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.frames[device]) > 0 && !n.isOver() {
		n.emptied.Wait()
	}
	if r := n.core.Role(); r == replica.Backup || r == replica.Failover {
		return
	}
	n.frames[device] = frames
	n.want()
	n.rouse()
}

// want makes the primary end the epoch: on an exact clock at once, else at the guest's next exit.
func (n *Node) want() {
	if !n.wanted.Swap(true) && n.opt.Machine.Clock().Exact {
		n.kicked.Store(true)
		n.opt.Machine.Kick()
	}
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
		if !n.isOver() {
			close(n.over)
			n.opt.Machine.Kick()
			n.emptied.Broadcast()
		}
	case n.core.BoundaryWanted():
		n.want()
	}
	n.room.Store(n.core.Headroom())
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
	case replica.ActAcquire:
		n.stats.takeover.detected = time.Now()
		go n.acquired()
	case replica.ActClaim:
		if n.stats.takeover.detected.IsZero() {
			n.stats.takeover.detected = time.Now()
		}
		go n.step(func(c *replica.Core) { n.claimed(c) })
	case replica.ActHangUp:
		n.outbox.close()
		n.vacate()
	case replica.ActNotice:
		n.say(slog.LevelInfo, a.Text)
	}
}

// acquire waits for the shared disks.
func (n *Node) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, n.opt.AcquireTime, fmt.Errorf("--acquire-time of %v is over: another process holds it", n.opt.AcquireTime))
	defer cancel()
	for i := range n.opt.Disks {
		if d := n.opt.shared(uint32(i)); d != nil {
			if err := d.Acquire(ctx); err != nil {
				return fmt.Errorf("shared disk %d is not this host's: %w", i, err)
			}
		}
	}
	return nil
}

// acquired answers ActAcquire.
func (n *Node) acquired() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-n.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := n.acquire(ctx); err != nil {
		n.Fail(err)
		return
	}
	n.step((*replica.Core).Acquired)
}

// claimed answers a claim. There is no arbiter, so every claim is won: see docs/LIMITS.md.
func (n *Node) claimed(c *replica.Core) {
	backup := c.Role() == replica.Backup
	c.Claimed(true)
	if backup && c.Alone() {
		n.tookOver = true
		n.stats.takeover.records = c.Records()
		n.stats.takeover.consoleFrom = c.Left().Console
		for _, net := range n.opt.Net { // before what is left of the old primary's frames leaves here
			net.Announce()
		}
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
	switch o.Kind {
	case vmm.OutputConsole:
		n.opt.Console.Submit(o)
	case vmm.OutputFrame:
		n.opt.Net[o.Device].Submit(o)
	default:
		n.submit(o)
	}
}

func (n *Node) submit(o vmm.Output) {
	if key := (request{o.Device, o.Seq}); n.live() {
		n.issued[key] = n.ticks
	} else {
		n.local[key] = nil
	}
	n.opt.Disks[o.Device].Submit(o)
}

// repeat sees to it that a request is done (P7). To the replica's own disks it was issued already: what came or comes of that is the guest's. If it
// failed it is tried again, but for a flush: one that failed tells that writes are lost, and if the next one succeeds they still are.
func (n *Node) repeat(o vmm.Output) {
	key := request{o.Device, o.Seq}
	r, issued := n.local[key]
	delete(n.local, key)
	switch {
	case !issued || r != nil && r.err != nil && o.Op != vmm.DiskFlush:
		n.submit(o)
	case r != nil:
		n.complete(key, host.Completion{Seq: o.Seq, Status: r.status, Data: r.data, Err: r.err})
	default:
		n.issued[key] = n.ticks
	}
}

// live reports whether completions are inputs.
func (n *Node) live() bool {
	r := n.core.Role()
	return r == replica.Primary || r == replica.Ending
}

// DiskDone tells that a request of a disk is done. An error reaches the guest if no other replica can do better: the disk is
// shared, or there is no other.
func (n *Node) DiskDone(device uint32, done host.Completion) {
	key := request{device, done.Seq}
	n.step(func(c *replica.Core) {
		if _, kept := n.local[key]; kept {
			n.local[key] = &result{done.Status, done.Data, done.Err}
		} else {
			n.complete(key, done)
		}
	})
}

// complete gives the guest the outcome of a request.
func (n *Node) complete(key request, done host.Completion) {
	delete(n.issued, key)
	shared := n.opt.shared(key.device) != nil
	n.core.Input(vmm.Input{Kind: vmm.InputDisk, Device: key.device, ID: key.id, Status: done.Status, Data: done.Data, Local: !shared})
	if done.Err != nil {
		n.diskTrouble(key.device, done.Err)
	}
}

// diskTrouble is trouble with a disk. If the disk is shared another replica would have the same.
func (n *Node) diskTrouble(device uint32, err error) {
	object := fmt.Sprintf("disk %d", device)
	if n.opt.shared(device) != nil {
		n.complain(object, err)
	} else {
		n.trouble(n.core, object, err)
	}
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
			n.step(n.watch)
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

// watch looks for signs of life at each tick. Who is stuck leaves or hands over, instead of telling the other replica
// that all is well. Like the core it counts ticks: a process that was stopped is not stuck.
func (n *Node) watch(c *replica.Core) {
	n.ticks++
	limit := max(2, int(n.opt.StuckTime/n.opt.Heartbeat))
	if life := n.life.Load(); n.resting.Load() || life != n.lived {
		n.lived, n.quiet = life, 0
	}
	switch n.quiet++; {
	case n.quiet == limit/2:
		n.opt.Machine.Kick() // a guest may run for long without an exit
	case n.quiet >= limit:
		err := fmt.Errorf("the machine has not got on for %v: look at this host's load, and at its disks", n.opt.StuckTime)
		n.complain("machine", err)
		if !c.Alone() {
			c.Fail(err)
		}
	}
	for key, since := range n.issued {
		if n.ticks-since >= limit {
			n.diskTrouble(key.device, fmt.Errorf("request %d of disk %d is not done after %v: look at what is under that --disk", key.id, key.device, n.opt.StuckTime))
		}
	}
}

// consoleTime bounds how long a replica that leaves waits for its console to take what was
// let out.
const consoleTime = 100 * time.Millisecond
