package vmm

import "fmt"

// Platform is everything in the machine but the CPU and RAM: the device models and
// the interrupt controller. Package devices implements it.
type Platform interface {
	// A platform whose restore failed may be half changed, and must not be used.
	Stateful
	Devices
	// SetTime tells the platform that guest time is now t, never less than before;
	// timers that are due by then fire.
	SetTime(t Time)
	// Deadline is the next time at which SetTime would raise an interrupt that the guest
	// can take; ok is false if there is none. It is after the last SetTime.
	Deadline() (t Time, ok bool)
	// Interrupt reports whether the interrupt controller asks for the CPU; Acknowledge is the
	// CPU's answer and returns the vector.
	Interrupt() bool
	Acknowledge() Vector
	// Deliver takes an input of a record. An input that the machine did not ask for or
	// cannot hold is an error, and changes nothing.
	Deliver(in Input) error
	// Outputs appends to dst what the machine produced since the last call. What was not
	// collected is not part of State.
	Outputs(dst []Output) []Output
	// RequestsWait reports whether a disk request or a frame is among what Outputs would return.
	RequestsWait() bool
	// EntropyWanted is how many bytes the entropy pool wants in the next record; 0 while it
	// is above its low-water mark.
	EntropyWanted() int
	// ConsoleRoom is how many console bytes the guest can take now. A host that sends more
	// than that at each boundary can keep a guest in its interrupt handler for ever.
	ConsoleRoom() int
	// FrameRoom is how many of frames, in this order, the guest has receive buffers for now. A frame that cannot reach
	// it whatever buffers it adds counts as one that finds room, and is lost when it is delivered.
	FrameRoom(device uint32, frames [][]byte) int
	// Ended reports that the guest switched itself off, and how.
	Ended() (End, bool)
}

// End is how a guest came to its end. It is reached at the same position on every replica.
type End struct {
	Kind EndKind
	// Code is the guest's exit code, for EndDebugExit: (value<<1)|1, as QEMU has it.
	Code int
	// Detail is for people: the registers of a crash, the bytes of an instruction.
	Detail string
}

// EndKind says how a guest ended.
type EndKind uint8

const (
	// EndPowerOff: the guest switched the machine off.
	EndPowerOff EndKind = 1 + iota
	// EndReset: the guest asked for a reset.
	EndReset
	// EndDebugExit: the guest wrote to isa-debug-exit.
	EndDebugExit
	// EndCrash: triple fault.
	EndCrash
	// EndDeadHalt: HLT with interrupts disabled.
	EndDeadHalt
	// EndUnsupported: the engine cannot execute the guest's next instruction.
	EndUnsupported
)

var endNames = [...]string{
	EndPowerOff: "power-off", EndReset: "reset", EndDebugExit: "debug exit",
	EndCrash: "crash (triple fault)", EndDeadHalt: "halt with interrupts disabled",
	EndUnsupported: "unsupported instruction",
}

func (e End) String() string {
	s := fmt.Sprintf("unknown end %d", e.Kind)
	if int(e.Kind) < len(endNames) && e.Kind != 0 {
		s = endNames[e.Kind]
	}
	if e.Kind == EndDebugExit {
		s += fmt.Sprintf(" with code %d", e.Code)
	}
	return s
}
