package oracle

import (
	"encoding/binary"
	"math/rand/v2"
)

// Values are chosen where instructions behave in a special way: around zero, the limits of formats and
// powers of two, and such that two of them are equal or cancel out now and then. The rest is random.

// pick returns one of choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// oneIn reports true once in n times.
func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// edgeInt is an integer of 64 bits, of which any lower part is interesting as well.
func edgeInt(r *rand.Rand) uint64 {
	switch r.IntN(12) {
	case 0:
		return 0
	case 1:
		return ^uint64(0)
	case 2, 3:
		return uint64(r.IntN(65)) - 32
	case 4:
		return 1<<pick(r, 7, 8, 15, 16, 31, 32, 63) - uint64(r.IntN(3)) + 1
	case 5:
		return -(1 << pick(r, 7, 8, 15, 16, 31, 32, 63)) - uint64(r.IntN(3)) + 1
	case 6:
		return 1 << r.IntN(64)
	case 7:
		return 1<<r.IntN(64) - 1
	case 8:
		return uint64(int64(int32(r.Uint32())))
	case 9:
		b := uint64(pick(r, 0x7f, 0x80, 0x00, 0xff, 0x01, 0x55, 0x99, 0xaa)) * 0x0101_0101_0101_0101
		return b ^ 1<<r.IntN(64)
	}
	return r.Uint64()
}

// edgeFloat is the bits of a floating-point number with the given numbers of exponent and fraction bits.
func edgeFloat(r *rand.Rand, expBits, fracBits uint) uint64 {
	sign := uint64(r.IntN(2)) << (expBits + fracBits)
	maxExp := uint64(1)<<expBits - 1
	bias := maxExp >> 1
	frac := edgeFraction(r, fracBits)
	var exp uint64
	switch r.IntN(16) {
	case 0:
		exp, frac = 0, 0
	case 1: // denormal
		exp = 0
	case 2: // infinity
		exp, frac = maxExp, 0
	case 3: // NaN, quiet or signalling
		exp, frac = maxExp, frac|1
	case 4: // near overflow
		exp = maxExp - 1 - uint64(r.IntN(2))
	case 5: // near underflow
		exp = 1 + uint64(r.IntN(3))
	case 6, 7, 8: // around one
		exp = bias - 2 + uint64(r.IntN(5))
	case 9, 10: // about where integers overflow
		exp = bias + pick[uint64](r, 14, 15, 16, 30, 31, 32, 62, 63, 64)
		if exp >= maxExp {
			exp = maxExp - 1
		}
	case 11: // integers, and halves between them
		exp = bias + uint64(r.IntN(int(fracBits)))
		frac &= ^uint64(0) << pick(r, 0, fracBits/2, fracBits-min(fracBits, uint(exp-bias)+1))
		frac &= 1<<fracBits - 1
	case 12, 13: // a product or quotient near the limits
		exp = bias/2 + uint64(r.IntN(8))
		if oneIn(r, 2) {
			exp = bias + bias/2 - uint64(r.IntN(8))
		}
	default:
		exp = r.Uint64N(maxExp)
	}
	return sign | exp<<fracBits | frac
}

// edgeFraction is n bits: few or many of them set, or random.
func edgeFraction(r *rand.Rand, n uint) uint64 {
	mask := ^uint64(0) >> (64 - n)
	switch r.IntN(6) {
	case 0:
		return 0
	case 1:
		return mask
	case 2:
		return 1 << r.UintN(n)
	case 3:
		return mask &^ (1 << r.UintN(n))
	case 4:
		return mask << r.UintN(n) & mask
	}
	return r.Uint64() & mask
}

// edgeF80 is a number in the 80-bit format, now and then one in an encoding that is not supported.
func edgeF80(r *rand.Rand) []byte {
	bits := edgeFloat(r, 15, 48)
	signExp := uint16(bits >> 48)
	frac := bits<<16>>1 | edgeFraction(r, 15)
	if signExp&0x7fff != 0 {
		frac |= 1 << 63
	}
	if oneIn(r, 24) { // unnormal, pseudo-denormal, pseudo-infinity, pseudo-NaN
		frac ^= 1 << 63
	}
	return append(binary.LittleEndian.AppendUint64(nil, frac), byte(signExp), byte(signExp>>8))
}

// edgeBCD is a number in packed BCD, now and then with digits that are none.
func edgeBCD(r *rand.Rand) []byte {
	b := make([]byte, 10)
	digits := r.IntN(19)
	for i := range digits {
		d := pick(r, 0, 9, byte(r.IntN(10)))
		if oneIn(r, 200) {
			d = byte(r.IntN(16))
		}
		b[i/2] |= d << (4 * (i % 2))
	}
	b[9] = pick[byte](r, 0, 0x80)
	return b
}

