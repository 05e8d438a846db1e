package devices

import (
	"encoding/binary"

	"ftvm/vmm"
)

// maxQueueSize is the largest number of descriptors of a queue.
const maxQueueSize = 256

// Sizes and flags of the split virtqueue (virtio 1.2, 2.7).
const (
	descSize     = 16 // struct virtq_desc
	availHeader  = 4  // flags and idx
	usedHeader   = 4
	usedElemSize = 8 // struct virtq_used_elem

	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
)

// virtqueue is a split virtqueue (2.7). Its rings lie in guest memory and hold whatever
// the guest likes; every look at them is checked.
type virtqueue struct {
	dev *virtioPCI

	size    uint16 // number of descriptors; a power of 2 once enabled
	enabled bool
	// Guest-physical addresses of the descriptor area, the driver area (available
	// ring) and the device area (used ring).
	desc, driver, device uint64

	availIdx uint16 // of the next chain to take
	usedIdx  uint16 // of the next chain to give back
}

// segment is a stretch of guest memory inside RAM.
type segment struct {
	addr vmm.GPA
	len  uint32
}

// chain is a buffer that the driver made available.
type chain struct {
	head     uint16
	readable []segment // by the device
	writable []segment
}

func (q *virtqueue) reset() {
	*q = virtqueue{dev: q.dev, size: maxQueueSize}
}

// valid reports whether the queue's size is allowed and its three areas lie in RAM. It is
// what enabled stands for, so that no later access to the rings can fail.
func (q *virtqueue) valid() bool {
	n := uint64(q.size)
	return n > 0 && n <= maxQueueSize && n&(n-1) == 0 &&
		q.descs() != nil && q.avail() != nil && q.used() != nil
}

// The three areas, without the event fields, which belong to a feature not offered.
func (q *virtqueue) descs() []byte {
	return q.dev.ram.View(vmm.GPA(q.desc), uint64(q.size)*descSize)
}

func (q *virtqueue) avail() []byte {
	return q.dev.ram.View(vmm.GPA(q.driver), availHeader+uint64(q.size)*2)
}

func (q *virtqueue) used() []byte {
	return q.dev.ram.View(vmm.GPA(q.device), usedHeader+uint64(q.size)*usedElemSize)
}

// next takes the next available chain into c, whose memory it reuses. It returns false if
// there is none, and after the guest broke the rules: then the device needs a reset.
func (q *virtqueue) next(c *chain) bool {
	there, valid := q.peek(0, c)
	if !valid {
		q.dev.needsReset()
	}
	if !there || !valid {
		return false
	}
	q.availIdx++
	return true
}

// peek looks at available chain number i, from 0, and changes nothing but c. It reports whether there is one, and
// whether the guest keeps to the rules.
func (q *virtqueue) peek(i uint16, c *chain) (there, valid bool) {
	if !q.enabled || !q.dev.live() {
		return false, true
	}
	avail := q.avail()
	waiting := binary.LittleEndian.Uint16(avail[2:]) - q.availIdx
	if waiting > q.size {
		return false, false
	}
	if i >= waiting {
		return false, true
	}
	c.head = binary.LittleEndian.Uint16(avail[availHeader+2*((q.availIdx+i)%q.size):])
	return true, q.walk(c)
}

