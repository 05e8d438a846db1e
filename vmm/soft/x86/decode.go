package x86

import "errors"

// The ways in which Decode can fail.
var (
	// ErrShort: there are fewer than MaxLen bytes, and the instruction does not end within them.
	ErrShort = errors.New("x86: the instruction is cut off")
	// ErrTooLong: the instruction does not end within MaxLen bytes. It raises #GP.
	ErrTooLong = errors.New("x86: the instruction is too long")
	// ErrUndefined: the bytes are no instruction, or have a LOCK prefix that it does not allow. They raise #UD.
	ErrUndefined = errors.New("x86: undefined instruction")
)

// Decode decodes the instruction at the start of p, of which it looks at MaxLen bytes at most. It sets all of inst;
// after an error that is Len, how many bytes it looked at, and no more.
//
// VEX and EVEX are decoded as far as it takes to know them: Len is less than the instruction's.
func Decode(p []byte, mode Mode, inst *Inst) error {
	d := decoder{p: p[:min(len(p), MaxLen)], mode: mode}
	err := d.decode(inst)
	if err != nil {
		*inst = Inst{}
	}
	inst.Len = uint8(d.n)
	return err
}

// decoder is the state of one decoding.
type decoder struct {
	p    []byte
	n    int // bytes taken from p
	mode Mode

	// short is set once more bytes were asked for than there are; those are zero. undefined is set by an
	// operand that does not exist.
	short, undefined bool

	// The prefixes.
	operand66, address67, lock bool
	repeat                     selector // selF3, selF2 or 0
	rex                        uint8
	seg                        uint8

	modRM            uint8
	opSize, addrSize uint8
}

// The bits of a REX prefix (SDM vol. 2A, 2.2.1.2).
const (
	rexB = 1 << iota
	rexX
	rexR
	rexW
)

// Kinds of prefix, for prefixKind.
const (
	noPrefix = iota
	prefixSeg
	prefixREX
	prefix66
	prefix67
	prefixLock
	prefixF2
	prefixF3
)

// prefixKind is the kind of prefix that a byte is (SDM vol. 2A, 2.1.1).
var prefixKind = func() (kind [256]uint8) {
	for _, b := range []uint8{0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65} {
		kind[b] = prefixSeg
	}
	for b := 0x40; b < 0x50; b++ {
		kind[b] = prefixREX
	}
	kind[0x66], kind[0x67], kind[0xf0], kind[0xf2], kind[0xf3] = prefix66, prefix67, prefixLock, prefixF2, prefixF3
	return kind
}()

// Segment registers.
const (
	segSS = 2
	segDS = 3
	segFS = 4

	segDefault = 0xff // no override
)

func (d *decoder) decode(inst *Inst) error {
	op := d.opcode(d.prefixes())
	if op.modRM {
		if d.modRM = d.next(); op.anyMod {
			d.modRM |= 0xc0
		}
	}
	if d.short {
		return d.cutOff()
	}
	f := op.find(d.selector())
	d.setSizes(f)
	*inst = Inst{Op: f.op, OpSize: d.opSize, AddrSize: d.addrSize, Lock: d.lock}
	if f.attr&attrRep != 0 {
		switch d.repeat {
		case selF3:
			inst.Rep = RepE
		case selF2:
			inst.Rep = RepNE
		}
	}
	inst.Mem = Mem{Seg: d.segment(segDS), Base: NoReg, Index: NoReg}
	for i := range f.args {
		if f.args[i].method == noOperand {
			break
		}
		inst.Arg[i] = d.arg(&f.args[i], inst)
	}
	if d.short {
		return d.cutOff()
	}
	if f.op == Invalid || d.undefined || d.lock && (f.attr&attrLock == 0 || inst.Arg[0].Kind != MemOp) {
		return ErrUndefined
	}
	return nil
}

// cutOff is the error for bytes that end before the instruction does.
func (d *decoder) cutOff() error {
	if len(d.p) < MaxLen {
		return ErrShort
	}
	return ErrTooLong
}

// next takes a byte.
func (d *decoder) next() uint8 {
	if d.n == len(d.p) {
		d.short = true
		return 0
	}
	d.n++
	return d.p[d.n-1]
}

// fetch takes n bytes, as a little-endian number.
func (d *decoder) fetch(n uint8) uint64 {
	end := d.n + int(n)
	if end > len(d.p) {
		d.short = true
		d.n = len(d.p)
		return 0
	}
	var v uint64
	for i := end - 1; i >= d.n; i-- {
		v = v<<8 | uint64(d.p[i])
	}
	d.n = end
	return v
}

// signed is fetch, sign-extended.
func (d *decoder) signed(n uint8) int64 {
	unused := 64 - 8*n
	return int64(d.fetch(n)<<unused) >> unused
}

