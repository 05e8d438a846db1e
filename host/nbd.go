package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"ftvm/vmm"
)

// NBD is a disk that an NBD server has, for all hosts. The server must admit one client at a time, as qemu-nbd -t does: then a
// connection is the fence, as nobody else has one.
//
// A connection that breaks is made again, and what was not answered is sent again. But the server may be another process by then, and
// what its predecessor acknowledged and was not asked to flush is lost with that. Nobody can tell, so if there was such a change, the flushes
// that are under way fail, or the next one does.
//
// A disk whose server was not reached for long enough is given up for good: another replica may have it by now, and a history of its own on it.
type NBD struct {
	address  NBDAddress
	options  NBDOptions
	size     uint64        // bytes
	patience time.Duration // how long a connection is tried for, and how long Close waits

	mu       sync.Mutex
	order    order
	ready    []*request // to be sent, or finished where that is without the server
	sent     map[uint64]*request
	cookie   uint64 // of the request sent last
	conn     *nbdConn
	troubled time.Time // since when no request was answered; zero if nothing is wrong
	gone     error     // why the disk was given up; nil if it was not
	acquired bool
	closed   bool
	done     func(Completion)

	// Changes that the server acknowledged, and how many of them a flush covers or were lost, perhaps; how often that happened, and
	// how often it was told.
	changed, covered uint64
	losses, told     uint64

	reporting sync.Mutex // held while done is called

	kick  chan struct{} // something of the above changed that run waits for
	ended sync.WaitGroup
}

// NBDOptions tells OpenNBD what the disk is for.
type NBDOptions struct {
	ReadOnly bool
	// Size is the export's size in bytes, or 0: then the server is asked, which it must have time for.
	Size uint64
	// Waiting, if not nil, is told once a second why Acquire does not go on.
	Waiting func(error)
}

const (
	// nbdProbe is how long OpenNBD waits for the server to tell of the export.
	nbdProbe = 5 * time.Second
	// nbdPatience is how long it is tried to connect again, before the disk is given up, and how long Close waits. Otherwise a server
	// that keeps its connection is waited for without end.
	nbdPatience = 10 * time.Second
	// nbdAttempt is how long an attempt to connect again may take.
	nbdAttempt = 2 * time.Second
	// nbdRetry is the time between attempts.
	nbdRetry = 10 * time.Millisecond
)

var (
	errNBDLoss   = errors.New("the connection to the server was lost: what it had not written may be lost")
	errNBDClosed = errors.New("the server did not answer before the disk was closed")
)

