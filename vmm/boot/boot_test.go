package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/bobuhiro11/gokvm/bootparam"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

const mib = 1 << 20

var le = binary.LittleEndian

// fresh is guest memory that costs nothing until it is touched.
func fresh(tb testing.TB, size int) *vmm.RAM {
	tb.Helper()
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Munmap(mem) })
	return vmm.NewRAM(mem)
}

func mustLoad(tb testing.TB, ram *vmm.RAM, img Image) *vmm.CPUState {
	tb.Helper()
	cpu, err := Load(ram, img)
	if err != nil {
		tb.Fatal(err)
	}
	return cpu
}

func expect[T comparable](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

func expectBytes(tb testing.TB, what string, ram *vmm.RAM, addr uint64, want []byte) {
	tb.Helper()
	if got := ram.View(vmm.GPA(addr), uint64(len(want))); !bytes.Equal(got, want) {
		tb.Errorf("%s at %#x: got %.40x, want %.40x", what, addr, got, want)
	}
}

// field reads n bytes of guest memory as a little-endian number.
func field(ram *vmm.RAM, addr uint64, n int) uint64 {
	var b [8]byte
	ram.Read(vmm.GPA(addr), b[:n])
	return le.Uint64(b[:])
}

func TestLinux(t *testing.T) {
	initrd := bytes.Repeat([]byte("cpio"), 1500)
	seed := bytes.Repeat([]byte{0xA5}, 32)
	for _, tt := range []struct {
		name   string
		size   int
		kernel []byte
		initrd uint64
	}{
		{"vmlinux", 64 * mib, vmlinuxFile(), 64*mib - 0x2000},
		{"bzImage", 64 * mib, makeBzImage(payload(t, "LZ4"), func(h *bootparam.SetupHeader) { h.LoadFlags |= flagKASLR }),
			64*mib - 0x2000},
		{"low initrd limit", 64 * mib, makeBzImage(payload(t, "gzip"),
			func(h *bootparam.SetupHeader) { h.InitrdAddrMax = 0x1FF_FFFF }), 32*mib - 0x2000},
		{"high memory", 3<<30 + 512*mib, vmlinuxFile(), 2<<30 - 0x2000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ram := fresh(t, tt.size)
			cpu := mustLoad(t, ram, Image{Kernel: tt.kernel, Initrd: initrd, Cmdline: "console=ttyS0", RNGSeed: seed})
			zp := cpu.GPR[vmm.RSI]
			expectBytes(t, "code", ram, base, code)
			expectBytes(t, "initrd", ram, tt.initrd, initrd)
			expectBytes(t, "command line", ram, field(ram, zp+0x228, 4), []byte("console=ttyS0\x00"))
			// Offsets of zero-page.rst and boot.rst.
			for _, f := range []struct {
				what string
				off  uint64
				n    int
				want uint64
			}{
				{"sentinel", 0x1EF, 1, 0},
				{"boot_flag", 0x1FE, 2, 0xAA55},
				{"header", 0x202, 4, 0x53726448},
				{"type_of_loader", 0x210, 1, 0xFF},
				{"loadflags", 0x211, 1, 1},
				{"ramdisk_image", 0x218, 4, tt.initrd},
				{"ramdisk_size", 0x21C, 4, 6000},
				{"setup_data", 0x250, 8, seedAddr},
				{"e820[0].type", 0x2D0 + 16, 4, 1},
				{"e820[1].addr", 0x2D0 + 20, 8, 0x9FC00},
				{"e820[1].size", 0x2D0 + 28, 8, 0x60400},
				{"e820[1].type", 0x2D0 + 36, 4, 2},
				{"e820[2].addr", 0x2D0 + 40, 8, mib},
				{"e820[2].size", 0x2D0 + 48, 8, min(uint64(tt.size), 3<<30) - mib},
			} {
				expect(t, f.what, field(ram, zp+f.off, f.n), f.want)
			}
			if tt.size > 3<<30 {
				expect(t, "e820_entries", field(ram, zp+0x1E8, 1), 4)
				expect(t, "e820[3].addr", field(ram, zp+0x2D0+60, 8), 4<<30)
				expect(t, "e820[3].size", field(ram, zp+0x2D0+68, 8), 512*mib)
			} else {
				expect(t, "e820_entries", field(ram, zp+0x1E8, 1), 3)
			}
			expect(t, "setup_data.next", field(ram, seedAddr, 8), 0)
			expect(t, "setup_data.type", field(ram, seedAddr+8, 4), 9)
			expect(t, "setup_data.len", field(ram, seedAddr+12, 4), 32)
			expectBytes(t, "setup_data.data", ram, seedAddr+16, seed)
			checkLongMode(t, ram, cpu)
		})
	}
}

