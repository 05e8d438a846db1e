package devices

import (
	"bytes"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"ftvm/vmm"
)

// TestCounterWaveforms follows single clocks, most of them those of the 8254 datasheet's
// timing diagrams of each mode. In a script, wN writes the byte N (hexadecimal) to the
// counter, + and - set the gate, H and L expect OUT, and hN and lN are one clock, after
// which OUT is high or low and CE reads N.
func TestCounterWaveforms(t *testing.T) {
	for _, tt := range []struct {
		name    string
		control uint8
		script  string
	}{
		{"mode 0", 0x10, "+ L w4 l4 l3 l2 l1 h0 hFFFF hFFFE"},
		{"mode 0, gate", 0x10, "+ w3 l3 l2 - l2 l2 + l1 h0 hFFFF"},
		{"mode 0, count written while the gate is low", 0x10, "- w2 l2 l2 + l1 h0"},
		{"mode 0, new count", 0x10, "+ w3 l3 l2 w2 l2 l1 h0 hFFFF w2 L l2 l1 h0"},
		{"mode 0, two bytes", 0x30, "+ w2 l0 w1 l102 l101 w3 L l101 l101 w0 l3 l2 l1 h0 w1 L l0"},
		{"mode 0, full count in BCD", 0x11, "+ w0 l0 l9999 l9998"},
		{"mode 0, BCD", 0x11, "+ w10 l10 l9 l8"},
		{"mode 0, BCD with digits above 9", 0x11, "+ w1A l20 l19"},
		{"mode 0, high byte only", 0x20, "+ w1 l100 lFF"},
		{"mode 1", 0x12, "- H w3 h0 h0 + l3 l2 l1 h0 hFFFF - + l3 l2 - + l3 l2 l1 h0"},
		{"mode 1, new count", 0x12, "- w2 h0 + l2 l1 w4 h0 hFFFF - + l4 l3 l2 l1 h0"},
		{"mode 1, gate low does not matter", 0x12, "- w2 + l2 - l1 h0"},
		{"mode 1, trigger before a count", 0x12, "- + h0 h0"},
		{"mode 2", 0x14, "+ H w3 h3 h2 l1 h3 h2 l1 h3"},
		{"mode 2, gate", 0x14, "+ w3 h3 h2 - h2 h2 + h3 h2 l1 - H h1 + h3"},
		{"mode 2, new count", 0x14, "+ w4 h4 h3 w5 h2 l1 h5 h4 h3 h2 l1 h5"},
		{"mode 2, new count and trigger", 0x14, "+ w4 h4 h3 w2 - + h2 l1 h2 l1"},
		{"mode 6 is 2", 0x1C, "+ w2 h2 l1 h2 l1"},
		{"mode 2, count 1", 0x14, "+ w1 l1 l1 w2 h2 l1"},
		{"mode 3, even", 0x16, "+ H w4 h4 h2 l4 l2 h4 h2 l4"},
		{"mode 3, odd", 0x16, "+ w5 h4 h2 h0 l4 l2 h4 h2 h0 l4"},
		{"mode 3, gate", 0x16, "+ w4 h4 h2 l4 - H h4 + h4 h2 l4 l2"},
		{"mode 3, new count at the half cycle", 0x16, "+ w4 h4 w6 h2 l6 l4 l2 h6"},
		{"mode 3, new count and trigger", 0x16, "+ w8 h8 w4 - + h4 h2 l4"},
		{"mode 3, count 1", 0x16, "+ w1 h0 h0 h0"},
		{"mode 7 is 3", 0x1E, "+ w2 h2 l2 h2"},
		{"mode 4", 0x18, "+ H w3 h3 h2 h1 l0 hFFFF hFFFE"},
		{"mode 4, gate", 0x18, "- w3 h3 h3 + h2 h1 l0 - l0 + hFFFF"},
		{"mode 4, new count", 0x18, "+ w3 h3 h2 w2 h2 h1 l0 hFFFF"},
		{"mode 4, new count in the strobe", 0x18, "+ w1 h1 l0 w2 h2 h1 l0"},
		{"mode 4, two bytes", 0x38, "+ w2 w0 h2 w4 h1 w0 h4 h3 h2 h1 l0"},
		{"mode 5", 0x1A, "- H w3 h0 + h3 h2 h1 l0 hFFFF - + h3 h2"},
		{"mode 5, trigger again", 0x1A, "- w3 + h3 h2 - + h3 h2 h1 l0"},
		{"mode 5, new count", 0x1A, "- w2 + h2 w5 h1 l0 hFFFF - + h5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c counter
			c.program(tt.control)
			for i, word := range strings.Fields(tt.script) {
				n, _ := strconv.ParseUint(word[1:], 16, 16)
				where := fmt.Sprintf("word %d, %q", i, word)
				switch word[0] {
				case 'w':
					c.write(uint8(n))
				case '+', '-':
					c.setGate(word == "+")
				case 'h', 'l':
					c.advance(1)
					if c.value() != uint16(n) {
						t.Fatalf("%s: CE is %X, want %X", where, c.value(), n)
					}
					fallthrough
				default:
					if want := word[0]&^0x20 == 'H'; c.out != want {
						t.Fatalf("%s: OUT high is %t, want %t", where, c.out, want)
					}
				}
			}
		})
	}
}

