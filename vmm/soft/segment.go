package soft

import (
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// descriptor is one of a segment, system segment or gate (SDM vol. 3A, 3.4.5); of those that have 16 bytes
// in long mode, the lower half.
type descriptor uint64

// Kinds of system descriptors, bits S and type (SDM vol. 3A, table 3-2). In long mode those that have
// the bit sys32 are 64-bit ones, and the others are invalid, but for that of the LDT.
const (
	sysTSS      = 1
	sysLDT      = 2
	sysBusy     = 2 // of TSS
	sysCallGate = 4
	sysTaskGate = 5
	sysIntGate  = 14
	sysTrapGate = 15
	sys32       = 8
)

func (d descriptor) kind() uint8      { return uint8(d >> 40 & 0x1f) }
func (d descriptor) dpl() uint8       { return uint8(d >> 45 & 3) }
func (d descriptor) present() bool    { return d>>47&1 != 0 }
func (d descriptor) code() bool       { return d.kind()&0x18 == 0x18 }
func (d descriptor) conforming() bool { return d.kind()&4 != 0 } // of code
func (d descriptor) readable() bool   { return d.kind()&0x18 == 0x10 || d.kind()&0x1a == 0x1a }
func (d descriptor) writable() bool   { return d.kind()&0x1a == 0x12 }

// segment is a segment register loaded from d.
func (d descriptor) segment(sel uint16) vmm.Segment {
	s := vmm.Segment{
		Selector: sel,
		Base:     uint64(d>>16&0xff_ffff | d>>32&0xff00_0000),
		Limit:    uint32(d&0xffff | d>>32&0xf_0000),
		Access:   uint32(d >> 40 & 0xf0ff),
	}
	if s.Access&vmm.SegG != 0 {
		s.Limit = s.Limit<<12 | 0xfff
	}
	return s
}

// nullSegment is a segment register that a null selector was loaded into. Its DPL is the selector's RPL, as is
// that of the stack segment, always.
func nullSegment(sel uint16) vmm.Segment {
	return vmm.Segment{Selector: sel, Access: vmm.SegUnusable | uint32(sel&3)<<vmm.SegDPLShift}
}

// descriptor reads the descriptor of sel, which is not null, and tells where it is. One that lies beyond
// its table raises the exception given, with ext in the error code.
func (c *CPU) descriptor(sel uint16, vector uint8, ext uint32) (d descriptor, at uint64, ok bool) {
	base, limit := c.gdt.Base, uint64(c.gdt.Limit)
	if sel&4 != 0 {
		if base, limit = c.ldt.Base, uint64(c.ldt.Limit); c.ldt.Access&vmm.SegUnusable != 0 {
			return 0, 0, c.faultCode(vector, uint32(sel&^3)|ext)
		}
	}
	if uint64(sel|7) > limit {
		return 0, 0, c.faultCode(vector, uint32(sel&^3)|ext)
	}
	at = base + uint64(sel&^7)
	v, ok := c.loadSystem(at, 8)
	return descriptor(v), at, ok
}

// upperHalf reads the upper 8 bytes of the descriptor of sel, of which at is the address.
func (c *CPU) upperHalf(sel uint16, at uint64, vector uint8) (v uint64, ok bool) {
	limit := uint64(c.gdt.Limit)
	if sel&4 != 0 {
		limit = uint64(c.ldt.Limit)
	}
	if uint64(sel|7)+8 > limit {
		return 0, c.faultCode(vector, uint32(sel&^3))
	}
	return c.loadSystem(at+8, 8)
}

// markAccessed sets the accessed bit of the code or data segment d, which is at linear address at.
func (c *CPU) markAccessed(d *descriptor, at uint64) bool {
	const accessed = 1 << 40
	if *d&accessed != 0 {
		return true
	}
	*d |= accessed
	return c.storeSystem(at+5, uint64(*d>>40&0xff), 1)
}

// inSegment tells whether n bytes at an offset of s may be accessed (SDM vol. 3A, 5.3).
func inSegment(s *vmm.Segment, offset, n uint64, write bool) bool {
	a := s.Access
	if a&vmm.SegUnusable != 0 || a&vmm.SegP == 0 {
		return false
	}
	if code := a&8 != 0; code && (write || a&2 == 0) || !code && write && a&2 == 0 {
		return false
	}
	if n == 0 {
		return true
	}
	last := offset + n - 1
	if a&0xc == 4 { // data that expands down
		top := uint64(0xffff)
		if a&vmm.SegDB != 0 {
			top = math.MaxUint32
		}
		return offset > uint64(s.Limit) && last <= top
	}
	return last <= uint64(s.Limit)
}

// segmented checks an access of size bytes at an offset in a segment outside 64-bit mode, and returns its linear address.
func (c *CPU) segmented(seg uint8, offset, size uint64, write bool) (uint64, bool) {
	s := &c.seg[seg%6]
	if size != 0 && !inSegment(s, offset, size, write) {
		if seg == vmm.SS {
			return 0, c.faultCode(excSS, 0)
		}
		return 0, c.faultCode(excGP, 0)
	}
	return (s.Base + offset) & math.MaxUint32, true
}

// stackMask is the mask of the stack pointer with stack segment ss outside 64-bit mode.
func stackMask(ss *vmm.Segment) uint64 {
	if ss.Access&vmm.SegDB != 0 {
		return math.MaxUint32
	}
	return math.MaxUint16
}

// spMask is the mask of the stack pointer now.
func (c *CPU) spMask() uint64 {
	if c.mode == x86.Mode64 {
		return math.MaxUint64
	}
	return stackMask(&c.seg[vmm.SS])
}

// setSP sets the stack pointer, which is as wide as mask says.
func (c *CPU) setSP(sp, mask uint64) {
	keep := uint64(0)
	if mask == math.MaxUint16 {
		keep = c.r[vmm.RSP] &^ mask
	}
	c.r[vmm.RSP] = keep | sp&mask
}

// stackLinear is the linear address of size bytes on the stack, which begin off bytes above the stack pointer.
func (c *CPU) stackLinear(off uint64, size uint8, write bool) (uint64, bool) {
	a := (c.r[vmm.RSP] + off) & c.spMask()
	if c.mode == x86.Mode64 {
		return a, true
	}
	return c.segmented(vmm.SS, a, uint64(size), write)
}

// peek reads size bytes that begin off bytes above the stack pointer.
func (c *CPU) peek(off uint64, size uint8) (uint64, bool) {
	a, ok := c.stackLinear(off, size, false)
	if !ok {
		return 0, false
	}
	return c.load(a, size)
}

// setSegment sets a segment register other than CS.
func (c *CPU) setSegment(reg uint8, s vmm.Segment) {
	c.seg[reg%6] = s
	c.segmentBases()
}

// setCS sets CS, and with it the mode and the current privilege level, which is its selector's.
func (c *CPU) setCS(s vmm.Segment) {
	c.seg[vmm.CS] = s
	c.cpl = uint8(s.Selector & 3)
	c.setMode()
}

// setMode works out how code is decoded, and what follows from it and from the current privilege level.
func (c *CPU) setMode() {
	mode := x86.Mode16
	switch a := c.seg[vmm.CS].Access; {
	case c.efer&eferLMA != 0 && a&vmm.SegL != 0:
		mode = x86.Mode64
	case a&vmm.SegDB != 0:
		mode = x86.Mode32
	}
	if mode != c.mode {
		// Pages of code are in the TLB with what was decoded for one mode.
		c.mode = mode
		c.tlb.dropCode()
	}
	c.segmentBases()
	c.selectTLB()
}

// segmentBases brings the slots for bases of segments up to date.
func (c *CPU) segmentBases() {
	for i := range c.seg {
		if c.r[rES+i] = c.seg[i].Base; c.mode == x86.Mode64 && i < vmm.FS {
			c.r[rES+i] = 0
		}
	}
}

// dataSegment reads and checks a segment for a segment register other than CS (SDM vol. 2B, MOV).
func (c *CPU) dataSegment(reg uint8, sel uint16) (s vmm.Segment, ok bool) {
	rpl := uint8(sel & 3)
	code := uint32(sel &^ 3)
	if code == 0 {
		if reg == vmm.SS && (c.mode != x86.Mode64 || c.cpl == 3 || rpl != c.cpl) {
			return s, c.faultCode(excGP, 0)
		}
		return nullSegment(sel), true
	}
	d, at, ok := c.descriptor(sel, excGP, 0)
	if !ok {
		return s, false
	}
	absent := uint8(excNP)
	if reg == vmm.SS {
		absent = excSS
		ok = rpl == c.cpl && d.writable() && d.dpl() == c.cpl
	} else {
		ok = d.readable() && (d.code() && d.conforming() || rpl <= d.dpl() && c.cpl <= d.dpl())
	}
	if !ok {
		return s, c.faultCode(excGP, code)
	}
	if !d.present() {
		return s, c.faultCode(absent, code)
	}
	if !c.markAccessed(&d, at) {
		return s, false
	}
	return d.segment(sel), true
}

// Places in the task state segment (SDM vol. 3A, figures 7-2, 7-10 and 7-11).
const (
	tss16SP  = 2
	tss32ESP = 4
	tss64RSP = 4
	tss64IST = 0x24
	tssIOMap = 0x66
)

// taskWord reads size bytes at an offset in the task state segment.
func (c *CPU) taskWord(offset uint64, size uint8, ext uint32) (uint64, bool) {
	if c.tr.Access&vmm.SegUnusable != 0 || offset+uint64(size)-1 > uint64(c.tr.Limit) {
		return 0, c.faultCode(excTS, uint32(c.tr.Selector&^3)|ext)
	}
	return c.loadSystem(c.tr.Base+offset, size)
}

// innerStack is the stack of a more privileged level, outside long mode.
func (c *CPU) innerStack(cpl uint8, ext uint32) (ss vmm.Segment, sp uint64, ok bool) {
	var sel uint64
	if c.tr.Access&sys32 != 0 {
		if sp, ok = c.taskWord(tss32ESP+8*uint64(cpl), 4, ext); ok {
			sel, ok = c.taskWord(tss32ESP+8*uint64(cpl)+4, 2, ext)
		}
	} else if sp, ok = c.taskWord(tss16SP+4*uint64(cpl), 2, ext); ok {
		sel, ok = c.taskWord(tss16SP+4*uint64(cpl)+2, 2, ext)
	}
	if !ok {
		return ss, 0, false
	}
	code := uint32(sel&^3) | ext
	if sel&^3 == 0 {
		return ss, 0, c.faultCode(excTS, ext)
	}
	d, at, ok := c.descriptor(uint16(sel), excTS, ext)
	if !ok {
		return ss, 0, false
	}
	if uint8(sel&3) != cpl || !d.writable() || d.dpl() != cpl {
		return ss, 0, c.faultCode(excTS, code)
	}
	if !d.present() {
		return ss, 0, c.faultCode(excSS, code)
	}
	if !c.markAccessed(&d, at) {
		return ss, 0, false
	}
	return d.segment(uint16(sel)), sp, true
}
