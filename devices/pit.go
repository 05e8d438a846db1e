package devices

import (
	"math"
	"math/bits"

	"ftvm/vmm"
)

// Ports of the interval timer.
const (
	portPITCounter0 = 0x40
	portPITControl  = 0x43
	portB           = 0x61 // NMI status and control ("port B" of the IBM PC)
)

const (
	pitHz = 1193182 // input clock, Hz
	nsHz  = 1_000_000_000

	// pitRefresh is the period of a DRAM refresh in clocks: what firmware programs
	// into counter 1. Bit 4 of port 0x61 changes with each refresh.
	pitRefresh = 18

	// never is a deadline that does not come.
	never vmm.Time = math.MaxUint64
)

// Bits of port 0x61.
const (
	portBGate2   = 1 << 0
	portBStored  = 0x0F // gate, speaker and the two NMI enables read back; NMI has no source here
	portBRefresh = 1 << 4
	portBOut2    = 1 << 5
)

// Bits of the control word (Intel 8254 datasheet, order number 231164: control word
// format, read-back command, status byte).
const (
	pitSelect       = 6 // shift: counter, 3 for read-back
	pitRW           = 3 << 4
	pitRWLow        = 1 << 4
	pitRWHigh       = 2 << 4
	pitRWBoth       = 3 << 4
	pitModeShift    = 1
	pitBCD          = 1 << 0
	pitNoLatchCount = 1 << 5 // read-back only
	pitNoLatchState = 1 << 4 // read-back only

	// Bits 6 and 7 of the status byte; below are bits 0 to 5 of the control word.
	pitStatusOut  = 1 << 7
	pitStatusNull = 1 << 6
)

// pit is the 8254 interval timer with port 0x61.
//
// The counters are brought up to date only when somebody looks: at a port access, when
// IRQ0 is due, and in State. So how often setTime was called leaves no trace.
//
// Only rising edges of OUT0 are reported: IRQ0 is edge-triggered for good. Guest time moves in steps, and a guest that counts
// ticks (Linux, before it has found a better clock) must not lose those that come while it has yet to take one: they
// are owed, as by the timer of KVM, and come as soon as it has taken that.
type pit struct {
	// irq reports n edges, one of them at most at once, and returns how many are owed.
	irq func(n uint64) (owed uint64)

	now     vmm.Time
	due     vmm.Time   // when OUT0 rises next, or never; follows from the counters
	owed    uint64     // rises of OUT0, since counter 0 was last written to, that are still to be reported
	clock   uint64     // input clocks up to the time the counters stand at
	counter [3]counter // the gates of 0 and 1 are always high
	portB   uint8
}

// newPIT returns the timer as firmware leaves it: counter 0 gives the 18.2 ticks a second of a PC's
// clock, counter 1 the refresh, counter 2 is not programmed. Linux counts on the first: it reads counter 0
// for randomness, before it programs it, until the status byte says that there is a count.
func newPIT(irq func(n uint64) (owed uint64)) *pit {
	p := &pit{irq: irq, due: never}
	for i := range p.counter {
		p.counter[i] = counter{control: pitRWBoth | 3<<pitModeShift, gate: i != 2, out: true, null: true}
	}
	p.counter[0].setCount(0)
	p.counter[1].program(pitRWLow | 2<<pitModeShift)
	p.counter[1].setCount(pitRefresh)
	p.schedule()
	return p
}

// setTime makes guest time t, which is never less than before.
func (p *pit) setTime(t vmm.Time) {
	p.now = t
	if t >= p.due && p.due != never {
		n := p.counter[0].rises(clocksAt(t) - p.clock)
		p.sync()
		p.schedule()
		p.report(n)
	}
}

// deadline is when IRQ0 rises next by itself; it is after the last setTime.
func (p *pit) deadline() (vmm.Time, bool) { return p.due, p.due != never }

// pitOwed is the most ticks that are owed. A guest whose time jumped further, as it may if its host's clock is set, would be
// kept busy by them for too long.
const pitOwed = 4096

// report reports n more edges.
func (p *pit) report(n uint64) { p.owed = p.irq(p.owed + min(n, pitOwed-p.owed)) }

// taken tells that the guest took an interrupt, maybe this timer's.
func (p *pit) taken() {
	if p.owed > 0 {
		p.report(0)
	}
}

// clocksAt is the number of input clocks up to time t: floor(t * pitHz / nsHz).
func clocksAt(t vmm.Time) uint64 {
	hi, lo := bits.Mul64(uint64(t), pitHz)
	n, _ := bits.Div64(hi, lo, nsHz) // hi < pitHz < nsHz
	return n
}

