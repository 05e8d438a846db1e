package devices

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"

	"ftvm/vmm"
)

// request sends a block request as most drivers frame it: header, data, status. Each has
// its place by the number of its first descriptor. data is written, or room for n bytes
// is given.
func (d *driver) request(kind uint32, sector uint64, data []byte, n uint32) (at vmm.GPA) {
	at = testData + vmm.GPA(d.nextDesc)*0x2000
	header := binary.LittleEndian.AppendUint32(nil, kind)
	header = binary.LittleEndian.AppendUint32(header, 0)
	d.write(at, binary.LittleEndian.AppendUint64(header, sector))
	d.write(at+0x10, []byte{0xEE})
	d.write(at+0x20, data)
	bufs := []buf{{at, blkHeaderSize, 0, 0}}
	if len(data) > 0 {
		bufs = append(bufs, buf{at + 0x20, uint32(len(data)), 0, 0})
	}
	if n > 0 {
		bufs = append(bufs, buf{at + 0x20, n, descWrite, 0})
	}
	d.send(append(bufs, buf{at + 0x10, 1, descWrite, 0})...)
	return at
}

// statusAt is the status byte of the request that request put at `at`; 0xEE is none yet.
func (d *driver) statusAt(at vmm.GPA) uint8 { return d.read(at+0x10, 1)[0] }

func sector(fill byte) []byte { return bytes.Repeat([]byte{fill}, vmm.SectorSize) }

func TestBlkRequests(t *testing.T) {
	g := newGuest(t, testDisk)
	g.initPIC()
	d := g.probe(1).start(blkFlush, 64)
	read := d.request(blkTypeIn, 7, nil, 1024)
	write := d.request(blkTypeOut, 2047, sector('w'), 0)
	flush := d.request(blkTypeFlush, 0, nil, 0)
	want := []vmm.Output{
		{Kind: vmm.OutputDisk, Seq: 0, Op: vmm.DiskRead, Offset: 7 * 512, Length: 1024, Data: make([]byte, 1024)},
		{Kind: vmm.OutputDisk, Seq: 1, Op: vmm.DiskWrite, Offset: 2047 * 512, Length: 512, Data: sector('w')},
		{Kind: vmm.OutputDisk, Seq: 2, Op: vmm.DiskFlush},
	}
	got := g.b.Outputs(nil)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("outputs\n%+v, want\n%+v", got, want)
	}
	d.write(write+0x20, sector('x')) // too late to change what is written
	if !bytes.Equal(got[1].Data, sector('w')) {
		t.Error("data of a write changed after it was handed out")
	}
	if u := d.used(); len(u) != 0 {
		t.Errorf("%v used before any completion", u)
	}

	// In another order than they were made, and one of them by a restored board.
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 2})
	if !g.b.Interrupt() {
		t.Error("no interrupt after a completion")
	}
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 1, Status: vmm.DiskError})
	g.move()
	data := append(sector('1'), sector('2')...)
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 0, Data: data})
	if got := []uint8{d.statusAt(read), d.statusAt(write), d.statusAt(flush)}; !bytes.Equal(got, []uint8{0, 1, 0}) {
		t.Errorf("status of read, write, flush: %v, want 0, 1, 0", got)
	}
	if !bytes.Equal(d.read(read+0x20, 1024), data) {
		t.Error("the data of the read is not in its buffer")
	}
	if got, want := d.used(), []usedElem{{6, 1}, {3, 1}, {0, 1025}}; !reflect.DeepEqual(got, want) {
		t.Errorf("used ring %v, want %v", got, want)
	}
	if v := d.load(d.isr, 1); v != isrQueue {
		t.Errorf("ISR %#x, want the queue bit", v)
	}
}

