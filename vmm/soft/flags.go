package soft

import "math/bits"

// Bits of RFLAGS (SDM vol. 1, 3.4.3).
const (
	flagCF    = 1 << 0
	flagFixed = 1 << 1
	flagPF    = 1 << 2
	flagAF    = 1 << 4
	flagZF    = 1 << 6
	flagSF    = 1 << 7
	flagTF    = 1 << 8
	flagIF    = 1 << 9
	flagDF    = 1 << 10
	flagOF    = 1 << 11
	flagIOPL  = 3 << 12
	flagNT    = 1 << 14
	flagRF    = 1 << 16
	flagVM    = 1 << 17
	flagAC    = 1 << 18
	flagVIF   = 1 << 19
	flagVIP   = 1 << 20
	flagID    = 1 << 21

	flagsArith = flagCF | flagPF | flagAF | flagZF | flagSF | flagOF
	flagsKnown = flagsArith | flagFixed | flagTF | flagIF | flagDF | flagIOPL | flagNT | flagRF | flagVM | flagAC |
		flagVIF | flagVIP | flagID
)

// The arithmetic flags are kept as what they follow from, and put together when they are read:
//
//	fr  the result, sign-extended to 64 bits
//	fc  the carries out of each bit
//	fs  the number of the top bit: 7, 15, 31 or 63
//
//	ZF  fr is 0
//	SF  bit 63 of fr
//	PF  even parity of the low byte of fr
//	CF  bit fs of fc
//	OF  bit fs of fc, xor bit fs-1
//	AF  bit 3 of fc
//
// Flags that are no result's (POPF, UCOMISD) have fs = fsExplicit; then SF is bit 1 of fc and PF bit 0,
// the others are as above with fs = 63.
const fsExplicit = 63 | 0x80

func (c *CPU) cf() bool  { return c.fc>>(c.fs&63)&1 != 0 }
func (c *CPU) zf() bool  { return c.fr == 0 }
func (c *CPU) afl() bool { return c.fc&(1<<3) != 0 }
func (c *CPU) of() bool  { return (c.fc>>(c.fs&63)^c.fc>>(c.fs&63-1))&1 != 0 }

func (c *CPU) sf() bool {
	if c.fs == fsExplicit {
		return c.fc&2 != 0
	}
	return int64(c.fr) < 0
}

func (c *CPU) pf() bool {
	if c.fs == fsExplicit {
		return c.fc&1 != 0
	}
	return bits.OnesCount8(uint8(c.fr))&1 == 0
}

// carry is CF as a number.
func (c *CPU) carry() uint64 { return c.fc >> (c.fs & 63) & 1 }

// arith puts the arithmetic flags together.
func (c *CPU) arith() uint64 {
	f := c.carry()
	if c.pf() {
		f |= flagPF
	}
	if c.afl() {
		f |= flagAF
	}
	if c.zf() {
		f |= flagZF
	}
	if c.sf() {
		f |= flagSF
	}
	if c.of() {
		f |= flagOF
	}
	return f
}

// setArith sets the arithmetic flags from bits of RFLAGS.
func (c *CPU) setArith(f uint64) {
	cf := f & flagCF
	of := f / flagOF & 1
	c.fr = ^f / flagZF & 1
	c.fc = cf<<63 | (cf^of)<<62 | f/flagAF&1<<3 | f/flagSF&1<<1 | f/flagPF&1
	c.fs = fsExplicit
}

// rflags is RFLAGS as the guest sees it, without RF.
func (c *CPU) rflags() uint64 { return c.flags | c.arith() }

// setFlags sets all of RFLAGS but RF, which is not kept.
func (c *CPU) setFlags(f uint64) {
	c.setArith(f)
	c.flags = f&^(flagsArith|flagRF) | flagFixed
}

// cond evaluates condition number cc as encoded in Jcc (SDM vol. 1, appendix B).
func (c *CPU) cond(cc uint8) bool {
	var v bool
	switch cc >> 1 & 7 {
	case 0:
		v = c.of()
	case 1:
		v = c.cf()
	case 2:
		v = c.zf()
	case 3:
		v = c.cf() || c.zf()
	case 4:
		v = c.sf()
	case 5:
		v = c.pf()
	case 6:
		v = c.sf() != c.of()
	case 7:
		v = c.zf() || c.sf() != c.of()
	}
	return v != (cc&1 != 0)
}

// flagsAdd sets the flags of a + b = r, all sign-extended, with top bit number top.
func (c *CPU) flagsAdd(a, b, r uint64, top uint8) {
	c.fr, c.fc, c.fs = r, a&b|(a|b)&^r, top
}

// flagsSub sets the flags of a - b = r, all sign-extended, with top bit number top.
func (c *CPU) flagsSub(a, b, r uint64, top uint8) {
	c.fr, c.fc, c.fs = r, ^a&b|(^a|b)&r, top
}

// flagsLogic sets the flags of a bitwise result, sign-extended: CF, OF and AF are 0.
func (c *CPU) flagsLogic(r uint64) {
	c.fr, c.fc, c.fs = r, 0, 63
}
