package soft

import "math/bits"

// The arithmetic of general registers. All these functions take operands of which only the low w bits
// count, w being 8, 16, 32 or 64, set the flags, and return the result sign-extended. They are inlined
// with a constant w where that matters.
//
// Flags that the manual leaves undefined come out as on AMD's Zen 5: AF is 0 after AND, OR, XOR and 1 after
// shifts; OF after a shift or rotation by more than 1 is that of its last step; MUL and IMUL keep SF, ZF,
// AF and PF; DIV and IDIV keep CF and OF, and set AF alone of the others.

// operation is one of these functions. Those with one operand ignore b.
type operation func(c *CPU, a, b uint64, w uint8) uint64

// signed extends the low w bits of v with their sign.
func signed(v uint64, w uint8) uint64 { return uint64(int64(v<<((64-w)&63)) >> ((64 - w) & 63)) }

// unsigned extends the low w bits of v with zeroes.
func unsigned(v uint64, w uint8) uint64 { return v << ((64 - w) & 63) >> ((64 - w) & 63) }

func (c *CPU) add(a, b uint64, w uint8) uint64 {
	r := signed(a+b, w)
	c.flagsAdd(a, b, r, w-1)
	return r
}

func (c *CPU) adc(a, b uint64, w uint8) uint64 {
	r := signed(a+b+c.carry(), w)
	c.flagsAdd(a, b, r, w-1)
	return r
}

func (c *CPU) sub(a, b uint64, w uint8) uint64 {
	r := signed(a-b, w)
	c.flagsSub(a, b, r, w-1)
	return r
}

func (c *CPU) sbb(a, b uint64, w uint8) uint64 {
	r := signed(a-b-c.carry(), w)
	c.flagsSub(a, b, r, w-1)
	return r
}

func (c *CPU) and(a, b uint64, w uint8) uint64 {
	r := signed(a&b, w)
	c.flagsLogic(r)
	return r
}

func (c *CPU) or(a, b uint64, w uint8) uint64 {
	r := signed(a|b, w)
	c.flagsLogic(r)
	return r
}

func (c *CPU) xor(a, b uint64, w uint8) uint64 {
	r := signed(a^b, w)
	c.flagsLogic(r)
	return r
}

// inc and dec keep CF: where it would change, both the top carry, which is CF, and the one below are
// flipped, which leaves OF.

func (c *CPU) inc(a, _ uint64, w uint8) uint64 {
	r := signed(a+1, w)
	carries := a &^ r
	c.fr, c.fc, c.fs = r, carries^(carries>>(w-1)^c.carry())&1*(3<<(w-2)), w-1
	return r
}

func (c *CPU) dec(a, _ uint64, w uint8) uint64 {
	r := signed(a-1, w)
	carries := ^a & r
	c.fr, c.fc, c.fs = r, carries^(carries>>(w-1)^c.carry())&1*(3<<(w-2)), w-1
	return r
}

func (c *CPU) neg(a, _ uint64, w uint8) uint64 {
	r := signed(-a, w)
	c.flagsSub(0, a, r, w-1)
	return r
}

// not changes no flags.
func (c *CPU) not(a, _ uint64, w uint8) uint64 { return signed(^a, w) }

// setCF sets CF to the low bit of cf and keeps all other flags.
func (c *CPU) setCF(cf uint64) {
	c.fc ^= (cf ^ c.carry()) & 1 * (3 << (c.fs&63 - 1))
}

// setCFOF sets CF and OF to the low bits of cf and of and keeps all other flags.
func (c *CPU) setCFOF(cf, of uint64) {
	top := c.fs & 63
	c.fc = c.fc&^(3<<(top-1)) | (cf&1)<<top | (cf^of)&1<<(top-1)
}

// flagsShift sets the flags of a shift with result r, sign-extended: CF and OF are the low bits of cf and of.
func (c *CPU) flagsShift(r, cf, of uint64) {
	c.fr, c.fc, c.fs = r, cf<<63|(cf^of)&1<<62|1<<3, 63
}

// shiftCount is by how much b says that an operand of w bits is to be shifted (SDM vol. 2B, SAL/SAR/SHL/SHR).
func shiftCount(b uint64, w uint8) uint64 {
	if w == 64 {
		return b & 63
	}
	return b & 31
}

func (c *CPU) shl(a, b uint64, w uint8) uint64 {
	n := shiftCount(b, w)
	if n == 0 {
		return signed(a, w)
	}
	r := signed(a<<n, w)
	cf := unsigned(a, w) << (n - 1) >> (w - 1)
	c.flagsShift(r, cf, cf^r>>63)
	return r
}

