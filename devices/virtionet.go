package devices

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"ftvm/vmm"
)

// Feature bits of the network device (virtio 1.2, 5.1.3). Checksums and cutting into segments are left to the outside
// world where it has hardware for them: the guest's CPU may be software.
const (
	netCsum      = 1 << 0
	netGuestCsum = 1 << 1
	netMAC       = 1 << 5
	netGuestTSO4 = 1 << 7
	netGuestTSO6 = 1 << 8
	netHostTSO4  = 1 << 11
	netHostTSO6  = 1 << 12
	netMrgRxbuf  = 1 << 15

	netFeatures = netCsum | netGuestCsum | netMAC | netGuestTSO4 | netGuestTSO6 | netHostTSO4 | netHostTSO6 | netMrgRxbuf
)

// Offsets in struct virtio_net_hdr, and values there (5.1.6).
const (
	netHdrFlags      = 0
	netHdrGSO        = 1
	netHdrCsumStart  = 6
	netHdrCsumOffset = 8
	netHdrNumBuffers = 10

	netNeedsCsum = 1
	netGSONone   = 0
	netGSOTCPv4  = 1
	netGSOTCPv6  = 4
)

// The device's queues (5.1.2), in the order of their numbers.
const (
	netReceive = iota
	netTransmit
	netQueues
)

// netMinFrame is a header and what comes before the payload of an Ethernet frame.
const netMinFrame = vmm.FrameHeader + 14

// virtioNet is a network interface (5.1). It keeps no frame: what the guest sends leaves the machine as an output at
// once, and what comes in is put into the guest's buffers or is lost.
type virtioNet struct {
	*virtioPCI
	send  func(frame []byte)
	chain chain // scratch

	// How many frames were lost because the guest had no buffer that could take them, and how many of the guest's
	// were none. Nothing follows from them; they are state so that a divergence shows where it began.
	lost, refused uint64
}

// newVirtioNet makes network interface number index, in the given slot. Its frames go to send, which keeps them.
func newVirtioNet(ram *vmm.RAM, slot, index int, nic NIC, send func(frame []byte)) *virtioNet {
	d := &virtioNet{send: send}
	d.virtioPCI = newVirtioPCI(ram, slot, virtioType{
		name: fmt.Sprintf("nic%d", index), id: 1, class: 0x02_00_00, // network, Ethernet
		queues: netQueues, features: netFeatures, config: bytes.Clone(nic.MAC[:]),
	}, d)
	return d
}

// serve sends what the driver made available. A notification of new receive buffers is for the next frame.
func (d *virtioNet) serve(q *virtqueue) {
	if q != &d.queues[netTransmit] {
		return
	}
	// The guest stands still meanwhile, so there are at most as many chains as the queue holds: 16 MiB of frames. Only
	// where the rings lie in each other's way can giving back one chain make another available.
	for range q.size {
		if !q.next(&d.chain) {
			return
		}
		if n := total(d.chain.readable); n < netMinFrame || n > vmm.MaxFrame {
			d.refused++
		} else {
			frame := make([]byte, n)
			pull(d.ram, d.chain.readable, frame)
			d.send(frame)
		}
		q.push(d.chain.head, 0)
	}
}

// room is how many of frames have their place in the receive queue.
func (d *virtioNet) room(frames [][]byte) int {
	var taken uint16
	for i, f := range frames {
		chains, waits := d.place(taken, f)
		if waits {
			return i
		}
		taken += chains
	}
	return len(frames)
}

// place finds out how many chains frame takes, from available chain number first on: as many as it needs if the
// driver lets buffers be merged, else one (5.1.6.3). It is 0 if the frame cannot be received; waits says that it
// could be, with more buffers than there are now, but no more than the queue holds. A chain that breaks the rules
// takes everything.
func (d *virtioNet) place(first uint16, frame []byte) (chains uint16, waits bool) {
	if !d.receivable(frame) {
		return 0, false
	}
	q := &d.queues[netReceive]
	for room := uint64(0); room < uint64(len(frame)); chains++ {
		there, valid := q.peek(first+chains, &d.chain)
		if !valid {
			return chains + 1, false
		}
		if !there {
			return 0, chains < q.size
		}
		room += total(d.chain.writable)
		if room < uint64(len(frame)) && d.driverFeatures&netMrgRxbuf == 0 {
			return 0, false
		}
	}
	return chains, false
}

// receivable reports whether frame is one, and the driver can do with its kind.
func (d *virtioNet) receivable(frame []byte) bool {
	if len(frame) < netMinFrame || len(frame) > vmm.MaxFrame {
		return false
	}
	switch frame[netHdrGSO] {
	case netGSONone:
		return true
	case netGSOTCPv4:
		return d.driverFeatures&netGuestTSO4 != 0
	case netGSOTCPv6:
		return d.driverFeatures&netGuestTSO6 != 0
	}
	return false
}

// receive puts a frame into the guest's buffers, or counts it as lost.
func (d *virtioNet) receive(frame []byte) {
	chains, _ := d.place(0, frame)
	if chains == 0 {
		d.lost++
		return
	}
	if d.driverFeatures&netGuestCsum == 0 {
		frame = checksummed(frame)
	}
	header, body := [vmm.FrameHeader]byte(frame), frame[vmm.FrameHeader:]
	binary.LittleEndian.PutUint16(header[netHdrNumBuffers:], chains)
	rest := header[:]
	q := &d.queues[netReceive]
	for range chains {
		if !q.next(&d.chain) {
			return
		}
		n := scatter(d.ram, d.chain.writable, 0, rest)
		m := scatter(d.ram, d.chain.writable, n, body)
		rest, body = rest[n:], body[m:]
		q.push(d.chain.head, uint32(n+m))
	}
}

// checksummed is frame for a driver that wants checksums to be there (5.1.6.4.1): if its sender left the sum to the
// hardware, a copy with the sum.
func checksummed(frame []byte) []byte {
	needed := frame[netHdrFlags]&netNeedsCsum != 0
	frame = bytes.Clone(frame)
	header, body := frame[:vmm.FrameHeader], frame[vmm.FrameHeader:]
	header[netHdrFlags] = 0
	start := int(binary.LittleEndian.Uint16(header[netHdrCsumStart:]))
	at := start + int(binary.LittleEndian.Uint16(header[netHdrCsumOffset:]))
	if !needed || at+2 > len(body) {
		return frame
	}
	// The sum of the pseudo-header is in its place already.
	var sum uint64
	for i, v := range body[start:] {
		sum += uint64(v) << (8 * (^i & 1))
	}
	for sum>>16 != 0 {
		sum = sum&0xFFFF + sum>>16
	}
	v := ^uint16(sum)
	if v == 0 {
		v = 0xFFFF // for UDP 0 means that there is no checksum (RFC 768), and it is the same number
	}
	binary.BigEndian.PutUint16(body[at:], v)
	return frame
}

func (d *virtioNet) reset() {}

// modelState visits what is not the transport's.
func (d *virtioNet) modelState(a *vmm.Archive) {
	a.U64("lost", &d.lost)
	a.U64("refused", &d.refused)
}
