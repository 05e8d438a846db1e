package soft

import (
	"slices"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// maxBlock is codeCache.longest but in tests. It fits uop.n.
const maxBlock = 64

// block is a run of instructions within one page, lowered. It is entered at its first and left at its last
// micro-operation, by a fault, or by a stop.
type block struct {
	ops []uop
	// n is how many positions the block takes. A REP string at its end, which takes as many as it
	// finds, is not counted in.
	n uint8
	// fused is set if the last micro-operation stands for the last two instructions.
	fused bool
	// near tells for each way out of the block whether it always leads to the same place in the same page;
	// link is the block there, once it was looked up.
	near [2]bool
	link [2]*block
	// insts are the instructions for opInst.
	insts []instruction
	// phys is the physical address of a block that is kept, noTarget for others.
	phys uint64
	// code is the offset of the block's machine code (see native), 0 if it has none. heat counts towards it. sites
	// are the places in it to link the ways out at. floats is set if it computes with floating point.
	code   uint32
	heat   uint16
	floats bool
	sites  [2]uint32
}

// codePage is what is known of the code in one page of RAM, decoded in one mode.
type codePage struct {
	mem *[pageSize]byte
	// other is the same page in another mode.
	other  *codePage
	blocks []*block
	// index is a hash table of the numbers of blocks, plus 1, by the offsets at which they begin: a power of two of places,
	// at least half of which are 0. Whose place is taken has one of the next.
	index []uint16
	phys  uint64
	mode  x86.Mode
	// keep is set for pages of RAM: their blocks are kept.
	keep bool
}

// find finds the block that begins at an offset, or nil.
func (p *codePage) find(offset uint64) *block {
	for i := offset; len(p.index) > 0; i++ {
		k := p.index[i&uint64(len(p.index)-1)]
		if k == 0 {
			break
		}
		if b := p.blocks[k-1]; b.phys&pageMask == offset {
			return b
		}
	}
	return nil
}

// add adds a block.
func (p *codePage) add(b *block) {
	p.blocks = append(p.blocks, b)
	if 2*len(p.blocks) <= len(p.index) {
		p.enter(len(p.blocks))
		return
	}
	p.index = make([]uint16, max(minIndex, 2*len(p.index)))
	for k := range p.blocks {
		p.enter(k + 1)
	}
}

// minIndex is how many places an index begins with.
const minIndex = 16

// enter puts block number k-1 into the index.
func (p *codePage) enter(k int) {
	i := p.blocks[k-1].phys & pageMask
	for p.index[i&uint64(len(p.index)-1)] != 0 {
		i++
	}
	p.index[i&uint64(len(p.index)-1)] = uint16(k)
}

// codeEntry is an entry of the TLB for instruction fetches.
type codeEntry struct {
	head
	page *codePage
	phys uint64 // the page's physical address
}

// codeCache is all code that was decoded.
type codeCache struct {
	// pages is indexed by page frame, counted without the hole in guest physical memory.
	pages []*codePage
	// lines has a bit for each 64 bytes of each page of RAM: set if code was decoded from there.
	lines []uint64
	// blocks, ops and insts are where those of all pages are.
	blocks slab[block]
	ops    slab[uop]
	insts  slab[instruction]
	// limit is maxUops but in tests.
	limit int
	// alone is the block for an instruction that is executed by itself.
	alone block
	// longest is the most instructions in a block.
	longest uint8
	// nowhere stands for all pages outside RAM.
	nowhere codePage
	lower   lowerer
}

// linear makes a linear address for a fetch out of one that may have gone past the end of the address space.
func (c *CPU) linear(a uint64) uint64 {
	if c.mode != x86.Mode64 {
		a &= 0xffff_ffff
	}
	return a
}

// fetchAddr is the linear address of the instruction at rip. If it returns false, stop is set.
func (c *CPU) fetchAddr() (uint64, bool) {
	if c.mode == x86.Mode64 {
		return c.rip, true
	}
	c.rip &= 0xffff_ffff
	if c.rip > uint64(c.seg[vmm.CS].Limit) {
		return 0, c.faultCode(excGP, 0)
	}
	return c.linear(c.rip + c.seg[vmm.CS].Base), true
}

// lookup finds or makes the block at rip. It returns nil after a fault, with stop set.
func (c *CPU) lookup() *block {
	lin, ok := c.fetchAddr()
	if !ok {
		return nil
	}
	p := c.fetchPage(lin)
	if p == nil {
		return nil
	}
	if b := p.find(lin & pageMask); b != nil {
		return b
	}
	return c.build(p, lin)
}

// fetchPage translates for an instruction fetch. It returns nil after a fault, with stop set.
func (c *CPU) fetchPage(lin uint64) *codePage {
	e := &c.ex[lin/pageSize%tlbSize]
	if e.tag == lin&^pageMask && e.page != nil {
		return e.page
	}
	return c.fetchSlow(lin)
}

// build decodes and keeps the block at linear address lin, which lies in p.
func (c *CPU) build(p *codePage, lin uint64) *block {
	if p.keep && c.code.full() {
		c.forgetCode()
		p = c.fetchPage(lin)
	}
	l := &c.code.lower
	start := lin & pageMask
	l.begin(c.mode, p.keep, start)
	at := start
	for !l.done && l.n < c.code.longest && at < pageSize {
		err := x86.Decode(p.mem[at:], c.mode, &l.in)
		if err == x86.ErrShort {
			if at == start {
				return c.alone(lin)
			}
			break
		}
		l.instruction(err)
		at += uint64(l.in.Len)
	}
	if !l.done {
		l.fallThrough()
	}
	silence(l.ops)
	b := block{ops: l.ops, insts: l.insts, n: l.n, fused: l.fused, near: l.near, phys: noTarget}
	if !p.keep {
		b.ops, b.insts = slices.Clone(b.ops), slices.Clone(b.insts)
		return &b
	}
	b.phys = p.phys | start
	return c.keep(p, start, at, b)
}

// decode decodes the instruction at linear address lin into code.lower.in, wherever it ends. If ok is false, fetching
// it faulted, and stop is set.
func (c *CPU) decode(lin uint64) (err error, ok bool) {
	p := c.fetchPage(lin)
	if p == nil {
		return nil, false
	}
	in := &c.code.lower.in
	err = x86.Decode(p.mem[lin&pageMask:], c.mode, in)
	if err == x86.ErrShort {
		// The instruction goes on in the next page.
		q := c.fetchPage(c.linear((lin | pageMask) + 1))
		if q == nil {
			return nil, false
		}
		var code [x86.MaxLen]byte
		n := copy(code[:], p.mem[lin&pageMask:])
		copy(code[n:], q.mem[:])
		err = x86.Decode(code[:], c.mode, in)
	}
	return err, true
}

// alone makes the block of the one instruction at lin. It is good until the next call. It returns nil
// after a fault, with stop set.
func (c *CPU) alone(lin uint64) *block {
	l := &c.code.lower
	l.begin(c.mode, false, lin&pageMask)
	err, ok := c.decode(lin)
	if !ok {
		return nil
	}
	l.instruction(err)
	if !l.done {
		l.fallThrough()
	}
	b := &c.code.alone
	*b = block{ops: append(b.ops[:0], l.ops...), insts: append(b.insts[:0], l.insts...), n: l.n, phys: noTarget}
	return b
}

// slab keeps values of a type in few large objects: whoever collects garbage has fewer to look after.
type slab[T any] struct {
	room []T
	kept int // values so far
}

// slabSize is how many values an object has.
const slabSize = 1 << 10

// keep returns a copy of v, which has at most slabSize values, that stays.
func (s *slab[T]) keep(v ...T) []T {
	if len(v) > len(s.room) {
		s.room = make([]T, slabSize)
	}
	s.kept += len(v)
	kept := s.room[:len(v):len(v)]
	s.room = s.room[len(v):]
	copy(kept, v)
	return kept
}

// maxUops bounds the micro-operations that are kept, and with them all memory for decoded code: that is some 100 MiB then.
const maxUops = 1 << 21

// full tells whether no more code can be kept. What was forgotten counts as well, as it may share its objects with what
// was not.
func (cc *codeCache) full() bool { return cc.ops.kept >= cc.limit }

// forgetCode drops all decoded code. The TLB for fetches keeps its translations: when that is depends on what was executed on
// this replica, and a guest can tell.
func (c *CPU) forgetCode() {
	cc := &c.code
	clear(cc.pages)
	cc.blocks, cc.ops, cc.insts = slab[block]{}, slab[uop]{}, slab[instruction]{}
	c.native.drop()
	for mode := range c.tlb.ex {
		for i := range c.tlb.ex[mode] {
			c.tlb.ex[mode][i].page = nil
		}
	}
}

// keep keeps block b, which begins at offset start of a page and ends before offset end, in the page's index.
func (c *CPU) keep(p *codePage, start, end uint64, b block) *block {
	b.ops, b.insts = c.code.ops.keep(b.ops...), c.code.insts.keep(b.insts...)
	kept := &c.code.blocks.keep(b)[0]
	p.add(kept)
	frame := c.frame(p.phys)
	if c.code.lines[frame] == 0 {
		c.slowStores(p.phys)
	}
	c.code.lines[frame] |= lineMask(start, end-start)
	return kept
}

// lineMask has a bit set for each line of 64 bytes that n bytes, at least one, from offset o of a page lie in.
func lineMask(o, n uint64) uint64 {
	first, last := o/64, (o+n-1)/64
	return ^uint64(0) << first & (^uint64(0) >> (63 - last))
}

// frame is the index of the page of RAM at physical address a.
func (c *CPU) frame(a uint64) uint64 {
	if a >= uint64(vmm.HoleEnd) {
		a -= uint64(vmm.HoleEnd - vmm.HoleStart)
	}
	return a / pageSize
}

// codePage is the page of code at physical address a. Outside RAM all bytes are FF, and nothing is kept.
func (c *CPU) codePage(a uint64) *codePage {
	mem := c.ram.View(vmm.GPA(a&^pageMask), pageSize)
	if mem == nil {
		c.code.nowhere.mode = c.mode
		return &c.code.nowhere
	}
	at := &c.code.pages[c.frame(a)]
	for p := *at; p != nil; p = p.other {
		if p.mode == c.mode {
			return p
		}
	}
	*at = &codePage{mem: (*[pageSize]byte)(mem), phys: a &^ pageMask, mode: c.mode, keep: true, other: *at}
	return *at
}

// modified drops the blocks of the page at physical address a, if any of n bytes there, which lie in that
// page, were decoded. Not while a block is being executed, unless it is that of an instruction alone.
func (c *CPU) modified(a, n uint64) {
	frame := c.frame(a)
	if c.code.lines[frame]&lineMask(a&pageMask, n) != 0 {
		c.code.pages[frame].forget(&c.native)
		c.code.lines[frame] = 0
	}
}

// forget drops the blocks of a page in all modes.
func (p *codePage) forget(n *native) {
	for ; p != nil; p = p.other {
		for _, b := range p.blocks {
			n.forget(b)
		}
		clear(p.index)
		p.blocks = p.blocks[:0]
	}
}
