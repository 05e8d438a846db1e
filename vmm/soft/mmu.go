package soft

import (
	"encoding/binary"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// access says what an access to memory is, for the checks of paging (SDM vol. 3A, 4.6).
type access uint8

const (
	accWrite  access = 1 << iota // or is going to
	accUser                      // made at CPL 3
	accFetch                     // of an instruction
	accSystem                    // the CPU's own: descriptors, task state, frames of exceptions
)

// head is what TLB entries for data and for code have in common.
type head struct {
	// tag is the page's linear address if accesses may go straight to page; with tagSlow set
	// it is valid, but accesses take the slow path; tagNone is no page's.
	tag uint64
	// shift is the size of the page in the guest's tables, as a power of two.
	shift uint8
	// global is 1 for a global page. listed has bit n set if the entry is in tlb.filled[n].
	global, listed uint8
}

// tlb holds the translations for supervisor mode (index 0) and for user mode (1). An entry of
// wr is for a page that may be written and is marked dirty.
type tlb struct {
	rd, wr [2][tlbSize]tlbEntry
	ex     [2][tlbSize]codeEntry
	// never has no entries. It takes the place of rd and wr while each access must be looked at.
	never [tlbSize]tlbEntry
	// filled lists the entries that may be valid, those of global pages last, so that a flush looks at
	// these only.
	filled [2]struct {
		n       int
		entries [6 * tlbSize]*head
	}
	// large has a bit for each 2 MiB of linear addresses, modulo its size, in which there may be entries
	// for parts of larger pages.
	large [16]uint64
}

// fill makes h the entry of the page at linear address a.
func (t *tlb) fill(h *head, a uint64, w *walked) {
	h.tag, h.shift, h.global = a&^pageMask, w.shift, w.global
	if l := &t.filled[w.global]; h.listed&(1<<w.global) == 0 {
		h.listed |= 1 << w.global
		l.entries[l.n] = h
		l.n++
	}
	// Regions of 2 MiB that the page covers: one, two, or all in half of the bits.
	switch region := a >> 21; {
	case w.shift == 30:
		half := t.large[region/512%2*8:][:8]
		for i := range half {
			half[i] = ^uint64(0)
		}
	case w.shift > 12:
		n := uint64(1) << (w.shift - 21)
		region &^= n - 1
		t.large[region/64%16] |= (1<<n - 1) << (region % 64)
	}
}

// flush drops the entries of all pages, or of those that are not global.
func (t *tlb) flush(global bool) {
	t.flushList(0)
	if global {
		t.flushList(1)
		clear(t.large[:])
	}
}

func (t *tlb) flushList(global uint8) {
	l := &t.filled[global]
	for _, h := range l.entries[:l.n] {
		h.listed &^= 1 << global
		if h.global == global {
			h.tag = tagNone
		}
	}
	l.n = 0
}

// drop drops the entries of the page that linear address a lies in.
func (t *tlb) drop(a uint64) {
	i := a / pageSize % tlbSize
	for mode := range 2 {
		for _, h := range [...]*head{&t.rd[mode][i].head, &t.wr[mode][i].head, &t.ex[mode][i].head} {
			if h.tag&^tagSlow == a&^pageMask {
				h.tag = tagNone
			}
		}
	}
	if t.large[a>>21/64%16]&(1<<(a>>21%64)) == 0 {
		return
	}
	for i := range t.filled {
		l := &t.filled[i]
		for _, h := range l.entries[:l.n] {
			if (h.tag^a)>>h.shift == 0 {
				h.tag = tagNone
			}
		}
	}
}

// dropCode drops the entries for instruction fetches.
func (t *tlb) dropCode() {
	for mode := range t.ex {
		for i := range t.ex[mode] {
			t.ex[mode][i].tag = tagNone
		}
	}
}

// reset makes all entries invalid, those of a new tlb as well.
func (t *tlb) reset() {
	t.flush(true)
	for i := range tlbSize {
		t.never[i].tag = tagNone
		for mode := range 2 {
			t.rd[mode][i].tag, t.wr[mode][i].tag, t.ex[mode][i].tag = tagNone, tagNone, tagNone
		}
	}
}

// selectTLB makes accesses use the TLBs that are right for the current privilege level and for what
// is being watched.
func (c *CPU) selectTLB() {
	mode := c.userAccess() >> 1
	c.ex = &c.tlb.ex[mode]
	c.rd, c.wr = &c.tlb.rd[mode], &c.tlb.wr[mode]
	c.aligned = c.cpl == 3 && c.cr0&cr0AM != 0 && c.flags&flagAC != 0
	if c.watched = c.aligned || c.dataBreakpoints(); c.watched {
		c.rd, c.wr = &c.tlb.never, &c.tlb.never
	}
}

// userAccess is accUser at CPL 3.
func (c *CPU) userAccess() access {
	if c.cpl == 3 {
		return accUser
	}
	return 0
}

// Bits of entries in paging structures (SDM vol. 3A, 4.3 to 4.5).
const (
	pteP  = 1 << 0
	pteW  = 1 << 1
	pteU  = 1 << 2
	pteA  = 1 << 5
	pteD  = 1 << 6
	ptePS = 1 << 7
	pteG  = 1 << 8
	pteNX = 1 << 63
)

// physBits is the width of physical addresses, which CPUID tells.
const physBits = 40

const physMask = 1<<physBits - 1

// Bits of the error code of #PF (SDM vol. 3A, 4.7).
const (
	pfPresent  = 1 << 0
	pfWrite    = 1 << 1
	pfUser     = 1 << 2
	pfReserved = 1 << 3
	pfFetch    = 1 << 4
)

// walked is the outcome of a walk through the paging structures.
type walked struct {
	phys   uint64 // of the 4 KiB page
	shift  uint8
	global uint8
	// writable is set if the page can be written with the same privilege and is marked dirty.
	writable bool
}

// pagingEntry is an entry that a walk used.
type pagingEntry struct{ addr, value uint64 }

// walk translates linear address a, and sets accessed and dirty bits. It does the latter only once it knows
// that the access is allowed, in the entries from the top down. If ok is false, stop is set.
func (c *CPU) walk(a uint64, acc access) (w walked, ok bool) {
	if c.cr0&cr0PG == 0 {
		return walked{phys: a &^ pageMask & 0xffff_ffff, shift: 12, writable: true}, true
	}
	var used [4]pagingEntry
	n := 0
	table, bits, size := c.cr3&physMask&^pageMask, uint8(9), uint64(8)
	reserved := uint64((1<<52 - 1) &^ physMask)
	if c.efer&eferNXE == 0 {
		reserved |= pteNX
	}
	allowed := uint64(pteW | pteU)
	nx := uint64(0)
	switch {
	case c.efer&eferLMA != 0:
		w.shift = 48
	case c.cr4&cr4PAE != 0:
		// The entries that MOV CR3 loads into the CPU are read here each time, as a CPU may do
		// for all that software can rely on (AMD APM vol. 2, 5.2.3). They have no rights.
		e := c.readPhys(c.cr3&0xffff_ffe0+a>>30&3*8, 8)
		switch {
		case e&pteP == 0:
			return w, c.pageFault(a, acc, 0)
		case e&pdpteReserved != 0:
			return w, c.pageFault(a, acc, pfPresent|pfReserved)
		}
		reserved |= 0x7ff << 52
		table, w.shift = e&physMask&^pageMask, 30
	default:
		w.shift, bits, size, reserved = 32, 10, 4, 0
	}
	var e uint64
	for large := false; !large && w.shift > 12; n++ {
		w.shift -= bits
		p := table + a>>w.shift&(1<<bits-1)*size
		e = c.readPhys(p, size)
		used[n] = pagingEntry{p, e}
		if e&pteP == 0 {
			return w, c.pageFault(a, acc, 0)
		}
		bad := reserved
		if w.shift > 12 && e&ptePS != 0 {
			switch {
			case size == 4:
				large = c.cr4&cr4PSE != 0
				if large {
					bad |= 1 << 21
				}
			case w.shift == 39:
				bad |= ptePS
			default:
				large = true
				bad |= (1<<w.shift - 1) &^ 0x1fff
			}
		}
		if e&bad != 0 {
			return w, c.pageFault(a, acc, pfPresent|pfReserved)
		}
		allowed &= e
		nx |= e & pteNX
		table = e & physMask &^ pageMask
	}
	write := allowed&pteW != 0 || acc&accUser == 0 && c.cr0&cr0WP == 0
	if acc&accUser != 0 && allowed&pteU == 0 || acc&accWrite != 0 && !write || acc&accFetch != 0 && nx != 0 {
		return w, c.pageFault(a, acc, pfPresent)
	}

	dirty := uint64(0)
	if acc&accWrite != 0 {
		dirty = pteD
	}
	for i := range n {
		mark := uint64(pteA)
		if i == n-1 {
			mark |= dirty
		}
		used[i].value = mark &^ used[i].value
		if used[i].value != 0 && acc&accFetch == 0 && !c.mayModify(used[i].addr, 1) {
			c.stop = stopRedo
			return w, false
		}
	}
	for _, u := range used[:n] {
		if u.value != 0 {
			// Both bits are in the low byte.
			if b := c.ram.View(vmm.GPA(u.addr), 1); b != nil {
				c.modified(u.addr, 1)
				b[0] |= byte(u.value)
			}
		}
	}
	if size == 4 && w.shift > 12 { // PSE-36: bits 13 to 20 are bits 32 to 39 of the address
		e = e&0xffc0_0000 | e>>13&0xff<<32
	}
	offset := uint64(1)<<w.shift - 1
	w.phys = (e&physMask&^offset | a&offset) &^ pageMask
	w.writable = write && (e|dirty)&pteD != 0
	if c.cr4&cr4PGE != 0 {
		w.global = uint8(e / pteG & 1)
	}
	return w, true
}

// pdpteReserved are the bits that must be 0 in a page-directory-pointer-table entry of PAE paging.
const pdpteReserved = (1<<64-1)&^physMask | 0x1e6

// readPhys reads an entry of a paging structure. Outside RAM all bits are 1.
func (c *CPU) readPhys(a, size uint64) uint64 {
	b := c.ram.View(vmm.GPA(a), size)
	switch {
	case b == nil:
		return 1<<(8*size) - 1
	case size == 4:
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

// pageFault raises #PF with the given bits of the error code, and those that follow from the access.
func (c *CPU) pageFault(a uint64, acc access, code uint32) bool {
	if acc&accWrite != 0 {
		code |= pfWrite
	}
	if acc&accUser != 0 {
		code |= pfUser
	}
	if acc&accFetch != 0 && c.efer&eferNXE != 0 && c.cr4&cr4PAE != 0 {
		code |= pfFetch
	}
	c.exc = exception{vector: excPF, code: code, hasCode: true, addr: a}
	c.stop = stopFault
	return false
}

// canonical tells whether a is an address that 48 bits make, sign-extended (SDM vol. 1, 3.3.7.1).
func canonical(a uint64) bool { return uint64(int64(a<<16)>>16) == a }

// badAddress raises #GP(0) or, for accesses to the stack, #SS(0), because a is not canonical. Which
// of the two is found out when the exception is delivered.
func (c *CPU) badAddress(a uint64) bool {
	c.exc = exception{vector: excGP, hasCode: true, addr: a, notCanonical: true}
	c.stop = stopFault
	return false
}

// entry finds or makes the TLB entry for an access to data at linear address a, which is canonical. It
// returns nil after a fault, with stop set.
func (c *CPU) entry(a uint64, acc access) *tlbEntry {
	i, mode := a/pageSize%tlbSize, acc>>1&1
	e := &c.tlb.rd[mode][i]
	if acc&accWrite != 0 {
		e = &c.tlb.wr[mode][i]
	}
	if e.tag&^tagSlow == a&^pageMask {
		return e
	}
	w, ok := c.walk(a, acc)
	if !ok {
		return nil
	}
	page := c.ramPage(w.phys)
	slow, slowWrite := uint64(0), uint64(0)
	if page == nil {
		slow, slowWrite = tagSlow, tagSlow
	} else if c.code.lines[c.frame(w.phys)] != 0 {
		slowWrite = tagSlow
	}
	rd := &c.tlb.rd[mode][i]
	c.tlb.fill(&rd.head, a, &w)
	rd.tag |= slow
	rd.page, rd.phys = page, w.phys
	if w.writable {
		wr := &c.tlb.wr[mode][i]
		c.tlb.fill(&wr.head, a, &w)
		wr.tag |= slowWrite
		wr.page, wr.phys = page, w.phys
	}
	return e
}

// ramPage is the page of RAM at physical address a, nil if there is none.
func (c *CPU) ramPage(a uint64) *[pageSize]byte {
	if b := c.ram.View(vmm.GPA(a), pageSize); b != nil {
		return (*[pageSize]byte)(b)
	}
	return nil
}

// fetchSlow is fetchPage after a miss of the TLB.
func (c *CPU) fetchSlow(lin uint64) *codePage {
	if !canonical(lin) {
		c.faultCode(excGP, 0)
		return nil
	}
	e := &c.ex[lin/pageSize%tlbSize]
	if e.tag != lin&^pageMask { // else the code was dropped, and the translation was not
		w, ok := c.walk(lin, c.userAccess()|accFetch)
		if !ok {
			return nil
		}
		c.tlb.fill(&e.head, lin, &w)
		e.phys = w.phys
	}
	e.page = c.codePage(e.phys)
	return e.page
}

// slowStores makes stores to the page at physical address a take the slow path: code in it was decoded.
func (c *CPU) slowStores(a uint64) {
	for mode := range c.tlb.wr {
		for i := range c.tlb.wr[mode] {
			if e := &c.tlb.wr[mode][i]; e.tag != tagNone && e.phys == a&^pageMask {
				e.tag |= tagSlow
			}
		}
	}
}

// isAlone tells whether no block is being executed that an access could change, and the bus may be reached.
func (c *CPU) isAlone() bool { return c.stepping || c.delivering }

// mayModify tells whether n bytes of RAM at physical address a, in one page, may be written now.
func (c *CPU) mayModify(a, n uint64) bool {
	if c.isAlone() || c.ram.View(vmm.GPA(a), n) == nil {
		return true
	}
	return c.code.lines[c.frame(a)]&lineMask(a&pageMask, n) == 0
}

// span is where an access of at most a page lies: n bytes from offset o of page e, and the rest
// at the start of page f.
type span struct {
	e, f *tlbEntry
	o, n uint64
	acc  access
}

// span translates and checks an access of n bytes at linear address a. If ok is false, stop is set, and
// nothing was changed but accessed and dirty bits.
func (c *CPU) span(a, n uint64, acc access) (s span, ok bool) {
	last := a + n - 1
	if acc&accSystem == 0 && c.mode != x86.Mode64 || c.efer&eferLMA == 0 {
		last &= 0xffff_ffff
	}
	if !canonical(a) {
		return s, c.badAddress(a)
	}
	if !canonical(last) {
		return s, c.badAddress(last)
	}
	watched := c.watched && acc&accSystem == 0
	if watched && !c.checkAlignment(a, n) {
		return s, false
	}
	s = span{o: a & pageMask, n: n, acc: acc}
	if s.e = c.entry(a, acc); s.e == nil {
		return s, false
	}
	if s.o+n > pageSize {
		s.n = pageSize - s.o
		if s.f = c.entry(last&^pageMask, acc); s.f == nil {
			return s, false
		}
	}
	if !c.ready(s.e, s.o, s.n, acc) || s.f != nil && !c.ready(s.f, 0, n-s.n, acc) {
		c.stop = stopRedo
		return s, false
	}
	if watched {
		c.watch(a, n, acc)
	}
	return s, true
}

// ready tells whether an access may be made now, and not only once its instruction is executed alone.
func (c *CPU) ready(e *tlbEntry, o, n uint64, acc access) bool {
	if e.page == nil {
		return c.isAlone() || acc&accSystem != 0
	}
	return acc&accWrite == 0 || c.mayModify(e.phys+o, n)
}

// read fills p, which has the length of the access.
func (c *CPU) read(s *span, p []byte) {
	c.readPage(s.e, s.o, p[:s.n], s.acc)
	if s.f != nil {
		c.readPage(s.f, 0, p[s.n:], s.acc)
	}
}

// write writes p, which has the length of the access.
func (c *CPU) write(s *span, p []byte) {
	c.writePage(s.e, s.o, p[:s.n], s.acc)
	if s.f != nil {
		c.writePage(s.f, 0, p[s.n:], s.acc)
	}
}

func (c *CPU) readPage(e *tlbEntry, o uint64, p []byte, acc access) {
	switch {
	case e.page != nil:
		copy(p, e.page[o:])
	case acc&accSystem != 0:
		for i := range p {
			p[i] = 0xff
		}
	default:
		c.touched = true
		for n := 0; n < len(p); n += 8 {
			k := min(8, len(p)-n)
			c.bus.MemIn(vmm.GPA(e.phys+o)+vmm.GPA(n), c.io[:k])
			copy(p[n:], c.io[:k])
		}
	}
}

func (c *CPU) writePage(e *tlbEntry, o uint64, p []byte, acc access) {
	switch {
	case e.page != nil:
		c.modified(e.phys+o, uint64(len(p)))
		copy(e.page[o:], p)
		if e.tag&tagSlow != 0 && c.code.lines[c.frame(e.phys)] == 0 {
			e.tag &^= tagSlow
		}
	case acc&accSystem == 0:
		c.touched = true
		for n := 0; n < len(p); n += 8 {
			k := copy(c.io[:], p[n:])
			c.bus.MemOut(vmm.GPA(e.phys+o)+vmm.GPA(n), c.io[:k])
		}
	}
}

// loadSlow is load for what is not in one page of RAM that the TLB has.
func (c *CPU) loadSlow(a uint64, size uint8) (uint64, bool) {
	return c.loadAs(a, size, c.userAccess())
}

// loadWSlow is loadSlow for an operand that will be written.
func (c *CPU) loadWSlow(a uint64, size uint8) (uint64, bool) {
	return c.loadAs(a, size, c.userAccess()|accWrite)
}

// storeSlow is store for what is not in one page of RAM that the TLB has.
func (c *CPU) storeSlow(a, v uint64, size uint8) bool {
	return c.storeAs(a, v, size, c.userAccess()|accWrite)
}

// loadAs reads size bytes, 1 to 8, little-endian.
func (c *CPU) loadAs(a uint64, size uint8, acc access) (uint64, bool) {
	s, ok := c.span(a, uint64(size), acc)
	if !ok {
		return 0, false
	}
	var p [8]byte
	c.read(&s, p[:size])
	return binary.LittleEndian.Uint64(p[:]), true
}

// storeAs writes size bytes, 1 to 8, little-endian.
func (c *CPU) storeAs(a, v uint64, size uint8, acc access) bool {
	s, ok := c.span(a, uint64(size), acc)
	if !ok {
		return false
	}
	var p [8]byte
	binary.LittleEndian.PutUint64(p[:], v)
	c.write(&s, p[:size])
	return true
}

// loadSystem and storeSystem access what is the CPU's own, with supervisor rights: descriptor
// tables and task state.
func (c *CPU) loadSystem(a uint64, size uint8) (uint64, bool) {
	return c.loadAs(c.systemLinear(a), size, accSystem)
}

func (c *CPU) storeSystem(a, v uint64, size uint8) bool {
	return c.storeAs(c.systemLinear(a), v, size, accSystem|accWrite)
}

// systemLinear makes a linear address of one that may have gone past the end of the address space.
func (c *CPU) systemLinear(a uint64) uint64 {
	if c.efer&eferLMA == 0 {
		a &= 0xffff_ffff
	}
	return a
}

// loadBlock reads len(p) bytes, at most a page, that one instruction reads as a whole.
func (c *CPU) loadBlock(a uint64, p []byte) bool {
	s, ok := c.span(a, uint64(len(p)), c.userAccess())
	if ok {
		c.read(&s, p)
	}
	return ok
}

// storeBlock writes len(p) bytes, at most a page, that one instruction writes as a whole.
func (c *CPU) storeBlock(a uint64, p []byte) bool {
	s, ok := c.span(a, uint64(len(p)), c.userAccess()|accWrite)
	if ok {
		c.write(&s, p)
	}
	return ok
}

// probe checks that n bytes at a, at most a page, can be read and written now. It makes no access.
func (c *CPU) probe(a, n uint64) bool {
	_, ok := c.span(a, n, c.userAccess()|accWrite)
	return ok
}

// load128Slow is load128 for what is not in one page of RAM that the TLB has.
func (c *CPU) load128Slow(a uint64, acc access) (lo, hi uint64, ok bool) {
	s, ok := c.span(a, 16, c.userAccess()|acc)
	if !ok {
		return 0, 0, false
	}
	var p [16]byte
	c.read(&s, p[:])
	return binary.LittleEndian.Uint64(p[:]), binary.LittleEndian.Uint64(p[8:]), true
}

// store128Slow is store128 for what is not in one page of RAM that the TLB has.
func (c *CPU) store128Slow(a, lo, hi uint64) bool {
	s, ok := c.span(a, 16, c.userAccess()|accWrite)
	if !ok {
		return false
	}
	var p [16]byte
	binary.LittleEndian.PutUint64(p[:], lo)
	binary.LittleEndian.PutUint64(p[8:], hi)
	c.write(&s, p[:])
	return true
}
