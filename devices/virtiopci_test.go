package devices

import (
	"bytes"
	"encoding/binary"
	"testing"

	"ftvm/vmm"
)

// guest is guest code as a board sees it: accesses to ports, to memory and to RAM.
type guest struct {
	t    testing.TB
	made Config
	b    *Board
	ram  *vmm.RAM
	seen []byte       // all that in and load returned
	sent []vmm.Output // all that outputs returned
}

const guestRAM = 1 << 20

func newGuest(t testing.TB, disks ...Disk) *guest { return newGuestOf(t, Config{Disks: disks}) }

func newGuestOf(t testing.TB, c Config) *guest {
	ram := vmm.NewRAM(make([]byte, guestRAM))
	return &guest{t: t, made: c, b: New(c, ram), ram: ram}
}

func (g *guest) in(port uint16, n int) uint32 {
	var p [4]byte
	g.b.PortIn(port, p[:n])
	g.seen = append(g.seen, p[:n]...)
	return binary.LittleEndian.Uint32(p[:])
}

func (g *guest) out(port uint16, n int, v uint32) {
	g.b.PortOut(port, binary.LittleEndian.AppendUint32(nil, v)[:n])
}

func (g *guest) load(addr vmm.GPA, n int) uint64 {
	var p [8]byte
	g.b.MemIn(addr, p[:n])
	g.seen = append(g.seen, p[:n]...)
	return binary.LittleEndian.Uint64(p[:])
}

func (g *guest) store(addr vmm.GPA, n int, v uint64) {
	g.b.MemOut(addr, binary.LittleEndian.AppendUint64(nil, v)[:n])
}

func (g *guest) write(addr vmm.GPA, p []byte) {
	g.t.Helper()
	if !g.ram.Write(addr, p) {
		g.t.Fatalf("test writes %d bytes at %#x, outside RAM", len(p), addr)
	}
}

func (g *guest) read(addr vmm.GPA, n uint64) []byte { return bytes.Clone(g.ram.View(addr, n)) }

// config reads, and setConfig writes, n bytes of a slot's configuration space.
func (g *guest) config(slot, off, n int) uint32 {
	g.out(pciConfigAddress, 4, pciEnable|uint32(slot)<<11|uint32(off&^3))
	return g.in(pciConfigData+uint16(off&3), n)
}

func (g *guest) setConfig(slot, off, n int, v uint32) {
	g.out(pciConfigAddress, 4, pciEnable|uint32(slot)<<11|uint32(off&^3))
	g.out(pciConfigData+uint16(off&3), n, v)
}

// initPIC programs the interrupt controllers with vectors from 0x20, all lines open.
func (g *guest) initPIC() {
	for _, w := range [][2]uint32{{0x20, 0x11}, {0xA0, 0x11}, {0x21, 0x20}, {0xA1, 0x28},
		{0x21, 4}, {0xA1, 2}, {0x21, 1}, {0xA1, 1}, {0x21, 0}, {0xA1, 0}} {
		g.out(uint16(w[0]), 1, w[1])
	}
}

// outputs collects what the board sent since the last call. Data are copied, as they are only lent.
func (g *guest) outputs() []vmm.Output {
	n := len(g.sent)
	g.sent = g.b.Outputs(g.sent)
	for i := range g.sent[n:] {
		o := &g.sent[n+i]
		o.Data = bytes.Clone(o.Data)
		if o.Op == vmm.DiskRead && !o.Shared && uint64(len(o.Data)) == o.Length {
			o.Data = nil
		}
	}
	return g.sent[n:]
}

func (g *guest) deliver(in vmm.Input) {
	g.t.Helper()
	if err := g.b.Deliver(in); err != nil {
		g.t.Fatalf("Deliver(%+v): %v", in, err)
	}
}

// driver is a virtio driver for one queue of the device in one slot.
type driver struct {
	*guest
	slot                        int
	queue                       uint16
	common, notify, isr, device vmm.GPA
	pciCap                      int

	size                   uint16
	desc, avail, usedRing  vmm.GPA
	nextDesc, availIdx, at uint16 // at: what of the used ring was seen
}