// TestCounterJumps: advancing by many clocks is the same as many single ones, and
// untilRise names the first of them that raises OUT.
func TestCounterJumps(t *testing.T) {
	for control := uint8(0x10); control < 0x20; control++ {
		for _, count := range []uint8{1, 2, 3, 4, 5, 9} {
			for _, second := range []uint8{0, 1, 2, 3, 6, 7} { // a new count, 0 for none
				for jump := uint64(1); jump < 32; jump++ {
					name := fmt.Sprintf("control %#x, count %d, then %d, jump %d", control, count, second, jump)
					var c counter
					c.program(control)
					c.write(count)
					c.setGate(true)
					c.advance(2)
					if second != 0 {
						c.write(second)
					}
					single, rise := c, uint64(0)
					for n := uint64(1); n <= jump; n++ {
						before := single.out
						single.advance(1)
						if rise == 0 && single.out && !before {
							rise = n
						}
					}
					got, ok := c.untilRise()
					if rise != 0 && (!ok || got != rise) || rise == 0 && ok && got <= jump {
						t.Fatalf("%s: untilRise is %d, %t; OUT rose after %d", name, got, ok, rise)
					}
					c.advance(jump)
					if c != single {
						t.Fatalf("%s:\n%+v in one jump, want\n%+v", name, c, single)
					}
				}
			}
		}
	}
}

// TestCounterFarJumps: whole cycles leave no trace.
func TestCounterFarJumps(t *testing.T) {
	for control := uint8(0x30); control < 0x40; control++ {
		for _, count := range []uint16{0, 2, 3, 0x1000, 0x9999} {
			var c counter
			c.program(control)
			c.write(uint8(count))
			c.write(uint8(count >> 8))
			c.setGate(true)
			c.advance(1 << 20)
			far := c
			far.advance(uint64(max(c.reload, 1)) * uint64(c.modulus()) * 1e9)
			if far != c {
				t.Errorf("control %#x, count %#x:\n%+v after many cycles, want\n%+v", control, count, far, c)
			}
		}
	}
}

// pitBench is a timer with its interrupt line.
type pitBench struct {
	*pit
	irq irqTrace
}

// pitStart is some time at which a test may start (2026-11-20).
const pitStart vmm.Time = 1_795_132_800_123_456_789

// newPITBench stops counter 0, with its output high.
func newPITBench() *pitBench {
	b := &pitBench{}
	b.pit = newPIT(b.irq.ticks)
	b.setTime(pitStart)
	b.pit.out(0x43, 0x34)
	b.irq = irqTrace{}
	return b
}

// clocks lets guest time pass.
func (b *pitBench) clocks(n uint64) { b.setTime(timeOf(clocksAt(b.now) + n)) }

// rate programs a counter with both bytes of a count.
func (b *pitBench) program(control uint8, count uint16) {
	b.pit.out(0x43, control)
	b.pit.out(0x40+uint16(control>>6), uint8(count))
	b.pit.out(0x40+uint16(control>>6), uint8(count>>8))
}

