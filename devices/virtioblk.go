package devices

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"ftvm/vmm"
)

// Feature bits of the block device (virtio 1.2, 5.2.3).
const (
	blkSizeMax     = 1 << 1
	blkSegMax      = 1 << 2
	blkRO          = 1 << 5
	blkBlkSize     = 1 << 6
	blkFlush       = 1 << 9
	blkDiscard     = 1 << 13
	blkWriteZeroes = 1 << 14
)

// Request types and, where vmm.DiskStatus has none, status (5.2.6).
const (
	blkTypeIn          = 0
	blkTypeOut         = 1
	blkTypeFlush       = 4
	blkTypeGetID       = 8
	blkTypeDiscard     = 11
	blkTypeWriteZeroes = 13

	blkUnsupported = vmm.DiskStatus(2)
)

const (
	blkHeaderSize = 16 // type, reserved, sector
	blkIDSize     = 20
	blkRangeSize  = 16 // struct virtio_blk_discard_write_zeroes: sector, num_sectors, flags
	blkUnmap      = 1  // its flag

	// A request moves at most blkMaxSegments stretches of blkMaxSegment bytes. The driver
	// is told by SIZE_MAX and SEG_MAX; a larger request fails. With header and status that many stretches fill a
	// queue; single pages, as a guest's file cache has them, make requests of 1 MiB.
	blkMaxSegment  = 16 << 10
	blkMaxSegments = maxQueueSize - 2
	blkMaxData     = blkMaxSegment * blkMaxSegments

	// A request to discard or to write zeroes is about one stretch of at most blkMaxZeroed bytes: what a host that
	// cannot punch holes can write while others wait. blkDiscardUnit is what holes are made of on most hosts.
	blkMaxZeroed   = 64 << 20
	blkDiscardUnit = 4096

	// blkMaxRequests limits the requests of which no completion came yet. It is more than
	// a queue holds, because a reset empties the queue and not the host's hands.
	blkMaxRequests = 2 * maxQueueSize

	// blkMaxInFlight is how many bytes of such requests there are before no more are
	// started. It limits what a guest can make a host hold, and how long one notification,
	// which copies the data of writes, can keep the CPU from going on.
	blkMaxInFlight = 16 << 20
)

// virtioBlk is a disk (5.2). It has no data: a request leaves the machine as an
// output and is done when its completion comes in.
type virtioBlk struct {
	*virtioPCI
	index    uint32 // among the machine's disks
	sectors  uint64
	readOnly bool
	shared   bool
	serial   [blkIDSize]byte
	emit     func(vmm.Output)

	seq      uint64             // requests that left so far
	requests []blkRequest       // in flight, by rising id
	inFlight uint64             // bytes that they move; follows from them
	chain    chain              // scratch
	spare    [blkSizes][][]byte // buffers to lend, by size; not state
}

// blkRequest is a request that left the machine.
type blkRequest struct {
	id uint64 // Output.Seq
	// orphan is set when the device was reset since: no driver waits any more, but the
	// completion will still come.
	orphan bool
	op     vmm.DiskOp
	length uint64    // Output.Length
	head   uint16    // of the chain
	data   []segment // writable, before the status byte
	status vmm.GPA   // of the status byte
	lent   []byte    // Output.Data; not state
}

