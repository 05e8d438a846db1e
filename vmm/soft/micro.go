package soft

import (
	"encoding/binary"
	"math/bits"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

//go:generate go run gen.go

// The operands of micro-operations:
//
//	R  r[dst] and r[src] + imm; one of the latter two is 0
//	L  r[dst] and memory
//	M  memory and r[src] + imm
//
// An instruction that writes a register of 32 bits clears the upper half; one that writes fewer keeps the
// others (SDM vol. 1, 3.4.1.1).

func (c *CPU) set8(i uint8, v uint64)  { c.r[i] = c.r[i]&^0xff | v&0xff }
func (c *CPU) set16(i uint8, v uint64) { c.r[i] = c.r[i]&^0xffff | v&0xffff }
func (c *CPU) set32(i uint8, v uint64) { c.r[i] = uint64(uint32(v)) }
func (c *CPU) set64(i uint8, v uint64) { c.r[i] = v }

// modify replaces the w bits at linear address a by the result of an operation with b.
func (c *CPU) modify(a, b uint64, w uint8, op operation) bool {
	v, ok := c.loadW(a, w/8)
	return ok && c.store(a, op(c, v, b, w), w/8)
}

// branch ends a block with a conditional branch by imm.
func (c *CPU) branch(u *uop, taken bool) bool {
	to, way := c.nextIP(u), uint8(0)
	if taken {
		to += u.imm
		way = 1
		if !canonical(to) {
			return c.faultCode(excGP, 0)
		}
	}
	c.rip, c.way = to, way
	return true
}

// A comparison that is fused with a branch has its immediate in the low half of imm and the branch's
// displacement in the high one; len is the length of both. The branch stays in the page.

func fusedImm(u *uop) uint64 { return uint64(int64(int32(u.imm))) }

func (c *CPU) fused(u *uop, taken bool) bool {
	to, way := c.nextIP(u), uint8(0)
	if taken {
		to += uint64(int64(u.imm) >> 32)
		way = 1
	}
	c.rip, c.way = to, way
	return true
}

// goTo ends a block with a branch to linear address to, in 64-bit mode.
func (c *CPU) goTo(to uint64) bool {
	if !canonical(to) {
		return c.faultCode(excGP, 0)
	}
	c.rip, c.way = to, 0
	return true
}

// opNop does nothing: an instruction must have a micro-operation, so that there is a place to stop at.
func (c *CPU) opNop(*uop) bool { return true }

// opGetHigh: r[dst] = bits 15:8 of r[src].
func (c *CPU) opGetHigh(u *uop) bool {
	c.r[u.dst] = c.r[u.src] >> 8 & 0xff
	return true
}

// opSetHigh: bits 15:8 of r[dst] = r[src].
func (c *CPU) opSetHigh(u *uop) bool {
	c.r[u.dst] = c.r[u.dst]&^0xff00 | c.r[u.src]&0xff<<8
	return true
}

// opLea: r[dst] is the address of the memory operand.
func (c *CPU) opLea(u *uop) bool {
	c.r[u.dst] = c.ea(u)
	return true
}

func (c *CPU) opLea32(u *uop) bool {
	c.set32(u.dst, c.ea(u))
	return true
}

// opBt: CF is bit r[src] + imm of r[dst], whose width is shift + 1.
func (c *CPU) opBt(u *uop) bool {
	c.setCF(c.r[u.dst] >> ((c.r[u.src] + u.imm) & uint64(u.shift) & 63))
	return true
}

// opXchg32 exchanges r[dst] and r[src].
func (c *CPU) opXchg32(u *uop) bool {
	a, b := c.r[u.dst], c.r[u.src]
	c.set32(u.dst, b)
	c.set32(u.src, a)
	return true
}

func (c *CPU) opXchg64(u *uop) bool {
	c.r[u.dst], c.r[u.src] = c.r[u.src], c.r[u.dst]
	return true
}

// opBswap32 reverses the bytes of r[dst].
func (c *CPU) opBswap32(u *uop) bool {
	c.r[u.dst] = uint64(bits.ReverseBytes32(uint32(c.r[u.dst])))
	return true
}

func (c *CPU) opBswap64(u *uop) bool {
	c.r[u.dst] = bits.ReverseBytes64(c.r[u.dst])
	return true
}

// opCdq: EDX is the sign of EAX.
func (c *CPU) opCdq(*uop) bool {
	c.set32(vmm.RDX, uint64(int32(c.r[vmm.RAX])>>31))
	return true
}

func (c *CPU) opCqo(*uop) bool {
	c.r[vmm.RDX] = uint64(int64(c.r[vmm.RAX]) >> 63)
	return true
}

// The stack and branches in 64-bit mode, with operands of 64 bits.

// opPush pushes r[src] + imm.
func (c *CPU) opPush(u *uop) bool {
	sp := c.r[vmm.RSP] - 8
	if p := c.at64(sp); p != nil {
		binary.LittleEndian.PutUint64(p[:], c.r[u.src]+u.imm)
	} else if !c.storeSlow(sp, c.r[u.src]+u.imm, 8) {
		return false
	}
	c.r[vmm.RSP] = sp
	return true
}

// opPop pops r[dst].
func (c *CPU) opPop(u *uop) bool {
	v := uint64(0)
	if p := c.read64(c.r[vmm.RSP]); p != nil {
		v = binary.LittleEndian.Uint64(p[:])
	} else {
		var ok bool
		if v, ok = c.loadSlow(c.r[vmm.RSP], 8); !ok {
			return false
		}
	}
	c.r[vmm.RSP] += 8
	c.r[u.dst] = v
	return true
}

func (c *CPU) opLeave(*uop) bool {
	bp := c.r[vmm.RBP]
	v, ok := c.load64(bp)
	if ok {
		c.r[vmm.RSP], c.r[vmm.RBP] = bp+8, v
	}
	return ok
}

// opCall calls imm from the end of the instruction.
func (c *CPU) opCall(u *uop) bool { return c.call(u, c.nextIP(u)+u.imm) }

// opCallR calls r[src].
func (c *CPU) opCallR(u *uop) bool { return c.call(u, c.r[u.src]) }

func (c *CPU) call(u *uop, to uint64) bool {
	sp := c.r[vmm.RSP] - 8
	if !canonical(to) {
		return c.probe(sp, 8) && c.faultCode(excGP, 0)
	}
	if !c.store64(sp, c.nextIP(u)) {
		return false
	}
	c.r[vmm.RSP] = sp
	c.rip, c.way = to, 0
	return true
}

// opRet returns, and takes imm bytes more from the stack.
func (c *CPU) opRet(u *uop) bool {
	to, ok := c.load64(c.r[vmm.RSP])
	if !ok || !c.goTo(to) {
		return false
	}
	c.r[vmm.RSP] += 8 + u.imm
	return true
}

// opJmp goes to imm from the end of the instruction.
func (c *CPU) opJmp(u *uop) bool { return c.goTo(c.nextIP(u) + u.imm) }

// opJmpR goes to r[src].
func (c *CPU) opJmpR(u *uop) bool { return c.goTo(c.r[u.src]) }

// String names the micro-operation.
func (o opcode) String() string {
	if o >= uVector {
		return x86.Op(o - uVector).String()
	}
	return micro[o].name
}
