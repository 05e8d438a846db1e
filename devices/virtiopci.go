package devices

import (
	"encoding/binary"

	"ftvm/vmm"
)

// Device status bits (virtio 1.2, 2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128

	statusByDriver = statusAcknowledge | statusDriver | statusDriverOK | statusFeaturesOK | statusFailed
)

// Feature bits that belong to no device type (6).
const (
	featureIndirectDesc = 1 << 28
	featureVersion1     = 1 << 32
)

// ISR status bits (4.1.4.5).
const (
	isrQueue  = 1
	isrConfig = 2
)

// Each device has one memory window, and in it structSpan bytes for each structure (4.1.4).
const (
	virtioBARBase = 0xE000_0000 // of slot 1's window; the next slots' follow
	virtioBARSize = 4 * structSpan
	structSpan    = 0x1000

	commonBase = 0 * structSpan
	commonSize = 0x38 // without the fields of features that are not offered
	isrBase    = 1 * structSpan
	deviceBase = 2 * structSpan
	notifyBase = 3 * structSpan

	// notifyMultiplier sets the queues' notification addresses apart.
	notifyMultiplier = 4
)

// Types of virtio capabilities (4.1.4), and the size of their common part.
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capPCI    = 5

	capSize   = 16
	capVendor = 0x09 // PCI capability ID: vendor-specific
)

// Offsets in the VIRTIO_PCI_CAP_PCI_CFG capability (4.1.4.9).
const (
	pciCapBAR    = 4
	pciCapOffset = 8
	pciCapLength = 12
	pciCapData   = 16
)

// noVector is VIRTIO_MSI_NO_VECTOR: there is no MSI-X.
const noVector = 0xFFFF

// virtioType is what a kind of virtio device is made of (5).
type virtioType struct {
	name     string
	id       uint16 // virtio device ID
	class    uint32 // PCI class code
	queues   int
	features uint64 // of the type, besides those of every device
	config   []byte // device-specific configuration; the driver cannot write it
}

// virtioModel is the part of a device behind the transport.
type virtioModel interface {
	// serve looks for chains that the driver made available in q.
	serve(q *virtqueue)
	// reset forgets everything that belongs to the driver.
	reset()
	// modelState visits what State of the transport does not.
	modelState(a *vmm.Archive)
}

// virtioPCI is a virtio device on PCI without legacy interface, with INTx as its only
// interrupt (virtio 1.2, 4.1).
type virtioPCI struct {
	*pciFunction
	section      string // of the archive
	ram          *vmm.RAM
	model        virtioModel
	offered      uint64
	deviceConfig []byte
	pciCap       uint8 // where the capability for access by configuration space is

	status         uint8
	isr            uint8
	deviceSelect   uint32 // which 32 bits of the offered features are shown
	driverSelect   uint32 // and which of the accepted ones
	driverFeatures uint64
	queueSelect    uint16
	queues         []virtqueue
}

// newVirtioPCI puts a device of type t in the given slot, set up as firmware would: with
// a memory window (not yet decoded) and the number of its interrupt line.
func newVirtioPCI(ram *vmm.RAM, slot int, t virtioType, model virtioModel) *virtioPCI {
	d := &virtioPCI{
		section: t.name, ram: ram, model: model, deviceConfig: t.config,
		offered: t.features | featureIndirectDesc | featureVersion1,
		queues:  make([]virtqueue, t.queues),
	}
	for i := range d.queues {
		d.queues[i].dev = d
	}
	table := []pciRegister{
		{name: "vendor", offset: pciVendorID, size: 2, value: 0x1AF4},
		{name: "device", offset: pciDeviceID, size: 2, value: 0x1040 + uint32(t.id)},
		{name: "command", offset: pciCommand, size: 2,
			// Bus mastering is a bit like any other: queues are served without it too.
			mask: pciCommandMemory | pciCommandMaster | pciCommandInterruptDisable},
		{name: "status", offset: pciStatus, size: 2, value: pciStatusCapabilities},
		{name: "revision and class", offset: pciRevisionClass, size: 4, value: t.class<<8 | 1},
		{name: "bar0", offset: pciBAR0, size: 4, mask: ^uint32(virtioBARSize - 1),
			value: virtioBARBase + uint32(slot-1)*virtioBARSize},
		{name: "subsystem", offset: pciSubsystem, size: 4, value: (0x40+uint32(t.id))<<16 | 0x1AF4},
		{name: "capabilities", offset: pciCapabilities, size: 1, value: pciFirstCap},
		{name: "interrupt_line", offset: pciInterruptLine, size: 1, value: uint32(pciIRQ(slot)), mask: 0xFF},
		{name: "interrupt_pin", offset: pciInterruptPin, size: 1, value: 1}, // INTA
	}
	d.pciFunction = newPCIFunction(append(table, d.capabilities()...))
	d.resetDevice()
	return d
}