// timeOf is the first time at which clocksAt is n, or never if that is beyond the end
// of time.
func timeOf(n uint64) vmm.Time {
	hi, lo := bits.Mul64(n, nsHz)
	if hi >= pitHz {
		return never
	}
	t, rest := bits.Div64(hi, lo, pitHz)
	if rest != 0 && t != uint64(never) {
		t++
	}
	return vmm.Time(t)
}

// sync brings the counters up to now.
func (p *pit) sync() {
	clock := clocksAt(p.now)
	for i := range p.counter {
		p.counter[i].advance(clock - p.clock)
	}
	p.clock = clock
}

func (p *pit) schedule() {
	p.due = never
	if n, ok := p.counter[0].untilRise(); ok {
		p.due = timeOf(p.clock + n)
	}
}

func (p *pit) in(port uint16) uint8 {
	p.sync()
	switch port {
	case portB:
		v := p.portB
		if p.clock/pitRefresh%2 != 0 {
			v |= portBRefresh
		}
		if p.counter[2].out {
			v |= portBOut2
		}
		return v
	case portPITControl: // write only; nobody drives the bus
		return 0xFF
	}
	return p.counter[port-portPITCounter0].read()
}

func (p *pit) out(port uint16, v uint8) {
	p.sync()
	before := p.counter[0].out
	switch port {
	case portB:
		p.portB = v & portBStored
		p.counter[2].setGate(v&portBGate2 != 0)
	case portPITControl:
		p.command(v)
	default:
		p.counter[port-portPITCounter0].write(v)
	}
	if port == portPITCounter0 || port == portPITControl && v>>pitSelect == 0 && v&pitRW != 0 {
		p.owed = 0
	}
	p.schedule()
	if p.counter[0].out && !before {
		p.report(1)
	}
}

// command takes a write to the control word register.
func (p *pit) command(v uint8) {
	if v>>pitSelect < 3 {
		c := &p.counter[v>>pitSelect]
		if v&pitRW == 0 {
			c.latchCount()
		} else {
			c.program(v)
		}
		return
	}
	for i := range p.counter { // read-back
		if v>>(i+1)&1 == 0 {
			continue
		}
		if v&pitNoLatchState == 0 {
			p.counter[i].latchStatus()
		}
		if v&pitNoLatchCount == 0 {
			p.counter[i].latchCount()
		}
	}
}

func (p *pit) State(a *vmm.Archive) {
	p.sync()
	a.Section("pit")
	a.U64("now", (*uint64)(&p.now))
	a.U64("owed", &p.owed)
	a.U8("port_b", &p.portB)
	for i := range p.counter {
		a.Section(pitSections[i])
		p.counter[i].state(a)
	}
	if a.Loading() {
		if p.owed > pitOwed {
			a.Fail("%d ticks are owed, more than %d", p.owed, pitOwed)
			p.owed = 0
		}
		p.clock = clocksAt(p.now)
		p.schedule()
	}
}

var pitSections = [...]string{"pit.0", "pit.1", "pit.2"}

// counter is one of the timer's three. Numbers of clocks and counts are plain numbers,
// also in BCD mode; a count of 0 that the guest wrote is the full 65536 or 10000.
type counter struct {
	control uint8 // bits 0 to 5 of the last control word
	gate    bool
	out     bool

	// CR, the count register.
	reload  uint32 // 0 until a count is written
	low     uint8  // first byte of a two-byte count
	haveLow bool
	null    bool // CR is not in CE yet, as the status byte has it

	// CE, the counting element.
	load    bool   // CR goes to CE at the next clock
	running bool   // CR went to CE since the last control word
	held    bool   // mode 0: the first byte of a new count stops counting
	armed   bool   // modes 0, 1, 4, 5: OUT changes at the end of the count
	count   uint32 // what was loaded
	left    uint32 // clocks to the end of the count (mode 3: of the half cycle)

	// The output latches and the byte that is read next.
	latch         uint16
	latched       bool
	highNext      bool
	status        uint8
	statusLatched bool
}

// mode is 0 to 5; 6 and 7 are 2 and 3.
func (c *counter) mode() uint8 {
	m := c.control >> pitModeShift & 7
	if m > 5 {
		m -= 4
	}
	return m
}

// modulus is the full count.
func (c *counter) modulus() uint32 {
	if c.control&pitBCD != 0 {
		return 10000
	}
	return 1 << 16
}