// TestBlkAtOnce has requests that are answered without leaving the machine.
func TestBlkAtOnce(t *testing.T) {
	const size = 2048 // sectors
	for _, tt := range []struct {
		what     string
		readOnly bool
		kind     uint32
		sector   uint64
		data     int
		room     uint32
		status   uint8
		len      uint32
	}{
		{"unknown type", false, 99, 0, 0, 0, 2, 1},
		{"secure erase, not offered", false, 14, 0, 16, 0, 2, 1},
		{"discard of no stretch", false, blkTypeDiscard, 0, 0, 0, 1, 1},
		{"discard of two stretches", false, blkTypeDiscard, 0, 32, 0, 1, 1},
		{"discard of no sectors", false, blkTypeDiscard, 0, 16, 0, 1, 1},
		{"read of no data", false, blkTypeIn, 0, 0, 0, 1, 1},
		{"read of half a sector", false, blkTypeIn, 0, 0, 256, 1, 0},
		{"read behind the end", false, blkTypeIn, size, 0, 512, 1, 0},
		{"read over the end", false, blkTypeIn, size - 1, 0, 1024, 1, 0},
		{"read at a sector that wraps", false, blkTypeIn, ^uint64(0), 0, 512, 1, 0},
		{"write of no data", false, blkTypeOut, 0, 0, 0, 1, 1},
		{"write of an odd length", false, blkTypeOut, 0, 513, 0, 1, 1},
		{"write over the end", false, blkTypeOut, size - 1, 1024, 0, 1, 1},
		{"write to a read-only disk", true, blkTypeOut, 0, 512, 0, 1, 1},
		{"ID", false, blkTypeGetID, 0, 0, 20, 0, 21},
		{"ID, little room", false, blkTypeGetID, 0, 0, 4, 0, 5},
		{"ID, more room", false, blkTypeGetID, 0, 0, 32, 0, 20},
	} {
		disk := testDisk
		disk.ReadOnly = tt.readOnly
		g := newGuest(t, disk)
		d := g.probe(1).start(0, 8)
		at := d.request(tt.kind, tt.sector, make([]byte, tt.data), tt.room)
		if got := d.statusAt(at); got != tt.status {
			t.Errorf("%s: status %d, want %d", tt.what, got, tt.status)
		}
		if got, want := d.used(), []usedElem{{0, tt.len}}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: used %v, want %v", tt.what, got, want)
		}
		if out := g.outputs(); len(out) != 0 {
			t.Errorf("%s: sent %+v", tt.what, out)
		}
		if tt.kind == blkTypeGetID && string(d.read(at+0x20, 4)) != "seri" {
			t.Errorf("%s: %q", tt.what, d.read(at+0x20, 4))
		}
	}
}

// TestBlkTooLarge asks for more than SIZE_MAX and SEG_MAX allow.
func TestBlkTooLarge(t *testing.T) {
	g := newGuest(t, Disk{SizeBytes: 1 << 30})
	for _, tt := range []struct {
		segments int
		sent     int
	}{{blkMaxSegments, 1}, {blkMaxSegments + 1, 0}} {
		d := g.probe(1).start(0, 256)
		d.write(testData, make([]byte, blkHeaderSize)) // read from sector 0
		bufs := []buf{{testData, blkHeaderSize, 0, 0}}
		for range tt.segments {
			bufs = append(bufs, buf{testData + 0x1000, blkMaxSegment, descWrite, 0})
		}
		d.send(append(bufs, buf{testData + 0x20, 1, descWrite, 0})...)
		if n := len(g.outputs()); n != tt.sent {
			t.Errorf("%d segments: %d requests left, want %d", tt.segments, n, tt.sent)
		}
	}
}

// TestBlkFraming sends one write in several framings (2.7.4).
func TestBlkFraming(t *testing.T) {
	header := binary.LittleEndian.AppendUint64([]byte{blkTypeOut, 0, 0, 0, 0, 0, 0, 0}, 5)
	const status = testData + 0x4000
	for _, tt := range []struct {
		what string
		bufs []buf
	}{
		{"header and data together", []buf{{testData, 528, 0, 0}, {status, 1, descWrite, 0}}},
		{"header in pieces", []buf{{testData, 3, 0, 0}, {testData + 3, 0, 0, 0}, {testData + 3, 14, 0, 0},
			{testData + 17, 511, 0, 0}, {status, 1, descWrite, 0}}},
		{"empty buffers around the status", []buf{{testData, 528, 0, 0}, {status, 0, descWrite, 0},
			{status, 1, descWrite, 0}, {status, 0, descWrite, 0}}},
	} {
		g := newGuest(t, testDisk)
		d := g.probe(1).start(blkFlush, 8)
		d.write(testData, append(bytes.Clone(header), sector('f')...))
		d.write(status, []byte{0xEE})
		d.send(tt.bufs...)
		out := g.outputs()
		if len(out) != 1 || out[0].Offset != 5*512 || !bytes.Equal(out[0].Data, sector('f')) {
			t.Errorf("%s: sent %+v", tt.what, out)
			continue
		}
		g.deliver(vmm.Input{Kind: vmm.InputDisk})
		if got := d.read(status, 1)[0]; got != 0 {
			t.Errorf("%s: status %#x, want 0", tt.what, got)
		}
	}
}