// checkLongMode holds the CPU to boot.rst, "64-bit Boot Protocol".
func checkLongMode(t *testing.T, ram *vmm.RAM, cpu *vmm.CPUState) {
	t.Helper()
	expect(t, "RIP", cpu.RIP, base)
	expect(t, "RFLAGS", cpu.RFLAGS, 2)
	expect(t, "CR0", cpu.CR0, 0x80000011)
	expect(t, "CR4", cpu.CR4, 0x20)
	expect(t, "EFER", cpu.EFER, 0x500)
	expect(t, "CS", cpu.Seg[vmm.CS], vmm.Segment{Selector: 0x10, Limit: 0xFFFFFFFF, Access: 0xA09B})
	for _, i := range []int{vmm.DS, vmm.ES, vmm.SS} {
		expect(t, "data segment", cpu.Seg[i], vmm.Segment{Selector: 0x18, Limit: 0xFFFFFFFF, Access: 0xC093})
	}
	expect(t, "TR", cpu.TR, vmm.Segment{Selector: 0x20, Limit: 0x67, Access: 0x8B})
	expect(t, "GDT limit", cpu.GDT.Limit, 6*8-1)
	expect(t, "GDT[0x10]", field(ram, cpu.GDT.Base+0x10, 8), 0x00AF9B000000FFFF)
	expect(t, "GDT[0x18]", field(ram, cpu.GDT.Base+0x18, 8), 0x00CF93000000FFFF)
	expect(t, "FCW", le.Uint16(cpu.FX[0:]), 0x37F)
	expect(t, "MXCSR", le.Uint32(cpu.FX[24:]), 0x1F80)
	expect(t, "PAT", cpu.MSR[3], 0x0007040600070406)
	end := uint64(4 << 30)
	ram.Regions(func(start vmm.GPA, mem []byte) { end = max(end, uint64(start)+uint64(len(mem))) })
	for _, addr := range []uint64{0, 0x1234, base, 0xC000_0000, 0xFEE0_0123, 1<<32 - 1, end - 1} {
		got, ok := walk(ram, cpu.CR3, addr)
		if !ok || got != addr {
			t.Errorf("linear %#x maps to %#x, %v; want itself", addr, got, ok)
		}
	}
	if _, ok := walk(ram, cpu.CR3, (end+1<<30-1)&^(1<<30-1)); ok {
		t.Errorf("memory is mapped beyond %#x", end)
	}
}

// walk translates through 2 MiB pages, all of which must be accessed and dirty already.
func walk(ram *vmm.RAM, cr3, linear uint64) (uint64, bool) {
	at := cr3
	for shift := 39; shift >= 21; shift -= 9 {
		entry := field(ram, at+linear>>shift&0x1FF*8, 8)
		if want := map[bool]uint64{false: 0x23, true: 0xE3}[shift == 21]; entry&0xFFF != want {
			return entry, false
		}
		at = entry &^ 0xFFF
	}
	return at + linear&(1<<21-1), true
}

