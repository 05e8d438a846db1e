package devices

import (
	"bytes"
	"reflect"
	"testing"

	"ftvm/vmm"
)

func entropy(first, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(first + i)
	}
	return p
}

func TestRNG(t *testing.T) {
	g := newGuest(t)
	d := g.probe(1).start(0, 8)
	d.send(buf{testData, 64, descWrite, 0})
	if u := d.used(); len(u) != 0 || g.b.EntropyWanted() == 0 {
		t.Fatalf("used %v from an empty pool that wants %d bytes", u, g.b.EntropyWanted())
	}
	g.move()
	g.deliver(vmm.Input{Kind: vmm.InputEntropy, Data: entropy(1, 100)})
	if got, want := d.used(), []usedElem{{0, 64}}; !reflect.DeepEqual(got, want) {
		t.Errorf("after the refill: used %v, want %v", got, want)
	}
	if !bytes.Equal(d.read(testData, 64), entropy(1, 64)) {
		t.Error("the buffer does not hold what the record brought")
	}
	if v := d.load(d.isr, 1); v != isrQueue {
		t.Errorf("ISR %#x, want the queue bit", v)
	}

	// The pool has 36 bytes left: one buffer of two pieces gets them, the next waits.
	d.chain()
	d.send(buf{testData, 10, descWrite, 0}, buf{testData + 0x100, 90, descWrite, 0})
	d.send(buf{testData + 0x200, 8, descWrite, 0})
	if got, want := d.used(), []usedElem{{1, 36}}; !reflect.DeepEqual(got, want) {
		t.Errorf("from a pool that runs dry: used %v, want %v", got, want)
	}
	if !bytes.Equal(d.read(testData+0x100, 26), entropy(75, 26)) {
		t.Error("the second piece does not go on where the first ended")
	}
	g.deliver(vmm.Input{Kind: vmm.InputEntropy, Data: entropy(1, 8)})
	if got, want := d.used(), []usedElem{{3, 8}}; !reflect.DeepEqual(got, want) {
		t.Errorf("after the second refill: used %v, want %v", got, want)
	}
}

func TestRNGMisuse(t *testing.T) {
	for _, tt := range []struct {
		what string
		bufs []buf
	}{
		{"a readable buffer", []buf{{testData, 8, 0, 0}, {testData, 8, descWrite, 0}}},
		{"no room", []buf{{testData, 0, descWrite, 0}}},
	} {
		g := newGuest(t)
		g.deliver(vmm.Input{Kind: vmm.InputEntropy, Data: entropy(1, 8)})
		d := g.probe(1).start(0, 8)
		if d.send(tt.bufs...); d.status()&statusNeedsReset == 0 {
			t.Errorf("%s: status %#x, want NEEDS_RESET", tt.what, d.status())
		}
	}
}

func FuzzVirtioRNG(f *testing.F) {
	f.Add([]byte("\x03\x00\x00\x03\x00\x40\x00\x02\x00\x01\x00\x06\x20"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lockstep(t, data, func(g *guest) func(*script) {
			d := g.probe(4).start(featureIndirectDesc, 16)
			return func(s *script) {
				if op := s.u8(); op%7 == 6 {
					_ = g.b.Deliver(vmm.Input{Kind: vmm.InputEntropy, Data: entropy(int(op), int(s.u8()))})
				} else {
					d.disturb(op, s)
				}
			}
		})
	})
}
