package vmm_test

import (
	"errors"
	"fmt"
	"testing"

	"ftvm/vmm"
)

// opcode is an instruction of the fake CPU.
type opcode uint8

const (
	nop opcode = iota
	sti
	cli
	out  // writes arg to port 0x10
	in   // reads port 0x10 into RAX
	mov  // writes arg to memory outside RAM
	load // reads memory outside RAM into RAX
	hlt
	off // writes to the platform's power-off port
	triple
	unknown
)

type instruction struct {
	op  opcode
	arg uint8
}

// cpu is an Engine whose guest is a list of instructions. On an exact clock each counts, otherwise
// only those that leave the guest. It notes what the machine does to it.
type cpu struct {
	clock   vmm.Clock
	program []instruction
	state   vmm.CPUState
	log     *[]string
	// kicks are the values of RIP at which Kick is called from elsewhere. kicked is a kick to come.
	kicks  map[uint64]bool
	kicked bool
	// asked are the horizons that the machine wanted, windows whether it wanted a window.
	asked   []vmm.Position
	windows []bool
	// broken makes the call of this name fail.
	broken string
	closed bool
}

var errBroken = errors.New("the host is broken")

func (c *cpu) fail(call string) error {
	if c.broken == call {
		return errBroken
	}
	return nil
}

func (c *cpu) note(format string, args ...any) { *c.log = append(*c.log, fmt.Sprintf(format, args...)) }

func (c *cpu) Clock() vmm.Clock            { return c.clock }
func (c *cpu) Position() vmm.Position      { return c.state.Position }
func (c *cpu) open() bool                  { return c.state.RFLAGS&vmm.FlagIF != 0 }
func (c *cpu) Kick()                       { c.kicked = true }
func (c *cpu) Close() error                { c.closed = true; return c.fail("Close") }
func (c *cpu) State(s *vmm.CPUState) error { *s = c.state; return c.fail("State") }

func (c *cpu) SetState(s *vmm.CPUState) error {
	c.state = *s
	return c.fail("SetState")
}

func (c *cpu) Interruptible() (bool, error) { return c.open(), c.fail("Interruptible") }

func (c *cpu) Interrupt(v vmm.Vector) error {
	if !c.open() {
		return errors.New("an interrupt while the CPU takes none")
	}
	c.state.RFLAGS &^= vmm.FlagIF
	c.note("interrupt %d at %d", v, c.state.Position)
	return c.fail("Interrupt")
}

func (c *cpu) Run(until vmm.Position, window bool, bus vmm.Bus) (vmm.Exit, error) {
	c.asked, c.windows = append(c.asked, until), append(c.windows, window)
	for mid := false; ; {
		switch {
		case c.broken == "Run":
			return vmm.Exit{}, errBroken
		case c.broken == "exit reason":
			return vmm.Exit{Reason: 99}, nil
		case c.kicks[c.state.RIP]:
			delete(c.kicks, c.state.RIP)
			c.kicked = true
			continue
		case c.kicked:
			c.kicked = false
			return vmm.Exit{Reason: vmm.ExitKick, Mid: mid}, nil
		case c.clock.Exact && c.state.Position >= until:
			return vmm.Exit{Reason: vmm.ExitPosition}, nil
		case c.clock.Exact && window && c.open():
			return vmm.Exit{Reason: vmm.ExitWindow}, nil
		case c.state.RIP >= uint64(len(c.program)):
			return vmm.Exit{}, errors.New("the program ran off its end")
		}
		x := c.execute(bus)
		if mid = x == 0 && !c.clock.Exact; !mid {
			c.state.Position++
		}
		if x != 0 {
			return vmm.Exit{Reason: x, Detail: map[vmm.ExitReason]string{vmm.ExitUnsupported: "what is this"}[x]}, nil
		}
	}
}

// execute executes one instruction.
func (c *cpu) execute(bus vmm.Bus) vmm.ExitReason {
	i := c.program[c.state.RIP]
	c.state.RIP++
	data := []byte{i.arg}
	switch i.op {
	case sti:
		c.state.RFLAGS |= vmm.FlagIF
	case cli:
		c.state.RFLAGS &^= vmm.FlagIF
	case out:
		bus.PortOut(0x10, data)
	case off:
		bus.PortOut(offPort, data)
	case in:
		bus.PortIn(0x10, data)
	case mov:
		bus.MemOut(vmm.HoleStart, data)
	case load:
		bus.MemIn(vmm.HoleStart, data)
	case hlt:
		return vmm.ExitHalt
	case triple:
		return vmm.ExitShutdown
	case unknown:
		return vmm.ExitUnsupported
	}
	switch i.op {
	case in, load:
		c.state.GPR[vmm.RAX] = c.state.GPR[vmm.RAX]<<8 | uint64(data[0])
		return vmm.ExitAccess
	case out, off, mov:
		return vmm.ExitAccess
	}
	return 0
}

const offPort = 0x604

