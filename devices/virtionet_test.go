package devices

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"testing"

	"ftvm/vmm"
)

var testNIC = NIC{MAC: [6]byte{0x52, 0x54, 0, 1, 2, 3}}

// frame is a frame of n bytes with its header, which is of zeros.
func frame(fill byte, n int) []byte {
	return append(make([]byte, vmm.FrameHeader), bytes.Repeat([]byte{fill}, n-vmm.FrameHeader)...)
}

// startNIC initializes a network interface, and returns a driver for each of its queues.
func (d *driver) startNIC(features uint64, size uint16) (receive, transmit *driver) {
	d.t.Helper()
	if !d.negotiate(features | featureVersion1) {
		d.t.Fatalf("slot %d: device refuses features %#x", d.slot, features)
	}
	other := *d
	receive, transmit = d, &other
	receive.queue, transmit.queue = netReceive, netTransmit
	receive.makeQueue(size)
	transmit.makeQueue(size)
	d.setStatus(statusAcknowledge | statusDriver | statusFeaturesOK | statusDriverOK)
	return receive, transmit
}

// newNIC is a guest with a running network interface.
func newNIC(t testing.TB, features uint64, size uint16) (g *guest, receive, transmit *driver) {
	g = newGuestOf(t, Config{NICs: []NIC{testNIC}})
	receive, transmit = g.probe(1).startNIC(features, size)
	return g, receive, transmit
}

// offerBuffers makes n receive buffers of size bytes available, one behind the other from testData on.
func (d *driver) offerBuffers(n int, size uint32) {
	for i := range n {
		d.offer(d.chain(buf{testData + vmm.GPA(uint32(i)*size), size, descWrite, 0}))
	}
	d.kick()
}

func (g *guest) deliverFrame(p []byte) {
	g.t.Helper()
	g.deliver(vmm.Input{Kind: vmm.InputFrame, Data: p})
}

func TestNetIdentity(t *testing.T) {
	g := newGuestOf(t, Config{Disks: []Disk{testDisk}, NICs: []NIC{testNIC, {MAC: [6]byte{2}}}})
	for slot, want := range []uint32{0x1237_8086, 0x1042_1AF4, 0x1041_1AF4, 0x1041_1AF4, 0x1044_1AF4, 0xFFFF_FFFF} {
		if v := g.config(slot, pciVendorID, 4); v != want {
			t.Errorf("slot %d: %#x, want %#x", slot, v, want)
		}
	}
	d := g.probe(2)
	if v := g.config(2, pciRevisionClass+1, 2) | g.config(2, pciRevisionClass+3, 1)<<16; v != 0x02_00_00 {
		t.Errorf("class %#x, want an Ethernet controller's", v)
	}
	if mac := d.load(d.device, 8); mac != 0x0302_0100_5452 {
		t.Errorf("configuration %#x, want the address and then nothing", mac)
	}
	if n := d.load(d.common+0x12, 2); n != 2 {
		t.Errorf("%d queues, want 2", n)
	}
}

func TestNetTransmit(t *testing.T) {
	g := newGuestOf(t, Config{NICs: []NIC{testNIC, {MAC: [6]byte{2}}}})
	g.initPIC()
	_, first := g.probe(1).startNIC(netFeatures, 16)
	header := []byte{1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0}
	first.write(testData, append(header, bytes.Repeat([]byte{'a'}, 100)...))
	first.offer(first.chain(buf{testData, 12, 0, 0}, buf{testData + 12, 60, 0, 0}, buf{testData + 72, 40, 0, 0}))
	first.offer(first.chain(buf{testData, 112, 0, 0}))
	first.kick()
	if !g.b.RequestsWait() {
		t.Error("nobody is told that frames wait")
	}
	if got, want := first.used(), []usedElem{{0, 0}, {3, 0}}; !reflect.DeepEqual(got, want) {
		t.Errorf("used %v, want %v", got, want)
	}
	if !g.b.Interrupt() {
		t.Error("no interrupt after frames were sent")
	}
	g.out(portUART, 1, 'c')
	_, second := g.probe(2).startNIC(0, 16)
	second.send(buf{testData, 112, 0, 0})
	g.move()
	second.send(buf{testData, 112, 0, 0})
	p := append(header, bytes.Repeat([]byte{'a'}, 100)...)
	want := []vmm.Output{
		{Kind: vmm.OutputFrame, Seq: 0, Data: p},
		{Kind: vmm.OutputFrame, Seq: 1, Data: p},
		{Kind: vmm.OutputConsole, Data: []byte("c")},
		{Kind: vmm.OutputFrame, Seq: 2, Device: 1, Data: p},
		{Kind: vmm.OutputFrame, Seq: 3, Device: 1, Data: p},
	}
	g.outputs()
	if !reflect.DeepEqual(g.sent, want) {
		t.Errorf("outputs\n%+v, want\n%+v", g.sent, want)
	}
	first.write(testData, bytes.Repeat([]byte{'b'}, 112))
	if !bytes.Equal(g.sent[0].Data, p) {
		t.Error("a frame changed after it was handed out")
	}
}