func (c *CPU) shr(a, b uint64, w uint8) uint64 {
	n := shiftCount(b, w)
	if n == 0 {
		return signed(a, w)
	}
	last := unsigned(a, w) >> (n - 1)
	r := signed(last>>1, w)
	c.flagsShift(r, last, last>>(w-1))
	return r
}

func (c *CPU) sar(a, b uint64, w uint8) uint64 {
	n := shiftCount(b, w)
	if n == 0 {
		return signed(a, w)
	}
	last := uint64(int64(signed(a, w)) >> (n - 1))
	r := uint64(int64(last) >> 1)
	c.flagsShift(r, last, 0)
	return r
}

func (c *CPU) rol(a, b uint64, w uint8) uint64 {
	n := shiftCount(b, w)
	if n == 0 {
		return signed(a, w)
	}
	k, u := n&uint64(w-1), unsigned(a, w)
	r := signed(u<<k|u>>(uint64(w)-k), w)
	c.setCFOF(r, r^r>>63)
	return r
}

func (c *CPU) ror(a, b uint64, w uint8) uint64 {
	n := shiftCount(b, w)
	if n == 0 {
		return signed(a, w)
	}
	k, u := n&uint64(w-1), unsigned(a, w)
	r := signed(u>>k|u<<(uint64(w)-k), w)
	c.setCFOF(r>>63, r>>63^r>>(w-2))
	return r
}

// rcl and rcr rotate w+1 bits, of which CF is the top one.

func (c *CPU) rcl(a, b uint64, w uint8) uint64 {
	n := shiftCount(b, w)
	k := n % uint64(w+1)
	u, cf := unsigned(a, w), c.carry()
	if k != 0 {
		u, cf = u<<k|cf<<(k-1)|u>>(uint64(w)+1-k), u>>(uint64(w)-k)
	}
	r := signed(u, w)
	if n != 0 {
		c.setCFOF(cf, cf^r>>63)
	}
	return r
}

func (c *CPU) rcr(a, b uint64, w uint8) uint64 {
	n := shiftCount(b, w)
	k := n % uint64(w+1)
	u, cf := unsigned(a, w), c.carry()
	if k != 0 {
		u, cf = u>>k|cf<<(uint64(w)-k)|u<<(uint64(w)+1-k), u>>(k-1)
	}
	r := signed(u, w)
	if n != 0 {
		c.setCFOF(cf, r>>63^r>>(w-2))
	}
	return r
}

// shld shifts a left, b's top bits coming in. A word shifted by more than 16 gets b a second time.
func (c *CPU) shld(a, b, count uint64, w uint8) uint64 {
	n := shiftCount(count, w)
	if n == 0 {
		return signed(a, w)
	}
	a, b = unsigned(a, w), unsigned(b, w)
	r := a<<n | b>>(uint64(w)-n)
	if n > uint64(w) {
		r = b<<(n-uint64(w)) | b>>(2*uint64(w)-n)
	}
	r = signed(r, w)
	cf := a << (n - 1) >> (w - 1)
	c.flagsShift(r, cf, cf^a<<n>>(w-1))
	return r
}

// shrd is shld to the right.
func (c *CPU) shrd(a, b, count uint64, w uint8) uint64 {
	n := shiftCount(count, w)
	if n == 0 {
		return signed(a, w)
	}
	a, b = unsigned(a, w), unsigned(b, w)
	r := a>>n | b<<(uint64(w)-n)
	if n > uint64(w) {
		r = b>>(n-uint64(w)) | b<<(2*uint64(w)-n)
	}
	r = signed(r, w)
	c.flagsShift(r, a>>(n-1), r>>63^r>>(w-2))
	return r
}

// imul multiplies and keeps the low half.
func (c *CPU) imul(a, b uint64, w uint8) uint64 {
	a, b = signed(a, w), signed(b, w)
	r := signed(a*b, w)
	over := r != a*b
	if w == 64 {
		over = signedHigh(a, b) != uint64(int64(r)>>63)
	}
	c.setMul(over)
	return r
}

// setMul sets CF and OF after a multiplication.
func (c *CPU) setMul(over bool) {
	v := bit(over)
	c.setCFOF(v, v)
}

// signedHigh is the high half of the product of two signed numbers.
func signedHigh(a, b uint64) uint64 {
	hi, _ := bits.Mul64(a, b)
	return hi - uint64(int64(a)>>63)&b - uint64(int64(b)>>63)&a
}

// bit is 1 for true.
func bit(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}
