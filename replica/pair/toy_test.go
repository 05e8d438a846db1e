package pair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"ftvm/vmm"
)

// op is one operation of a toy guest. Each takes one position, waits one more each time.
type op struct {
	kind  byte
	text  string
	disk  uint32
	block uint64
	count int
}

// The operations. write, read and flush make a request and go on; await halts until none is in flight.
func say(text string) op { return op{kind: 's', text: text} }
func write(disk uint32, block uint64, text string) op {
	return op{kind: 'w', disk: disk, block: block, text: text}
}
func read(disk uint32, block uint64) op { return op{kind: 'r', disk: disk, block: block} }
func flush(disk uint32) op              { return op{kind: 'u', disk: disk} }
func await() op                         { return op{kind: 'a'} }
func show() op                          { return op{kind: 'd'} }               // prints what the last read returned
func ask(bytes int) op                  { return op{kind: '?', count: bytes} } // prints what is typed
func open() op                          { return op{kind: 'o'} }               // from now on there is room for typing
func think(positions int) op            { return op{kind: 't', count: positions} }
func spin() op                          { return op{kind: '*'} } // for ever, without a nameable stop
func send(net uint32, text string) op   { return op{kind: 'f', disk: net, text: text} }
func hear(frames int) op                { return op{kind: 'h', count: frames} } // prints so many frames
func nap(d time.Duration) op            { return op{kind: 'n', count: int(d)} }
func off() op                           { return op{kind: '.'} }

const (
	toyBlock = 8 // bytes of a block
	toyRoom  = 5 // console bytes that fit in
	toyRing  = 8 // bytes of frames that fit in
)

// toy is a deterministic machine with a list of operations for a guest.
type toy struct {
	script []op
	exact  bool
	closed bool // no room for typing until the guest opens it
	shared bool // disk 1 is

	pc            int
	done          int // of the present operation
	pos, basePos  vmm.Position
	base          vmm.Time
	rate          vmm.Rate
	seen          uint64 // hash of what came in
	halted, ended bool
	alarm         vmm.Time
	typed         []byte
	last          []byte // what the last read returned
	flight        []request
	requests      [2]uint64
	printed       uint64
	sent          uint64
	arrived       []string
	outs          []vmm.Output

	// What is different on this replica, or happens on its host.
	hooks  map[vmm.Position]func() // called before the operation at a position
	each   func()                  // called at every position
	blind  bool                    // positions are no exits
	period vmm.Time                // of a timer that needs no boundary; 0 is none
	spoil  vmm.Position            // where a bit flips; 0 is nowhere
	fails  vmm.Position            // where the host fails; 0 is nowhere
	spins  chan struct{}           // closed when the guest spins
	kicked chan struct{}           // capacity 1
	mid    bool
	// delivered is every disk completion that reached the guest.
	delivered []vmm.Input
}

func newToy(script []op) *toy {
	m := &toy{script: script, hooks: map[vmm.Position]func(){}, spins: make(chan struct{}), kicked: make(chan struct{}, 1)}
	for _, o := range script {
		m.closed = m.closed || o.kind == 'o'
	}
	return m
}

const toyTick = 1000

var errToy = errors.New("the toy's host failed")

func (m *toy) Clock() vmm.Clock       { return vmm.Clock{Name: "toy", Exact: m.exact, TickNs: toyTick} }
func (m *toy) Position() vmm.Position { return m.pos }
func (m *toy) Time() vmm.Time {
	return m.base + vmm.Time(m.pos-m.basePos)*vmm.Time(m.rate)/vmm.RateUnit
}
func (m *toy) RequestsWait() bool   { return len(m.outs) > 0 }
func (m *toy) EntropyWanted() int   { return int(m.pos % 3) }
func (m *toy) Exits() uint64        { return uint64(m.pos) }
func (m *toy) End() (vmm.End, bool) { return vmm.End{Kind: vmm.EndPowerOff}, m.ended }
func (m *toy) Outputs(dst []vmm.Output) (outs []vmm.Output) {
	outs, m.outs = append(dst, m.outs...), nil
	return outs
}

