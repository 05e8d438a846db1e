package soft

import (
	"ftvm/vmm/soft/amd64"
	"ftvm/vmm/soft/x86"
)

const (
	rax = amd64.RAX // the flags
	rcx = amd64.RCX
	rdx = amd64.RDX
	rdi = amd64.RDI
)

// compiler emits the code of a block.
type compiler struct {
	amd64.Asm
	// back is the offset of the way back to Go.
	back int
	b    *block
	// i is the number of the micro-operation being compiled.
	i int
	// live is set if the host's flags are the guest's. Those in RAX always are.
	live bool
	// slow are the jumps to where micro-operations are left to Go.
	slow []slowPath
	// ways are the jumps out of the block to others in its page, 0 where there is none; to are the offsets of these in
	// the page.
	ways [2]amd64.Fixup
	to   [2]uint32
	// tails are the jumps to the end of the block's code, where it returns to Go.
	tails []amd64.Fixup
}

// slowPath is a jump to the exit to Go for micro-operation i, after which execution resumes at an offset.
type slowPath struct {
	jump      amd64.Fixup
	i, resume int
}

// Bounds of the code for one micro-operation and for what a block has besides, in bytes.
const (
	maxUopCode   = 320
	maxBlockCode = 256
)

// compile makes code for b, which is about to be executed, and tells whether it did.
func (c *CPU) compile(b *block) bool {
	n := &c.native
	if n.base == 0 || b.phys == noTarget || b.n == 0 || c.mode != x86.Mode64 {
		return false
	}
	size := maxBlockCode + len(b.ops)*maxUopCode
	if n.Room() < size {
		if n.drop(); n.Room() < size {
			return false
		}
	}
	b.code = uint32(n.At())
	n.blocks = append(n.blocks, b)
	n.emitBlock(b, uint32(len(n.blocks)-1))
	for way, next := range b.link {
		if b.sites[way] != 0 && next != nil && next.code != 0 {
			n.Bind(amd64.Fixup(b.sites[way]), int(next.code))
		}
	}
	return true
}

// link makes the way out of b by which it just returned lead to next, which has code.
func (n *native) link(b, next *block) {
	n.Bind(amd64.Fixup(b.sites[n.exit>>exitWay&1]), int(next.code))
}

// emitBlock emits the code of b, which gets a number.
func (k *compiler) emitBlock(b *block, number uint32) {
	k.b, k.live, k.slow, k.ways, k.tails = b, false, k.slow[:0], [2]amd64.Fixup{}, k.tails[:0]
	k.ArithImm(amd64.SUB, 8, field(atLeft), int32(b.n))
	short := k.Jcc(amd64.B)
	for i := range b.ops {
		u := &b.ops[i]
		k.i = i
		first := len(k.slow)
		k.emit(u)
		for j := range k.slow[first:] {
			k.slow[first+j].resume = k.At()
		}
	}
	for _, s := range k.slow {
		k.Bind(s.jump, k.At())
		k.LeaCode(amd64.RDX, s.resume)
		k.leave(exitUop, uint32(s.i))
	}
	for way, jump := range k.ways {
		b.sites[way] = uint32(jump)
		if jump != 0 {
			k.Bind(jump, k.At())
			k.leave(exitNear, uint32(way)<<exitWay|k.to[way])
		}
	}
	k.Bind(short, k.At())
	k.ArithImm(amd64.ADD, 8, field(atLeft), int32(b.n))
	k.leave(exitLeft, 0)
	for _, jump := range k.tails {
		k.Bind(jump, k.At())
	}
	k.Const(amd64.RDI, uint64(number))
	k.Bind(k.Jmp(), k.back)
}

// emit emits the code of a micro-operation.
func (k *compiler) emit(u *uop) {
	switch {
	case u.op >= uVector:
		k.vector(u)
	case emitters[u.op] != nil:
		emitters[u.op](k, u)
	default:
		k.inGo()
	}
}

// leave emits the return to Go for a reason.
func (k *compiler) leave(why, arg uint32) {
	k.Const(amd64.RCX, uint64(why<<exitKind|arg))
	k.tails = append(k.tails, k.Jmp())
}

// inGo leaves the micro-operation to its function.
func (k *compiler) inGo() {
	k.slow = append(k.slow, slowPath{jump: k.Jmp(), i: k.i})
	k.live = true // they are when Go enters
}

// slowIf leaves the micro-operation to its function under a condition. Nothing was changed yet.
func (k *compiler) slowIf(cc amd64.Cond) {
	k.slow = append(k.slow, slowPath{jump: k.Jcc(cc), i: k.i})
}

// Flags.

// restoreFlags makes the host's flags those in RAX: a comparison of OF with -127 overflows if it is 1, and sets what SAHF then
// replaces.
func (k *compiler) restoreFlags() {
	k.ArithImm(amd64.CMP, 1, amd64.R(rax), -127)
	k.Sahf()
}

// restore makes the host's flags the guest's.
func (k *compiler) restore() {
	if !k.live {
		k.restoreFlags()
		k.live = true
	}
}

// saveFlags takes the guest's flags from an arithmetic or logical instruction.
func (k *compiler) saveFlags(logical bool) {
	k.Lahf()
	if logical {
		k.StoreImm(1, amd64.R(rax), -flagsNoAF)
	} else {
		k.Set(amd64.O, amd64.R(rax))
	}
	k.live = true
}

func logical(op amd64.Arith) bool {
	return op == amd64.AND || op == amd64.OR || op == amd64.XOR || op == amd64.TEST
}