// TestBlkWithoutFlush: a driver that cannot flush gets stable writes (5.2.6.2).
func TestBlkWithoutFlush(t *testing.T) {
	stretch := []byte{0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}
	for kind, payload := range map[uint32][]byte{
		blkTypeOut: sector('s'), blkTypeDiscard: stretch, blkTypeWriteZeroes: stretch} {
		testBlkWithoutFlush(t, kind, payload)
	}
}

func testBlkWithoutFlush(t *testing.T, kind uint32, payload []byte) {
	t.Helper()
	g := newGuest(t, testDisk)
	d := g.probe(1).start(0, 16)
	at := d.request(kind, 0, payload, 0)
	g.outputs()
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 0})
	if d.statusAt(at) != 0xEE {
		t.Error("the write is complete before it is stable")
	}
	want := []vmm.Output{{Kind: vmm.OutputDisk, Seq: 1, Op: vmm.DiskFlush}}
	if got := g.outputs(); !reflect.DeepEqual(got, want) {
		t.Errorf("after the write: %+v, want %+v", got, want)
	}
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 1})
	if s, u := d.statusAt(at), d.used(); s != 0 || len(u) != 1 {
		t.Errorf("after the flush: status %#x, used %v", s, u)
	}
}

// TestBlkReset: completions of requests from before a reset have no effect.
func TestBlkReset(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(blkFlush, 16)
	at := d.request(blkTypeIn, 0, nil, 512)
	d.start(blkFlush, 16)
	g.move()
	again := d.request(blkTypeIn, 1, nil, 512)
	if at != again {
		t.Fatal("the test wants both requests in the same place")
	}
	if err := g.b.Deliver(vmm.Input{Kind: vmm.InputDisk, ID: 0}); err == nil {
		t.Error("a completion without data was accepted because nobody waits for it")
	}
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 0, Data: sector('0')})
	if s, u := d.statusAt(at), d.used(); s != 0xEE || len(u) != 0 {
		t.Errorf("a request from before the reset was completed: status %#x, used %v", s, u)
	}
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 1, Data: sector('1')})
	if s, p := d.statusAt(at), d.read(at+0x20, 512); s != 0 || !bytes.Equal(p, sector('1')) {
		t.Errorf("the request after the reset: status %#x, data %q", s, p[:4])
	}
}

// TestBlkLimit resets again and again while no completion comes.
func TestBlkLimit(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1)
	for range 4 {
		d.start(blkFlush, maxQueueSize)
		d.write(testData, []byte{blkTypeFlush, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		head := d.chain(buf{testData, 16, 0, 0}, buf{testData + 16, 1, descWrite, 0})
		for range maxQueueSize {
			d.offer(head)
		}
		d.kick()
	}
	if n := len(g.outputs()); n != blkMaxRequests {
		t.Fatalf("%d requests in flight, want %d", n, blkMaxRequests)
	}
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 3})
	if out := g.outputs(); len(out) != 1 || out[0].Seq != blkMaxRequests {
		t.Errorf("after a completion %+v left, want one request", out)
	}
}

