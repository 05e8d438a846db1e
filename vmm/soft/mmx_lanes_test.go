package soft

import (
	"testing"
)

// TestLanes compares the arithmetic on whole words with that on each lane by itself.
func TestLanes(t *testing.T) {
	type word = func(a, b, h uint64, w uint) uint64
	wrap := func(f func(a, b, h uint64) uint64) word {
		return func(a, b, h uint64, _ uint) uint64 { return f(a, b, h) }
	}
	limits := func(w uint) (least, most, all int64) { return -1 << (w - 1), 1<<(w-1) - 1, 1<<w - 1 }
	truth := func(v bool) int64 {
		if v {
			return -1
		}
		return 0
	}
	ops := []struct {
		name string
		word word
		// lane is the operation on one lane of w bits, given with and without sign.
		lane func(a, b, ua, ub int64, w uint) int64
	}{
		{"add", wrap(addLanes), func(a, b, _, _ int64, _ uint) int64 { return a + b }},
		{"sub", wrap(subLanes), func(a, b, _, _ int64, _ uint) int64 { return a - b }},
		{"add signed", addSigned, func(a, b, _, _ int64, w uint) int64 {
			least, most, _ := limits(w)
			return min(max(a+b, least), most)
		}},
		{"sub signed", subSigned, func(a, b, _, _ int64, w uint) int64 {
			least, most, _ := limits(w)
			return min(max(a-b, least), most)
		}},
		{"add unsigned", addUnsigned, func(_, _, a, b int64, w uint) int64 {
			_, _, all := limits(w)
			return min(a+b, all)
		}},
		{"sub unsigned", subUnsigned, func(_, _, a, b int64, _ uint) int64 { return max(a-b, 0) }},
		{"average", average, func(_, _, a, b int64, _ uint) int64 { return (a + b + 1) / 2 }},
		{"equal", equalLanes, func(a, b, _, _ int64, _ uint) int64 { return truth(a == b) }},
		{"greater", greaterLanes, func(a, b, _, _ int64, _ uint) int64 { return truth(a > b) }},
		{"min unsigned", minUnsigned, func(_, _, a, b int64, _ uint) int64 { return min(a, b) }},
		{"max unsigned", maxUnsigned, func(_, _, a, b int64, _ uint) int64 { return max(a, b) }},
		{"min signed", minSigned, func(a, b, _, _ int64, _ uint) int64 { return min(a, b) }},
		{"max signed", maxSigned, func(a, b, _, _ int64, _ uint) int64 { return max(a, b) }},
		{"magnitude", magnitude, func(_, b, _, _ int64, _ uint) int64 { return max(b, -b) }},
		{"sign", sign, func(a, b, _, _ int64, _ uint) int64 {
			switch {
			case b < 0:
				return -a
			case b == 0:
				return 0
			}
			return a
		}},
	}
	formats := []struct {
		h uint64
		w uint
	}{{h8, 8}, {h16, 16}, {h32, 32}}
	words := edgeWords()
	for _, op := range ops {
		for _, f := range formats {
			for _, a := range words {
				for _, b := range words {
					got := op.word(a, b, f.h, f.w)
					var want uint64
					for i := uint(0); i < 64; i += f.w {
						ua, ub := a>>i&(1<<f.w-1), b>>i&(1<<f.w-1)
						sa, sb := int64(ua<<(64-f.w))>>(64-f.w), int64(ub<<(64-f.w))>>(64-f.w)
						want |= uint64(op.lane(sa, sb, int64(ua), int64(ub), f.w)) & (1<<f.w - 1) << i
					}
					if got != want {
						t.Fatalf("%s of %#x and %#x in lanes of %d bits: %#x, want %#x", op.name, a, b, f.w, got, want)
					}
				}
			}
		}
	}
}

// TestShiftLanes does so for shifts, by all counts around the widths.
func TestShiftLanes(t *testing.T) {
	for _, f := range []struct {
		h uint64
		w uint
	}{{h16, 16}, {h32, 32}, {h64, 64}} {
		for _, a := range edgeWords() {
			for n := uint64(0); n < 70; n++ {
				var left, right, signed uint64
				for i := uint(0); i < 64; i += f.w {
					lane, all := a>>i&(1<<f.w-1), uint64(1)<<f.w-1
					left |= lane << n & all << i
					right |= lane >> n << i
					signed |= uint64(int64(lane<<(64-f.w))>>(64-f.w)>>n) & all << i
				}
				if n >= uint64(f.w) {
					left, right = 0, 0
				}
				for _, c := range []struct {
					name      string
					got, want uint64
				}{
					{"left", shiftLeft(a, n, f.h, f.w), left},
					{"right", shiftRight(a, n, f.h, f.w), right},
					{"signed right", shiftRightSigned(a, n, f.h, f.w), signed},
				} {
					if c.got != c.want {
						t.Fatalf("%#x shifted %s by %d in lanes of %d bits: %#x, want %#x", a, c.name, n, f.w, c.got, c.want)
					}
				}
			}
		}
	}
}

// edgeWords has all pairs of edge values of bytes side by side, and what a fixed sequence gives.
func edgeWords() []uint64 {
	words := []uint64{
		0, ^uint64(0), h8, h16, h32, h64, ^uint64(h8), ^uint64(h16), ^uint64(h32), ^uint64(h64),
		0x0101_0101_0101_0101, 0x0001_0001_0001_0001, 0x00ff_7f80_8001_fffe, 0xffff_0000_7fff_8000,
	}
	x := uint64(1)
	for range 100 {
		x = x*6364136223846793005 + 1442695040888963407
		words = append(words, x^x>>29)
	}
	return words
}