func (b *pitBench) wantRises(t *testing.T, what string, want int) {
	t.Helper()
	if b.irq.rises != want {
		t.Fatalf("%s: IRQ 0 rose %d times, want %d", what, b.irq.rises, want)
	}
}

// TestPITClock checks the conversions against big integers.
func TestPITClock(t *testing.T) {
	ns := big.NewInt(1e9)
	hz := big.NewInt(pitHz)
	for _, at := range []uint64{0, 1, 838, 839, 999_999_999, 1e9, uint64(pitStart), 1<<63 - 1, 1<<64 - 1} {
		want := new(big.Int).SetUint64(at)
		want.Div(want.Mul(want, hz), ns)
		n := clocksAt(vmm.Time(at))
		if want.Cmp(new(big.Int).SetUint64(n)) != 0 {
			t.Errorf("clocksAt(%d) = %d, want %d", at, n, want)
		}
		for _, n := range []uint64{n, n + 1, n + 65536} {
			first := timeOf(n)
			if first == never {
				continue
			}
			if clocksAt(first) != n || first > 0 && clocksAt(first-1) != n-1 {
				t.Errorf("timeOf(%d) = %d is not the first time of that clock", n, first)
			}
		}
	}
	if got := timeOf(1 << 62); got != never {
		t.Errorf("timeOf(2^62) = %d, want never", got)
	}
}

// TestPITAtPowerOn: counters 0 and 1 count as firmware leaves them. Linux reads counter 0 for
// randomness before it programs it, for as long as the status byte says "null count".
func TestPITAtPowerOn(t *testing.T) {
	var irq irqTrace
	p := newPIT(irq.ticks)
	p.setTime(pitStart)
	before := irq.rises
	var counts [3]uint16
	for i := range counts {
		p.out(0x43, 0xC2) // read back status and count of counter 0
		if status := p.in(0x40); status&0x7F != 0x36 {
			t.Fatalf("status %#x, want a loaded count in mode 3", status)
		}
		counts[i] = uint16(p.in(0x40)) | uint16(p.in(0x40))<<8
		p.setTime(pitStart + vmm.Time(i+1)*1000)
	}
	if counts[0] == counts[1] || counts[1] == counts[2] {
		t.Errorf("counter 0 stands still: %v", counts)
	}
	for s := p.now; s < pitStart+nsHz; s += nsHz / 1000 {
		p.setTime(s)
	}
	if n := irq.rises - before; n != 18 && n != 19 {
		t.Errorf("%d ticks in a second, want 18.2", n)
	}
	if p.counter[1].null || p.counter[1].reload != pitRefresh {
		t.Error("counter 1 does not count for the refresh")
	}
}

// TestPITTicks: HZ=250 ticks as Linux programs them (mode 2, count 4773) come when deadline
// says, to the nanosecond.
func TestPITTicks(t *testing.T) {
	b := newPITBench()
	if at, ok := b.deadline(); ok {
		t.Fatalf("deadline %d before anything is programmed", at)
	}
	b.program(0x34, 4773)
	start := clocksAt(pitStart)
	for i := uint64(1); i <= 1000; i++ {
		at, ok := b.deadline()
		// One clock loads the count.
		if want := timeOf(start + 1 + i*4773); !ok || at != want {
			t.Fatalf("tick %d: deadline %d, %t; want %d", i, at, ok, want)
		}
		b.setTime(at - 1)
		b.wantRises(t, "1 ns before the deadline", int(i-1))
		b.setTime(at)
		b.wantRises(t, "at the deadline", int(i))
		b.setTime(at)
		b.wantRises(t, "at the same time again", int(i))
	}
}

// TestPITJump: a jump over many periods loses no tick, up to a limit, and the phase is kept.
func TestPITJump(t *testing.T) {
	b := newPITBench()
	b.program(0x36, 1000)
	b.clocks(1 + 250*1000 + 1)
	b.wantRises(t, "after 250 periods", 250)
	b.clocks(998)
	b.wantRises(t, "one clock before the period ends", 250)
	b.clocks(1)
	b.wantRises(t, "at the end of the period", 251)
	b.clocks(1000 * 1000 * pitOwed)
	b.wantRises(t, "long after", 251+pitOwed)
}

