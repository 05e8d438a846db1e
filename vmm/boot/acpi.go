package boot

import (
	"encoding/binary"
	"slices"
	"strings"
)

// The ACPI tables lie in the area of a PC's BIOS, where kernels that are not told look for the RSDP (ACPI 6.5, 5.2.5.1).
// The memory map has it as reserved.
const (
	acpiAddr = 0xE0000
)

// What the tables say is what package devices has there: ports, interrupt lines, and PCI windows.
const (
	pm1EventPort   = 0x600
	pm1ControlPort = 0x604
	pmTimerPort    = 0x608
	resetPort      = 0xCF9
	resetValue     = 6
	sciIRQ         = 9
	centuryIndex   = 0x32 // in the RTC

	pciConfigPort = 0xCF8
	pciWindow     = 0xE000_0000
	pciWindowSize = 0x1000_0000
	pciSlots      = 32
)

// pciIRQs are the lines of the slots' interrupt pin A, in turn from slot 1 on.
var pciIRQs = [...]uint64{10, 11, 5, 9}

// writeACPI writes the tables and returns where the RSDP is. There is no MADT: the machine has no APIC, and Linux then
// leaves its interrupts with the 8259.
func (w *writer) writeACPI(hideRTC bool) uint64 {
	at := uint64(acpiAddr)
	place := func(table []byte) uint64 {
		here := at
		w.write(here, table)
		at += (uint64(len(table)) + facsAlign - 1) &^ (facsAlign - 1)
		return here
	}
	const rsdpSize = 36
	rsdp := place(make([]byte, rsdpSize))
	facs := place(facs())
	dsdt := place(table("DSDT", 2, dsdt()))
	fadt := place(table("FACP", 3, fadt(facs, dsdt, hideRTC)))
	xsdt := place(table("XSDT", 1, binary.LittleEndian.AppendUint64(nil, fadt)))
	w.write(rsdp, rootPointer(xsdt))
	return rsdp
}

const (
	oemID      = "FTVM  "
	oemTableID = "FTVM    "
	creatorID  = "FTVM"
)

// rootPointer is the RSDP (5.2.5.3). There is no RSDT, which is for 32-bit systems before ACPI 2.0.
func rootPointer(xsdt uint64) []byte {
	b := pack(nil, struct {
		Signature [8]byte
		Checksum  uint8
		OEM       [6]byte
		Revision  uint8
		RSDT      uint32
		Length    uint32
		XSDT      uint64
		Extended  uint8
		_         [3]uint8
	}{Signature: [8]byte([]byte("RSD PTR ")), OEM: [6]byte([]byte(oemID)), Revision: 2, Length: 36, XSDT: xsdt})
	b[8] = checksum(b[:20])
	b[32] = checksum(b)
	return b
}

// checksum is what makes the sum of p 0.
func checksum(p []byte) (sum uint8) {
	for _, v := range p {
		sum -= v
	}
	return sum
}

// table puts a header before a table's content (5.2.6).
func table(signature string, revision uint8, content []byte) []byte {
	b := pack(nil, struct {
		Signature       [4]byte
		Length          uint32
		Revision        uint8
		Checksum        uint8
		OEM             [6]byte
		OEMTable        [8]byte
		OEMRevision     uint32
		Creator         [4]byte
		CreatorRevision uint32
	}{Signature: [4]byte([]byte(signature)), Length: uint32(36 + len(content)), Revision: revision, OEM: [6]byte([]byte(oemID)),
		OEMTable: [8]byte([]byte(oemTableID)), OEMRevision: 1, Creator: [4]byte([]byte(creatorID)), CreatorRevision: 1})
	b = append(b, content...)
	b[9] = checksum(b)
	return b
}

const facsAlign = 64

// facs is the FACS (5.2.10), of a machine that never sleeps and has no global lock to share.
func facs() []byte {
	b := make([]byte, 64)
	copy(b, "FACS")
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	b[32] = 2 // version
	return b
}

// Bits of the FADT's flags (5.2.9, table 5.10) and of its boot architecture flags (table 5.11).
const (
	fadtWBINVD        = 1 << 0
	fadtProcessorC1   = 1 << 2
	fadtNoPowerButton = 1 << 4 // no fixed one
	fadtNoSleepButton = 1 << 5
	fadtNoRTCWake     = 1 << 6
	fadtTimer32       = 1 << 8
	fadtReset         = 1 << 10

	bootLegacyDevices = 1 << 0
	boot8042          = 1 << 1
	bootNoVGA         = 1 << 2
	bootNoMSI         = 1 << 3
	bootNoRTC         = 1 << 5 // at the PC's ports
)

