package oracle

import (
	"encoding/binary"
	"math/rand/v2"
)

// Generator makes cases out of a seed.
type Generator struct {
	seed  uint64
	forms []*Form
}

// NewGenerator makes cases of forms (of all, if there are none). Case n is a function of seed and n.
func NewGenerator(seed uint64, forms ...*Form) *Generator {
	if len(forms) == 0 {
		forms = Forms
	}
	return &Generator{seed, forms}
}

// Case makes case number n. The forms take turns.
func (g *Generator) Case(n uint64) Case {
	f := g.forms[n%uint64(len(g.forms))]
	r := rand.New(rand.NewPCG(g.seed, n))
	mode := Mode64
	if !f.only[Mode64] || f.only[Mode32] && oneIn(r, 4) {
		mode = Mode32
	}
	c := gen{Case: Case{Mode: mode, State: Base(mode), Form: f, Seed: g.seed, Index: n}, r: r, f: f}
	c.build()
	return c.Case
}

// Cases makes cases from to to-1.
func (g *Generator) Cases(from, to uint64) []Case {
	cases := make([]Case, 0, to-from)
	for n := from; n < to; n++ {
		cases = append(cases, g.Case(n))
	}
	return cases
}

// Base is a state with a different value in each register, none of them special.
func Base(mode Mode) State {
	s := State{RIP: CodeBase, Flags: fixedFlags}
	n := 16
	if mode == Mode32 {
		n = 8
	}
	for i := range n {
		s.GPR[i] = mode.truncate(0x1122_3344_5566_7780 + uint64(i)*0x0101_0101_0101_0101)
	}
	s.GPR[RSP] = DataBase + 0x800
	le := binary.LittleEndian
	le.PutUint16(s.FX[fxFCW:], 0x37f)
	le.PutUint32(s.FX[fxMXCSR:], 0x1f80)
	for i := range 8 {
		le.PutUint64(s.FX.ST(i), 0x8000_0000_0000_0000|mix(uint64(i)))
		le.PutUint16(s.FX.ST(i)[8:], uint16(0x3ff0+i))
	}
	if mode == Mode32 {
		n = 8
	}
	for i := range 2 * n {
		le.PutUint64(s.FX[fxXMM+8*i:], mix(uint64(100+i)))
	}
	return s
}

// truncate makes v a register's value in m.
func (m Mode) truncate(v uint64) uint64 {
	if m == Mode32 {
		return uint64(uint32(v))
	}
	return v
}

// gen makes one case.
type gen struct {
	Case
	r *rand.Rand
	f *Form

	// What the instruction is put together from.
	rexW, op66, op67, lock bool
	rep                    byte // F2, F3 or 0
	seg                    byte // override prefix, or 0
	reg, rm                uint8
	memory                 bool // ModRM.rm is memory
	mem                    mem
	imm                    []byte

	memArg arg      // the operand that is in memory
	pinned [16]bool // registers that an address is made of
}

// mem is how a memory operand is encoded.
type mem struct {
	mod         byte
	rm          byte // ModRM.rm, if there is no base
	base        byte // or NoReg
	index       byte // or NoReg
	shift       byte
	sib         bool
	disp        []byte
	ripRelative bool // disp is to be filled in
}

func (g *gen) build() {
	r := g.r
	g.GPR[RSP] = stackPointer(r)
	for i := range g.GPR {
		if i != RSP && (i < 8 || g.Mode == Mode64) && oneIn(r, 3) {
			g.GPR[i] = g.Mode.truncate(edgeInt(r))
		}
	}
	g.Flags |= r.Uint64() & arith
	if oneIn(r, 8) || g.f.rep && oneIn(r, 2) {
		g.Flags |= DF
	}
	if oneIn(r, 60) {
		g.Flags |= AC
	}
	g.choosePrefixes()
	g.chooseRegisters()
	g.chooseUnitState()
	if g.f.set != nil {
		g.f.set(g)
	}
	g.chooseImmediates()
	g.chooseMemory()
	if g.f.after != nil {
		g.f.after(g)
	}
	g.place()
}