// prefixes takes the prefixes, and the byte after them.
func (d *decoder) prefixes() uint8 {
	d.seg = segDefault
	for {
		b := d.next()
		kind := prefixKind[b]
		if kind == noPrefix || kind == prefixREX && d.mode != Mode64 {
			return b
		}
		// A REX prefix counts only if the opcode follows (SDM vol. 2A, 2.2.1).
		d.rex = 0
		switch kind {
		case prefixREX:
			d.rex = b
		case prefixSeg:
			d.override(b)
		case prefix66:
			d.operand66 = true
		case prefix67:
			d.address67 = true
		case prefixLock:
			d.lock = true
		case prefixF2:
			d.repeat = selF2
		case prefixF3:
			d.repeat = selF3
		}
	}
}

// override notes a segment override. In 64-bit mode those of ES, CS, SS and DS are ignored (SDM vol. 1, 3.4.4).
func (d *decoder) override(b uint8) {
	switch {
	case b >= 0x64:
		d.seg = b - 0x64 + segFS
	case d.mode != Mode64:
		d.seg = b >> 3 & 3
	}
}

// segment is the effective segment of an operand in memory.
func (d *decoder) segment(byDefault uint8) uint8 {
	if d.seg == segDefault {
		return byDefault
	}
	return d.seg
}

// opcode takes the rest of the opcode that begins with b.
func (d *decoder) opcode(b uint8) *opcode {
	if b != 0x0f {
		return &opcodes[map1][b]
	}
	switch b = d.next(); b {
	case 0x38:
		return &opcodes[map0F38][d.next()]
	case 0x3a:
		return &opcodes[map0F3A][d.next()]
	}
	return &opcodes[map0F][b]
}

// selector gathers what selects the form. F2 and F3 go before 66, of the two the last (SDM vol. 2A, 2.1.2).
func (d *decoder) selector() selector {
	s := selector(d.modRM & 0x3f)
	if d.modRM >= 0xc0 {
		s |= selMod
	}
	if d.repeat != 0 {
		s |= d.repeat
	} else if d.operand66 {
		s |= sel66
	}
	if d.rex&rexW != 0 {
		s |= selW
	}
	if d.rex&rexB != 0 {
		s |= selB
	}
	if d.mode == Mode64 {
		s |= sel64
	}
	return s
}

// find returns the form that fits s.
func (o *opcode) find(s selector) *form {
	i := o.first[s>>3&15]
	for s&o.forms[i].mask != o.forms[i].match {
		i++
	}
	return &o.forms[i]
}

// setSizes sets opSize and addrSize (SDM vol. 1, 3.6).
func (d *decoder) setSizes(f *form) {
	// 66 has no other meaning where it selects the instruction.
	small := d.operand66 && !(f.mask&selPfx == selPfx && f.match&selPfx == sel66)
	d.opSize, d.addrSize = 4, 4
	if d.mode == Mode64 {
		d.addrSize = 8
		if d.address67 {
			d.addrSize = 4
		}
		switch {
		case f.attr&attrF64 != 0:
			d.opSize = 8
		case d.rex&rexW != 0:
			d.opSize = 8
		case small:
			d.opSize = 2
		case f.attr&attrD64 != 0:
			d.opSize = 8
		}
	} else {
		if small != (d.mode == Mode16) {
			d.opSize = 2
		}
		if d.address67 != (d.mode == Mode16) {
			d.addrSize = 2
		}
	}
	if f.attr&attrZ != 0 {
		d.opSize = min(d.opSize, 4)
	}
	if f.attr&attrByte != 0 {
		d.opSize = 1
	}
}

// size is what a size or size code means for this instruction.
func (d *decoder) size(code uint8) uint8 {
	if code < sizeV {
		return code
	}
	switch code {
	case sizeY:
		if d.rex&rexW == 0 {
			return 4
		}
		return 8
	case sizeN:
		if d.mode != Mode64 {
			return 4
		}
		return 8
	case sizeZ:
		return min(d.opSize, 4)
	case sizeP:
		return d.opSize + 2
	case sizeA:
		return 2 * d.opSize
	case sizeS:
		if d.mode != Mode64 {
			return 6
		}
		return 10
	case sizeE:
		if d.opSize == 2 {
			return 14
		}
		return 28
	case sizeF:
		if d.opSize == 2 {
			return 94
		}
		return 108
	}
	return d.opSize // sizeV
}

