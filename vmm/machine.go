package vmm

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Machine is a whole guest: CPU, RAM and devices. See the package documentation for
// who may call it.
type Machine struct {
	engine   Engine
	ram      *RAM
	platform Platform

	// Guest time is base at position basePos, and goes on from there at rate.
	base    Time
	basePos Position
	rate    Rate
	halted  bool // the guest waits in HLT
	ended   bool
	end     End

	// mid is set while the CPU stands, after a kick, where its clock has no name for the
	// place. Nothing may be decided there: the other replica will not stop there.
	mid bool

	exits uint64 // how often the CPU left guest mode; not state

	cpu   CPUState
	saver *Archive
}

// NewMachine joins the parts. The engine and the RAM are loaded already.
func NewMachine(e Engine, ram *RAM, p Platform) *Machine {
	return &Machine{engine: e, ram: ram, platform: p, rate: e.Clock().Rate(), saver: NewSaver(nil)}
}

// StopReason says why Machine.Run returned.
type StopReason uint8

const (
	// StopPosition: the position that was asked for is reached.
	StopPosition StopReason = 1 + iota
	// StopPaused: pause asked for it, or a kick came on an exact clock.
	StopPaused
	// StopHalted: the guest waits for an interrupt that only a record can bring.
	StopHalted
	// StopEnded: the guest came to its end; see Machine.End.
	StopEnded
	// StopKicked: Kick was called, and the CPU stands at no nameable position. Run
	// must be called again before anything else but Close.
	StopKicked
)

// ErrMidEpoch is returned for a call that needs a nameable position while the machine has
// none (after StopKicked).
var ErrMidEpoch = errors.New("the machine stands at no nameable position")

// Run runs the guest until the given position or until it stops for another reason. At
// every position where the CPU left guest mode it calls pause, if not nil, after
// interrupts were delivered there; if pause returns true, Run returns StopPaused. So a
// run that was paused at a position and a run that was told to end there do the same.
func (m *Machine) Run(until Position, pause func() bool) (StopReason, error) {
	for kicked := false; ; {
		window := false
		pos := m.engine.Position()
		if !m.mid {
			if m.ended {
				return StopEnded, nil
			}
			m.platform.SetTime(m.timeAt(pos))
			var err error
			if window, err = m.interrupt(); err != nil {
				return 0, err
			}
			switch {
			case m.ended:
				return StopEnded, nil
			case m.halted:
				return StopHalted, nil
			case pos >= until:
				return StopPosition, nil
			case kicked || pause != nil && pause():
				return StopPaused, nil
			}
		}
		x, err := m.engine.Run(m.horizon(until), window, (*bus)(m))
		if err != nil {
			return 0, err
		}
		m.exits++
		if m.mid = x.Mid; m.mid {
			return StopKicked, nil
		}
		kicked = x.Reason == ExitKick
		if err := m.serve(x); err != nil {
			return 0, err
		}
	}
}

// interrupt delivers what the interrupt controller asks for, if the CPU takes it, and reports whether an
// interrupt window is wanted: because the CPU did not, or because the controller asks for the next one.
func (m *Machine) interrupt() (window bool, err error) {
	pending := m.platform.Interrupt()
	if !pending && !m.halted {
		return false, nil
	}
	open, err := m.engine.Interruptible()
	if err != nil {
		return false, err
	}
	if pending && open {
		m.halted = false
		err := m.engine.Interrupt(m.platform.Acknowledge())
		return m.platform.Interrupt(), err
	}
	if m.halted && !open {
		return false, m.finish(EndDeadHalt, "")
	}
	return pending, nil
}

// serve does what an exit asks for.
func (m *Machine) serve(x Exit) error {
	switch x.Reason {
	case ExitPosition, ExitWindow, ExitKick:
	case ExitAccess:
		m.end, m.ended = m.platform.Ended()
	case ExitHalt:
		m.halted = true
	case ExitShutdown:
		return m.finish(EndCrash, "")
	case ExitUnsupported:
		return m.finish(EndUnsupported, x.Detail)
	default:
		return fmt.Errorf("vmm: engine returned unknown exit reason %d", x.Reason)
	}
	return nil
}

