package devices

import "ftvm/vmm"

// Ports through which a guest ends itself, by QEMU's conventions, so that
// guests written for QEMU need no change:
//
//   - 0xF4-0xF7, isa-debug-exit (iobase=0xf4,iosize=4): value v ends the guest
//     with code v<<1|1.
//   - 0xB004, where Bochs and older QEMUs have the ACPI PM1a control register: SLP_EN with
//     SLP_TYP 0 switches the machine off. The usual 16-bit 0x2000 arrives as two bytes, of
//     which the high one says it all. The real register is at 0x604, see acpi.go.
//   - 0x92, system control port A, bit 0, and 0xCF9, reset control, bit 2 (as in the
//     82371AB, PIIX4): reset. The third way, 0xFE to port 0x64, is i8042's.
//
// 0x600, cloud-hypervisor's power-off port, is not among them: here as on QEMU's machines it is the PM1a event block.
const (
	portDebugExit     = 0xF4
	portDebugExitLast = 0xF7
	portPM1aBochs     = 0xB004
	portControlA      = 0x92
	portResetControl  = 0xCF9
)

const (
	controlAReset   = 1 << 0
	controlAA20     = 1 << 1
	resetControlCPU = 1 << 2
)

// exitPorts are the ports listed above. The first end is the end: later writes
// change nothing.
type exitPorts struct {
	end          vmm.End // Kind is 0 while the guest lives
	a20          bool    // what port 0x92 reads back; address line 20 is never off
	resetControl uint8
}

func newExitPorts() *exitPorts { return &exitPorts{a20: true} }

// ended tells whether and how the guest ended itself.
func (e *exitPorts) ended() (vmm.End, bool) { return e.end, e.end.Kind != 0 }

func (e *exitPorts) finish(kind vmm.EndKind, code int) {
	if e.end.Kind == 0 {
		e.end = vmm.End{Kind: kind, Code: code}
	}
}

func (e *exitPorts) powerOff() { e.finish(vmm.EndPowerOff, 0) }

func (e *exitPorts) in(port uint16) uint8 {
	switch {
	case port == portControlA && e.a20:
		return controlAA20
	case port == portResetControl:
		return e.resetControl
	}
	return 0
}

func (e *exitPorts) out(port uint16, v uint8) {
	switch {
	case port >= portDebugExit && port <= portDebugExitLast:
		e.finish(vmm.EndDebugExit, int(v)<<1|1)
	case port == portPM1aBochs+1:
		if uint16(v)<<8&(pm1SleepEnable|pm1SleepType) == pm1SleepEnable {
			e.powerOff()
		}
	case port == portControlA:
		e.a20 = v&controlAA20 != 0
		if v&controlAReset != 0 {
			e.finish(vmm.EndReset, 0)
		}
	case port == portResetControl:
		e.resetControl = v &^ resetControlCPU
		if v&resetControlCPU != 0 {
			e.finish(vmm.EndReset, 0)
		}
	}
}

func (e *exitPorts) State(a *vmm.Archive) {
	a.Section("exit")
	kind, code := uint8(e.end.Kind), uint16(e.end.Code)
	a.U8("kind", &kind)
	a.U16("code", &code)
	a.Bool("a20", &e.a20)
	a.U8("reset_control", &e.resetControl)
	if a.Loading() {
		e.end = vmm.End{Kind: vmm.EndKind(kind), Code: int(code)}
		if e.end.Kind > vmm.EndDebugExit {
			a.Fail("kind: a port cannot end the guest by %q", e.end)
		}
	}
}
