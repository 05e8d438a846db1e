package oracle

import "encoding/binary"

// setters choose operands with which an instruction does something worth seeing; before the memory
// operand is chosen, which may take the registers for itself again.
var setters = map[string]func(g *gen){
	"cl": func(g *gen) {
		if oneIn(g.r, 2) {
			g.GPR[RCX] = g.GPR[RCX]&^0xff | uint64(g.r.IntN(70))
		}
	},
	"loop": func(g *gen) {
		if !oneIn(g.r, 3) {
			g.GPR[RCX] = uint64(g.r.IntN(3))
		}
		g.op67 = oneIn(g.r, 4)
	},
	"movsxd": func(g *gen) {
		if g.Size == 2 && g.memory { // Intel reads 16 bits, AMD 32
			g.op66, g.Size = false, 4
		}
	},
	"sreg": func(g *gen) { g.reg = uint8(g.r.IntN(7)) }, // 6 is none
	"control": func(g *gen) { // those that exist; for others, CPUs differ in whether that or privilege comes first
		g.reg = pick[uint8](g.r, 0, 2, 3)
		g.lock = false // with LOCK it is AMD's way to CR8
	},
	"lengths": func(g *gen) {
		for _, reg := range []int{RAX, RDX} {
			if !oneIn(g.r, 5) {
				g.GPR[reg] = g.Mode.truncate(uint64(g.r.IntN(44)) - 22)
			}
		}
		alphabet := byte(1 + g.r.IntN(5))
		copy(g.FX.XMM(int(g.reg)), g.letters(alphabet))
		if !g.memory && g.rm != g.reg {
			copy(g.FX.XMM(int(g.rm)), g.letters(alphabet))
		}
	},
	"blend": func(g *gen) { copy(g.FX.XMM(0), edgeData(g.r, "dq", 16)) },
}

// letters is a string out of few letters, now and then with an end.
func (g *gen) letters(alphabet byte) []byte {
	b := make([]byte, 16)
	for i := range b {
		b[i] = 'a' + byte(g.r.IntN(int(alphabet)))
		if oneIn(g.r, 24) {
			b[i] = byte(g.r.IntN(2)) << 7
		}
	}
	return b
}

// laters are the same, once memory is known.
var laters = map[string]func(g *gen){
	"stack": func(g *gen) { g.pointStack(RSP) },
	"enter": func(g *gen) {
		g.pointStack(RSP)
		g.pointStack(RBP)
		if !oneIn(g.r, 8) {
			g.setImm(1, byte(g.Imm)&3)
			g.imm[1] &= 1
		}
	},
	"leave": func(g *gen) { g.pointStack(RBP) },
	"popf": func(g *gen) {
		g.pointStack(RSP)
		// Without TF, which the recorder cannot tell from its own.
		g.poke(g.GPR[RSP], binary.LittleEndian.AppendUint64(nil, edgeInt(g.r)&^0x100))
	},
	"call": func(g *gen) {
		g.pointStack(RSP)
		g.pointTarget()
	},
	"target": func(g *gen) { g.pointTarget() },
	"ret": func(g *gen) {
		g.pointStack(RSP)
		if !oneIn(g.r, 4) {
			g.poke(g.GPR[RSP], binary.LittleEndian.AppendUint64(nil, CodeBase+uint64(g.r.IntN(CodeSize))))
		}
	},
	"xlat": func(g *gen) {
		base, at := g.segmentBase(3), g.target(1)
		g.GPR[RBX] = g.Mode.truncate(at - base - g.GPR[RAX]&0xff)
		if g.op67 && g.Mode == Mode64 {
			at = base + uint64(uint32(at-base))
		}
		g.setAddr(at, 1, "b")
	},
	"div": func(g *gen) {
		r := g.r
		switch {
		case oneIn(r, 4):
		case g.Size == 1:
			g.setFree(RAX, g.GPR[RAX]&^0xffff|uint64(int64(int8(edgeInt(r))))&0xffff)
		case oneIn(r, 2):
			g.setFree(RDX, 0)
		default:
			shift := 64 - 8*uint(g.Size)
			g.setFree(RDX, uint64(int64(g.GPR[RAX]<<shift)>>63))
		}
	},
	"cmpxchg": func(g *gen) {
		if oneIn(g.r, 2) {
			g.setFree(RAX, g.dest())
		}
	},
	"cmpxchg8b": func(g *gen) {
		half := int(g.Bytes / 2)
		old := g.bytes(g.Addr, int(g.Bytes))
		if len(old) < int(g.Bytes) || oneIn(g.r, 3) {
			return
		}
		g.setFree(RAX, word(old[:half]))
		g.setFree(RDX, word(old[half:]))
	},
	"bt": func(g *gen) {
		if g.reg != RSP && !oneIn(g.r, 4) || g.memory {
			g.setFree(g.reg, uint64(g.r.IntN(1024))-512)
		}
	},
	"bound": func(g *gen) {
		half := g.Bytes / 2
		shift := 64 - 8*uint(half)
		v := int64(g.GPR[g.reg]<<shift) >> shift
		lower := v - int64(g.r.IntN(8)) + 2
		bounds := append(le64(uint64(lower))[:half], le64(uint64(lower + int64(g.r.IntN(8))))[:half]...)
		g.poke(g.Addr, bounds)
	},
	"interrupt": func(g *gen) {
		// 3 and 4 are traps, which INT3 and INTO show, and 80h asks the host's kernel for something.
		for v := g.imm[0]; v == 3 || v == 4 || v == 0x80; v = g.imm[0] {
			g.setImm(0, byte(edgeInt(g.r)))
		}
	},
	"ldmxcsr": func(g *gen) {
		if oneIn(g.r, 6) {
			g.poke(g.Addr, le64(edgeInt(g.r) &^ (1 << 17))[:4]) // bit 17 exists on AMD's CPUs only
			return
		}
		var fx FX
		randomSSE(g.r, &fx)
		g.poke(g.Addr, fx[fxMXCSR:fxMXCSR+4])
	},
	"fldcw": func(g *gen) {
		var fx FX
		randomX87(g.r, &fx)
		g.poke(g.Addr, fx[fxFCW:fxFCW+2])
	},
	"maskmov": func(g *gen) {
		// Whether bytes that are not selected may fault differs between CPUs: all lie in one page.
		n := 16
		if g.f.unit == unitMMX {
			n = 8
		}
		at := DataBase + PageSize*uint64(g.r.IntN(3)) + uint64(g.r.IntN(PageSize-n))
		g.GPR[RDI] = g.Mode.truncate(at - g.segmentBase(3))
		g.setAddr(at, n, "dq")
	},
	"lanes": func(g *gen) {
		if !oneIn(g.r, 4) {
			g.setImm(0, byte(g.r.IntN(36)))
		}
	},
	"predicate": func(g *gen) {
		if !oneIn(g.r, 10) {
			g.setImm(0, byte(g.r.IntN(8)))
		}
	},
	"rep": func(g *gen) { g.pointStrings() },
	"equal": func(g *gen) {
		g.pointStrings()
		g.makeEqual()
	},
}