// Where a driver puts its first queue, how far the next ones are from there, and what its buffers are in.
const (
	testQueueSpan = 0x4000

	testDesc  vmm.GPA = 0x10000
	testAvail vmm.GPA = 0x12000
	testUsed  vmm.GPA = 0x13000
	testData  vmm.GPA = 0x20000
)

// probe finds the device's structures as 4.1.4 says, and switches its window on.
func (g *guest) probe(slot int) *driver {
	g.t.Helper()
	d := &driver{guest: g, slot: slot}
	if v := g.config(slot, pciVendorID, 2); v != 0x1AF4 {
		g.t.Fatalf("slot %d: vendor %#x, want virtio's", slot, v)
	}
	bar := vmm.GPA(g.config(slot, pciBAR0, 4) &^ 0xF)
	g.setConfig(slot, pciCommand, 2, pciCommandMemory|pciCommandMaster)
	for at := int(g.config(slot, pciCapabilities, 1)); at != 0; at = int(g.config(slot, at+1, 1)) {
		where := bar + vmm.GPA(g.config(slot, at+8, 4))
		switch kind := g.config(slot, at+3, 1); kind {
		case capCommon:
			d.common = where
		case capNotify:
			d.notify = where
		case capISR:
			d.isr = where
		case capDevice:
			d.device = where
		case capPCI:
			d.pciCap = at
		default:
			g.t.Errorf("slot %d: capability of unknown type %d", slot, kind)
		}
	}
	return d
}

func (d *driver) status() uint8     { return uint8(d.load(d.common+0x14, 1)) }
func (d *driver) setStatus(v uint8) { d.store(d.common+0x14, 1, uint64(v)) }

// negotiate accepts features up to FEATURES_OK and reports whether the device did.
func (d *driver) negotiate(features uint64) bool {
	d.setStatus(0)
	d.setStatus(statusAcknowledge | statusDriver)
	for i := range 2 {
		d.store(d.common+0x08, 4, uint64(i))
		d.store(d.common+0x0C, 4, features>>(32*i)&0xFFFF_FFFF)
	}
	d.setStatus(statusAcknowledge | statusDriver | statusFeaturesOK)
	return d.status()&statusFeaturesOK != 0
}

// start initializes the device (3.1.1) with queue 0 of the given size.
func (d *driver) start(features uint64, size uint16) *driver {
	d.t.Helper()
	if !d.negotiate(features | featureVersion1) {
		d.t.Fatalf("slot %d: device refuses features %#x", d.slot, features)
	}
	d.makeQueue(size)
	d.setStatus(statusAcknowledge | statusDriver | statusFeaturesOK | statusDriverOK)
	return d
}

// makeQueue sets up d's queue, of the given size and empty, at a place of its own.
func (d *driver) makeQueue(size uint16) {
	at := vmm.GPA(d.queue) * testQueueSpan
	d.size, d.desc, d.avail, d.usedRing = size, testDesc+at, testAvail+at, testUsed+at
	d.nextDesc, d.availIdx, d.at = 0, 0, 0
	d.write(d.avail, make([]byte, 4))
	d.write(d.usedRing, make([]byte, 4))
	d.setQueue(size, d.desc, d.avail, d.usedRing)
}

func (d *driver) setQueue(size uint16, desc, avail, used vmm.GPA) {
	d.store(d.common+0x16, 2, uint64(d.queue))
	d.store(d.common+0x18, 2, uint64(size))
	for i, area := range []vmm.GPA{desc, avail, used} {
		d.store(d.common+0x20+vmm.GPA(8*i), 4, uint64(area)&0xFFFF_FFFF)
		d.store(d.common+0x24+vmm.GPA(8*i), 4, uint64(area)>>32)
	}
	d.store(d.common+0x1C, 2, 1)
}

// buf is a descriptor.
type buf struct {
	addr  vmm.GPA
	len   uint32
	flags uint16
	next  uint16 // only for setDesc
}

