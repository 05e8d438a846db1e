package soft

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// Instructions on general registers that are executed whole.

// arg reads operand number i.
func (c *CPU) arg(u *uop, in *x86.Inst, i int) (uint64, bool) {
	a := in.Arg[i]
	if a.Kind == x86.MemOp {
		return c.load(c.ea(u), a.Size)
	}
	return c.value(in, a), true
}

// argW reads operand number i, which the instruction will write.
func (c *CPU) argW(u *uop, in *x86.Inst, i int) (uint64, bool) {
	a := in.Arg[i]
	if a.Kind == x86.MemOp {
		return c.loadW(c.ea(u), a.Size)
	}
	return c.value(in, a), true
}

// value is operand a, which is not in memory.
func (c *CPU) value(in *x86.Inst, a x86.Arg) uint64 {
	switch a.Kind {
	case x86.GPR:
		return unsigned(c.r[a.Reg], 8*a.Size)
	case x86.High:
		return c.r[a.Reg] >> 8 & 0xff
	case x86.Imm:
		return uint64(in.Imm)
	}
	return 0
}

// setArg writes operand number i, a register or in memory.
func (c *CPU) setArg(u *uop, in *x86.Inst, i int, v uint64) bool {
	switch a := in.Arg[i]; a.Kind {
	case x86.MemOp:
		return c.store(c.ea(u), v, a.Size)
	case x86.High:
		c.r[a.Reg] = c.r[a.Reg]&^0xff00 | v&0xff<<8
	default:
		c.set(a.Reg, v, a.Size)
	}
	return true
}

// set writes the low size bytes of a register, as an instruction of that operand size does.
func (c *CPU) set(i uint8, v uint64, size uint8) {
	switch size {
	case 1:
		c.set8(i, v)
	case 2:
		c.set16(i, v)
	case 4:
		c.set32(i, v)
	default:
		c.set64(i, v)
	}
}

// linearAt is the linear address of size bytes at an offset in a segment.
func (c *CPU) linearAt(in *x86.Inst, seg uint8, offset uint64, size uint8, write bool) (uint64, bool) {
	offset = unsigned(offset, 8*in.AddrSize)
	if c.mode == x86.Mode64 {
		if seg >= vmm.FS {
			offset += c.r[rES+seg]
		}
		return offset, true
	}
	return c.segmented(seg, offset, uint64(size), write)
}

// modifies is an execFunc that replaces the first operand by the result of an operation with the second.
func modifies(op operation) execFunc {
	return func(c *CPU, u *uop, in *x86.Inst) bool {
		a, ok := c.argW(u, in, 0)
		if !ok {
			return false
		}
		b, _ := c.arg(u, in, 1)
		return c.setArg(u, in, 0, op(c, a, b, 8*in.Arg[0].Size))
	}
}

// doubleShift is an execFunc for a shift of the first two operands by the third.
func doubleShift(op func(c *CPU, a, b, count uint64, w uint8) uint64) execFunc {
	return func(c *CPU, u *uop, in *x86.Inst) bool {
		a, ok := c.argW(u, in, 0)
		if !ok {
			return false
		}
		b, _ := c.arg(u, in, 1)
		count, _ := c.arg(u, in, 2)
		return c.setArg(u, in, 0, op(c, a, b, count, 8*in.Arg[0].Size))
	}
}

// wide is RDX:RAX of the size given, or AX if that is 1, as two halves.
func (c *CPU) wide(size uint8) (hi, lo uint64) {
	if size == 1 {
		return c.r[vmm.RAX] >> 8 & 0xff, c.r[vmm.RAX] & 0xff
	}
	return unsigned(c.r[vmm.RDX], 8*size), unsigned(c.r[vmm.RAX], 8*size)
}

func (c *CPU) setWide(hi, lo uint64, size uint8) {
	if size == 1 {
		c.set16(vmm.RAX, hi<<8|lo&0xff)
		return
	}
	c.set(vmm.RAX, lo, size)
	c.set(vmm.RDX, hi, size)
}

