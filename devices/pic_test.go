package devices

import (
	"testing"

	"ftvm/vmm"
)

// linuxPIC is the pair as Linux programs it: vectors 0x30 and 0x38, all unmasked.
func linuxPIC() *pic {
	p := newPIC()
	p.init(0x30, 0x38, 0x01, 0x01)
	return p
}

func (p *pic) init(masterBase, slaveBase, masterICW4, slaveICW4 uint8) {
	for _, w := range [...]struct {
		port uint16
		v    uint8
	}{
		{0x20, 0x11}, {0x21, masterBase}, {0x21, 0x04}, {0x21, masterICW4},
		{0xA0, 0x11}, {0xA1, slaveBase}, {0xA1, 0x02}, {0xA1, slaveICW4},
		{0x21, 0x00}, {0xA1, 0x00},
	} {
		p.out(w.port, w.v)
	}
}

// edge is a pulse on an edge-triggered line.
func (p *pic) edge(line int) {
	p.setIRQ(line, true)
	p.setIRQ(line, false)
}

func (p *pic) wantVector(t *testing.T, what string, want vmm.Vector) {
	t.Helper()
	if !p.interrupt() {
		t.Fatalf("%s: no interrupt, want vector %#x", what, want)
	}
	if got := p.acknowledge(); got != want {
		t.Fatalf("%s: vector %#x, want %#x", what, got, want)
	}
}

func (p *pic) wantNone(t *testing.T, what string) {
	t.Helper()
	if p.interrupt() {
		t.Fatalf("%s: interrupt with vector %#x, want none", what, p.acknowledge())
	}
}

func wantPort(t *testing.T, what string, got, want uint8) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: read %#02x, want %#02x", what, got, want)
	}
}

// isr and irr read the registers with OCW3.
func (p *pic) isr(port uint16) uint8 { p.out(port, 0x0B); return p.in(port) }
func (p *pic) irr(port uint16) uint8 { p.out(port, 0x0A); return p.in(port) }

// TestPICProbe is how Linux finds out that there is a PIC: with the slave masked, a
// mask without bit 2 written to the master reads back.
func TestPICProbe(t *testing.T) {
	p := newPIC()
	p.wantNone(t, "after reset")
	p.out(0xA1, 0xFF)
	p.out(0x21, 0xFB)
	wantPort(t, "master mask", p.in(0x21), 0xFB)
	wantPort(t, "slave mask", p.in(0xA1), 0xFF)
}

func TestPICInitialization(t *testing.T) {
	for _, tt := range []struct {
		name       string
		icw        []uint8 // ICW1 goes to A0 = 0
		want       vmm.Vector
		firstWrite bool // the write after the ICWs is OCW1
	}{
		{name: "ICW1 to ICW4", icw: []uint8{0x11, 0x40, 0x04, 0x01}, want: 0x41},
		{name: "single", icw: []uint8{0x13, 0x48, 0x01}, want: 0x49},
		{name: "no ICW4", icw: []uint8{0x10, 0x50, 0x04}, want: 0x51},
		{name: "single, no ICW4", icw: []uint8{0x12, 0x58}, want: 0x59},
		{name: "low bits of ICW2", icw: []uint8{0x11, 0x67, 0x04, 0x01}, want: 0x61},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := linuxPIC()
			p.edge(0)
			p.acknowledge()
			p.edge(3)
			p.out(0x21, 0xFF)
			for i, v := range tt.icw {
				p.out(0x20+uint16(min(i, 1)), v)
				if i < len(tt.icw)-1 {
					p.setIRQ(1, true)
					p.wantNone(t, "during initialization")
					p.setIRQ(1, false)
				}
				if i == 0 {
					wantPort(t, "mask after ICW1", p.in(0x21), 0)
					wantPort(t, "IRR after ICW1: edges are forgotten", p.in(0x20), 0x02)
					wantPort(t, "ISR after ICW1", p.isr(0x20), 0)
					p.out(0x20, 0x0A)
				}
			}
			p.wantVector(t, "after initialization", tt.want)
			p.out(0x21, 0xA5)
			wantPort(t, "OCW1 follows", p.in(0x21), 0xA5)
		})
	}
}

func TestPICFullyNested(t *testing.T) {
	p := linuxPIC()
	p.edge(4)
	p.edge(1)
	p.edge(6)
	wantPort(t, "IRR", p.irr(0x20), 0x52)
	p.wantVector(t, "highest priority first", 0x31)
	wantPort(t, "ISR", p.isr(0x20), 0x02)
	wantPort(t, "IRR after INTA", p.irr(0x20), 0x50)
	p.wantNone(t, "lower priority waits")
	p.edge(1)
	p.wantNone(t, "the same priority waits")
	p.edge(0)
	p.wantVector(t, "higher priority nests", 0x30)
	p.out(0x20, 0x20)
	wantPort(t, "non-specific EOI ends the highest", p.isr(0x20), 0x02)
	p.out(0x20, 0x61)
	wantPort(t, "specific EOI", p.isr(0x20), 0x00)
	p.wantVector(t, "next", 0x31)
	p.out(0x20, 0x20)
	p.out(0x21, 0x10)
	p.wantVector(t, "IRQ 4 is masked", 0x36)
	p.out(0x20, 0x20)
	p.wantNone(t, "IRQ 4 is masked")
	p.out(0x21, 0x00)
	p.wantVector(t, "a masked request is kept", 0x34)
}