func (d *driver) setDesc(table vmm.GPA, i uint16, b buf) {
	p := binary.LittleEndian.AppendUint64(nil, uint64(b.addr))
	p = binary.LittleEndian.AppendUint32(p, b.len)
	p = binary.LittleEndian.AppendUint16(p, b.flags)
	d.write(table+descSize*vmm.GPA(i), binary.LittleEndian.AppendUint16(p, b.next))
}

// chain writes bufs as a chain into the next descriptors and returns its head.
func (d *driver) chain(bufs ...buf) (head uint16) {
	head = d.nextDesc
	for i, b := range bufs {
		at := d.nextDesc
		d.nextDesc = (d.nextDesc + 1) % d.size
		if b.next = d.nextDesc; i < len(bufs)-1 {
			b.flags |= descNext
		}
		d.setDesc(d.desc, at, b)
	}
	return head
}

// offer makes the chain at head available, and kick tells the device.
func (d *driver) offer(head uint16) {
	d.write(d.avail+4+2*vmm.GPA(d.availIdx%d.size), binary.LittleEndian.AppendUint16(nil, head))
	d.availIdx++
	d.write(d.avail+2, binary.LittleEndian.AppendUint16(nil, d.availIdx))
}

func (d *driver) kick() {
	d.store(d.notify+notifyMultiplier*vmm.GPA(d.queue), 2, uint64(d.queue))
}

func (d *driver) send(bufs ...buf) (head uint16) {
	head = d.chain(bufs...)
	d.offer(head)
	d.kick()
	return head
}

type usedElem struct{ head, len uint32 }

// used returns the elements that are new in the used ring.
func (d *driver) used() (elems []usedElem) {
	idx, _ := d.ram.U16(d.usedRing + 2)
	for ; d.at != idx; d.at++ {
		at := d.usedRing + 4 + 8*vmm.GPA(d.at%d.size)
		head, _ := d.ram.U32(at)
		n, _ := d.ram.U32(at + 4)
		elems = append(elems, usedElem{head, n})
	}
	return elems
}

var testDisk = Disk{SizeBytes: 1 << 20, Serial: "serial-0"}

func TestVirtioIdentity(t *testing.T) {
	g := newGuest(t, testDisk, Disk{SizeBytes: 512, ReadOnly: true})
	for _, tt := range []struct {
		slot, off, size int
		want            uint32
	}{
		{0, pciVendorID, 4, 0x1237_8086},
		{0, pciRevisionClass, 4, 0x0600_0002},
		{0, 0x0E, 1, 0}, // one function
		{1, pciVendorID, 4, 0x1042_1AF4},
		{1, pciRevisionClass, 1, 1},
		{1, pciSubsystem + 2, 2, 0x42},
		{1, pciInterruptPin, 1, 1},
		{1, pciInterruptLine, 1, 10},
		{2, pciVendorID, 4, 0x1042_1AF4},
		{2, pciInterruptLine, 1, 11},
		{3, pciVendorID, 4, 0x1044_1AF4},
		{3, pciInterruptLine, 1, 5},
		{1, pciStatus, 2, pciStatusCapabilities},
		{1, pciCommand, 2, 0},
		{4, pciVendorID, 4, 0xFFFF_FFFF},
	} {
		if got := g.config(tt.slot, tt.off, tt.size); got != tt.want {
			t.Errorf("slot %d offset %#x: %#x, want %#x", tt.slot, tt.off, got, tt.want)
		}
	}
	for slot, want := range map[int]bool{1: true, 2: true, 3: false} {
		d := g.probe(slot)
		if d.common == 0 || d.notify == 0 || d.isr == 0 || d.pciCap == 0 || (d.device != 0) != want {
			t.Errorf("slot %d: structures %+v, device configuration wanted: %v", slot, d, want)
		}
	}
	d := g.probe(1)
	for _, tt := range []struct {
		what string
		addr vmm.GPA
		size int
		want uint64
	}{
		{"capacity", d.device, 8, 2048},
		{"size_max", d.device + 8, 4, 16384},
		{"seg_max", d.device + 12, 4, 254},
		{"blk_size", d.device + 20, 4, 512},
		{"capacity, high half", d.device + 4, 4, 0},
		{"max_discard_sectors", d.device + 36, 4, 64 << 20 / 512},
		{"max_discard_seg", d.device + 40, 4, 1},
		{"discard_sector_alignment", d.device + 44, 4, 8},
		{"max_write_zeroes_sectors", d.device + 48, 4, 64 << 20 / 512},
		{"max_write_zeroes_seg", d.device + 52, 4, 1},
		{"write_zeroes_may_unmap", d.device + 56, 4, 1},
		{"behind the configuration", d.device + 60, 4, 0},
		{"num_queues", d.common + 0x12, 2, 1},
		{"config_msix_vector", d.common + 0x10, 2, noVector},
		{"queue_size", d.common + 0x18, 2, 256},
		{"behind the structure", d.common + 0x38, 4, 0},
	} {
		if got := d.load(tt.addr, tt.size); got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.what, got, tt.want)
		}
	}
}