// TestBlkZeroed discards and writes zeroes.
func TestBlkZeroed(t *testing.T) {
	const size = blkMaxZeroed/vmm.SectorSize + 100 // sectors
	for _, tt := range []struct {
		what    string
		kind    uint32
		sector  uint64
		sectors uint32
		flags   uint32
		op      vmm.DiskOp     // 0: nothing leaves
		status  vmm.DiskStatus // then
	}{
		{"discard", blkTypeDiscard, 8, 16, 0, vmm.DiskDiscard, 0},
		{"as much as one request may", blkTypeDiscard, 100, size - 100, 0, vmm.DiskDiscard, 0},
		{"more", blkTypeDiscard, 99, size - 99, 0, 0, vmm.DiskError},
		{"over the end", blkTypeDiscard, size - 8, 9, 0, 0, vmm.DiskError},
		{"no sectors", blkTypeDiscard, 0, 0, 0, 0, vmm.DiskError},
		{"a sector that wraps", blkTypeDiscard, ^uint64(0), 2, 0, 0, vmm.DiskError},
		{"discard with the flag of the other", blkTypeDiscard, 0, 8, blkUnmap, 0, blkUnsupported},
		{"zeroes", blkTypeWriteZeroes, 8, 16, 0, vmm.DiskWriteZeroes, 0},
		{"zeroes that need no room", blkTypeWriteZeroes, 8, 16, blkUnmap, vmm.DiskDiscard, 0},
		{"unknown flag", blkTypeWriteZeroes, 8, 16, 2, 0, blkUnsupported},
	} {
		for _, readOnly := range []bool{false, true} {
			if readOnly && tt.op != 0 {
				tt.op, tt.status = 0, vmm.DiskError
			}
			g := newGuest(t, Disk{SizeBytes: size * vmm.SectorSize, ReadOnly: readOnly, Shared: true})
			d := g.probe(1).start(blkFlush, 8)
			p := binary.LittleEndian.AppendUint64(nil, tt.sector)
			p = binary.LittleEndian.AppendUint32(p, tt.sectors)
			at := d.request(tt.kind, 0, binary.LittleEndian.AppendUint32(p, tt.flags), 0)
			out := g.outputs()
			if tt.op == 0 {
				if s := d.statusAt(at); len(out) != 0 || s != uint8(tt.status) {
					t.Errorf("%s: sent %+v, status %d, want %d", tt.what, out, s, tt.status)
				}
				continue
			}
			want := []vmm.Output{{Kind: vmm.OutputDisk, Op: tt.op, Offset: tt.sector * vmm.SectorSize,
				Length: uint64(tt.sectors) * vmm.SectorSize, Shared: true}}
			if !reflect.DeepEqual(out, want) || g.b.disks[0].inFlight != 0 {
				t.Errorf("%s: sent %+v, want %+v; %d bytes in flight", tt.what, out, want, g.b.disks[0].inFlight)
			}
			g.move()
			g.deliver(vmm.Input{Kind: vmm.InputDisk})
			if s := d.statusAt(at); s != 0 {
				t.Errorf("%s: status %d, want 0", tt.what, s)
			}
		}
	}
}

// TestBlkBytes makes more bytes of writes available than may be in flight. All are served in
// the end, in order, and a restored board knows how many bytes are out.
func TestBlkBytes(t *testing.T) {
	const fit = (blkMaxInFlight + blkMaxData - 1) / blkMaxData
	g := newGuest(t, Disk{SizeBytes: blkMaxData})
	d := g.probe(1).start(blkFlush, maxQueueSize)
	d.write(testData, []byte{blkTypeOut})
	bufs := []buf{{testData, blkHeaderSize, 0, 0}}
	for range blkMaxSegments {
		bufs = append(bufs, buf{testData + 0x1000, blkMaxSegment, 0, 0})
	}
	head := d.chain(append(bufs, buf{testData + 0x20, 1, descWrite, 0})...)
	for range 2 * fit {
		d.offer(head)
	}
	d.kick()
	if n := len(g.outputs()); n != fit {
		t.Fatalf("one notification sent %d requests, want %d", n, fit)
	}
	g.move()
	for id := range uint64(2 * fit) {
		g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: id})
		if n := g.b.disks[0].inFlight; n >= blkMaxInFlight+blkMaxData {
			t.Fatalf("%d bytes in flight after completion %d", n, id)
		}
	}
	g.outputs()
	if len(g.sent) != 2*fit || len(d.used()) != 2*fit || g.b.disks[0].inFlight != 0 {
		t.Errorf("%d sent of %d, %d bytes left in flight", len(g.sent), 2*fit, g.b.disks[0].inFlight)
	}
}

// TestBlkShortHeader: a request without a whole header, but with a place for its status.
func TestBlkShortHeader(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(0, 8)
	d.write(testData, []byte{blkTypeFlush})
	d.send(buf{testData, blkHeaderSize - 1, 0, 0}, buf{testData + 0x100, 1, descWrite, 0})
	d.send(buf{testData + 0x101, 1, descWrite, 0})
	if s := d.read(testData+0x100, 2); !bytes.Equal(s, []byte{1, 1}) || len(g.outputs()) != 0 {
		t.Errorf("status %v, want twice 1 and nothing sent", s)
	}
}