// TestNetTransmitSizes: what is no frame is not sent, and its buffer comes back.
func TestNetTransmitSizes(t *testing.T) {
	for _, tt := range []struct {
		n    uint32
		sent bool
	}{{0, false}, {vmm.FrameHeader, false}, {netMinFrame - 1, false}, {netMinFrame, true},
		{vmm.MaxFrame, true}, {vmm.MaxFrame + 1, false}, {guestRAM / 2, false}} {
		g, _, d := newNIC(t, 0, 4)
		d.send(buf{testData, tt.n, 0, 0})
		if got := len(g.outputs()) == 1; got != tt.sent {
			t.Errorf("%d bytes: sent %v, want %v", tt.n, got, tt.sent)
		}
		if u := d.used(); len(u) != 1 {
			t.Errorf("%d bytes: used %v, want the buffer", tt.n, u)
		}
	}
}

func TestNetReceive(t *testing.T) {
	g, d, _ := newNIC(t, netFeatures, 16)
	g.initPIC()
	d.offerBuffers(4, 64)
	g.deliverFrame(frame('a', 64)) // just one buffer
	if !g.b.Interrupt() {
		t.Error("no interrupt after a frame")
	}
	g.move()
	g.deliverFrame(frame('b', 150))
	if got, want := d.used(), []usedElem{{0, 64}, {1, 64}, {2, 64}, {3, 22}}; !reflect.DeepEqual(got, want) {
		t.Errorf("used %v, want %v", got, want)
	}
	want := append(frame('a', 64), frame('b', 150)...)
	want[netHdrNumBuffers], want[64+netHdrNumBuffers] = 1, 3
	if got := d.read(testData, 214); !bytes.Equal(got, want) {
		t.Errorf("in the buffers:\n% x, want\n% x", got, want)
	}
	memory := g.read(0, guestRAM)
	g.deliverFrame(frame('c', 64))
	if u := d.used(); len(u) != 0 || g.b.nics[0].lost != 1 || !bytes.Equal(memory, g.read(0, guestRAM)) {
		t.Errorf("without a buffer: used %v, %d frames lost", u, g.b.nics[0].lost)
	}
	d.offerBuffers(1, 64)
	g.deliverFrame(frame('d', 65)) // one buffer is not enough, and stays
	g.deliverFrame(frame('e', 64))
	if u := d.used(); len(u) != 1 || g.b.nics[0].lost != 2 {
		t.Errorf("with one buffer: used %v, %d frames lost", u, g.b.nics[0].lost)
	}
	if out := g.outputs(); len(out) != 0 {
		t.Errorf("receiving sent %+v", out)
	}
}

// TestNetReceiveFraming has buffers in pieces, one of which ends within the header (2.7.4).
func TestNetReceiveFraming(t *testing.T) {
	g, d, _ := newNIC(t, netMrgRxbuf, 16)
	d.offer(d.chain(buf{testData, 5, descWrite, 0}, buf{testData + 5, 0, descWrite, 0}, buf{testData + 5, 3, descWrite, 0}))
	d.offer(d.chain(buf{testData + 8, 0, descWrite, 0}))
	d.offer(d.chain(buf{testData + 8, 10, descWrite, 0}, buf{testData + 18, 100, descWrite, 0}))
	g.deliverFrame(frame('f', 40))
	if got, want := d.used(), []usedElem{{0, 8}, {3, 0}, {4, 32}}; !reflect.DeepEqual(got, want) {
		t.Errorf("used %v, want %v", got, want)
	}
	want := frame('f', 40)
	want[netHdrNumBuffers] = 3
	if got := d.read(testData, 40); !bytes.Equal(got, want) {
		t.Errorf("in the buffers:\n% x, want\n% x", got, want)
	}
}

// TestNetUnmerged: a driver that does not merge buffers gets a frame into one, or not at all.
func TestNetUnmerged(t *testing.T) {
	g, d, _ := newNIC(t, 0, 16)
	d.offerBuffers(2, 64)
	g.deliverFrame(frame('a', 65))
	g.deliverFrame(frame('b', 64))
	if got, want := d.used(), []usedElem{{0, 64}}; !reflect.DeepEqual(got, want) || g.b.nics[0].lost != 1 {
		t.Errorf("used %v, want %v; %d frames lost", got, want, g.b.nics[0].lost)
	}
	if n := d.read(testData+netHdrNumBuffers, 1)[0]; n != 1 {
		t.Errorf("num_buffers %d, want 1", n)
	}
}