func TestPICEdgeAndLevel(t *testing.T) {
	p := linuxPIC()
	p.out(0x4D0, 0xFF)
	p.out(0x4D1, 0xFF)
	wantPort(t, "ELCR1: IRQ 0 to 2 are edge-triggered", p.in(0x4D0), 0xF8)
	wantPort(t, "ELCR2: IRQ 8 and 13 are edge-triggered", p.in(0x4D1), 0xDE)

	p.setIRQ(0, true)
	p.wantVector(t, "rising edge", 0x30)
	p.out(0x20, 0x20)
	p.wantNone(t, "the line stays high")
	p.setIRQ(0, true)
	p.wantNone(t, "no new edge")
	p.setIRQ(0, false)
	p.setIRQ(0, true)
	p.wantVector(t, "new edge", 0x30)
	p.out(0x20, 0x20)

	p.setIRQ(5, true)
	p.wantVector(t, "level", 0x35)
	p.wantNone(t, "in service")
	p.out(0x20, 0x20)
	p.wantVector(t, "the level is still high", 0x35)
	p.setIRQ(5, false)
	p.out(0x20, 0x20)
	p.wantNone(t, "the level fell")

	p.setIRQ(10, true)
	p.wantVector(t, "level on the slave", 0x3A)
	p.setIRQ(10, false)
	p.out(0xA0, 0x20)
	p.out(0x20, 0x20)
	p.wantNone(t, "the slave's level fell")

	p.setIRQ(5, true)
	p.out(0x4D0, 0x00)
	p.wantNone(t, "edge-triggered from now on, and no edge was seen")
	p.out(0x4D0, 0x20)
	p.wantVector(t, "level-triggered again", 0x35)
}

func TestPICCascade(t *testing.T) {
	p := linuxPIC()
	p.setIRQ(2, true)
	p.wantNone(t, "line 2 is not an input")
	p.edge(14)
	p.edge(4)
	wantPort(t, "the slave's INT in the master's IRR", p.irr(0x20), 0x14)
	p.wantVector(t, "the slave is on input 2, before 4", 0x3E)
	wantPort(t, "master ISR", p.isr(0x20), 0x04)
	wantPort(t, "slave ISR", p.isr(0xA0), 0x40)
	p.edge(8)
	p.wantNone(t, "the slave's input is in service")
	p.out(0x20, 0x20)
	p.wantVector(t, "IRQ 8 nests on the slave", 0x38)
	// As Linux does it: specific EOI to the slave, then to input 2.
	p.out(0xA0, 0x60)
	p.out(0x20, 0x62)
	wantPort(t, "slave ISR", p.isr(0xA0), 0x40)
	p.out(0xA0, 0x66)
	p.wantVector(t, "then IRQ 4", 0x34)
	p.edge(9)
	p.wantVector(t, "the slave interrupts IRQ 4", 0x39)
	p.out(0x21, 0x04)
	p.edge(8)
	p.out(0x20, 0x62)
	p.wantNone(t, "input 2 is masked")
}

func TestPICSpecialFullyNested(t *testing.T) {
	p := newPIC()
	p.init(0x30, 0x38, 0x11, 0x01)
	p.edge(12)
	p.wantVector(t, "IRQ 12", 0x3C)
	p.edge(4)
	p.edge(14)
	p.wantNone(t, "lower priorities wait")
	p.edge(8)
	p.wantVector(t, "a higher priority of the same slave", 0x38)
	p.out(0xA0, 0x20)
	wantPort(t, "the slave has another one in service", p.isr(0xA0), 0x10)
}

// TestPICSpurious: without a request INTA is answered with input 7, and no ISR bit is set.
func TestPICSpurious(t *testing.T) {
	p := linuxPIC()
	p.out(0x4D0, 0x20)
	p.setIRQ(5, true)
	if !p.interrupt() {
		t.Fatal("no interrupt")
	}
	p.setIRQ(5, false)
	if got := p.acknowledge(); got != 0x37 {
		t.Errorf("master: vector %#x, want 0x37", got)
	}
	wantPort(t, "master ISR", p.isr(0x20), 0)
	if got := p.slave.acknowledge(0); got != 7 {
		t.Errorf("slave: level %d, want 7", got)
	}
	wantPort(t, "slave ISR", p.isr(0xA0), 0)
}

func TestPICAutoEOI(t *testing.T) {
	p := newPIC()
	p.init(0x30, 0x38, 0x03, 0x01)
	p.edge(1)
	p.edge(3)
	p.wantVector(t, "IRQ 1", 0x31)
	wantPort(t, "ISR", p.isr(0x20), 0)
	p.wantVector(t, "IRQ 3", 0x33)
	p.out(0x20, 0x80) // rotate in AEOI mode
	p.edge(3)
	p.wantVector(t, "IRQ 3 becomes the lowest", 0x33)
	p.edge(3)
	p.edge(4)
	p.wantVector(t, "IRQ 4 is the highest now", 0x34)
	p.wantVector(t, "then IRQ 3", 0x33)
	p.out(0x20, 0x00)
	p.edge(5)
	p.wantVector(t, "rotation is off", 0x35)
	p.edge(3)
	p.edge(4)
	p.wantVector(t, "priorities stay", 0x34)
}

