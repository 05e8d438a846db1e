package devices

import "ftvm/vmm"

// Ports of the keyboard controller.
const (
	portI8042Data    = 0x60
	portI8042Command = 0x64 // reads as status
)

// Bits of the status register.
const (
	i8042OutputFull = 1 << 0
	i8042System     = 1 << 2 // the self-test passed
	i8042ToCommand  = 1 << 3 // the last write went to port 0x64
	i8042Unlocked   = 1 << 4 // the key lock is open
	i8042Timeout    = 1 << 6 // the byte in the output buffer stands for a device that is silent
)

// Bits of the command byte that commands change.
const (
	i8042KeyboardOff = 1 << 4
	i8042AuxOff      = 1 << 5
)

// i8042 is the keyboard controller of a PC without keyboard and mouse: it is there
// for guests that reset the machine through it, and answers the rest at once, so
// that nobody who probes it waits for a time-out. It raises no interrupts.
type i8042 struct {
	config  uint8 // the command byte
	output  uint8 // output buffer, valid if full
	full    bool
	timeout bool  // status bit that comes with output
	last    uint8 // the command that waits for its data byte, 0 if none
	command bool  // the last write went to port 0x64
	reset   bool
}

// newI8042 returns the controller as firmware leaves it: self-test passed, scan codes
// translated.
func newI8042() *i8042 { return &i8042{config: 0x44} }

// resetWanted reports that the guest pulsed the reset line.
func (k *i8042) resetWanted() bool { return k.reset }

func (k *i8042) in(port uint16) uint8 {
	if port == portI8042Data {
		k.full, k.timeout = false, false
		return k.output
	}
	status := uint8(i8042Unlocked) | k.config&i8042System
	if k.full {
		status |= i8042OutputFull
	}
	if k.command {
		status |= i8042ToCommand
	}
	if k.timeout {
		status |= i8042Timeout
	}
	return status
}

func (k *i8042) out(port uint16, v uint8) {
	k.command = port == portI8042Command
	if k.command {
		k.execute(v)
	} else {
		k.data(v)
	}
}

// answer puts a byte into the output buffer, over one that nobody fetched.
func (k *i8042) answer(v uint8, timeout bool) { k.output, k.full, k.timeout = v, true, timeout }

// execute takes a command byte (IBM PS/2 Technical Reference, Keyboard and Auxiliary
// Device Controller; commands that are not listed do nothing).
func (k *i8042) execute(v uint8) {
	k.last = 0
	switch v {
	case 0x20: // read the command byte
		k.answer(k.config, false)
	case 0x60, // write the command byte
		0xD1, // write the output port
		0xD2, // write the output buffer
		0xD3, // write the output buffer as if from the auxiliary device
		0xD4: // write to the auxiliary device
		k.last = v
	case 0xA7: // disable the auxiliary device
		k.config |= i8042AuxOff
	case 0xA8: // enable it
		k.config &^= i8042AuxOff
	case 0xA9: // test its lines: clock stuck high, which is what tells Linux there is no such port
		k.answer(0x02, false)
	case 0xAA: // self-test
		k.config |= i8042System
		k.answer(0x55, false)
	case 0xAB: // test the keyboard's lines: no error
		k.answer(0x00, false)
	case 0xAD: // disable the keyboard
		k.config |= i8042KeyboardOff
	case 0xAE: // enable it
		k.config &^= i8042KeyboardOff
	case 0xC0: // read the input port: the key lock is open
		k.answer(0x80, false)
	case 0xD0: // read the output port: address line 20 is on, reset is not pulled
		k.answer(0x03, false)
	default:
		// F0 to FF pulse those of output port bits 0 to 3 that are 0; bit 0 is the reset line.
		if v >= 0xF0 && v&1 == 0 {
			k.reset = true
		}
	}
}

// data takes a byte written to port 0x60.
func (k *i8042) data(v uint8) {
	last := k.last
	k.last = 0
	switch last {
	case 0x60:
		k.config = v
	case 0xD1:
		if v&1 == 0 {
			k.reset = true
		}
	case 0xD2, 0xD3:
		// Without an auxiliary port the byte of D3 is no different; Linux's loop test fails
		// at once because the auxiliary data bit is not set with it.
		k.answer(v, false)
	default:
		// A byte for a device that is not there: FE (resend) and the time-out bit.
		k.answer(0xFE, true)
	}
}

func (k *i8042) State(a *vmm.Archive) {
	a.Section("i8042")
	a.U8("config", &k.config)
	a.U8("output", &k.output)
	a.Bool("full", &k.full)
	a.Bool("timeout", &k.timeout)
	a.U8("last", &k.last)
	a.Bool("command", &k.command)
	a.Bool("reset", &k.reset)
}