func TestPayloads(t *testing.T) {
	for _, p := range payloads {
		t.Run(p.name, func(t *testing.T) {
			ram := fresh(t, 8*mib)
			image := makeBzImage(payload(t, p.name), nil)
			name, err := Identify(image)
			if want := "bzImage 6.1.0-18-amd64 (" + p.name + " payload)"; name != want || err != nil {
				t.Errorf("Identify: got %q, %v, want %q", name, err, want)
			}
			if p.name == "LZMA" {
				if _, err := Load(ram, Image{Kernel: image}); !errors.Is(err, ErrFormat) {
					t.Errorf("got %v, want ErrFormat", err)
				}
				return
			}
			mustLoad(t, ram, Image{Kernel: image})
			expectBytes(t, "code", ram, base, code)
			if got, err := Vmlinux(image, mib); err != nil || !bytes.Equal(got, vmlinuxFile()) {
				t.Errorf("Vmlinux: %d bytes, %v; want the %d of the file", len(got), err, len(vmlinuxFile()))
			}
		})
	}
}

func TestPVH(t *testing.T) {
	for _, class := range []elf.Class{elf.ELFCLASS32, elf.ELFCLASS64} {
		t.Run(class.String(), func(t *testing.T) {
			ram := fresh(t, 16*mib)
			cpu := mustLoad(t, ram, Image{
				Kernel: makeELF(class, base, pvhNote(base+16), load(code)),
				Initrd: []byte("module"), Cmdline: "hello"})
			expectBytes(t, "code", ram, base, code)
			info := cpu.GPR[vmm.RBX]
			expect(t, "magic", field(ram, info, 4), 0x336EC578)
			expect(t, "version", field(ram, info+4, 4), 1)
			expect(t, "nr_modules", field(ram, info+12, 4), 1)
			module := field(ram, info+16, 8)
			expect(t, "module size", field(ram, module+8, 8), 6)
			expectBytes(t, "module", ram, field(ram, module, 8), []byte("module"))
			expectBytes(t, "command line", ram, field(ram, info+24, 8), []byte("hello\x00"))
			expect(t, "memmap_entries", field(ram, info+48, 4), 3)
			memory := field(ram, info+40, 8)
			expect(t, "memmap[2].addr", field(ram, memory+48, 8), mib)
			expect(t, "memmap[2].size", field(ram, memory+56, 8), 15*mib)
			expect(t, "memmap[2].type", field(ram, memory+64, 4), 1)
			checkProtectedMode(t, cpu, base+16)
		})
	}
}

// checkProtectedMode holds the CPU to what PVH and Multiboot (3.2) ask for.
func checkProtectedMode(t *testing.T, cpu *vmm.CPUState, entry uint64) {
	t.Helper()
	expect(t, "RIP", cpu.RIP, entry)
	expect(t, "RFLAGS", cpu.RFLAGS, 2)
	expect(t, "CR0", cpu.CR0, 0x11)
	expect(t, "CR4", cpu.CR4, 0)
	expect(t, "EFER", cpu.EFER, 0)
	expect(t, "CS", cpu.Seg[vmm.CS], vmm.Segment{Selector: 0x10, Limit: 0xFFFFFFFF, Access: 0xC09B})
	expect(t, "SS", cpu.Seg[vmm.SS], vmm.Segment{Selector: 0x18, Limit: 0xFFFFFFFF, Access: 0xC093})
	expect(t, "TR", cpu.TR, vmm.Segment{Selector: 0x20, Limit: 0x67, Access: 0x8B})
}