// newVirtioBlk makes disk number index, in the given slot. Its outputs go to emit.
func newVirtioBlk(ram *vmm.RAM, slot int, index uint32, disk Disk, emit func(vmm.Output)) *virtioBlk {
	d := &virtioBlk{index: index, sectors: disk.SizeBytes / vmm.SectorSize, readOnly: disk.ReadOnly, shared: disk.Shared, emit: emit}
	copy(d.serial[:], disk.Serial)
	features := uint64(blkSizeMax | blkSegMax | blkBlkSize | blkFlush)
	config := make([]byte, 60) // struct virtio_blk_config up to write_zeroes_may_unmap (5.2.4)
	binary.LittleEndian.PutUint64(config[0:], d.sectors)
	binary.LittleEndian.PutUint32(config[8:], blkMaxSegment)
	binary.LittleEndian.PutUint32(config[12:], blkMaxSegments)
	binary.LittleEndian.PutUint32(config[20:], vmm.SectorSize)
	if d.readOnly {
		features |= blkRO
	} else {
		features |= blkDiscard | blkWriteZeroes
		binary.LittleEndian.PutUint32(config[36:], blkMaxZeroed/vmm.SectorSize)
		binary.LittleEndian.PutUint32(config[40:], 1) // max_discard_seg
		binary.LittleEndian.PutUint32(config[44:], blkDiscardUnit/vmm.SectorSize)
		binary.LittleEndian.PutUint32(config[48:], blkMaxZeroed/vmm.SectorSize)
		binary.LittleEndian.PutUint32(config[52:], 1) // max_write_zeroes_seg
		config[56] = 1                                // write_zeroes_may_unmap
	}
	d.virtioPCI = newVirtioPCI(ram, slot, virtioType{
		name: fmt.Sprintf("disk%d", index), id: 2, class: 0x01_80_00, // mass storage, other
		queues: 1, features: features, config: config,
	}, d)
	return d
}

// serve starts what the driver made available. When too much is in flight the rest waits
// in the ring for a completion.
func (d *virtioBlk) serve(q *virtqueue) {
	// Answering a request at once can make another available, if the rings lie in each other's way.
	for range q.size {
		if len(d.requests) >= blkMaxRequests || d.inFlight >= blkMaxInFlight || !q.next(&d.chain) {
			return
		}
		d.start(&d.chain)
	}
}

// start makes an output of a request, or answers it at once if no host needs to see it.
// The driver may frame it as it likes (2.7.4): the header is the first bytes of the
// readable part, the status the last byte of the writable one.
func (d *virtioBlk) start(c *chain) {
	r := blkRequest{head: c.head}
	var ok bool
	if r.data, r.status, ok = cutLast(c.writable); !ok {
		d.needsReset() // there is no place to say what is wrong with the request
		return
	}
	var header [blkHeaderSize]byte
	payload, ok := pull(d.ram, c.readable, header[:])
	if !ok {
		d.finish(&r, vmm.DiskError, 0)
		return
	}
	kind, sector := binary.LittleEndian.Uint32(header[:]), binary.LittleEndian.Uint64(header[8:])
	switch kind {
	case blkTypeIn:
		r.op, r.length = vmm.DiskRead, total(r.data)
	case blkTypeOut:
		r.op, r.length = vmm.DiskWrite, total(payload)
	case blkTypeFlush:
		r.op, sector = vmm.DiskFlush, 0
	case blkTypeDiscard, blkTypeWriteZeroes:
		var status vmm.DiskStatus
		if r.op, sector, r.length, status = d.zeroed(kind, payload); status != vmm.DiskOK {
			d.finish(&r, status, 0)
			return
		}
	case blkTypeGetID:
		d.finish(&r, vmm.DiskOK, scatter(d.ram, r.data, 0, d.serial[:]))
		return
	default:
		d.finish(&r, blkUnsupported, 0)
		return
	}
	if r.op != vmm.DiskFlush && !d.holds(sector, r.length) || r.moves() > blkMaxData || r.changes() && d.readOnly {
		d.finish(&r, vmm.DiskError, 0)
		return
	}
	r.lent = d.lend(&r)
	if r.op == vmm.DiskWrite {
		pull(d.ram, payload, r.lent)
	}
	r.data = slices.Clone(r.data)
	d.issue(r, sector*vmm.SectorSize)
}

const (
	blkBuffer = 4 << 10 // the smallest buffer that is kept
	blkSizes  = 9       // each size is twice the one before
	blkSpare  = 1 << 20 // bytes of a size that are kept
)

