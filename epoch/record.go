package epoch

import (
	"fmt"
	"slices"

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
	// Position is where the previous epoch ended. Awaited is how many completions entered in that epoch while the
	// guest was halted: each that of the request to the replica's own disks that was then the oldest.
	Position vmm.Position
	Awaited  uint64
	// Digest is of the machine's state there, before Inputs; Memory tells whether it covers RAM.
	Digest uint64
	Memory bool
	// Ended is set if the guest came to its end there; no record follows.
	Ended bool
	// Length is the longest that the epoch may become, in positions, and Awaits the most that Awaited may. A backup that gets no
	// further record runs the epoch to this length.
	Length uint64
	Awaits uint64
	// Time is guest time at the boundary.
	Time vmm.Time
	// Rate is how fast guest time goes on from there, until the next boundary.
	Rate vmm.Rate
	// Inputs enter the machine in this order. What a local read returned is not shipped: every replica has it on an
	// image of its own.
	Inputs []vmm.Input
	// Left is how much output has left for the outside world.
	Left Left
}

// Left is how much output is known to have left for the outside world.
type Left struct {
	Console uint64 // bytes
	Frames  uint64 // of all interfaces
}

// and is what is known by both.
func (l Left) and(m Left) Left {
	return Left{max(l.Console, m.Console), max(l.Frames, m.Frames)}
}

// Proto is l in wire format.
func (l Left) Proto() *proto.Left { return &proto.Left{ConsoleBytes: l.Console, Frames: l.Frames} }

// LeftFromProto reads what a peer or a log says.
func LeftFromProto(p *proto.Left) Left { return Left{p.GetConsoleBytes(), p.GetFrames()} }

// maxInputBytes bounds what one input of a record may carry.
const maxInputBytes = 4 << 20

// Proto is the record in wire and log format.
func (r *Record) Proto() *proto.Record {
	p := &proto.Record{
		Epoch:    uint64(r.Epoch),
		Position: uint64(r.Position),
		Awaited:  r.Awaited,
		Digest:   r.Digest,
		Memory:   r.Memory,
		Ended:    r.Ended,
		Length:   r.Length,
		Awaits:   r.Awaits,
		TimeNs:   uint64(r.Time),
		Rate:     uint64(r.Rate),
		Left:     r.Left.Proto(),
	}
	for _, in := range r.Inputs {
		q := &proto.Input{Kind: inputKinds[in.Kind], Device: in.Device, Id: in.ID, Status: uint32(in.Status), Local: in.Local}
		if !in.Local {
			q.Data = in.Data
		}
		p.Inputs = append(p.Inputs, q)
	}
	return p
}

// inputKinds maps the machine's kinds of input to the wire's.
var inputKinds = [...]proto.Input_Kind{
	vmm.InputConsole: proto.Input_CONSOLE,
	vmm.InputDisk:    proto.Input_DISK,
	vmm.InputEntropy: proto.Input_ENTROPY,
	vmm.InputFrame:   proto.Input_FRAME,
}

// FromProto checks a record that came from a peer or a log.
func FromProto(p *proto.Record) (Record, error) {
	r := Record{
		Epoch:    Number(p.GetEpoch()),
		Position: vmm.Position(p.GetPosition()),
		Awaited:  p.GetAwaited(),
		Digest:   p.GetDigest(),
		Memory:   p.GetMemory(),
		Ended:    p.GetEnded(),
		Length:   p.GetLength(),
		Awaits:   p.GetAwaits(),
		Time:     vmm.Time(p.GetTimeNs()),
		Rate:     vmm.Rate(p.GetRate()),
		Left:     LeftFromProto(p.GetLeft()),
	}
	if r.Length == 0 {
		return r, fmt.Errorf("record %d opens an epoch of no length", r.Epoch)
	}
	for i, q := range p.GetInputs() {
		kind := slices.Index(inputKinds[:], q.GetKind())
		if kind <= 0 {
			return r, fmt.Errorf("record %d, input %d has unknown kind %d", r.Epoch, i, q.GetKind())
		}
		if len(q.GetData()) > maxInputBytes {
			return r, fmt.Errorf("record %d, input %d has %d bytes; at most %d are possible", r.Epoch, i, len(q.GetData()), maxInputBytes)
		}
		if q.GetStatus() > uint32(vmm.DiskError) {
			return r, fmt.Errorf("record %d, input %d has unknown disk status %d", r.Epoch, i, q.GetStatus())
		}
		r.Inputs = append(r.Inputs, vmm.Input{Kind: vmm.InputKind(kind), Device: q.GetDevice(), ID: q.GetId(),
			Status: vmm.DiskStatus(q.GetStatus()), Data: q.GetData(), Local: q.GetLocal()})
	}
	return r, nil
}
