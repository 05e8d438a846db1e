package replica

import (
	"reflect"
	"strings"
	"testing"

	pb "google.golang.org/protobuf/proto"

	"ftvm/epoch"
	"ftvm/proto"
	"ftvm/vmm"
)

// messages is one of each kind, and the edges.
var messages = []Message{
	RecordMessage{epoch.Record{Length: 1}},
	RecordMessage{epoch.Record{Epoch: 7, Position: 70, Digest: 1 << 63, Memory: true, Ended: true, Length: 9, Awaited: 2, Awaits: 3, Time: 8, Rate: 5, Left: epoch.Left{Console: 6, Frames: 4},
		Inputs: []vmm.Input{{Kind: vmm.InputConsole, Data: []byte("a")}, {Kind: vmm.InputDisk, Device: 1, ID: 2, Status: vmm.DiskError}}}},
	Ack{}, Ack{Held: 1 << 63, Verified: 3},
	Heartbeat{}, Heartbeat{epoch.Left{Console: 5, Frames: 6}}, Handover{"why"},
	Goodbye{Cause: CauseEnded}, Goodbye{Cause: CauseQuit, Reason: "why"},
	Goodbye{Cause: CauseLeaving, Left: epoch.Left{Console: 4}}, Goodbye{Cause: CauseDropped},
}

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, m := range messages {
		wire, err := pb.Marshal(Encode(m))
		if err != nil {
			t.Fatalf("%#v: %v", m, err)
		}
		got := new(proto.Message)
		if err := pb.Unmarshal(wire, got); err != nil {
			t.Fatalf("%#v: %v", m, err)
		}
		if back, err := Decode(got); err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%#v came back as %#v, %v", m, back, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, m := range map[string]*proto.Message{
		"nothing":                {},
		"a hello":                {Body: &proto.Message_Hello{}},
		"a record without body":  {Body: &proto.Message_Record{}},
		"a goodbye without body": {Body: &proto.Message_Goodbye{}},
		"an unknown cause":       {Body: &proto.Message_Goodbye{Goodbye: &proto.Goodbye{Cause: 99}}},
	} {
		if got, err := Decode(m); err == nil {
			t.Errorf("%s was taken for %#v", name, got)
		}
	}
	long := Goodbye{Cause: CauseQuit, Reason: strings.Repeat("x", maxReason+1)}
	if m, err := Decode(Encode(long)); err != nil || len(m.(Goodbye).Reason) != maxReason {
		t.Errorf("a long reason: %d bytes, %v; want %d", len(m.(Goodbye).Reason), err, maxReason)
	}
}

// FuzzDecode: whatever a peer sends, Decode does not panic, and what it takes can be said again.
func FuzzDecode(f *testing.F) {
	for _, m := range messages {
		wire, err := pb.Marshal(Encode(m))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		p := new(proto.Message)
		if pb.Unmarshal(wire, p) != nil {
			return
		}
		m, err := Decode(p)
		if err != nil {
			return
		}
		if _, err := Decode(Encode(m)); err != nil {
			t.Errorf("%#v was decoded and is refused when encoded again: %v", m, err)
		}
		// The core survives it in every role.
		for _, c := range []*Core{NewPrimary(config, false), NewPrimary(config, true), NewBackup(config)} {
			c.Connected(1)
			c.Receive(1, m)
			c.Receive(1, m)
			c.Next()
		}
	})
}

// TestReasonOfAnyBytes: an error may have the name of a file in it, which is not UTF-8 then.
func TestReasonOfAnyBytes(t *testing.T) {
	for _, m := range []Message{Handover{"d\xe9j\xe0 vu"}, Goodbye{Cause: CauseLeaving, Reason: "d\xe9j\xe0 vu"}} {
		if _, err := pb.Marshal(Encode(m)); err != nil {
			t.Errorf("%#v: %v", m, err)
		}
	}
}
