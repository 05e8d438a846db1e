package devices

import (
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"ftvm/vmm"
)

// Config says what a board has besides what every board has. Replicas of one machine
// have equal ones.
type Config struct {
	Disks []Disk // numbered from 0, as in vmm.Output.Device
	NICs  []NIC  // likewise
}

// Disk is one virtio-blk device.
type Disk struct {
	SizeBytes uint64 // a multiple of vmm.SectorSize, and not 0
	ReadOnly  bool   // the guest's writes fail
	Serial    string // at most 20 bytes; what the guest sees as the disk's ID
	Shared    bool   // all hosts reach it; vmm.Output.Shared of its requests
}

// NIC is one virtio-net device.
type NIC struct {
	MAC [6]byte // what the guest sees as its address: a unicast one, and no other NIC's
}

// MaxDevices is how many disks and NICs together a board can have.
const MaxDevices = maxPCIDevices - 1 // one slot is the entropy source's

// Validate returns what is wrong with c, or nil.
func (c Config) Validate() error {
	if len(c.Disks)+len(c.NICs) > MaxDevices {
		return fmt.Errorf("devices: %d disks and %d network interfaces; a machine has at most %d of both together",
			len(c.Disks), len(c.NICs), MaxDevices)
	}
	for i, d := range c.Disks {
		if d.SizeBytes == 0 || d.SizeBytes%vmm.SectorSize != 0 {
			return fmt.Errorf("devices: disk %d: size %d is not a positive multiple of %d bytes", i, d.SizeBytes, vmm.SectorSize)
		}
		if len(d.Serial) > blkIDSize {
			return fmt.Errorf("devices: disk %d: serial %q is longer than %d bytes", i, d.Serial, blkIDSize)
		}
	}
	for i, n := range c.NICs {
		if n.MAC[0]&1 != 0 || n.MAC == [6]byte{} {
			return fmt.Errorf("devices: network interface %d: % x is not the address of one station", i, n.MAC)
		}
		if slices.Contains(c.NICs[:i], n) {
			return fmt.Errorf("devices: network interface %d: another one has the address % x as well", i, n.MAC)
		}
	}
	return nil
}

// Board implements vmm.Platform: it joins the device models, gives every access to the one
// it is meant for, and brings their outputs into one order.
type Board struct {
	pic     *pic
	pit     *pit
	rtc     *rtc
	uart    *uart
	i8042   *i8042
	exit    *exitPorts
	acpi    *acpi
	entropy entropyPool
	pci     *pciBus
	disks   []*virtioBlk
	nics    []*virtioNet
	rng     *virtioRNG
	ports   []portRange

	outputs []vmm.Output // not yet collected
	frames  uint64       // that were sent so far
	// sent is a checksum of all outputs so far, in order. With it in the state, replicas
	// that agree on a digest agree on what they sent, and not only on how much.
	sent uint64
}

var _ vmm.Platform = (*Board)(nil)

// portUART is the first of COM1's eight ports.
const portUART = 0x3F8

// Interrupt lines of the devices that are not on PCI.
const (
	irqTimer  = 0
	irqSerial = 4
)

// portRange is a row of the port map. Its devices are 8 bits wide.
type portRange struct {
	first, last uint16
	in          func(port uint16) uint8
	out         func(port uint16, v uint8)
}

// New makes a board as firmware would leave it. c must be valid; ram is where the
// virtio devices find their queues.
func New(c Config, ram *vmm.RAM) *Board {
	if err := c.Validate(); err != nil {
		panic(err)
	}
	b := &Board{pic: newPIC(), rtc: newRTC(), i8042: newI8042(), exit: newExitPorts(), pci: newPCIBus()}
	b.pit = newPIT(b.tick)
	b.acpi = &acpi{off: b.exit.powerOff}
	b.uart = newUART(func(level bool) { b.pic.setIRQ(irqSerial, level) })
	for i, disk := range c.Disks {
		d := newVirtioBlk(ram, len(b.pci.devices)+1, uint32(i), disk, b.emit)
		b.disks = append(b.disks, d)
		b.pci.devices = append(b.pci.devices, d.virtioPCI)
	}
	for i, nic := range c.NICs {
		d := newVirtioNet(ram, len(b.pci.devices)+1, i, nic, func(frame []byte) { b.emitFrame(uint32(i), frame) })
		b.nics = append(b.nics, d)
		b.pci.devices = append(b.pci.devices, d.virtioPCI)
	}
	b.rng = newVirtioRNG(ram, len(b.pci.devices)+1, &b.entropy)
	b.pci.devices = append(b.pci.devices, b.rng.virtioPCI)
	b.setTriggers()
	b.ports = []portRange{
		{portUART, portUART + 7, b.uartIn, b.uartOut},
		{portPICMaster, portPICMaster + 1, b.pic.in, b.pic.out},
		{portPICSlave, portPICSlave + 1, b.pic.in, b.pic.out},
		{portPITCounter0, portPITControl, b.pit.in, b.pit.out},
		{portB, portB, b.pit.in, b.pit.out},
		{portRTCIndex, portRTCData, b.rtc.in, b.rtc.out},
		{portI8042Data, portI8042Data, b.i8042.in, b.i8042.out},
		{portI8042Command, portI8042Command, b.i8042.in, b.i8042.out},
		{portControlA, portControlA, b.exit.in, b.exit.out},
		{portDebugExit, portDebugExitLast, b.exit.in, b.exit.out},
		{portPICELCRMaster, portPICELCRSlave, b.pic.in, b.pic.out},
		{portPM1Status, portPM1Control + 1, b.acpi.in, b.acpi.out},
		{portPMTimer, portPMTimer + 3, b.acpi.in, b.acpi.out},
		{portResetControl, portResetControl, b.exit.in, b.exit.out},
		{portPM1aBochs, portPM1aBochs + 1, b.exit.in, b.exit.out},
	}
	return b
}

