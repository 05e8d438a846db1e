package devices

import "testing"

// TestI8042Linux follows Linux's probe (i8042_controller_check, i8042_controller_init,
// i8042_check_aux): every answer is there at once, and there is no auxiliary port.
func TestI8042Linux(t *testing.T) {
	k := newI8042()
	status := func() uint8 { return k.in(0x64) }
	command := func(v uint8) { // i8042_wait_write
		t.Helper()
		if status()&0x02 != 0 {
			t.Fatal("input buffer full")
		}
		k.out(0x64, v)
	}
	answer := func(what string, want uint8) { // i8042_wait_read
		t.Helper()
		if status()&0x01 == 0 {
			t.Fatalf("%s: no answer", what)
		}
		wantPort(t, what, k.in(0x60), want)
		if status()&0x01 != 0 {
			t.Fatalf("%s: answer still there", what)
		}
	}
	if status()&0x01 != 0 {
		t.Fatal("output buffer full before anything was asked")
	}
	if status()&0x10 == 0 {
		t.Error("the keyboard is locked")
	}
	command(0xAA)
	answer("self-test", 0x55)
	command(0x20)
	answer("command byte", 0x44)
	command(0x60)
	k.out(0x60, 0x54)
	command(0x20)
	answer("command byte as it was written", 0x54)
	command(0xD3)
	k.out(0x60, 0x5A)
	if status()&0x21 != 0x01 {
		t.Error("auxiliary loop: want the byte, without the auxiliary data bit")
	}
	command(0xA9)
	if status()&0x01 == 0 {
		t.Fatal("auxiliary test: no answer")
	}
	if v := k.in(0x60); v == 0x00 || v == 0xFA || v == 0xFF {
		t.Errorf("auxiliary test answers %#x: taken for a port that works", v)
	}
	command(0xD4)
	k.out(0x60, 0xFF)
	if status()&0x40 == 0 {
		t.Error("a byte to the mouse: no time-out bit")
	}
	answer("a byte to the mouse", 0xFE)
	k.out(0x60, 0xF2)
	answer("a byte to the keyboard", 0xFE)
	if k.resetWanted() {
		t.Error("the probe reset the machine")
	}
}

func TestI8042Commands(t *testing.T) {
	k := newI8042()
	for _, tt := range []struct {
		command, want uint8 // want is the command byte afterwards
	}{{0xAD, 0x54}, {0xA7, 0x74}, {0xAE, 0x64}, {0xA8, 0x44}, {0x00, 0x44}} {
		k.out(0x64, tt.command)
		k.out(0x64, 0x20)
		wantPort(t, "command byte", k.in(0x60), tt.want)
	}
	for _, tt := range []struct{ command, want uint8 }{{0xAB, 0x00}, {0xC0, 0x80}, {0xD0, 0x03}} {
		k.out(0x64, tt.command)
		wantPort(t, "answer", k.in(0x60), tt.want)
	}
	k.out(0x64, 0xD2)
	wantPort(t, "status: the last write was a command", k.in(0x64), 0x1C)
	k.out(0x60, 0x77)
	wantPort(t, "status: the output buffer is full", k.in(0x64), 0x15)
	wantPort(t, "write to the output buffer", k.in(0x60), 0x77)
}

func TestI8042Reset(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write []uint16 // port<<8 | value
		want  bool
	}{
		{"pulse the reset line", []uint16{0x64FE}, true},
		{"pulse all lines", []uint16{0x64F0}, true},
		{"pulse none", []uint16{0x64FF}, false},
		{"pulse another", []uint16{0x64FD}, false},
		{"output port, reset pulled", []uint16{0x64D1, 0x60FE}, true},
		{"output port, A20 on", []uint16{0x64D1, 0x60DF}, false},
		{"output port, command withdrawn", []uint16{0x64D1, 0x6420, 0x60FE}, false},
		{"keyboard reset is not the machine's", []uint16{0x60FE}, false},
	} {
		k := newI8042()
		for _, w := range tt.write {
			k.out(w>>8, uint8(w))
		}
		if got := k.resetWanted(); got != tt.want {
			t.Errorf("%s: reset wanted is %t, want %t", tt.name, got, tt.want)
		}
	}
}

func FuzzI8042(f *testing.F) {
	fuzzDevice(f, func() specimen {
		k := newI8042()
		return specimen{k, nil, func(op, x, y uint8) (v uint64) {
			port := uint16(portI8042Data)
			if x&1 != 0 {
				port = portI8042Command
			}
			if op&1 == 0 {
				v = uint64(k.in(port))
			} else {
				k.out(port, y)
			}
			if k.resetWanted() {
				v |= 1 << 8
			}
			return v
		}}
	},
		"",
		"\x01\x01\xaa\x00\x00\x00\x01\x01\x60\x01\x00\x65\x01\x01\x20\x00\x00\x00",
		"\x01\x01\xd1\x01\x00\xfe\x01\x01\xd3\x00\x01\x00\x01\x00\x5a\x00\x00\x00",
	)
}
