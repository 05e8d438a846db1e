package epoch

import (
	"math"
	"reflect"
	"testing"

	pb "google.golang.org/protobuf/proto"

	"ftvm/proto"
	"ftvm/vmm"
)

// records are some that a primary could make.
var records = []Record{
	{Length: 1},
	{Epoch: 1, Position: 2, Digest: 3, Memory: true, Awaited: 4, Length: 5, Awaits: 10, Time: 6, Rate: 8, Left: Left{7, 9}},
	{Epoch: math.MaxUint64, Position: math.MaxUint64, Digest: math.MaxUint64, Ended: true, Awaited: math.MaxUint64, Length: math.MaxUint64, Awaits: math.MaxUint64,
		Time: math.MaxUint64, Rate: math.MaxUint64, Left: Left{math.MaxUint64, math.MaxUint64}},
	{Length: 1, Inputs: []vmm.Input{
		{Kind: vmm.InputConsole, Data: []byte("typed")},
		{Kind: vmm.InputDisk, Device: 1, ID: 2, Status: vmm.DiskError, Local: true},
		{Kind: vmm.InputEntropy, Data: []byte{0, 255}},
		{Kind: vmm.InputDisk, Device: 2, ID: 3, Data: []byte("read from a shared disk")},
		{Kind: vmm.InputFrame, Device: 1, Data: []byte("frame")},
	}},
}

func TestRecordsSurviveTheWire(t *testing.T) {
	for _, r := range records {
		wire, err := pb.Marshal(r.Proto())
		if err != nil {
			t.Fatal(err)
		}
		p := new(proto.Record)
		if err := pb.Unmarshal(wire, p); err != nil {
			t.Fatal(err)
		}
		if got, err := FromProto(p); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v came back as %+v, %v", r, got, err)
		}
	}
}

// TestReadDataStaysAtHome: every replica reads its own image, so what was read is not shipped.
func TestReadDataStaysAtHome(t *testing.T) {
	r := Record{Length: 1, Inputs: []vmm.Input{{Kind: vmm.InputDisk, ID: 1, Data: []byte("read"), Local: true}}}
	if data := r.Proto().Inputs[0].Data; data != nil {
		t.Errorf("%q is shipped", data)
	}
	if r.Inputs[0].Data == nil {
		t.Error("what is not shipped is lost at home, too")
	}
}

func TestFromProtoRefuses(t *testing.T) {
	input := func(in *proto.Input) *proto.Record { return &proto.Record{Length: 1, Inputs: []*proto.Input{in}} }
	for name, p := range map[string]*proto.Record{
		"no record":         nil,
		"no length":         {},
		"an unknown kind":   input(&proto.Input{Kind: 99}),
		"no kind":           input(&proto.Input{}),
		"an unknown status": input(&proto.Input{Kind: proto.Input_DISK, Status: 257}),
		"too many bytes":    input(&proto.Input{Kind: proto.Input_CONSOLE, Data: make([]byte, maxInputBytes+1)}),
	} {
		if r, err := FromProto(p); err == nil {
			t.Errorf("%s was taken for %+v", name, r)
		}
	}
}

// FuzzFromProto: whatever a peer or a log holds, FromProto does not panic, and what it takes
// survives the wire and harms no executor.
func FuzzFromProto(f *testing.F) {
	for _, r := range records {
		wire, err := pb.Marshal(r.Proto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		p := new(proto.Record)
		if pb.Unmarshal(wire, p) != nil {
			return
		}
		r, err := FromProto(p)
		if err != nil {
			return
		}
		again, err := FromProto(r.Proto())
		for i := range r.Inputs {
			if r.Inputs[i].Local {
				r.Inputs[i].Data = nil
			}
		}
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
		x := NewExecutor(&counter{}, 1)
		_ = x.Replay(r, nil)
		if x.Open(r) == nil {
			_, _ = x.Run(nil)
			_ = x.Replay(r, nil)
		}
	})
}
