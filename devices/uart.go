package devices

import (
	"fmt"

	"ftvm/vmm"
)

// Registers (National PC16550D datasheet, summary of registers): the name is that of the one
// for reading, with DLAB = 0, where several share an address.
const (
	uartRBR = 0 // THR on writing; DLL with DLAB = 1
	uartIER = 1 // DLM with DLAB = 1
	uartIIR = 2 // FCR on writing
	uartLCR = 3
	uartMCR = 4
	uartLSR = 5
	uartMSR = 6
	uartSCR = 7
)

// Bits of the registers.
const (
	ierReceived   = 1 << 0 // ERBFI
	ierEmpty      = 1 << 1 // ETBEI
	ierLineStatus = 1 << 2 // ELSI
	ierModem      = 1 << 3 // EDSSI

	iirNone       = 0x01
	iirModem      = 0x00
	iirEmpty      = 0x02
	iirReceived   = 0x04
	iirLineStatus = 0x06
	iirTimeout    = 0x0C
	iirFIFO       = 0xC0

	fcrEnable       = 1 << 0
	fcrResetRx      = 1 << 1
	fcrTriggerShift = 6

	lcrDLAB = 1 << 7

	mcrDTR  = 1 << 0
	mcrRTS  = 1 << 1
	mcrOut1 = 1 << 2
	mcrOut2 = 1 << 3
	mcrLoop = 1 << 4

	lsrReady   = 1 << 0 // DR
	lsrOverrun = 1 << 1 // OE
	lsrEmpty   = 1 << 5 // THRE
	lsrIdle    = 1 << 6 // TEMT

	msrDeltaShift = 4 // a delta is this far below its line
	msrRI         = 1 << 6
	msrTERI       = 1 << 2
	msrCTS        = 1 << 4
	msrDSR        = 1 << 5
	msrDCD        = 1 << 7
)

const (
	uartFIFO    = 16
	uartBacklog = 64 << 10 // bytes
)

// uartTriggers are the receiver FIFO's trigger levels by FCR bits 7 and 6.
var uartTriggers = [4]int{1, 4, 8, 14}

// uart is a 16550A whose other end is a terminal that is always ready.
//
// The line takes no time: a byte written is sent at once, so the transmitter is always
// empty, and what the host sends waits in a backlog and enters the FIFO as soon as
// there is room, so there is no overrun but in loopback. A FIFO with fewer bytes than its
// trigger level is timed out at once. Parity, framing and break do not occur, and
// the interrupt output is not gated by OUT2: guests written for QEMU do not all set it.
type uart struct {
	irq func(level bool)

	ier, lcr, mcr, scr uint8
	fcr                uint8 // enable and trigger bits
	divisor            [2]uint8
	deltas             uint8 // MSR bits 0 to 3
	overrun            bool
	empty              bool // the THRE interrupt is pending

	fifo    []byte // the receiver's FIFO, or RBR alone
	backlog []byte // sent by the host, not yet received

	transmitted []byte // not taken yet
	total       uint64 // bytes ever transmitted
}

// newUART returns a UART at 115200 baud. irq sets the level of its interrupt output.
func newUART(irq func(level bool)) *uart { return &uart{irq: irq, divisor: [2]uint8{1, 0}} }

// receive takes bytes from the host. It fails, and takes none, if more than 64 KiB would
// wait outside the FIFO.
func (u *uart) receive(p []byte) error {
	if n := len(u.backlog); len(p) > uartBacklog-n {
		return fmt.Errorf("uart: %d bytes of input, but %d of %d that may wait are waiting: send no more until the guest reads", len(p), n, uartBacklog)
	}
	u.backlog = append(u.backlog, p...)
	u.update()
	return nil
}

// room is how many bytes of input are missing to a full FIFO.
func (u *uart) room() int { return max(0, uartFIFO-len(u.fifo)-len(u.backlog)) }

// take appends to dst the bytes transmitted since the last call.
func (u *uart) take(dst []byte) []byte {
	dst = append(dst, u.transmitted...)
	u.transmitted = u.transmitted[:0]
	return dst
}

// sent is the number of bytes ever transmitted, taken or not.
func (u *uart) sent() uint64 { return u.total }

// depth is how many bytes the receiver holds.
func (u *uart) depth() int {
	if u.fcr&fcrEnable != 0 {
		return uartFIFO
	}
	return 1
}

// update moves input into the FIFO, from which loopback cuts it off, and sets the
// interrupt output. It follows every change.
func (u *uart) update() {
	if room := u.depth() - len(u.fifo); room > 0 && u.mcr&mcrLoop == 0 {
		n := min(room, len(u.backlog))
		u.fifo = append(u.fifo, u.backlog[:n]...)
		u.backlog = u.backlog[n:]
	}
	u.irq(u.cause() != iirNone)
}

// cause is the pending interrupt of the highest priority, as IIR bits 0 to 3 (datasheet,
// interrupt control functions).
func (u *uart) cause() uint8 {
	switch {
	case u.ier&ierLineStatus != 0 && u.overrun:
		return iirLineStatus
	case u.ier&ierReceived != 0 && len(u.fifo) >= u.trigger():
		return iirReceived
	case u.ier&ierReceived != 0 && len(u.fifo) > 0:
		return iirTimeout
	case u.ier&ierEmpty != 0 && u.empty:
		return iirEmpty
	case u.ier&ierModem != 0 && u.deltas != 0:
		return iirModem
	}
	return iirNone
}