// stackPointer is an address for pushes and pops; now and then at the edge of what is writable.
func stackPointer(r *rand.Rand) uint64 {
	sp := uint64(DataBase + 0x400 + 8*r.IntN(0x200))
	switch r.IntN(24) {
	case 0:
		sp += uint64(r.IntN(8))
	case 1: // crossing pages
		sp = DataBase + PageSize + uint64(r.IntN(33)) - 16
	case 2: // leaving the area, or into the read-only page
		sp = DataBase + pick[uint64](r, 0, 2*PageSize, 3*PageSize, DataSize) + uint64(r.IntN(33)) - 16
	}
	return sp
}

// has reports whether an operand is of one of the types.
func (f *Form) has(types ...string) bool {
	for _, a := range f.args {
		for _, t := range types {
			if a.typ == t {
				return true
			}
		}
	}
	return false
}

func (g *gen) choosePrefixes() {
	r, f := g.r, g.f
	sized := f.has("v", "z") || f.wide || f.opcode[0] == 0x98 || f.opcode[0] == 0x99 || len(f.args) == 1 && f.has("env", "sav")
	if f.unit == unitInt && (sized || !f.noPrefix) || f.unit == unitX87 && !f.noPrefix {
		g.op66 = sized && oneIn(r, 4) || oneIn(r, 60)
	}
	if f.branch && g.Mode == Mode64 {
		g.op66 = false
	}
	if g.Mode == Mode64 {
		g.rexW = (sized || f.has("y", "c", "x", "s")) && oneIn(r, 3) || oneIn(r, 40)
	}
	g.Size = 4
	switch {
	case g.rexW || f.wide && g.Mode == Mode64 && !g.op66:
		g.Size = 8
	case g.op66:
		g.Size = 2
	}
	if len(f.args) > 0 && f.args[0].typ == "b" && f.args[0].kind != 'J' {
		g.Size = 1
	}

	switch {
	case f.rep && !oneIn(r, 3):
		g.rep = pick[byte](r, 0xf2, 0xf3)
	case f.unit == unitInt && !f.noPrefix && !f.rep && len(f.opcode) == 1 && f.opcode[0] != 0x90 && oneIn(r, 80):
		g.rep = pick[byte](r, 0xf2, 0xf3)
	}
	hasMemory := f.rep || f.has("b", "w", "d", "q", "v", "y", "") || f.unit != unitInt
	if hasMemory && oneIn(r, 10) || oneIn(r, 80) {
		g.seg = pick[byte](r, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65)
	}
	if hasMemory && oneIn(r, 16) || oneIn(r, 100) {
		g.op67 = true
	}
}

// registers is how many there are of the general and of the XMM kind.
func (g *gen) registers() int {
	if g.Mode == Mode32 {
		return 8
	}
	return 16
}

func (g *gen) chooseRegisters() {
	r, f := g.r, g.f
	g.RM = NoReg
	g.reg, g.rm = uint8(r.IntN(g.registers())), uint8(r.IntN(g.registers()))
	if oneIn(r, 12) {
		g.rm = g.reg
	}
	for _, a := range f.args {
		switch a.kind {
		case 'P':
			g.reg &= 7
		case 'N':
			g.rm &= 7
		case 'Q':
			g.rm, g.memory = g.rm&7, !oneIn(r, 2)
		case 'E', 'W':
			g.memory = oneIn(r, 2)
		case 'M':
			g.memory = true
		case 'Z':
			if a.typ == "st" {
				g.rm &= 7
			}
		}
		if a.kind == 'M' || g.memory && (a.kind == 'E' || a.kind == 'W' || a.kind == 'Q') {
			g.memArg = a
		}
	}
	if f.digit >= 0 {
		g.reg = uint8(f.digit)
	}
	g.lock = f.lock && (g.memory && oneIn(r, 4) || oneIn(r, 40)) || oneIn(r, 400)
	g.Reg = g.reg
	if !g.memory {
		g.RM = g.rm
	}
}

