package oracle

// Mask says which parts of an outcome are not to be compared.
type Mask struct {
	Flags uint64     // bits of RFLAGS
	GPR   [16]uint64 // bits of general registers
	FSW   uint16     // bits of the x87 status word
	// Memory are ranges of the data area: offset and length.
	Memory [][2]int
	// Near lets x87 registers and PE, C1 differ: ST(0) and ST(1) by one in the last place.
	Near bool
	// Estimate lets each single in XMM register Reg differ by a relative error of 2^-11, twice what
	// the manual promises of an estimate.
	Estimate bool
}

// Condition codes in the x87 status word.
const (
	fswPE = 1 << 5
	fswC0 = 1 << 8
	fswC1 = 1 << 9
	fswC2 = 1 << 10
	fswC3 = 1 << 14
)

// alwaysMasked are the ranges of FX (offset and length) that are never compared:
//
//   - FOP, FIP and FDP: AMD's FXSAVE stores them only if an exception is pending, and Intel's CPUs differ in
//     whether they follow instructions without a memory operand, and in the selectors;
//   - MXCSR_MASK: a constant of the CPU model;
//   - the six reserved bytes after each x87 register.
var alwaysMasked = func() [][2]int {
	m := [][2]int{{5, 1}, {fxFOP, fxMXCSR - fxFOP}, {fxMask, 4}}
	for i := range 8 {
		m = append(m, [2]int{fxST + 16*i + 10, 6})
	}
	return m
}()

// Undefined says what the manual leaves undefined after c (SDM vol. 2, "Flags Affected" of each instruction), and what
// differs between AMD's CPUs and Intel's. It is about instructions that complete: a fault leaves nothing undefined.
func Undefined(c *Case) Mask {
	var m Mask
	if c.Form == nil {
		return m
	}
	m.Flags = c.Form.undefined
	if c.Form.mask != nil {
		c.Form.mask(c, &m)
	}
	return m
}

// shiftCount is the count of a shift or rotation, masked as the CPU does.
func (c *Case) shiftCount() uint {
	count := uint(c.Imm)
	switch {
	case c.Form.countInCL:
		count = uint(c.GPR[RCX])
	case c.Form.opcode[0] == 0xd0 || c.Form.opcode[0] == 0xd1:
		count = 1
	}
	if c.Size == 8 {
		return count & 63
	}
	return count & 31
}

// source is the operand in ModRM.rm.
func (c *Case) source() uint64 {
	if c.RM != NoReg {
		return c.GPR[c.RM] & (1<<(8*c.Size) - 1)
	}
	return word(c.bytes(c.Addr, int(c.Bytes)))
}

// undefinedDest makes bits of the destination in ModRM.rm undefined.
func (c *Case) undefinedDest(m *Mask, bits uint64) {
	if c.RM != NoReg {
		m.GPR[c.RM] |= bits
		return
	}
	m.Memory = append(m.Memory, [2]int{int(c.Addr) - DataBase, int(c.Bytes)})
}

var masks = map[string]func(c *Case, m *Mask){
	"shift": func(c *Case, m *Mask) {
		n := c.shiftCount()
		if n == 0 {
			return
		}
		m.Flags |= AF
		if n > 1 {
			m.Flags |= OF
		}
		// For SAR (/7) CF is the sign however far.
		if n >= 8*uint(c.Size) && c.Form.digit != 7 {
			m.Flags |= CF
		}
	},
	"rotate": func(c *Case, m *Mask) {
		if c.shiftCount() > 1 {
			m.Flags |= OF
		}
	},
	"shiftdouble": func(c *Case, m *Mask) {
		n := c.shiftCount()
		if n == 0 {
			return
		}
		m.Flags |= AF
		if n > 1 {
			m.Flags |= OF
		}
		if n > 8*uint(c.Size) {
			m.Flags |= arith
			c.undefinedDest(m, 0xffff)
		}
	},
	// With a source of zero, the destination is undefined by Intel's older manuals, and unchanged by AMD's and
	// Intel's newer ones: all of it, or with 32-bit operands perhaps but the upper half.
	"bsf": func(c *Case, m *Mask) {
		if c.Size == 4 && c.source() == 0 {
			m.GPR[c.Reg] |= 0xffff_ffff << 32
		}
	},
	"bswap": func(c *Case, m *Mask) {
		if c.Size == 2 {
			m.GPR[c.RM] |= 0xffff
		}
	},
	// A segment register pushed with a size of 32 bits: some CPUs write only 16.
	"pushseg": func(c *Case, m *Mask) {
		if c.Size == 4 {
			m.Memory = append(m.Memory, [2]int{int(c.GPR[RSP]-DataBase) - 2, 2})
		}
	},
	"c":    func(c *Case, m *Mask) { m.FSW |= fswC0 | fswC2 | fswC3 },
	"c0c3": func(c *Case, m *Mask) { m.FSW |= fswC0 | fswC3 },
	"c4":   func(c *Case, m *Mask) { m.FSW |= fswC0 | fswC1 | fswC2 | fswC3 },
	// The manual promises less than one unit in the last place, and CPUs differ.
	"transcendental": func(c *Case, m *Mask) {
		m.FSW |= fswPE | fswC1
		m.Near = true
	},
	"estimate": func(c *Case, m *Mask) { m.Estimate = true },
	// The pointers, and what lies beside 16-bit words of the 32-bit format.
	"env": func(c *Case, m *Mask) {
		at := int(c.Addr) - DataBase
		switch c.Bytes {
		case 28, 108:
			m.Memory = append(m.Memory, [2]int{at + 12, 16}, [2]int{at + 2, 2}, [2]int{at + 6, 2}, [2]int{at + 10, 2})
		default:
			m.Memory = append(m.Memory, [2]int{at + 6, 8})
		}
	},
	"fxsave": func(c *Case, m *Mask) {
		at := int(c.Addr) - DataBase
		for _, r := range alwaysMasked {
			m.Memory = append(m.Memory, [2]int{at + r[0], r[1]})
		}
		m.Memory = append(m.Memory, [2]int{at + FXSize, 512 - FXSize})
		if c.Mode == Mode32 {
			m.Memory = append(m.Memory, [2]int{at + fxXMM + 8*16, 8 * 16})
		}
	},
}

// vectors that Check knows.
const (
	vecBP = 3
	vecOF = 4
	vecPF = 14
)
