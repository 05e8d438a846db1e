package devices

import (
	"testing"

	"ftvm/vmm"
)

func TestPCIConfigAddress(t *testing.T) {
	g := newGuest(t, testDisk)
	g.out(pciConfigAddress, 4, 0xFFFF_FFFF)
	if v := g.in(pciConfigAddress, 4); v != pciAddressMask {
		t.Errorf("CONFIG_ADDRESS %#x, want %#x", v, pciAddressMask)
	}
	// How Linux looks for mechanism 1.
	g.out(pciConfigAddress+3, 1, 1)
	g.out(pciConfigAddress, 4, pciEnable)
	if v := g.in(pciConfigAddress, 4); v != pciEnable {
		t.Errorf("CONFIG_ADDRESS %#x, want %#x", v, uint32(pciEnable))
	}
	if v := g.in(pciConfigAddress, 2); v != 0xFFFF&(g.in(pciConfigAddress, 1)|g.in(pciConfigAddress+1, 1)<<8) {
		t.Errorf("a 2-byte read at CF8 (%#x) is not two of 1 byte", v)
	}
	for _, tt := range []struct {
		what    string
		address uint32
		port    uint16
		size    int
		want    uint32
	}{
		{"dword", pciEnable | 1<<11, pciConfigData, 4, 0x1042_1AF4},
		{"high word", pciEnable | 1<<11, pciConfigData + 2, 2, 0x1042},
		{"byte", pciEnable | 1<<11, pciConfigData + 1, 1, 0x1A},
		{"misaligned word", pciEnable | 1<<11, pciConfigData + 1, 2, 0x421A},
		{"word over the end", pciEnable | 1<<11, pciConfigData + 3, 2, 0xFF10},
		{"not enabled", 1 << 11, pciConfigData, 4, 0xFFFF_FFFF},
		{"function 1", pciEnable | 1<<11 | 1<<8, pciConfigData, 4, 0xFFFF_FFFF},
		{"bus 1", pciEnable | 1<<16 | 1<<11, pciConfigData, 4, 0xFFFF_FFFF},
		{"empty slot", pciEnable | 31<<11, pciConfigData, 4, 0xFFFF_FFFF},
		{"last register", pciEnable | 1<<11 | 0xFC, pciConfigData, 4, 0},
	} {
		g.out(pciConfigAddress, 4, tt.address)
		if v := g.in(tt.port, tt.size); v != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.what, v, tt.want)
		}
	}
}

// TestPCIWriteMasks writes ones and zeros everywhere and looks for what changed.
func TestPCIWriteMasks(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1)
	masks := map[int]uint32{
		pciCommand:              pciCommandMemory | pciCommandMaster | pciCommandInterruptDisable,
		pciBAR0:                 0xFFFF_C000,
		pciInterruptLine:        0xFF,
		d.pciCap + pciCapBAR:    0xFF,
		d.pciCap + pciCapOffset: 0xFFFF_FFFF,
		d.pciCap + pciCapLength: 0xFFFF_FFFF,
		d.pciCap + pciCapData:   0xFFFF_FFFF,
	}
	for off := 0; off < 256; off += 4 {
		for slot, mask := range []uint32{0, masks[off]} {
			g.setConfig(slot, off, 4, 0)
			zeros := g.config(slot, off, 4)
			g.setConfig(slot, off, 4, 0xFFFF_FFFF)
			if got := g.config(slot, off, 4) ^ zeros; got != mask {
				t.Errorf("slot %d offset %#x: bits %#x can be changed, want %#x", slot, off, got, mask)
			}
			g.setConfig(slot, off, 4, 0)
		}
	}
}

func TestPCIWindows(t *testing.T) {
	g := newGuest(t, testDisk, testDisk)
	const numQueues = 0x12
	window := func(base uint32) bool { return g.load(vmm.GPA(base)+numQueues, 2) == 1 }

	if window(virtioBARBase) {
		t.Error("the window is decoded before memory is enabled")
	}
	g.setConfig(1, pciCommand, 2, pciCommandMemory)
	if !window(virtioBARBase) {
		t.Error("the window is not where firmware put it")
	}
	if window(virtioBARBase + virtioBARSize) {
		t.Error("slot 2's window is decoded by slot 1's command register")
	}
	for _, base := range []uint32{0xC000_0000, 0xFFFF_C000, 0xFEE0_0000} {
		g.setConfig(1, pciBAR0, 4, base|0x3FFF)
		if v := g.config(1, pciBAR0, 4); v != base {
			t.Errorf("BAR 0 is %#x, want %#x", v, base)
		}
		if !window(base) || window(virtioBARBase) {
			t.Errorf("the window did not move to %#x", base)
		}
	}

	// Both slots at one address: the lower answers.
	second := g.probe(2)
	g.setConfig(2, pciBAR0, 4, 0xFEE0_0000)
	g.store(0xFEE0_0014, 1, statusAcknowledge)
	if a, b := g.b.pci.devices[0].status, g.b.pci.devices[1].status; a != statusAcknowledge || b != 0 {
		t.Errorf("overlapping windows: status %#x and %#x, want slot 1 to answer", a, b)
	}
	g.setConfig(1, pciCommand, 2, 0)
	if second.common = 0xFEE0_0000; second.status() != 0 {
		t.Error("slot 2 does not answer after slot 1's window went away")
	}
}

func FuzzPCI(f *testing.F) {
	f.Add([]byte("\x03\x01\x04\x01\x01\xff\xff\xff\xff\x01\x10\x02\x01\xff\xff\xff\xff\x01\x10\x02\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lockstep(t, data, func(g *guest) func(*script) {
			return func(s *script) {
				slot, off, n := int(s.u8()%5), int(s.u8()), 1<<(s.u8()%3)
				if s.u8()&1 == 0 {
					g.config(slot, off&^(n-1), n)
				} else {
					g.setConfig(slot, off&^(n-1), n, s.u32())
				}
				g.load(virtioBARBase+vmm.GPA(s.u16()), n)
			}
		})
	})
}
