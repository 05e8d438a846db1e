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
// A connection that breaks is made again, and what was not answered is sent again. What is written and not yet flushed when the
// server's host loses power may be lost, as on a disk whose cable is pulled.
type NBD struct {
	address  NBDAddress
	options  NBDOptions
	size     uint64        // bytes
	patience time.Duration // how long requests wait for a server that does not answer

	mu       sync.Mutex
	order    order
	ready    []*request // to be sent, or finished where that is without the server
	sent     map[uint64]*request
	cookie   uint64 // of the request sent last
	conn     *nbdConn
	troubled time.Time // since when no request was answered; zero if nothing is wrong
	acquired bool
	closed   bool
	done     func(Completion)

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
	// nbdPatience is how long requests wait for a server that does not answer, before they fail.
	nbdPatience = 10 * time.Second
	// nbdAttempt is how long an attempt to connect again may take.
	nbdAttempt = 2 * time.Second
	// nbdRetry and nbdRetryLater are how often that is tried, while requests wait and later.
	nbdRetry, nbdRetryLater = 10 * time.Millisecond, time.Second
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

// Size is the disk's size in bytes, a multiple of SectorSize.
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
	if r := n.order.add(out, n.size); r.blockers == 0 {
		n.ready = append(n.ready, r)
		n.wake()
	}
}

// Close waits until everything that was submitted is done and reported, and disconnects. A server that does not answer
// is not waited for much longer than requests are.
func (n *NBD) Close() error {
	n.mu.Lock()
	n.closed = true
	n.wake()
	n.mu.Unlock()
	n.ended.Wait()
	n.mu.Lock()
	c := n.conn
	n.conn = nil
	n.mu.Unlock()
	if c != nil {
		_ = c.disconnect() // all is done; a server that cannot be told sees the connection's end
	}
	return nil
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
		switch {
		case n.closed && left == 0:
			n.mu.Unlock()
			return
		case c == nil && n.acquired:
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
		var here []*request // need no server
		for _, r := range batch {
			if r.Op != vmm.DiskFlush && r.Length == 0 || r.check(n.size, n.options.ReadOnly) != nil {
				here = append(here, r)
				continue
			}
			n.cookie++
			n.sent[n.cookie] = r
			requests = append(requests, c.next(r, n.cookie))
		}
		n.mu.Unlock()
		for _, r := range here {
			n.complete(r, nil, r.check(n.size, n.options.ReadOnly))
		}
		if err := c.send(requests); err != nil {
			c.Close() // what receive makes of it is enough
		}
	}
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
// order in which it was sent, unless that was tried for long enough.
func (n *NBD) lose(c *nbdConn, why error) {
	_ = c.Close() // why says more
	n.mu.Lock()
	if n.conn == c {
		n.conn = nil
	}
	var back []*request
	for _, cookie := range slices.Sorted(maps.Keys(n.sent)) {
		back = append(back, n.sent[cookie])
	}
	clear(n.sent)
	if n.troubled.IsZero() {
		n.troubled = time.Now()
	}
	n.ready = append(back, n.ready...)
	failed := n.outOfPatience()
	n.wake()
	n.mu.Unlock()
	n.fail(failed, why)
}

// outOfPatience takes the requests that have waited for the server for long enough. The caller locks.
func (n *NBD) outOfPatience() (failed []*request) {
	if time.Since(n.troubled) >= n.patience {
		failed, n.ready = n.ready, nil
	}
	return failed
}

func (n *NBD) fail(requests []*request, why error) {
	for _, r := range requests {
		n.complete(r, nil, fmt.Errorf("the server does not answer, and %v of trying did not help: %w", n.patience, why))
	}
}

// reconnect tries once to make a new connection. For as long as requests are not failed it is tried often; later, now and then, and
// whenever there is a new request.
func (n *NBD) reconnect() {
	n.mu.Lock()
	impatient := time.Since(n.troubled) < n.patience
	n.mu.Unlock()
	if impatient {
		<-time.After(nbdRetry)
	} else {
		select {
		case <-time.After(nbdRetryLater):
		case <-n.kick:
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), nbdAttempt)
	defer cancel()
	c, err := n.connect(ctx)
	n.mu.Lock()
	var failed []*request
	if err == nil {
		if len(n.order.unfinished) == 0 {
			n.troubled = time.Time{} // else the first reply shows it
		}
		n.use(c)
	} else {
		failed = n.outOfPatience()
	}
	n.mu.Unlock()
	n.fail(failed, err)
}