func TestNetFrameRoom(t *testing.T) {
	small, large, huge := frame('s', 64), frame('l', 65), frame('h', 1000)
	tso := frame('t', 64)
	tso[netHdrGSO] = netGSOTCPv4
	for _, tt := range []struct {
		what     string
		features uint64
		buffers  int
		frames   [][]byte
		want     int
	}{
		{"no buffer", netFeatures, 0, [][]byte{small}, 0},
		{"nothing", netFeatures, 1, nil, 0},
		{"one each", netFeatures, 3, [][]byte{small, small, small, small}, 3},
		{"merged", netFeatures, 5, [][]byte{large, small, large, small}, 3},
		{"none left for the second", netFeatures, 3, [][]byte{large, large, small}, 1},
		{"larger than all", netFeatures, 3, [][]byte{small, huge, small}, 1},
		{"larger than a full queue is lost", netFeatures, 16, [][]byte{frame('x', 16*64+1), small}, 2},
		{"as large as a full queue", netFeatures, 16, [][]byte{frame('x', 16*64), small}, 1},
		{"larger than what is left of a full queue", netFeatures, 16, [][]byte{small, frame('x', 16*64)}, 1},
		{"not merged", 0, 3, [][]byte{small, small, small, small}, 3},
		{"not merged: what no buffer takes is lost", 0, 1, [][]byte{huge, small}, 2},
		{"what the driver cannot do is lost", netMrgRxbuf, 1, [][]byte{tso, small, small}, 2},
		{"what is no frame is lost", netFeatures, 1, [][]byte{nil, make([]byte, vmm.MaxFrame+1), small, small}, 3},
	} {
		g, d, _ := newNIC(t, tt.features, 16)
		d.offerBuffers(tt.buffers, 64)
		before, memory := g.state(), g.read(0, guestRAM)
		if got := g.b.FrameRoom(0, tt.frames); got != tt.want {
			t.Errorf("%s: room for %d, want %d", tt.what, got, tt.want)
		}
		if !bytes.Equal(before, g.state()) || !bytes.Equal(memory, g.read(0, guestRAM)) {
			t.Errorf("%s: asking changed something", tt.what)
		}
	}
	g, d, _ := newNIC(t, netFeatures, 16)
	d.offerBuffers(1, 64)
	if got := g.b.FrameRoom(1, [][]byte{small}); got != 0 {
		t.Errorf("an interface that is not there has room for %d", got)
	}
	d.setStatus(0)
	if got := g.b.FrameRoom(0, [][]byte{small}); got != 0 {
		t.Errorf("an interface without a driver has room for %d", got)
	}
}

// TestNetReceiveBroken offers chains that break the rules. A primary that asks for room does not stop; the
// frame then finds out.
func TestNetReceiveBroken(t *testing.T) {
	for first := range 2 {
		g, d, _ := newNIC(t, netFeatures, 16)
		d.offerBuffers(first, 64)
		d.offer(99)
		p := [][]byte{frame('x', 100)}
		if n := g.b.FrameRoom(0, p); n != 1 || d.status()&statusNeedsReset != 0 {
			t.Errorf("room for %d, status %#x", n, d.status())
		}
		g.deliverFrame(p[0])
		if d.status()&statusNeedsReset == 0 {
			t.Errorf("status %#x, want NEEDS_RESET", d.status())
		}
		memory := g.read(0, guestRAM)
		if g.deliverFrame(p[0]); !bytes.Equal(memory, g.read(0, guestRAM)) {
			t.Error("a broken device wrote to memory")
		}
	}
}

