package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"ftvm/devices"
	"ftvm/vmm"
)

// acpiTables follows the pointers from where a kernel looks, and returns the tables by signature.
func acpiTables(t *testing.T, ram *vmm.RAM) map[string][]byte {
	t.Helper()
	var rsdp uint64
	for at := uint64(0xE0000); at < 0x100000 && rsdp == 0; at += 16 {
		if string(ram.View(vmm.GPA(at), 8)) == "RSD PTR " {
			rsdp = at
		}
	}
	if rsdp == 0 {
		t.Fatal("there is no RSDP")
	}
	root := ram.View(vmm.GPA(rsdp), 36)
	if sum(root[:20]) != 0 || sum(root) != 0 {
		t.Error("the RSDP has a wrong checksum")
	}
	tables := map[string][]byte{}
	get := func(addr uint64) []byte {
		b := ram.View(vmm.GPA(addr), field(ram, addr+4, 4))
		if signature := string(b[:4]); signature != "FACS" && sum(b) != 0 {
			t.Errorf("%s has a wrong checksum", signature)
		}
		if addr < acpiAddr || addr+uint64(len(b)) > lowEnd {
			t.Errorf("%s lies at %#x", b[:4], addr)
		}
		tables[string(b[:4])] = b
		return b
	}
	xsdt := get(le.Uint64(root[24:]))
	for p := xsdt[36:]; len(p) > 0; p = p[8:] {
		get(le.Uint64(p))
	}
	fadt := tables["FACP"]
	expect(t, "X_DSDT", le.Uint64(fadt[140:]), uint64(le.Uint32(fadt[40:])))
	get(le.Uint64(fadt[140:]))
	get(uint64(le.Uint32(fadt[36:])))
	if facs := le.Uint32(fadt[36:]); facs%64 != 0 {
		t.Errorf("the FACS lies at %#x", facs)
	}
	return tables
}

func sum(p []byte) (s uint8) {
	for _, v := range p {
		s += v
	}
	return s
}

// TestACPI: whatever the kernel, it finds all tables, and where the zero page or the PVH information says.
func TestACPI(t *testing.T) {
	code := part{typ: elf.PT_LOAD, paddr: base, data: make([]byte, 64)}
	for _, kernel := range [][]byte{makeELF(elf.ELFCLASS64, base, code, linuxNote), makeELF(elf.ELFCLASS64, base, code, pvhNote(base))} {
		ram := fresh(t, 8*mib)
		mustLoad(t, ram, Image{Kernel: kernel})
		tables := acpiTables(t, ram)
		expect(t, "tables", len(tables), 4)
		at := uint64(infoAddr + 0x70)
		if field(ram, infoAddr, 4) == hvmStartMagic {
			at = infoAddr + 32
		}
		expect(t, "RSDP's address", field(ram, at, 8), 0xE0000)
	}
}

// TestFADT: its fields lie where ACPI 6.5, table 5.9 has them.
func TestFADT(t *testing.T) {
	f := table("FACP", 3, fadt(0x1000, 0x2000, true))
	expect(t, "length", len(f), 244)
	for _, row := range []struct {
		name     string
		at, size int
		want     uint64
	}{
		{"SCI_INT", 46, 2, 9}, {"SMI_CMD", 48, 4, 0},
		{"PM1a_EVT_BLK", 56, 4, 0x600}, {"PM1a_CNT_BLK", 64, 4, 0x604}, {"PM_TMR_BLK", 76, 4, 0x608},
		{"PM1_EVT_LEN", 88, 1, 4}, {"PM1_CNT_LEN", 89, 1, 2}, {"PM_TMR_LEN", 91, 1, 4},
		{"P_LVL2_LAT", 96, 2, 101}, {"CENTURY", 108, 1, 0x32}, {"IAPC_BOOT_ARCH", 109, 2, 0x2F}, {"flags", 112, 4, 0x575},
		{"RESET_REG", 116, 4, 0x01000801}, {"RESET_REG address", 120, 8, 0xCF9}, {"RESET_VALUE", 128, 1, 6},
		{"X_PM1a_EVT_BLK", 148, 4, 0x03002001}, {"X_PM1a_EVT_BLK address", 152, 8, 0x600},
		{"X_PM1a_CNT_BLK", 172, 4, 0x02001001}, {"X_PM1a_CNT_BLK address", 176, 8, 0x604},
		{"X_PM_TMR_BLK", 208, 4, 0x03002001}, {"X_PM_TMR_BLK address", 212, 8, 0x608},
	} {
		var b [8]byte
		copy(b[:], f[row.at:row.at+row.size])
		expect(t, row.name, le.Uint64(b[:]), row.want)
	}
}

