package pair

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ftvm/host"
	"ftvm/replica"
	"ftvm/vmm"
)

// news lets a test wait until something is so.
type news struct {
	sync.Mutex
	changed chan struct{}
}

// tell is called with the lock held.
func (n *news) tell() {
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}

// patience is how long a test waits for what comes at once, before it fails.
const patience = 20 * time.Second

// await waits until so, which is called with the lock held, is true.
func (n *news) await(t *testing.T, what string, so func() bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	n.Lock()
	defer n.Unlock()
	for !so() {
		if n.changed == nil {
			n.changed = make(chan struct{})
		}
		changed := n.changed
		n.Unlock()
		select {
		case <-changed:
			n.Lock()
		case <-late.C:
			n.Lock()
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// console is a Console that tells of what it showed, at once or when it is told to.
type console struct {
	news
	node   *Node
	held   bool // nothing is told
	frozen bool // the host is dead
	broken error
	from   uint64 // number of the first byte that was shown
	shown  []byte
	gaps   []string
	ends   chan uint64
}

func (c *console) Submit(o vmm.Output) {
	c.Lock()
	defer c.Unlock()
	if c.frozen {
		return
	}
	if len(c.shown) == 0 {
		c.from = o.Seq
	}
	if want := c.from + uint64(len(c.shown)); o.Seq != want {
		c.gaps = append(c.gaps, fmt.Sprintf("%q at %d, want %d", o.Data, o.Seq, want))
	}
	c.shown = append(c.shown, o.Data...)
	c.tell()
	if !c.held {
		c.ends <- o.Seq + uint64(len(o.Data))
	}
}

func (c *console) work() {
	for end := range c.ends {
		c.Lock()
		frozen, broken := c.frozen, c.broken
		c.Unlock()
		if !frozen {
			c.node.ConsoleSent(end, broken)
		}
	}
}

// awaitText waits until text was shown.
func (c *console) awaitText(t *testing.T, text string) {
	t.Helper()
	c.await(t, fmt.Sprintf("%q on the console", text), func() bool { return strings.Contains(string(c.shown), text) })
}

func (c *console) text() string {
	c.Lock()
	defer c.Unlock()
	return string(c.shown)
}

// disk is a Disk that does what it is told at once, or when the test says so.
type disk struct {
	news
	node      *Node
	index     uint32
	held      bool
	frozen    bool
	stop      bool
	broken    error
	marked    bool // reads return which try this is
	submitted []vmm.Output
	performed int
	tries     map[uint64]int
	blocks    map[uint64]string
}

func (d *disk) Submit(o vmm.Output) {
	d.Lock()
	defer d.Unlock()
	d.submitted = append(d.submitted, o)
	d.tell()
}

// work does requests until the disk is stopped, if it is not held.
func (d *disk) work(t *testing.T) {
	for {
		stop := false
		d.awaitFor(func() bool {
			stop = d.stop
			return stop || !d.held && !d.frozen && d.performed < len(d.submitted)
		})
		if stop {
			return
		}
		d.finish()
	}
}

// awaitFor is await without an end.
func (d *disk) awaitFor(so func() bool) {
	d.Lock()
	defer d.Unlock()
	for !so() {
		if d.changed == nil {
			d.changed = make(chan struct{})
		}
		changed := d.changed
		d.Unlock()
		<-changed
		d.Lock()
	}
}

// awaitRequests waits until so many requests were submitted.
func (d *disk) awaitRequests(t *testing.T, n int) {
	t.Helper()
	d.await(t, fmt.Sprintf("request %d of disk %d", n-1, d.index), func() bool { return len(d.submitted) >= n })
}

// finish does the next request and tells the node.
func (d *disk) finish() {
	d.Lock()
	if d.performed == len(d.submitted) || d.frozen {
		d.Unlock()
		return
	}
	o := d.submitted[d.performed]
	d.performed++
	d.tell()
	d.tries[o.Seq]++
	done := host.Completion{Seq: o.Seq, Err: d.broken}
	switch {
	case done.Err != nil:
		done.Status = vmm.DiskError
	case o.Op == vmm.DiskWrite:
		d.blocks[o.Offset] = string(o.Data)
	case o.Op == vmm.DiskRead && d.marked:
		done.Data = fmt.Appendf(nil, "r%d.%d\n", o.Seq, d.tries[o.Seq])
	case o.Op == vmm.DiskRead:
		done.Data = append(make([]byte, 0, toyBlock), d.blocks[o.Offset]...)[:toyBlock]
	}
	d.Unlock()
	d.node.DiskDone(d.index, done)
}

// set changes how the disk behaves.
func (d *disk) set(f func(d *disk)) {
	d.Lock()
	defer d.Unlock()
	f(d)
	d.tell()
}

func (c *console) set(f func(c *console)) {
	c.Lock()
	defer c.Unlock()
	f(c)
	c.tell()
}

// sharedDisk is a SharedDisk.
type sharedDisk struct {
	*disk
	acquire func(ctx context.Context) error
}

func (d sharedDisk) Acquire(ctx context.Context) error { return d.acquire(ctx) }

// share makes disk 1 of both replicas one that all hosts reach, which the primary has until free is closed.
func share(p, b *side, free <-chan struct{}) {
	blocks := map[uint64]string{}
	for _, s := range []*side{p, b} {
		s.machine.shared, s.disks[1].blocks = true, blocks
		s.opt.Disks[1] = sharedDisk{s.disks[1], func(ctx context.Context) error {
			if s == p {
				return nil
			}
			select {
			case <-free:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
	}
}

// network is a Net.
type network struct {
	news
	sent      []string // what left
	numbers   []uint64
	announced int // how much had left when the machine was announced last
	frozen    bool
}

func (w *network) Submit(o vmm.Output) {
	w.Lock()
	defer w.Unlock()
	if !w.frozen {
		w.sent, w.numbers = append(w.sent, string(o.Data)), append(w.numbers, o.Seq)
		w.tell()
	}
}

func (w *network) Announce() {
	w.Lock()
	defer w.Unlock()
	w.announced = len(w.sent) + 1
	w.tell()
}

// awaitFrame waits until a frame left.
func (w *network) awaitFrame(t *testing.T, text string) {
	t.Helper()
	w.await(t, fmt.Sprintf("frame %q", text), func() bool { return slices.Contains(w.sent, text) })
}

// frames is what left.
func (w *network) frames() []string {
	w.Lock()
	defer w.Unlock()
	return slices.Clone(w.sent)
}

// logbook keeps what a node says.
type logbook struct {
	news
	lines []string
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logbook) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logbook) WithGroup(string) slog.Handler            { return l }
func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" || a.Key == "error" {
			line += ": " + a.Value.String()
		}
		return true
	})
	l.Lock()
	defer l.Unlock()
	l.lines = append(l.lines, line)
	l.tell()
	return nil
}

func (l *logbook) awaitLine(t *testing.T, text string) {
	t.Helper()
	l.await(t, fmt.Sprintf("%q in the log", text), func() bool {
		return slices.ContainsFunc(l.lines, func(s string) bool { return strings.Contains(s, text) })
	})
}

// side is one replica with its host.
type side struct {
	*Node
	name    string
	machine *toy
	console *console
	disks   []*disk
	nets    []*network
	log     *logbook
	opt     Options
	ln      net.Listener
	cancel  context.CancelFunc
	result  chan error // of Run
	err     error
	ended   bool
}

// newSide prepares a replica that runs a script. Heartbeats come only when a test calls tick, unless
// it changes opt.Heartbeat; and epochs end for no reason of the host's clock.
func newSide(name string, script ...op) *side {
	s := &side{name: name, machine: newToy(script), console: &console{ends: make(chan uint64, 1<<12)}, log: &logbook{}, result: make(chan error, 1)}
	s.opt = Options{
		Machine: s.machine, Console: s.console, Log: slog.New(s.log),
		Settings: []Setting{{"guest memory", "64MiB"}, {"kernel", "toy"}},
		// So small a lag makes a backup tell at once what it has verified; ticks are far apart here.
		Core:      replica.Config{MaxLag: 4, SuspectTicks: 5},
		Heartbeat: time.Hour, EpochLength: 7, EpochTime: time.Hour, MemoryEvery: 3, AcquireTime: patience, StuckTime: 10 * time.Hour,
	}
	for i := range uint32(2) {
		d := &disk{index: i, tries: map[uint64]int{}, blocks: map[uint64]string{}}
		s.disks = append(s.disks, d)
		s.opt.Disks = append(s.opt.Disks, d)
		s.nets = append(s.nets, &network{})
		s.opt.Net = append(s.opt.Net, s.nets[i])
	}
	return s
}

// start runs the node n until it is over.
func (s *side) start(t *testing.T, n *Node, ln net.Listener) {
	s.Node, s.ln, s.console.node = n, ln, n
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	var host sync.WaitGroup
	host.Go(s.console.work)
	for _, d := range s.disks {
		d.node = n
		host.Go(func() { d.work(t) })
	}
	go func() { s.result <- n.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		s.wait(t)
		n.mu.Lock()
		box := n.outbox
		n.mu.Unlock()
		if box != nil {
			box.l.Close()
		}
		close(s.console.ends)
		for _, d := range s.disks {
			d.set(func(d *disk) { d.stop = true })
		}
		host.Wait()
		if t.Failed() {
			s.log.Lock()
			t.Logf("%s said %q, showed %q", s.name, s.log.lines, s.console.text())
			s.log.Unlock()
		}
		for _, gap := range s.console.gaps {
			t.Errorf("%s's console was given %s", s.name, gap)
		}
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (s *side) startAlone(t *testing.T) { s.start(t, NewAlone(s.opt), nil) }

// startPrimary makes s a primary, which waits for its backup.
func (s *side) startPrimary(t *testing.T) { s.start(t, NewPrimary(s.opt), listen(t)) }

// startBackup makes s the backup of the primary at addr.
func (s *side) startBackup(t *testing.T, addr string) {
	t.Helper()
	n, err := NewBackup(context.Background(), addr, s.opt)
	if err != nil {
		t.Fatal(err)
	}
	s.start(t, n, nil)
}

func (s *side) address() string { return s.ln.Addr().String() }

// tick is n heartbeats.
func (s *side) tick(n int) {
	for range n {
		s.step((*replica.Core).Tick)
	}
}

// wait waits until Run returned, and tells what.
func (s *side) wait(t *testing.T) error {
	t.Helper()
	if s.ended {
		return s.err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case s.err = <-s.result:
		s.ended = true
	case <-late.C:
		t.Fatalf("%s does not stop", s.name)
	}
	return s.err
}

// ends checks that Run returns nil.
func (s *side) ends(t *testing.T) {
	t.Helper()
	if err := s.wait(t); err != nil {
		t.Fatalf("%s stopped with %v", s.name, err)
	}
}

// present is the present connection.
func (s *side) present() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outbox.l
}

// die is the end of a replica's process, as far as the world can see: its disks and its console do
// nothing more, and its sockets are closed without a word.
func (s *side) die() {
	s.console.set(func(c *console) { c.frozen = true })
	for i, d := range s.disks {
		d.set(func(d *disk) { d.frozen = true })
		s.nets[i].Lock()
		s.nets[i].frozen = true
		s.nets[i].Unlock()
	}
	if s.ln != nil {
		s.ln.Close()
	}
	s.present().Close()
}

// newPair starts two replicas of one machine. change is applied to both, before.
func newPair(t *testing.T, change func(s *side), script ...op) (primary, backup *side) {
	t.Helper()
	primary, backup = newSide("the primary", script...), newSide("the backup", script...)
	if change != nil {
		change(primary)
		change(backup)
	}
	primary.startPrimary(t)
	backup.startBackup(t, primary.address())
	primary.log.awaitLine(t, "the backup is here")
	return primary, backup
}