// TestNetOffload: what the driver did not ask for it does not get.
func TestNetOffload(t *testing.T) {
	// Ethernet, and 6 bytes from 14 on whose sum is wanted at 18.
	p := append(make([]byte, vmm.FrameHeader+14), 0x12, 0x34, 0xFF, 0xFF, 0x00, 0x10)
	p[netHdrFlags], p[netHdrCsumStart], p[netHdrCsumOffset] = netNeedsCsum, 14, 4
	odd := append(bytes.Clone(p), 0xED)
	zero := bytes.Clone(p)
	copy(zero[vmm.FrameHeader+14:], []byte{0x12, 0x34, 0x80, 0x00, 0x6D, 0xCB})
	outside := bytes.Clone(p)
	outside[netHdrCsumStart] = 20
	with := func(flags, gso byte) []byte {
		q := bytes.Clone(p)
		q[netHdrFlags], q[netHdrGSO] = flags, gso
		return q
	}
	for _, tt := range []struct {
		what     string
		features uint64
		frame    []byte
		lost     bool
		flags    byte
		sum      uint16 // at 18
	}{
		{"the driver sums", netGuestCsum, p, false, netNeedsCsum, 0x0010},
		{"the driver trusts", netGuestCsum, with(2, 0), false, 2, 0x0010},
		{"the device sums", 0, p, false, 0, ^uint16(0x1234 + 0x10)},
		{"an odd number of bytes", 0, odd, false, 0, ^uint16(0x1234 + 0x10 + 0xED00)},
		{"a sum of zero", 0, zero, false, 0, 0xFFFF},
		{"a sum outside the frame", 0, outside, false, 0, 0x0010},
		{"summed already", 0, with(2, 0), false, 0, 0x0010},
		{"TSO4", netGuestCsum | netGuestTSO4, with(1, netGSOTCPv4), false, 1, 0x0010},
		{"TSO4, not wanted", netGuestCsum | netGuestTSO6, with(1, netGSOTCPv4), true, 0, 0},
		{"TSO6", netGuestCsum | netGuestTSO6, with(1, netGSOTCPv6), false, 1, 0x0010},
		{"TSO6, not wanted", netGuestCsum | netGuestTSO4, with(1, netGSOTCPv6), true, 0, 0},
		{"UFO", netFeatures, with(1, 3), true, 0, 0},
		{"ECN", netFeatures, with(1, netGSOTCPv4|0x80), true, 0, 0},
	} {
		g, d, _ := newNIC(t, tt.features, 16)
		d.offerBuffers(1, 64)
		before := bytes.Clone(tt.frame)
		g.deliverFrame(tt.frame)
		if !bytes.Equal(before, tt.frame) {
			t.Errorf("%s: the input was changed", tt.what)
		}
		if lost := len(d.used()) == 0; lost != tt.lost || lost != (g.b.nics[0].lost == 1) {
			t.Errorf("%s: lost %v, want %v; %d counted", tt.what, lost, tt.lost, g.b.nics[0].lost)
		}
		got := d.read(testData, uint64(len(tt.frame)))
		if flags, sum := got[0], binary.BigEndian.Uint16(got[vmm.FrameHeader+18:]); flags != tt.flags || sum != tt.sum {
			t.Errorf("%s: flags %d, sum %#x; want %d, %#x", tt.what, flags, sum, tt.flags, tt.sum)
		}
	}
}

func FuzzVirtioNet(f *testing.F) {
	f.Add([]byte("\x03\x06\x00\x40\x06\x40\x00\x07\x30\x00\x00\x08\x00\x10\x01\x00\x07\x90\x01\x01\x09\x02\x80"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lockstep(t, data, func(g *guest) func(*script) {
			receive, transmit := g.probe(3).startNIC((netFeatures|featureIndirectDesc)&^netGuestTSO6, 16)
			return func(s *script) {
				switch op := s.u8(); op % 10 {
				case 6: // a good receive buffer
					receive.offerBuffers(1, uint32(s.u8()))
				case 7: // frames, as many as there is room for and one more
					frames := [][]byte{frame(op, netMinFrame+int(s.u8())), frame(op, netMinFrame+16*int(s.u8())), nil}
					frames[0][netHdrFlags], frames[0][netHdrGSO] = op>>4&1, s.u8()%6
					n := g.b.FrameRoom(0, frames)
					g.seen = fmt.Append(g.seen, n)
					for _, p := range frames[:min(n+1, len(frames))] {
						_ = g.b.Deliver(vmm.Input{Kind: vmm.InputFrame, Data: p})
					}
				case 8: // a good frame, in two pieces
					transmit.send(buf{testData, uint32(s.u8()), 0, 0}, buf{testData + 256, 16 * uint32(s.u16()), 0, 0})
				case 9:
					if s.u8()%4 == 0 {
						receive, transmit = g.probe(3).startNIC(uint64(s.u16())&netFeatures, 1<<(s.u8()%6))
					}
				default:
					d := receive
					if op&0x80 != 0 {
						d = transmit
					}
					d.disturb(op, s)
				}
			}
		})
	})
}

// BenchmarkNetTransmit is a frame that the guest sends, and BenchmarkNetReceive one that it gets.
func BenchmarkNetTransmit(b *testing.B) {
	for _, n := range []int{76, 1526, vmm.MaxFrame} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g, _, d := newNIC(b, netFeatures, 256)
			head := d.chain(buf{testData, uint32(n), 0, 0})
			var out []vmm.Output
			b.SetBytes(int64(n))
			for b.Loop() {
				d.offer(head)
				d.kick()
				out = g.b.Outputs(out[:0])
			}
		})
	}
}

func BenchmarkNetReceive(b *testing.B) {
	for _, n := range []int{76, 1526, vmm.MaxFrame} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g, d, _ := newNIC(b, netFeatures, 256)
			head := d.chain(buf{testData, 1536, descWrite, 0})
			p := frame('r', n)
			b.SetBytes(int64(n))
			for b.Loop() {
				for range (n + 1535) / 1536 {
					d.offer(head)
				}
				g.deliverFrame(p)
			}
		})
	}
}