func TestMultiboot(t *testing.T) {
	inELF := append(multibootPlain(mbAlignModules|mbWantMemory), code...)
	for _, tt := range []struct {
		name, identity string
		kernel         []byte
		entry          uint64
		loaded         []byte
	}{
		{"ELF32", "Multiboot ELF", makeELF(elf.ELFCLASS32, base+12, load(inELF)), base + 12, inELF},
		{"ELF64", "Multiboot ELF", makeELF(elf.ELFCLASS64, base+12, load(inELF)), base + 12, inELF},
		{"virtual entry", "Multiboot ELF", makeELF(elf.ELFCLASS32, virtual+base+12, load(inELF)), base + 12, inELF},
		{"address fields", "Multiboot image", append(multibootFields(0, base+32), code...), base + 32, multibootFields(0, base+32)},
		{"address fields in ELF", "Multiboot ELF",
			makeELF(elf.ELFCLASS64, 0, load(append(multibootFields(120, base+152), code...))), base + 152, []byte(elf.ELFMAG)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if name, err := Identify(tt.kernel); name != tt.identity || err != nil {
				t.Errorf("Identify: got %q, %v, want %q", name, err, tt.identity)
			}
			ram := fresh(t, 3<<30+mib)
			cpu := mustLoad(t, ram, Image{Kernel: tt.kernel, Initrd: []byte("module"), Cmdline: "hello"})
			expectBytes(t, "image", ram, base, tt.loaded)
			expect(t, "RAX", cpu.GPR[vmm.RAX], 0x2BADB002)
			info := cpu.GPR[vmm.RBX]
			expect(t, "flags", field(ram, info, 4), 0x4D)
			expect(t, "mem_lower", field(ram, info+4, 4), 639)
			expect(t, "mem_upper", field(ram, info+8, 4), 3<<20-1024)
			expectBytes(t, "command line", ram, field(ram, info+16, 4), []byte("hello\x00"))
			expect(t, "mods_count", field(ram, info+20, 4), 1)
			module := field(ram, info+24, 4)
			expect(t, "module end", field(ram, module+4, 4), field(ram, module, 4)+6)
			expectBytes(t, "module", ram, field(ram, module, 4), []byte("module"))
			expect(t, "mmap_length", field(ram, info+44, 4), 4*24)
			memory := field(ram, info+48, 4)
			expect(t, "mmap[3].size", field(ram, memory+72, 4), 20)
			expect(t, "mmap[3].base_addr", field(ram, memory+76, 8), 4<<30)
			expect(t, "mmap[3].length", field(ram, memory+84, 8), mib)
			expect(t, "mmap[3].type", field(ram, memory+92, 4), 1)
			checkProtectedMode(t, cpu, tt.entry)
		})
	}
}

