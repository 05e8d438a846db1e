package boot

import "encoding/binary"

// hvmStartInfo is struct hvm_start_info, version 1 (start_info.h).
type hvmStartInfo struct {
	Magic, Version, Flags, Modules    uint32
	ModuleList, Cmdline, RSDP, Memory uint64
	MemoryEntries, _                  uint32
}

type hvmModule struct{ Addr, Size, Cmdline, _ uint64 }

type hvmMemory struct {
	Addr, Size uint64
	Type, _    uint32 // the values of E820
}

const hvmStartMagic = 0x336EC578

// startInfo is what EBX points at: hvm_start_info, the list of modules, the memory map.
func startInfo(h *handover) []byte {
	modulesAt := infoAddr + binary.Size(hvmStartInfo{})
	memoryAt := modulesAt + binary.Size(hvmModule{})
	info := hvmStartInfo{Magic: hvmStartMagic, Version: 1, Cmdline: cmdlineAddr, RSDP: h.rsdp,
		Memory: uint64(memoryAt), MemoryEntries: uint32(len(h.memory))}
	if h.initrd.size > 0 {
		info.Modules, info.ModuleList = 1, uint64(modulesAt)
	}
	b := pack(nil, info)
	b = pack(b, hvmModule{Addr: h.initrd.addr, Size: h.initrd.size})
	for _, e := range h.memory {
		b = pack(b, hvmMemory{Addr: e.Addr, Size: e.Size, Type: e.Type})
	}
	return b
}

// pack appends a structure of fixed size, little-endian and without padding.
func pack(b []byte, v any) []byte {
	b, err := binary.Append(b, binary.LittleEndian, v)
	if err != nil {
		panic(err) // v is a type of this package that has no fixed size
	}
	return b
}
