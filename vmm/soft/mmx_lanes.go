package soft

// Arithmetic on the lanes of a 64-bit word: what MMX does once, and SSE does twice. A lane
// format is told by the top bits of its lanes, h, and where lanes must be filled, by their width w.
//
// Sums do not cross lanes because their top bits are added apart: the carry into a top bit is the sum of the
// bits below it.

const (
	h8  = 0x8080_8080_8080_8080
	h16 = 0x8000_8000_8000_8000
	h32 = 0x8000_0000_8000_0000
	h64 = 1 << 63
)

func addLanes(a, b, h uint64) uint64 { return a&^h + b&^h ^ (a^b)&h }

func subLanes(a, b, h uint64) uint64 { return (a | h) - b&^h ^ (a^^b)&h }

// fill sets all bits of the lanes whose top bit is set in m, which has no others.
func fill(m uint64, w uint) uint64 { return m<<1 - m>>(w-1) }

// below has the top bits of the lanes where a < b, unsigned.
func below(a, b, h uint64) uint64 {
	d := (a | h) - b&^h
	return (^a&b | ^(a^b)&^d) & h
}

// less is below, signed.
func less(a, b, h uint64) uint64 { return below(a^h, b^h, h) }

// equal has the top bits of the lanes where a = b.
func equal(a, b, h uint64) uint64 {
	x := a ^ b
	return ^(x&^h + ^uint64(h) | x) & h
}

// pick takes a where m is 1, else b.
func pick(m, a, b uint64) uint64 { return b ^ (a^b)&m }

// limit has the largest signed value in the lanes where a is not negative, the smallest where it is.
func limit(a, h uint64, w uint) uint64 { return ^h + a&h>>(w-1) }

func addSigned(a, b, h uint64, w uint) uint64 {
	s := addLanes(a, b, h)
	return pick(fill(^(a^b)&(a^s)&h, w), limit(a, h, w), s)
}

func subSigned(a, b, h uint64, w uint) uint64 {
	d := subLanes(a, b, h)
	return pick(fill((a^b)&(a^d)&h, w), limit(a, h, w), d)
}

func addUnsigned(a, b, h uint64, w uint) uint64 {
	s := addLanes(a, b, h)
	return s | fill(below(s, a, h), w)
}

func subUnsigned(a, b, h uint64, w uint) uint64 {
	return subLanes(a, b, h) &^ fill(below(a, b, h), w)
}

// average is that of unsigned lanes, rounded up.
func average(a, b, h uint64, w uint) uint64 {
	return (a | b) - (a^b)&^(h>>(w-1))>>1
}

// each16 applies f to each pair of words.
func each16(a, b uint64, f func(a, b uint16) uint16) (v uint64) {
	for i := 0; i < 64; i += 16 {
		v |= uint64(f(uint16(a>>i), uint16(b>>i))) << i
	}
	return v
}

// absolute is the magnitude of signed lanes; that of the smallest value is itself.
func absolute(a, h uint64, w uint) uint64 {
	m := fill(a&h, w)
	return subLanes(a^m, m, h)
}

// sign negates a where b is negative, and is 0 where b is.
func sign(a, b, h uint64, w uint) uint64 {
	m := fill(b&h, w)
	return subLanes(a^m, m, h) &^ fill(equal(b, 0, h), w)
}

// saturate limits v to the signed or unsigned range of w bits.
func saturate(v int64, w uint, signed bool) uint64 {
	lo, hi := int64(0), int64(1)<<w-1
	if signed {
		lo, hi = -1<<(w-1), 1<<(w-1)-1
	}
	return uint64(min(max(v, lo), hi)) & (1<<w - 1)
}

// pack halves the width of the signed lanes of v, from w bits, with saturation, into 32 bits.
func pack(v uint64, w uint, signed bool) (p uint64) {
	for i := uint(0); i < 64; i += w {
		lane := int64(v<<(64-w-i)) >> (64 - w)
		p |= saturate(lane, w/2, signed) << (i / 2)
	}
	return p
}

