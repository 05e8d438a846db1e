package pair

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/replica"
)

func newSession() []byte {
	s := make([]byte, 16)
	rand.Read(s)
	return s
}

// install makes l the present connection, unless the session that it was made for is over, which it reports by false.
func (n *Node) install(l *link, session []byte) bool {
	box := newOutbox(l, &n.stats.shipped)
	var conn uint64
	n.step(func(c *replica.Core) { // in one step: connections that come together keep their order
		if !bytes.Equal(session, n.session) {
			return
		}
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
	if conn == 0 { // it is over
		box.close()
		l.Close()
		return false
	}
	go n.read(l, box, conn)
	return true
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
	began := false     // it was let in for the first time
	var session []byte // that it was let into
	l, err := answer(c, n.opt.Settings, func(theirs []byte) (mine []byte, err error) {
		session, err = n.admit(theirs)
		began = err == nil && len(theirs) == 0
		return session, err
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
	if n.install(l, session) {
		n.opt.Log.Info("the backup is here", "peer", c.RemoteAddr())
	}
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
		n.install(l, n.session)
	case errors.As(err, &refused):
		n.step(func(c *replica.Core) { c.Refused(err) })
	default:
		// Either proves that the process which this backup followed is no more; but a machine that
		// had not begun may begin there with another backup.
		other := errors.Is(err, errOtherMachine)
		n.step(func(c *replica.Core) {
			if other && c.Opened() == 0 && c.Records() == 0 {
				c.Refused(err)
				return
			}
			c.Unreachable(other || errors.Is(err, unix.ECONNREFUSED))
		})
	}
}