// capabilities is the list of struct virtio_pci_cap (4.1.4), as registers.
func (d *virtioPCI) capabilities() (table []pciRegister) {
	list := []struct {
		name         string
		kind         uint8
		size         uint8 // 4 more than the common part if there is an extra field
		base, length uint32
		extra        uint32
		mask         uint32
	}{
		{"common_cfg", capCommon, capSize, commonBase, commonSize, 0, 0},
		{"notify_cfg", capNotify, capSize + 4, notifyBase, uint32(len(d.queues)) * notifyMultiplier, notifyMultiplier, 0},
		{"isr_cfg", capISR, capSize, isrBase, 1, 0, 0},
		{"pci_cfg", capPCI, capSize + 4, 0, 0, 0, ^uint32(0)},
		{"device_cfg", capDevice, capSize, deviceBase, uint32(len(d.deviceConfig)), 0, 0},
	}
	if len(d.deviceConfig) == 0 {
		list = list[:len(list)-1]
	}
	at := uint8(pciFirstCap)
	for i, c := range list {
		next := at + c.size
		if i == len(list)-1 {
			next = 0
		}
		table = append(table,
			pciRegister{name: c.name, offset: at, size: 4,
				value: capVendor | uint32(next)<<8 | uint32(c.size)<<16 | uint32(c.kind)<<24},
			pciRegister{name: c.name + ".bar", offset: at + pciCapBAR, size: 1, mask: c.mask & 0xFF},
			pciRegister{name: c.name + ".offset", offset: at + pciCapOffset, size: 4, value: c.base, mask: c.mask},
			pciRegister{name: c.name + ".length", offset: at + pciCapLength, size: 4, value: c.length, mask: c.mask})
		if c.size > capSize {
			table = append(table,
				pciRegister{name: c.name + ".extra", offset: at + capSize, size: 4, value: c.extra, mask: c.mask})
		}
		if c.kind == capPCI {
			d.pciCap = at
		}
		at += c.size
	}
	return table
}

// configIn and configOut add to the header's registers the interrupt status and pci_cfg_data,
// an access to which stands for one to the window (4.1.4.9).
func (d *virtioPCI) configIn(off uint8, p []byte) {
	if off&^3 == d.pciCap+pciCapData {
		if at, data, ok := d.pciAccess(); ok {
			d.memIn(at, data)
		}
	}
	d.pciFunction.configIn(off, p)
	if i := pciStatus - int(off); i >= 0 && i < len(p) && d.isr != 0 {
		p[i] |= pciStatusInterrupt
	}
}

func (d *virtioPCI) configOut(off uint8, p []byte) {
	d.pciFunction.configOut(off, p)
	if off&^3 == d.pciCap+pciCapData {
		if at, data, ok := d.pciAccess(); ok {
			d.memOut(at, data)
		}
	}
}

// pciAccess is the access to the window that the PCI_CFG capability describes. One
// that the driver may not ask for is none.
func (d *virtioPCI) pciAccess() (off uint32, data []byte, ok bool) {
	c := d.config[d.pciCap:]
	off, n := binary.LittleEndian.Uint32(c[pciCapOffset:]), binary.LittleEndian.Uint32(c[pciCapLength:])
	if c[pciCapBAR] != 0 || n != 1 && n != 2 && n != 4 || off%n != 0 || off >= virtioBARSize {
		return 0, nil, false
	}
	return off, c[pciCapData:][:n], true
}

// commonField is a field of struct virtio_pci_common_cfg (4.1.4.3). A 64-bit field is two of
// 32 bits, as drivers access it. Without a set the field is read-only.
type commonField struct {
	offset, size uint32
	get          func(*virtioPCI) uint32
	set          func(*virtioPCI, uint32)
}