// setTriggers makes the lines that PCI devices share level-triggered, and the SCI's (ACPI 6.5, 5.2.9, SCI_INT).
func (b *Board) setTriggers() {
	levels := uint16(1) << irqSCI
	for i := range b.pci.devices {
		levels |= 1 << pciIRQ(i+1)
	}
	b.pic.out(portPICELCRMaster, uint8(levels))
	b.pic.out(portPICELCRSlave, uint8(levels>>8))
}

func (b *Board) uartIn(port uint16) uint8 { return b.uart.in(uint8(port & 7)) }

// uartOut makes an output of what was transmitted at once, so that it keeps its place among
// the other outputs. Bytes in a row are one output.
func (b *Board) uartOut(port uint16, v uint8) {
	before := b.uart.sent()
	b.uart.out(uint8(port&7), v)
	if b.uart.sent() == before {
		return
	}
	n := len(b.outputs)
	if n == 0 || b.outputs[n-1].Kind != vmm.OutputConsole {
		b.outputs = append(b.outputs, vmm.Output{Kind: vmm.OutputConsole, Seq: before})
		n++
	}
	o := &b.outputs[n-1]
	o.Data = b.uart.take(o.Data)
	b.checksum(uint64(v))
}

// device finds the row of the port map for port, or nil.
func (b *Board) device(port uint16) *portRange {
	for i := range b.ports {
		if r := &b.ports[i]; port >= r.first && port <= r.last {
			return r
		}
	}
	return nil
}

// PortIn serves a read of len(p) ports from port on. Ports that nobody has read as all
// ones, like an undriven bus.
func (b *Board) PortIn(port uint16, p []byte) {
	if b.pci.portIn(port, p) {
		b.setLines() // pci_cfg_data may have read an ISR
		return
	}
	if len(p) > 1 {
		for i := range p {
			b.PortIn(port+uint16(i), p[i:i+1])
		}
		return
	}
	p[0] = 0xFF
	if r := b.device(port); r != nil {
		p[0] = r.in(port)
	}
}

// PortOut serves a write. Port 0x80, to which guests write in order to wait, is one of those
// that nobody has.
func (b *Board) PortOut(port uint16, p []byte) {
	if b.pci.portOut(port, p) {
		b.setLines()
		return
	}
	if len(p) > 1 {
		for i := range p {
			b.PortOut(port+uint16(i), p[i:i+1])
		}
		return
	}
	if r := b.device(port); r != nil {
		r.out(port, p[0])
	}
}

// MemIn serves a read of memory outside RAM: all ones where no device is.
func (b *Board) MemIn(addr vmm.GPA, p []byte) {
	d, off := b.pci.at(addr, len(p))
	if d == nil {
		fill(p, 0xFF)
		return
	}
	d.memIn(off, p)
	b.setLines()
}

// MemOut serves a write to memory outside RAM.
func (b *Board) MemOut(addr vmm.GPA, p []byte) {
	if d, off := b.pci.at(addr, len(p)); d != nil {
		d.memOut(off, p)
		b.setLines()
	}
}

// setLines carries the PCI devices' interrupt pins to the interrupt controller.
func (b *Board) setLines() {
	lines := b.pci.lines()
	for _, irq := range pciIRQs {
		b.pic.setIRQ(int(irq), lines>>irq&1 != 0)
	}
}

// SetTime tells the clocks that guest time is t.
func (b *Board) SetTime(t vmm.Time) {
	b.pit.setTime(t)
	b.rtc.setTime(t)
	b.acpi.setTime(t)
}

