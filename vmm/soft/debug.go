package soft

import (
	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// Bits of DR6 and DR7 (SDM vol. 3B, 18.2). Bits 0 to 3 of DR6 tell which breakpoints fired.
const (
	dr6BD    = 1 << 13
	dr6BS    = 1 << 14
	dr6Fixed = 0xffff_0ff0
	dr6Keep  = 0xe00f

	dr7GD      = 1 << 13
	dr7Enabled = 0xff
	dr7Fixed   = 0x400
	dr7Keep    = 0xffff_2bff
)

// Values of the field R/W of a breakpoint in DR7.
const (
	watchFetch  = 0
	watchStores = 1
	watchPorts  = 2
	watchAll    = 3
)

// Bits of vmm.Events.Shadow.
const (
	shadowSTI   = 1 << 0
	shadowMovSS = 1 << 1
)

// debugStatus sets DR6 for a #DB.
func (c *CPU) debugStatus(bits uint64) {
	c.dr6 = c.dr6&^0xf | bits
	c.dr7 &^= dr7GD
}

// breakpoints tells which breakpoints are enabled, are of one of the kinds that kinds has a bit for, and lie in the
// n bytes at a.
func (c *CPU) breakpoints(a, n uint64, kinds uint8) (hit uint64) {
	for i, at := range c.dr {
		if c.dr7>>(2*i)&3 == 0 || kinds>>(c.dr7>>(16+4*i)&3)&1 == 0 {
			continue
		}
		size := [4]uint64{1, 2, 8, 4}[c.dr7>>(18+4*i)&3]
		at &^= size - 1
		if a-at < size || at-a < n {
			hit |= 1 << i
		}
	}
	return hit
}

// enabled tells whether a breakpoint of one of the kinds that kinds has a bit for is enabled.
func (c *CPU) enabled(kinds uint8) bool {
	for i := range c.dr {
		if c.dr7>>(2*i)&3 != 0 && kinds>>(c.dr7>>(16+4*i)&3)&1 != 0 {
			return true
		}
	}
	return false
}

func (c *CPU) instructionBreakpoints() bool { return c.enabled(1 << watchFetch) }
func (c *CPU) dataBreakpoints() bool        { return c.enabled(1<<watchStores | 1<<watchAll) }

// oneByOne tells whether something can happen around the next instruction, so that it must be executed by one.
func (c *CPU) oneByOne() bool {
	return c.flags&flagTF != 0 || c.dr7&dr7Enabled != 0 || c.window && c.events.Shadow != 0
}

// breakpoint tells whether an instruction breakpoint fires here, which sets stop.
func (c *CPU) breakpoint() bool {
	if c.dr7&dr7Enabled == 0 || c.resume || c.events.Shadow&shadowMovSS != 0 {
		return false
	}
	rip := c.rip
	if c.mode != x86.Mode64 {
		rip = c.linear(rip + c.seg[vmm.CS].Base)
	}
	hit := c.breakpoints(rip, 1, 1<<watchFetch)
	if hit == 0 {
		return false
	}
	c.exc = exception{vector: excDB, addr: hit}
	c.stop = stopFault
	return true
}

// checkAlignment raises #AC if that is on and an operand of n bytes at a is not aligned. It comes before the
// page fault that the same access would raise.
func (c *CPU) checkAlignment(a, n uint64) bool {
	if !c.aligned {
		return true
	}
	// Operands of other sizes are made up of parts (SDM vol. 3A, table 6-7).
	switch {
	case n == 10: // an x87 value
		n = 8
	case n == envSize16 || n == envSize16+saveSize:
		n = 2
	case n&(n-1) != 0 || n > 16:
		n = 4
	}
	return a&(n-1) == 0 || c.faultCode(excAC, 0)
}

// watch notes the data breakpoints that an access to memory hits.
func (c *CPU) watch(a, n uint64, acc access) {
	kinds := uint8(1 << watchAll)
	if acc&accWrite != 0 {
		kinds |= 1 << watchStores
	}
	c.hit |= c.breakpoints(a, n, kinds)
}

// watchPort notes the breakpoints that an access to a port hits.
func (c *CPU) watchPort(port uint16, size uint8) {
	if c.cr4&cr4DE != 0 && c.dr7&dr7Enabled != 0 {
		c.hit |= c.breakpoints(uint64(port), uint64(size), 1<<watchPorts)
	}
}

// traps makes #DB pending after an instruction that one executed: for RFLAGS.TF as it was before, and for
// breakpoints that its accesses hit. Those of an instruction that loads SS are lost.
func (c *CPU) traps() {
	bits := c.hit
	if c.trap {
		bits |= dr6BS
	}
	if bits == 0 || c.events.Shadow&shadowMovSS != 0 {
		return
	}
	c.events.HasException, c.events.Exception = true, excDB
	c.events.HasPayload, c.events.Payload = true, bits
	if c.stop == stopExit && c.exit.Reason == vmm.ExitHalt {
		c.stop = stopNext // the exception ends the halt at once
	}
}

// stackOrOther is #SS if a, which is not canonical, is an address on the stack that the instruction at RIP
// uses, and else #GP.
func (c *CPU) stackOrOther(a uint64) uint8 {
	if err, ok := c.decode(c.rip); !ok || err != nil {
		c.stop = 0
		return excGP
	}
	in := &c.code.lower.in
	other := uint8(excGP)
	switch in.Op {
	case x86.PUSH, x86.POP, x86.PUSHF, x86.POPF, x86.ENTER, x86.LEAVE,
		x86.CALL, x86.RET, x86.CALLF, x86.RETF, x86.IRET:
		other = excSS
	}
	for _, arg := range in.Arg {
		if arg.Kind != x86.MemOp {
			continue
		}
		if other == excSS && a-c.operandAt(in) > 16 {
			break
		}
		if in.Mem.Seg == vmm.SS {
			return excSS
		}
		return excGP
	}
	return other
}

// operandAt is the linear address of the memory operand of in, which is at RIP in 64-bit mode.
func (c *CPU) operandAt(in *x86.Inst) uint64 {
	m := &in.Mem
	a := uint64(m.Disp)
	switch m.Base {
	case x86.NoReg:
	case x86.RegIP:
		a += c.rip + uint64(in.Len)
	default:
		a += c.r[m.Base]
	}
	if m.Index != x86.NoReg {
		a += c.r[m.Index] << (m.Shift & 3)
	}
	return a&sizeMask(in.AddrSize) + c.r[rES+m.Seg]
}
