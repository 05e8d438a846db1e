package pair

import (
	"fmt"
	"sync/atomic"
	"time"

	"ftvm/epoch"
)

// stats is what a node counts while it runs.
type stats struct {
	started   time.Time
	shipped   atomic.Uint64
	gateWait  time.Duration
	lastClose epoch.Boundary
	epochs    uint64
	takeover  takeover
}

type takeover struct {
	detected, firstInstruction, primary time.Time
	records, repeated                   int
	consoleFrom                         uint64
}

func (s *stats) closed(b epoch.Boundary) {
	s.lastClose = b
	s.epochs++
}

// Report is what a node did, for programs to read.
type Report struct {
	// Role is what the replica was before it stopped: "primary" or "backup", or "waiting" or "failover" before it became the primary.
	Role string `json:"role"`
	// Position, Epochs and Digest tell of the last boundary.
	Position uint64 `json:"position"`
	Epochs   uint64 `json:"epochs"`
	Digest   string `json:"digest"`
	// Exits is how often the CPU left guest mode on this replica.
	Exits uint64 `json:"exits"`
	// ShippedBytes is how much this replica sent to the other.
	ShippedBytes uint64 `json:"shipped_bytes"`
	// GateWaitSeconds adds up how long each output waited for its commit.
	GateWaitSeconds float64 `json:"gate_wait_seconds"`
	WallSeconds     float64 `json:"wall_seconds"`
	// End is how the guest ended; empty if it did not.
	End      string          `json:"end,omitempty"`
	Takeover *TakeoverReport `json:"takeover,omitempty"`
}

// TakeoverReport tells when the steps of a takeover were reached, in nanoseconds since 1970 by the
// host's clock; 0 is never, as when the guest ended on the way.
type TakeoverReport struct {
	// DetectedNs: the primary was declared failed.
	DetectedNs int64 `json:"detected_ns"`
	// FirstInstructionNs: all held records were used up, and the guest runs on.
	FirstInstructionNs int64 `json:"first_instruction_ns"`
	// PrimaryNs: the failover epoch is over, and inputs reach the guest again.
	PrimaryNs int64 `json:"primary_ns"`
	// Records is how many records were to be used up.
	Records int `json:"records"`
	// Repeated is how many disk requests were without a completion, and issued again if need be.
	Repeated int `json:"repeated"`
	// ConsoleFrom is the number of the first console byte that this replica let out: those before
	// had certainly left the old primary.
	ConsoleFrom uint64 `json:"console_from"`
}

// unixNano is 0 for a step that was not reached.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// Report tells what the node did. It may be called when Run has returned.
func (n *Node) Report() Report {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.stats
	r := Report{
		Role:            n.role.String(),
		Position:        uint64(s.lastClose.Position),
		Epochs:          s.epochs,
		Digest:          fmt.Sprintf("%016x", s.lastClose.Digest),
		Exits:           n.opt.Machine.Exits(),
		ShippedBytes:    s.shipped.Load(),
		GateWaitSeconds: s.gateWait.Seconds(),
		WallSeconds:     time.Since(s.started).Seconds(),
	}
	if end, ok := n.opt.Machine.End(); ok {
		r.End = end.String()
	}
	if t := &s.takeover; !t.detected.IsZero() && n.tookOver {
		r.Takeover = &TakeoverReport{
			DetectedNs: unixNano(t.detected), FirstInstructionNs: unixNano(t.firstInstruction),
			PrimaryNs: unixNano(t.primary), Records: t.records, Repeated: t.repeated, ConsoleFrom: t.consoleFrom,
		}
	}
	return r
}