func TestPICRotation(t *testing.T) {
	p := linuxPIC()
	for _, line := range []int{0, 3, 6} {
		p.edge(line)
	}
	p.wantVector(t, "fixed priorities", 0x30)
	p.out(0x20, 0xA0) // rotate on non-specific EOI
	p.edge(0)
	p.wantVector(t, "IRQ 0 is the lowest", 0x33)
	p.out(0x20, 0xE5) // rotate on specific EOI: 5 is the lowest, and not in service
	wantPort(t, "ISR", p.isr(0x20), 0x08)
	p.wantVector(t, "IRQ 6 is the highest", 0x36)
	p.out(0x20, 0x20)
	wantPort(t, "EOI goes by the rotated priorities", p.isr(0x20), 0x08)
	p.out(0x20, 0xC2) // set priority: 2 is the lowest
	p.wantNone(t, "IRQ 3, in service, is the highest")
	p.out(0x20, 0x40) // no operation
	p.out(0x20, 0x63)
	p.wantVector(t, "the rest", 0x30)
	p.out(0x20, 0x60)
	p.out(0x20, 0x20)
	wantPort(t, "EOI without anything in service", p.isr(0x20), 0)
}

func TestPICSpecialMask(t *testing.T) {
	p := linuxPIC()
	p.edge(3)
	p.wantVector(t, "IRQ 3", 0x33)
	p.edge(5)
	p.out(0x21, 0x08)
	p.wantNone(t, "masking what is in service is not enough")
	p.out(0x20, 0x68) // ESMM, SMM
	p.wantVector(t, "special mask mode lets lower priorities in", 0x35)
	p.out(0x20, 0x20)
	wantPort(t, "non-specific EOI passes over the masked level", p.isr(0x20), 0x08)
	p.out(0x20, 0x08)
	p.edge(6)
	p.wantVector(t, "OCW3 without ESMM leaves the mode alone", 0x36)
	p.out(0x20, 0x66)
	p.out(0x20, 0x48)
	p.edge(7)
	p.wantNone(t, "the mode is off")
}

func TestPICPoll(t *testing.T) {
	p := linuxPIC()
	p.out(0x20, 0x0C)
	wantPort(t, "poll without a request", p.in(0x20), 0)
	wantPort(t, "a poll is one read", p.in(0x20), 0)
	p.edge(13)
	p.edge(5)
	p.out(0x20, 0x0C)
	wantPort(t, "poll of the master", p.in(0x20), 0x82)
	p.out(0xA0, 0x0C)
	wantPort(t, "poll of the slave, by the other port", p.in(0xA1), 0x85)
	wantPort(t, "a poll takes into service", p.isr(0x20), 0x04)
	wantPort(t, "a poll takes into service", p.isr(0xA0), 0x20)
	wantPort(t, "the mask again", p.in(0xA1), 0)
	p.wantNone(t, "IRQ 5 waits")
}

func TestPICRejectsState(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(c *i8259)
	}{
		{"priority", func(c *i8259) { c.lowest = 8 }},
		{"vector", func(c *i8259) { c.base = 1 }},
		{"ICW", func(c *i8259) { c.next = 5 }},
		{"edge on levels", func(c *i8259) { c.elcr, c.edges = 8, 8 }},
	} {
		p := linuxPIC()
		tt.spoil(&p.slave)
		if err := loadState(newPIC(), saveState(t, p)); err == nil {
			t.Errorf("%s: restored, want an error", tt.name)
		}
	}
}

func FuzzPIC(f *testing.F) {
	ports := [...]uint16{0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1}
	fuzzDevice(f, func() specimen {
		p := newPIC()
		return specimen{p, nil, func(op, x, y uint8) (v uint64) {
			switch port := ports[int(x)%len(ports)]; op % 4 {
			case 0:
				v = uint64(p.in(port))
			case 1:
				p.out(port, y)
			case 2:
				p.setIRQ(int(x&15), y&1 != 0)
			case 3:
				if p.interrupt() {
					v = uint64(p.acknowledge())
				}
			}
			if p.interrupt() {
				v |= 1 << 8
			}
			return v
		}}
	},
		"",
		"\x01\x00\x11\x01\x01\x30\x01\x01\x04\x01\x01\x01\x02\x04\x01\x03\x00\x00\x01\x00\x20\x00\x00\x00",
		"\x01\x02\x11\x01\x03\x38\x01\x03\x02\x01\x03\x13\x02\x0c\x01\x03\x00\x00\x01\x02\x0c\x00\x02\x00\x01\x00\xa0",
		"\x01\x04\xff\x02\x05\x01\x01\x00\x13\x01\x01\x20\x01\x01\x03\x01\x00\x80\x03\x00\x00\x02\x05\x00\x01\x00\x68",
	)
}
