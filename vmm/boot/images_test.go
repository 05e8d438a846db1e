package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bobuhiro11/gokvm/bootparam"
)

// Tiny images of every format, built from the same code.

const base = 0x10_0000 // where their first segment lies

// code is what they consist of: 1 KiB of near calls to one target, which xz's x86
// filter rewrites, and different enough not to vanish in compression.
var code = func() []byte {
	var b []byte
	for i := range uint32(128) {
		b = append(b, byte(i), 0x90, 0xE8)
		b = binary.LittleEndian.AppendUint32(b, 0x400-(i*8+7))
		b = append(b, byte(i*37))
	}
	return b
}()

// part is a program header with its content.
type part struct {
	typ   elf.ProgType
	paddr uint64
	memsz uint64 // 0: as long as data
	data  []byte
}

// virtual is what is added to physical addresses to get the virtual ones.
const virtual = 0xC000_0000

func makeELF(class elf.Class, entry uint64, parts ...part) []byte {
	ident := [elf.EI_NIDENT]byte{0x7F, 'E', 'L', 'F', byte(class), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	size, phsize := binary.Size(elf.Header64{}), binary.Size(elf.Prog64{})
	if class == elf.ELFCLASS32 {
		size, phsize = binary.Size(elf.Header32{}), binary.Size(elf.Prog32{})
	}
	var b, content []byte
	if class == elf.ELFCLASS32 {
		b = pack(b, elf.Header32{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Entry: uint32(entry),
			Phoff: uint32(size), Phentsize: uint16(phsize), Phnum: uint16(len(parts))})
	} else {
		b = pack(b, elf.Header64{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Entry: entry,
			Phoff: uint64(size), Phentsize: uint16(phsize), Phnum: uint16(len(parts))})
	}
	for _, p := range parts {
		off, n := uint64(size+len(parts)*phsize+len(content)), uint64(len(p.data))
		if p.memsz == 0 {
			p.memsz = n
		}
		if class == elf.ELFCLASS32 {
			b = pack(b, elf.Prog32{Type: uint32(p.typ), Off: uint32(off), Vaddr: uint32(p.paddr + virtual),
				Paddr: uint32(p.paddr), Filesz: uint32(n), Memsz: uint32(p.memsz)})
		} else {
			b = pack(b, elf.Prog64{Type: uint32(p.typ), Off: off, Vaddr: p.paddr + virtual, Paddr: p.paddr,
				Filesz: n, Memsz: p.memsz})
		}
		content = append(content, p.data...)
	}
	return append(b, content...)
}

// load is the loadable part of the images: code and some BSS.
func load(data []byte) part {
	return part{typ: elf.PT_LOAD, paddr: base, memsz: uint64(len(data)) + 0x2000, data: data}
}

func note(owner string, typ uint32, desc []byte) part {
	b := pack(nil, []uint32{uint32(len(owner) + 1), uint32(len(desc)), typ})
	for _, field := range [][]byte{[]byte(owner + "\x00"), desc} {
		b = append(b, field...)
		b = append(b, make([]byte, -len(b)&3)...)
	}
	return part{typ: elf.PT_NOTE, data: b}
}

func pvhNote(entry uint32) part { return note("Xen", noteXenPhys32Entry, pack(nil, entry)) }

var linuxNote = note("Linux", 0x100, []byte("6.1.0"))

// multibootFields is a header with address fields for an image that is loaded at base whole.
func multibootFields(at, entry uint32) []byte {
	h := multibootHeader{Magic: multibootMagic, Flags: mbAddresses | mbWantMemory,
		Header: base + at, Load: base, BSSEnd: base + 0x4000, Entry: entry}
	h.Checksum = -h.Magic - h.Flags
	return pack(nil, h)
}

// multibootPlain is a header for ELF files.
func multibootPlain(flags uint32) []byte {
	return pack(nil, []uint32{multibootMagic, flags, -(multibootMagic + flags)})
}

// makeBzImage is a bzImage with two setup sectors, as edit leaves its header.
func makeBzImage(payload []byte, edit func(h *bootparam.SetupHeader)) []byte {
	h := bootparam.SetupHeader{
		SetupSects: 2, BootFlag: 0xAA55, Jump: 0x6AEB, Header: bootparam.MagicSignature, Version: 0x020F,
		KernelVersion: 0x200, LoadFlags: bootparam.LoadedHigh, InitrdAddrMax: 0x7FFF_FFFF, XloadFlags: xlfKernel64,
		CmdlineSize: 2047, PayloadOffset: 16, PayloadLength: uint32(len(payload)),
	}
	if edit != nil {
		edit(&h)
	}
	b := make([]byte, 3*512+16)
	copy(b[0x1F1:], pack(nil, h))
	copy(b[0x400:], "6.1.0-18-amd64 (someone@somewhere) #1 SMP\x00")
	return append(b, payload...)
}

// vmlinuxFile is what testdata/vmlinux.* unpack to.
func vmlinuxFile() []byte { return makeELF(elf.ELFCLASS64, base, load(code), linuxNote) }

// payloads are the commands of Linux's scripts/Makefile.lib, and whether the build
// appends the unpacked size.
var payloads = []struct {
	name, ext, command string
	sizeAppended       bool
}{
	{"gzip", "gz", "gzip -n -f -9", false},
	{"XZ", "xz", "xz --check=crc32 --x86 --lzma2=dict=32MiB", true},
	{"LZ4", "lz4", "lz4 -l -9 - -", true},
	{"zstd", "zst", "zstd -22 --ultra", true},
	{"bzip2", "bz2", "bzip2 -9", true},
	{"LZMA", "lzma", "xz --format=lzma -9", true},
}

var update = flag.Bool("update", false, "rewrite testdata with this machine's compressors")

// payload is the named payload for a bzImage.
func payload(tb testing.TB, name string) []byte {
	tb.Helper()
	for _, p := range payloads {
		if p.name != name {
			continue
		}
		file := filepath.Join("testdata", "vmlinux."+p.ext)
		if *update {
			args := strings.Fields(p.command)
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdin = bytes.NewReader(vmlinuxFile())
			out, err := cmd.Output()
			if err == nil {
				err = os.WriteFile(file, out, 0o644)
			}
			if err != nil {
				tb.Fatalf("%s: %v", p.command, err)
			}
		}
		b, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		if p.sizeAppended {
			b = binary.LittleEndian.AppendUint32(b, uint32(len(vmlinuxFile())))
		}
		return b
	}
	tb.Fatalf("no payload %q", name)
	return nil
}