func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// word is the number in b, at most eight bytes.
func word(b []byte) uint64 {
	var w [8]byte
	copy(w[:], b)
	return binary.LittleEndian.Uint64(w[:])
}

// setImm changes byte i of the immediates.
func (g *gen) setImm(i int, v byte) {
	g.imm[i] = v
	g.Imm = int64(v)
}

// setFree sets a register, unless an address is made of it.
func (g *gen) setFree(reg uint8, v uint64) {
	if !g.pinned[reg] {
		g.GPR[reg] = g.Mode.truncate(v)
	}
}

// pointStack makes a register point to where values may be pushed, and popped from.
func (g *gen) pointStack(reg uint8) { g.setFree(reg, stackPointer(g.r)) }

// dest is the value of the destination of the case so far, as far as it is there.
func (g *gen) dest() uint64 {
	if g.memory {
		return word(g.bytes(g.Addr, int(g.Bytes)))
	}
	return g.GPR[g.rm]
}

// pointTarget makes the operand of an indirect branch an address; mostly of code, always canonical.
func (g *gen) pointTarget() {
	to := CodeBase + uint64(g.r.IntN(CodeSize))
	if oneIn(g.r, 6) {
		to = edgeInt(g.r) >> 17
	}
	if g.memory {
		g.poke(g.Addr, le64(to)[:g.Bytes])
		return
	}
	g.GPR[g.rm] = g.Mode.truncate(to)
}

// pointStrings chooses the registers of a string instruction.
func (g *gen) pointStrings() {
	r := g.r
	n := int(g.Size)
	g.GPR[RSI] = g.Mode.truncate(g.target(n) - g.segmentBase(3))
	g.GPR[RDI] = g.target(n)
	g.GPR[RCX] = uint64(r.IntN(5))
	if oneIn(r, 4) {
		g.GPR[RCX] = g.Mode.truncate(edgeInt(r))
	}
	if g.op67 && g.Mode == Mode64 && oneIn(r, 2) {
		for _, reg := range []int{RCX, RSI, RDI} {
			g.GPR[reg] = g.GPR[reg]&0xffff_ffff | edgeInt(r)<<32
		}
	}
	g.Addr, g.Bytes = g.GPR[RDI], uint16(n)
}

// makeEqual lets a comparison of strings find equality half of the time.
func (g *gen) makeEqual() {
	if oneIn(g.r, 2) {
		return
	}
	n := int(g.Size)
	v := le64(g.GPR[RAX])[:n]
	g.poke(g.GPR[RDI], v)
	g.poke(g.GPR[RSI]+g.segmentBase(3), v)
}
