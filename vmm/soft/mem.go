package soft

import "encoding/binary"

const (
	pageSize = 4096
	pageMask = pageSize - 1
)

// tlbSize is the number of entries of each TLB, which are direct-mapped by page number.
const tlbSize = 1024

// tlbEntry translates one page for accesses to data.
type tlbEntry struct {
	head
	page *[pageSize]byte // nil outside RAM
	phys uint64          // the page's physical address
}

// Marks in tags. They lie above the low bits of an address that a fast path may leave in, to find out with
// one comparison whether it is aligned as well.
const (
	tagSlow = 1 << 10
	tagNone = 1 << 11
)

// read8 to read64 are the bytes at a linear address that may be read at once, or nil; at8 to at64 those
// that may be written. They compare the last byte's page with the tag of the first one's entry: where the
// operand crosses a page these differ, as no entry holds the page after its own.

func (c *CPU) read8(a uint64) *[1]byte {
	if e := &c.rd[a/pageSize%tlbSize]; e.tag == a&^pageMask {
		return (*[1]byte)(e.page[a&pageMask:])
	}
	return nil
}

func (c *CPU) read16(a uint64) *[2]byte {
	if e := &c.rd[a/pageSize%tlbSize]; e.tag == (a+1)&^pageMask {
		return (*[2]byte)(e.page[a&pageMask:])
	}
	return nil
}

func (c *CPU) read32(a uint64) *[4]byte {
	if e := &c.rd[a/pageSize%tlbSize]; e.tag == (a+3)&^pageMask {
		return (*[4]byte)(e.page[a&pageMask:])
	}
	return nil
}

func (c *CPU) read64(a uint64) *[8]byte {
	if e := &c.rd[a/pageSize%tlbSize]; e.tag == (a+7)&^pageMask {
		return (*[8]byte)(e.page[a&pageMask:])
	}
	return nil
}

func (c *CPU) at8(a uint64) *[1]byte {
	if e := &c.wr[a/pageSize%tlbSize]; e.tag == a&^pageMask {
		return (*[1]byte)(e.page[a&pageMask:])
	}
	return nil
}

func (c *CPU) at16(a uint64) *[2]byte {
	if e := &c.wr[a/pageSize%tlbSize]; e.tag == (a+1)&^pageMask {
		return (*[2]byte)(e.page[a&pageMask:])
	}
	return nil
}

func (c *CPU) at32(a uint64) *[4]byte {
	if e := &c.wr[a/pageSize%tlbSize]; e.tag == (a+3)&^pageMask {
		return (*[4]byte)(e.page[a&pageMask:])
	}
	return nil
}

func (c *CPU) at64(a uint64) *[8]byte {
	if e := &c.wr[a/pageSize%tlbSize]; e.tag == (a+7)&^pageMask {
		return (*[8]byte)(e.page[a&pageMask:])
	}
	return nil
}

// load8 to load64 read a word at a linear address, as the current privilege level. If the result is false, stop is set.
func (c *CPU) load8(a uint64) (uint8, bool) {
	if p := c.read8(a); p != nil {
		return p[0], true
	}
	v, ok := c.loadSlow(a, 1)
	return uint8(v), ok
}

func (c *CPU) load16(a uint64) (uint16, bool) {
	if p := c.read16(a); p != nil {
		return binary.LittleEndian.Uint16(p[:]), true
	}
	v, ok := c.loadSlow(a, 2)
	return uint16(v), ok
}

func (c *CPU) load32(a uint64) (uint32, bool) {
	if p := c.read32(a); p != nil {
		return binary.LittleEndian.Uint32(p[:]), true
	}
	v, ok := c.loadSlow(a, 4)
	return uint32(v), ok
}

func (c *CPU) load64(a uint64) (uint64, bool) {
	if p := c.read64(a); p != nil {
		return binary.LittleEndian.Uint64(p[:]), true
	}
	return c.loadSlow(a, 8)
}

// store8 to store64 write a word at a linear address, as the current privilege level. If the result is false,
// stop is set and nothing was written.
func (c *CPU) store8(a uint64, v uint8) bool {
	if p := c.at8(a); p != nil {
		p[0] = v
		return true
	}
	return c.storeSlow(a, uint64(v), 1)
}