// chooseUnitState puts operands into the registers that are not general.
func (g *gen) chooseUnitState() {
	r, f := g.r, g.f
	switch f.unit {
	case unitX87, unitMMX:
		randomX87(r, &g.FX)
	}
	if f.unit >= unitMMX {
		randomSSE(r, &g.FX)
	}
	for _, a := range f.args {
		switch a.kind {
		case 'V':
			copy(g.FX.XMM(int(g.reg)), edgeData(r, a.typ, 16))
		case 'W', 'U':
			if !g.memory {
				copy(g.FX.XMM(int(g.rm)), edgeData(r, a.typ, 16))
			}
		case 'P':
			g.setMMX(g.reg, a.typ)
		case 'Q', 'N':
			if !g.memory {
				g.setMMX(g.rm, a.typ)
			}
		case 'E':
			if !g.memory {
				g.GPR[g.rm] = g.Mode.truncate(edgeInt(r))
			}
		case 'G':
			g.GPR[g.reg] = g.Mode.truncate(edgeInt(r))
		case 'Z':
			if a.typ != "st" {
				g.GPR[g.rm] = g.Mode.truncate(edgeInt(r))
			}
		}
	}
	if f.unit >= unitSSE && oneIn(r, 8) && g.RM != NoReg { // equal operands
		copy(g.FX.XMM(int(g.reg)), g.FX.XMM(int(g.rm)))
	}
}

// setMMX gives MMn a value. MMn is the physical x87 register n, and the image has them by their distance from TOP.
func (g *gen) setMMX(n uint8, typ string) {
	top := uint8(g.FX.FSW() >> 11 & 7)
	copy(g.FX.ST(int((n-top)&7)), edgeData(g.r, typ, 8))
}

func (g *gen) chooseImmediates() {
	r, le := g.r, binary.LittleEndian
	for _, a := range g.f.args {
		if a.kind != 'I' && a.kind != 'J' && a.kind != 'O' {
			continue
		}
		v := edgeInt(r)
		var n int
		switch a.typ {
		case "b", "bs":
			n = 1
			if oneIn(r, 2) {
				v = uint64(r.IntN(72))
			}
		case "w":
			n = 2
		case "z":
			n = min(int(g.Size), 4)
		case "v":
			n = int(g.Size)
		}
		switch {
		case a.kind == 'O':
			n = g.addressSize()
			v = g.target(int(g.dataSize(arg{'M', a.typ}))) - g.segmentBase(3)
			g.setAddr(v+g.segmentBase(3), int(g.dataSize(arg{'M', a.typ})), "q")
		case a.kind == 'J' && n > 1 && !oneIn(r, 4):
			v = uint64(r.IntN(0x1000)) - 0x800
		}
		g.imm = append(g.imm, le.AppendUint64(nil, v)[:n]...)
		shift := 64 - 8*n
		g.Imm = int64(v) << shift >> shift
	}
}

// addressSize is the effective address size in bytes.
func (g *gen) addressSize() int {
	switch {
	case g.Mode == Mode64 && !g.op67:
		return 8
	case g.Mode == Mode32 && g.op67:
		return 2
	}
	return 4
}

// dataSizes are the sizes in bytes of operands that have but one.
var dataSizes = map[string]uint16{
	"b": 1, "w": 2, "d": 4, "q": 8, "dq": 16, "ps": 16, "pd": 16, "ss": 4, "sd": 8, "ps2": 8, "pi": 8,
	"f32": 4, "f64": 8, "f80": 10, "i16": 2, "i32": 4, "i64": 8, "bcd": 10, "x": 512,
}