// trigger is how many received bytes make an interrupt.
func (u *uart) trigger() int {
	if u.fcr&fcrEnable != 0 {
		return uartTriggers[u.fcr>>fcrTriggerShift]
	}
	return 1
}

// lines are MSR bits 4 to 7.
func (u *uart) lines() uint8 {
	if u.mcr&mcrLoop == 0 {
		return msrCTS | msrDSR | msrDCD
	}
	var v uint8
	for _, wire := range [...]struct{ from, to uint8 }{
		{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD},
	} {
		if u.mcr&wire.from != 0 {
			v |= wire.to
		}
	}
	return v
}

func (u *uart) in(reg uint8) uint8 {
	defer u.update()
	switch dlab := u.lcr&lcrDLAB != 0; reg & 7 {
	case uartRBR:
		if dlab {
			return u.divisor[0]
		}
		return u.pop()
	case uartIER:
		if dlab {
			return u.divisor[1]
		}
		return u.ier
	case uartIIR:
		v := u.cause()
		if v == iirEmpty {
			u.empty = false // reading IIR clears the THRE interrupt if it names it
		}
		if u.fcr&fcrEnable != 0 {
			v |= iirFIFO
		}
		return v
	case uartLCR:
		return u.lcr
	case uartMCR:
		return u.mcr
	case uartLSR:
		v := uint8(lsrEmpty | lsrIdle)
		if len(u.fifo) > 0 {
			v |= lsrReady
		}
		if u.overrun {
			v |= lsrOverrun
		}
		u.overrun = false
		return v
	case uartMSR:
		v := u.lines() | u.deltas
		u.deltas = 0
		return v
	}
	return u.scr
}

// pop is the next received byte, 0 if there is none.
func (u *uart) pop() uint8 {
	if len(u.fifo) == 0 {
		return 0
	}
	v := u.fifo[0]
	u.fifo = u.fifo[1:]
	return v
}

func (u *uart) out(reg, v uint8) {
	defer u.update()
	switch dlab := u.lcr&lcrDLAB != 0; reg & 7 {
	case uartRBR:
		if dlab {
			u.divisor[0] = v
			return
		}
		u.transmit(v)
	case uartIER:
		if dlab {
			u.divisor[1] = v
			return
		}
		// Enabling the THRE interrupt raises it, the transmitter being empty: Linux's
		// drivers start to transmit by that.
		if v&^u.ier&ierEmpty != 0 {
			u.empty = true
		}
		u.ier = v & 0x0F
	case uartIIR:
		u.control(v)
	case uartLCR:
		u.lcr = v
	case uartMCR:
		before := u.lines()
		u.mcr = v & 0x1F
		u.deltas |= (before ^ u.lines()) &^ msrRI >> msrDeltaShift
		if before&^u.lines()&msrRI != 0 {
			u.deltas |= msrTERI // of RI only the trailing edge counts
		}
	case uartSCR:
		u.scr = v
	}
}

// transmit sends a byte. The transmitter is full for no time at all, but the interrupt
// output falls and rises, so that an edge-triggered controller sees it become empty.
func (u *uart) transmit(v uint8) {
	u.empty = false
	u.update()
	u.empty = true
	if u.mcr&mcrLoop == 0 {
		u.transmitted = append(u.transmitted, v)
		u.total++
		return
	}
	if len(u.fifo) == u.depth() {
		u.overrun = true
		if u.depth() > 1 {
			return // the FIFO keeps what it has
		}
		u.fifo = nil // RBR is overwritten
	}
	u.fifo = append(u.fifo, v)
}

// control writes FCR. What is reset is lost; the backlog has not arrived yet.
func (u *uart) control(v uint8) {
	if (v^u.fcr)&fcrEnable != 0 || v&(fcrEnable|fcrResetRx) == fcrEnable|fcrResetRx {
		u.fifo = nil
		u.overrun = false
	}
	u.fcr = 0
	if v&fcrEnable != 0 { // else the other bits are not programmed
		u.fcr = v & (fcrEnable | 3<<fcrTriggerShift)
	}
}

// State leaves out what was transmitted and not taken: it has passed the
// door already, and when the host takes it must not show in a digest.
func (u *uart) State(a *vmm.Archive) {
	a.Section("uart")
	a.U8("ier", &u.ier)
	a.U8("lcr", &u.lcr)
	a.U8("mcr", &u.mcr)
	a.U8("scr", &u.scr)
	a.U8("fcr", &u.fcr)
	a.Fixed("divisor", u.divisor[:])
	a.U8("deltas", &u.deltas)
	a.Bool("overrun", &u.overrun)
	a.Bool("empty", &u.empty)
	a.Bytes("fifo", &u.fifo, uartFIFO)
	a.Bytes("backlog", &u.backlog, uartBacklog)
	a.U64("total", &u.total)
	if !a.Loading() {
		return
	}
	u.transmitted = nil
	if u.ier > 0x0F || u.mcr > 0x1F || u.deltas > 0x0F || len(u.fifo) > u.depth() {
		a.Fail("IER %#x, MCR %#x, MSR deltas %#x, %d bytes in a FIFO of %d: no 16550A is like that",
			u.ier, u.mcr, u.deltas, len(u.fifo), u.depth())
	}
}