// walk collects the segments of the chain that starts at c.head, and reports whether
// it is well formed (2.7.5): indices in range, no longer than the queue (so no loop),
// readable segments before writable ones, at most one indirect table and that at the
// end, everything in RAM.
func (q *virtqueue) walk(c *chain) bool {
	c.readable, c.writable = c.readable[:0], c.writable[:0]
	table, index, indirect := q.descs(), c.head, false
	for len(c.readable)+len(c.writable) < int(q.size) {
		if int(index) >= len(table)/descSize {
			return false
		}
		d := table[int(index)*descSize:][:descSize]
		addr, n := vmm.GPA(binary.LittleEndian.Uint64(d)), binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		if flags&descIndirect != 0 {
			// The table replaces the rest of the chain, and its descriptor's write flag
			// means nothing (2.7.5.3).
			table = q.dev.ram.View(addr, uint64(n))
			if indirect || flags&descNext != 0 || n%descSize != 0 || table == nil ||
				q.dev.driverFeatures&featureIndirectDesc == 0 {
				return false
			}
			index, indirect = 0, true
			continue
		}
		switch {
		case q.dev.ram.View(addr, uint64(n)) == nil:
			return false
		case flags&descWrite != 0:
			c.writable = append(c.writable, segment{addr, n})
		case len(c.writable) > 0:
			return false
		default:
			c.readable = append(c.readable, segment{addr, n})
		}
		if flags&descNext == 0 {
			return true
		}
		index = binary.LittleEndian.Uint16(d[14:])
	}
	return false
}

// push gives the chain that starts at head back to the driver, with the first n bytes of
// its writable part written, and interrupts unless the driver asked not to (2.7.8, 2.7.7).
func (q *virtqueue) push(head uint16, n uint32) {
	if !q.enabled || !q.dev.live() {
		return
	}
	ram, used := q.dev.ram, vmm.GPA(q.device)
	var elem [usedElemSize]byte
	binary.LittleEndian.PutUint32(elem[:], uint32(head))
	binary.LittleEndian.PutUint32(elem[4:], n)
	ram.Write(used+usedHeader+vmm.GPA(q.usedIdx%q.size)*usedElemSize, elem[:])
	q.usedIdx++
	ram.Write(used+2, binary.LittleEndian.AppendUint16(elem[:0], q.usedIdx))
	if flags := binary.LittleEndian.Uint16(q.avail()); flags&availNoInterrupt == 0 {
		q.dev.isr |= isrQueue
	}
}

// State visits the queue.
func (q *virtqueue) State(a *vmm.Archive) {
	a.U16("queue_size", &q.size)
	a.Bool("queue_enable", &q.enabled)
	a.U64("queue_desc", &q.desc)
	a.U64("queue_driver", &q.driver)
	a.U64("queue_device", &q.device)
	a.U16("avail_idx", &q.availIdx)
	a.U16("used_idx", &q.usedIdx)
	if a.Loading() && q.enabled && !q.valid() {
		a.Fail("an enabled queue is not valid")
		q.enabled = false
	}
}

// total is the number of bytes in segs.
func total(segs []segment) (n uint64) {
	for _, s := range segs {
		n += uint64(s.len)
	}
	return n
}

// pull reads the first len(p) bytes of segs into p and returns what follows them; ok is
// false if segs is shorter. It changes segs' elements.
func pull(ram *vmm.RAM, segs []segment, p []byte) (rest []segment, ok bool) {
	for len(p) > 0 {
		if len(segs) == 0 {
			return nil, false
		}
		s := &segs[0]
		n := copy(p, ram.View(s.addr, uint64(s.len)))
		p, s.addr, s.len = p[n:], s.addr+vmm.GPA(n), s.len-uint32(n)
		if s.len == 0 {
			segs = segs[1:]
		}
	}
	return segs, true
}

// cutLast takes the last byte off segs; ok is false if there is none. It changes segs'
// elements.
func cutLast(segs []segment) (rest []segment, last vmm.GPA, ok bool) {
	for i := len(segs) - 1; i >= 0; i-- {
		s := &segs[i]
		switch s.len {
		case 0:
			continue
		case 1:
			return segs[:i], s.addr, true
		}
		s.len--
		return segs[:i+1], s.addr + vmm.GPA(s.len), true
	}
	return nil, 0, false
}

// scatter writes p to segs behind their first skip bytes and returns how many bytes found room.
func scatter(ram *vmm.RAM, segs []segment, skip int, p []byte) (n int) {
	for _, s := range segs {
		at := min(int(s.len), skip)
		skip -= at
		k := min(int(s.len)-at, len(p)-n)
		ram.Write(s.addr+vmm.GPA(at), p[n:n+k])
		n += k
	}
	return n
}
