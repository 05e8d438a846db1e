package epoch

import (
	"fmt"

	"ftvm/proto"
	"ftvm/vmm"
)

// Number counts epochs from 0. Record n opens epoch n, and for n > 0 closes epoch n-1.
type Number uint64

// Record is what a boundary carries: all that a replica needs to go from the end of one
// epoch to the end of the next.
type Record struct {
	// Epoch is the epoch that this boundary opens.
	Epoch Number
	// Position is where the previous epoch ended.
	Position vmm.Position
	// Digest is of the machine's state there, before Inputs; Memory tells whether it covers RAM.
	Digest uint64
	Memory bool
	// Ended is set if the guest came to its end there; no record follows.
	Ended bool
	// Length is the longest that the epoch may become, in positions. A backup that gets no
	// further record runs the epoch to this length.
	Length uint64
	// Time is guest time at the boundary.
	Time vmm.Time
	// Inputs enter the machine in this order. What a replicated disk read returned is
	// not in here: every replica has it on its own image.
	Inputs []vmm.Input
	// ConsoleLeft is how many bytes of console output have left for the outside world.
	ConsoleLeft uint64
}

// maxInputBytes bounds what one input of a record may carry.
const maxInputBytes = 1 << 20

// Proto is the record in wire and log format.
func (r *Record) Proto() *proto.Record {
	p := &proto.Record{
		Epoch:       uint64(r.Epoch),
		Position:    uint64(r.Position),
		Digest:      r.Digest,
		Memory:      r.Memory,
		Ended:       r.Ended,
		Length:      r.Length,
		TimeNs:      uint64(r.Time),
		ConsoleLeft: r.ConsoleLeft,
	}
	for _, in := range r.Inputs {
		q := &proto.Input{Device: in.Device, Id: in.ID, Status: uint32(in.Status), Data: in.Data}
		switch in.Kind {
		case vmm.InputConsole:
			q.Kind = proto.Input_CONSOLE
		case vmm.InputDisk:
			q.Kind, q.Data = proto.Input_DISK, nil
		case vmm.InputEntropy:
			q.Kind = proto.Input_ENTROPY
		}
		p.Inputs = append(p.Inputs, q)
	}
	return p
}

// inputKinds maps the wire's kinds to the machine's.
var inputKinds = map[proto.Input_Kind]vmm.InputKind{
	proto.Input_CONSOLE: vmm.InputConsole,
	proto.Input_DISK:    vmm.InputDisk,
	proto.Input_ENTROPY: vmm.InputEntropy,
}

// FromProto checks a record that came from a peer or a log.
func FromProto(p *proto.Record) (Record, error) {
	r := Record{
		Epoch:       Number(p.GetEpoch()),
		Position:    vmm.Position(p.GetPosition()),
		Digest:      p.GetDigest(),
		Memory:      p.GetMemory(),
		Ended:       p.GetEnded(),
		Length:      p.GetLength(),
		Time:        vmm.Time(p.GetTimeNs()),
		ConsoleLeft: p.GetConsoleLeft(),
	}
	if r.Length == 0 {
		return r, fmt.Errorf("record %d opens an epoch of no length", r.Epoch)
	}
	for i, q := range p.GetInputs() {
		kind, ok := inputKinds[q.GetKind()]
		if !ok {
			return r, fmt.Errorf("record %d, input %d has unknown kind %d", r.Epoch, i, q.GetKind())
		}
		if len(q.GetData()) > maxInputBytes {
			return r, fmt.Errorf("record %d, input %d has %d bytes; at most %d are possible", r.Epoch, i, len(q.GetData()), maxInputBytes)
		}
		if q.GetStatus() > uint32(vmm.DiskError) {
			return r, fmt.Errorf("record %d, input %d has unknown disk status %d", r.Epoch, i, q.GetStatus())
		}
		r.Inputs = append(r.Inputs, vmm.Input{Kind: kind, Device: q.GetDevice(), ID: q.GetId(),
			Status: vmm.DiskStatus(q.GetStatus()), Data: q.GetData()})
	}
	return r, nil
}
