package devices

import (
	"encoding/binary"

	"ftvm/vmm"
)

// Ports of configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2).
const (
	pciConfigAddress = 0xCF8
	pciConfigData    = 0xCFC
	pciConfigEnd     = 0xD00

	// pciAddressMask keeps the enable bit, bus, device, function and register of
	// CONFIG_ADDRESS; the other bits are zero.
	pciAddressMask = 0x80FF_FFFC
	pciEnable      = 1 << 31
)

// Offsets in a type 0 header (PCI Local Bus 3.0, 6.1).
const (
	pciVendorID      = 0x00
	pciDeviceID      = 0x02
	pciCommand       = 0x04
	pciStatus        = 0x06
	pciRevisionClass = 0x08
	pciBAR0          = 0x10
	pciSubsystem     = 0x2C
	pciCapabilities  = 0x34
	pciInterruptLine = 0x3C
	pciInterruptPin  = 0x3D
	pciFirstCap      = 0x40
)

// Bits of the command and status registers (6.2.2, 6.2.3).
const (
	pciCommandMemory           = 1 << 1
	pciCommandMaster           = 1 << 2
	pciCommandInterruptDisable = 1 << 10
	pciStatusInterrupt         = 1 << 3
	pciStatusCapabilities      = 1 << 4
)

// pciRegister is a row of a function's configuration space.
type pciRegister struct {
	name   string
	offset uint8
	size   uint8  // in bytes: 1, 2 or 4
	value  uint32 // at power-on, as firmware leaves it
	mask   uint32 // bits that software can change
}

// pciFunction is the configuration space of one function. What no register of its table
// covers reads as zero and ignores writes (6.1).
type pciFunction struct {
	config, mask [256]uint8
	writable     []pciRegister
}

func newPCIFunction(table []pciRegister) *pciFunction {
	f := &pciFunction{}
	for _, r := range table {
		var value, mask [4]uint8
		binary.LittleEndian.PutUint32(value[:], r.value)
		binary.LittleEndian.PutUint32(mask[:], r.mask)
		copy(f.config[r.offset:], value[:r.size])
		copy(f.mask[r.offset:], mask[:r.size])
		if r.mask != 0 {
			f.writable = append(f.writable, r)
		}
	}
	return f
}

// configIn and configOut serve an access that does not leave its aligned 4 bytes.
func (f *pciFunction) configIn(off uint8, p []byte) { copy(p, f.config[off:]) }

func (f *pciFunction) configOut(off uint8, p []byte) {
	for i, v := range p {
		c, m := &f.config[int(off)+i], f.mask[int(off)+i]
		*c = *c&^m | v&m
	}
}

func (f *pciFunction) command() uint16 { return binary.LittleEndian.Uint16(f.config[pciCommand:]) }

// State visits the registers that software can change.
func (f *pciFunction) State(a *vmm.Archive) {
	for _, r := range f.writable {
		reg := f.config[r.offset : r.offset+r.size]
		var before [4]uint8
		copy(before[:], reg)
		a.Fixed(r.name, reg)
		if !a.Loading() {
			continue
		}
		for i := range reg {
			if (reg[i]^before[i])&^f.mask[int(r.offset)+i] != 0 {
				a.Fail("%s: read-only bits differ", r.name)
			}
		}
	}
}

// pciIRQs are the lines that the slots' INTA pins are wired to, in turn from slot 1 on. They
// are the ones that no device of the board has for itself.
var pciIRQs = [...]uint8{10, 11, 5, 9}

// pciIRQ is the line of the slot's INTA. It is wiring: the interrupt line register only
// tells it to software (6.2.4).
func pciIRQ(slot int) uint8 { return pciIRQs[(slot-1)%len(pciIRQs)] }

// maxPCIDevices is how many slots a bus has behind the host bridge's.
const maxPCIDevices = 31

// pciBus is bus 0: the host bridge in slot 0 and single-function devices after it.
type pciBus struct {
	address uint32 // CONFIG_ADDRESS
	bridge  *pciFunction
	devices []*virtioPCI // slot i+1
}

