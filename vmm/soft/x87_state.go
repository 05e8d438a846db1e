package soft

import (
	"encoding/binary"
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/float"
	"ftvm/vmm/soft/x86"
)

// stateLowering has the instructions that manage the state of the x87, MMX and SSE.
var stateLowering = []lowerEntry{
	{x86.FINCSTP, x87Control(uCheckWaiting, func(c *CPU, _ *uop, _ *x86.Inst) bool { return c.fpu.rotate(1) })},
	{x86.FDECSTP, x87Control(uCheckWaiting, func(c *CPU, _ *uop, _ *x86.Inst) bool { return c.fpu.rotate(7) })},
	{x86.FFREE, x87Control(uCheckWaiting, execFFREE)},
	{x86.FFREEP, x87Control(uCheckWaiting, execFFREE)},
	{x86.FNOP, x87Control(uCheckWaiting, doNothing)},
	{x86.FLDCW, x87Control(uCheckWaiting, execFLDCW)},
	{x86.FLDENV, image(uCheckWaiting, execFLDENV)},
	{x86.FRSTOR, image(uCheckWaiting, execFRSTOR)},
	{x86.FWAIT, lowerFWAIT},
	{x86.FNSTCW, stores(uCheckX87, execFNSTCW)},
	{x86.FNSTSW, stores(uCheckX87, execFNSTSW)},
	{x86.FNSTENV, image(uCheckX87, execFNSTENV)},
	{x86.FNSAVE, image(uCheckX87, execFNSAVE)},
	{x86.FNCLEX, x87Control(uCheckX87, execFNCLEX)},
	{x86.FNINIT, x87Control(uCheckX87, execFNINIT)},
	// What the 8087 and 80287 did is done no more.
	{x86.FNENI, x87Control(uCheckX87, doNothing)},
	{x86.FNDISI, x87Control(uCheckX87, doNothing)},
	{x86.FNSETPM, x87Control(uCheckX87, doNothing)},

	{x86.EMMS, lowerEMMS},
	{x86.FXSAVE, image(uCheckFX, execFXSAVE)},
	{x86.FXRSTOR, image(uCheckFX, execFXRSTOR)},
	{x86.LDMXCSR, lowerLDMXCSR},
	{x86.STMXCSR, lowerSTMXCSR},
}

// x87Control lowers a control instruction, which leaves FIP and FDP alone. It may read memory.
func x87Control(check opcode, fn execFunc) lowerFunc {
	return func(l *lowerer) {
		l.emit(uop{op: check})
		l.wholeRead(fn)
	}
}

// stores lowers one that writes memory.
func stores(check opcode, fn execFunc) lowerFunc {
	return func(l *lowerer) {
		l.emit(uop{op: check})
		l.whole(fn)
	}
}

// image lowers one that reads or writes an image of state. fn has to look at segment limits.
func image(check opcode, fn execFunc) lowerFunc {
	return func(l *lowerer) {
		l.emit(uop{op: check})
		u := l.bareUop(fn, uInst)
		l.address(&u, 0, readOnly)
		l.emit(u)
	}
}

func doNothing(*CPU, *uop, *x86.Inst) bool { return true }

// rotate adds n to TOP.
func (f *fpu) rotate(n uint8) bool {
	f.setC1(false)
	f.top = (f.top + n) & 7
	return true
}

func execFFREE(c *CPU, _ *uop, in *x86.Inst) bool {
	c.fpu.setC1(false)
	c.fpu.valid &^= c.fpu.bit(lastRegister(in))
	if in.Op == x86.FFREEP {
		c.fpu.pop()
	}
	return true
}

func lowerFWAIT(l *lowerer) { l.emit(uop{op: uWait}) }

// opWait is FWAIT. Unlike others it heeds CR0.TS only together with CR0.MP, and not CR0.EM.
func (c *CPU) opWait(*uop) bool {
	if c.cr0&(cr0MP|cr0TS) == cr0MP|cr0TS {
		return c.fault(excNM)
	}
	return !c.fpu.pending() || c.fault(excMF)
}

func execFLDCW(c *CPU, u *uop, _ *x86.Inst) bool {
	v, ok := c.load16(c.ea(u))
	if ok {
		c.fpu.setControl(v)
	}
	return ok
}

func execFNSTCW(c *CPU, u *uop, _ *x86.Inst) bool { return c.store16(c.ea(u), c.fpu.cw) }

func execFNSTSW(c *CPU, u *uop, in *x86.Inst) bool {
	if mem(in) != nil {
		return c.store16(c.ea(u), c.fpu.status())
	}
	c.r[0] = c.r[0]&^0xffff | uint64(c.fpu.status())
	return true
}

func execFNCLEX(c *CPU, _ *uop, _ *x86.Inst) bool {
	c.fpu.sw &^= fpFlags | swSF
	return true
}