// interleave8 puts the bytes of the low halves of a and b in turn, a's first.
func interleave8(a, b uint64) uint64 { return spread8(a) | spread8(b)<<8 }

func spread8(a uint64) uint64 {
	a = spread16(a)
	return (a | a<<8) & 0x00ff_00ff_00ff_00ff
}

// interleave16 does so with words, interleave32 with doublewords.
func interleave16(a, b uint64) uint64 { return spread16(a) | spread16(b)<<16 }

func spread16(a uint64) uint64 {
	a &= 0xffff_ffff
	return (a | a<<16) & 0x0000_ffff_0000_ffff
}

func interleave32(a, b uint64) uint64 { return a&0xffff_ffff | b<<32 }

// signs8 gathers the top bits of the bytes.
func signs8(a uint64) uint64 { return a & h8 * 0x0002_0408_1020_4081 >> 56 }

// sumDifferences adds up the absolute differences of unsigned bytes.
func sumDifferences(a, b uint64) (sum uint64) {
	for i := 0; i < 64; i += 8 {
		d := int(a>>i&0xff) - int(b>>i&0xff)
		sum += uint64(max(d, -d))
	}
	return sum
}

// multiplyAdd16 multiplies signed words and adds the products two by two.
func multiplyAdd16(a, b uint64) uint64 {
	p := func(i int) uint32 { return uint32(int32(int16(a>>i)) * int32(int16(b>>i))) }
	return uint64(p(0)+p(16)) | uint64(p(32)+p(48))<<32
}

// multiplyAdd8 multiplies unsigned bytes of a by signed ones of b and adds the products two by two, with
// signed saturation.
func multiplyAdd8(a, b uint64) (v uint64) {
	for i := 0; i < 64; i += 16 {
		lo := int64(uint8(a>>i)) * int64(int8(b>>i))
		hi := int64(uint8(a>>(i+8))) * int64(int8(b>>(i+8)))
		v |= saturate(lo+hi, 16, true) << i
	}
	return v
}

// pairs combines the lanes of w bits, sign-extended, of v two by two, into 32 bits.
func pairs(v uint64, w uint, f func(a, b int64) int64) (r uint64) {
	for i := uint(0); i < 64; i += 2 * w {
		lo := int64(v<<(64-w-i)) >> (64 - w)
		hi := int64(v<<(64-2*w-i)) >> (64 - w)
		r |= uint64(f(lo, hi)) & (1<<w - 1) << (i / 2)
	}
	return r
}

// shuffle8 makes a word of the bytes of p that b's bytes select; one with its top bit set selects 0. mask bounds the
// selection: 7 or 15.
func shuffle8(p *[16]byte, b uint64, mask uint8) (v uint64) {
	for i := 0; i < 64; i += 8 {
		n := uint8(b >> i)
		v |= uint64(p[n&mask&15]&^uint8(int8(n)>>7)) << i
	}
	return v
}

// shuffle16 makes a word of a's words as imm's pairs of bits select.
func shuffle16(a uint64, imm uint8) uint64 {
	return a>>(imm&3*16)&0xffff | a>>(imm>>2&3*16)&0xffff<<16 |
		a>>(imm>>4&3*16)&0xffff<<32 | a>>(imm>>6*16)<<48
}

// shiftLeft, shiftRight and shiftRightSigned shift lanes by a count that may exceed their width.

func shiftLeft(a, n, h uint64, w uint) uint64 {
	if n >= uint64(w) {
		return 0
	}
	return a << n &^ lowest(n, h, w)
}

func shiftRight(a, n, h uint64, w uint) uint64 {
	if n >= uint64(w) {
		return 0
	}
	return a >> n & lowest(uint64(w)-n, h, w)
}

func shiftRightSigned(a, n, h uint64, w uint) uint64 {
	n = min(n, uint64(w)-1)
	kept := lowest(uint64(w)-n, h, w)
	return a>>n&kept | fill(a&h, w)&^kept
}

// lowest has the lowest n bits of each lane.
func lowest(n, h uint64, w uint) uint64 { return h >> (w - 1) * (1<<n - 1) }
