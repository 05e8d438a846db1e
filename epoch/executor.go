package epoch

import (
	"errors"
	"fmt"
	"math"

	"ftvm/vmm"
)

// Machine is what an Executor runs. *vmm.Machine is one; the simulator has another.
type Machine interface {
	Position() vmm.Position
	Time() vmm.Time
	Run(until vmm.Position, pause func() bool) (vmm.StopReason, error)
	Apply(t vmm.Time, rate vmm.Rate, inputs []vmm.Input) error
	Deliver(in vmm.Input) error
	Digest(memory bool) (uint64, error)
	Report() (*vmm.Archive, error)
	End() (vmm.End, bool)
}

// Executor runs a machine epoch by epoch. On the primary: Run until the epoch ends, Close,
// Open. On a backup: Replay, Open. In between, on all: Await.
type Executor struct {
	m            Machine
	memoryEvery  uint64
	opened       Number       // how many records were applied
	began, limit vmm.Position // of the present epoch

	awaited, awaits uint64 // completions that entered in the present epoch, and how many may
}

// NewExecutor makes an executor for a machine that no record was applied to yet.
// Digests cover all of memory at the first boundary, at the guest's end, and at the first boundary after
// each memoryEvery positions, or never if that is 0; it must be the same on all replicas.
func NewExecutor(m Machine, memoryEvery uint64) *Executor {
	return &Executor{m: m, memoryEvery: memoryEvery, began: m.Position(), limit: m.Position()}
}

// ResumeExecutor makes an executor for a machine that was restored at a boundary, where record
// next is to be applied.
func ResumeExecutor(m Machine, memoryEvery uint64, next Number) *Executor {
	x := NewExecutor(m, memoryEvery)
	x.opened = next
	return x
}

// Run goes on with the present epoch, to its full length at most. See vmm.Machine.Run.
func (x *Executor) Run(pause func() bool) (vmm.StopReason, error) {
	return x.m.Run(x.limit, pause)
}

// RunUpTo is Run for an epoch that is to be so many positions long, or its full length if that is less.
func (x *Executor) RunUpTo(length uint64, pause func() bool) (vmm.StopReason, error) {
	return x.m.Run(x.began+vmm.Position(min(length, uint64(x.limit-x.began))), pause)
}

// MayAwait reports whether a completion may enter in the present epoch while the guest is halted.
func (x *Executor) MayAwait() bool { return x.awaited < x.awaits }

// Await lets the completion of the oldest request to the replica's own disks enter, while the guest is halted.
func (x *Executor) Await(in vmm.Input) error {
	if err := x.m.Deliver(in); err != nil {
		return fmt.Errorf("awaited completion %d of epoch %d: %w", x.awaited, x.opened-1, err)
	}
	x.awaited++
	return nil
}

// Boundary is where an epoch ended on the primary.
type Boundary struct {
	Position vmm.Position
	Awaited  uint64
	Time     vmm.Time // guest time by the machine's own count
	Digest   uint64
	Memory   bool
	Ended    bool
}

// Close ends the present epoch where the machine stands.
func (x *Executor) Close() (Boundary, error) {
	_, ended := x.m.End()
	memory := x.digestsMemory(ended)
	digest, err := x.m.Digest(memory)
	if err != nil {
		return Boundary{}, fmt.Errorf("digest at boundary %d: %w", x.opened, err)
	}
	return Boundary{Position: x.m.Position(), Awaited: x.awaited, Time: x.m.Time(), Digest: digest, Memory: memory, Ended: ended}, nil
}

// digestsMemory reports whether the digest where the machine stands covers memory. Positions are counted, and not
// boundaries: there may be thousands of these in a second, and each time the guest stands while all its memory is read.
func (x *Executor) digestsMemory(ended bool) bool {
	every := vmm.Position(x.memoryEvery)
	return every != 0 && (x.opened == 0 || ended || x.m.Position()/every != x.began/every)
}

// Open applies record r, whose disk completions carry the data that was read.
func (x *Executor) Open(r Record) error {
	if r.Epoch != x.opened {
		return fmt.Errorf("record %d cannot be applied: record %d is next", r.Epoch, x.opened)
	}
	if err := x.m.Apply(r.Time, r.Rate, r.Inputs); err != nil {
		return fmt.Errorf("record %d: %w", r.Epoch, err)
	}
	x.opened++
	x.began = x.m.Position()
	x.limit = x.began + vmm.Position(min(r.Length, uint64(math.MaxUint64-x.began)))
	x.awaited, x.awaits = 0, r.Awaits
	return nil
}

// Opened is how many records were applied; the present epoch is Opened-1.
func (x *Executor) Opened() Number { return x.opened }

// Replay runs the present epoch to where record r, the next one, says that it ended, and
// compares. A difference is a *Divergence. pause is called as Run calls it; it must not ask for a
// pause but to give up: then Replay returns ErrInterrupted. It returns ErrAwait where Await is to be called; both times
// Replay is to be called again.
func (x *Executor) Replay(r Record, pause func() bool) error {
	switch {
	case r.Position > x.limit:
		return x.diverged(r, "position", uint64(r.Position), uint64(x.limit))
	case r.Awaited > x.awaits:
		return x.diverged(r, "awaited", r.Awaited, x.awaits)
	}
	reason, err := x.m.Run(r.Position, pause)
	switch {
	case err != nil:
		return err
	case reason == vmm.StopPaused || reason == vmm.StopKicked:
		return ErrInterrupted
	case reason == vmm.StopHalted && x.awaited < r.Awaited:
		return ErrAwait
	case x.m.Position() != r.Position:
		return x.diverged(r, "position", uint64(r.Position), uint64(x.m.Position()))
	case x.awaited != r.Awaited:
		return x.diverged(r, "awaited", r.Awaited, x.awaited)
	}
	if _, ended := x.m.End(); ended != r.Ended {
		return x.diverged(r, "ended", b2u(r.Ended), b2u(ended))
	}
	if want := x.digestsMemory(r.Ended); r.Memory != want {
		return x.diverged(r, "digest of memory", b2u(r.Memory), b2u(want))
	}
	digest, err := x.m.Digest(r.Memory)
	if err != nil {
		return err
	}
	if digest != r.Digest {
		return x.diverged(r, "digest", r.Digest, digest)
	}
	return nil
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

var (
	// ErrInterrupted is returned by Replay if it was asked to give up before the end of the epoch.
	ErrInterrupted = errors.New("interrupted within an epoch")
	// ErrAwait is returned by Replay where the primary had an awaited completion enter.
	ErrAwait = errors.New("the guest waits for the replica's own disk")
)

// Divergence tells that a backup's machine is not where the primary's was.
type Divergence struct {
	Epoch    Number       // the epoch that ended differently
	Position vmm.Position // where the backup stands
	Field    string       // what differs first
	Primary  uint64
	Backup   uint64
	// State is the backup's state, RAM excepted, with the names of its fields.
	State *vmm.Archive
}

func (d *Divergence) Error() string {
	return fmt.Sprintf("divergence at the end of epoch %d, position %d: %s is %#x on the primary, %#x on the backup",
		d.Epoch, d.Position, d.Field, d.Primary, d.Backup)
}

func (x *Executor) diverged(r Record, field string, primary, backup uint64) error {
	d := &Divergence{Epoch: r.Epoch, Position: x.m.Position(), Field: field, Primary: primary, Backup: backup}
	if r.Epoch > 0 {
		d.Epoch--
	}
	var err error
	if d.State, err = x.m.Report(); err != nil {
		return errors.Join(d, err)
	}
	return d
}
