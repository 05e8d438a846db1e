package devices

import (
	"testing"

	"ftvm/vmm"
)

func TestACPIRegisters(t *testing.T) {
	g := newGuest(t)
	for _, tt := range []struct {
		what         string
		port         uint16
		n            int
		write, value uint32 // what is read before is always reset's
		reset        uint32
	}{
		{"PM1 status", portPM1Status, 2, 0xFFFF, 0, 0},
		{"PM1 enable", portPM1Enable, 2, 0xFFFF, 0x0721, 0},
		{"PM1 control, but for SLP_EN", portPM1Control, 2, 0xDFFF, pm1SCIEnable | pm1BMReload | pm1SleepType, pm1SCIEnable},
		{"status and enable at once", portPM1Status, 4, 0x0100_0100, 0x0100_0000, 0x0721_0000},
		{"between the blocks", portPM1Control + 2, 2, 0, 0xFFFF, 0xFFFF},
	} {
		if v := g.in(tt.port, tt.n); v != tt.reset {
			t.Errorf("%s: %#x at first, want %#x", tt.what, v, tt.reset)
		}
		g.out(tt.port, tt.n, tt.write)
		if v := g.in(tt.port, tt.n); v != tt.value {
			t.Errorf("%s: %#x after writing %#x, want %#x", tt.what, v, tt.write, tt.value)
		}
	}
	if end, ok := g.b.Ended(); ok {
		t.Errorf("the guest ended: %v", end)
	}
	if v := g.in(portPICELCRSlave, 1); v&(1<<(irqSCI-8)) == 0 {
		t.Errorf("ELCR of the slave is %#x: the SCI is not level-triggered", v)
	}
}

func TestACPISleep(t *testing.T) {
	for _, tt := range []struct {
		what   string
		writes []uint32
		ended  bool
	}{
		{"S5 as Linux writes it", []uint32{0x0001, 0x2001}, true},
		{"SLP_TYP 0 without SLP_EN", []uint32{0x0001}, false},
		{"another sleep state", []uint32{0x1401, 0x3401}, false},
	} {
		g := newGuest(t)
		for _, v := range tt.writes {
			g.out(portPM1Control, 2, v)
		}
		end, ok := g.b.Ended()
		if ok != tt.ended || ok && end != (vmm.End{Kind: vmm.EndPowerOff}) {
			t.Errorf("%s: ended %v, %v; want %v", tt.what, ok, end, tt.ended)
		}
	}
	// A byte at a time SLP_TYP is what was written before.
	g := newGuest(t)
	g.out(portPM1Control+1, 1, 0x20)
	if _, ok := g.b.Ended(); !ok {
		t.Error("a write of the high byte alone does not switch off")
	}
}

func TestPMTimer(t *testing.T) {
	g := newGuest(t)
	for now, want := range map[vmm.Time]uint32{
		0:                         0,
		279:                       0,
		280:                       1,
		1e9:                       3579545,
		1200e9:                    uint32(4295454000 - 1<<32),
		1_800_000_000_000_000_000: uint32(3579545 * 1_800_000_000 & 0xFFFF_FFFF),
		^vmm.Time(0):              uint32(66_030_950_515_326_656 & 0xFFFF_FFFF),
	} {
		g.b.acpi.setTime(now)
		if v := g.in(portPMTimer, 4); v != want {
			t.Errorf("at %d ns the timer shows %d, want %d", now, v, want)
		}
	}
}

func FuzzACPI(f *testing.F) {
	fuzzDevice(f, func() specimen {
		offs := uint64(0)
		a := &acpi{off: func() { offs++ }}
		return specimen{a, nil, func(op, x, y uint8) uint64 {
			port := portPM1Status + uint16(x%12)
			switch op % 3 {
			case 0:
				return uint64(a.in(port))
			case 1:
				before := offs
				a.out(port, y)
				return offs - before
			}
			now := a.now
			a.setTime(guestClock(&now, x, y))
			return 0
		}}
	},
		"",
		"\x01\x02\xff\x01\x05\x20\x00\x05\x00\x02\x10\x01\x00\x08\x00",
	)
}
