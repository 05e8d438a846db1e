package replica

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"ftvm/epoch"
	"ftvm/proto"
)

// Message is what one replica tells another while the machine runs: a RecordMessage, an
// Ack, a Heartbeat, a Handover or a Goodbye.
type Message interface{ message() *proto.Message }

// RecordMessage ships a record to the backup.
type RecordMessage struct{ epoch.Record }

// Ack tells the primary how many records the backup holds, and at how many boundaries it has
// compared digests and found them equal.
type Ack struct{ Held, Verified epoch.Number }

// Heartbeat tells the backup that the primary lives and how much output has left.
type Heartbeat struct{ Left epoch.Left }

// Handover asks the backup to go on in the place of the primary, whose host is in trouble. The primary waits for
// the backup's goodbye.
type Handover struct{ Reason string }

// Goodbye is a replica's last word.
type Goodbye struct {
	Cause  Cause
	Reason string
	Left   epoch.Left
}

// Cause says why a replica leaves.
type Cause uint8

const (
	// CauseEnded: the guest came to its end.
	CauseEnded Cause = 1 + iota
	// CauseQuit: an operator ended the virtual machine.
	CauseQuit
	// CauseLeaving: the sender stops; the receiver is to go on alone.
	CauseLeaving
	// CauseDropped: the sender goes on alone; the receiver is to stop.
	CauseDropped
)

// causes maps Cause to the wire.
var causes = [...]proto.Goodbye_Cause{
	CauseEnded:   proto.Goodbye_ENDED,
	CauseQuit:    proto.Goodbye_QUIT,
	CauseLeaving: proto.Goodbye_LEAVING,
	CauseDropped: proto.Goodbye_DROPPED,
}

func (m RecordMessage) message() *proto.Message {
	return &proto.Message{Body: &proto.Message_Record{Record: m.Proto()}}
}

func (m Ack) message() *proto.Message {
	return &proto.Message{Body: &proto.Message_Ack{Ack: &proto.Ack{Held: uint64(m.Held), Verified: uint64(m.Verified)}}}
}

func (m Heartbeat) message() *proto.Message {
	return &proto.Message{Body: &proto.Message_Heartbeat{Heartbeat: &proto.Heartbeat{Left: m.Left.Proto()}}}
}

func (m Handover) message() *proto.Message {
	return &proto.Message{Body: &proto.Message_Handover{Handover: &proto.Handover{Reason: Printable(m.Reason)}}}
}

func (m Goodbye) message() *proto.Message {
	return &proto.Message{Body: &proto.Message_Goodbye{Goodbye: &proto.Goodbye{
		Cause: causes[m.Cause], Reason: Printable(m.Reason), Left: m.Left.Proto()}}}
}

// Encode turns a message into wire format.
func Encode(m Message) *proto.Message { return m.message() }

// maxReason bounds what a peer may have us print, in bytes.
const maxReason = 1 << 12

// Printable is a text from a peer, or for one, as it may be shown to people: bounded, on one line, in UTF-8, and without what a terminal would obey.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s[:min(len(s), maxReason)])
}

// Decode checks a message that came from a peer.
func Decode(p *proto.Message) (Message, error) {
	switch b := p.GetBody().(type) {
	case *proto.Message_Record:
		r, err := epoch.FromProto(b.Record)
		return RecordMessage{r}, err
	case *proto.Message_Ack:
		return Ack{epoch.Number(b.Ack.GetHeld()), epoch.Number(b.Ack.GetVerified())}, nil
	case *proto.Message_Heartbeat:
		return Heartbeat{epoch.LeftFromProto(b.Heartbeat.GetLeft())}, nil
	case *proto.Message_Handover:
		return Handover{Printable(b.Handover.GetReason())}, nil
	case *proto.Message_Goodbye:
		for c, q := range causes {
			if c > 0 && q == b.Goodbye.GetCause() {
				return Goodbye{Cause(c), Printable(b.Goodbye.GetReason()), epoch.LeftFromProto(b.Goodbye.GetLeft())}, nil
			}
		}
		return nil, fmt.Errorf("goodbye with unknown cause %d", b.Goodbye.GetCause())
	}
	if p.GetBody() == nil {
		return nil, errors.New("an empty message")
	}
	return nil, fmt.Errorf("a message (%T) that has no place after the handshake", p.GetBody())
}
