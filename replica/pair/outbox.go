package pair

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"ftvm/replica"
)

// outbox sends messages on one connection, in order, from a goroutine of its own. How much
// can wait in it is bounded by the core's MaxLag.
type outbox struct {
	l    *link
	sent *atomic.Uint64 // bytes

	mu     sync.Mutex
	cond   *sync.Cond
	queue  []replica.Message
	closed bool
	done   chan struct{}
}

func newOutbox(l *link, sent *atomic.Uint64) *outbox {
	b := &outbox{l: l, sent: sent, done: make(chan struct{})}
	b.cond = sync.NewCond(&b.mu)
	go b.run()
	return b
}

func (b *outbox) put(m replica.Message) {
	b.mu.Lock()
	b.queue = append(b.queue, m)
	b.mu.Unlock()
	b.cond.Signal()
}

func (b *outbox) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cond.Signal()
}

// drainTime bounds how long a leaving replica waits for its last words to be sent.
const drainTime = time.Second

// drain sends what is queued and ends the stream, so that the peer can read the last word, and
// waits for it to close its side: to close with unread data would take our word back.
func (b *outbox) drain() {
	b.close()
	late := time.NewTimer(drainTime)
	defer late.Stop()
	select {
	case <-b.done:
	case <-late.C:
		return
	}
	if c, ok := b.l.Conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	select {
	case <-b.l.gone:
	case <-late.C:
	}
}

// run writes until the outbox is closed and empty, or the connection is lost; the reader
// notices the latter.
func (b *outbox) run() {
	defer close(b.done)
	var buf bytes.Buffer
	for {
		b.mu.Lock()
		for len(b.queue) == 0 && !b.closed {
			b.cond.Wait()
		}
		batch := b.queue
		b.queue = nil
		b.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		buf.Reset()
		for _, m := range batch {
			// Writing to a bytes.Buffer cannot fail, and every Message can be encoded.
			if _, err := protodelim.MarshalTo(&buf, replica.Encode(m)); err != nil {
				panic(err)
			}
		}
		b.sent.Add(uint64(buf.Len()))
		if _, err := b.l.Write(buf.Bytes()); err != nil {
			b.l.Close()
			return
		}
	}
}
