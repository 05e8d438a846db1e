package pair

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"ftvm/proto"
	"ftvm/replica"
)

const (
	magic = "ftvm replication"
	// ProtocolVersion changes with every change of the wire format or of its meaning.
	ProtocolVersion = 3
	// maxMessage bounds one message of a peer, in bytes.
	maxMessage = 8 << 20
	// handshakeTime bounds how long a peer may take for its part of the handshake.
	handshakeTime = 5 * time.Second
)

// Setting is one thing that must be equal on both replicas, in a form for people.
type Setting struct{ Name, Value string }

// RefusedError tells that the two replicas cannot work together, and why.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// errOtherMachine is what a backup gets that comes back to an address where another run of a
// virtual machine answers: the process that it followed is gone.
var errOtherMachine = errors.New("another virtual machine answers there")

// errNotFtvm is what a peer gets that speaks something else.
var errNotFtvm = errors.New("the peer does not speak ftvm's protocol")

// link is a connection with its buffered reader.
type link struct {
	net.Conn
	r    *bufio.Reader
	gone chan struct{} // closed when nothing more is read
}

func newLink(c net.Conn) *link {
	return &link{Conn: c, r: bufio.NewReaderSize(c, 1<<16), gone: make(chan struct{})}
}

// read reads one message.
func (l *link) read() (*proto.Message, error) {
	m := new(proto.Message)
	err := protodelim.UnmarshalOptions{MaxSize: maxMessage}.UnmarshalFrom(l.r, m)
	return m, err
}

func (l *link) write(m *proto.Message) error {
	_, err := protodelim.MarshalTo(l.Conn, m)
	return err
}

func helloMessage(settings []Setting, session []byte) *proto.Message {
	h := &proto.Hello{Magic: magic, Version: ProtocolVersion, Session: session}
	for _, s := range settings {
		h.Settings = append(h.Settings, &proto.Setting{Name: s.Name, Value: s.Value})
	}
	return &proto.Message{Body: &proto.Message_Hello{Hello: h}}
}

func refuse(l *link, reason string) error {
	l.write(&proto.Message{Body: &proto.Message_Refusal{Refusal: &proto.Refusal{Reason: reason}}})
	return &RefusedError{reason}
}

// readHello reads the first message of the other side.
func readHello(l *link) (*proto.Hello, error) {
	m, err := l.read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the peer closed the connection without a word")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("the peer does not answer within %v: is it ftvm, and the right address?", handshakeTime)
	case err != nil:
		return nil, errNotFtvm
	}
	if r := m.GetRefusal(); r != nil {
		return nil, &RefusedError{replica.Printable(r.GetReason())}
	}
	if h := m.GetHello(); h != nil && h.GetMagic() == magic {
		return h, nil
	}
	return nil, errNotFtvm
}

// difference compares what the primary and the backup told of themselves and describes
// what is not equal; "" if all is.
func difference(primary, backup *proto.Hello) string {
	if p, b := primary.GetVersion(), backup.GetVersion(); p != b {
		return fmt.Sprintf("the primary speaks protocol version %d, the backup version %d: run the same ftvm on both hosts", p, b)
	}
	p, b := described(primary), described(backup)
	var diffs []string
	for i := range max(len(p), len(b)) {
		switch {
		case i >= len(p) || i >= len(b) || p[i].Name != b[i].Name:
			if len(diffs) > 0 {
				return strings.Join(diffs, "; ") // such as another number of disks, which explains the rest
			}
			return "the two replicas describe their machines differently: run the same ftvm on both hosts"
		case p[i].Value != b[i].Value:
			diffs = append(diffs, fmt.Sprintf("%s is %s on the primary, %s on the backup", p[i].Name, p[i].Value, b[i].Value))
		}
	}
	return strings.Join(diffs, "; ")
}

// described is what a Hello tells of its machine, as it may be shown.
func described(h *proto.Hello) []Setting {
	var out []Setting
	for _, s := range h.GetSettings() {
		out = append(out, Setting{replica.Printable(s.GetName()), replica.Printable(s.GetValue())})
	}
	return out
}

// answer is the primary's part of the handshake: it checks a backup's Hello. admit decides
// whether the backup may come, which has no session (nil) the first time; it returns the
// session to tell it. A backup of another session learns ours, and so that it is wrong here.
func answer(c net.Conn, settings []Setting, admit func(session []byte) ([]byte, error)) (*link, error) {
	l := newLink(c)
	l.SetDeadline(time.Now().Add(handshakeTime))
	theirs, err := readHello(l)
	if errors.Is(err, errNotFtvm) {
		return nil, refuse(l, err.Error())
	}
	if err != nil {
		return nil, err
	}
	mine := helloMessage(settings, nil)
	first := len(theirs.GetSession()) == 0
	if d := difference(mine.GetHello(), theirs); first && d != "" {
		return nil, refuse(l, d)
	}
	session, err := admit(theirs.GetSession())
	if err != nil && !errors.Is(err, errOtherMachine) {
		return nil, refuse(l, err.Error())
	}
	mine.GetHello().Session = session
	if err := errors.Join(err, l.write(mine)); err != nil {
		return nil, err
	}
	l.SetDeadline(time.Time{})
	return l, nil
}

// greet is the backup's part. session is nil the first time.
func greet(c net.Conn, settings []Setting, session []byte) (*link, []byte, error) {
	l := newLink(c)
	l.SetDeadline(time.Now().Add(handshakeTime))
	mine := helloMessage(settings, session)
	if err := l.write(mine); err != nil {
		return nil, nil, err
	}
	theirs, err := readHello(l)
	if err != nil {
		return nil, nil, err
	}
	if session != nil && !bytes.Equal(session, theirs.GetSession()) {
		return nil, nil, errOtherMachine
	}
	if d := difference(theirs, mine.GetHello()); d != "" {
		return nil, nil, &RefusedError{d}
	}
	l.SetDeadline(time.Time{})
	return l, theirs.GetSession(), nil
}