func execFNINIT(c *CPU, _ *uop, _ *x86.Inst) bool {
	c.fpu.reset()
	return true
}

// tags is the full tag word (SDM vol. 1, 8.1.7).
func (f *fpu) tags() (t uint16) {
	for i := range 8 {
		v := f.v[xR+i]
		tag := uint16(2) // special
		switch class := (float.F80{SE: uint16(v.hi), Frac: v.lo}).Class(); {
		case f.valid>>i&1 == 0:
			tag = 3
		case class == float.ClassNormal:
			tag = 0
		case class == float.ClassZero:
			tag = 1
		}
		t |= tag << (2 * i)
	}
	return t
}

// The image of FNSTENV (SDM vol. 1, 8.1.10) in protected mode: with operands of 32 bits, seven doublewords; with
// 16 bits, seven words. Selectors are 0.

const (
	envSize32 = 28
	envSize16 = 14
)

func envSize(in *x86.Inst) uint64 {
	if in.OpSize == 2 {
		return envSize16
	}
	return envSize32
}

// saveEnv makes an image in p, and returns its size.
func (f *fpu) saveEnv(in *x86.Inst, p []byte) uint64 {
	le := binary.LittleEndian
	if in.OpSize == 2 {
		for i, v := range [7]uint16{f.cw, f.status(), f.tags(), uint16(f.ip), 0, uint16(f.dp), 0} {
			le.PutUint16(p[2*i:], v)
		}
		return envSize16
	}
	const unused = 0xffff_0000
	for i, v := range [7]uint32{
		unused | uint32(f.cw), unused | uint32(f.status()), unused | uint32(f.tags()),
		uint32(f.ip), uint32(f.fop) << 16, uint32(f.dp), unused,
	} {
		le.PutUint32(p[4*i:], v)
	}
	return envSize32
}

func (f *fpu) loadEnv(in *x86.Inst, p []byte) {
	le := binary.LittleEndian
	get := func(i int) uint32 { return le.Uint32(p[4*i:]) }
	if in.OpSize == 2 {
		get = func(i int) uint32 { return uint32(le.Uint16(p[2*i:])) }
		f.fop = 0
	} else {
		f.fop = uint16(get(4) >> 16 & 0x7ff)
	}
	f.setControl(uint16(get(0)))
	f.setStatus(uint16(get(1)))
	f.valid = 0
	for i := range 8 {
		if get(2)>>(2*i)&3 != 3 {
			f.valid |= 1 << i
		}
	}
	f.ip, f.dp = uint64(get(3)), uint64(get(5))
}

// checkPart checks an access to n bytes at offset o of the image that u's memory operand is. The offset wraps
// around as addresses of the instruction's address size do.
func (c *CPU) checkPart(u *uop, in *x86.Inst, o, n uint64, acc access) bool {
	a, ok := (c.dataOffset(u, in)+o)&(1<<(8*in.AddrSize)-1), true
	switch {
	case c.mode != x86.Mode64:
		a, ok = c.segmented(in.Mem.Seg, a, n, acc&accWrite != 0)
	case in.Mem.Seg >= vmm.FS:
		a += c.seg[in.Mem.Seg].Base
	}
	if ok {
		_, ok = c.span(a, n, acc)
	}
	return ok
}

// checkEnv checks an access to the image of an environment, or of all state, of n bytes in all. The first element comes
// first, then the last byte, and then all others, as on AMD's silicon: the exception tells.
func (c *CPU) checkEnv(u *uop, in *x86.Inst, n uint64, acc access) bool {
	size := envSize(in) / 7
	if !c.checkPart(u, in, 0, size, acc) || !c.checkPart(u, in, n-1, 1, acc) {
		return false
	}
	// A segment's limit matters to each of them.
	for o := size; o < n && c.mode != x86.Mode64; o += size {
		if o == envSize(in) {
			size = 10
		}
		if _, ok := c.segmented(in.Mem.Seg, (c.dataOffset(u, in)+o)&math.MaxUint32, size, acc&accWrite != 0); !ok {
			return false
		}
	}
	return true
}

func (c *CPU) loadEnv(u *uop, in *x86.Inst, p []byte) bool {
	return c.checkEnv(u, in, uint64(len(p)), c.userAccess()) && c.loadBlock(c.ea(u), p)
}

func (c *CPU) storeEnv(u *uop, in *x86.Inst, p []byte) bool {
	return c.checkEnv(u, in, uint64(len(p)), c.userAccess()|accWrite) && c.storeBlock(c.ea(u), p)
}

func execFNSTENV(c *CPU, u *uop, in *x86.Inst) bool {
	var p [envSize32]byte
	n := c.fpu.saveEnv(in, p[:])
	if !c.storeEnv(u, in, p[:n]) {
		return false
	}
	c.fpu.setControl(c.fpu.cw | fpFlags)
	return true
}