// lend takes a buffer for what the request moves. New ones, thousands in a second, would keep the collector of garbage busy. What a
// read of a shared disk returns is not lent: it stays in a record.
func (d *virtioBlk) lend(r *blkRequest) []byte {
	n := r.moves()
	if n == 0 || d.shared && r.op == vmm.DiskRead {
		return nil
	}
	size := blkSize(n)
	if size >= blkSizes {
		return make([]byte, n)
	}
	spare := &d.spare[size]
	i := len(*spare) - 1
	if i < 0 {
		return make([]byte, n, blkBuffer<<size)
	}
	buffer := (*spare)[i]
	*spare = (*spare)[:i]
	return buffer[:n]
}

// takeBack takes what was lent to a request that is done.
func (d *virtioBlk) takeBack(r *blkRequest) {
	if size := blkSize(uint64(cap(r.lent))); size < blkSizes && len(d.spare[size]) < blkSpare/cap(r.lent) {
		d.spare[size] = append(d.spare[size], r.lent)
	}
	r.lent = nil
}

// blkSize is the number of the buffer size that has n bytes; there is none for no bytes.
func blkSize(n uint64) int { return bits.Len64((n - 1) / blkBuffer) }

// zeroed reads the one stretch that a request to discard or to write zeroes is about (5.2.6.1, 5.2.6.2). It changes
// payload's elements.
func (d *virtioBlk) zeroed(kind uint32, payload []segment) (op vmm.DiskOp, sector, length uint64, status vmm.DiskStatus) {
	var p [blkRangeSize]byte
	if rest, ok := pull(d.ram, payload, p[:]); !ok || total(rest) != 0 {
		return 0, 0, 0, vmm.DiskError
	}
	flags := binary.LittleEndian.Uint32(p[12:])
	switch {
	case kind == blkTypeDiscard && flags == 0, kind == blkTypeWriteZeroes && flags == blkUnmap:
		op = vmm.DiskDiscard // what was discarded reads as zeros here
	case kind == blkTypeWriteZeroes && flags == 0:
		op = vmm.DiskWriteZeroes
	default:
		return 0, 0, 0, blkUnsupported
	}
	length = uint64(binary.LittleEndian.Uint32(p[8:])) * vmm.SectorSize
	if length > blkMaxZeroed {
		return 0, 0, 0, vmm.DiskError
	}
	return op, binary.LittleEndian.Uint64(p[:]), length, vmm.DiskOK
}

// holds reports whether the disk has length bytes, which are whole sectors and not none, at sector.
func (d *virtioBlk) holds(sector, length uint64) bool {
	return length > 0 && length%vmm.SectorSize == 0 &&
		sector <= d.sectors && length/vmm.SectorSize <= d.sectors-sector
}

// issue sends r out of the machine: offset in bytes.
func (d *virtioBlk) issue(r blkRequest, offset uint64) {
	r.id = d.seq
	d.seq++
	d.requests = append(d.requests, r)
	d.inFlight += r.moves()
	d.emit(vmm.Output{Kind: vmm.OutputDisk, Device: d.index, Seq: r.id, Op: r.op,
		Offset: offset, Length: r.length, Data: r.lent, Shared: d.shared})
}