func (m *toy) Deadline() (vmm.Time, bool) {
	if m.period != 0 {
		return (m.Time()/m.period + 1) * m.period, true
	}
	return m.alarm, m.alarm != 0
}

func (m *toy) ConsoleRoom() int {
	if m.closed {
		return 0
	}
	return toyRoom - len(m.typed)
}

func (m *toy) FrameRoom(_ uint32, frames [][]byte) (n int) {
	room := toyRing - len(strings.Join(m.arrived, ""))
	for n < len(frames) && len(frames[n]) <= room {
		room -= len(frames[n])
		n++
	}
	return n
}

func (m *toy) Kick() {
	select {
	case m.kicked <- struct{}{}:
	default:
	}
}

func (m *toy) takeKick() bool {
	select {
	case <-m.kicked:
		return true
	default:
		return false
	}
}

func (m *toy) Run(until vmm.Position, pause func() bool) (vmm.StopReason, error) {
	for kicked := false; ; {
		if !m.mid {
			switch {
			case m.fails != 0 && m.pos >= m.fails:
				return 0, errToy
			case m.ended:
				return vmm.StopEnded, nil
			case m.halted:
				return vmm.StopHalted, nil
			case m.pos >= until:
				return vmm.StopPosition, nil
			case kicked || !m.blind && pause != nil && pause():
				return vmm.StopPaused, nil
			}
			if hook := m.hooks[m.pos]; hook != nil {
				delete(m.hooks, m.pos)
				hook()
			}
		}
		if m.script[m.pc].kind == '*' {
			if !m.mid {
				close(m.spins)
			}
			<-m.kicked
			m.mid = true
			return vmm.StopKicked, nil
		}
		if m.each != nil {
			m.each()
		}
		m.step()
		if m.pos++; m.pos == m.spoil {
			m.seen ^= 1
		}
		kicked = m.takeKick()
	}
}

// step executes one position of the present operation.
func (m *toy) step() {
	o := m.script[m.pc]
	m.done++
	switch o.kind {
	case 's':
		m.print([]byte(o.text))
	case 'd':
		m.print(m.last)
	case 'w':
		m.request(o, vmm.Output{Op: vmm.DiskWrite, Length: toyBlock, Data: append(make([]byte, 0, toyBlock), o.text...)[:toyBlock]})
	case 'r':
		m.request(o, vmm.Output{Op: vmm.DiskRead, Length: toyBlock})
	case 'u':
		m.request(o, vmm.Output{Op: vmm.DiskFlush})
	case 'o':
		m.closed = false
	case 'f':
		m.outs = append(m.outs, vmm.Output{Kind: vmm.OutputFrame, Device: o.disk, Seq: m.sent, Data: []byte(o.text)})
		m.sent++
	case 'h':
		m.done-- // counts frames here
		for ; len(m.arrived) > 0 && m.done < o.count; m.done++ {
			m.print([]byte(m.arrived[0] + "\n"))
			m.arrived = m.arrived[1:]
		}
		if m.done < o.count {
			m.halted = true
			return
		}
	case 'a':
		if m.halted = len(m.flight) > 0; m.halted {
			return
		}
	case '?':
		m.done-- // counts bytes here
		n := min(len(m.typed), o.count-m.done)
		m.print(m.typed[:n:n])
		m.typed = append([]byte(nil), m.typed[n:]...)
		if m.done += n; m.done < o.count {
			m.halted = len(m.typed) == 0
			return
		}
	case 'n':
		if m.done == 1 {
			m.alarm = m.Time() + vmm.Time(o.count)
		}
		if m.halted = m.Time() < m.alarm; m.halted {
			return
		}
		m.alarm = 0
	case 't':
		if m.done < o.count {
			return
		}
	case '.':
		m.ended = true
	}
	m.done = 0
	m.pc++
}