// mulWide is MUL.
func (c *CPU) mulWide(u *uop, in *x86.Inst) bool {
	b, ok := c.arg(u, in, 0)
	if !ok {
		return false
	}
	size := in.Arg[0].Size
	_, a := c.wide(size)
	hi, lo := bits.Mul64(a, b)
	if size < 8 {
		hi, lo = lo>>(8*size), unsigned(lo, 8*size)
	}
	c.setWide(hi, lo, size)
	c.setMul(hi != 0)
	return true
}

// imulWide is IMUL with one operand.
func (c *CPU) imulWide(u *uop, in *x86.Inst) bool {
	b, ok := c.arg(u, in, 0)
	if !ok {
		return false
	}
	size := in.Arg[0].Size
	w := 8 * size
	_, a := c.wide(size)
	a, b = signed(a, w), signed(b, w)
	lo := signed(a*b, w)
	hi := a * b >> (w & 63)
	if size == 8 {
		hi = signedHigh(a, b)
	}
	c.setWide(hi, lo, size)
	c.setMul(signed(hi, w) != uint64(int64(lo)>>63))
	return true
}

// imul16 is IMUL with two or three operands of 16 bits.
func (c *CPU) imul16(u *uop, in *x86.Inst) bool {
	b, ok := c.arg(u, in, 1)
	if !ok {
		return false
	}
	a := c.r[in.Arg[0].Reg]
	if in.Arg[2].Kind == x86.Imm {
		a = uint64(in.Imm)
	}
	c.set16(in.Arg[0].Reg, c.imul(a, b, 16))
	return true
}

func (c *CPU) div(u *uop, in *x86.Inst) bool {
	b, ok := c.arg(u, in, 0)
	if !ok {
		return false
	}
	size := in.Arg[0].Size
	hi, lo := c.wide(size)
	if hi >= b { // b is 0, or the quotient does not fit
		return c.fault(excDE)
	}
	if size < 8 {
		lo |= hi << (8 * size)
		hi = 0
	}
	q, r := bits.Div64(hi, lo, b)
	c.setWide(r, q, size)
	c.setDiv()
	return true
}