// complete takes the completion of a request in flight. An error says why it cannot
// be one, and nothing is changed then.
func (d *virtioBlk) complete(in vmm.Input) error {
	i := slices.IndexFunc(d.requests, func(r blkRequest) bool { return r.id == in.ID })
	switch {
	case i < 0 && in.ID < d.seq:
		return fmt.Errorf("devices: disk %d: request %d is complete already", d.index, in.ID)
	case i < 0:
		return fmt.Errorf("devices: disk %d: request %d was never made; the next is %d", d.index, in.ID, d.seq)
	case in.Status != vmm.DiskOK && in.Status != vmm.DiskError:
		return fmt.Errorf("devices: disk %d: request %d: status %d is unknown", d.index, in.ID, in.Status)
	}
	r := d.requests[i]
	var want uint64
	if r.op == vmm.DiskRead && in.Status == vmm.DiskOK {
		want = r.length
	}
	if uint64(len(in.Data)) != want {
		return fmt.Errorf("devices: disk %d: request %d: completion has %d bytes of data, not %d",
			d.index, in.ID, len(in.Data), want)
	}
	d.requests = slices.Delete(d.requests, i, i+1)
	d.inFlight -= r.moves()
	if d.live() && !r.orphan {
		scatter(d.ram, r.data, 0, in.Data)
	}
	d.takeBack(&r)
	switch {
	case r.orphan:
	case r.changes() && in.Status == vmm.DiskOK && d.driverFeatures&blkFlush == 0:
		// For a driver that cannot flush, a write that is complete is stable (5.2.6.2).
		r.op, r.length = vmm.DiskFlush, 0
		d.issue(r, 0)
	case d.live():
		d.finish(&r, in.Status, len(in.Data))
	}
	d.serve(&d.queues[0])
	return nil
}

// finish gives a request back to the driver; n bytes of its data were written.
func (d *virtioBlk) finish(r *blkRequest, status vmm.DiskStatus, n int) {
	d.ram.Write(r.status, []byte{uint8(status)})
	if uint64(n) == total(r.data) {
		n++ // what was written reaches up to the status byte
	}
	d.queues[0].push(r.head, uint32(n))
}

// moves is how many bytes of data go with the request, or come back.
func (r *blkRequest) moves() uint64 {
	if r.op == vmm.DiskRead || r.op == vmm.DiskWrite {
		return r.length
	}
	return 0
}

// changes reports whether the request changes what is on the disk.
func (r *blkRequest) changes() bool {
	return r.op == vmm.DiskWrite || r.op == vmm.DiskDiscard || r.op == vmm.DiskWriteZeroes
}

func (d *virtioBlk) reset() {
	for i := range d.requests {
		d.requests[i].orphan = true
	}
}

// modelState visits the requests in flight.
func (d *virtioBlk) modelState(a *vmm.Archive) {
	a.U64("requests_made", &d.seq)
	n := a.Len("requests", len(d.requests), blkMaxRequests)
	if a.Loading() {
		d.requests, d.inFlight = make([]blkRequest, n), 0
	}
	for i := range d.requests {
		d.requests[i].State(a, d.ram)
		if a.Loading() && (d.requests[i].id >= d.seq || i > 0 && d.requests[i].id <= d.requests[i-1].id) {
			a.Fail("request %d is out of order", d.requests[i].id)
		}
		if a.Loading() {
			d.inFlight += d.requests[i].moves()
		}
	}
}

// State visits a request in flight, whose buffers are in ram.
func (r *blkRequest) State(a *vmm.Archive, ram *vmm.RAM) {
	a.U64("request.id", &r.id)
	a.Bool("request.orphan", &r.orphan)
	a.U8("request.op", (*uint8)(&r.op))
	a.U64("request.bytes", &r.length)
	a.U16("request.head", &r.head)
	a.U64("request.status", (*uint64)(&r.status))
	n := a.Len("request.segments", len(r.data), maxQueueSize)
	if a.Loading() {
		r.data = make([]segment, n)
		if r.op < vmm.DiskRead || r.op > vmm.DiskWriteZeroes || ram.View(r.status, 1) == nil {
			a.Fail("request %d: operation %d or status address %#x is not valid", r.id, r.op, r.status)
		}
	}
	for i := range r.data {
		s := &r.data[i]
		a.U64("request.address", (*uint64)(&s.addr))
		a.U32("request.length", &s.len)
		if a.Loading() && ram.View(s.addr, uint64(s.len)) == nil {
			a.Fail("request %d: %d bytes at %#x are not RAM", r.id, s.len, s.addr)
		}
	}
	if a.Loading() && (r.moves() > blkMaxData || r.op == vmm.DiskRead && r.length != total(r.data)) {
		a.Fail("request %d: %d bytes do not fit its buffers", r.id, r.length)
		r.length = 0
	}
}