// edgeData is n bytes for an operand of a type (arg.typ).
func edgeData(r *rand.Rand, typ string, n int) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, n+8)
	switch typ {
	case "f80":
		return edgeF80(r)
	case "bcd":
		return edgeBCD(r)
	case "env", "sav":
		return edgeEnv(r, n)
	case "x":
		fx := Base(Mode64).FX
		randomX87(r, &fx)
		randomSSE(r, &fx)
		return append(append(b, fx[:]...), make([]byte, n-FXSize)...)
	case "count":
		b = le.AppendUint64(b, pick(r, uint64(r.IntN(70)), uint64(r.IntN(20)), edgeInt(r)))
	}
	lane := pick(r, 1, 2, 4, 8)
	for len(b) < n {
		switch typ {
		case "ps", "ps2", "ss", "f32":
			b = le.AppendUint32(b, uint32(edgeFloat(r, 8, 23)))
		case "pd", "sd", "f64":
			b = le.AppendUint64(b, edgeFloat(r, 11, 52))
		case "dq", "q", "d", "w":
			b = append(b, le.AppendUint64(nil, edgeInt(r))[:lane]...)
		default:
			b = le.AppendUint64(b, edgeInt(r))
		}
	}
	return b[:n]
}

// edgeEnv is what FLDENV and FRSTOR load, in the format that n bytes are.
func edgeEnv(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+10)
	var fx FX
	randomX87(r, &fx)
	word := binary.LittleEndian.AppendUint16
	if n == 28 || n == 108 {
		word = func(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint32(b, uint32(v)) }
	}
	b = word(b, fx.FCW())
	b = word(b, fx.FSW())
	b = word(b, pick(r, 0, 0xffff, uint16(r.Uint32())))
	for range 4 {
		b = word(b, uint16(edgeInt(r)))
	}
	for len(b) < n {
		b = append(b, edgeF80(r)...)
	}
	return b[:n]
}

// randomX87 makes the x87 part of fx: mostly exceptions masked, none pending, and few registers empty.
func randomX87(r *rand.Rand, fx *FX) {
	le := binary.LittleEndian
	fcw := uint16(0x40 | 0x3f)
	fcw |= uint16(r.IntN(4)) << 10 // rounding
	fcw |= pick[uint16](r, 3, 3, 3, 0, 2, 2, 1) << 8
	if oneIn(r, 7) {
		fcw &^= uint16(r.IntN(64))
	}
	fsw := uint16(r.IntN(8))<<11 | uint16(r.IntN(128))&pick[uint16](r, 0, 0x7f)&0x7f
	fsw |= uint16(r.IntN(16))&7<<8 | uint16(r.IntN(2))<<14
	if !oneIn(r, 20) {
		fsw &^= ^fcw & 0x3f
	}
	if fsw&^fcw&0x3f != 0 {
		fsw |= 0x8080 // ES, and B like it
	}
	le.PutUint16(fx[fxFCW:], fcw)
	le.PutUint16(fx[fxFSW:], fsw)
	fx[fxFTW] = pick(r, 0xff, 0xff, 0xff, 0xff, 0, byte(r.IntN(256)), byte(r.IntN(256)))
	for i := range 8 {
		copy(fx.ST(i), edgeF80(r))
	}
	if oneIn(r, 4) {
		copy(fx.ST(1), fx.ST(0))
		fx.ST(1)[9] ^= byte(r.IntN(2)) << 7
	}
	if oneIn(r, 4) { // exponents near each other
		copy(fx.ST(1)[8:], fx.ST(0)[8:])
		fx.ST(1)[8] += byte(r.IntN(8))
	}
}

// randomSSE makes MXCSR: any rounding and DAZ and FTZ, exceptions mostly masked.
func randomSSE(r *rand.Rand, fx *FX) {
	mxcsr := uint32(0x1f80)
	if !oneIn(r, 3) {
		mxcsr |= uint32(r.IntN(4)) << 13
		mxcsr |= uint32(r.IntN(64)) & pick[uint32](r, 0, 0x3f)
		mxcsr |= pick[uint32](r, 0, 0, 0x40, 0x8000, 0x8040)
	}
	if oneIn(r, 10) {
		mxcsr &^= uint32(r.IntN(64)) << 7
	}
	binary.LittleEndian.PutUint32(fx[fxMXCSR:], mxcsr)
}
