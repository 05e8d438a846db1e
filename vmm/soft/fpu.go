package soft

import (
	"encoding/binary"

	"ftvm/vmm/soft/float"
)

// vec is the content of a slot of the vector file.
type vec struct{ lo, hi uint64 }

// Slots of fpu.v: 0 to 15 are the XMM registers by their encoding.
const (
	xT    = 16 // a memory operand of the instruction
	xNone = 17 // nothing: in place of a source that a micro-operation has not
	// xR+n is register Rn of the x87 stack: its significand in lo, and sign and exponent in hi. MMX
	// registers are their significands (SDM vol. 1, 9.2.2): MMn is that of Rn.
	xR = 24
)

// fpu is the state of x87, MMX and SSE.
type fpu struct {
	v [32]vec

	// sse holds MXCSR, of which the flags are sticky.
	sse float.Env

	// x87 holds what of the control word concerns arithmetic, and what one instruction meets.
	x87 float.Env
	// cw is the x87 control word. sw is the status word without TOP, ES and B: the latter two follow
	// from the flags in sw and the masks in cw.
	cw, sw uint16
	// top is TOP, 0 to 7.
	top uint8
	// valid has bit n set if Rn is not empty: the abridged tag word (SDM vol. 1, 10.5.1.1).
	valid uint8
	// ip and dp are the offsets of the last x87 instruction that was not a control instruction, and of the last memory
	// operand of one. Their selectors are 0, as CPUID says. fop, its opcode, is only ever loaded.
	ip, dp uint64
	fop    uint16
}

// Bits of CR0 and CR4 that floating point heeds (SDM vol. 3A, 2.5).
const (
	cr0MP         = 1 << 1
	cr0EM         = 1 << 2
	cr0TS         = 1 << 3
	cr4OSFXSR     = 1 << 9
	cr4OSXMMEXCPT = 1 << 10
)

// Bits of the x87 control and status words (SDM vol. 1, 8.1.3 and 8.1.5), and of MXCSR.
const (
	fpIE    = 1 << 0
	fpFlags = 0x3f
	swSF    = 1 << 6
	swES    = 1 << 7
	swC0    = 1 << 8
	swC1    = 1 << 9
	swC2    = 1 << 10
	swC3    = 1 << 14
	swB     = 1 << 15
	swCond  = swC0 | swC1 | swC2 | swC3
	swKept  = fpFlags | swSF | swCond

	cwInit     = 0x37f
	cwFixed    = 1 << 6
	cwWritable = 0x1f3f

	mxcsrDAZ  = 1 << 6
	mxcsrFTZ  = 1 << 15
	mxcsrInit = 0x1f80
	mxcsrMask = 0xffff
)

// pending tells whether an x87 exception waits for the next waiting instruction.
func (f *fpu) pending() bool { return f.sw&^f.cw&fpFlags != 0 }

func (f *fpu) setControl(v uint16) {
	f.cw = v&cwWritable | cwFixed
	f.x87 = float.Env{
		Round: float.Rounding(v >> 10 & 3), Prec: float.Precision(v >> 8 & 3), Mask: uint8(v & fpFlags),
	}
}

// status is the status word as the guest sees it.
func (f *fpu) status() uint16 {
	v := f.sw | uint16(f.top)<<11
	if f.pending() {
		v |= swES | swB
	}
	return v
}

func (f *fpu) setStatus(v uint16) { f.sw, f.top = v&swKept, uint8(v>>11)&7 }

// reset is what FNINIT does (SDM vol. 2A, FINIT): registers keep their contents, but are empty.
func (f *fpu) reset() {
	f.setControl(cwInit)
	f.sw, f.top, f.valid = 0, 0, 0
	f.ip, f.dp, f.fop = 0, 0, 0
}

// The checks that floating-point instructions begin with (SDM vol. 3A, 2.5, tables 2-2 and 12-1, and 13.1). CR0 and CR4
// do not change within a block, so that one check of those for SSE, which look at nothing else, serves a block.

// opCheckSSE raises what makes SSE instructions unavailable.
func (c *CPU) opCheckSSE(*uop) bool {
	if c.cr0&cr0EM != 0 || c.cr4&cr4OSFXSR == 0 {
		return c.fault(excUD)
	}
	return c.cr0&cr0TS == 0 || c.fault(excNM)
}

// opCheckX87 is for x87 instructions that do not wait.
func (c *CPU) opCheckX87(*uop) bool { return c.cr0&(cr0EM|cr0TS) == 0 || c.fault(excNM) }