// dataSize is how many bytes of memory operand a takes.
func (g *gen) dataSize(a arg) uint16 {
	switch a.typ {
	case "v":
		return uint16(g.Size)
	case "y":
		if g.rexW {
			return 8
		}
		return 4
	case "z":
		return min(uint16(g.Size), 4)
	case "a":
		return 2 * uint16(g.Size)
	case "c":
		if g.rexW {
			return 16
		}
		return 8
	case "s":
		if g.Mode == Mode64 {
			return 10
		}
		return 6
	case "count":
		if a.kind == 'W' {
			return 16
		}
		return 8
	case "env", "sav":
		n := uint16(28)
		if g.op66 {
			n = 14
		}
		if a.typ == "sav" {
			n += 80
		}
		return n
	}
	return dataSizes[a.typ]
}

// target chooses the linear address for a memory operand of n bytes.
func (g *gen) target(n int) uint64 {
	r := g.r
	align := func(a uint64) uint64 {
		if n >= 512 {
			return a &^ 15
		}
		if n > 1 && n&(n-1) == 0 && !oneIn(r, 6) {
			return a &^ uint64(n-1)
		}
		return a
	}
	cross := func(page uint64) uint64 { // the operand ends at most there
		return DataBase + page*PageSize - uint64(r.IntN(n+1))
	}
	n = max(n, 1)
	switch r.IntN(40) {
	case 0, 1, 2:
		return cross(1)
	case 3: // writable, then read-only
		return cross(2)
	case 4: // read-only, then writable
		return cross(3)
	case 5: // nothing behind
		return cross(DataPages)
	case 6: // nothing before
		return cross(0)
	case 7, 8:
		return align(DataBase + DataReadOnly*PageSize + uint64(r.IntN(PageSize-n)))
	case 9:
		if oneIn(r, 2) || g.Mode == Mode32 {
			return g.Mode.truncate(edgeInt(r))
		}
		return 1<<47 + edgeInt(r)>>17 // not canonical, or just so
	case 10:
		return CodeBase + uint64(r.IntN(CodeSize))
	}
	return align(DataBase + uint64(r.IntN(2*PageSize-n)))
}

// segmentBase is that of the segment that the memory operand is in, by default segment.
func (g *gen) segmentBase(segment int) uint64 {
	switch g.seg {
	case 0x64:
		segment = 4
	case 0x65:
		segment = 5
	}
	return uint64(Segments[segment].Base)
}

// setAddr notes where the memory operand is, and puts data of a type there.
func (g *gen) setAddr(addr uint64, n int, typ string) {
	g.Addr, g.Bytes = g.Mode.truncate(addr), uint16(n)
	g.poke(g.Addr, edgeData(g.r, typ, n))
}

// poke puts data into memory at a linear address, as far as it lies in the data area.
func (g *gen) poke(addr uint64, data []byte) {
	off := addr - DataBase
	if int64(off) < 0 && -off < uint64(len(data)) {
		data, off = data[-off:], 0
	}
	if off >= DataSize || len(data) == 0 {
		return
	}
	data = data[:min(len(data), int(DataSize-off))]
	g.Memory = append(g.Memory, Patch{uint16(off), data})
}

// chooseMemory makes ModRM's memory operand: a target, a form of addressing, and the registers and
// displacement that fit.
func (g *gen) chooseMemory() {
	if !g.memory {
		return
	}
	n := int(g.dataSize(g.memArg))
	target := g.target(n)
	if g.op67 && target>>32 != 0 {
		target = DataBase + target%PageSize
	}
	offset := target - g.segmentBase(3)
	if wraps := uint64(uint32(offset))+uint64(n) > 1<<32; wraps && g.Mode == Mode32 && g.f.has("env", "sav") {
		offset -= uint64(n)
	}
	if g.Mode == Mode32 && g.op67 {
		offset = g.address16(offset)
	} else {
		g.address(offset)
	}
	if g.op67 {
		offset = uint64(uint32(offset))
	}
	g.setAddr(offset+g.segmentBase(3), n, g.memArg.typ)
}