// TestAML: what is encoded, against the bytes that iasl makes of the same.
func TestAML(t *testing.T) {
	for _, row := range []struct {
		asl  string
		got  []byte
		want string
	}{
		{"Name (_UID, Zero)", amlName("_UID", amlInt(0)), "085f55494400"},
		{"Name (_UID, 0x12)", amlName("_UID", amlInt(0x12)), "085f5549440a12"},
		{"Name (_UID, 0x1234)", amlName("_UID", amlInt(0x1234)), "085f5549440b3412"},
		{"Name (_UID, 0x12345678)", amlName("_UID", amlInt(0x12345678)), "085f5549440c78563412"},
		{`Name (_HID, EisaId ("PNP0A03"))`, amlName("_HID", amlEISA("PNP0A03")), "085f4849440c41d00a03"},
		{`Name (_HID, EisaId ("PNP0C0F"))`, amlName("_HID", amlEISA("PNP0C0F")), "085f4849440c41d00c0f"},
		{"Package () {One, 0x05}", amlPackage(amlInt(1), amlInt(5)), "120502010a05"},
		{"Buffer () {0xAA}", amlBuffer([]byte{0xAA}), "110301aa"},
		{"Device (ABCD) {}", amlDevice("ABCD"), "5b820541424344"},
		{"IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)", ioPorts(0xCF8, 8), "4701f80cf80c0108"},
		{"WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)", wordSpace(busNumbers, 0, 0, 0),
			"880d00020c0000000000000000000100"},
	} {
		if got := hex.EncodeToString(row.got); got != row.want {
			t.Errorf("%s: got %s, want %s", row.asl, got, row.want)
		}
	}
	for _, n := range []int{0, 62, 63, 4093, 4094, 5000} {
		p := amlLength(make([]byte, n))
		got, skip := amlLengthOf(p)
		if got != len(p) || len(p)-skip != n {
			t.Errorf("a length of %d is encoded as %d with %d bytes for itself", n, got, skip)
		}
	}
}

// amlLengthOf decodes a PkgLength (20.2.4).
func amlLengthOf(p []byte) (length, size int) {
	size = 1 + int(p[0]>>6)
	if size == 1 {
		return int(p[0]), 1
	}
	length = int(p[0] & 0xF)
	for i := 1; i < size; i++ {
		length |= int(p[i]) << (8*i - 4)
	}
	return length, size
}

// TestACPITellsTheBoard: windows and interrupts are those of package devices, for every slot.
func TestACPITellsTheBoard(t *testing.T) {
	var config devices.Config
	for range devices.MaxDevices {
		config.Disks = append(config.Disks, devices.Disk{SizeBytes: 1 << 20})
	}
	board := devices.New(config, vmm.NewRAM(make([]byte, 1<<20)))
	read := func(slot, register uint32) uint64 {
		var b [4]byte
		board.PortOut(0xCF8, binary.LittleEndian.AppendUint32(nil, 1<<31|slot<<11|register))
		board.PortIn(0xCFC, b[:])
		return uint64(le.Uint32(b[:]))
	}
	content := dsdt()
	for slot := uint32(1); slot < pciSlots; slot++ {
		if read(slot, 0)&0xFFFF != 0x1AF4 {
			t.Fatalf("there is no device in slot %d", slot)
		}
		bar := read(slot, 0x10)
		if bar < pciWindow || bar+0x4000 > pciWindow+pciWindowSize {
			t.Errorf("slot %d: the memory window at %#x is outside that of the bridge", slot, bar)
		}
		if bar < uint64(vmm.HoleStart) {
			t.Errorf("slot %d: the memory window at %#x is where RAM may be", slot, bar)
		}
		line := read(slot, 0x3C) & 0xFF
		route := amlPackage(amlInt(uint64(slot)<<16|0xFFFF), amlInt(0), amlInt(0), amlInt(line))
		if !bytes.Contains(content, route) {
			t.Errorf("slot %d: nothing says that its interrupt is %d", slot, line)
		}
	}
}