// arg finds an operand. Memory, immediates and branch targets go into inst.
func (d *decoder) arg(o *operand, inst *Inst) Arg {
	reg, rm := d.modRM>>3&7, d.modRM&7
	regR := reg | d.rex&rexR<<1
	switch o.method {
	case methodG:
		return d.general(regR, d.size(o.size))
	case methodE, methodQ, methodW:
		if d.modRM < 0xc0 {
			d.memory(&inst.Mem)
			return Arg{Kind: MemOp, Size: d.size(o.memSize)}
		}
		switch o.method {
		case methodQ:
			return Arg{MMX, rm, o.size}
		case methodW:
			return Arg{XMM, rm | d.rex&rexB<<3, o.size}
		}
		return d.general(rm|d.rex&rexB<<3, d.size(o.size))
	case methodV:
		return Arg{XMM, regR, o.size}
	case methodP:
		return Arg{MMX, reg, o.size}
	case methodI:
		size := d.size(o.size)
		switch o.size {
		case sizeV:
			inst.Imm = d.signed(size)
		case sizeZ:
			inst.Imm = d.signed(size)
			size = d.opSize
		default:
			inst.Imm = int64(d.fetch(size))
		}
		return Arg{Kind: Imm, Size: size}
	case methodSI:
		inst.Imm = int64(int8(d.next()))
		return Arg{Kind: Imm, Size: d.size(o.size)}
	case methodI2:
		inst.Imm2 = uint16(d.fetch(o.size))
		return Arg{Kind: Imm2, Size: o.size}
	case methodOne:
		inst.Imm = 1
		return Arg{Kind: Imm, Size: 1}
	case methodJ:
		inst.Imm = d.signed(d.size(o.size))
		return Arg{Kind: Rel, Size: d.opSize}
	case methodZ:
		return d.general(d.lowOpcodeReg(), d.size(o.size))
	case methodGPR:
		return Arg{GPR, o.reg, d.size(o.size)}
	case methodSTi:
		return Arg{ST, rm, o.size}
	case methodST:
		return Arg{ST, 0, o.size}
	case methodO:
		inst.Mem.Disp = int64(d.fetch(d.addrSize))
		return Arg{Kind: MemOp, Size: d.size(o.memSize)}
	case methodS:
		if reg > 5 {
			d.undefined = true
		}
		return Arg{SReg, reg, 2}
	case methodSReg:
		return Arg{SReg, o.reg, 2}
	case methodC:
		// CR1, CR5 to CR7 and those above CR8 do not exist.
		if regR > 8 || 1<<regR&0b1_0001_1101 == 0 {
			d.undefined = true
		}
		return Arg{CReg, regR, d.size(o.size)}
	case methodD:
		if regR > 7 {
			d.undefined = true
		}
		return Arg{DReg, regR, d.size(o.size)}
	case methodA:
		inst.Imm = int64(d.fetch(d.size(sizeZ)))
		inst.Imm2 = uint16(d.fetch(2))
		return Arg{Kind: Far, Size: d.opSize}
	}
	panic("x86: operand method without a case")
}

// lowOpcodeReg is the register that is part of the opcode, which is the byte taken last.
func (d *decoder) lowOpcodeReg() uint8 { return d.p[d.n-1]&7 | d.rex&rexB<<3 }

// general is a general register. Without REX, the numbers 4 to 7 of byte registers are AH, CH, DH, BH.
func (d *decoder) general(reg, size uint8) Arg {
	if size == 1 && d.rex == 0 && reg >= 4 {
		return Arg{High, reg - 4, 1}
	}
	return Arg{GPR, reg, size}
}

// memory takes the rest of the memory operand that ModRM begins (SDM vol. 2A, 2.1.5 and 2.2.1).
func (d *decoder) memory(m *Mem) {
	if d.addrSize == 2 {
		d.memory16(m)
		return
	}
	mod, rm := d.modRM>>6, d.modRM&7
	m.Base = rm | d.rex&rexB<<3
	if rm == 4 {
		sib := d.next()
		rm = sib & 7
		m.Base = rm | d.rex&rexB<<3
		if index := sib>>3&7 | d.rex&rexX<<2; index != 4 {
			m.Index, m.Shift = index, sib>>6
		}
		if mod == 0 && rm == 5 {
			m.Base = NoReg
		}
	} else if mod == 0 && rm == 5 {
		m.Base = NoReg
		if d.mode == Mode64 {
			m.Base = RegIP
		}
	}
	switch {
	case mod == 1:
		m.Disp = int64(int8(d.next()))
	case mod == 2 || m.Base >= RegIP:
		m.Disp = d.signed(4)
	}
	if m.Base == 4 || m.Base == 5 { // RSP, RBP
		m.Seg = d.segment(segSS)
	}
}

// memory16 is memory with 16-bit addresses (SDM vol. 2A, table 2-1).
func (d *decoder) memory16(m *Mem) {
	const bx, bp, si, di = 3, 5, 6, 7
	mod, rm := d.modRM>>6, d.modRM&7
	m.Base = [8]uint8{bx, bx, bp, bp, si, di, bp, bx}[rm]
	if rm < 4 {
		m.Index = [2]uint8{si, di}[rm&1]
	}
	if mod == 0 && rm == 6 {
		m.Base = NoReg
	}
	switch {
	case mod == 1:
		m.Disp = int64(int8(d.next()))
	case mod == 2 || m.Base == NoReg:
		m.Disp = d.signed(2)
	}
	if m.Base == bp {
		m.Seg = d.segment(segSS)
	}
}
