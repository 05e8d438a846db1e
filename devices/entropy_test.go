package devices

import (
	"bytes"
	"hash/fnv"
	"testing"
)

func TestEntropyPool(t *testing.T) {
	var e entropyPool
	want := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: %d, want %d", what, got, want)
		}
	}
	want("an empty pool wants", e.wanted(), 4096)
	want("an empty pool gives", len(e.take(10)), 0)
	fill := make([]byte, 4096)
	for i := range fill {
		fill[i] = byte(i * i >> 3)
	}
	if err := e.refill(fill); err != nil {
		t.Fatal(err)
	}
	want("a full pool wants", e.wanted(), 0)
	if err := e.refill([]byte{1}); err == nil {
		t.Fatal("a full pool took a byte")
	}
	if err := e.refill(nil); err != nil {
		t.Fatal(err)
	}
	first := e.take(2047)
	want("above the low-water mark it wants", e.wanted(), 0)
	second := e.take(1)
	want("at the low-water mark it wants", e.wanted(), 2048)
	if err := e.refill(make([]byte, 2049)); err == nil {
		t.Fatal("a refill larger than the room was taken")
	}
	want("after a refusal it wants", e.wanted(), 2048)
	if err := e.refill(make([]byte, 2048)); err != nil {
		t.Fatal(err)
	}
	third := e.take(5000)
	want("a pool gives no more than it has", len(third), 4096)
	if got := append(append(first, second...), third[:2048]...); !bytes.Equal(got, fill) {
		t.Error("bytes came out in another order, or changed, or twice")
	}
}

func TestEntropyPoolRejectsState(t *testing.T) {
	bad := &entropyPool{bytes: make([]byte, entropyCapacity+1)}
	if err := loadState(&entropyPool{}, saveState(t, bad)); err == nil {
		t.Error("restored more than the capacity, want an error")
	}
}

func FuzzEntropyPool(f *testing.F) {
	fuzzDevice(f, func() specimen {
		e := &entropyPool{}
		return specimen{e, nil, func(op, x, y uint8) uint64 {
			h := fnv.New64a()
			if op&1 == 0 {
				h.Write(e.take(int(x) * 16))
			} else if e.refill(bytes.Repeat([]byte{y}, int(x)*16)) != nil {
				h.Write([]byte("refused"))
			}
			return h.Sum64() ^ uint64(e.wanted())
		}}
	},
		"",
		"\x01\xff\x11\x01\x01\x22\x00\x80\x00\x01\x10\x33\x00\xff\x00\x00\xff\x00",
	)
}
