package devices

import (
	"math/bits"

	"ftvm/vmm"
)

// Ports of the interrupt controllers.
const (
	portPICMaster     = 0x20 // A0 = 0; 0x21 is A0 = 1
	portPICSlave      = 0xA0 // likewise
	portPICELCRMaster = 0x4D0
	portPICELCRSlave  = 0x4D1
)

// picCascade is the master's input that the slave's INT drives.
const picCascade = 2

// Bits of the initialization and operation command words (Intel 8259A datasheet,
// order number 231468).
const (
	icw1       = 1 << 4 // with A0 = 0: this is ICW1
	icw1Single = 1 << 1 // SNGL: no ICW3 follows
	icw1IC4    = 1 << 0 // ICW4 follows
	icw4AEOI   = 1 << 1
	icw4SFNM   = 1 << 4 // special fully nested mode
	ocw3       = 1 << 3 // with A0 = 0 and bit 4 = 0: this is OCW3, else OCW2
	ocw3ESMM   = 1 << 6 // enable SMM
	ocw3SMM    = 1 << 5 // special mask mode
	ocw3Poll   = 1 << 2
	ocw3RR     = 1 << 1 // enable RIS
	ocw3RIS    = 1 << 0 // read ISR, not IRR
)

// Values of OCW2 bits 7 to 5: R, SL, EOI.
const (
	ocw2RotateAEOIClear   = 0
	ocw2EOI               = 1
	ocw2SpecificEOI       = 3
	ocw2RotateAEOISet     = 4
	ocw2RotateEOI         = 5
	ocw2SetPriority       = 6
	ocw2RotateSpecificEOI = 7
)

// pic is the pair of 8259A interrupt controllers of a PC, with the edge/level
// control registers (ELCR) of its chipsets, such as the 82371AB (PIIX4).
//
// It departs from the 8259A in this, as PC chipsets and other machine monitors do:
//
//   - The wiring is fixed: ICW3 and SNGL matter to the initialization sequence only, and
//     the vector is always answered as an 8086 expects it. ICW1's LTIM is ignored,
//     ELCR decides.
//   - A rising edge stays latched until it is acknowledged, even if the line falls
//     before. Guest time moves in steps, so a line can rise and fall within one, and its
//     interrupt must not be lost (nor turned into a spurious one) for that.
//   - ICW1 clears ISR, which the datasheet leaves open.
type pic struct {
	master, slave i8259
}

// i8259 is one controller.
type i8259 struct {
	cascade uint8 // inputs that a slave drives: wiring, not state

	lines uint8 // inputs that are high
	edges uint8 // requests latched on edge-triggered inputs
	elcr  uint8 // inputs that are level-triggered
	imr   uint8
	isr   uint8

	base   uint8 // vector of input 0 (ICW2)
	lowest uint8 // input with the lowest priority
	icw1   uint8
	icw4   uint8
	next   uint8 // number of the ICW that is awaited, 0 in operation

	readISR     bool
	poll        bool // the next read is a poll
	specialMask bool
	rotateAEOI  bool
}

// newPIC returns the pair as firmware would leave it: every input masked.
func newPIC() *pic {
	return &pic{
		master: i8259{cascade: 1 << picCascade, imr: 0xFF, lowest: 7},
		slave:  i8259{imr: 0xFF, lowest: 7},
	}
}

// setIRQ sets the level of line 0 to 15. Line 2 does not exist on a PC: the slave
// is there.
func (p *pic) setIRQ(line int, level bool) {
	c := &p.master
	if line >= 8 {
		c = &p.slave
	}
	bit := uint8(1) << (line & 7)
	switch {
	case line == picCascade:
	case !level:
		c.lines &^= bit
	case c.lines&bit == 0:
		c.lines |= bit
		c.edges |= bit &^ c.elcr
	}
}

// interrupt reports whether the master asks for the CPU (INTR).
func (p *pic) interrupt() bool {
	_, ok := p.master.resolve(p.masterIRR())
	return ok
}

// acknowledge runs both INTA cycles. Without a request the answer is the vector of input
// 7, and its ISR bit stays clear ("spurious").
func (p *pic) acknowledge() vmm.Vector {
	c, level := &p.master, p.master.acknowledge(p.masterIRR())
	if level == picCascade {
		c, level = &p.slave, p.slave.acknowledge(p.slave.irr())
	}
	return vmm.Vector(c.base | level)
}

// masterIRR is the master's IRR, its input 2 following the slave's INT.
func (p *pic) masterIRR() uint8 {
	irr := p.master.irr()
	if _, ok := p.slave.resolve(p.slave.irr()); ok {
		irr |= 1 << picCascade
	}
	return irr
}

func (p *pic) in(port uint16) uint8 {
	switch port {
	case portPICELCRMaster:
		return p.master.elcr
	case portPICELCRSlave:
		return p.slave.elcr
	case portPICMaster, portPICMaster + 1:
		return p.master.in(port&1 != 0, p.masterIRR())
	}
	return p.slave.in(port&1 != 0, p.slave.irr())
}

func (p *pic) out(port uint16, v uint8) {
	switch port {
	case portPICELCRMaster: // inputs 0, 1 and 2 are edge-triggered for good
		p.master.setELCR(v & 0xF8)
	case portPICELCRSlave: // inputs 8 and 13 likewise
		p.slave.setELCR(v & 0xDE)
	case portPICMaster, portPICMaster + 1:
		p.master.out(port&1 != 0, v)
	default:
		p.slave.out(port&1 != 0, v)
	}
}