// board is a Platform with one timer and one register. It notes what happens to it.
type board struct {
	log *[]string

	now      vmm.Time
	alarm    vmm.Time // 0 is none
	pending  bool
	another  bool // interrupt is pending behind that one
	register uint8
	typed    []byte
	ended    bool

	outs []vmm.Output
}

func (b *board) note(format string, args ...any) {
	*b.log = append(*b.log, fmt.Sprintf(format, args...))
}

func (b *board) SetTime(t vmm.Time) {
	if t < b.now {
		b.note("time goes back from %d to %d", b.now, t)
	}
	b.now = t
	if b.alarm != 0 && t >= b.alarm {
		b.note("alarm at %d", t)
		b.alarm, b.pending = 0, true
	}
}

func (b *board) Deadline() (vmm.Time, bool) { return b.alarm, b.alarm != 0 }
func (b *board) Interrupt() bool            { return b.pending }

func (b *board) Acknowledge() vmm.Vector {
	b.pending, b.another = b.another, false
	return 32
}

func (b *board) PortIn(port uint16, p []byte) {
	b.note("in %#x at %d", port, b.now)
	p[0] = b.register
}

func (b *board) PortOut(port uint16, p []byte) {
	b.note("out %#x %d at %d", port, p[0], b.now)
	b.register, b.ended = p[0], port == offPort
	b.outs = append(b.outs, vmm.Output{Kind: vmm.OutputConsole, Data: p[:1:1]})
}

func (b *board) MemIn(addr vmm.GPA, p []byte) {
	b.note("read %#x at %d", addr, b.now)
	p[0] = ^b.register
}

// MemOut sets the alarm so many nanoseconds ahead.
func (b *board) MemOut(addr vmm.GPA, p []byte) {
	b.note("write %#x %d at %d", addr, p[0], b.now)
	b.alarm = b.now + vmm.Time(p[0])
}

var errNotAsked = errors.New("nobody asked for that")

func (b *board) Deliver(in vmm.Input) error {
	if in.Kind != vmm.InputConsole {
		return errNotAsked
	}
	b.note("typed %q at %d", in.Data, b.now)
	b.typed, b.pending = append(b.typed, in.Data...), true
	return nil
}

func (b *board) Outputs(dst []vmm.Output) []vmm.Output {
	dst = append(dst, b.outs...)
	b.outs = nil
	return dst
}

func (b *board) RequestsWait() bool { return false }
func (b *board) EntropyWanted() int { return 7 }
func (b *board) ConsoleRoom() int   { return 16 - len(b.typed) }

// FrameRoom is as many as the number of the interface.
func (b *board) FrameRoom(device uint32, frames [][]byte) int { return min(int(device), len(frames)) }

func (b *board) Ended() (vmm.End, bool) {
	return vmm.End{Kind: vmm.EndPowerOff}, b.ended
}

func (b *board) State(a *vmm.Archive) {
	a.Section("board")
	now, alarm := uint64(b.now), uint64(b.alarm)
	a.U64("now", &now)
	a.U64("alarm", &alarm)
	b.now, b.alarm = vmm.Time(now), vmm.Time(alarm)
	a.Bool("pending", &b.pending)
	a.U8("register", &b.register)
	a.Bytes("typed", &b.typed, 16)
	a.Bool("ended", &b.ended)
}

// rig is a machine of fakes.
type rig struct {
	*vmm.Machine
	cpu   *cpu
	board *board
	ram   *vmm.RAM
	mem   []byte
	log   []string
}

var (
	exits = vmm.Clock{Name: "exits", TickNs: 10}
	exact = vmm.Clock{Name: "exact", Exact: true, TickNs: 10}
)

func newRig(clock vmm.Clock, program ...instruction) *rig {
	r := &rig{mem: make([]byte, 2*vmm.PageSize)}
	r.ram = vmm.NewRAM(r.mem)
	r.cpu = &cpu{clock: clock, program: program, log: &r.log, kicks: map[uint64]bool{}}
	r.board = &board{log: &r.log}
	r.Machine = vmm.NewMachine(r.cpu, r.ram, r.board)
	return r
}

// run runs r and checks why it stops.
func (r *rig) run(t *testing.T, until vmm.Position, pause func() bool, want vmm.StopReason) {
	t.Helper()
	got, err := r.Run(until, pause)
	if err != nil || got != want {
		t.Fatalf("Run(%d) = %d, %v; want %d; log %q", until, got, err, want, r.log)
	}
}

func (r *rig) apply(t *testing.T, at vmm.Time, inputs ...vmm.Input) {
	t.Helper()
	if err := r.Apply(at, r.Clock().Rate(), inputs); err != nil {
		t.Fatalf("Apply(%d): %v", at, err)
	}
}

func (r *rig) digest(t *testing.T, memory bool) uint64 {
	t.Helper()
	d, err := r.Digest(memory)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const forever = ^vmm.Position(0)