var commonFields = [...]commonField{
	{0x00, 4, func(d *virtioPCI) uint32 { return d.deviceSelect },
		func(d *virtioPCI, v uint32) { d.deviceSelect = v }},
	{0x04, 4, func(d *virtioPCI) uint32 { return half(d.offered, d.deviceSelect) }, nil},
	{0x08, 4, func(d *virtioPCI) uint32 { return d.driverSelect },
		func(d *virtioPCI, v uint32) { d.driverSelect = v }},
	{0x0C, 4, func(d *virtioPCI) uint32 { return half(d.driverFeatures, d.driverSelect) },
		(*virtioPCI).setDriverFeatures},
	{0x10, 2, func(*virtioPCI) uint32 { return noVector }, nil}, // config_msix_vector
	{0x12, 2, func(d *virtioPCI) uint32 { return uint32(len(d.queues)) }, nil},
	{0x14, 1, func(d *virtioPCI) uint32 { return uint32(d.status) }, (*virtioPCI).setStatus},
	{0x15, 1, func(*virtioPCI) uint32 { return 0 }, nil}, // config_generation: it never changes
	{0x16, 2, func(d *virtioPCI) uint32 { return uint32(d.queueSelect) },
		func(d *virtioPCI, v uint32) { d.queueSelect = uint16(v) }},
	queueField(0x18, 2, func(q *virtqueue) uint32 { return uint32(q.size) },
		func(q *virtqueue, v uint32) { q.size = uint16(v) }),
	{0x1A, 2, func(*virtioPCI) uint32 { return noVector }, nil}, // queue_msix_vector
	queueField(0x1C, 2, func(q *virtqueue) uint32 {
		if q.enabled {
			return 1
		}
		return 0
	}, (*virtqueue).enable),
	{0x1E, 2, func(d *virtioPCI) uint32 { return uint32(d.queueSelect) }, nil}, // queue_notify_off
	queueAddress(0x20, func(q *virtqueue) *uint64 { return &q.desc }, 0),
	queueAddress(0x24, func(q *virtqueue) *uint64 { return &q.desc }, 32),
	queueAddress(0x28, func(q *virtqueue) *uint64 { return &q.driver }, 0),
	queueAddress(0x2C, func(q *virtqueue) *uint64 { return &q.driver }, 32),
	queueAddress(0x30, func(q *virtqueue) *uint64 { return &q.device }, 0),
	queueAddress(0x34, func(q *virtqueue) *uint64 { return &q.device }, 32),
}

// queueField is a field of the selected queue. It is 0 if there is no such queue, and
// cannot be changed while the queue is enabled.
func queueField(offset, size uint32, get func(*virtqueue) uint32, set func(*virtqueue, uint32)) commonField {
	return commonField{offset, size,
		func(d *virtioPCI) uint32 {
			if q := d.selected(); q != nil {
				return get(q)
			}
			return 0
		},
		func(d *virtioPCI, v uint32) {
			if q := d.selected(); q != nil && !q.enabled {
				set(q, v)
			}
		}}
}

// queueAddress is one half of the address of a queue's area.
func queueAddress(offset uint32, area func(*virtqueue) *uint64, shift int) commonField {
	return queueField(offset, 4,
		func(q *virtqueue) uint32 { return uint32(*area(q) >> shift) },
		func(q *virtqueue, v uint32) {
			p := area(q)
			*p = *p&^(0xFFFF_FFFF<<shift) | uint64(v)<<shift
		})
}

// half is the 32 bits of features that a feature select register shows.
func half(features uint64, selected uint32) uint32 {
	if selected > 1 {
		return 0
	}
	return uint32(features >> (32 * selected))
}

func (d *virtioPCI) selected() *virtqueue {
	if int(d.queueSelect) < len(d.queues) {
		return &d.queues[d.queueSelect]
	}
	return nil
}

// memIn reads the window at off, where p fits in. Between the structures there are zeros.
func (d *virtioPCI) memIn(off uint32, p []byte) {
	fill(p, 0)
	switch at := off % structSpan; off - at {
	case commonBase:
		for _, f := range commonFields {
			if f.offset+f.size <= at || f.offset >= at+uint32(len(p)) {
				continue
			}
			v := f.get(d)
			for i := range f.size {
				if j := f.offset + i - at; j < uint32(len(p)) {
					p[j] = uint8(v >> (8 * i))
				}
			}
		}
	case isrBase:
		if at == 0 {
			p[0], d.isr = d.isr, 0
		}
	case deviceBase:
		if at < uint32(len(d.deviceConfig)) {
			copy(p, d.deviceConfig[at:])
		}
	}
}

