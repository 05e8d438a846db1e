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
}

func newOutbox(l *link, sent *atomic.Uint64) *outbox {
	b := &outbox{l: l, sent: sent}
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

// close has what is queued sent, then ends the stream. The peer has drainTime to close its side.
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

// run writes until the outbox is closed and empty, or the connection is lost; the reader
// notices the latter.
func (b *outbox) run() {
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
			if c, ok := b.l.Conn.(interface{ CloseWrite() error }); ok {
				c.CloseWrite()
			}
			b.l.SetDeadline(time.Now().Add(drainTime))
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
