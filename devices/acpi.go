package devices

import (
	"math/bits"

	"ftvm/vmm"
)

// Ports of the fixed ACPI hardware (ACPI 6.5, 4.8), where QEMU's machines have them. The tables that the loader makes
// (vmm/boot) tell them to the guest.
const (
	portPM1Status  = 0x600 // 2 bytes
	portPM1Enable  = 0x602 // 2 bytes
	portPM1Control = 0x604 // 2 bytes
	portPMTimer    = 0x608 // 4 bytes

	irqSCI = 9
)

const (
	// pm1Enables are the events that can be enabled: timer, global, power button, sleep button, RTC (4.8.3.1.2).
	pm1Enables = 1<<0 | 1<<5 | 1<<8 | 1<<9 | 1<<10
	// Bits of PM1 control (4.8.3.2.1).
	pm1SCIEnable   = 1 << 0
	pm1BMReload    = 1 << 1
	pm1SleepType   = 7 << 10
	pm1SleepEnable = 1 << 13

	pmTimerHz = 3579545
)

// acpi is the fixed hardware of a machine that is always in ACPI mode: SCI_EN is set, and there is no SMI command port.
// No event ever happens, so the status bits are clear and the line of the SCI stays low. The power management timer
// shows guest time in 32 bits, and does not report that it overflows (TMR_STS).
type acpi struct {
	off     func() // switches the machine off
	now     vmm.Time
	enable  uint16
	control uint16
}

// setTime makes guest time t.
func (a *acpi) setTime(t vmm.Time) { a.now = t }

func (a *acpi) in(port uint16) uint8 {
	switch port {
	case portPM1Enable, portPM1Enable + 1:
		return byteOf(uint32(a.enable), port-portPM1Enable)
	case portPM1Control, portPM1Control + 1:
		return byteOf(uint32(a.control|pm1SCIEnable), port-portPM1Control)
	case portPMTimer, portPMTimer + 1, portPMTimer + 2, portPMTimer + 3:
		hi, lo := bits.Mul64(uint64(a.now), pmTimerHz)
		clocks, _ := bits.Div64(hi, lo, nsHz)
		return byteOf(uint32(clocks), port-portPMTimer)
	}
	return 0
}

// out takes a byte. SLP_EN with SLP_TYP 0, which is S5, switches off; no other sleep state is there.
func (a *acpi) out(port uint16, v uint8) {
	switch port {
	case portPM1Enable, portPM1Enable + 1:
		a.enable = withByte(a.enable, port-portPM1Enable, v) & pm1Enables
	case portPM1Control, portPM1Control + 1:
		w := withByte(a.control, port-portPM1Control, v)
		a.control = w & (pm1BMReload | pm1SleepType)
		if w&(pm1SleepEnable|pm1SleepType) == pm1SleepEnable {
			a.off()
		}
	}
}

func byteOf(v uint32, i uint16) uint8 { return uint8(v >> (8 * i)) }

func withByte(v, i uint16, b uint8) uint16 { return v&^(0xFF<<(8*i)) | uint16(b)<<(8*i) }

// State visits the time and the registers that the guest writes.
func (a *acpi) State(x *vmm.Archive) {
	x.Section("acpi")
	x.U64("now", (*uint64)(&a.now))
	x.U16("pm1_enable", &a.enable)
	x.U16("pm1_control", &a.control)
	if x.Loading() && (a.enable&^pm1Enables != 0 || a.control&^(pm1BMReload|pm1SleepType) != 0) {
		x.Fail("PM1 enable %#x or control %#x has unknown bits", a.enable, a.control)
	}
}