func TestVirtioFeatures(t *testing.T) {
	const offered = blkSizeMax | blkSegMax | blkBlkSize | blkFlush | blkDiscard | blkWriteZeroes |
		featureIndirectDesc | featureVersion1
	d := newGuest(t, testDisk).probe(1)
	var got uint64
	for i := range uint64(3) {
		d.store(d.common, 4, i)
		got |= d.load(d.common+4, 4) << (32 * i)
	}
	if got != offered {
		t.Errorf("offered features %#x, want %#x", got, uint64(offered))
	}
	for _, tt := range []struct {
		features uint64
		ok       bool
	}{
		{offered, true},
		{featureVersion1, true},
		{0, false}, // a legacy driver
		{offered &^ featureVersion1, false},
		{featureVersion1 | blkRO, false}, // not offered
		{featureVersion1 | 1<<29, false}, // event index
		{featureVersion1 | 1<<63, false},
	} {
		if ok := d.negotiate(tt.features); ok != tt.ok {
			t.Errorf("features %#x accepted: %v, want %v", tt.features, ok, tt.ok)
		}
		d.setStatus(statusDriverOK)
		if ok := d.status()&statusDriverOK != 0; ok != tt.ok {
			t.Errorf("features %#x: DRIVER_OK %v, want %v", tt.features, ok, tt.ok)
		}
	}
	d.negotiate(offered)
	d.store(d.common+0x08, 4, 0)
	d.store(d.common+0x0C, 4, 0)
	if got := d.load(d.common+0x0C, 4); got == 0 {
		t.Error("features changed after FEATURES_OK")
	}
}

func TestVirtioStatus(t *testing.T) {
	d := newGuest(t, testDisk).probe(1).start(0, 8)
	const running = statusAcknowledge | statusDriver | statusFeaturesOK | statusDriverOK
	for _, tt := range []struct {
		what        string
		write, want uint8
	}{
		{"a bit is cleared", statusAcknowledge, running},
		{"NEEDS_RESET is written", statusNeedsReset, running},
		{"reserved bits are written", 0x30, running},
		{"FAILED", statusFailed, running | statusFailed},
		{"reset", 0, 0},
	} {
		if d.setStatus(tt.write); d.status() != tt.want {
			t.Errorf("%s: status %#x, want %#x", tt.what, d.status(), tt.want)
		}
	}
	if v := d.load(d.common+0x1C, 2); v != 0 {
		t.Error("queue_enable after reset is not 0")
	}
	if v := d.load(d.common+0x18, 2); v != 256 {
		t.Errorf("queue_size after reset is %d, want 256", v)
	}
}

