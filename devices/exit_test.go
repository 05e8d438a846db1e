package devices

import (
	"testing"

	"ftvm/vmm"
)

func TestExitPorts(t *testing.T) {
	type write struct {
		port uint16
		v    uint8
	}
	for _, tt := range []struct {
		name   string
		writes []write
		want   vmm.End
	}{
		{"debug exit 0", []write{{0xF4, 0}}, vmm.End{Kind: vmm.EndDebugExit, Code: 1}},
		{"debug exit 16", []write{{0xF4, 0x10}}, vmm.End{Kind: vmm.EndDebugExit, Code: 33}},
		{"debug exit, 32 bits wide", []write{{0xF4, 3}, {0xF5, 9}, {0xF6, 9}, {0xF7, 9}}, vmm.End{Kind: vmm.EndDebugExit, Code: 7}},
		{"debug exit, last port", []write{{0xF7, 0xFF}}, vmm.End{Kind: vmm.EndDebugExit, Code: 511}},
		{"Bochs power-off", []write{{0xB004, 0x00}, {0xB005, 0x20}}, vmm.End{Kind: vmm.EndPowerOff}},
		{"Bochs, SLP_EN clear", []write{{0xB004, 0x01}, {0xB005, 0x00}}, vmm.End{}},
		{"Bochs, suspend", []write{{0xB004, 0x01}, {0xB005, 0x24}}, vmm.End{}},
		{"fast reset", []write{{0x92, 0x03}}, vmm.End{Kind: vmm.EndReset}},
		{"A20", []write{{0x92, 0x02}}, vmm.End{}},
		{"reset control as Linux writes it", []write{{0xCF9, 0x02}, {0xCF9, 0x06}}, vmm.End{Kind: vmm.EndReset}},
		{"reset control, kind of reset only", []write{{0xCF9, 0x0A}}, vmm.End{}},
		{"the first end counts", []write{{0xF4, 5}, {0xB005, 0x20}, {0x92, 1}}, vmm.End{Kind: vmm.EndDebugExit, Code: 11}},
	} {
		e := newExitPorts()
		for _, w := range tt.writes {
			e.out(w.port, w.v)
		}
		got, ok := e.ended()
		if got != tt.want || ok != (tt.want.Kind != 0) {
			t.Errorf("%s: end is %+v, %t; want %+v", tt.name, got, ok, tt.want)
		}
		restored := newExitPorts()
		if err := loadState(restored, saveState(t, e)); err != nil || *restored != *e {
			t.Errorf("%s: restored as %+v, %v; want %+v", tt.name, restored, err, e)
		}
	}
}

func TestExitPortsRead(t *testing.T) {
	e := newExitPorts()
	wantPort(t, "A20 is on", e.in(0x92), 0x02)
	e.out(0x92, 0x00)
	wantPort(t, "A20 as it was written", e.in(0x92), 0x00)
	e.out(0xCF9, 0x0A)
	wantPort(t, "reset control", e.in(0xCF9), 0x0A)
	wantPort(t, "debug exit", e.in(0xF4), 0x00)
}

func TestExitPortsRejectState(t *testing.T) {
	bad := &exitPorts{end: vmm.End{Kind: vmm.EndCrash}}
	if err := loadState(newExitPorts(), saveState(t, bad)); err == nil {
		t.Error("restored a crash, want an error")
	}
}

func FuzzExitPorts(f *testing.F) {
	ports := [...]uint16{0xF4, 0xF7, 0xB004, 0xB005, 0x92, 0xCF9}
	fuzzDevice(f, func() specimen {
		e := newExitPorts()
		return specimen{e, nil, func(op, x, y uint8) (v uint64) {
			port := ports[int(x)%len(ports)]
			if op&1 == 0 {
				v = uint64(e.in(port))
			} else {
				e.out(port, y)
			}
			end, _ := e.ended()
			return v<<32 ^ uint64(end.Kind)<<16 ^ uint64(end.Code)
		}}
	},
		"",
		"\x01\x04\x02\x00\x04\x00\x01\x05\x02\x01\x05\x06\x00\x05\x00\x01\x00\x07",
	)
}