// program takes a control word: everything starts anew, and OUT goes to its initial
// level without waiting for a clock.
func (c *counter) program(v uint8) {
	*c = counter{control: v & 0x3F, gate: c.gate, null: true}
	c.out = c.mode() != 0
}

// write takes one byte of a count.
func (c *counter) write(v uint8) {
	switch c.control & pitRW {
	case pitRWLow:
		c.setCount(uint16(v))
	case pitRWHigh:
		c.setCount(uint16(v) << 8)
	default:
		if c.haveLow {
			c.setCount(uint16(v)<<8 | uint16(c.low))
			return
		}
		c.low, c.haveLow = v, true
		if c.mode() == 0 {
			c.held, c.load, c.out = true, false, false
		}
	}
}

// setCount writes CR. Modes 0 and 4 take a new count at the next clock, 2 and 3 the
// first one only and later ones at the end of the (half) cycle, 1 and 5 at a trigger.
func (c *counter) setCount(v uint16) {
	c.reload = uint32(v)
	if c.control&pitBCD != 0 {
		c.reload = fromBCD16(v) % 10000
	}
	if c.reload == 0 {
		c.reload = c.modulus()
	}
	c.low, c.haveLow, c.held, c.null = 0, false, false, true
	switch c.mode() {
	case 0:
		c.out = false
		c.load = true
	case 4:
		c.load = true
	case 2, 3:
		c.load = c.load || !c.running
	}
}

// setGate sets the GATE input. A rising edge triggers modes 1, 2, 3 and 5; in 2 and 3
// a low level sets OUT high at once.
func (c *counter) setGate(level bool) {
	rising := level && !c.gate
	c.gate = level
	switch m := c.mode(); {
	case m == 0 || m == 4:
	case rising:
		c.load = c.reload != 0
	case !level && (m == 2 || m == 3):
		c.out = true
	}
}

// counting reports whether a clock counts, once CE is loaded.
func (c *counter) counting() bool {
	m := c.mode()
	return c.running && !c.held && (c.gate || m == 1 || m == 5)
}

// transfer is the clock that moves CR to CE; it does not count.
func (c *counter) transfer() {
	c.load, c.running, c.null = false, true, false
	c.count, c.left = c.reload, c.reload
	switch c.mode() {
	case 0:
		c.armed = true
	case 1:
		c.armed, c.out = true, false
	case 2:
		c.out = c.left != 1
	case 3:
		c.out = true
		c.left = c.half()
	case 4, 5:
		c.armed, c.out = true, true
	}
}

// half is the length of a half cycle of mode 3: an odd count is one clock longer
// while OUT is high.
func (c *counter) half() uint32 {
	if c.out {
		return (c.count + 1) / 2
	}
	return c.count / 2
}

// advance runs the counter for n clocks.
func (c *counter) advance(n uint64) {
	if n > 0 && c.load {
		c.transfer()
		n--
	}
	if n == 0 || !c.counting() {
		return
	}
	switch c.mode() {
	case 2:
		c.advanceRate(n)
	case 3:
		c.advanceSquare(n)
	default:
		c.advanceOnce(n)
	}
}

// advanceRate is mode 2: OUT is low for the last clock of each cycle. (A count of 1,
// which the datasheet forbids, keeps it low.)
func (c *counter) advanceRate(n uint64) {
	if n < uint64(c.left) {
		c.left -= uint32(n)
	} else {
		n -= uint64(c.left)
		c.count, c.null = c.reload, false
		c.left = c.count - uint32(n%uint64(c.count))
	}
	c.out = c.left != 1
}

// advanceSquare is mode 3: OUT changes after each half cycle. (A count of 1, which the
// datasheet forbids, keeps it high.)
func (c *counter) advanceSquare(n uint64) {
	if n < uint64(c.left) {
		c.left -= uint32(n)
		return
	}
	n -= uint64(c.left)
	c.out = !c.out
	c.count, c.null = c.reload, false
	n %= uint64(c.count)
	for n >= uint64(c.half()) {
		n -= uint64(c.half())
		c.out = !c.out
	}
	c.left = c.half() - uint32(n)
}

// advanceOnce is the others: OUT goes high at the end of the count (0, 1), or low for the
// clock after it (4, 5); counting goes on around the modulus.
func (c *counter) advanceOnce(n uint64) {
	if left := uint64(c.left); c.armed && n >= left {
		if c.mode() < 4 || n > left {
			c.out, c.armed = true, false
		} else {
			c.out = false
		}
	}
	m := c.modulus()
	c.left = (c.left + m - uint32(n%uint64(m))) % m
}