func (c *CPU) idiv(u *uop, in *x86.Inst) bool {
	b, ok := c.arg(u, in, 0)
	if !ok {
		return false
	}
	size := in.Arg[0].Size
	w := 8 * size
	hi, lo := c.wide(size)
	if size < 8 {
		lo = signed(lo|hi<<w, 2*w)
		hi = uint64(int64(lo) >> 63)
	}
	b = signed(b, w)
	// Divide the magnitudes: the quotient's sign follows from both, the remainder has the dividend's.
	negative, opposite := int64(hi) < 0, int64(hi)^int64(b) < 0
	if negative {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	if int64(b) < 0 {
		b = -b
	}
	if hi >= b {
		return c.fault(excDE)
	}
	q, r := bits.Div64(hi, lo, b)
	if q > 1<<(w-1)-bit(!opposite) {
		return c.fault(excDE)
	}
	if opposite {
		q = -q
	}
	if negative {
		r = -r
	}
	c.setWide(r, q, size)
	c.setDiv()
	return true
}

// setDiv sets the flags after a division.
func (c *CPU) setDiv() {
	cf, of := c.carry(), bit(c.of())
	c.setArith(flagAF | cf*flagCF | of*flagOF)
}

// bitChange is what a bit test makes of the bit, of which mask tells where it is in v; nil if it stays.
type bitChange func(v, mask uint64) uint64

func setBit(v, mask uint64) uint64   { return v | mask }
func clearBit(v, mask uint64) uint64 { return v &^ mask }
func flipBit(v, mask uint64) uint64  { return v ^ mask }

// bitTest is a bit test of a register, or of a bit within a word of memory.
func (c *CPU) bitTest(u *uop, in *x86.Inst, change bitChange) bool {
	n, _ := c.arg(u, in, 1)
	n &= 8*uint64(in.Arg[0].Size) - 1
	if change == nil {
		v, ok := c.arg(u, in, 0)
		if ok {
			c.setCF(v >> n)
		}
		return ok
	}
	v, ok := c.argW(u, in, 0)
	if !ok || !c.setArg(u, in, 0, change(v, 1<<n)) {
		return false
	}
	c.setCF(v >> n)
	return true
}

// bitString is a bit test in memory by a register: the bit may lie anywhere around the address, in the
// word that holds it.
func (c *CPU) bitString(u *uop, in *x86.Inst, change bitChange) bool {
	size := in.Arg[0].Size
	n := signed(c.r[in.Arg[1].Reg], 8*size)
	words := int64(n) >> bits.Len8(8*size-1)
	a, ok := c.linearAt(in, in.Mem.Seg, c.offset(u, in)+uint64(words)*uint64(size), size, change != nil)
	if !ok {
		return false
	}
	n &= 8*uint64(size) - 1
	if change == nil {
		v, ok := c.load(a, size)
		if ok {
			c.setCF(v >> n)
		}
		return ok
	}
	v, ok := c.loadW(a, size)
	if !ok || !c.store(a, change(v, 1<<n), size) {
		return false
	}
	c.setCF(v >> n)
	return true
}

// offset is the offset of the memory operand in its segment, not yet truncated.
func (c *CPU) offset(u *uop, in *x86.Inst) uint64 {
	m := &in.Mem
	a := uint64(m.Disp)
	switch m.Base {
	case x86.NoReg:
	case x86.RegIP:
		a += c.nextIP(u)
	default:
		a += c.r[m.Base]
	}
	if m.Index != x86.NoReg {
		a += c.r[m.Index] << (m.Shift & 3)
	}
	return a
}

func (c *CPU) bsf(u *uop, in *x86.Inst) bool {
	v, ok := c.arg(u, in, 1)
	if ok {
		c.setBitNumber(in, v, bits.TrailingZeros64(v))
	}
	return ok
}

func (c *CPU) bsr(u *uop, in *x86.Inst) bool {
	v, ok := c.arg(u, in, 1)
	if ok {
		c.setBitNumber(in, v, bits.Len64(v)-1)
	}
	return ok
}

// setBitNumber stores the number of a bit of v, if v is not 0. The flags besides ZF, and the destination if v
// is 0, which the manual leaves undefined, are as on AMD's Zen 5: the destination is unchanged, even its upper
// half, and PF is the parity of the result.
func (c *CPU) setBitNumber(in *x86.Inst, v uint64, n int) {
	if v == 0 {
		c.setArith(flagZF | flagPF)
		return
	}
	c.set(in.Arg[0].Reg, uint64(n), in.Arg[0].Size)
	c.setArith(flagPF * (1 &^ uint64(bits.OnesCount(uint(n)))))
}

func (c *CPU) popcnt(u *uop, in *x86.Inst) bool {
	v, ok := c.arg(u, in, 1)
	if ok {
		c.set(in.Arg[0].Reg, uint64(bits.OnesCount64(v)), in.Arg[0].Size)
		c.setArith(flagZF * bit(v == 0))
	}
	return ok
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *CPU) crc32(u *uop, in *x86.Inst) bool {
	v, ok := c.arg(u, in, 1)
	if !ok {
		return false
	}
	// The instruction does not complement before and after, as the package does.
	crc := ^uint32(c.r[in.Arg[0].Reg])
	var p [8]byte
	binary.LittleEndian.PutUint64(p[:], v)
	c.r[in.Arg[0].Reg] = uint64(^crc32.Update(crc, castagnoli, p[:in.Arg[1].Size]))
	return true
}

func (c *CPU) xchg(u *uop, in *x86.Inst) bool {
	a, ok := c.argW(u, in, 0)
	if !ok {
		return false
	}
	b, _ := c.arg(u, in, 1)
	if !c.setArg(u, in, 0, b) {
		return false
	}
	return c.setArg(u, in, 1, a)
}

func (c *CPU) xadd(u *uop, in *x86.Inst) bool {
	a, ok := c.argW(u, in, 0)
	if !ok {
		return false
	}
	b, _ := c.arg(u, in, 1)
	r := c.add(a, b, 8*in.Arg[0].Size)
	if in.Arg[0].Kind == x86.MemOp { // first, as its address may depend on the register
		return c.setArg(u, in, 0, r) && c.setArg(u, in, 1, a)
	}
	c.setArg(u, in, 1, a)
	return c.setArg(u, in, 0, r)
}

func (c *CPU) cmpxchg(u *uop, in *x86.Inst) bool {
	a, ok := c.argW(u, in, 0)
	if !ok {
		return false
	}
	size := in.Arg[0].Size
	acc := unsigned(c.r[vmm.RAX], 8*size)
	c.sub(acc, a, 8*size)
	if acc != a {
		c.set(vmm.RAX, a, size)
		return true
	}
	b, _ := c.arg(u, in, 1)
	return c.setArg(u, in, 0, b)
}

func (c *CPU) cmpxchg8b(u *uop, in *x86.Inst) bool {
	a := c.ea(u)
	v, ok := c.loadW64(a)
	if !ok {
		return false
	}
	if v == c.r[vmm.RDX]<<32|c.r[vmm.RAX]&math.MaxUint32 {
		if !c.store64(a, c.r[vmm.RCX]<<32|c.r[vmm.RBX]&math.MaxUint32) {
			return false
		}
		c.setZF(true)
		return true
	}
	c.set32(vmm.RAX, v)
	c.set32(vmm.RDX, v>>32)
	c.setZF(false)
	return true
}

func (c *CPU) cmpxchg16b(u *uop, in *x86.Inst) bool {
	a := c.ea(u)
	if a%16 != 0 {
		return c.faultCode(excGP, 0)
	}
	lo, hi, ok := c.loadW128(a)
	if !ok {
		return false
	}
	if lo == c.r[vmm.RAX] && hi == c.r[vmm.RDX] {
		if !c.store128(a, c.r[vmm.RBX], c.r[vmm.RCX]) {
			return false
		}
		c.setZF(true)
		return true
	}
	c.r[vmm.RAX], c.r[vmm.RDX] = lo, hi
	c.setZF(false)
	return true
}

// setZF sets ZF and keeps all other flags.
func (c *CPU) setZF(zf bool) { c.setArith(c.arith()&^flagZF | flagZF*bit(zf)) }

// xlat reads AL from a table at RBX.
func (c *CPU) xlat(u *uop, in *x86.Inst) bool {
	a, ok := c.linearAt(in, in.Mem.Seg, c.r[vmm.RBX]+c.r[vmm.RAX]&0xff, 1, false)
	if !ok {
		return false
	}
	v, ok := c.load8(a)
	if ok {
		c.set8(vmm.RAX, uint64(v))
	}
	return ok
}

// cwd is CWD with operands of 16 bits.
func (c *CPU) cwd(*uop, *x86.Inst) bool {
	c.set16(vmm.RDX, uint64(int16(c.r[vmm.RAX])>>15))
	return true
}

// cmov16 is CMOVcc with operands of 16 bits.
func (c *CPU) cmov16(u *uop, in *x86.Inst) bool {
	v, ok := c.arg(u, in, 1)
	if ok && c.cond(uint8(in.Op-x86.CMOVO)) {
		c.set16(in.Arg[0].Reg, v)
	}
	return ok
}

// clflush only checks its address: there is no cache.
func (c *CPU) clflush(u *uop, in *x86.Inst) bool {
	_, ok := c.span(c.ea(u), 1, c.userAccess())
	return ok
}

// bound raises #BR unless a register is within two signed bounds in memory, which are two operands to the segment.
func (c *CPU) bound(u *uop, in *x86.Inst) bool {
	size := in.Arg[0].Size
	var bounds [2]uint64
	for i := range bounds {
		a, ok := c.linearAt(in, in.Mem.Seg, c.offset(u, in)+uint64(i)*uint64(size), size, false)
		if !ok {
			return false
		}
		if bounds[i], ok = c.load(a, size); !ok {
			return false
		}
	}
	w := 8 * size
	if v := int64(signed(c.r[in.Arg[0].Reg], w)); v < int64(signed(bounds[0], w)) || v > int64(signed(bounds[1], w)) {
		return c.fault(excBR)
	}
	return true
}

// Instructions on flags.

func (c *CPU) clc(*uop, *x86.Inst) bool {
	c.setCF(0)
	return true
}

func (c *CPU) stc(*uop, *x86.Inst) bool {
	c.setCF(1)
	return true
}

func (c *CPU) cmc(*uop, *x86.Inst) bool {
	c.setCF(^c.carry())
	return true
}

func (c *CPU) cld(*uop, *x86.Inst) bool {
	c.flags &^= flagDF
	return true
}

func (c *CPU) std(*uop, *x86.Inst) bool {
	c.flags |= flagDF
	return true
}

func (c *CPU) lahf(*uop, *x86.Inst) bool {
	c.r[vmm.RAX] = c.r[vmm.RAX]&^0xff00 | (c.arith()&^flagOF|flagFixed)<<8
	return true
}

func (c *CPU) sahf(*uop, *x86.Inst) bool {
	c.setArith(c.arith()&flagOF | c.r[vmm.RAX]>>8&(flagsArith&^flagOF))
	return true
}

func (c *CPU) salc(*uop, *x86.Inst) bool {
	c.set8(vmm.RAX, -c.carry())
	return true
}

// Decimal arithmetic (SDM vol. 2A). The flags that the manual leaves undefined are those of the addition or
// subtraction that adjusts, as on AMD's Zen 5.

func (c *CPU) daa(*uop, *x86.Inst) bool { return c.decimal((*CPU).add) }
func (c *CPU) das(*uop, *x86.Inst) bool { return c.decimal((*CPU).sub) }

// decimal adjusts AL after op was done with two packed decimal digits in each operand.
func (c *CPU) decimal(op operation) bool {
	al := c.r[vmm.RAX] & 0xff
	half, carry := c.afl() || al&0xf > 9, c.cf() || al > 0x99
	c.set8(vmm.RAX, op(c, al, 6*bit(half)+0x60*bit(carry), 8))
	c.setCarries(carry || c.cf(), half)
	return true
}

func (c *CPU) aaa(*uop, *x86.Inst) bool { return c.ascii((*CPU).add) }
func (c *CPU) aas(*uop, *x86.Inst) bool { return c.ascii((*CPU).sub) }

// ascii adjusts AX after op was done with one decimal digit in each operand.
func (c *CPU) ascii(op operation) bool {
	ax := c.r[vmm.RAX]
	carry := c.afl() || ax&0xf > 9
	c.set16(vmm.RAX, op(c, ax, 0x106*bit(carry), 16)&^0xf0)
	c.setCarries(carry, carry)
	return true
}

// setCarries sets CF and AF and keeps all other flags.
func (c *CPU) setCarries(cf, af bool) {
	c.setArith(c.arith()&^(flagCF|flagAF) | flagCF*bit(cf) | flagAF*bit(af))
}

func (c *CPU) aam(u *uop, in *x86.Inst) bool {
	base := uint64(in.Imm) & 0xff
	if base == 0 {
		return c.fault(excDE)
	}
	al := c.r[vmm.RAX] & 0xff
	c.set16(vmm.RAX, al/base<<8|al%base)
	c.flagsLogic(signed(al%base, 8))
	return true
}

func (c *CPU) aad(u *uop, in *x86.Inst) bool {
	ax := c.r[vmm.RAX]
	c.set16(vmm.RAX, c.add(ax, ax>>8&0xff*(uint64(in.Imm)&0xff), 8)&0xff)
	return true
}
