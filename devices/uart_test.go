package devices

import (
	"bytes"
	"strings"
	"testing"
)

// uartBench is a UART with its interrupt line.
type uartBench struct {
	*uart
	irq irqTrace
}

func newUARTBench() *uartBench {
	b := &uartBench{}
	b.uart = newUART(b.irq.set)
	return b
}

// enableFIFO programs FCR as Linux does for a 16550A: trigger level 8.
func (b *uartBench) enableFIFO() { b.out(2, 0x81) }

func (b *uartBench) host(t *testing.T, s string) {
	t.Helper()
	if err := b.receive([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func (b *uartBench) wantIIR(t *testing.T, what string, want uint8) {
	t.Helper()
	if level := want&1 == 0; b.irq.level != level {
		t.Fatalf("%s: interrupt output is %t, want %t", what, b.irq.level, level)
	}
	wantPort(t, what+": IIR", b.in(2), want)
}

// drain reads what has been received as an interrupt handler does, until DR is clear.
func (b *uartBench) drain() string {
	var s []byte
	for b.in(5)&0x01 != 0 {
		s = append(s, b.in(0))
	}
	return string(s)
}

// TestUARTReset checks the registers after a reset (datasheet, reset configuration).
func TestUARTReset(t *testing.T) {
	b := newUARTBench()
	for reg, want := range []uint8{0x00, 0x00, 0x01, 0x00, 0x00, 0x60, 0xB0, 0x00} {
		wantPort(t, string(rune('0'+reg)), b.in(uint8(reg)), want)
	}
}

// TestUARTAutoconfig is what Linux's 8250 driver does to find out what a UART is
// (autoconfig, autoconfig_16550a, size_fifo): it must find a 16550A with 16 bytes and none
// of the extensions that it knows.
func TestUARTAutoconfig(t *testing.T) {
	b := newUARTBench()
	b.out(1, 0x00)
	wantPort(t, "IER cleared", b.in(1)&0x0F, 0x00)
	b.out(1, 0x0F)
	wantPort(t, "IER set", b.in(1)&0x0F, 0x0F)
	b.out(1, 0x00)

	b.out(4, 0x10|0x08|0x02)
	wantPort(t, "MSR in loopback", b.in(6)&0xF0, 0x90)
	b.out(4, 0x00)

	b.out(3, 0xBF)
	b.out(2, 0x00)
	b.out(3, 0x00)
	b.out(2, 0x01)
	wantPort(t, "IIR bits 6 and 7: a 16550A", b.in(2)>>6, 3)

	b.out(3, 0x80)
	if b.in(2) == 0 {
		t.Error("EFR with DLAB reads 0: taken for a 16C650")
	}
	b.out(3, 0xBF)
	if b.in(2) == 0 {
		t.Error("EFR with LCR 0xBF reads 0: taken for a 16C650V2")
	}

	b.out(3, 0x00)
	mcr := b.in(4)
	b.out(3, 0xE0)
	if excr := b.in(2); (excr^mcr)&0x10 == 0 {
		b.out(3, 0x00)
		b.out(4, mcr^0x10)
		b.out(3, 0xE0)
		excr = b.in(2)
		b.out(3, 0x00)
		b.out(4, mcr)
		if (excr^mcr)&0x10 != 0 {
			t.Error("register 2 shows MCR: taken for a National SuperI/O")
		}
	}

	b.out(3, 0x00)
	b.out(2, 0x21)
	wantPort(t, "IIR bits 5 to 7: no 64 byte FIFO", b.in(2)>>5, 6)
	b.out(2, 0x01)
	b.out(3, 0x80)
	b.out(2, 0x21)
	wantPort(t, "the same with DLAB", b.in(2)>>5, 6)
	b.out(2, 0x01)
	b.out(3, 0x00)

	b.out(1, 0x40)
	wantPort(t, "IER bit 6: no XScale", b.in(1), 0x00)

	b.out(2, 0x07)
	b.out(4, 0x10)
	b.out(3, 0x80)
	b.out(0, 0x01)
	b.out(1, 0x00)
	b.out(3, 0x03)
	for i := 0; i < 256; i++ {
		b.out(0, uint8(i))
	}
	count := 0
	for ; b.in(5)&0x01 != 0 && count < 256; count++ {
		wantPort(t, "looped back", b.in(0), uint8(count))
	}
	if count != 16 {
		t.Errorf("the FIFO holds %d bytes, want 16", count)
	}
	if b.sent() != 0 {
		t.Errorf("%d bytes left in loopback", b.sent())
	}
}

// TestUARTEmptyInterrupt: what Linux's drivers rely on to transmit.
func TestUARTEmptyInterrupt(t *testing.T) {
	b := newUARTBench()
	b.wantIIR(t, "reset", 0x01)
	b.out(1, 0x02)
	b.wantIIR(t, "enabled while empty", 0x02)
	b.wantIIR(t, "IIR was read", 0x01)
	b.out(1, 0x00)
	b.out(1, 0x02)
	b.wantIIR(t, "enabled again (the driver's THRE test)", 0x02)
	b.out(1, 0x02)
	b.wantIIR(t, "enabled already", 0x01)
	b.out(0, 'a')
	b.wantIIR(t, "a byte was sent", 0x02)
	b.out(0, 'b')
	rises := b.irq.rises
	b.out(0, 'c')
	if b.irq.rises != rises+1 {
		t.Error("no new edge for a byte sent while the interrupt is pending")
	}
	b.out(1, 0x00)
	if b.irq.level {
		t.Error("the interrupt output is high with all interrupts disabled")
	}
	if got := string(b.take([]byte(">"))); got != ">abc" || b.sent() != 3 {
		t.Errorf("took %q of %d bytes, want \">abc\" of 3", got, b.sent())
	}
	b.out(0, 'd')
	if got := string(b.take(nil)); got != "d" || b.sent() != 4 {
		t.Errorf("took %q of %d bytes, want \"d\" of 4", got, b.sent())
	}
}

func TestUARTReceive(t *testing.T) {
	b := newUARTBench()
	b.out(1, 0x01)
	b.host(t, "xy")
	b.wantIIR(t, "without FIFO each byte interrupts", 0x04)
	wantPort(t, "first byte", b.in(0), 'x')
	b.wantIIR(t, "next byte", 0x04)
	wantPort(t, "second byte", b.in(0), 'y')
	b.wantIIR(t, "all read", 0x01)
	wantPort(t, "nothing there", b.in(0), 0)

	b.enableFIFO()
	b.host(t, "1234567")
	b.wantIIR(t, "below the trigger level", 0xCC)
	b.host(t, "8")
	b.wantIIR(t, "at the trigger level", 0xC4)
	wantPort(t, "first byte", b.in(0), '1')
	b.wantIIR(t, "below the trigger level", 0xCC)
	if got := b.drain(); got != "2345678" {
		t.Errorf("received %q, want \"2345678\"", got)
	}
	b.wantIIR(t, "all read", 0xC1)
}

// TestUARTTriggers checks the levels of FCR bits 7 and 6.
func TestUARTTriggers(t *testing.T) {
	for i, level := range []int{1, 4, 8, 14} {
		b := newUARTBench()
		b.out(1, 0x01)
		b.out(2, uint8(i<<6|1))
		for n := 1; n <= 16; n++ {
			b.host(t, ".")
			want := uint8(0xCC)
			if n >= level {
				want = 0xC4
			}
			b.wantIIR(t, strings.Repeat(".", n), want)
		}
	}
}

// TestUARTPriorities raises all interrupts and serves one after the other (datasheet, interrupt control functions).
func TestUARTPriorities(t *testing.T) {
	b := newUARTBench()
	b.enableFIFO()
	b.out(4, 0x10)
	for i := 0; i < 17; i++ {
		b.out(0, 'o')
	}
	b.out(4, 0x12)
	b.out(1, 0x0F)
	b.wantIIR(t, "overrun", 0xC6)
	wantPort(t, "LSR", b.in(5), 0x63)
	wantPort(t, "LSR, overrun was read", b.in(5), 0x61)
	b.wantIIR(t, "received", 0xC4)
	for i := 0; i < 9; i++ {
		b.in(0)
	}
	b.wantIIR(t, "time-out", 0xCC)
	b.drain()
	b.wantIIR(t, "empty", 0xC2)
	b.wantIIR(t, "modem", 0xC0)
	wantPort(t, "MSR", b.in(6), 0x1B)
	b.wantIIR(t, "none", 0xC1)
}

func TestUARTModem(t *testing.T) {
	b := newUARTBench()
	wantPort(t, "the terminal is ready", b.in(6), 0xB0)
	b.out(4, 0x1F)
	wantPort(t, "loopback: RI rose, which is no event", b.in(6), 0xF0)
	b.out(4, 0x10)
	wantPort(t, "all fell", b.in(6), 0x0F)
	wantPort(t, "reading clears the events", b.in(6), 0x00)
	for _, wire := range []struct{ mcr, msr uint8 }{{0x01, 0x22}, {0x02, 0x11}, {0x04, 0x40}, {0x08, 0x88}} {
		b.out(4, 0x10|wire.mcr)
		wantPort(t, "one wire", b.in(6), wire.msr)
		b.out(4, 0x10)
		b.in(6)
	}
	b.out(4, 0xFF)
	wantPort(t, "MCR has five bits", b.in(4), 0x1F)
}

// TestUARTLoopbackOverrun: without FIFO the new byte wins, with FIFO the old ones.
func TestUARTLoopbackOverrun(t *testing.T) {
	b := newUARTBench()
	b.host(t, "host")
	b.in(0)
	b.out(4, 0x10)
	wantPort(t, "what has arrived stays", b.in(0), 'o')
	b.out(0, '1')
	b.out(0, '2')
	wantPort(t, "LSR", b.in(5), 0x63)
	wantPort(t, "RBR", b.in(0), '2')
	wantPort(t, "nothing from the host in loopback", b.in(5), 0x60)
	b.out(4, 0x00)
	if got := b.drain(); got != "st" {
		t.Errorf("received %q after loopback, want \"st\"", got)
	}
}

// TestUARTBacklog: input beyond the FIFO is kept up to 64 KiB, and refused whole beyond.
func TestUARTBacklog(t *testing.T) {
	b := newUARTBench()
	b.enableFIFO()
	b.host(t, strings.Repeat("f", 16))
	text := strings.Repeat("0123456789abcdef", 64<<10/16)
	b.host(t, text)
	before := saveState(t, b)
	if err := b.receive([]byte("x")); err == nil {
		t.Fatal("a byte beyond 64 KiB was taken")
	}
	if !bytes.Equal(saveState(t, b), before) {
		t.Error("refused input changed something")
	}
	wantPort(t, "first byte", b.in(0), 'f')
	b.host(t, "x")
	if got, want := b.drain(), strings.Repeat("f", 15)+text+"x"; got != want {
		t.Errorf("received %d bytes that are not the %d sent", len(got), len(want))
	}
}

// TestUARTClearFIFO: only what is in the FIFO is lost.
func TestUARTClearFIFO(t *testing.T) {
	b := newUARTBench()
	b.enableFIFO()
	b.host(t, "0123456789abcdefrest")
	b.out(2, 0x02)
	wantPort(t, "disabling the FIFO clears it", b.in(0), 'r')
	wantPort(t, "IIR shows no FIFO", b.in(2), 0x01)
	b.enableFIFO()
	if got := b.drain(); got != "st" {
		t.Errorf("received %q, want \"st\": enabling the FIFO drops RBR", got)
	}
	b.host(t, "0123456789abcdefrest")
	b.out(2, 0x03)
	if got := b.drain(); got != "rest" {
		t.Errorf("received %q after clearing, want \"rest\"", got)
	}
}

func TestUARTDivisorAndScratch(t *testing.T) {
	b := newUARTBench()
	b.out(3, 0x83)
	wantPort(t, "DLL: Linux divides by it", b.in(0), 1)
	b.out(0, 0x0C)
	b.out(1, 0x34)
	b.out(7, 0x5A)
	b.out(5, 0xFF)
	b.out(6, 0xFF)
	wantPort(t, "DLL", b.in(0), 0x0C)
	wantPort(t, "DLM", b.in(1), 0x34)
	b.out(3, 0x03)
	wantPort(t, "LCR", b.in(3), 0x03)
	wantPort(t, "IER", b.in(1), 0)
	wantPort(t, "SCR", b.in(7), 0x5A)
	wantPort(t, "LSR is read only", b.in(5), 0x60)
	wantPort(t, "MSR is read only", b.in(6), 0xB0)
	if b.sent() != 0 {
		t.Errorf("%d bytes sent by writing the divisor", b.sent())
	}
}

// TestUARTStateWithoutOutput: taking output leaves no trace but the count.
func TestUARTStateWithoutOutput(t *testing.T) {
	b := newUARTBench()
	b.out(0, 'a')
	before := saveState(t, b)
	b.take(nil)
	if !bytes.Equal(saveState(t, b), before) {
		t.Error("taking output changed the state")
	}
	c := newUARTBench()
	c.out(0, 'x')
	if err := loadState(c, before); err != nil {
		t.Fatal(err)
	}
	if got := c.take(nil); len(got) != 0 || c.sent() != 1 {
		t.Errorf("restored with %q to take, %d sent; want nothing, 1", got, c.sent())
	}
}

func TestUARTRejectsState(t *testing.T) {
	for _, bad := range []*uart{
		{ier: 0x10}, {mcr: 0x20}, {deltas: 0x10}, {fifo: []byte("ab")}, {fcr: 1, fifo: make([]byte, 17)},
		{backlog: make([]byte, uartBacklog+1)},
	} {
		if err := loadState(newUARTBench(), saveState(t, bad)); err == nil {
			t.Errorf("IER %#x, MCR %#x, deltas %#x, FIFO %d: restored, want an error", bad.ier, bad.mcr, bad.deltas, len(bad.fifo))
		}
	}
}

func FuzzUART(f *testing.F) {
	fuzzDevice(f, func() specimen {
		b := newUARTBench()
		return specimen{b, &b.irq, func(op, x, y uint8) (v uint64) {
			switch op % 4 {
			case 0:
				v = uint64(b.in(x))
			case 1:
				b.out(x, y)
			case 2:
				if b.receive(bytes.Repeat([]byte{x}, int(y)*16)) != nil {
					v = 1
				}
			case 3: // not what was taken: that a restored UART has no more
				b.take(nil)
			}
			return v<<56 ^ b.irq.seen()<<48 ^ b.sent()
		}}
	},
		"",
		"\x01\x01\x0f\x01\x02\x81\x02\x41\x02\x00\x02\x00\x00\x00\x00\x00\x05\x00\x01\x00\x42\x00\x02\x00\x03\x00\x00",
		"\x01\x04\x10\x01\x00\x01\x01\x00\x02\x00\x05\x00\x01\x04\x0f\x00\x06\x00\x01\x02\x01\x01\x01\x0c",
		"\x02\x61\xff\x02\x62\xff\x01\x02\x01\x01\x02\x00\x00\x00\x00\x01\x03\x80\x01\x00\x07\x00\x00\x00",
	)
}
