package badinput

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"

	"ftvm/proto"
)

// relay stands between a primary and its backup, and can change what they tell each other.
type relay struct {
	ln      net.Listener
	primary string
	liar    liar
	lying   sync.Mutex
	told    bool // the liar has lied
	done    sync.WaitGroup
}

// liar looks at a message on its way; lies are sent in its place if it returns true. It lies once.
type liar struct {
	// of is whose words are changed: true for the primary's.
	ofPrimary bool
	lie       func(m *proto.Message) (lies []any, lied bool)
}

// Lies are messages and these.
type (
	bytesOnTheWire []byte
	hangUp         struct{}
)

// newRelay starts a relay to the primary at addr; it ends with the test.
func newRelay(t *testing.T, addr string, l liar) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	r := &relay{ln: ln, primary: addr, liar: l}
	r.done.Go(r.accept)
	t.Cleanup(func() {
		ln.Close()
		r.done.Wait()
	})
	return r
}

func (r *relay) accept() {
	for {
		backup, err := r.ln.Accept()
		if err != nil {
			return
		}
		primary, err := net.Dial("tcp", r.primary)
		if err != nil {
			backup.Close()
			continue
		}
		r.done.Go(func() { r.pump(primary, backup, r.liar.ofPrimary) })
		r.done.Go(func() { r.pump(backup, primary, !r.liar.ofPrimary) })
	}
}

// pump passes messages on until one side hangs up.
func (r *relay) pump(from, to net.Conn, mayLie bool) {
	defer from.Close()
	defer to.Close()
	in := bufio.NewReader(from)
	for {
		m := new(proto.Message)
		if err := protodelim.UnmarshalFrom(in, m); err != nil {
			return
		}
		words := []any{m}
		if mayLie {
			words = r.consider(m)
		}
		for _, w := range words {
			var err error
			switch w := w.(type) {
			case *proto.Message:
				_, err = protodelim.MarshalTo(to, w)
			case bytesOnTheWire:
				_, err = to.Write(w)
			case hangUp:
				err = io.EOF
			}
			if err != nil {
				return
			}
		}
	}
}

// consider asks the liar, if it has not lied yet.
func (r *relay) consider(m *proto.Message) []any {
	r.lying.Lock()
	defer r.lying.Unlock()
	if !r.told {
		if lies, lied := r.liar.lie(m); lied {
			r.told = true
			return lies
		}
	}
	return []any{m}
}
