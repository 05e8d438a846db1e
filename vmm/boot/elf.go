package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// elfFile is what a loader wants to know of an ELF file. debug/elf's own reader is not
// used: it is not made for hostile files, and insists on sections.
type elfFile struct {
	class    elf.Class
	entry    uint64 // guest physical
	segments []segment
	linux    bool   // it carries a note of the owner "Linux", as every vmlinux since 4.20
	pvhEntry uint64 // from XEN_ELFNOTE_PHYS32_ENTRY, or 0
}

const (
	noteXenPhys32Entry = 18  // XEN_ELFNOTE_PHYS32_ENTRY
	maxProgramHeaders  = 256 // kernels have about ten; the bound keeps the work linear
)

func parseELF(file []byte) (*elfFile, error) {
	header, programs, err := programHeaders(file)
	if err != nil {
		return nil, err
	}
	f := &elfFile{class: elf.Class(header.Ident[elf.EI_CLASS])}
	virtualEntry := uint64(0)
	for i, p := range programs {
		data := stretch(file, p.Off, p.Filesz)
		switch typ := elf.ProgType(p.Type); {
		case typ != elf.PT_LOAD && typ != elf.PT_NOTE || p.Memsz == 0 && p.Filesz == 0:
			continue
		case data == nil:
			return nil, fmt.Errorf("%w: ELF segment %d lies outside the file", ErrCorrupt, i)
		case typ == elf.PT_NOTE:
			f.readNotes(data, p.Align)
			continue
		case p.Filesz > p.Memsz:
			return nil, fmt.Errorf("%w: ELF segment %d has %d bytes in the file and %d in memory",
				ErrCorrupt, i, p.Filesz, p.Memsz)
		}
		f.segments = append(f.segments, segment{addr: p.Paddr, size: p.Memsz, data: data})
		if header.Entry-p.Paddr < p.Memsz {
			f.entry = header.Entry
		}
		if header.Entry-p.Vaddr < p.Memsz {
			virtualEntry = header.Entry - p.Vaddr + p.Paddr
		}
	}
	if len(f.segments) == 0 {
		return nil, fmt.Errorf("%w: ELF file without a segment to load: is it an object file?", ErrFormat)
	}
	// Linux gives a physical entry address, other kernels that live high a virtual one.
	if f.entry == 0 {
		f.entry = virtualEntry
	}
	return f, nil
}

// programHeaders reads both classes of ELF into the 64-bit form.
func programHeaders(file []byte) (h elf.Header64, programs []elf.Prog64, err error) {
	damaged := fmt.Errorf("%w: ELF header or program headers lie outside the file", ErrCorrupt)
	if len(file) < elf.EI_NIDENT {
		return h, nil, damaged
	}
	le := binary.LittleEndian
	class, wants, programSize := elf.Class(file[elf.EI_CLASS]), elf.EM_X86_64, uint64(binary.Size(elf.Prog64{}))
	switch class {
	case elf.ELFCLASS64:
		if _, err := binary.Decode(file, le, &h); err != nil {
			return h, nil, damaged
		}
	case elf.ELFCLASS32:
		var n elf.Header32
		if _, err := binary.Decode(file, le, &n); err != nil {
			return h, nil, damaged
		}
		h = elf.Header64{Ident: n.Ident, Machine: n.Machine, Entry: uint64(n.Entry), Phoff: uint64(n.Phoff),
			Phentsize: n.Phentsize, Phnum: n.Phnum}
		wants, programSize = elf.EM_386, uint64(binary.Size(elf.Prog32{}))
	default:
		return h, nil, fmt.Errorf("%w: ELF of unknown class %d", ErrCorrupt, class)
	}
	switch {
	case elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB || elf.Machine(h.Machine) != wants:
		return h, nil, fmt.Errorf("%w: %v for %v; this machine runs x86-64", ErrFormat, class, elf.Machine(h.Machine))
	case uint64(h.Phentsize) != programSize && h.Phnum > 0:
		return h, nil, fmt.Errorf("%w: ELF program headers of %d bytes", ErrCorrupt, h.Phentsize)
	case h.Phnum > maxProgramHeaders:
		return h, nil, fmt.Errorf("%w: %d ELF program headers; %d are allowed", ErrCorrupt, h.Phnum, maxProgramHeaders)
	}
	table := stretch(file, h.Phoff, uint64(h.Phnum)*programSize)
	if table == nil {
		return h, nil, damaged
	}
	programs = make([]elf.Prog64, h.Phnum)
	if class == elf.ELFCLASS64 {
		_, err = binary.Decode(table, le, programs)
		return h, programs, err
	}
	narrow := make([]elf.Prog32, h.Phnum)
	_, err = binary.Decode(table, le, narrow)
	for i, p := range narrow {
		programs[i] = elf.Prog64{Type: p.Type, Off: uint64(p.Off), Vaddr: uint64(p.Vaddr), Paddr: uint64(p.Paddr),
			Filesz: uint64(p.Filesz), Memsz: uint64(p.Memsz), Align: uint64(p.Align)}
	}
	return h, programs, err
}

// readNotes looks through one note segment (System V ABI, Note Section). A note that
// ends early ends the search: notes are hints, not needed to load the file.
func (f *elfFile) readNotes(notes []byte, align uint64) {
	if align != 8 {
		align = 4
	}
	for len(notes) >= 12 {
		nameSize := uint64(binary.LittleEndian.Uint32(notes))
		descSize := uint64(binary.LittleEndian.Uint32(notes[4:]))
		typ := binary.LittleEndian.Uint32(notes[8:])
		descAt := (12 + nameSize + align - 1) &^ (align - 1)
		name, desc := stretch(notes, 12, nameSize), stretch(notes, descAt, descSize)
		if name == nil || desc == nil {
			return
		}
		switch owner := string(bytes.TrimRight(name, "\x00")); {
		case owner == "Linux":
			f.linux = true
		case owner == "Xen" && typ == noteXenPhys32Entry && descSize == 4:
			f.pvhEntry = uint64(binary.LittleEndian.Uint32(desc))
		case owner == "Xen" && typ == noteXenPhys32Entry && descSize == 8: // as Linux writes it
			f.pvhEntry = binary.LittleEndian.Uint64(desc)
		}
		next := (descAt + descSize + align - 1) &^ (align - 1)
		notes = notes[min(next, uint64(len(notes))):]
	}
}

// stretch returns b[off:off+n], or nil if that is not all in b.
func stretch(b []byte, off, n uint64) []byte {
	if off > uint64(len(b)) || n > uint64(len(b))-off {
		return nil
	}
	return b[off : off+n : off+n]
}
