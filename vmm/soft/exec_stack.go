package soft

import (
	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// The stack and near branches, in the forms that are executed whole: outside 64-bit mode, and with operands
// of 16 bits.

// push pushes size bytes. The stack pointer changes only if that succeeds.
func (c *CPU) push(v uint64, size uint8) bool {
	a, ok := c.stackLinear(-uint64(size), size, true)
	if !ok || !c.store(a, v, size) {
		return false
	}
	c.addSP(-uint64(size))
	return true
}

func (c *CPU) addSP(n uint64) { c.setSP(c.r[vmm.RSP]+n, c.spMask()) }

func (c *CPU) pushArg(u *uop, in *x86.Inst) bool {
	v, ok := c.arg(u, in, 0)
	return ok && c.push(v, in.OpSize)
}

func (c *CPU) popArg(u *uop, in *x86.Inst) bool {
	v, ok := c.peek(0, in.OpSize)
	if !ok {
		return false
	}
	if in.Arg[0].Kind == x86.MemOp {
		// An address that uses the stack pointer is that after the pop (SDM vol. 2B, POP).
		at := c.offset(u, in)
		if in.Mem.Base == vmm.RSP {
			at += uint64(in.OpSize)
		}
		a, ok := c.linearAt(in, in.Mem.Seg, at, in.OpSize, true)
		if !ok || !c.store(a, v, in.OpSize) {
			return false
		}
		c.addSP(uint64(in.OpSize))
		return true
	}
	c.addSP(uint64(in.OpSize))
	c.set(in.Arg[0].Reg, v, in.OpSize)
	return true
}

func (c *CPU) pusha(u *uop, in *x86.Inst) bool {
	size := uint64(in.OpSize)
	for i := range uint64(8) {
		a, ok := c.stackLinear(-(i+1)*size, in.OpSize, true)
		if !ok || !c.store(a, c.r[i], in.OpSize) {
			return false
		}
	}
	c.addSP(-(8 * size))
	return true
}

// popa discards what it finds for the stack pointer. It pops one register after another (SDM vol. 2B, POPA): if it
// faults, those before have their values, and the stack pointer is unchanged, so that it can be done again.
func (c *CPU) popa(u *uop, in *x86.Inst) bool {
	size := uint64(in.OpSize)
	for i := range uint8(8) {
		v, ok := c.peek(uint64(i)*size, in.OpSize)
		if !ok {
			return false
		}
		if reg := 7 - i; reg != vmm.RSP {
			c.set(reg, v, in.OpSize)
		}
	}
	c.addSP(8 * size)
	return true
}

// enter makes a stack frame, with copies of the pointers to those around it.
func (c *CPU) enter(u *uop, in *x86.Inst) bool {
	size, levels := uint64(in.OpSize), uint64(in.Imm2&31)
	// The frame may lie over what is copied. Then it cannot be begun in a block, left at a store to code, and done
	// again.
	if levels > 1 && !c.isAlone() {
		c.stop = stopRedo
		return false
	}
	at := -size // from the stack pointer
	push := func(v uint64) bool {
		a, ok := c.stackLinear(at, in.OpSize, true)
		return ok && c.store(a, v, in.OpSize)
	}
	if !push(c.r[vmm.RBP]) {
		return false
	}
	frame := c.r[vmm.RSP] - size
	for i := uint64(1); i < levels; i++ {
		v, ok := c.peek(c.r[vmm.RBP]-c.r[vmm.RSP]-i*size, in.OpSize)
		if at -= size; !ok || !push(v) {
			return false
		}
	}
	if levels > 0 {
		if at -= size; !push(frame) {
			return false
		}
	}
	at -= uint64(in.Imm) & 0xffff
	// The place that the new stack pointer points to must be writable.
	if a, ok := c.stackLinear(at, in.OpSize, true); !ok || !c.probe(a, size) {
		return false
	}
	c.set(vmm.RBP, frame&c.spMask(), in.OpSize)
	c.addSP(at)
	return true
}

// leaveFrame is LEAVE.
func (c *CPU) leaveFrame(u *uop, in *x86.Inst) bool {
	up := c.r[vmm.RBP] - c.r[vmm.RSP]
	v, ok := c.peek(up, in.OpSize)
	if !ok {
		return false
	}
	c.addSP(up + uint64(in.OpSize))
	c.set(vmm.RBP, v, in.OpSize)
	return true
}

// target is where a near branch to an address leads, given its operand size.
func (c *CPU) target(to uint64, size uint8) (uint64, bool) {
	to = unsigned(to, 8*size)
	if c.mode == x86.Mode64 && !canonical(to) || c.mode != x86.Mode64 && to > uint64(c.seg[vmm.CS].Limit) {
		return 0, c.faultCode(excGP, 0)
	}
	return to, true
}

// jump goes there.
func (c *CPU) jump(to uint64, size uint8) bool {
	to, ok := c.target(to, size)
	if ok {
		c.rip = to
	}
	return ok
}

// branchArg is the address that operand 0 of a branch names.
func (c *CPU) branchArg(u *uop, in *x86.Inst) (uint64, bool) {
	if in.Arg[0].Kind == x86.Rel {
		return c.nextIP(u) + uint64(in.Imm), true
	}
	return c.arg(u, in, 0)
}

func (c *CPU) jmpArg(u *uop, in *x86.Inst) bool {
	to, ok := c.branchArg(u, in)
	return ok && c.jump(to, in.OpSize)
}

func (c *CPU) callArg(u *uop, in *x86.Inst) bool {
	to, ok := c.branchArg(u, in)
	if !ok {
		return false
	}
	if to, ok = c.target(to, in.OpSize); !ok || !c.push(c.nextIP(u), in.OpSize) {
		return false
	}
	c.rip = to
	return true
}

func (c *CPU) retArg(u *uop, in *x86.Inst) bool {
	to, ok := c.peek(0, in.OpSize)
	if !ok || !c.jump(to, in.OpSize) {
		return false
	}
	c.addSP(uint64(in.OpSize))
	if in.Arg[0].Kind == x86.Imm {
		c.addSP(uint64(in.Imm) & 0xffff)
	}
	return true
}

func (c *CPU) jcc(u *uop, in *x86.Inst) bool {
	return !c.cond(uint8(in.Op-x86.JO)) || c.jump(c.nextIP(u)+uint64(in.Imm), in.OpSize)
}

func (c *CPU) jrcxz(u *uop, in *x86.Inst) bool {
	return unsigned(c.r[vmm.RCX], 8*in.AddrSize) != 0 || c.jump(c.nextIP(u)+uint64(in.Imm), in.OpSize)
}

// loop is LOOP, LOOPE and LOOPNE.
func (c *CPU) loop(u *uop, in *x86.Inst) bool {
	n := unsigned(c.r[vmm.RCX]-1, 8*in.AddrSize)
	taken := n != 0
	switch in.Op {
	case x86.LOOPE:
		taken = taken && c.zf()
	case x86.LOOPNE:
		taken = taken && !c.zf()
	}
	if taken && !c.jump(c.nextIP(u)+uint64(in.Imm), in.OpSize) {
		return false
	}
	c.set(vmm.RCX, n, in.AddrSize)
	return true
}
