package boot

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/bobuhiro11/gokvm/bootparam"
)

// Figures of the Multiboot Specification 0.6.96: 3.1 header, 3.2 machine state, 3.3 information.
const (
	multibootMagic       = 0x1BADB002
	multibootLoaderMagic = 0x2BADB002
	multibootSearch      = 8192 // the header lies in so many first bytes

	// Flags of the header.
	mbAlignModules = 1 << 0
	mbWantMemory   = 1 << 1
	mbAddresses    = 1 << 16 // the address fields are valid
	mbMust         = 0xFFFF  // flags that must be understood

	// Flags of the information.
	mbHasMemory  = 1 << 0
	mbHasCmdline = 1 << 2
	mbHasModules = 1 << 3
	mbHasMap     = 1 << 6
)

// multibootHeader is the header up to the fields about video modes.
type multibootHeader struct {
	Magic, Flags, Checksum               uint32
	Header, Load, LoadEnd, BSSEnd, Entry uint32
}

// findMultiboot returns the offset of the Multiboot header in the image, or -1.
func findMultiboot(image []byte) int {
	le := binary.LittleEndian
	for at := 0; at+12 <= min(len(image), multibootSearch); at += 4 {
		if h := image[at:]; le.Uint32(h) == multibootMagic && le.Uint32(h)+le.Uint32(h[4:])+le.Uint32(h[8:]) == 0 {
			return at
		}
	}
	return -1
}

// parseMultiboot reads an image with a header at offset `at`. f is nil if it is not an ELF file.
func parseMultiboot(image []byte, at int, f *elfFile) (*kernel, error) {
	var h multibootHeader
	n := 12
	if binary.LittleEndian.Uint32(image[at+4:])&mbAddresses != 0 {
		n = binary.Size(h)
	}
	fields := make([]byte, binary.Size(h))
	if copy(fields[:n], image[at:]) < n {
		return nil, fmt.Errorf("%w: Multiboot header at %d ends early", ErrCorrupt, at)
	}
	if _, err := binary.Decode(fields, binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	if unknown := h.Flags & mbMust &^ (mbAlignModules | mbWantMemory); unknown != 0 {
		return nil, fmt.Errorf("%w: Multiboot header wants flags %#x (4 is a video mode), which this machine cannot give",
			ErrFormat, unknown)
	}
	k := &kernel{name: "Multiboot ELF", protocol: multiboot, cmdlineMax: cmdlineRoom, initrdMax: math.MaxUint32}
	switch {
	case h.Flags&mbAddresses != 0:
		// 3.1.3. An end of zero stands for the end of the file, or for no BSS.
		start := int64(at) - (int64(h.Header) - int64(h.Load))
		n := int64(h.LoadEnd) - int64(h.Load)
		if h.LoadEnd == 0 {
			n = int64(len(image)) - start
		}
		data := stretch(image, uint64(start), uint64(n))
		if h.Load > h.Header || data == nil {
			return nil, fmt.Errorf("%w: address fields of the Multiboot header reach outside the file", ErrCorrupt)
		}
		size := max(n, int64(h.BSSEnd)-int64(h.Load))
		k.entry, k.segments = uint64(h.Entry), []segment{{addr: uint64(h.Load), size: uint64(size), data: data}}
		if f == nil {
			k.name = "Multiboot image"
		}
	case f != nil:
		k.entry, k.segments = f.entry, f.segments
	default:
		return nil, fmt.Errorf("%w: a Multiboot image that is no ELF file needs address fields", ErrFormat)
	}
	return k, nil
}

// multibootInformation is the information up to boot_loader_name, and the sizes
// of its parts are those of 3.3.
type multibootInformation struct {
	Flags, MemLower, MemUpper, BootDevice, Cmdline uint32
	Modules, ModuleList                            uint32
	_                                              [4]uint32 // symbols
	MapLength, MapAddr                             uint32
	_                                              [16]uint32 // drives, ROM, loader's name, APM, video
}

type multibootModule struct{ Start, End, String, _ uint32 }

type multibootMemory struct {
	Size        uint32 // of the rest of the entry
	Addr, Bytes uint64
	Type        uint32 // the values of E820
}

// multibootInfo is what EBX points at: the information, the list of modules, the memory map.
func multibootInfo(h *handover) []byte {
	modulesAt := infoAddr + binary.Size(multibootInformation{})
	mapAt := modulesAt + binary.Size(multibootModule{})
	info := multibootInformation{
		Flags:    mbHasMemory | mbHasCmdline | mbHasModules | mbHasMap,
		MemLower: bootparam.EBDAStart >> 10,
		MemUpper: uint32(h.memory[2].Size >> 10), // of the stretch that begins at 1 MiB
		Cmdline:  cmdlineAddr, ModuleList: uint32(modulesAt),
		MapAddr: uint32(mapAt), MapLength: uint32(len(h.memory) * binary.Size(multibootMemory{})),
	}
	if h.initrd.size > 0 {
		info.Modules = 1
	}
	b := pack(nil, info)
	b = pack(b, multibootModule{Start: uint32(h.initrd.addr), End: uint32(h.initrd.addr + h.initrd.size)})
	for _, e := range h.memory {
		b = pack(b, multibootMemory{Size: 20, Addr: e.Addr, Bytes: e.Size, Type: e.Type})
	}
	return b
}