func execFLDENV(c *CPU, u *uop, in *x86.Inst) bool {
	var p [envSize32]byte
	if !c.loadEnv(u, in, p[:envSize(in)]) {
		return false
	}
	c.fpu.loadEnv(in, p[:])
	return true
}

// The image of FNSAVE has the registers from ST(0) to ST(7) after the environment.
const saveSize = 80

func execFNSAVE(c *CPU, u *uop, in *x86.Inst) bool {
	var p [envSize32 + saveSize]byte
	n := c.fpu.saveEnv(in, p[:])
	for i := range uint8(8) {
		putF80(p[n+10*uint64(i):], c.fpu.get(i))
	}
	if !c.storeEnv(u, in, p[:n+saveSize]) {
		return false
	}
	c.fpu.reset()
	return true
}

func execFRSTOR(c *CPU, u *uop, in *x86.Inst) bool {
	var p [envSize32 + saveSize]byte
	n := envSize(in)
	if !c.loadEnv(u, in, p[:n+saveSize]) {
		return false
	}
	f := &c.fpu
	f.loadEnv(in, p[:])
	for i := range uint8(8) {
		x := getF80(p[n+10*uint64(i):])
		*f.st(i) = vec{x.Frac, uint64(x.SE)}
	}
	return true
}

func lowerEMMS(l *lowerer) {
	l.emit(uop{op: uCheckMMX})
	l.emit(uop{op: uEMMS})
}

// opEMMS empties all registers.
func (c *CPU) opEMMS(*uop) bool {
	c.fpu.top, c.fpu.valid = 0, 0
	return true
}

// visibleXMM is how many XMM registers there are in the current mode.
func (c *CPU) visibleXMM() int {
	if c.mode == x86.Mode64 {
		return 16
	}
	return 8
}

// checkFX checks an access to the image of FXSAVE, of which the last byte is looked at first once the address is known to be
// good.
func (c *CPU) checkFX(u *uop, in *x86.Inst, acc access) bool {
	if c.mode != x86.Mode64 {
		if _, ok := c.segmented(in.Mem.Seg, c.dataOffset(u, in), 4, acc&accWrite != 0); !ok {
			return false
		}
	}
	switch a := c.ea(u); {
	case !canonical(a):
		return c.badAddress(a)
	case a&3 != 0 && c.aligned:
		return c.faultCode(excAC, 0)
	case a&15 != 0:
		return c.faultCode(excGP, 0)
	}
	return c.checkPart(u, in, fxSize-1, 1, acc) && c.checkPart(u, in, 0, 16, acc)
}

// execFXSAVE writes what saveFX does, up to the last XMM register. Addresses have 64 bits with FXSAVE64,
// else 32 (SDM vol. 1, table 10-2, and vol. 2A, FXSAVE).
func execFXSAVE(c *CPU, u *uop, in *x86.Inst) bool {
	if !c.checkFX(u, in, c.userAccess()|accWrite) {
		return false
	}
	var p [fxSize]byte
	c.saveFX(&p)
	narrowFX(in, &p)
	return c.storeBlock(c.ea(u), p[:fxXMM+16*c.visibleXMM()])
}

func execFXRSTOR(c *CPU, u *uop, in *x86.Inst) bool {
	var p [fxSize]byte
	if !c.checkFX(u, in, c.userAccess()) || !c.loadBlock(c.ea(u), p[:]) {
		return false
	}
	if binary.LittleEndian.Uint32(p[fxMXCSR:])&^mxcsrMask != 0 {
		return c.faultCode(excGP, 0)
	}
	narrowFX(in, &p)
	kept, n := c.fpu.v, c.visibleXMM()
	c.loadFX(&p)
	copy(c.fpu.v[n:16], kept[n:16])
	return true
}

// narrowFX clears what an image without REX.W has selectors for.
func narrowFX(in *x86.Inst, p *[fxSize]byte) {
	if in.OpSize != 8 {
		clear(p[fxIP+4 : fxDP])
		clear(p[fxDP+4 : fxMXCSR])
	}
}

func lowerLDMXCSR(l *lowerer) {
	l.needSSE()
	l.wholeRead(execLDMXCSR)
}

func lowerSTMXCSR(l *lowerer) {
	l.needSSE()
	l.whole(execSTMXCSR)
}

func execLDMXCSR(c *CPU, u *uop, _ *x86.Inst) bool {
	v, ok := c.load32(c.ea(u))
	if !ok {
		return false
	}
	if v&^mxcsrMask != 0 {
		return c.faultCode(excGP, 0)
	}
	c.fpu.setMXCSR(v)
	return true
}

func execSTMXCSR(c *CPU, u *uop, _ *x86.Inst) bool { return c.store32(c.ea(u), c.fpu.mxcsr()) }