// memOut writes the window at off. Of struct virtio_pci_common_cfg it changes the fields that
// p covers whole.
func (d *virtioPCI) memOut(off uint32, p []byte) {
	switch at := off % structSpan; off - at {
	case commonBase:
		for _, f := range commonFields {
			if f.set == nil || f.offset < at || f.offset+f.size > at+uint32(len(p)) {
				continue
			}
			var v [4]byte
			copy(v[:], p[f.offset-at:][:f.size])
			f.set(d, binary.LittleEndian.Uint32(v[:]))
		}
	case notifyBase:
		if i := at / notifyMultiplier; at%notifyMultiplier == 0 && i < uint32(len(d.queues)) {
			d.model.serve(&d.queues[i])
		}
	}
}

func (d *virtioPCI) setDriverFeatures(v uint32) {
	// Once FEATURES_OK is set the driver may not change its mind (3.1.1).
	if d.driverSelect > 1 || d.status&statusFeaturesOK != 0 {
		return
	}
	shift := 32 * d.driverSelect
	d.driverFeatures = d.driverFeatures&^(0xFFFF_FFFF<<shift) | uint64(v)<<shift
}

// setStatus is a write to device_status: 0 resets, and bits can only be added (2.1.1). The
// device refuses FEATURES_OK if it cannot work with the features (2.2), and then
// DRIVER_OK too.
func (d *virtioPCI) setStatus(v uint32) {
	if v == 0 {
		d.resetDevice()
		return
	}
	d.status |= uint8(v) & statusByDriver
	if d.driverFeatures&featureVersion1 == 0 || d.driverFeatures&^d.offered != 0 {
		d.status &^= statusFeaturesOK
	}
	if d.status&statusFeaturesOK == 0 {
		d.status &^= statusDriverOK
	}
}

// enable is a write to queue_enable.
func (q *virtqueue) enable(v uint32) {
	if v != 1 {
		return
	}
	if q.enabled = q.valid(); !q.enabled {
		q.dev.needsReset()
	}
}

// resetDevice puts all that the driver set up back to the start (2.4).
func (d *virtioPCI) resetDevice() {
	d.status, d.isr = 0, 0
	d.deviceSelect, d.driverSelect, d.driverFeatures = 0, 0, 0
	d.queueSelect = 0
	for i := range d.queues {
		d.queues[i].reset()
	}
	d.model.reset()
}

// live reports whether the driver has the device running.
func (d *virtioPCI) live() bool {
	return d.status&(statusDriverOK|statusNeedsReset) == statusDriverOK
}

// needsReset is the device's answer to a driver that breaks the rules: it does nothing
// more until it is reset, and says so (2.1.2).
func (d *virtioPCI) needsReset() {
	d.status |= statusNeedsReset
	if d.status&statusDriverOK != 0 {
		d.isr |= isrConfig
	}
}

// intx reports whether the device holds its interrupt pin.
func (d *virtioPCI) intx() bool {
	return d.isr != 0 && d.command()&pciCommandInterruptDisable == 0
}

// State visits the device: its configuration space, the transport and the model.
func (d *virtioPCI) State(a *vmm.Archive) {
	a.Section(d.section)
	d.pciFunction.State(a)
	a.U8("status", &d.status)
	a.U8("isr", &d.isr)
	a.U32("device_feature_select", &d.deviceSelect)
	a.U32("driver_feature_select", &d.driverSelect)
	a.U64("driver_feature", &d.driverFeatures)
	a.U16("queue_select", &d.queueSelect)
	if a.Loading() {
		if d.status&^(statusByDriver|statusNeedsReset) != 0 || d.isr&^(isrQueue|isrConfig) != 0 {
			a.Fail("status %#x or isr %#x has unknown bits", d.status, d.isr)
		}
		if d.status&statusFeaturesOK != 0 && d.driverFeatures&^d.offered != 0 {
			a.Fail("features %#x were not offered", d.driverFeatures)
		}
	}
	for i := range d.queues {
		d.queues[i].State(a)
	}
	d.model.modelState(a)
}
