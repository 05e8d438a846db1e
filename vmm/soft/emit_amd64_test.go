package soft

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"ftvm/vmm"
)

// emitTest executes single micro-operations: compiled on one machine, and by their functions on another that is alike.
type emitTest struct {
	*rand.Rand
	t                   *testing.T
	compiled, reference *guest
}

const (
	emitAt    = codeAt + 0x100  // where the micro-operation is
	emitOther = codeAt + 0x1800 // where there is a compiled block in another page
	emitPages = 4               // of data
)

func newEmitTest(t *testing.T) *emitTest {
	e := &emitTest{Rand: rand.New(rand.NewPCG(1, 2)), t: t, compiled: newGuest(t), reference: newGuest(t)}
	if e.compiled.native.init(Compiled(t)); e.compiled.native.base == 0 {
		t.Skip("nothing can be compiled here")
	}
	for _, g := range []*guest{e.compiled, e.reference} {
		// The pages of data are not behind each other in memory, and one cannot be written.
		for i, phys := range [emitPages]uint64{2, 0, 3, 1} {
			g.put64(ptAt+(dataAt/pageSize+uint64(i))*8, dataAt+phys*pageSize|pteP|pteU|pteW)
		}
		g.put64(ptAt+(dataAt/pageSize+emitPages-1)*8, dataAt|pteP|pteU)
		g.start()
		g.put(emitOther, machineCode("90 f4"))
		g.rip = emitOther
		if b := g.lookup(); g == e.compiled && !g.compile(b) {
			t.Fatal("not compiled")
		} else if g == e.compiled {
			g.native.enter(b)
		}
	}
	return e
}

// word is a number of any size, sometimes one with many ones or zeros at its end.
func (e *emitTest) word() uint64 {
	switch e.IntN(4) {
	case 0:
		return uint64(e.IntN(pageSize))
	case 1:
		return -uint64(e.IntN(3)) << e.IntN(64)
	}
	return e.Uint64() >> e.IntN(64)
}

// place is an address for an operand: mostly of data, sometimes across pages or where no access is simple.
func (e *emitTest) place() uint64 {
	switch e.IntN(12) {
	case 0:
		return dataAt + pageSize*uint64(e.IntN(emitPages)) - uint64(e.IntN(16))
	case 1:
		return codeAt + pageSize + uint64(e.IntN(pageSize))
	case 2:
		return busAt + uint64(e.IntN(pageSize))
	case 3:
		return e.word()
	case 4:
		return dataAt + uint64(e.IntN(pageSize))&^15
	}
	return dataAt + uint64(e.IntN(emitPages*pageSize-16))
}

// slot is a register or, now and then, a temporary.
func (e *emitTest) slot() uint8 {
	if e.IntN(8) == 0 {
		return t0 + uint8(e.IntN(5))
	}
	return uint8(e.IntN(16))
}

// immediate is one that is sign-extended from 32 bits.
func (e *emitTest) immediate() uint64 { return uint64(int64(int32(e.Uint32() >> e.IntN(32)))) }

// of tells whether op is one of the n micro-operations from first on.
func of(op, first opcode, n int) bool { return op >= first && op < first+opcode(n) }

// emitForm says which operands an opcode takes besides those that all may have.
func emitForm(op opcode) (source, shift, fused, branch bool) {
	source = of(op, uAddR8, int(uTestM64-uAddR8)+1) || of(op, uMov8, 4) || of(op, uStore8, 4) || op == uPush || op == uBt ||
		slices.Contains(quiets[:], op) && op < uIncR32Quiet
	for _, first := range []opcode{uRolR8, uRorR8, uShlR8, uShrR8, uSarR8} {
		source = source || of(op, first, shiftI)
		shift = shift || of(op, first+shiftI, 2)
	}
	for _, first := range []opcode{uRolI32Quiet, uRorI32Quiet, uShlI32Quiet, uShrI32Quiet, uSarI32Quiet} {
		shift = shift || of(op, first, 2)
	}
	for _, f := range fusions {
		fused = fused || f.op == op
	}
	return source, shift, fused, of(op, uJO, 16) || op == uJmp || op == uCall
}

