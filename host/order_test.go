package host

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ftvm/vmm"
)

func TestOrderWhatWaits(t *testing.T) {
	const size = 1 << 20
	data := make([]byte, 512)
	for _, c := range []struct {
		name           string
		earlier, later vmm.Output
		waits          bool
	}{
		{"reads", read(0, 0, 512), read(1, 0, 512), false},
		{"write, read", write(0, 0, data), read(1, 0, 512), true},
		{"read, write", read(0, 0, 512), write(1, 0, data), true},
		{"writes", write(0, 0, data), write(1, 0, data), true},
		{"neighbours", write(0, 0, data), write(1, 512, data), false},
		{"within", write(0, 512, data), read(1, 0, 4096), true},
		{"last byte", write(0, 0, data), read(1, 511, 512), true},
		{"discard, read", clearing(0, vmm.DiskDiscard, 0, 4096), read(1, 1024, 512), true},
		{"zeroes, write", clearing(0, vmm.DiskWriteZeroes, 0, 4096), write(1, 1024, data), true},
		{"write, flush", write(0, 0, data), flush(1), true},
		{"discard, flush", clearing(0, vmm.DiskDiscard, 0, 512), flush(1), true},
		{"read, flush", read(0, 0, 512), flush(1), false},
		{"flush, write", flush(0), write(1, 0, data), false},
		{"flushes", flush(0), flush(1), false},
		{"nothing", write(0, 0, nil), read(1, 0, 512), false},
		{"beyond the disk", write(0, size, data), read(1, 0, 1<<64-1), false},
	} {
		var o order
		a, b := o.add(c.earlier, size), o.add(c.later, size)
		if a.blockers != 0 || (b.blockers != 0) != c.waits {
			t.Errorf("%s: the later waits for %d, want %v", c.name, b.blockers, c.waits)
		}
		next := o.finish(a, nil)
		if (len(next) == 1) != c.waits || b.blockers != 0 {
			t.Errorf("%s: %d may begin after the earlier", c.name, len(next))
		}
		if o.finish(b, nil); len(o.unfinished) != 0 {
			t.Errorf("%s: %d are left", c.name, len(o.unfinished))
		}
	}
}

// TestOrderIsSequential performs requests in any order that is allowed: every read, and the disk in the end, must be as if
// they had been done one after the other; and a flush must find every earlier change done.
func TestOrderIsSequential(t *testing.T) {
	const size, count, depth = 64, 400, 32
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		var o order
		disk, want := make([]byte, size), make([]byte, size)
		wantRead := map[uint64][]byte{}
		var ready []*request
		unchanged := map[uint64]bool{} // changes that are not done
		step := func() {
			i := random.IntN(len(ready))
			r := ready[i]
			ready[i] = ready[len(ready)-1]
			ready = ready[:len(ready)-1]
			switch r.Op {
			case vmm.DiskRead:
				if !bytes.Equal(disk[r.begin:r.end], wantRead[r.Seq]) {
					t.Fatalf("seed %d: read %d got something else", seed, r.Seq)
				}
			case vmm.DiskFlush:
				for seq := range unchanged {
					if seq < r.Seq {
						t.Fatalf("seed %d: flush %d before change %d", seed, r.Seq, seq)
					}
				}
			default:
				copy(disk[r.begin:r.end], r.Data)
				delete(unchanged, r.Seq)
			}
			ready = o.finish(r, ready)
		}
		for seq := range uint64(count) {
			off := random.Uint64N(size)
			out := read(seq, off, random.Uint64N(min(8, size-off)+1))
			switch random.IntN(8) {
			case 0:
				out = flush(seq)
			case 1, 2, 3, 4:
				out = write(seq, off, bytes.Repeat([]byte{byte(seq)}, int(out.Length)))
				copy(want[off:], out.Data)
				unchanged[seq] = true
			default:
				wantRead[seq] = bytes.Clone(want[off : off+out.Length])
			}
			if r := o.add(out, size); r.blockers == 0 {
				ready = append(ready, r)
			}
			for len(o.unfinished) > random.IntN(depth) {
				step()
			}
		}
		for len(ready) > 0 {
			step()
		}
		if len(o.unfinished) != 0 || !bytes.Equal(disk, want) {
			t.Fatalf("seed %d: %d requests never began, or the disk differs", seed, len(o.unfinished))
		}
	}
}