func (c *CPU) store16(a uint64, v uint16) bool {
	if p := c.at16(a); p != nil {
		binary.LittleEndian.PutUint16(p[:], v)
		return true
	}
	return c.storeSlow(a, uint64(v), 2)
}

func (c *CPU) store32(a uint64, v uint32) bool {
	if p := c.at32(a); p != nil {
		binary.LittleEndian.PutUint32(p[:], v)
		return true
	}
	return c.storeSlow(a, uint64(v), 4)
}

func (c *CPU) store64(a uint64, v uint64) bool {
	if p := c.at64(a); p != nil {
		binary.LittleEndian.PutUint64(p[:], v)
		return true
	}
	return c.storeSlow(a, v, 8)
}

// load reads size bytes, 1 to 8, little-endian.
func (c *CPU) load(a uint64, size uint8) (uint64, bool) {
	switch size {
	case 1:
		v, ok := c.load8(a)
		return uint64(v), ok
	case 2:
		v, ok := c.load16(a)
		return uint64(v), ok
	case 4:
		v, ok := c.load32(a)
		return uint64(v), ok
	case 8:
		return c.load64(a)
	}
	return c.loadSlow(a, size)
}

// store writes size bytes, 1 to 8, little-endian.
func (c *CPU) store(a, v uint64, size uint8) bool {
	switch size {
	case 1:
		return c.store8(a, uint8(v))
	case 2:
		return c.store16(a, uint16(v))
	case 4:
		return c.store32(a, uint32(v))
	case 8:
		return c.store64(a, v)
	}
	return c.storeSlow(a, v, size)
}

// loadW8 to loadW64 read a word that the instruction will write: they raise what the write would, so that the
// write does not fail later.
func (c *CPU) loadW8(a uint64) (uint8, bool) {
	if p := c.at8(a); p != nil {
		return p[0], true
	}
	v, ok := c.loadWSlow(a, 1)
	return uint8(v), ok
}

func (c *CPU) loadW16(a uint64) (uint16, bool) {
	if p := c.at16(a); p != nil {
		return binary.LittleEndian.Uint16(p[:]), true
	}
	v, ok := c.loadWSlow(a, 2)
	return uint16(v), ok
}

func (c *CPU) loadW32(a uint64) (uint32, bool) {
	if p := c.at32(a); p != nil {
		return binary.LittleEndian.Uint32(p[:]), true
	}
	v, ok := c.loadWSlow(a, 4)
	return uint32(v), ok
}

func (c *CPU) loadW64(a uint64) (uint64, bool) {
	if p := c.at64(a); p != nil {
		return binary.LittleEndian.Uint64(p[:]), true
	}
	return c.loadWSlow(a, 8)
}

// loadW reads size bytes, 1 to 8, little-endian, that the instruction will write.
func (c *CPU) loadW(a uint64, size uint8) (uint64, bool) {
	switch size {
	case 1:
		v, ok := c.loadW8(a)
		return uint64(v), ok
	case 2:
		v, ok := c.loadW16(a)
		return uint64(v), ok
	case 4:
		v, ok := c.loadW32(a)
		return uint64(v), ok
	case 8:
		return c.loadW64(a)
	}
	return c.loadWSlow(a, size)
}

// load128 reads 16 bytes, which need not be aligned.
func (c *CPU) load128(a uint64) (lo, hi uint64, ok bool) {
	e, o := &c.rd[a/pageSize%tlbSize], a&pageMask
	if e.tag == a&^pageMask && o <= pageSize-16 {
		p := e.page[o : o+16]
		return binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:]), true
	}
	return c.load128Slow(a, 0)
}

// store128 writes 16 bytes, which need not be aligned.
func (c *CPU) store128(a, lo, hi uint64) bool {
	e, o := &c.wr[a/pageSize%tlbSize], a&pageMask
	if e.tag == a&^pageMask && o <= pageSize-16 {
		p := e.page[o : o+16]
		binary.LittleEndian.PutUint64(p, lo)
		binary.LittleEndian.PutUint64(p[8:], hi)
		return true
	}
	return c.store128Slow(a, lo, hi)
}

// loadW128 reads 16 bytes that the instruction will write.
func (c *CPU) loadW128(a uint64) (lo, hi uint64, ok bool) { return c.load128Slow(a, accWrite) }