func (c *i8259) irr() uint8 { return c.edges | c.lines&c.elcr }

func (c *i8259) setELCR(v uint8) {
	c.elcr = v
	c.edges &^= v
}

// byPriority moves the bit of each level to the place of its priority, 0 the highest.
func (c *i8259) byPriority(levels uint8) uint8 {
	return bits.RotateLeft8(levels, -int(c.lowest+1))
}

// inService is ISR as far as it holds back other requests (special mask mode: the
// levels that are not masked).
func (c *i8259) inService() uint8 {
	if c.specialMask {
		return c.isr &^ c.imr
	}
	return c.isr
}

// resolve finds the unmasked request with the highest priority, if it is higher than
// everything in service. In special fully nested mode a slave's input may also
// interrupt itself.
func (c *i8259) resolve(irr uint8) (level uint8, ok bool) {
	requests := irr &^ c.imr
	if requests == 0 || c.next != 0 {
		return 0, false
	}
	request := bits.TrailingZeros8(c.byPriority(requests))
	service := bits.TrailingZeros8(c.byPriority(c.inService()))
	level = (uint8(request) + c.lowest + 1) & 7
	nested := request == service && c.cascade>>level&1 != 0 && c.icw4&icw4SFNM != 0
	return level, request < service || nested
}

// acknowledge takes the request that resolve finds into service; without one it
// is level 7 and nothing changes.
func (c *i8259) acknowledge(irr uint8) (level uint8) {
	level, ok := c.resolve(irr)
	if !ok {
		return 7
	}
	c.edges &^= 1 << level
	switch {
	case c.icw4&icw4AEOI == 0:
		c.isr |= 1 << level
	case c.rotateAEOI:
		c.lowest = level
	}
	return level
}

func (c *i8259) in(a0 bool, irr uint8) uint8 {
	switch {
	case c.poll:
		c.poll = false
		if _, ok := c.resolve(irr); !ok {
			return 0
		}
		return 0x80 | c.acknowledge(irr)
	case a0:
		return c.imr
	case c.readISR:
		return c.isr
	}
	return irr
}

func (c *i8259) out(a0 bool, v uint8) {
	switch {
	case !a0 && v&icw1 != 0:
		*c = i8259{cascade: c.cascade, lines: c.lines, elcr: c.elcr, base: c.base, lowest: 7, icw1: v, next: 2}
	case !a0 && v&ocw3 != 0:
		c.ocw3(v)
	case !a0:
		c.ocw2(v)
	case c.next == 0:
		c.imr = v // OCW1
	case c.next == 2 && c.icw1&icw1Single == 0:
		c.base, c.next = v&0xF8, 3
	case c.next == 2:
		c.base = v & 0xF8
		c.awaitICW4()
	case c.next == 3:
		c.awaitICW4()
	default:
		c.icw4, c.next = v, 0
	}
}

func (c *i8259) awaitICW4() {
	c.next = 0
	if c.icw1&icw1IC4 != 0 {
		c.next = 4
	}
}

func (c *i8259) ocw2(v uint8) {
	level, command := v&7, v>>5
	switch command {
	case ocw2RotateAEOIClear:
		c.rotateAEOI = false
	case ocw2RotateAEOISet:
		c.rotateAEOI = true
	case ocw2SetPriority:
		c.lowest = level
	case ocw2EOI, ocw2RotateEOI:
		service := c.inService()
		if service == 0 {
			return
		}
		level = (uint8(bits.TrailingZeros8(c.byPriority(service))) + c.lowest + 1) & 7
		fallthrough
	case ocw2SpecificEOI, ocw2RotateSpecificEOI:
		c.isr &^= 1 << level
		if command >= ocw2RotateEOI {
			c.lowest = level
		}
	}
}

func (c *i8259) ocw3(v uint8) {
	if v&ocw3ESMM != 0 {
		c.specialMask = v&ocw3SMM != 0
	}
	c.poll = v&ocw3Poll != 0
	if v&ocw3RR != 0 {
		c.readISR = v&ocw3RIS != 0
	}
}

func (p *pic) State(a *vmm.Archive) {
	a.Section("pic.master")
	p.master.state(a)
	a.Section("pic.slave")
	p.slave.state(a)
}

func (c *i8259) state(a *vmm.Archive) {
	a.U8("lines", &c.lines)
	a.U8("edges", &c.edges)
	a.U8("elcr", &c.elcr)
	a.U8("imr", &c.imr)
	a.U8("isr", &c.isr)
	a.U8("base", &c.base)
	a.U8("lowest", &c.lowest)
	a.U8("icw1", &c.icw1)
	a.U8("icw4", &c.icw4)
	a.U8("next", &c.next)
	a.Bool("read_isr", &c.readISR)
	a.Bool("poll", &c.poll)
	a.Bool("special_mask", &c.specialMask)
	a.Bool("rotate_aeoi", &c.rotateAEOI)
	if a.Loading() && (c.lowest > 7 || c.base&7 != 0 || c.next == 1 || c.next > 4 || c.edges&c.elcr != 0) {
		a.Fail("lowest %d, base %#x, next %d, edges %#x, elcr %#x: no 8259A is like that",
			c.lowest, c.base, c.next, c.edges, c.elcr)
	}
}