// Deadline is when the timer next raises its line. While IRQ 0 is masked that is no
// interrupt that the guest can take. A timer interrupt that is still in service needs no
// such care: its EOI is an access, after which the machine asks again.
func (b *Board) Deadline() (vmm.Time, bool) {
	if b.pic.master.imr&(1<<irqTimer) != 0 {
		return 0, false
	}
	return b.pit.deadline()
}

// Interrupt and Acknowledge are the INTR and INTA lines.
func (b *Board) Interrupt() bool { return b.pic.interrupt() }

// Acknowledge returns the vector of the interrupt that the CPU takes.
func (b *Board) Acknowledge() vmm.Vector {
	v := b.pic.acknowledge()
	b.pit.taken()
	return v
}

// tick reports n edges of the timer's output, and returns how many are owed as the guest has yet to take the first.
func (b *Board) tick(n uint64) (owed uint64) {
	if b.pic.master.edges&(1<<irqTimer) != 0 {
		return n
	}
	b.pic.setIRQ(irqTimer, false)
	b.pic.setIRQ(irqTimer, true)
	return n - 1
}

// Deliver takes an input, or returns why it cannot and changes nothing.
func (b *Board) Deliver(in vmm.Input) error {
	switch in.Kind {
	case vmm.InputConsole:
		return b.uart.receive(in.Data)
	case vmm.InputDisk:
		if uint64(in.Device) >= uint64(len(b.disks)) {
			return fmt.Errorf("devices: completion for disk %d; the machine has %d disks", in.Device, len(b.disks))
		}
		if err := b.disks[in.Device].complete(in); err != nil {
			return err
		}
	case vmm.InputFrame:
		if uint64(in.Device) >= uint64(len(b.nics)) {
			return fmt.Errorf("devices: frame for network interface %d; the machine has %d", in.Device, len(b.nics))
		}
		b.nics[in.Device].receive(in.Data)
	case vmm.InputEntropy:
		if err := b.entropy.refill(in.Data); err != nil {
			return err
		}
		b.rng.refilled()
	default:
		return fmt.Errorf("devices: input of unknown kind %d", in.Kind)
	}
	b.setLines()
	return nil
}

// emitFrame makes an output of a frame that NIC number device sends.
func (b *Board) emitFrame(device uint32, frame []byte) {
	b.emit(vmm.Output{Kind: vmm.OutputFrame, Device: device, Seq: b.frames, Data: frame})
	b.frames++
}

// emit puts a disk request or a frame in its place among the outputs.
func (b *Board) emit(o vmm.Output) {
	b.outputs = append(b.outputs, o)
	if o.Op == vmm.DiskRead {
		o.Data = nil // what a lent buffer held before
	}
	for _, v := range [...]uint64{uint64(o.Device), uint64(o.Op), o.Offset, o.Length, xxhash.Sum64(o.Data)} {
		b.checksum(v)
	}
}

// checksum makes v part of b.sent (the step of FNV-1a, on words).
func (b *Board) checksum(v uint64) { b.sent = (b.sent ^ v) * 0x100000001B3 }

// Outputs appends to dst what was produced since the last call. Their data is the caller's
// from then on.
func (b *Board) Outputs(dst []vmm.Output) []vmm.Output {
	dst = append(dst, b.outputs...)
	clear(b.outputs)
	b.outputs = b.outputs[:0]
	return dst
}

// RequestsWait reports whether a disk request or a frame is among what Outputs would return.
func (b *Board) RequestsWait() bool {
	return slices.ContainsFunc(b.outputs, func(o vmm.Output) bool { return o.Kind != vmm.OutputConsole })
}

// EntropyWanted is how many bytes the next record should bring.
func (b *Board) EntropyWanted() int { return b.entropy.wanted() }

// ConsoleRoom is how many bytes the UART takes before it has a FIFO full of them.
func (b *Board) ConsoleRoom() int { return b.uart.room() }

// FrameRoom is how many of frames find buffers in the receive queue of NIC number device.
func (b *Board) FrameRoom(device uint32, frames [][]byte) int {
	if uint64(device) >= uint64(len(b.nics)) {
		return 0
	}
	return b.nics[device].room(frames)
}

// Ended reports how the guest switched itself off, if it did.
func (b *Board) Ended() (vmm.End, bool) {
	if b.i8042.resetWanted() {
		return vmm.End{Kind: vmm.EndReset}, true
	}
	return b.exit.ended()
}

// State visits all devices. What was not collected by Outputs is not part of it, and
// restoring drops it.
func (b *Board) State(a *vmm.Archive) {
	for _, s := range [...]vmm.Stateful{b.pic, b.pit, b.rtc, b.uart, b.i8042, b.exit, b.acpi, &b.entropy, b.pci} {
		s.State(a)
	}
	a.Section("board")
	a.U64("frames", &b.frames)
	a.U64("sent", &b.sent)
	if a.Loading() {
		b.outputs = nil
	}
}