// bus is the machine as its CPU sees it: the platform at the time of the access.
type bus Machine

func (b *bus) platformNow() Platform {
	m := (*Machine)(b)
	m.platform.SetTime(m.Time())
	return m.platform
}

func (b *bus) PortIn(port uint16, p []byte)  { b.platformNow().PortIn(port, p) }
func (b *bus) PortOut(port uint16, p []byte) { b.platformNow().PortOut(port, p) }
func (b *bus) MemIn(addr GPA, p []byte)      { b.platformNow().MemIn(addr, p) }
func (b *bus) MemOut(addr GPA, p []byte)     { b.platformNow().MemOut(addr, p) }
func (b *bus) Now() Time                     { return (*Machine)(b).Time() }

// finish ends the guest and keeps its registers for the report.
func (m *Machine) finish(kind EndKind, detail string) error {
	if err := m.engine.State(&m.cpu); err != nil {
		return err
	}
	m.ended = true
	m.end = End{Kind: kind, Detail: strings.TrimPrefix(detail+"\n"+m.cpu.String(), "\n")}
	return nil
}

// horizon is the position at which the CPU must stop at the latest: until, or where the
// platform's next timer fires.
func (m *Machine) horizon(until Position) Position {
	t, ok := m.platform.Deadline()
	if !ok || t <= m.base {
		return until
	}
	// The first count n with n*rate >= (t-base)<<rateShift.
	ns, rate := uint64(t-m.base), uint64(m.rate)
	hi, lo := ns>>(64-rateShift), ns<<rateShift
	if hi >= rate {
		return until // it is beyond what a Position can count
	}
	n, rest := bits.Div64(hi, lo, rate)
	if rest > 0 {
		n++
	}
	if n == 0 || n > uint64(until-m.basePos) {
		return until
	}
	return max(m.basePos+Position(n), m.engine.Position()+1)
}

// timeAt is guest time at a position of this epoch. What no Time can hold stands still at the end of time.
func (m *Machine) timeAt(pos Position) Time {
	hi, lo := bits.Mul64(uint64(pos-m.basePos), uint64(m.rate))
	ns := hi<<(64-rateShift) | lo>>rateShift
	if hi>>rateShift != 0 || ns > math.MaxUint64-uint64(m.base) {
		return math.MaxUint64
	}
	return m.base + Time(ns)
}

// Apply opens an epoch: guest time becomes t and goes on at rate, and the inputs are delivered in order.
// An input that the machine cannot take, or a time that goes back, is an error.
func (m *Machine) Apply(t Time, rate Rate, inputs []Input) error {
	if m.mid {
		return ErrMidEpoch
	}
	if now := m.Time(); t < now {
		return fmt.Errorf("vmm: guest time would go back from %d to %d", now, t)
	}
	m.base, m.basePos, m.rate = t, m.engine.Position(), rate
	m.platform.SetTime(t)
	for i := range inputs {
		if err := m.platform.Deliver(inputs[i]); err != nil {
			return fmt.Errorf("vmm: input %d: %w", i, err)
		}
	}
	return nil
}

// Deliver lets an input enter within an epoch, at the present position. Whoever calls it sees to it that all replicas do
// so, there.
func (m *Machine) Deliver(in Input) error {
	if m.mid {
		return ErrMidEpoch
	}
	m.platform.SetTime(m.Time())
	return m.platform.Deliver(in)
}

// Exits is how often the CPU came out of the engine so far, on this replica.
func (m *Machine) Exits() uint64 { return m.exits }

// Clock tells what the machine's positions count.
func (m *Machine) Clock() Clock { return m.engine.Clock() }

// Position is where the machine stands on its clock.
func (m *Machine) Position() Position { return m.engine.Position() }

