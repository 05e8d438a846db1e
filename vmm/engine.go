package vmm

// Position is a count on the engine's clock since the machine started.
type Position uint64

// Engine is a CPU. It runs guest code against a RAM; ports and memory outside RAM
// it reaches through a Bus.
//
// The contract, which the conformance suite in test/conformance holds every
// engine to:
//
//   - Run returns between two instructions, at a position that the engine's clock can
//     name: the same guest, restored from the same state and given the same data, stops
//     again at the same position with the same state. State is whole there, and restoring it
//     elsewhere continues identically. The one exception is an Exit with Mid set.
//   - Run returns after every instruction that reached for the Bus, so that the caller
//     can look at interrupts and timers again.
//   - An interrupt is accepted only by Interrupt, only when Interruptible says so.
//
// One goroutine, locked to its OS thread, creates an Engine and calls it; only Kick
// may be called from any goroutine.
type Engine interface {
	// Clock tells what positions count.
	Clock() Clock
	// Position is the count at the last nameable stop; while the Bus is called, that
	// before the instruction that reaches for it.
	Position() Position
	// Run runs the guest until the position is `until`, or until an Exit. If window
	// is set it also stops with ExitWindow at the first position at which Interruptible
	// would be true and which the clock can stop at by itself. Guest trouble is an Exit; an
	// error is the host's.
	Run(until Position, window bool, bus Bus) (Exit, error)
	// Interruptible reports whether an interrupt would be taken now: IF is set and
	// no interrupt shadow or undelivered event is in the way.
	Interruptible() (bool, error)
	// Interrupt makes the CPU take external interrupt v before its next
	// instruction. Only when Interruptible.
	Interrupt(v Vector) error
	// State reads the whole architectural state into s.
	State(s *CPUState) error
	// SetState replaces it, together with the position.
	SetState(s *CPUState) error
	// Kick makes a Run that is under way, or else the next one, return ExitKick
	// soon. Any goroutine may call it; kicks are not counted.
	Kick()
	// Close frees the CPU. No other call may be under way or follow.
	Close() error
}

// Devices is where accesses to ports and to memory outside RAM go. A string
// instruction makes one call for each element, in order.
type Devices interface {
	// PortIn and PortOut serve one port access of len(p) bytes: 1, 2 or 4.
	PortIn(port uint16, p []byte)
	PortOut(port uint16, p []byte)
	// MemIn and MemOut serve one memory access of len(p) bytes: 1 to 8.
	MemIn(addr GPA, p []byte)
	MemOut(addr GPA, p []byte)
}

// Bus is what the CPU sees of the machine around it.
type Bus interface {
	Devices
	// Now is guest time at Engine.Position, for an engine that answers reads of the time stamp
	// counter itself.
	Now() Time
}

// Vector is an interrupt vector.
type Vector uint8

// Clock tells what an engine's positions count.
type Clock struct {
	// Name is the clock's name on the command line, such as "exits".
	Name string
	// Exact is true if the engine can stop at any position by itself. On a clock that is
	// not exact only the guest's own exits are positions, and Run stops at each.
	Exact bool
	// TickNs is how much guest time one count stands for within an epoch, as long as nobody knows better: on a
	// clock that is not exact, always. It is chosen so that guest time does not outrun the host's.
	TickNs uint64
}

// Rate is that of TickNs.
func (c Clock) Rate() Rate { return Rate(c.TickNs << rateShift) }

// ExitReason says why Run returned.
type ExitReason uint8

const (
	// ExitPosition: the position that was asked for is reached.
	ExitPosition ExitReason = 1 + iota
	// ExitAccess: the guest's instruction reached for the Bus, and is complete.
	ExitAccess
	// ExitHalt: the guest executed HLT; the next instruction is the one after it.
	ExitHalt
	// ExitWindow: an interrupt can be taken now.
	ExitWindow
	// ExitKick: Kick was called.
	ExitKick
	// ExitShutdown: the guest's CPU shut down (triple fault). It counts one position, as does
	// ExitUnsupported, so that the guest's end has a position of its own.
	ExitShutdown
	// ExitUnsupported: the engine cannot execute the guest's next instruction; see
	// Exit.Detail. Every replica on such an engine stops at the same instruction.
	ExitUnsupported
)

// Exit is why the guest stopped.
type Exit struct {
	Reason ExitReason
	// Mid is set if, after a kick, the CPU stands where its clock has no name for the
	// place. Run must be called again before anything else.
	Mid bool
	// Detail tells people what an ExitUnsupported is about.
	Detail string
}
