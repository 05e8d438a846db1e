package pair

import (
	"bytes"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protodelim"

	"ftvm/replica"
)

// outbox sends messages on one connection, in order, without making the sender wait. A message
// is written at once by whoever sends it, if the socket has room: waking another goroutine takes
// longer than that, and outputs wait for what travels here. The rest is written by a
// goroutine of the outbox. How much can wait in it is bounded by the core's MaxLag.
type outbox struct {
	l    *link
	raw  syscall.RawConn
	sent *atomic.Uint64 // bytes, of the node

	mu      sync.Mutex
	cond    *sync.Cond // waiting or closed changed
	waiting bytes.Buffer
	writing bool // the goroutine writes what it took out of waiting
	closed  bool
}

func newOutbox(l *link, sent *atomic.Uint64) *outbox {
	b := &outbox{l: l, sent: sent}
	b.cond = sync.NewCond(&b.mu)
	if c, ok := l.Conn.(syscall.Conn); ok {
		b.raw, _ = c.SyscallConn() // fails for a closed connection; then so does the goroutine's write
	}
	go b.run()
	return b
}

func (b *outbox) put(m replica.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.waiting.Len()
	// Writing to a bytes.Buffer cannot fail, and every Message can be encoded.
	if _, err := protodelim.MarshalTo(&b.waiting, replica.Encode(m)); err != nil {
		panic(err)
	}
	b.sent.Add(uint64(b.waiting.Len() - before))
	if before == 0 && !b.writing {
		b.waiting.Next(b.try(b.waiting.Bytes()))
	}
	if b.waiting.Len() > 0 {
		b.cond.Signal()
	}
}

// try writes what the socket takes without waiting, and returns how much that was. An error
// is left for the goroutine to find.
func (b *outbox) try(p []byte) (n int) {
	if b.raw == nil {
		return 0
	}
	err := b.raw.Write(func(fd uintptr) bool {
		n, _ = unix.Write(int(fd), p)
		return true
	})
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// close has what waits sent, then ends the stream. The peer has drainTime to close its side.
func (b *outbox) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cond.Signal()
}

// drainTime bounds how long a leaving replica waits for its last words to be sent.
const drainTime = time.Second

// drain closes the outbox and waits until the peer has read all and closed its side: to close
// with unread data would take our last word back.
func (b *outbox) drain() {
	b.close()
	late := time.NewTimer(drainTime)
	defer late.Stop()
	select {
	case <-b.l.gone:
	case <-late.C:
	}
}

// run writes what had no room, until the outbox is closed and empty, or the connection is lost;
// the reader notices the latter.
func (b *outbox) run() {
	var taken bytes.Buffer
	for {
		b.mu.Lock()
		b.writing = false
		for b.waiting.Len() == 0 && !b.closed {
			b.cond.Wait()
		}
		b.writing = true
		taken.Reset()
		b.waiting.WriteTo(&taken)
		b.mu.Unlock()
		if taken.Len() == 0 {
			if c, ok := b.l.Conn.(interface{ CloseWrite() error }); ok {
				c.CloseWrite()
			}
			b.l.SetDeadline(time.Now().Add(drainTime))
			return
		}
		if _, err := b.l.Write(taken.Bytes()); err != nil {
			b.l.Close()
			return
		}
	}
}
