package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/bobuhiro11/gokvm/bootparam"

	"ftvm/vmm"
)

const (
	setupRNGSeed    = 9    // SETUP_RNG_SEED
	setupDataHeader = 16   // bytes of struct setup_data before its data
	loaderUndefined = 0xFF // type_of_loader for loaders without a number
	videoNormal     = 0xFFFF
	acpiRSDPAddr    = 0x70 // offset of the field in the zero page
)

// vmlinux is an ELF64 that is entered as the one in a bzImage, but comes without a
// setup header: the limits are those of every 64-bit Linux.
func vmlinux(f *elfFile) *kernel {
	h := bootparam.SetupHeader{
		BootFlag:      0xAA55,
		Header:        bootparam.MagicSignature,
		Version:       bootProtocol,
		LoadFlags:     bootparam.LoadedHigh,
		InitrdAddrMax: 0x7FFF_FFFF,
		XloadFlags:    xlfKernel64,
		CmdlineSize:   2047,
	}
	return &kernel{name: "vmlinux ELF64", protocol: linux, entry: f.entry, segments: f.segments,
		cmdlineMax: uint64(h.CmdlineSize), initrdMax: uint64(h.InitrdAddrMax), header: h}
}

// bootParams is the zero page (zero-page.rst). Everything it points at lies below 4 GiB,
// so the ext_ fields for upper halves stay zero; so do the fields for a screen and EFI,
// which this machine does not have.
func bootParams(header bootparam.SetupHeader, h *handover) ([]byte, error) {
	p := bootparam.BootParam{Hdr: header}
	p.Hdr.VidMode = videoNormal
	p.Hdr.TypeOfLoader = loaderUndefined
	p.Hdr.LoadFlags &^= flagKASLR
	p.Hdr.CmdlinePtr = cmdlineAddr
	p.Hdr.RamdiskImage, p.Hdr.RamdiskSize = 0, uint32(h.initrd.size)
	if h.initrd.size > 0 {
		p.Hdr.RamdiskImage = uint32(h.initrd.addr)
	}
	p.Hdr.SetupData = h.seed
	for _, e := range h.memory {
		p.AddE820Entry(e.Addr, e.Size, e.Type)
	}
	b, err := p.Bytes()
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(b[acpiRSDPAddr:], h.rsdp)
	return b, nil
}

// setupSeed is the struct setup_data with the seed.
func setupSeed(seed []byte) ([]byte, error) {
	if most := vmm.PageSize - setupDataHeader; len(seed) > most {
		return nil, fmt.Errorf("boot: RNG seed of %d bytes; at most %d fit", len(seed), most)
	}
	le := binary.LittleEndian
	b := le.AppendUint64(nil, 0) // next: none
	b = le.AppendUint32(b, setupRNGSeed)
	b = le.AppendUint32(b, uint32(len(seed)))
	return append(b, seed...), nil
}