// TestBlkBroken: a device that needs a reset writes nothing, whatever completes.
func TestBlkBroken(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(blkFlush, 16)
	at := d.request(blkTypeIn, 0, nil, 512)
	d.offer(99)
	d.kick()
	memory := g.read(0, guestRAM)
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 0, Data: sector('x')})
	if !bytes.Equal(memory, g.read(0, guestRAM)) {
		t.Errorf("a broken device wrote to memory; status %#x", d.statusAt(at))
	}
}

// TestBlkNoStatus: a request without a byte for the status breaks the rules.
func TestBlkNoStatus(t *testing.T) {
	d := newGuest(t, testDisk).probe(1).start(0, 8)
	d.send(buf{testData, blkHeaderSize, 0, 0})
	if d.status()&statusNeedsReset == 0 {
		t.Errorf("status %#x, want NEEDS_RESET", d.status())
	}
}

func FuzzVirtioBlk(f *testing.F) {
	f.Add([]byte("\x09\x00\x00\x10\x00\x00\x00\x01\x01\x01\x01\x01\x02\x00\x02\x03\x00\x04"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lockstep(t, data, func(g *guest) func(*script) {
			slot := 1
			d := g.probe(slot).start(blkFlush|featureIndirectDesc, 16)
			return func(s *script) {
				switch op := s.u8(); op % 8 {
				case 6: // a well-formed request
					d.request(uint32(s.u8()%15), uint64(s.u16()%2050), make([]byte, int(s.u8()%3)*512), uint32(s.u8()%3)*512)
				case 7: // the completion of some request
					if out := g.b.disks[0].requests; len(out) > 0 {
						r := out[int(s.u8())%len(out)]
						in := vmm.Input{Kind: vmm.InputDisk, ID: r.id, Status: vmm.DiskStatus(s.u8() % 3)}
						if r.op == vmm.DiskRead && in.Status == vmm.DiskOK {
							in.Data = bytes.Repeat([]byte{op}, int(total(r.data)))
						}
						_ = g.b.Deliver(in)
					}
				default:
					d.disturb(op, s)
				}
			}
		})
	})
}

// TestBlkLends: a buffer is lent until the completion enters, and then again; what a read of a shared disk returns is not lent.
func TestBlkLends(t *testing.T) {
	g := newGuest(t, Disk{SizeBytes: 1 << 20}, Disk{SizeBytes: 1 << 20, Shared: true})
	g.initPIC()
	own, shared := g.probe(1).start(blkFlush, 64), g.probe(2).start(blkFlush, 64)
	request := func(d *driver, kind uint32, sectors uint32) vmm.Output {
		if kind == blkTypeOut {
			d.request(kind, 0, bytes.Repeat(sector('w'), int(sectors)), 0)
		} else {
			d.request(kind, 0, nil, sectors*512)
		}
		return g.b.Outputs(nil)[0]
	}
	done := func(o vmm.Output) {
		in := vmm.Input{Kind: vmm.InputDisk, Device: o.Device, ID: o.Seq}
		if o.Op == vmm.DiskRead {
			in.Data = o.Data
		}
		g.deliver(in)
	}
	first := request(own, blkTypeOut, 3)
	second := request(own, blkTypeIn, 2)
	if &first.Data[0] == &second.Data[0] {
		t.Error("a buffer is lent twice at once")
	}
	copy(second.Data, sector('r'))
	done(second)
	if third := request(own, blkTypeOut, 8); &third.Data[0] != &second.Data[0] || !bytes.Equal(third.Data, bytes.Repeat(sector('w'), 8)) {
		t.Error("a buffer that came back is not lent again, with what is written in it")
	}
	if large := request(own, blkTypeIn, 9); &large.Data[0] == &first.Data[0] || len(large.Data) != 9*512 {
		t.Error("a buffer is lent for more than it has room for")
	}
	done(first)
	if !bytes.Equal(first.Data, bytes.Repeat(sector('w'), 3)) {
		t.Error("what is written changed before the completion entered")
	}
	if o := request(shared, blkTypeIn, 1); o.Data != nil {
		t.Error("what a shared disk returns is lent")
	}
	// No more is kept than blkSpare of a size.
	disk := g.b.disks[0]
	for range 2 {
		for size := range blkSizes + 1 {
			for range 300 {
				disk.takeBack(&blkRequest{lent: make([]byte, blkBuffer<<size)})
			}
			if size < blkSizes && len(disk.spare[size]) != blkSpare/(blkBuffer<<size) {
				t.Errorf("%d buffers of %d bytes are kept", len(disk.spare[size]), blkBuffer<<size)
			}
		}
	}
}