func TestVirtioQueueSetup(t *testing.T) {
	const last = guestRAM - 16
	for _, tt := range []struct {
		what              string
		size              uint16
		desc, avail, used vmm.GPA
		ok                bool
	}{
		{"ordinary", 256, testDesc, testAvail, testUsed, true},
		{"smallest, up to the end of RAM", 1, last, last, guestRAM - 12, true},
		{"size 0", 0, testDesc, testAvail, testUsed, false},
		{"size no power of 2", 12, testDesc, testAvail, testUsed, false},
		{"size over the maximum", 512, testDesc, testAvail, testUsed, false},
		{"descriptors leave RAM", 2, last, testAvail, testUsed, false},
		{"avail leaves RAM", 16, testDesc, last, testUsed, false},
		{"used in the hole", 16, testDesc, testAvail, vmm.HoleStart, false},
		{"address wraps", 16, testDesc, testAvail, ^vmm.GPA(1), false},
	} {
		d := newGuest(t, testDisk).probe(1)
		d.negotiate(featureVersion1)
		d.setQueue(tt.size, tt.desc, tt.avail, tt.used)
		if ok := d.load(d.common+0x1C, 2) == 1; ok != tt.ok {
			t.Errorf("%s: enabled %v, want %v", tt.what, ok, tt.ok)
		}
		if broken := d.status()&statusNeedsReset != 0; broken == tt.ok {
			t.Errorf("%s: needs reset %v, want %v", tt.what, broken, !tt.ok)
		}
	}

	d := newGuest(t, testDisk).probe(1)
	if d.store(d.common+0x1C, 2, 0); d.load(d.common+0x1C, 2) != 0 {
		t.Error("a write of 0 to queue_enable enabled the queue")
	}
	d.start(0, 8)
	d.setQueue(16, 0, 0, 0)
	if size, desc := d.load(d.common+0x18, 2), d.load(d.common+0x20, 8); size != 8 || vmm.GPA(desc) != testDesc {
		t.Errorf("an enabled queue was changed: size %d, descriptors at %#x", size, desc)
	}
	d.store(d.common+0x16, 2, 1)
	if v := d.load(d.common+0x18, 2); v != 0 {
		t.Errorf("size of a queue that is not there: %d, want 0", v)
	}
}

// TestVirtioWidths accesses the common configuration in other ways than drivers may.
func TestVirtioWidths(t *testing.T) {
	d := newGuest(t, testDisk).probe(1)
	d.store(d.common+0x20, 8, 0x1122_3344_5566_7788) // 64 bits at once
	if v := d.load(d.common+0x20, 8); v != 0x1122_3344_5566_7788 {
		t.Errorf("8-byte access: %#x", v)
	}
	if v := d.load(d.common+0x22, 4); v != 0x3344_5566 {
		t.Errorf("read across fields: %#x, want %#x", v, 0x3344_5566)
	}
	d.store(d.common+0x21, 2, 0xFFFF) // a part of a field
	if v := d.load(d.common+0x20, 4); v != 0x5566_7788 {
		t.Errorf("a write to a part of a field changed it to %#x", v)
	}
	bar := vmm.GPA(virtioBARBase)
	if v := d.load(bar+virtioBARSize-4, 8); v != ^uint64(0) {
		t.Errorf("read across the end of the window: %#x, want all ones", v)
	}
}

// TestVirtioInterrupt follows INTx from the used ring to the CPU and back.
func TestVirtioInterrupt(t *testing.T) {
	g := newGuest(t, testDisk)
	g.initPIC()
	d := g.probe(1).start(0, 8)
	id := []buf{{testData, 16, 0, 0}, {testData + 16, 21, descWrite, 0}}
	d.write(testData, []byte{blkTypeGetID})
	d.send(id...)
	if !g.b.Interrupt() {
		t.Fatal("no interrupt after a used buffer")
	}
	if s := g.config(1, pciStatus, 2); s&pciStatusInterrupt == 0 {
		t.Error("interrupt status is clear in the status register")
	}
	if v := g.b.Acknowledge(); v != 0x2A {
		t.Errorf("vector %#x, want that of IRQ 10", v)
	}
	g.out(0xA0, 1, 0x20)
	g.out(0x20, 1, 0x20)
	if !g.b.Interrupt() {
		t.Error("the level is still high after EOI, but no interrupt comes")
	}
	g.setConfig(1, pciCommand, 2, pciCommandMemory|pciCommandInterruptDisable)
	if g.b.Interrupt() {
		t.Error("interrupt although INTx is disabled")
	}
	g.setConfig(1, pciCommand, 2, pciCommandMemory)
	if v := d.load(d.isr, 1); v != isrQueue {
		t.Errorf("ISR %#x, want the queue bit", v)
	}
	if v := d.load(d.isr, 1); v != 0 || g.b.Interrupt() {
		t.Errorf("reading ISR did not clear it (%#x) or the line", v)
	}
	d.write(d.avail, []byte{availNoInterrupt, 0})
	d.send(id...)
	if n := len(d.used()); n != 2 || g.b.Interrupt() {
		t.Errorf("%d used, want 2; interrupt %v although suppressed", n, g.b.Interrupt())
	}
}