// address is a Generic Address Structure (5.2.3.2).
type address struct {
	Space, Bits, Offset, Access uint8
	Address                     uint64
}

// ports is the address of a register of size bytes.
func ports(port uint64, size uint8) address {
	const systemIO = 1
	return address{Space: systemIO, Bits: 8 * size, Access: min(size, 3), Address: port}
}

// fadt is the FADT without its header (5.2.9), as of ACPI 2.0. There is no SMI command port, so the machine is always in ACPI mode.
func fadt(facs, dsdt uint64, hideRTC bool) []byte {
	arch := uint16(bootLegacyDevices | boot8042 | bootNoVGA | bootNoMSI)
	if hideRTC {
		arch |= bootNoRTC
	}
	const noC2, noC3 = 101, 1001 // latencies that say so
	return pack(nil, struct {
		FACS, DSDT                                   uint32
		_, Profile                                   uint8
		SCI                                          uint16
		SMICommand                                   uint32
		Enable, Disable, S4BIOS, PState              uint8
		PM1aEvent, PM1bEvent, PM1aControl, PM1bCtrl  uint32
		PM2Control, PMTimer, GPE0, GPE1              uint32
		PM1EventLength, PM1ControlLength             uint8
		PM2ControlLength, PMTimerLength              uint8
		GPE0Length, GPE1Length, GPE1Base, CState     uint8
		C2Latency, C3Latency                         uint16
		FlushSize, FlushStride                       uint16
		DutyOffset, DutyWidth                        uint8
		DayAlarm, MonthAlarm, Century                uint8
		Boot                                         uint16
		_                                            uint8
		Flags                                        uint32
		Reset                                        address
		ResetValue                                   uint8
		_                                            [3]uint8
		XFACS, XDSDT                                 uint64
		XPM1aEvent, XPM1bEvent                       address
		XPM1aControl, XPM1bControl, XPM2Ctrl, XPMTmr address
		XGPE0, XGPE1                                 address
	}{
		FACS: uint32(facs), DSDT: uint32(dsdt), SCI: sciIRQ,
		PM1aEvent: pm1EventPort, PM1EventLength: 4, PM1aControl: pm1ControlPort, PM1ControlLength: 2,
		PMTimer: pmTimerPort, PMTimerLength: 4, C2Latency: noC2, C3Latency: noC3, Century: centuryIndex,
		Boot:  arch,
		Flags: fadtWBINVD | fadtProcessorC1 | fadtNoPowerButton | fadtNoSleepButton | fadtNoRTCWake | fadtTimer32 | fadtReset,
		Reset: ports(resetPort, 1), ResetValue: resetValue, XDSDT: dsdt,
		XPM1aEvent: ports(pm1EventPort, 4), XPM1aControl: ports(pm1ControlPort, 2), XPMTmr: ports(pmTimerPort, 4),
	})
}

// dsdt is the content of the DSDT: how to switch off, and the PCI host bridge with its windows and the wiring of its slots' interrupts.
func dsdt() []byte {
	off := amlPackage(amlInt(0), amlInt(0), amlInt(0), amlInt(0)) // SLP_TYP of S5 in both PM1 control registers, reserved
	var routes [][]byte
	for slot := range uint64(pciSlots) {
		if slot == 0 {
			continue // the bridge's own
		}
		// Any function of the slot, pin A, no link device, interrupt (6.2.13).
		irq := pciIRQs[(slot-1)%uint64(len(pciIRQs))]
		routes = append(routes, amlPackage(amlInt(slot<<16|0xFFFF), amlInt(0), amlInt(0), amlInt(irq)))
	}
	resources := slices.Concat(
		wordSpace(busNumbers, 0, 0, 0),
		ioPorts(pciConfigPort, 8),
		wordSpace(ioRange, entireRange, 0, pciConfigPort-1),
		wordSpace(ioRange, entireRange, pciConfigPort+8, 0xFFFF),
		dwordSpace(memoryRange, readWrite, pciWindow, pciWindow+pciWindowSize-1),
		[]byte{0x79, 0}, // end tag; a checksum of 0 counts as right (6.4.2.9)
	)
	return slices.Concat(
		amlName(`\_S5_`, off),
		amlScope(`\_SB_`,
			amlDevice("PCI0",
				amlName("_HID", amlEISA("PNP0A03")),
				amlName("_UID", amlInt(0)),
				amlName("_CRS", amlBuffer(resources)),
				amlName("_PRT", amlPackage(routes...)),
			),
		),
	)
}