// make makes a micro-operation, the registers for it, and which ways out of its block are near.
func (e *emitTest) make(op opcode) (u uop, r [rPage]uint64, near [2]bool) {
	for i := range r {
		r[i] = e.word()
	}
	clear(r[rZero:rFS])
	r[rIP], r[rFS], r[rGS] = emitAt, e.Uint64()>>40, e.Uint64()>>40
	r[vmm.RSP], r[vmm.RBP] = e.place(), e.place()
	register := func() uint8 { return uint8(e.IntN(16)) }
	u = uop{fn: fnNumber(op), op: op, len: 2 + uint8(e.IntN(4)), dst: e.slot(), src: e.slot(),
		base:  [...]uint8{rZero, rIP, tEA, register(), register(), register()}[e.IntN(6)],
		index: [...]uint8{rZero, register()}[e.IntN(2)],
		seg:   [...]uint8{rZero, rZero, rFS, rGS}[e.IntN(4)],
		shift: uint8(e.IntN(4)),
	}
	// Where the operand is to be.
	if d := e.place() - (r[u.base] + r[u.index]<<u.shift + r[u.seg]); d == uint64(int64(int32(d))) {
		u.disp = int32(d)
	} else if u.base < 16 || u.base == tEA {
		r[u.base] += d
	}
	near = [2]bool{true, true}
	source, shift, fused, branch := emitForm(op)
	rel := int64(e.IntN(0x200)) - 0x100
	switch {
	case fused:
		u.imm = uint64(rel) << 32
		if e.IntN(2) == 0 {
			u.src, u.imm = rZero, u.imm|uint64(uint32(e.immediate()))
		}
	case branch:
		if e.IntN(2) == 0 {
			near[1] = false
			rel = [...]int64{int64(int32(e.Uint32())), emitOther - emitAt - int64(u.len)}[e.IntN(2)]
		}
		if !of(op, uJO, 16) {
			near[0] = near[1]
		}
		u.imm = uint64(rel)
	case op == uJmpR, op == uCallR, op == uRet:
		near[0] = false
		to := [...]uint64{emitOther, e.word()}[e.IntN(2)]
		r[u.src] = to
		if op == uRet {
			u.imm = uint64(e.IntN(3)) * 8
			r[vmm.RSP] = dataAt + uint64(e.IntN(pageSize))
			for _, g := range []*guest{e.compiled, e.reference} {
				if !g.store64(r[vmm.RSP], to) {
					e.t.Fatal("no stack")
				}
			}
		}
	case shift:
		width := 32
		if micro[op].name[4:6] == "64" {
			width = 64
		}
		u.imm = 1 + uint64(e.IntN(width-1))
	case of(op, uImul32, 4):
		u.index = u.dst
		if e.IntN(2) == 0 {
			u.index, u.imm = rZero, e.immediate()
		}
	case op == uConst:
		u.imm = e.word()
	case op == uAddr32:
		u.imm = 0xffff_ffff
	case source && e.IntN(2) == 0:
		u.src, u.imm = rZero, e.immediate()
		if op == uMov64 {
			u.imm = e.word()
		}
	}
	if op == uBt {
		u.shift = [...]uint8{15, 31, 63}[e.IntN(3)]
	}
	return u, r, near
}

// emitOutcome is what a micro-operation can change, but for memory and TLBs.
type emitOutcome struct {
	r                [rPage]uint64
	v                [32]vec
	flags, rip, left uint64
	stop             stop
	exc              exception
}

// run executes u, which begins a block, in a state, and returns what comes out.
func (e *emitTest) run(g *guest, b *block, r *[rPage]uint64, flags uint64, arithmetic bool) emitOutcome {
	c := g.CPU
	copy(c.r[:], r[:])
	for i := range c.fpu.v {
		c.fpu.v[i] = vec{uint64(i) * 0x0123_4567_89ab_cdef, r[i%16]}
	}
	if c.setArith(flags); arithmetic { // flags that are not put together
		c.sub(flags>>32, flags, 32)
	}
	c.stop, c.exc, c.left, c.rip = 0, exception{}, uint64(b.n), emitAt
	if g == e.compiled {
		before := g.native.At()
		if !c.compile(b) {
			e.t.Fatal("not compiled")
		}
		if size := g.native.At() - before; size > maxUopCode+maxBlockCode {
			e.t.Fatalf("%v: %d bytes of code", b.ops, size)
		}
		if next := c.compiled(b); next != nil {
			e.t.Fatalf("%v: execution goes on", b.ops)
		}
	} else {
		c.left -= uint64(b.n)
		c.cur, c.r[rIP] = b, c.rip
		for i := range b.ops {
			if u := &b.ops[i]; !u.do(c) {
				c.stopped(u)
				break
			}
		}
	}
	c.r[rIP] = 0 // is not set if nothing is executed in Go
	return emitOutcome{[rPage]uint64(c.r[:]), c.fpu.v, c.arith(), c.rip, c.left, c.stop, c.exc}
}

func (e *emitTest) check(op opcode) {
	u, r, near := e.make(op)
	b := &block{ops: []uop{u}, n: 1, near: near, phys: emitAt}
	if _, _, fused, branch := emitForm(op); !fused && !branch && !of(op, uRet, 3) && op != uCallR && op != uGoto {
		b.ops = append(b.ops, uop{fn: fnNumber(uGoto), op: uGoto, off: uint16(u.len), n: 1})
	}
	flags, arithmetic := e.Uint64(), e.IntN(2) == 0
	if e.IntN(50) == 0 {
		e.compiled.tlb.flush(true)
		e.reference.tlb.flush(true)
	}
	got := e.run(e.compiled, b, &r, flags, arithmetic)
	want := e.run(e.reference, b, &r, flags, arithmetic)
	if got != want {
		e.t.Errorf("%v %+v, near %v, with r %x, flags %x:\ncompiled  %+v\nreference %+v", op, u, near, r, flags, got, want)
	}
	const data, size = dataAt - pageSize, (emitPages + 2) * pageSize
	if !bytes.Equal(e.compiled.ram.View(data, size), e.reference.ram.View(data, size)) {
		e.t.Errorf("%v %+v, with r %x, flags %x: memory differs", op, u, r, flags)
	}
	for i, a := range e.compiled.rd {
		if a.head != e.reference.rd[i].head || e.compiled.wr[i].head != e.reference.wr[i].head || e.compiled.ex[i].head != e.reference.ex[i].head {
			e.t.Errorf("%v %+v, with r %x: TLB entry %d differs", op, u, r, i)
		}
	}
}

// TestEmitters executes each micro-operation that is compiled, with random operands and in random states, and compares
// everything with what its function does. Those that stand for whole instructions are TestCorpus's and TestSilicon's.
func TestEmitters(t *testing.T) {
	e := newEmitTest(t)
	times := 500
	if testing.Short() {
		times = 50
	}
	for op := uNone + 1; op < numOpcodes; op++ {
		if emitters[op] == nil || op == uInst {
			continue
		}
		for range times {
			if e.check(op); t.Failed() {
				return
			}
		}
	}
}
