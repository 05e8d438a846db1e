package devices

import (
	"bytes"
	"encoding/binary"
	"testing"

	"ftvm/vmm"
)

// TestQueueMisuse offers chains that break the rules. The device must ask for a reset, do
// nothing more, and work again after the reset.
func TestQueueMisuse(t *testing.T) {
	const table = testData + 0x8000 // of indirect descriptors
	header := buf{testData, 16, 0, 0}
	status := buf{testData + 0x100, 1, descWrite, 0}
	indirect := func(n uint32) buf { return buf{table, n, descIndirect, 0} }
	// But for the flaw under test, the chains are flushes that the device would send.
	good := []buf{{testData, 16, descNext, 1}, status}
	between := func(addr vmm.GPA, n uint32) []buf {
		return []buf{{testData, 16, descNext, 1}, {addr, n, descNext, 2}, status}
	}
	for _, tt := range []struct {
		what     string
		features uint64
		table    []buf // at table, as they are
		descs    []buf // at the ring's descriptor 0 and on, as they are
		head     uint16
	}{
		{"head out of range", 0, nil, nil, 8},
		{"next out of range", 0, nil, []buf{{testData, 16, descNext, 8}}, 0},
		{"a loop of one", 0, nil, []buf{{testData, 16, descNext, 0}}, 0},
		{"a loop of two", 0, nil, []buf{{testData, 16, descNext, 1}, {testData, 16, descNext, 0}}, 0},
		{"a loop of nothing", 0, nil, []buf{{testData, 0, descNext, 0}}, 0},
		{"readable after writable", 0, nil, []buf{{testData + 0x100, 1, descWrite | descNext, 1}, header}, 0},
		{"buffer outside RAM", 0, nil, between(guestRAM, 16), 0},
		{"buffer leaves RAM", 0, nil, between(guestRAM-8, 16), 0},
		{"buffer wraps", 0, nil, between(^vmm.GPA(7), 16), 0},
		{"buffer in a device window", 0, nil, between(virtioBARBase, 16), 0},
		{"indirect, not negotiated", 0, good, []buf{indirect(32)}, 0},
		{"indirect with next", featureIndirectDesc, good, []buf{{table, 32, descIndirect | descNext, 1}, status}, 0},
		{"indirect in indirect", featureIndirectDesc, []buf{{testData, 16, descNext, 1}, {table + 32, 16, descIndirect, 0}, status},
			[]buf{indirect(32)}, 0},
		{"indirect, empty", featureIndirectDesc, good, []buf{indirect(0)}, 0},
		{"indirect, odd length", featureIndirectDesc, good, []buf{indirect(33)}, 0},
		{"indirect outside RAM", featureIndirectDesc, nil, []buf{{guestRAM, 16, descIndirect, 0}}, 0},
		{"indirect, next out of range", featureIndirectDesc, good, []buf{indirect(16)}, 0},
		{"indirect, loop", featureIndirectDesc, []buf{{testData, 16, descNext, 0}}, []buf{indirect(16)}, 0},
	} {
		g := newGuest(t, testDisk)
		d := g.probe(1).start(tt.features, 8)
		d.write(testData, []byte{blkTypeFlush})
		for i, b := range tt.table {
			d.setDesc(table, uint16(i), b)
		}
		for i, b := range tt.descs {
			d.setDesc(d.desc, uint16(i), b)
		}
		d.offer(tt.head)
		d.kick()
		if s := d.status(); s&statusNeedsReset == 0 {
			t.Errorf("%s: status %#x, want NEEDS_RESET", tt.what, s)
		}
		if v := d.load(d.isr, 1); v != isrConfig {
			t.Errorf("%s: ISR %#x, want the configuration bit", tt.what, v)
		}
		if u, out := d.used(), g.outputs(); len(u)+len(out) != 0 {
			t.Errorf("%s: used %v, sent %+v", tt.what, u, out)
		}
		d.start(0, 8)
		d.request(blkTypeFlush, 0, nil, 0)
		if out := g.outputs(); len(out) != 1 {
			t.Errorf("%s: after the reset a flush sent %+v", tt.what, out)
		}
	}
}

// TestQueueIndex offers more chains than the queue holds.
func TestQueueIndex(t *testing.T) {
	for idx, broken := range map[uint16]bool{8: false, 9: true, 0xFFFF: true} {
		g := newGuest(t, testDisk)
		d := g.probe(1).start(0, 8)
		d.write(testData, []byte{blkTypeFlush})
		d.chain(buf{testData, 16, 0, 0}, buf{testData + 16, 1, descWrite, 0}) // head 0, as are all entries
		d.write(d.avail+2, binary.LittleEndian.AppendUint16(nil, idx))
		d.kick()
		if got := d.status()&statusNeedsReset != 0; got != broken {
			t.Errorf("index %d: needs reset %v, want %v", idx, got, broken)
		}
		if out := g.outputs(); (len(out) == 0) != broken {
			t.Errorf("index %d: %d requests left", idx, len(out))
		}
	}
}