func (m *toy) print(p []byte) {
	if len(p) > 0 {
		m.outs = append(m.outs, vmm.Output{Kind: vmm.OutputConsole, Seq: m.printed, Data: p})
		m.printed += uint64(len(p))
	}
}

func (m *toy) request(o op, out vmm.Output) {
	out.Kind, out.Device, out.Seq, out.Offset = vmm.OutputDisk, o.disk, m.requests[o.disk], o.block*toyBlock
	out.Shared = m.shared && o.disk == 1
	m.requests[o.disk]++
	m.flight = append(m.flight, request{o.disk, out.Seq})
	m.outs = append(m.outs, out)
}

var errMid = errors.New("the toy stands at no nameable position")

func (m *toy) Apply(t vmm.Time, rate vmm.Rate, inputs []vmm.Input) error {
	switch {
	case m.mid:
		return errMid
	case t < m.Time():
		return fmt.Errorf("toy: time would go back from %d to %d", m.Time(), t)
	}
	m.base, m.basePos, m.rate = t, m.pos, rate
	m.halted = m.halted && (m.alarm == 0 || t < m.alarm)
	entropy := 0
	for _, in := range inputs {
		if in.Kind == vmm.InputEntropy {
			entropy += len(in.Data)
		}
		if entropy > m.EntropyWanted() {
			return fmt.Errorf("toy: entropy of %d bytes, wanted %d", entropy, m.EntropyWanted())
		}
		if err := m.Deliver(in); err != nil {
			return err
		}
	}
	return nil
}

func (m *toy) Deliver(in vmm.Input) error {
	m.hash(uint64(in.Kind), in.ID, uint64(in.Device), uint64(in.Status))
	for _, b := range in.Data {
		m.hash(uint64(b))
	}
	switch in.Kind {
	case vmm.InputConsole:
		if len(in.Data) > m.ConsoleRoom() {
			return fmt.Errorf("toy: no room for %q", in.Data)
		}
		m.typed = append(m.typed, in.Data...)
		m.halted = m.halted && m.script[m.pc].kind != '?'
	case vmm.InputFrame:
		if m.FrameRoom(in.Device, [][]byte{in.Data}) == 0 {
			return fmt.Errorf("toy: no room for frame %q", in.Data)
		}
		m.arrived = append(m.arrived, string(in.Data))
		m.halted = m.halted && m.script[m.pc].kind != 'h'
	case vmm.InputDisk:
		for i, r := range m.flight {
			if r == (request{in.Device, in.ID}) {
				m.delivered = append(m.delivered, in)
				m.flight = append(m.flight[:i:i], m.flight[i+1:]...)
				m.halted = m.halted && !(m.script[m.pc].kind == 'a' && len(m.flight) == 0)
				if len(in.Data) > 0 {
					m.last = in.Data
				}
				return nil
			}
		}
		return fmt.Errorf("toy: request %d of disk %d is not in flight", in.ID, in.Device)
	}
	return nil
}

func (m *toy) hash(values ...uint64) {
	h := fnv.New64a()
	for _, v := range append(values, m.seen) {
		binary.Write(h, binary.LittleEndian, v)
	}
	m.seen = h.Sum64()
}

func (m *toy) Digest(memory bool) (uint64, error) {
	if m.mid {
		return 0, errMid
	}
	h := fnv.New64a()
	fmt.Fprint(h, m.pc, m.done, m.pos, m.base, m.basePos, m.seen, m.halted, m.ended, m.typed, m.last, m.flight, m.requests, m.printed, m.alarm, m.rate, m.sent, m.arrived, memory)
	return h.Sum64(), nil
}

func (m *toy) Report() (*vmm.Archive, error) {
	a := vmm.NewNamingSaver()
	a.Section("toy")
	a.U64("seen", &m.seen)
	return a, nil
}