// TestPITOneShot is Linux's one-shot clock event: mode 4, re-armed at each interrupt; and its
// shut-down by mode 0.
func TestPITOneShot(t *testing.T) {
	b := newPITBench()
	b.program(0x38, 100)
	b.clocks(101)
	b.wantRises(t, "in the strobe", 0)
	b.clocks(1)
	b.wantRises(t, "after the strobe", 1)
	b.clocks(1 << 20)
	b.wantRises(t, "once only", 1)
	if at, ok := b.deadline(); ok {
		t.Fatalf("deadline %d after the one shot", at)
	}
	b.pit.out(0x40, 50)
	b.pit.out(0x40, 0)
	b.clocks(52)
	b.wantRises(t, "armed again", 2)

	b.pit.out(0x43, 0x30)
	if at, ok := b.deadline(); ok {
		t.Fatalf("deadline %d after a control word alone", at)
	}
	b.program(0x30, 0)
	b.clocks(65536)
	b.wantRises(t, "mode 0, one clock early", 2)
	b.clocks(1)
	b.wantRises(t, "mode 0, terminal count", 3)
}

// TestPITControlWordEdge: OUT goes to its initial level at once, and that edge counts.
func TestPITControlWordEdge(t *testing.T) {
	b := newPITBench()
	b.program(0x34, 100)
	b.wantRises(t, "OUT was high before", 0)
	b.pit.out(0x43, 0x30)
	b.pit.out(0x43, 0x34)
	b.wantRises(t, "from mode 0, low, to mode 2, high", 1)
}

func TestPITLatch(t *testing.T) {
	b := newPITBench()
	b.program(0x34, 0x1234)
	b.clocks(1 + 4)
	b.pit.out(0x43, 0x00)
	b.clocks(0x30)
	b.pit.out(0x43, 0x00)
	wantPort(t, "latched LSB", b.in(0x40), 0x30)
	b.clocks(1)
	wantPort(t, "latched MSB", b.in(0x40), 0x12)
	wantPort(t, "LSB as it is", b.in(0x40), 0xFF)
	wantPort(t, "MSB as it is", b.in(0x40), 0x11)
	b.in(0x40)
	b.pit.out(0x43, 0x00)
	wantPort(t, "a latch starts with the LSB", b.in(0x40), 0xFF)
	wantPort(t, "control port", b.in(0x43), 0xFF)

	b.pit.out(0x43, 0xA5) // counter 2, MSB only, mode 2, BCD
	b.pit.out(0x42, 0x20)
	b.clocks(1)
	wantPort(t, "MSB only", b.in(0x42), 0x20)
	wantPort(t, "MSB only", b.in(0x42), 0x20)
}

func TestPITReadBack(t *testing.T) {
	b := newPITBench()
	b.pit.out(0x43, 0x34)
	b.pit.out(0x43, 0xE2) // status of counter 0
	wantPort(t, "no count yet", b.in(0x40), 0x80|0x40|0x34)
	b.pit.out(0x40, 3)
	b.pit.out(0x40, 0)
	b.pit.out(0x43, 0xE2)
	wantPort(t, "not loaded yet", b.in(0x40), 0x80|0x40|0x34)
	b.clocks(1)
	b.pit.out(0x43, 0xE2)
	b.clocks(2)
	b.pit.out(0x43, 0xE2)
	wantPort(t, "loaded; a second latch does not count", b.in(0x40), 0x80|0x34)
	b.pit.out(0x43, 0xE2)
	wantPort(t, "OUT low", b.in(0x40), 0x34)
	b.pit.out(0x40, 9)
	b.pit.out(0x40, 0)
	b.pit.out(0x43, 0xE2)
	wantPort(t, "the new count waits", b.in(0x40), 0x40|0x34)
	b.clocks(1)
	b.pit.out(0x43, 0xC2) // status and count of counter 0
	b.clocks(1)
	wantPort(t, "status first", b.in(0x40), 0x80|0x34)
	wantPort(t, "then the count", b.in(0x40), 9)
	wantPort(t, "then the count", b.in(0x40), 0)
	wantPort(t, "then the count as it is", b.in(0x40), 8)

	b.program(0x7F, 0x0042) // counter 1, mode 7, BCD
	b.clocks(1)
	b.pit.out(0x43, 0xEE) // status of all
	wantPort(t, "status of counter 1, mode as it was written", b.in(0x41), 0x80|0x3F)
	wantPort(t, "status of counter 2", b.in(0x42), 0x80|0x40|0x36)
	b.pit.out(0x43, 0xD4) // count of counter 1
	wantPort(t, "count of counter 1", b.in(0x41), 0x42)
}