// untilRise is the number of clocks until OUT next rises, if nothing is written before.
func (c *counter) untilRise() (n uint64, ok bool) {
	if c.load {
		next := *c
		next.advance(1)
		if next.out && !c.out {
			return 1, true
		}
		n, ok = next.untilRise()
		return n + 1, ok
	}
	if !c.counting() {
		return 0, false
	}
	n = uint64(c.left)
	switch c.mode() {
	case 0, 1:
		return n, c.armed
	case 2:
		return n, c.reload > 1
	case 3:
		if c.out {
			return n + uint64(c.reload/2), c.reload > 1
		}
		return n, true
	default:
		return n + 1, c.armed
	}
}

// rises is how often OUT rises within n clocks.
func (c *counter) rises(n uint64) uint64 {
	first, ok := c.untilRise()
	switch m := c.mode(); {
	case !ok || n < first:
		return 0
	case m == 2 || m == 3:
		return 1 + (n-first)/uint64(c.reload)
	}
	return 1
}

// value is what CE reads as.
func (c *counter) value() uint16 {
	v := c.left
	if c.mode() == 3 {
		// CE goes down by two, from the even number at or below the count.
		v *= 2
		if c.out && c.count%2 != 0 {
			v -= 2
		}
	}
	v %= c.modulus()
	if c.control&pitBCD != 0 {
		return toBCD16(v)
	}
	return uint16(v)
}

// read returns the byte that is next, of the status, the latched or the present count.
func (c *counter) read() uint8 {
	if c.statusLatched {
		c.statusLatched = false
		return c.status
	}
	v := c.latch
	if !c.latched {
		v = c.value()
	}
	rw := c.control & pitRW
	high := rw == pitRWHigh || rw == pitRWBoth && c.highNext
	c.highNext = rw == pitRWBoth && !high
	c.latched = c.latched && c.highNext
	if high {
		return uint8(v >> 8)
	}
	return uint8(v)
}

// latchCount holds the count until it is read; until then it is not latched again.
func (c *counter) latchCount() {
	if !c.latched {
		c.latch, c.latched, c.highNext = c.value(), true, false
	}
}

// latchStatus is the same for the status.
func (c *counter) latchStatus() {
	if c.statusLatched {
		return
	}
	c.status, c.statusLatched = c.control, true
	if c.out {
		c.status |= pitStatusOut
	}
	if c.null {
		c.status |= pitStatusNull
	}
}

func (c *counter) state(a *vmm.Archive) {
	a.U8("control", &c.control)
	a.Bool("gate", &c.gate)
	a.Bool("out", &c.out)
	a.U32("reload", &c.reload)
	a.U8("low", &c.low)
	a.Bool("have_low", &c.haveLow)
	a.Bool("null", &c.null)
	a.Bool("load", &c.load)
	a.Bool("running", &c.running)
	a.Bool("held", &c.held)
	a.Bool("armed", &c.armed)
	a.U32("count", &c.count)
	a.U32("left", &c.left)
	a.U16("latch", &c.latch)
	a.Bool("latched", &c.latched)
	a.Bool("high_next", &c.highNext)
	a.U8("status", &c.status)
	a.Bool("status_latched", &c.statusLatched)
	if a.Loading() && !c.valid() {
		a.Fail("control %#x, reload %d, count %d, left %d, load %t, running %t, armed %t: no 8254 is like that",
			c.control, c.reload, c.count, c.left, c.load, c.running, c.armed)
		*c = counter{control: pitRWBoth}
	}
}

// valid reports whether the fields agree as far as the arithmetic relies on it.
func (c *counter) valid() bool {
	m, limit := c.mode(), c.modulus()
	periodic := m == 2 || m == 3
	switch {
	case c.control > 0x3F || c.control&pitRW == 0:
		return false
	case c.reload > limit || c.count > limit || c.left > limit:
		return false
	case c.load && c.reload == 0:
		return false
	case c.running && periodic:
		return c.reload != 0 && c.count != 0 && c.left != 0
	case c.armed && c.left == 0:
		return m >= 4
	}
	return true
}

func fromBCD16(v uint16) uint32 {
	return uint32(v>>12)*1000 + uint32(v>>8&15)*100 + uint32(v>>4&15)*10 + uint32(v&15)
}

func toBCD16(v uint32) uint16 {
	return uint16(v/1000<<12 | v/100%10<<8 | v/10%10<<4 | v%10)
}
