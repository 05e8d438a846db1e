package soft

import (
	"ftvm/vmm"
	"ftvm/vmm/soft/amd64"
)

// The stack.

// stack is the operand of 8 bytes at disp from the stack pointer.
func (k *compiler) stack(disp, tlb int32) amd64.Operand {
	k.Lea(8, rcx, amd64.M(homes[vmm.RSP], disp))
	return k.translate(7, ^int32(pageMask), tlb)
}

// addSP adds to the stack pointer.
func (k *compiler) addSP(n int32) {
	k.Lea(8, homes[vmm.RSP], amd64.M(homes[vmm.RSP], n))
}

func emitPush(k *compiler, u *uop) {
	m := k.stack(-8, atWR)
	if immediate(u, 8) {
		k.StoreImm(8, m, int32(u.imm))
	} else {
		k.Store(8, m, k.source(u, rdi))
	}
	k.addSP(-8)
}

func emitPop(k *compiler, u *uop) {
	m := k.stack(0, atRD)
	k.Load(8, rdi, m)
	k.addSP(8)
	k.Store(8, slot(u.dst), rdi)
}

func emitLeave(k *compiler, u *uop) {
	bp := homes[vmm.RBP]
	k.Load(8, rcx, amd64.R(bp))
	m := k.translate(7, ^int32(pageMask), atRD)
	k.Lea(8, homes[vmm.RSP], amd64.M(bp, 8))
	k.Load(8, bp, m)
}

// Branches.

// after is the offset from the beginning of the page of the instruction behind u's.
func (k *compiler) after(u *uop) int64 {
	return int64(k.b.phys&pageMask) + int64(u.off) + int64(u.len)
}

// near leaves the block for offset to of its page, by a jump that was just emitted.
func (k *compiler) near(way int, jump amd64.Fixup, to int64) {
	k.ways[way], k.to[way] = jump, uint32(to)
}

// pageAddress makes r the linear address at an offset from the beginning of the page. If it returns false, that is further
// away than a displacement reaches.
func (k *compiler) pageAddress(r amd64.Reg, offset int64) bool {
	if offset != int64(int32(offset)) {
		return false
	}
	k.Load(8, r, slot(rPage))
	k.Lea(8, r, amd64.M(r, int32(offset)))
	return true
}

// find looks the block at linear address RCX up. It makes RDI the address of its page and RDX that of its entry in the table of
// targets; where the TLB or the table has nothing, the micro-operation is left to Go.
func (k *compiler) find() {
	k.Load(4, rdx, amd64.R(rcx))
	k.Shift(amd64.SHR, 4, amd64.R(rdx), 12-tlbEntryShift)
	k.ArithImm(amd64.AND, 4, amd64.R(rdx), (tlbSize-1)<<tlbEntryShift)
	k.ArithLoad(amd64.ADD, 8, rdx, field(atEX))
	k.Load(8, rdi, amd64.R(rcx))
	k.ArithImm(amd64.AND, 8, amd64.R(rdi), ^pageMask)
	k.ArithLoad(amd64.CMP, 8, rdi, amd64.M(rdx, 0))
	k.slowIf(amd64.NE)
	k.ArithImm(amd64.AND, 4, amd64.R(rcx), pageMask)
	k.ArithLoad(amd64.OR, 8, rcx, amd64.M(rdx, codePhys))
	k.Load(8, rdx, amd64.R(rcx))
	k.Shift(amd64.SHR, 8, amd64.R(rdx), targetFold)
	k.Arith(amd64.XOR, 4, amd64.R(rdx), rcx)
	k.ArithImm(amd64.AND, 4, amd64.R(rdx), targets-1)
	k.Shift(amd64.SHL, 4, amd64.R(rdx), targetShift)
	k.ArithLoad(amd64.ADD, 8, rdx, field(atTargets))
	k.ArithLoad(amd64.CMP, 8, rcx, amd64.M(rdx, 0))
	k.slowIf(amd64.NE)
}

// goFar goes to what find found.
func (k *compiler) goFar() {
	k.Store(8, slot(rPage), rdi)
	k.JmpTo(amd64.M(rdx, targetCode))
}

// goTo ends the block with a jump by rel.
func (k *compiler) goTo(u *uop, rel int64) { k.exit(0, k.after(u)+rel) }

// exit leaves the block by a way to an offset from the beginning of its page.
func (k *compiler) exit(way int, to int64) {
	switch {
	case k.b.near[way]:
		k.near(way, k.Jmp(), to)
	case k.pageAddress(rcx, to):
		k.find()
		k.goFar()
	default:
		k.inGo()
	}
}

// branch ends the block with a jump by rel if the host's flags fulfil cc.
func (k *compiler) branch(u *uop, cc amd64.Cond, rel int64) {
	taken := k.Jcc(cc)
	k.exit(0, k.after(u))
	if to := k.after(u) + rel; k.b.near[1] {
		k.near(1, taken, to)
	} else {
		k.Bind(taken, k.At())
		k.exit(1, to)
	}
}

// emitFused is a comparison and a branch.
func emitFused(op amd64.Arith, size uint8, form opcode, cc amd64.Cond) emitter {
	return func(k *compiler, u *uop) {
		v := *u
		v.imm = fusedImm(u)
		switch form {
		case binaryL:
			k.arithL(&v, op, size, true)
		case binaryM:
			k.arithM(&v, op, size)
		default:
			k.arithR(&v, op, size, true)
		}
		k.branch(u, cc, int64(u.imm)>>32)
	}
}

// pushReturn pushes the address behind u's instruction.
func (k *compiler) pushReturn(u *uop) {
	m := k.stack(-8, atWR)
	k.pageAddress(rdi, k.after(u))
	k.Store(8, m, rdi)
	k.addSP(-8)
}

// call calls imm from the end of the instruction.
func (k *compiler) call(u *uop) {
	to := k.after(u) + int64(u.imm)
	switch {
	case k.b.near[0]:
		k.pushReturn(u)
		k.near(0, k.Jmp(), to)
	case k.pageAddress(rcx, to):
		k.callFar(u)
	default:
		k.inGo()
	}
}

// callFar calls RCX.
func (k *compiler) callFar(u *uop) {
	k.find()
	k.Load(8, rdx, amd64.M(rdx, targetCode))
	k.Store(8, field(atTo), rdx)
	k.Store(8, field(atPage), rdi)
	k.pushReturn(u)
	k.Load(8, rdi, field(atPage))
	k.Store(8, slot(rPage), rdi)
	k.JmpTo(field(atTo))
}

// emitRet returns, and takes imm bytes more from the stack.
func emitRet(k *compiler, u *uop) {
	k.Load(8, rcx, k.stack(0, atRD))
	k.find()
	k.addSP(8 + int32(u.imm))
	k.goFar()
}