func newPCIBus() *pciBus {
	return &pciBus{bridge: newPCIFunction([]pciRegister{
		// Intel's 440FX, which guests that want a particular bridge know. Linux trusts
		// configuration mechanism 1 only where it finds a host bridge.
		{name: "vendor", offset: pciVendorID, size: 2, value: 0x8086},
		{name: "device", offset: pciDeviceID, size: 2, value: 0x1237},
		{name: "command", offset: pciCommand, size: 2, value: pciCommandMemory | pciCommandMaster},
		{name: "class", offset: pciRevisionClass, size: 4, value: 0x0600_0002},
	})}
}

// portIn serves a read of the mechanism's two registers and reports whether the access
// is one: CONFIG_ADDRESS answers to 4-byte accesses only, others there go to the ports
// that share its addresses.
func (b *pciBus) portIn(port uint16, p []byte) bool {
	switch {
	case port == pciConfigAddress && len(p) == 4:
		binary.LittleEndian.PutUint32(p, b.address)
	case port >= pciConfigData && int(port)+len(p) <= pciConfigEnd:
		slot, off, ok := b.selected(port)
		switch {
		case ok && slot == 0:
			b.bridge.configIn(off, p)
		case ok && slot <= len(b.devices):
			b.devices[slot-1].configIn(off, p)
		default:
			fill(p, 0xFF)
		}
	default:
		return false
	}
	return true
}

// portOut is portIn for writes.
func (b *pciBus) portOut(port uint16, p []byte) bool {
	switch {
	case port == pciConfigAddress && len(p) == 4:
		b.address = binary.LittleEndian.Uint32(p) & pciAddressMask
	case port >= pciConfigData && int(port)+len(p) <= pciConfigEnd:
		slot, off, ok := b.selected(port)
		switch {
		case ok && slot == 0:
			b.bridge.configOut(off, p)
		case ok && slot <= len(b.devices):
			b.devices[slot-1].configOut(off, p)
		}
	default:
		return false
	}
	return true
}

// selected decodes CONFIG_ADDRESS for an access to CONFIG_DATA at port. ok is false if no
// slot of bus 0, or another function than 0, is meant.
func (b *pciBus) selected(port uint16) (slot int, off uint8, ok bool) {
	bus, function := b.address>>16&0xFF, b.address>>8&7
	return int(b.address >> 11 & 31), uint8(b.address) + uint8(port-pciConfigData),
		b.address&pciEnable != 0 && bus == 0 && function == 0
}

// at finds the device whose memory window holds all n bytes at addr, or nil. Where windows
// overlap the lowest slot answers. (RAM never gets here: the CPU looks there first.)
func (b *pciBus) at(addr vmm.GPA, n int) (dev *virtioPCI, off uint32) {
	for _, d := range b.devices {
		if d.command()&pciCommandMemory == 0 {
			continue
		}
		base := vmm.GPA(binary.LittleEndian.Uint32(d.config[pciBAR0:]))
		if off := addr - base; addr >= base && off < virtioBARSize && int(off)+n <= virtioBARSize {
			return d, uint32(off)
		}
	}
	return nil, 0
}

// lines is the set of IRQ lines, by bit, that some device holds up.
func (b *pciBus) lines() (set uint16) {
	for i, d := range b.devices {
		if d.intx() {
			set |= 1 << pciIRQ(i+1)
		}
	}
	return set
}

// State visits the bus and all functions.
func (b *pciBus) State(a *vmm.Archive) {
	a.Section("pci")
	a.U32("address", &b.address)
	if a.Loading() && b.address&^pciAddressMask != 0 {
		a.Fail("address: %#x has reserved bits", b.address)
	}
	if n := a.Len("devices", len(b.devices), len(b.devices)); n != len(b.devices) {
		a.Fail("%d devices, the machine has %d", n, len(b.devices))
		return
	}
	for _, d := range b.devices {
		d.State(a)
	}
}

func fill(p []byte, v byte) {
	for i := range p {
		p[i] = v
	}
}