// Time is guest time at Position.
func (m *Machine) Time() Time { return m.timeAt(m.engine.Position()) }

// Deadline is the guest time at which a device will next raise an interrupt by itself.
func (m *Machine) Deadline() (Time, bool) { return m.platform.Deadline() }

// Outputs appends to dst what the guest sent through the door since the last call.
func (m *Machine) Outputs(dst []Output) []Output { return m.platform.Outputs(dst) }

// RequestsWait reports whether a disk request or a frame is among what Outputs would return: somebody waits for these, so
// they should leave without waiting for the end of the epoch.
func (m *Machine) RequestsWait() bool { return m.platform.RequestsWait() }

// EntropyWanted is how many bytes of entropy the next record should bring.
func (m *Machine) EntropyWanted() int { return m.platform.EntropyWanted() }

// ConsoleRoom is how many bytes of console input the next record may bring.
func (m *Machine) ConsoleRoom() int { return m.platform.ConsoleRoom() }

// FrameRoom is how many of frames, in this order, the next record may bring to a network interface.
func (m *Machine) FrameRoom(device uint32, frames [][]byte) int {
	return m.platform.FrameRoom(device, frames)
}

// End is how the guest ended; ok is false while it lives.
func (m *Machine) End() (end End, ok bool) { return m.end, m.ended }

// Kick makes a Run under way return. Any goroutine may call it.
func (m *Machine) Kick() { m.engine.Kick() }

// Close frees the CPU.
func (m *Machine) Close() error { return m.engine.Close() }

// Digest is a hash of what must be equal on all replicas: registers, devices and, if
// memory is set, all of RAM. Two machines that differ have, but for one chance in
// 2^64, different digests.
func (m *Machine) Digest(memory bool) (uint64, error) {
	m.saver.Reset()
	if err := m.digestible(m.saver); err != nil {
		return 0, err
	}
	if !memory {
		return xxhash.Sum64(m.saver.Data()), nil
	}
	h := xxhash.New()
	h.Write(m.saver.Data())
	m.ram.Regions(func(_ GPA, mem []byte) { h.Write(mem) })
	return h.Sum64(), nil
}

// Report saves what Digest covers, RAM excepted, with the names of its fields.
func (m *Machine) Report() (*Archive, error) {
	a := NewNamingSaver()
	return a, m.digestible(a)
}

func (m *Machine) digestible(a *Archive) error {
	if m.mid {
		return ErrMidEpoch
	}
	if err := m.engine.State(&m.cpu); err != nil {
		return err
	}
	m.cpu.Digestible(a)
	m.rest(a)
	return nil
}

// rest visits the machine's own state and the platform's.
func (m *Machine) rest(a *Archive) {
	a.Section("machine")
	base, pos, rate, kind, code := uint64(m.base), uint64(m.basePos), uint64(m.rate), uint8(m.end.Kind), uint32(m.end.Code)
	a.U64("base", &base)
	a.U64("base_position", &pos)
	a.U64("rate", &rate)
	a.Bool("halted", &m.halted)
	a.Bool("ended", &m.ended)
	a.U8("end", &kind)
	a.U32("end_code", &code)
	if a.Loading() {
		m.base, m.basePos, m.rate = Time(base), Position(pos), Rate(rate)
		m.end = End{Kind: EndKind(kind), Code: int(code)}
	}
	m.platform.State(a)
}

// Save writes the whole state but RAM's contents to a saving archive.
func (m *Machine) Save(a *Archive) error {
	if m.mid {
		return ErrMidEpoch
	}
	if err := m.engine.State(&m.cpu); err != nil {
		return err
	}
	m.cpu.State(a)
	m.rest(a)
	return a.Finish()
}

// Restore replaces the whole state but RAM's contents from a loading archive.
func (m *Machine) Restore(a *Archive) error {
	var cpu CPUState
	cpu.State(a)
	m.rest(a)
	if err := a.Finish(); err != nil {
		return err
	}
	m.mid = false
	return m.engine.SetState(&cpu)
}