// OpenNBD makes a disk of an export. It asks the server for the size, if that was not given, and keeps no connection.
func OpenNBD(a NBDAddress, o NBDOptions) (*NBD, error) {
	n := &NBD{
		address: a, options: o, size: o.Size, patience: nbdPatience,
		sent: map[uint64]*request{}, kick: make(chan struct{}, 1),
	}
	if n.size != 0 {
		return n, nil
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), nbdProbe,
		errors.New("it may be in use by another client: then its size must be given as well, with ,size=SIZE"))
	defer cancel()
	err := wait(ctx, nbdRetry, tellInterval, nil, func() (useless bool, err error) {
		export, err := probeNBD(ctx, a)
		if err != nil {
			unreachable := (*net.OpError)(nil)
			return errors.As(err, &refusal{}) || errors.As(err, &unreachable) && unreachable.Op == "dial", err
		}
		n.size = export.size
		return true, export.check(o.ReadOnly, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", a, err)
	}
	return n, nil
}

// probeNBD asks what an export is.
func probeNBD(ctx context.Context, a NBDAddress) (e nbdExport, err error) {
	// Only asking does not use up the one client that some servers (qemu-nbd without -t) serve in their life.
	c, err := dialNBD(ctx, a, nbdOptInfo)
	if err != nil {
		return e, err
	}
	if c.export.size != 0 {
		return c.export, c.abort()
	}
	// nbd-server 3.24 finds out the size only for clients that stay.
	if err := c.abort(); err != nil {
		return e, err
	}
	if c, err = dialNBD(ctx, a, nbdOptGo); err != nil {
		return e, err
	}
	return c.export, c.disconnect()
}

// Size is the disk's size in bytes, a multiple of vmm.SectorSize.
func (n *NBD) Size() uint64 { return n.size }

// Acquire connects to the server, and waits until it is admitted. The connection is kept until Close, or until the process ends.
// Acquiring what was acquired does nothing.
func (n *NBD) Acquire(ctx context.Context) error {
	n.mu.Lock()
	acquired := n.acquired
	n.mu.Unlock()
	if acquired {
		return nil
	}
	err := wait(ctx, nbdRetry, tellInterval, n.options.Waiting, func() (useless bool, err error) {
		c, err := n.connect(ctx)
		if err != nil {
			return errors.As(err, &refusal{}), err
		}
		n.mu.Lock()
		n.acquired = true
		n.use(c)
		n.mu.Unlock()
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("acquiring disk %s: %w", n.address, err)
	}
	return nil
}

// connect makes a connection that is ready for requests.
func (n *NBD) connect(ctx context.Context) (*nbdConn, error) {
	c, err := dialNBD(ctx, n.address, nbdOptGo)
	if err != nil {
		return nil, err
	}
	if err := c.export.check(n.options.ReadOnly, n.size); err != nil {
		return nil, errors.Join(err, c.disconnect())
	}
	return c, nil
}

// Start begins to perform requests. done is called once for each. It is called once in a disk's life.
func (n *NBD) Start(done func(Completion)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.done = done
	n.ended.Go(n.run)
}

// Submit queues a request and returns at once. What is said of Disk.Submit holds here, too. Nothing may be submitted
// before Acquire or after Close.
func (n *NBD) Submit(out vmm.Output) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || !n.acquired {
		panic("host: NBD.Submit after Close or before Acquire")
	}
	r := n.order.add(out, n.size)
	r.told = n.told
	if r.blockers == 0 {
		n.ready = append(n.ready, r)
		n.wake()
	}
}

// Close waits until everything that was submitted is done and reported, and disconnects. What a server does not answer
// in time fails, whether it keeps its connection or not.
func (n *NBD) Close() error {
	n.mu.Lock()
	n.closed = true
	n.wake()
	n.mu.Unlock()
	late := time.AfterFunc(n.patience, n.abandon)
	n.ended.Wait()
	late.Stop()
	n.mu.Lock()
	c := n.conn
	n.conn = nil
	n.mu.Unlock()
	if c != nil {
		_ = c.disconnect() // all is done; a server that cannot be told sees the connection's end
	}
	return nil
}

// abandon ends what waits for the server.
func (n *NBD) abandon() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone == nil {
		n.gone = errNBDClosed
	}
	if n.conn != nil {
		_ = n.conn.Close() // what receive makes of it is enough
	}
	n.wake()
}

// wake makes run look again.
func (n *NBD) wake() {
	select {
	case n.kick <- struct{}{}:
	default: // it will anyway
	}
}

// use begins with a new connection. The caller locks.
func (n *NBD) use(c *nbdConn) {
	n.conn = c
	n.wake()
	go n.receive(c)
}

// run sends requests, and sees to it that there is a connection, until the disk is closed and nothing is left.
func (n *NBD) run() {
	for {
		n.mu.Lock()
		c, batch := n.conn, n.ready
		left := len(n.order.unfinished)
		if c != nil && len(batch)+len(n.sent) == 0 {
			n.troubled = time.Time{} // nothing waits for an answer that would show it
		}
		switch {
		case n.closed && left == 0:
			n.mu.Unlock()
			return
		case c == nil && n.acquired && n.gone == nil:
			n.mu.Unlock()
			n.reconnect()
			continue
		case len(batch) == 0:
			n.mu.Unlock()
			<-n.kick
			continue
		}
		n.ready = nil
		var requests []nbdRequest
		var here []func()
		for _, r := range batch {
			if done, err := n.answer(r); done {
				here = append(here, func() { n.complete(r, nil, err) })
				continue
			}
			r.covers = n.changed
			n.cookie++
			n.sent[n.cookie] = r
			requests = append(requests, c.next(r, n.cookie))
		}
		n.mu.Unlock()
		for _, complete := range here {
			complete()
		}
		if len(requests) == 0 {
			continue
		}
		if err := c.send(requests); err != nil {
			c.Close() // what receive makes of it is enough
		}
	}
}