// TestVirtioSharedLine has slots 1 and 5 on the same interrupt line.
func TestVirtioSharedLine(t *testing.T) {
	g := newGuest(t, testDisk, testDisk, testDisk, testDisk, testDisk)
	g.initPIC()
	first, fifth := g.probe(1), g.probe(5)
	for _, d := range []*driver{first, fifth} { // both interrupt by NEEDS_RESET
		d.negotiate(featureVersion1)
		d.setStatus(statusDriverOK)
		d.setQueue(0, 0, 0, 0)
	}
	for i, d := range []*driver{first, fifth} {
		if !g.b.Interrupt() {
			t.Fatalf("with %d of 2 devices served the line is low", i)
		}
		if v := d.load(d.isr, 1); v != isrConfig {
			t.Errorf("slot %d: ISR %#x, want the configuration bit", d.slot, v)
		}
	}
	if g.b.Interrupt() {
		t.Error("the line is high, but no device holds it")
	}
}

// TestVirtioTwoLines has slots 1 and 2 interrupt, each on its own line.
func TestVirtioTwoLines(t *testing.T) {
	g := newGuest(t, testDisk, testDisk)
	g.initPIC()
	for slot := 1; slot <= 2; slot++ {
		d := g.probe(slot)
		d.negotiate(featureVersion1)
		d.setStatus(statusDriverOK)
		d.setQueue(0, 0, 0, 0)
	}
	g.out(0xA0, 1, 0x0A) // OCW3: read IRR
	if irr := g.in(0xA0, 1); irr != 1<<2|1<<3 {
		t.Errorf("the slave's IRR is %#x, want lines 10 and 11", irr)
	}
}

// TestVirtioPCICap reaches the window through configuration space (4.1.4.9).
func TestVirtioPCICap(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1)
	g.setConfig(1, pciCommand, 2, 0)
	access := func(bar, off, n uint32) {
		g.setConfig(1, d.pciCap+pciCapBAR, 1, bar)
		g.setConfig(1, d.pciCap+pciCapOffset, 4, off)
		g.setConfig(1, d.pciCap+pciCapLength, 4, n)
	}
	access(0, 0x12, 2)
	if v := g.config(1, d.pciCap+pciCapData, 2); v != 1 {
		t.Errorf("num_queues %d, want 1", v)
	}
	access(0, 0x14, 1)
	g.setConfig(1, d.pciCap+pciCapData, 1, statusAcknowledge)
	if v := g.config(1, d.pciCap+pciCapData, 1); v != statusAcknowledge {
		t.Errorf("status %#x, want what was written", v)
	}
	for _, bad := range [][3]uint32{{1, 0x14, 1}, {0, 0x14, 0}, {0, 0x14, 3}, {0, 0x14, 8},
		{0, 0x12, 4}, {0, virtioBARSize, 1}, {0, 0xFFFF_FFFC, 4}} {
		access(bad[0], bad[1], bad[2])
		g.setConfig(1, d.pciCap+pciCapData, 4, 0x5A5A_5A5A)
		if v := g.config(1, d.pciCap+pciCapData, 4); v != 0x5A5A_5A5A {
			t.Errorf("access %v was made: data %#x", bad, v)
		}
	}
}