func TestPITPortB(t *testing.T) {
	b := newPITBench()
	b.pit.out(0x61, 0xFF)
	wantPort(t, "what can be written", b.in(0x61)&^uint8(portBRefresh|portBOut2), 0x0F)
	changes := 0
	for i, last := 0, b.in(0x61); i < 18*100; i++ {
		b.clocks(1)
		if v := b.in(0x61); (v^last)&portBRefresh != 0 {
			changes, last = changes+1, v
		}
	}
	if changes != 100 {
		t.Errorf("the refresh bit changed %d times in 100 refreshes", changes)
	}
}

// TestPITCalibration is what Linux does to measure the TSC: 50 ms in mode 0 on counter 2, with
// a loop on bit 5 of port 0x61 (pit_calibrate_tsc); and reads of the counter's MSB
// (quick_pit_calibrate).
func TestPITCalibration(t *testing.T) {
	b := newPITBench()
	const latch = pitHz / (1000 / 50)
	b.pit.out(0x61, b.in(0x61)&^0x02|0x01)
	b.pit.out(0x43, 0xB0)
	b.pit.out(0x42, latch&0xFF)
	b.pit.out(0x42, latch>>8)
	start := b.now
	for b.in(0x61)&0x20 == 0 {
		b.setTime(b.now + 1000)
		if b.now > start+60_000_000 {
			t.Fatal("OUT2 does not rise")
		}
	}
	if got := b.now - start; got < 49_999_000 || got > 50_002_000 {
		t.Errorf("50 ms lasted %d ns", got)
	}

	b.pit.out(0x43, 0xB0)
	b.pit.out(0x42, 0xFF)
	b.pit.out(0x42, 0xFF)
	b.clocks(1)
	b.in(0x42)
	for want := uint8(0xFF); want > 0xF0; want-- {
		wantPort(t, "MSB", b.in(0x42), want)
		b.clocks(256)
		b.in(0x42)
	}
	b.wantRises(t, "counter 2 is not on IRQ 0", 0)
}

// TestPITSteps: how guest time is cut into steps leaves no trace in the state.
func TestPITSteps(t *testing.T) {
	one, many := newPITBench(), newPITBench()
	for _, b := range []*pitBench{one, many} {
		b.program(0x36, 777)
		b.program(0x74, 18)
		b.pit.out(0x61, 1)
		b.program(0xB6, 1001)
		b.program(0xB6, 2002)
	}
	for i := 0; i < 5000; i++ {
		many.setTime(many.now + vmm.Time(i*7))
	}
	one.setTime(many.now)
	if got, want := saveState(t, many.pit), saveState(t, one.pit); !bytes.Equal(got, want) {
		t.Errorf("state after many steps\n%x\nafter one\n%x", got, want)
	}
}

// TestPITRestoreIsSilent: restoring needs no callback, and the next edge comes in time.
func TestPITRestoreIsSilent(t *testing.T) {
	b := newPITBench()
	b.program(0x34, 5000)
	b.clocks(2000)
	c := newPITBench()
	if err := loadState(c.pit, saveState(t, b.pit)); err != nil {
		t.Fatal(err)
	}
	if c.irq != (irqTrace{}) {
		t.Errorf("restoring drove IRQ 0: %+v", c.irq)
	}
	want, _ := b.deadline()
	if got, ok := c.deadline(); !ok || got != want {
		t.Errorf("deadline %d, %t after restoring, want %d", got, ok, want)
	}
	c.setTime(want)
	c.wantRises(t, "at the deadline", 1)
}