// opCheckWaiting is for those that do. CR0.NE makes no difference: the external interrupt that
// would report errors if it is 0 is not wired.
func (c *CPU) opCheckWaiting(*uop) bool {
	if c.cr0&(cr0EM|cr0TS) != 0 {
		return c.fault(excNM)
	}
	return !c.fpu.pending() || c.fault(excMF)
}

// opCheckMMX is for MMX instructions.
func (c *CPU) opCheckMMX(*uop) bool {
	if c.cr0&cr0EM != 0 {
		return c.fault(excUD)
	}
	if c.cr0&cr0TS != 0 {
		return c.fault(excNM)
	}
	return !c.fpu.pending() || c.fault(excMF)
}

// opCheckFX is for FXSAVE and FXRSTOR.
func (c *CPU) opCheckFX(*uop) bool {
	if c.cr0&cr0EM != 0 {
		return c.fault(excUD)
	}
	return c.cr0&cr0TS == 0 || c.fault(excNM)
}

// Offsets in an image of FXSAVE, and its size (SDM vol. 1, 10.5.1).
const (
	fxTag   = 4
	fxOp    = 6
	fxIP    = 8
	fxDP    = 16
	fxMXCSR = 24
	fxMask  = 28
	fxST    = 32
	fxXMM   = 160
	fxSize  = 512
)

// saveFX writes the state as FXSAVE64 does; what that leaves alone is 0.
func (c *CPU) saveFX(p *[fxSize]byte) {
	clear(p[:])
	c.fpu.saveX87(p)
	le := binary.LittleEndian
	le.PutUint64(p[fxIP:], c.fpu.ip)
	le.PutUint64(p[fxDP:], c.fpu.dp)
	for i, v := range c.fpu.v[:16] {
		le.PutUint64(p[fxXMM+16*i:], v.lo)
		le.PutUint64(p[fxXMM+16*i+8:], v.hi)
	}
}

// saveX87 writes what all forms of FXSAVE have in common.
func (f *fpu) saveX87(p *[fxSize]byte) {
	le := binary.LittleEndian
	le.PutUint16(p[0:], f.cw)
	le.PutUint16(p[2:], f.status())
	p[fxTag] = f.valid
	le.PutUint16(p[fxOp:], f.fop)
	le.PutUint32(p[fxMXCSR:], f.mxcsr())
	le.PutUint32(p[fxMask:], mxcsrMask)
	for i := range uint8(8) {
		r := f.st(i)
		le.PutUint64(p[fxST+16*int(i):], r.lo)
		le.PutUint16(p[fxST+16*int(i)+8:], uint16(r.hi))
	}
}

// loadFX replaces the state by that in an image of FXSAVE64. Reserved bits are dropped.
func (c *CPU) loadFX(p *[fxSize]byte) {
	c.fpu.loadX87(p)
	le := binary.LittleEndian
	c.fpu.ip = le.Uint64(p[fxIP:])
	c.fpu.dp = le.Uint64(p[fxDP:])
	for i := range 16 {
		c.fpu.v[i] = vec{le.Uint64(p[fxXMM+16*i:]), le.Uint64(p[fxXMM+16*i+8:])}
	}
}

func (f *fpu) loadX87(p *[fxSize]byte) {
	le := binary.LittleEndian
	f.setControl(le.Uint16(p[0:]))
	f.setStatus(le.Uint16(p[2:]))
	f.valid = p[fxTag]
	f.fop = le.Uint16(p[fxOp:]) & 0x7ff
	f.setMXCSR(le.Uint32(p[fxMXCSR:]) & mxcsrMask)
	for i := range uint8(8) {
		o := fxST + 16*int(i)
		*f.st(i) = vec{le.Uint64(p[o:]), uint64(le.Uint16(p[o+8:]))}
	}
}

// st is the slot of ST(i).
func (f *fpu) st(i uint8) *vec { return &f.v[xR+(f.top+i)&7] }

// mxcsr is MXCSR as the guest sees it (SDM vol. 1, 10.2.3).
func (f *fpu) mxcsr() uint32 {
	e := &f.sse
	v := uint32(e.Flags) | uint32(e.Mask)<<7 | uint32(e.Round)<<13
	if e.DAZ {
		v |= mxcsrDAZ
	}
	if e.FTZ {
		v |= mxcsrFTZ
	}
	return v
}

// plain tells whether MXCSR is as after a reset, but for its flags.
func (f *fpu) plain() bool { return f.mxcsr()&^fpFlags == mxcsrInit }

func (f *fpu) setMXCSR(v uint32) {
	f.sse = float.Env{
		Round: float.Rounding(v >> 13 & 3), Flags: uint8(v & fpFlags), Mask: uint8(v >> 7 & fpFlags),
		DAZ: v&mxcsrDAZ != 0, FTZ: v&mxcsrFTZ != 0,
	}
}