// TestQueueIndirect sends the longest chain that is allowed: an indirect table with as many
// descriptors as the queue, behind a descriptor whose write flag means nothing.
func TestQueueIndirect(t *testing.T) {
	const table = testData + 0x8000
	g := newGuest(t, testDisk)
	d := g.probe(1).start(featureIndirectDesc|blkFlush, 4)
	d.write(testData, make([]byte, 16)) // read from sector 0
	for i, b := range []buf{{testData, 16, descNext, 1}, {testData + 0x200, 256, descWrite | descNext, 2},
		{testData + 0x400, 256, descWrite | descNext, 3}, {testData + 0x100, 1, descWrite, 0}} {
		d.setDesc(table, uint16(i), b)
	}
	d.send(buf{table, 64, descIndirect | descWrite, 0})
	g.deliver(vmm.Input{Kind: vmm.InputDisk, Data: append(bytes.Repeat([]byte{'a'}, 256), bytes.Repeat([]byte{'b'}, 256)...)})
	if a, b := d.read(testData+0x2FF, 1)[0], d.read(testData+0x4FF, 1)[0]; a != 'a' || b != 'b' {
		t.Errorf("data in the buffers: %q, %q", a, b)
	}
	// A direct part may come first (2.7.5.3.2).
	d.setDesc(table, 0, buf{testData + 0x200, 512, descWrite | descNext, 1})
	d.setDesc(table, 1, buf{testData + 0x100, 1, descWrite, 0})
	d.send(buf{testData, 16, 0, 0}, buf{table, 32, descIndirect, 0})
	if out := g.outputs(); len(out) != 2 || out[1].Length != 512 {
		t.Errorf("sent %+v, want two reads", out)
	}
}

// TestQueueWraps runs the 16-bit indices around.
func TestQueueWraps(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(0, 4)
	d.write(testData, []byte{blkTypeGetID})
	for i := range 1<<16 + 5 {
		d.send(buf{testData, 16, 0, 0}, buf{testData + 16, 21, descWrite, 0})
		if u := d.used(); len(u) != 1 || u[0].len != 21 {
			t.Fatalf("request %d: used %v", i, u)
		}
	}
}

// TestQueueNotRunning notifies a device that may not look at its queue.
func TestQueueNotRunning(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(0, 8)
	d.setStatus(0)
	d.request(blkTypeFlush, 0, nil, 0)
	d.negotiate(featureVersion1)
	d.setQueue(8, testDesc, testAvail, testUsed)
	d.kick()
	if out := g.outputs(); len(out) != 0 {
		t.Errorf("sent %+v before DRIVER_OK", out)
	}
	d.setStatus(statusDriverOK)
	d.kick()
	if out := g.outputs(); len(out) != 1 {
		t.Errorf("sent %+v after DRIVER_OK, want the flush", out)
	}
	for _, off := range []vmm.GPA{2, 4, 0xFFC} { // no queue is there
		d.store(d.notify+off, 2, 0)
	}
}

// disturb is a step of a fuzz target: something that a driver could do to its queue, right
// or wrong.
func (d *driver) disturb(op uint8, s *script) {
	interesting := func() vmm.GPA {
		return [...]vmm.GPA{testDesc, testAvail, testUsed, testData, guestRAM - 8, vmm.HoleStart,
			^vmm.GPA(3), 0}[s.u8()%8] + vmm.GPA(s.u8())
	}
	switch op % 6 {
	case 0:
		d.setDesc(d.desc, uint16(s.u8()%17), buf{interesting(), uint32(s.u16()) % 2048, uint16(s.u8() % 8), uint16(s.u8() % 17)})
	case 1:
		d.offer(uint16(s.u8() % 17))
		d.kick()
	case 2:
		d.write(testData+vmm.GPA(s.u8())*16, s.bytes(16))
	case 3:
		d.store(d.common+vmm.GPA(s.u8()%0x38), 1<<(s.u8()%4), s.u64())
	case 4:
		if s.u8()%4 == 0 {
			d.start(featureIndirectDesc, 1<<(s.u8()%6))
		}
		d.kick()
	case 5:
		d.setQueue(uint16(s.u8()), interesting(), interesting(), interesting())
		d.load(d.isr, 1)
	}
}

func FuzzVirtqueue(f *testing.F) {
	f.Add([]byte("\x03\x00\x00\x03\x00\x10\x00\x01\x01\x00\x01\x03\x80\x01\x00\x02\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lockstep(t, data, func(g *guest) func(*script) {
			d := g.probe(1).start(featureIndirectDesc, 16)
			return func(s *script) { d.disturb(s.u8(), s) }
		})
	})
}