// answer ends a request that needs no server, or is not to reach it. The caller locks.
func (n *NBD) answer(r *request) (done bool, err error) {
	if err := r.check(n.size, n.options.ReadOnly); err != nil {
		return true, err
	}
	switch {
	case n.gone != nil:
		return true, n.gone
	case r.Op != vmm.DiskFlush:
		return r.Length == 0, nil
	case n.options.ReadOnly:
		return true, nil // there is nothing to flush, and a server need not know how
	case r.told < n.losses:
		r.told = n.losses
		return true, errNBDLoss
	}
	return false, nil
}

// complete reports the end of a request, and lets begin what waited for it.
func (n *NBD) complete(r *request, data []byte, err error) {
	c := Completion{Seq: r.Seq, Data: data}
	if err != nil {
		c = Completion{Seq: r.Seq, Status: vmm.DiskError, Err: fmt.Errorf("disk %s: %w", n.address, r.failed(err))}
	}
	n.reporting.Lock()
	n.done(c)
	n.reporting.Unlock()
	n.mu.Lock()
	n.told = max(n.told, r.told)
	n.ready = n.order.finish(r, n.ready)
	n.wake()
	n.mu.Unlock()
}

// receive takes replies from a connection until it breaks.
func (n *NBD) receive(c *nbdConn) {
	for {
		cookie, failed, err := c.reply()
		if err != nil {
			n.lose(c, err)
			return
		}
		n.mu.Lock()
		r := n.sent[cookie]
		n.mu.Unlock()
		if r == nil {
			n.lose(c, fmt.Errorf("the server breaks the protocol: it answers request %d, which is not under way", cookie))
			return
		}
		if r.Op == vmm.DiskRead && failed == nil {
			if r.data == nil {
				r.data = r.room()
			}
			if _, err := io.ReadFull(c.r, r.data[r.progress:][:r.part]); err != nil {
				n.lose(c, err)
				return
			}
		}
		n.mu.Lock()
		delete(n.sent, cookie)
		n.troubled = time.Time{}
		switch {
		case failed != nil:
		case r.Op == vmm.DiskFlush:
			n.covered = max(n.covered, r.covers)
		case r.changes():
			n.changed++
		}
		r.progress += r.part
		again := failed == nil && r.Op != vmm.DiskFlush && r.progress < r.Length
		if again {
			n.ready = append(n.ready, r)
			n.wake()
		}
		n.mu.Unlock()
		if !again {
			n.complete(r, r.data, failed)
		}
	}
}

// lose is called by the receiver of a connection that is of no use any more. What was not answered will be sent again, in the
// order in which it was sent.
func (n *NBD) lose(c *nbdConn, why error) {
	_ = c.Close() // why says more
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == c {
		n.conn = nil
	}
	var back []*request
	for _, cookie := range slices.Sorted(maps.Keys(n.sent)) {
		back = append(back, n.sent[cookie])
	}
	clear(n.sent)
	n.ready = append(back, n.ready...)
	if n.changed > n.covered {
		n.losses++
		n.covered = n.changed // told once
	}
	if n.troubled.IsZero() {
		n.troubled = time.Now()
	}
	n.despair(why)
	n.wake()
}

// despair gives the disk up if the server was tried for long enough. The caller locks.
func (n *NBD) despair(why error) {
	if n.gone == nil && time.Since(n.troubled) >= n.patience {
		n.gone = fmt.Errorf("the server does not answer, and %v of trying did not help, so the disk is given up: %w", n.patience, why)
	}
}

// reconnect tries once to make a new connection.
func (n *NBD) reconnect() {
	<-time.After(nbdRetry)
	ctx, cancel := context.WithTimeout(context.Background(), nbdAttempt)
	defer cancel()
	c, err := n.connect(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err != nil:
		n.despair(err)
	case n.gone != nil: // Close has waited for long enough
		_ = c.disconnect()
	default:
		n.use(c)
	}
}