// TestCounterRises counts clock by clock.
func TestCounterRises(t *testing.T) {
	for control := uint8(0x30); control < 0x3C; control += 2 {
		for _, count := range []uint8{1, 2, 3, 8} {
			for begun := range uint64(20) {
				var c counter
				c.program(control)
				c.write(count)
				c.write(0)
				c.setGate(true)
				c.advance(begun)
				if begun > 10 {
					c.write(5) // a new count, which modes 2 and 3 take at the end of the cycle
					c.write(0)
				}
				want := uint64(0)
				for n := range uint64(60) {
					if got := c.rises(n); got != want {
						t.Fatalf("control %#x, count %d, after %d clocks: OUT rises %d times within %d clocks, want %d", control, count, begun, got, n, want)
					}
					next := c
					next.advance(n)
					low := !next.out
					if next.advance(1); low && next.out {
						want++
					}
				}
			}
		}
	}
}

func TestPITRejectsState(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(c *counter)
	}{
		{"control", func(c *counter) { c.control |= 0x40 }},
		{"no read/write mode", func(c *counter) { c.control &= 0x0F }},
		{"count over BCD", func(c *counter) { c.control |= 1; c.reload = 10001 }},
		{"CE over the modulus", func(c *counter) { c.left = 65537 }},
		{"load of nothing", func(c *counter) { c.load, c.reload = true, 0 }},
		{"cycle of nothing", func(c *counter) { c.count = 0 }},
		{"end of the cycle", func(c *counter) { c.left = 0 }},
		{"end of the count", func(c *counter) { c.control, c.armed, c.left = 0x30, true, 0 }},
	} {
		b := newPITBench()
		b.program(0x34, 100)
		b.clocks(10)
		b.in(0x40)
		tt.spoil(&b.counter[0])
		saver := vmm.NewSaver(nil)
		b.counter[0].state(saver)
		loader := vmm.NewLoader(saver.Data())
		var c counter
		c.state(loader)
		if loader.Finish() == nil {
			t.Errorf("%s: restored, want an error", tt.name)
		}
	}
}

func BenchmarkPITSetTimeIdle(b *testing.B) {
	p := newPIT(func(uint64) uint64 { return 0 })
	p.out(0x43, 0x34)
	p.out(0x40, 0)
	p.out(0x40, 0)
	for b.Loop() {
		p.setTime(0)
	}
}

func FuzzPIT(f *testing.F) {
	ports := [...]uint16{0x40, 0x41, 0x42, 0x43, 0x61}
	fuzzDevice(f, func() specimen {
		p := newPITBench()
		return specimen{p.pit, &p.irq, func(op, x, y uint8) (v uint64) {
			switch port := ports[int(x)%len(ports)]; op % 3 {
			case 0:
				v = uint64(p.in(port))
			case 1:
				p.pit.out(port, y)
			case 2:
				now := p.now
				p.setTime(guestClock(&now, x, y))
			}
			at, ok := p.deadline()
			if ok && at <= p.now {
				panic("deadline is not after now")
			}
			return v<<56 ^ p.irq.seen()<<48 ^ uint64(at)
		}}
	},
		"",
		"\x01\x03\x34\x01\x00\x10\x01\x00\x00\x02\x0a\x20\x00\x00\x00\x01\x03\xc2\x00\x00\x00\x02\x10\x80\x00\x00\x00",
		"\x01\x04\x01\x01\x03\xb6\x01\x02\x07\x01\x02\x00\x02\x0a\x05\x00\x02\x00\x00\x04\x00\x01\x04\x00\x02\x09\x09\x01\x04\x01",
		"\x01\x03\x31\x01\x00\x99\x01\x00\x99\x02\x14\x05\x01\x00\x10\x02\x0b\x07\x01\x00\x00\x02\x20\xff\x01\x03\x38\x01\x00\x02\x01\x00\x00\x02\x0c\x01",
		"\x01\x04\x00\x01\x03\x92\x01\x02\x05\x01\x04\x01\x02\x0b\x02\x00\x04\x00\x01\x04\x00\x01\x03\x9a\x01\x02\x03\x01\x04\x01\x02\x0b\x02\x00\x02\x00",
	)
}