// carryIn makes the host's CF the guest's, before an instruction that reads or keeps it.
func (k *compiler) carryIn() { k.BitTest(4, amd64.R(rax), 8) }

// setCFOF sets the guest's CF and OF to DL and CL, which are 0 or 1, and keeps the others.
func (k *compiler) setCFOF() {
	k.Arith(amd64.TEST, 1, amd64.R(rax), rax)
	over := k.Skip(amd64.NS)
	k.ArithImm(amd64.AND, 4, amd64.R(rax), ^(flagAF << 8))
	k.Land(over)
	k.ArithImm(amd64.AND, 4, amd64.R(rax), ^0x1ff)
	k.Movzx(rcx, amd64.R(rcx), 1)
	k.Arith(amd64.OR, 4, amd64.R(rax), rcx)
	k.setCarry()
}

// setCarry sets the guest's CF, which is 0, to DL.
func (k *compiler) setCarry() {
	k.Movzx(rdx, amd64.R(rdx), 1)
	k.Shift(amd64.SHL, 4, amd64.R(rdx), 8)
	k.Arith(amd64.OR, 4, amd64.R(rax), rdx)
	k.live = false
}

// Operands.

// reg is the register that slot i is in, which is r if it has none of its own.
func (k *compiler) reg(i uint8, r amd64.Reg) amd64.Reg {
	o := slot(i)
	if !o.IsMem() {
		return o.Reg()
	}
	k.Load(8, r, o)
	return r
}

// result puts into slot i what f makes in a register of 8 bytes: the slot's own, or r.
func (k *compiler) result(i uint8, r amd64.Reg, f func(r amd64.Reg)) {
	o := slot(i)
	if !o.IsMem() {
		f(o.Reg())
		return
	}
	f(r)
	k.Store(8, o, r)
}

// changed is result for what f makes of the slot's value.
func (k *compiler) changed(i uint8, r amd64.Reg, f func(r amd64.Reg)) {
	k.result(i, r, func(r amd64.Reg) {
		if o := slot(i); o.IsMem() {
			k.Load(8, r, o)
		}
		f(r)
	})
}

// immediate tells whether the operand r[src] + imm is an immediate that an instruction can have.
func immediate(u *uop, size uint8) bool {
	return u.src == rZero && (size < 8 || u.imm == uint64(int64(int32(u.imm))))
}

// source is the register with the operand r[src] + imm, which is r unless that has one of its own.
func (k *compiler) source(u *uop, r amd64.Reg) amd64.Reg {
	if u.src == rZero {
		k.Const(r, u.imm)
		return r
	}
	return k.reg(u.src, r)
}

// address makes r, of size bytes, the address of u's memory operand. It uses RCX and RDX, and keeps the host's flags unless there
// is a segment.
func (k *compiler) address(r amd64.Reg, u *uop, size uint8) {
	base, index := rcx, rdx
	hasBase, hasIndex := u.base != rZero, u.index != rZero
	disp := u.disp
	if u.base == rIP {
		k.Load(8, rcx, slot(rPage))
		start := int32(k.b.phys & pageMask)
		if sum := int64(disp) + int64(start); sum == int64(int32(sum)) {
			disp += start
		} else {
			k.Lea(8, rcx, amd64.M(rcx, start))
		}
	} else if hasBase {
		base = k.reg(u.base, rcx)
	}
	if hasIndex {
		index = k.reg(u.index, rdx)
	}
	switch {
	case hasBase && hasIndex:
		k.Lea(size, r, amd64.MX(base, index, u.shift&3, disp))
	case hasIndex:
		k.Lea(size, r, amd64.MI(index, u.shift&3, disp))
	case !hasBase && size == 4:
		k.Const(r, uint64(uint32(disp)))
	case !hasBase:
		k.Const(r, uint64(int64(disp)))
	case disp != 0:
		k.Lea(size, r, amd64.M(base, disp))
	case base != r || size == 4:
		k.Load(size, r, amd64.R(base))
	}
	if u.seg != rZero {
		k.ArithLoad(amd64.ADD, size, r, slot(u.seg))
		k.live = false
	}
}

// memory is u's memory operand of size bytes, found through the TLB that the field of CPU at tlb points to.
func (k *compiler) memory(u *uop, size uint8, tlb int32) amd64.Operand {
	k.address(rcx, u, 8)
	return k.translate(int32(size)-1, ^int32(pageMask), tlb)
}

// translate makes an operand of linear address RCX. The address of the byte that is last behind it, without the bits that are
// clear in mask, must equal the tag of the entry for the first byte's page, as in read8 and the like. It uses RCX, RDX and RDI.
func (k *compiler) translate(last, mask, tlb int32) amd64.Operand {
	k.Load(4, rdx, amd64.R(rcx))
	k.Shift(amd64.SHR, 4, amd64.R(rdx), 12-tlbEntryShift)
	k.ArithImm(amd64.AND, 4, amd64.R(rdx), (tlbSize-1)<<tlbEntryShift)
	k.ArithLoad(amd64.ADD, 8, rdx, field(tlb))
	if last == 0 {
		k.Load(8, rdi, amd64.R(rcx))
	} else {
		k.Lea(8, rdi, amd64.M(rcx, last))
	}
	k.ArithImm(amd64.AND, 8, amd64.R(rdi), mask)
	k.ArithLoad(amd64.CMP, 8, rdi, amd64.M(rdx, 0))
	k.slowIf(amd64.NE)
	k.Load(8, rdx, amd64.M(rdx, tlbPage))
	k.ArithImm(amd64.AND, 4, amd64.R(rcx), pageMask)
	k.live = false
	return amd64.MX(rdx, rcx, 0, 0)
}
