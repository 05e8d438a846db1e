package soft

import (
	"math/bits"

	"ftvm/vmm/soft/x86"
)

// stringLowering has the string comparisons of SSE4.2 (SDM vol. 2B, 4.1).
var stringLowering = []lowerEntry{
	{x86.PCMPESTRI, compareStrings(true, true)},
	{x86.PCMPESTRM, compareStrings(true, false)},
	{x86.PCMPISTRI, compareStrings(false, true)},
	{x86.PCMPISTRM, compareStrings(false, false)},
}

// elements are the elements of a vector, of which the first n are valid.
type elements struct {
	v [16]int32
	n int
}

// Fields of the immediate.
const (
	strWords       = 1 << 0
	strSigned      = 1 << 1
	strEqualAny    = 0 << 2
	strRanges      = 1 << 2
	strEqualEach   = 2 << 2
	strOrdered     = 3 << 2
	strAggregate   = 3 << 2
	strNegative    = 1 << 4
	strMasked      = 1 << 5
	strMost        = 1 << 6 // the index is that of the most significant bit
	strElementMask = 1 << 6 // the mask is of elements, not bits
)

// stringElements takes a vector apart; all elements are valid up to the first zero.
func stringElements(v vec, imm uint8) (e elements) {
	count, size := stringCount(imm), uint8(16/stringCount(imm))
	e.n = count
	for i := range count {
		x := shiftBytesRight(v, uint8(i)*size).lo
		switch imm & (strWords | strSigned) {
		case 0:
			e.v[i] = int32(uint8(x))
		case strWords:
			e.v[i] = int32(uint16(x))
		case strSigned:
			e.v[i] = int32(int8(x))
		default:
			e.v[i] = int32(int16(x))
		}
		if e.v[i] == 0 && e.n == count {
			e.n = i
		}
	}
	return e
}

// stringCount is how many elements a vector has.
func stringCount(imm uint8) int {
	if imm&strWords != 0 {
		return 8
	}
	return 16
}

// stringLength is the number of valid elements that a register of size bytes gives: its magnitude, at most count.
func stringLength(r uint64, size uint8, count int) int {
	n := int64(r)
	if size != 8 {
		n = int64(int32(r))
	}
	if n > int64(count) || n < -int64(count) {
		return count
	}
	return int(max(n, -n))
}

// aggregate compares the elements of a and b: bit j of the result is about element j of b.
func aggregate(a, b *elements, imm uint8) (r uint16) {
	count := stringCount(imm)
	for j := range count {
		var match bool
		switch imm & strAggregate {
		case strEqualAny:
			for i := 0; i < a.n && j < b.n; i++ {
				match = match || a.v[i] == b.v[j]
			}
		case strRanges:
			for i := 0; i+1 < a.n && j < b.n; i += 2 {
				match = match || a.v[i] <= b.v[j] && b.v[j] <= a.v[i+1]
			}
		case strEqualEach:
			match = j >= a.n && j >= b.n || j < a.n && j < b.n && a.v[j] == b.v[j]
		case strOrdered:
			match = true
			for i := 0; i < a.n && i+j < count; i++ {
				match = match && i+j < b.n && a.v[i] == b.v[i+j]
			}
		}
		if match {
			r |= 1 << j
		}
	}
	return r
}

// compareStrings lowers the instructions with explicit lengths or not, and with an index in RCX or a
// mask in XMM0 as their result.
func compareStrings(explicit, index bool) lowerFunc {
	const rAX, rCX, rDX = 0, 1, 2
	fn := number(func(c *CPU, u *uop) bool {
		imm := uint8(u.imm)
		a, b := stringElements(c.fpu.v[u.dst&31], imm), stringElements(c.fpu.v[u.src&31], imm)
		count := stringCount(imm)
		if explicit {
			size := uint8(u.imm >> 8)
			a.n, b.n = stringLength(c.r[rAX], size, count), stringLength(c.r[rDX], size, count)
		}
		r, all := aggregate(&a, &b, imm), uint16(1<<count-1)
		if imm&strNegative != 0 {
			flip := all
			if imm&strMasked != 0 {
				flip = uint16(1<<b.n - 1)
			}
			r ^= flip
		}
		switch {
		case index && r == 0:
			c.r[rCX] = uint64(count)
		case index && imm&strMost != 0:
			c.r[rCX] = uint64(15 - bits.LeadingZeros16(r))
		case index:
			c.r[rCX] = uint64(bits.TrailingZeros16(r))
		case imm&strElementMask == 0:
			c.fpu.v[0] = vec{uint64(r), 0}
		case count == 8:
			c.fpu.v[0] = vec{spreadMask(uint8(r), 16), spreadMask(uint8(r>>4), 16)}
		default:
			c.fpu.v[0] = vec{spreadMask(uint8(r), 8), spreadMask(uint8(r>>8), 8)}
		}
		var f uint64
		if r != 0 {
			f |= flagCF
		}
		if b.n < count {
			f |= flagZF
		}
		if a.n < count {
			f |= flagSF
		}
		if r&1 != 0 {
			f |= flagOF
		}
		c.setArith(f)
		return true
	})
	return func(l *lowerer) {
		l.needSSE()
		src := l.vector(1, false)
		l.compute(uop{fn: fn, dst: l.in.Arg[0].Reg, src: src, imm: uint64(uint8(l.in.Imm)) | uint64(l.in.OpSize)<<8})
	}
}