// address chooses how to say offset in the forms with 32-bit displacement and SIB.
func (g *gen) address(offset uint64) {
	r, m := g.r, &g.mem
	m.base, m.index = NoReg, NoReg
	smallDisp := func() int64 { return int64(int8(edgeInt(r))) }
	fits := int64(offset) == int64(int32(offset))
	disp := int64(int32(edgeInt(r)))
	n := g.registers()

	form := r.IntN(8)
	switch {
	case form == 0 && fits: // absolute
		m.sib = g.Mode == Mode64 || oneIn(r, 2)
		m.rm, m.mod = 5, 0
		m.disp = disp32(int64(offset))
		return
	case form == 1 && fits && g.Mode == Mode64:
		m.ripRelative, m.rm, m.mod, m.disp = true, 5, 0, disp32(int64(offset))
		return
	case form == 2: // index*scale+disp32
		m.index = g.indexRegister(n)
		m.shift = byte(r.IntN(4))
		m.sib, m.mod, m.rm = true, 0, 5
		disp += int64((offset - uint64(disp)) & (1<<m.shift - 1))
		if disp != int64(int32(disp)) {
			disp -= 1 << m.shift
		}
		// Bits shifted out may be anything.
		g.setPinned(m.index, (offset-uint64(disp))>>m.shift|edgeInt(r)<<(64-m.shift))
		m.disp = disp32(disp)
		return
	}
	// base, with or without index and displacement
	m.base = byte(r.IntN(n))
	if form >= 5 {
		m.index, m.shift = g.indexRegister(n), byte(r.IntN(4))
	}
	m.sib = m.index != NoReg || m.base&7 == RSP || oneIn(r, 12)
	m.mod = byte(r.IntN(3))
	if m.mod == 0 && m.base&7 == RBP {
		m.mod = 1
	}
	switch m.mod {
	case 0:
		disp = 0
	case 1:
		disp = smallDisp()
		m.disp = []byte{byte(disp)}
	case 2:
		m.disp = disp32(disp)
	}
	if m.index == m.base {
		m.index = NoReg
		m.sib = true
	}
	rest := offset - uint64(disp)
	if m.index != NoReg {
		g.setPinned(m.index, g.GPR[m.index])
		rest -= g.GPR[m.index] << m.shift
	}
	if g.addressSize() == 4 && g.Mode == Mode64 && oneIn(r, 2) {
		rest = rest&0xffff_ffff | edgeInt(r)<<32
	}
	g.setPinned(m.base, rest)
}

func (g *gen) indexRegister(n int) byte {
	for {
		if i := byte(g.r.IntN(n)); i != RSP {
			return i
		}
	}
}

func (g *gen) setPinned(reg byte, v uint64) {
	g.GPR[reg] = g.Mode.truncate(v)
	g.pinned[reg] = true
}

// address16 chooses a form of 16-bit addressing, and returns the offset that it gives: the lower 16 bits of the one asked for.
func (g *gen) address16(offset uint64) uint64 {
	pairs := [8][2]byte{{RBX, RSI}, {RBX, RDI}, {RBP, RSI}, {RBP, RDI}, {RSI, NoReg}, {RDI, NoReg}, {RBP, NoReg}, {RBX, NoReg}}
	r, m := g.r, &g.mem
	m.mod, m.rm = byte(r.IntN(3)), byte(r.IntN(8))
	offset &= 0xffff
	if m.mod == 0 && m.rm == 6 {
		m.disp = disp32(int64(offset))[:2]
		return offset
	}
	var disp uint64
	switch m.mod {
	case 1:
		disp = uint64(int64(int8(edgeInt(r))))
		m.disp = disp32(int64(disp))[:1]
	case 2:
		disp = edgeInt(r)
		m.disp = disp32(int64(disp))[:2]
	}
	base, index := pairs[m.rm][0], pairs[m.rm][1]
	rest := offset - disp
	if index != NoReg {
		g.setPinned(index, g.GPR[index])
		rest -= g.GPR[index]
	}
	g.setPinned(base, edgeInt(r)&^0xffff|rest&0xffff)
	return offset
}