// TestPrecedence checks the table in the package documentation.
func TestPrecedence(t *testing.T) {
	all := []part{pvhNote(base), linuxNote, load(append(multibootPlain(0), code...))}
	for _, tt := range []struct {
		kernel []byte
		want   string
	}{
		{makeELF(elf.ELFCLASS64, base, all...), "vmlinux ELF64"},
		{makeELF(elf.ELFCLASS32, base, all...), "PVH ELF"},
		{makeELF(elf.ELFCLASS64, base, all[0], all[2]), "PVH ELF"},
		{makeELF(elf.ELFCLASS64, base, all[2]), "Multiboot ELF"},
		{makeELF(elf.ELFCLASS64, base, load(code)), "vmlinux ELF64"},
	} {
		if got, err := Identify(tt.kernel); got != tt.want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, tt.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	vmlinux := vmlinuxFile()
	gz := payload(t, "gzip")
	bz := makeBzImage(gz, nil)
	setup := func(edit func(h *bootparam.SetupHeader)) Image { return Image{Kernel: makeBzImage(gz, edit)} }
	packed := func(payload []byte) Image { return Image{Kernel: makeBzImage(payload, nil)} }
	elf64 := func(entry uint64, parts ...part) Image {
		return Image{Kernel: makeELF(elf.ELFCLASS64, entry, parts...)}
	}
	damaged := func(b []byte, at int, with ...byte) Image {
		b = bytes.Clone(b)
		copy(b[at:], with)
		return Image{Kernel: b}
	}
	resized := func(b []byte, size uint32) Image {
		return packed(le.AppendUint32(bytes.Clone(b[:len(b)-4]), size))
	}
	cut := func(b []byte, n int) Image { return packed(append(bytes.Clone(b[:n]), b[len(b)-4:]...)) }
	whole := part{typ: elf.PT_LOAD, paddr: base, data: code}
	at := func(paddr, memsz uint64) part { return part{typ: elf.PT_LOAD, paddr: paddr, memsz: memsz, data: code} }
	initrd := func(kernel []byte, n int) Image { return Image{Kernel: kernel, Initrd: make([]byte, n)} }
	const ramSize = 8 * mib
	for _, tt := range []struct {
		name string
		img  Image
		err  error
		says string
	}{
		{"nothing", Image{}, ErrFormat, "no x86 bzImage"},
		{"text", Image{Kernel: []byte(strings.Repeat("#!/bin/sh\n", 1000))}, ErrFormat, "no x86 bzImage"},

		{"ELF cut in header", Image{Kernel: vmlinux[:40]}, ErrCorrupt, "outside the file"},
		{"ELF32 cut in header", damaged(vmlinux[:40], elf.EI_CLASS, byte(elf.ELFCLASS32)), ErrCorrupt, "outside the file"},
		{"ELF cut in identification", Image{Kernel: vmlinux[:10]}, ErrCorrupt, "outside the file"},
		{"ELF cut in program headers", Image{Kernel: vmlinux[:100]}, ErrCorrupt, "outside the file"},
		{"ELF cut in segment", Image{Kernel: vmlinux[:500]}, ErrCorrupt, "segment 0 lies outside the file"},
		{"ELF of unknown class", damaged(vmlinux, elf.EI_CLASS, 7), ErrCorrupt, "unknown class 7"},
		{"ELF big-endian", damaged(vmlinux, elf.EI_DATA, byte(elf.ELFDATA2MSB)), ErrFormat, "x86-64"},
		{"ELF for arm64", damaged(vmlinux, 18, byte(elf.EM_AARCH64)), ErrFormat, "EM_AARCH64"},
		{"ELF with odd program headers", damaged(vmlinux, 54, 57), ErrCorrupt, "program headers of 57 bytes"},
		{"ELF with many program headers", damaged(vmlinux, 56, 1, 1), ErrCorrupt, "257 ELF program headers"},
		{"ELF with program headers far off", damaged(vmlinux, 32, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF), ErrCorrupt, "outside the file"},
		{"ELF without segments", elf64(base), ErrFormat, "without a segment"},
		{"ELF32 without a way in", Image{Kernel: makeELF(elf.ELFCLASS32, base, whole)}, ErrFormat, "PVH note"},
		{"ELF with filesz over memsz", elf64(base, at(base, 8)), ErrCorrupt, "1024 bytes in the file and 8 in memory"},
		{"ELF over boot data", elf64(base, whole, at(0x8000, 0)), ErrMemory, "link the kernel at 1 MiB"},
		{"ELF beyond memory", elf64(base, whole, at(ramSize-512, 0)), ErrMemory, "--mem"},
		{"ELF in the hole", elf64(base, whole, at(0xD000_0000, 0)), ErrMemory, "--mem"},
		{"ELF beyond the address space", elf64(base, whole, at(1<<63, 1<<63)), ErrMemory, "--mem"},
		{"ELF with huge BSS", elf64(base, at(base, 1<<40)), ErrMemory, "--mem"},
		{"ELF with overlapping segments", elf64(base, at(base+1023, 0), whole), ErrCorrupt, "overlap"},
		{"ELF with entry outside", elf64(0x20_0000, whole), ErrCorrupt, "no code to enter"},
		{"PVH with entry outside", elf64(base, whole, pvhNote(0x1234_5678)), ErrCorrupt, "no code to enter at 0x12345678"},

		{"Multiboot wants video", Image{Kernel: makeELF(elf.ELFCLASS32, base, load(multibootPlain(4)))}, ErrFormat, "video"},
		{"Multiboot neither ELF nor addresses", Image{Kernel: multibootPlain(0)}, ErrFormat, "address fields"},
		{"Multiboot header cut", Image{Kernel: multibootFields(0, base)[:16]}, ErrCorrupt, "ends early"},
		{"Multiboot header before file", Image{Kernel: multibootFields(64, base)}, ErrCorrupt, "outside the file"},
		{"Multiboot entry outside", Image{Kernel: multibootFields(0, 0)}, ErrCorrupt, "no code to enter"},

		{"bzImage cut in header", Image{Kernel: bz[:0x206]}, ErrFormat, "old protocol"},
		{"bzImage cut in payload", Image{Kernel: bz[:len(bz)-1]}, ErrCorrupt, "is the file complete?"},
		{"bzImage of old protocol", setup(func(h *bootparam.SetupHeader) { h.Version = 0x20B }), ErrFormat, "boot protocol 2.11"},
		{"bzImage of 32 bits", setup(func(h *bootparam.SetupHeader) { h.XloadFlags = 0 }), ErrFormat, "64-bit entry"},
		{"bzImage without payload", setup(func(h *bootparam.SetupHeader) { h.PayloadLength = 0 }), ErrCorrupt, "payload of 0"},
		{"bzImage with payload far off", setup(func(h *bootparam.SetupHeader) { h.PayloadOffset = 1<<32 - 1 }), ErrCorrupt, "is the file complete?"},
		{"bzImage of unknown compression", setup(func(h *bootparam.SetupHeader) { h.PayloadOffset = 0 }), ErrCorrupt, "no known compression"},
		{"bzImage with LZO", packed([]byte("\x89LZO\x00\x0D\x0A\x1A\x0A")), ErrFormat, "LZO payload) is not supported"},
		{"bzImage with LZMA", packed(payload(t, "LZMA")), ErrFormat, "LZMA payload) is not supported"},
		{"bzImage with cut stream", cut(gz, 99), ErrCorrupt, "corrupt input"},
		{"bzImage without sum", cut(gz, len(gz)-8), ErrCorrupt, "unexpected EOF"},
		{"bzImage with flipped bit", damaged(bz, 3*512+16+200, bz[3*512+16+200]^1), ErrCorrupt, "gzip payload"},
		{"bzImage longer than it says", resized(payload(t, "LZ4"), 100), ErrCorrupt, "the 100 bytes it announces"},
		{"bzImage shorter than it says", resized(payload(t, "zstd"), 100000), ErrCorrupt, "the 100000 bytes it announces"},
		{"bzImage larger than memory", resized(payload(t, "XZ"), 1<<31), ErrMemory, "2048 MiB"},
		{"bzImage with no ELF", packed([]byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00\x00\x00\x00\x00")), ErrCorrupt, "outside the file"},

		{"initrd too large", initrd(vmlinux, ramSize), ErrMemory, "initrd of 8192 KiB"},
		{"initrd under the kernel", initrd(vmlinux, ramSize-base-0x2000), ErrMemory, "kernel's end at 0x103000"},
		{"initrd limit under the kernel", Image{Initrd: []byte{1},
			Kernel: makeBzImage(gz, func(h *bootparam.SetupHeader) { h.InitrdAddrMax = base })}, ErrMemory, "smaller initrd"},
		{"command line too long", Image{Kernel: vmlinux, Cmdline: strings.Repeat("x", 2048)}, ErrCmdline, "takes 2047"},
		{"command line too long for the room", Image{Cmdline: strings.Repeat("x", 0xC000),
			Kernel: makeBzImage(gz, func(h *bootparam.SetupHeader) { h.CmdlineSize = 1 << 20 })}, ErrCmdline, "takes 49151"},
		{"command line with NUL", Image{Kernel: vmlinux, Cmdline: "quiet\x00init=/bin/sh"}, ErrCmdline, "NUL at byte 5"},
		{"RNG seed too long", Image{Kernel: vmlinux, RNGSeed: make([]byte, 4081)}, nil, "at most 4080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(fresh(t, ramSize), tt.img)
			if err == nil || tt.err != nil && !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v; want %v, saying %q", err, tt.err, tt.says)
			}
		})
	}
}

func TestMemorySizes(t *testing.T) {
	for _, tt := range []struct {
		size int
		want error
	}{
		{0, ErrMemory},
		{mib, ErrMemory},
		{mib + 0x3000, nil},
		{140 << 30, nil},
		{140<<30 + vmm.PageSize, ErrMemory},
	} {
		ram := vmm.NewRAM(nil)
		if tt.size > 0 {
			ram = fresh(t, tt.size)
		}
		if _, err := Load(ram, Image{Kernel: vmlinuxFile()}); !errors.Is(err, tt.want) {
			t.Errorf("%#x bytes of memory: got %v, want %v", tt.size, err, tt.want)
		}
	}
}

// TestTruncated cuts every kind of image everywhere.
func TestTruncated(t *testing.T) {
	mem := make([]byte, 2*mib)
	for _, image := range samples(t) {
		for n := range image {
			clear(mem)
			Load(vmm.NewRAM(mem), Image{Kernel: image[:n:n]})
		}
	}
}

// samples has one image of each format.
func samples(tb testing.TB) [][]byte {
	images := [][]byte{
		vmlinuxFile(),
		makeELF(elf.ELFCLASS32, base, pvhNote(base), load(code)),
		makeELF(elf.ELFCLASS32, base+12, load(append(multibootPlain(3), code...))),
		append(multibootFields(0, base+32), code...),
	}
	for _, p := range payloads {
		images = append(images, makeBzImage(payload(tb, p.name), nil))
	}
	return images
}

func FuzzLoad(f *testing.F) {
	for _, image := range samples(f) {
		f.Add(image, 100, "console=ttyS0")
	}
	const size, guard = 2 * mib, vmm.PageSize
	buf := make([]byte, size+guard)
	f.Fuzz(func(t *testing.T, kernel []byte, initrdSize int, cmdline string) {
		clear(buf)
		ram := vmm.NewRAM(buf[:size])
		initrd := make([]byte, uint(initrdSize)%(4*mib))
		cpu, err := Load(ram, Image{Kernel: kernel, Initrd: initrd, Cmdline: cmdline, RNGSeed: []byte{1}})
		if !bytes.Equal(buf[size:], make([]byte, guard)) {
			t.Error("wrote beyond RAM")
		}
		if err == nil && (cpu.RIP < tablesEnd || cpu.RIP >= size) {
			t.Errorf("entry at %#x is outside RAM", cpu.RIP)
		}
		if name, nameErr := Identify(kernel); err == nil && (nameErr != nil || name == "") {
			t.Errorf("loaded, but Identify says %q, %v", name, nameErr)
		}
	})
}

// TestKernel loads a real kernel: FTVM_TEST_KERNEL=/boot/vmlinuz go test -run TestKernel -v
func TestKernel(t *testing.T) {
	file := os.Getenv("FTVM_TEST_KERNEL")
	if file == "" {
		t.Skip("FTVM_TEST_KERNEL does not name a bzImage or vmlinux")
	}
	kernel, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	name, err := Identify(kernel)
	if err != nil {
		t.Fatal(err)
	}
	ram := fresh(t, 512*mib)
	cpu := mustLoad(t, ram, Image{Kernel: kernel, Initrd: make([]byte, mib), Cmdline: "console=ttyS0"})
	if bytes.Equal(ram.View(vmm.GPA(cpu.RIP), 16), make([]byte, 16)) {
		t.Errorf("no code at the entry %#x", cpu.RIP)
	}
	t.Logf("%s is a %s\n%s", file, name, cpu)
}
