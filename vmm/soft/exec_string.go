package soft

import (
	"encoding/binary"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// String instructions. The functions that execute them do one element; repeat does the prefix.

// stringSource and stringTarget are the linear addresses of the current element.

func (c *CPU) stringSource(in *x86.Inst) (uint64, bool) {
	return c.linearAt(in, in.Mem.Seg, c.r[vmm.RSI], in.OpSize, false)
}

func (c *CPU) stringTarget(in *x86.Inst, write bool) (uint64, bool) {
	return c.linearAt(in, vmm.ES, c.r[vmm.RDI], in.OpSize, write)
}

// loadSource and loadTarget read the current element.

func (c *CPU) loadSource(in *x86.Inst) (uint64, bool) {
	at, ok := c.stringSource(in)
	if !ok {
		return 0, false
	}
	return c.load(at, in.OpSize)
}

func (c *CPU) loadTarget(in *x86.Inst) (uint64, bool) {
	at, ok := c.stringTarget(in, false)
	if !ok {
		return 0, false
	}
	return c.load(at, in.OpSize)
}

// advanceString moves RSI or RDI by n elements, in the direction that DF says.
func (c *CPU) advanceString(in *x86.Inst, reg uint8, n uint64) {
	by := n * uint64(in.OpSize)
	if c.flags&flagDF != 0 {
		by = -by
	}
	c.set(reg, c.r[reg]+by, in.AddrSize)
}

func (c *CPU) movs(u *uop, in *x86.Inst) bool {
	v, ok := c.loadSource(in)
	if !ok {
		return false
	}
	to, ok := c.stringTarget(in, true)
	if !ok || !c.store(to, v, in.OpSize) {
		return false
	}
	c.advanceString(in, vmm.RSI, 1)
	c.advanceString(in, vmm.RDI, 1)
	return true
}

func (c *CPU) cmps(u *uop, in *x86.Inst) bool {
	a, ok := c.loadSource(in)
	if !ok {
		return false
	}
	b, ok := c.loadTarget(in)
	if !ok {
		return false
	}
	c.sub(a, b, 8*in.OpSize)
	c.advanceString(in, vmm.RSI, 1)
	c.advanceString(in, vmm.RDI, 1)
	return true
}

func (c *CPU) stos(u *uop, in *x86.Inst) bool {
	to, ok := c.stringTarget(in, true)
	if !ok || !c.store(to, c.r[vmm.RAX], in.OpSize) {
		return false
	}
	c.advanceString(in, vmm.RDI, 1)
	return true
}

func (c *CPU) lods(u *uop, in *x86.Inst) bool {
	v, ok := c.loadSource(in)
	if !ok {
		return false
	}
	c.set(vmm.RAX, v, in.OpSize)
	c.advanceString(in, vmm.RSI, 1)
	return true
}

func (c *CPU) scas(u *uop, in *x86.Inst) bool {
	v, ok := c.loadTarget(in)
	if !ok {
		return false
	}
	c.sub(c.r[vmm.RAX], v, 8*in.OpSize)
	c.advanceString(in, vmm.RDI, 1)
	return true
}

func (c *CPU) ins(u *uop, in *x86.Inst) bool {
	to, ok := c.stringTarget(in, true)
	// The port is read only once the value can be stored.
	if !ok || !c.probe(to, uint64(in.OpSize)) {
		return false
	}
	c.sync(u)
	p := c.io[:in.OpSize]
	c.bus.PortIn(uint16(c.r[vmm.RDX]), p)
	var v [8]byte
	copy(v[:], p)
	if !c.store(to, binary.LittleEndian.Uint64(v[:]), in.OpSize) {
		return false
	}
	c.advanceString(in, vmm.RDI, 1)
	return true
}

func (c *CPU) outs(u *uop, in *x86.Inst) bool {
	v, ok := c.loadSource(in)
	if !ok {
		return false
	}
	c.sync(u)
	binary.LittleEndian.PutUint64(c.io[:], v)
	c.bus.PortOut(uint16(c.r[vmm.RDX]), c.io[:in.OpSize])
	c.advanceString(in, vmm.RSI, 1)
	return true
}

// repeat executes a string instruction with a REP prefix, as many elements as there are positions left. It
// leaves RIP at the instruction unless that is complete.
func (c *CPU) repeat(u *uop, in *x86.Inst, exec execFunc) bool {
	after := c.rip
	c.rip, c.way = c.r[rIP]+uint64(u.off), 0
	for c.left != 0 {
		n := unsigned(c.r[vmm.RCX], 8*in.AddrSize)
		if n == 0 {
			c.left--
			c.rip = after
			return true
		}
		k := uint64(0)
		if !c.stepping {
			k = c.bulk(in, min(n, c.left))
		}
		if k == 0 {
			k = 1
			if !exec(c, u, in) {
				return false
			}
		}
		c.set(vmm.RCX, n-k, in.AddrSize)
		c.left -= k
		if n == k || c.ends(in) {
			c.rip = after
			return true
		}
		if c.stepping {
			return true
		}
	}
	return true
}

// ends tells whether REPE or REPNE ends after the element just compared.
func (c *CPU) ends(in *x86.Inst) bool {
	return (in.Op == x86.CMPS || in.Op == x86.SCAS) && c.zf() != (in.Rep == x86.RepE)
}

// repeatIO is repeat for instructions that reach for the bus: Run returns after each element.
func (c *CPU) repeatIO(u *uop, in *x86.Inst, exec execFunc) bool {
	after := c.rip
	c.rip = c.r[rIP] + uint64(u.off)
	if c.left == 0 {
		return true
	}
	if !c.portAllowed(uint16(c.r[vmm.RDX]), in.OpSize) { // even if the count is 0
		return false
	}
	n := unsigned(c.r[vmm.RCX], 8*in.AddrSize)
	if n == 0 {
		c.left--
		c.rip = after
		return true
	}
	if !exec(c, u, in) {
		return false
	}
	c.set(vmm.RCX, n-1, in.AddrSize)
	c.left--
	if n == 1 {
		c.rip = after
	}
	return c.leave(vmm.ExitAccess)
}

// bulk executes up to n elements of MOVS or STOS at once and returns how many: as many as lie in pages that
// the TLBs lead straight to. None if it is not that simple.
func (c *CPU) bulk(in *x86.Inst, n uint64) uint64 {
	if c.mode != x86.Mode64 || in.AddrSize != 8 || c.flags&flagDF != 0 || in.Op != x86.MOVS && in.Op != x86.STOS {
		return 0
	}
	size := uint64(in.OpSize)
	to, _ := c.stringTarget(in, true)
	e, o := &c.wr[to/pageSize%tlbSize], to&pageMask
	n = min(n, (pageSize-o)/size)
	if e.tag != to&^pageMask || n == 0 {
		return 0
	}
	if in.Op == x86.STOS {
		p := e.page[o : o+n*size]
		var v [8]byte
		binary.LittleEndian.PutUint64(v[:], c.r[vmm.RAX])
		for done := copy(p, v[:size]); done < len(p); {
			done += copy(p[done:], p[:done])
		}
		c.advanceString(in, vmm.RDI, n)
		return n
	}
	from, _ := c.stringSource(in)
	f, q := &c.rd[from/pageSize%tlbSize], from&pageMask
	n = min(n, (pageSize-q)/size)
	if f.tag != from&^pageMask {
		return 0
	}
	if e.page == f.page && q < o {
		// What is written may be read again: no further than up to there.
		n = min(n, (o-q)/size)
	}
	copy(e.page[o:o+n*size], f.page[q:q+n*size])
	c.advanceString(in, vmm.RDI, n)
	c.advanceString(in, vmm.RSI, n)
	return n
}