func disp32(v int64) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }

// place puts the instruction together and chooses where it is.
func (g *gen) place() {
	r := g.r
	g.Code = g.encode()
	n := len(g.Code)
	switch r.IntN(40) {
	case 0, 1: // crossing pages
		g.RIP = CodeBase + PageSize - uint64(r.IntN(n+1))
	case 2:
		g.RIP = CodeBase + uint64(r.IntN(CodeSize-n))
	case 3:
		if oneIn(r, 4) && !g.f.whole { // not all of it is there
			g.RIP = CodeBase + CodeSize - uint64(r.IntN(n)) - 1
		}
	default:
		g.RIP = CodeBase + 16*uint64(r.IntN(200))
	}
	if g.mem.ripRelative {
		at := n - len(g.imm) - 4
		want := uint64(int64(int32(binary.LittleEndian.Uint32(g.Code[at:]))))
		binary.LittleEndian.PutUint32(g.Code[at:], uint32(want-g.RIP-uint64(n)))
	}
}

func (g *gen) encode() []byte {
	r, f := g.r, g.f
	var legacy []byte
	add := func(yes bool, b byte) {
		if yes {
			legacy = append(legacy, b)
		}
	}
	add(g.op66, 0x66)
	add(g.op67, 0x67)
	add(g.lock, 0xf0)
	add(g.seg != 0, g.seg)
	add(g.rep != 0, g.rep)
	add(f.prefix != 0, f.prefix)
	r.Shuffle(len(legacy), func(i, j int) { legacy[i], legacy[j] = legacy[j], legacy[i] })
	if len(legacy) > 0 && g.Mode == Mode64 && oneIn(r, 60) { // a REX that is not next to the opcode is none
		legacy = append([]byte{0x40 | byte(r.IntN(16))}, legacy...)
	}

	reg, rm := g.reg, g.rm
	rex := byte(0)
	if g.rexW {
		rex |= 8
	}
	opcode := append([]byte(nil), f.opcode...)
	var tail []byte
	if f.modRM() {
		if g.memory {
			tail = g.encodeMemory(reg, &rex)
		} else {
			tail = []byte{0xc0 | reg&7<<3 | rm&7}
			rex |= rm >> 3 & 1
		}
		rex |= reg >> 3 << 2 & 4
	} else {
		for _, a := range f.args {
			if a.kind == 'Z' {
				opcode[len(opcode)-1] |= rm & 7
				rex |= rm >> 3 & 1
			}
		}
	}
	var code []byte
	code = append(code, legacy...)
	if g.Mode == Mode64 && (rex != 0 || oneIn(r, 8)) {
		code = append(code, 0x40|rex)
	}
	code = append(code, opcode...)
	code = append(code, tail...)
	code = append(code, g.imm...)
	if oneIn(r, 300) { // as long as may be, or one byte more
		want := 15
		if !f.whole {
			want += r.IntN(2)
		}
		pad := g.seg
		if pad == 0 {
			pad = 0x3e
		}
		for len(code) < want {
			code = append([]byte{pad}, code...)
		}
	}
	return code
}

// encodeMemory makes ModRM, SIB and displacement, and adds to rex.
func (g *gen) encodeMemory(reg byte, rex *byte) []byte {
	m := &g.mem
	modrm := m.mod<<6 | reg&7<<3
	if g.Mode == Mode32 && g.op67 {
		return append([]byte{modrm | m.rm}, m.disp...)
	}
	base := m.rm
	if m.base != NoReg {
		base = m.base
		*rex |= m.base >> 3
	}
	if !m.sib {
		return append([]byte{modrm | base&7}, m.disp...)
	}
	index := byte(4) // none
	if m.index != NoReg {
		index = m.index
		*rex |= m.index >> 3 << 1
	}
	return append([]byte{modrm | 4, m.shift<<6 | index&7<<3 | base&7}, m.disp...)
}
