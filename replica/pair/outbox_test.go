package pair

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ftvm/epoch"
	"ftvm/replica"
)

// TestOutbox: everything that was put in comes out, in order, also if it is closed at once; then the
// stream ends, while the other direction stays open. The socket has no room for all of it, and the
// reader begins only when all is put in.
func TestOutbox(t *testing.T) {
	ln := listen(t)
	defer ln.Close()
	ours, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	theirs.SetDeadline(time.Now().Add(patience))

	const messages = 3000
	reason := string(bytes.Repeat([]byte("x"), 4000))
	var sent atomic.Uint64
	b := newOutbox(newLink(ours), &sent)
	put := make(chan struct{})
	go func() {
		defer close(put)
		for i := range uint64(messages) {
			b.put(replica.Goodbye{Cause: replica.CauseQuit, Reason: reason, Left: epoch.Left{Console: i}})
		}
		b.close()
	}()
	select {
	case <-put:
	case <-time.After(patience):
		t.Fatal("the sender waits for the reader")
	}
	l := newLink(theirs)
	for i := range uint64(messages) {
		m, err := l.read()
		if err != nil || m.GetGoodbye().GetLeft().GetConsoleBytes() != i {
			t.Fatalf("message %d: %v is %d", i, err, m.GetGoodbye().GetLeft().GetConsoleBytes())
		}
	}
	if m, err := l.read(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last message: %v, %v", m, err)
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Errorf("the other direction: %v", err)
	}
	if got := sent.Load(); got < messages*4000 {
		t.Errorf("%d bytes were sent", got)
	}
}

// TestOutboxOfPipe: the same where the connection is no socket.
func TestOutboxOfPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		b := newOutbox(newLink(ours), new(atomic.Uint64))
		for i := range uint64(1000) {
			b.put(replica.Heartbeat{Left: epoch.Left{Console: i}})
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		b.close()
		l := newLink(theirs)
		for i := range uint64(1000) {
			m, err := l.read()
			if err != nil || m.GetHeartbeat().GetLeft().GetConsoleBytes() != i {
				t.Fatalf("message %d is %v, %v", i, m, err)
			}
		}
		synctest.Wait()
	})
}

// mute is a connection that nothing can be written to.
type mute struct{ net.Conn }

func (mute) Write([]byte) (int, error) { return 0, errors.New("no route to host") }

// TestOutboxOfLostConnection: if nothing can be sent the connection is closed, so that its reader
// notices; what is put in afterwards does no harm.
func TestOutboxOfLostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		b := newOutbox(newLink(mute{ours}), new(atomic.Uint64))
		b.put(replica.Heartbeat{})
		if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is still open: %v", err)
		}
		for range 10 {
			b.put(replica.Heartbeat{})
			synctest.Wait()
		}
		b.close()
		b.close()
	})
}