// Kinds of address space descriptors, and their type-specific flags (6.4.3.5).
const (
	memoryRange = 0
	ioRange     = 1
	busNumbers  = 2

	entireRange = 3 // ISA and non-ISA ports
	readWrite   = 1 // not cacheable

	rangeFixed = 1<<2 | 1<<3 // both ends; what is in it is for those behind the bridge, which decodes it
)

// wordSpace and dwordSpace are the descriptors of 16 and 32 bits for first to last (6.4.3.5.2 and 6.4.3.5.3).
func wordSpace(kind, flags uint8, first, last uint16) []byte {
	body := []uint16{0, first, last, 0, last - first + 1} // granularity, minimum, maximum, translation, length
	return pack([]byte{0x88, 13, 0, kind, rangeFixed, flags}, body)
}

func dwordSpace(kind, flags uint8, first, last uint32) []byte {
	body := []uint32{0, first, last, 0, last - first + 1}
	return pack([]byte{0x87, 23, 0, kind, rangeFixed, flags}, body)
}

// ioPorts is the descriptor of n ports from first on, of which all 16 bits are decoded (6.4.2.5).
func ioPorts(first uint16, n uint8) []byte {
	return append(pack([]byte{0x47, 1}, []uint16{first, first}), 1, n)
}

// The rest encodes AML (20.2). Names are written with all four characters of each segment.

func amlName(name string, object []byte) []byte {
	return slices.Concat([]byte{0x08}, []byte(name), object)
}

func amlScope(name string, terms ...[]byte) []byte {
	return slices.Concat([]byte{0x10}, amlLength(append([]byte(name), slices.Concat(terms...)...)))
}

func amlDevice(name string, terms ...[]byte) []byte {
	return slices.Concat([]byte{0x5B, 0x82}, amlLength(append([]byte(name), slices.Concat(terms...)...)))
}

func amlPackage(elements ...[]byte) []byte {
	return slices.Concat([]byte{0x12}, amlLength(append([]byte{uint8(len(elements))}, slices.Concat(elements...)...)))
}

func amlBuffer(p []byte) []byte {
	return slices.Concat([]byte{0x11}, amlLength(append(amlInt(uint64(len(p))), p...)))
}

// amlLength puts the length of p, with the bytes that say it, before p (20.2.4).
func amlLength(p []byte) []byte {
	n := len(p)
	switch {
	case n+1 < 1<<6:
		return append([]byte{uint8(n + 1)}, p...)
	case n+2 < 1<<12:
		n += 2
		return append([]byte{1<<6 | uint8(n&0xF), uint8(n >> 4)}, p...)
	}
	n += 3
	return append([]byte{2<<6 | uint8(n&0xF), uint8(n >> 4), uint8(n >> 12)}, p...)
}

// amlInt is an integer, of at most 32 bits.
func amlInt(v uint64) []byte {
	le := binary.LittleEndian
	switch {
	case v <= 1:
		return []byte{uint8(v)} // ZeroOp and OneOp
	case v < 1<<8:
		return []byte{0x0A, uint8(v)}
	case v < 1<<16:
		return le.AppendUint16([]byte{0x0B}, uint16(v))
	}
	return le.AppendUint32([]byte{0x0C}, uint32(v))
}

// amlEISA packs an EISA identifier, three letters and four hexadecimal digits, into an integer (19.3.4, EISAID).
func amlEISA(id string) []byte {
	v := uint32(0)
	for i := range 3 {
		v = v<<5 | uint32(id[i]-'@')
	}
	for _, c := range id[3:] {
		v = v<<4 | uint32(strings.IndexRune("0123456789ABCDEF", c))
	}
	b := binary.BigEndian.AppendUint32(nil, v)
	return amlInt(uint64(binary.LittleEndian.Uint32(b)))
}
