package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/bobuhiro11/gokvm/bootparam"

	"ftvm/vmm"
)

// Segment descriptors (SDM vol. 3A, 3.4.5), flat and with the accessed bit set, so that
// loading them changes nothing in memory.
const (
	code64 = 0x00AF9B000000FFFF
	code32 = 0x00CF9B000000FFFF
	data32 = 0x00CF93000000FFFF
	tss    = 0x00008B0000000067 // busy, 0x68 bytes at 0
)

// Selectors: boot.rst's __BOOT_CS and __BOOT_DS, and a TSS, which VMX wants to be loaded.
const (
	selCode = 0x10
	selData = 0x18
	selTSS  = 0x20
)

// Architectural bits and values (SDM vol. 3A: 2.5, 2.2.1, 5.12.4, 11.4.4; table 10-1).
const (
	cr0PE, cr0ET, cr0PG = 1 << 0, 1 << 4, 1 << 31
	cr4PAE              = 1 << 5
	eferLME, eferLMA    = 1 << 8, 1 << 10
	rflagsFixed         = 1 << 1
	dr6Reset, dr7Reset  = 0xFFFF0FF0, 0x400
	fcwInit, mxcsrInit  = 0x37F, 0x1F80 // in FXSAVE at 0 and 24
	msrPAT, patReset    = 0x277, 0x0007040600070406
	// apicBaseOff: bootstrap processor, local APIC disabled. The machine has none.
	apicBaseOff = 0xFEE00000 | 1<<8
)

// start is the CPU at its entry, with interrupts off and general registers zero: 64-bit
// with paging (boot.rst, "64-bit Boot Protocol"), or 32-bit without (pvh.pandoc; Multiboot 3.2).
func (w *writer) start(code, entry uint64) *vmm.CPUState {
	gdt := []uint64{selCode / 8: code, selData / 8: data32, selTSS / 8: tss, selTSS/8 + 1: 0}
	w.write(gdtAddr, pack(nil, gdt))
	data := descriptor(selData, data32)
	s := &vmm.CPUState{
		RIP:    entry,
		RFLAGS: rflagsFixed,
		Seg: [6]vmm.Segment{vmm.ES: data, vmm.CS: descriptor(selCode, code), vmm.SS: data,
			vmm.DS: data, vmm.FS: data, vmm.GS: data},
		LDT:      vmm.Segment{Limit: 0xFFFF, Access: 0x82}, // as after reset
		TR:       descriptor(selTSS, tss),
		GDT:      vmm.Table{Base: gdtAddr, Limit: uint16(len(gdt)*8 - 1)},
		CR0:      cr0PE | cr0ET,
		APICBase: apicBaseOff,
		XCR0:     1, // x87, as after reset
		DR6:      dr6Reset,
		DR7:      dr7Reset,
	}
	if code == code64 {
		s.CR0 |= cr0PG
		s.CR3 = tablesAddr
		s.CR4 = cr4PAE
		s.EFER = eferLME | eferLMA
	}
	for i, msr := range vmm.MSRs {
		if msr == msrPAT {
			s.MSR[i] = patReset
		}
	}
	binary.LittleEndian.PutUint16(s.FX[0:], fcwInit)
	binary.LittleEndian.PutUint32(s.FX[24:], mxcsrInit)
	return s
}

// descriptor is the segment register that a descriptor with base 0 loads.
func descriptor(selector uint16, d uint64) vmm.Segment {
	limit := uint32(d&0xFFFF | d>>32&0xF0000)
	access := uint32(d>>40) & 0xF0FF
	if access&vmm.SegG != 0 {
		limit = limit<<12 | 0xFFF
	}
	return vmm.Segment{Selector: selector, Limit: limit, Access: access}
}

// Bits of page table entries (SDM vol. 3A, 5.5). Accessed and dirty are set from
// the start: a CPU may set them speculatively, and memory would then differ between replicas.
const (
	pteTable = 1<<0 | 1<<1 | 1<<5                      // present, writable, accessed
	ptePage  = pteTable | 1<<6 | 1<<7                  // dirty, page size (2 MiB)
	maxGiB   = (tablesEnd-tablesAddr)/vmm.PageSize - 2 // one page directory each, below PML4 and PDPT
)

// pageTables maps the first 4 GiB and all RAM one to one.
func (w *writer) pageTables(memory []bootparam.E820Entry) error {
	last := memory[len(memory)-1]
	gib := (max(last.Addr+last.Size, uint64(vmm.HoleEnd)) + 1<<30 - 1) >> 30
	if gib > maxGiB {
		return fmt.Errorf("%w: its addresses reach up to %d GiB, and at most %d GiB can be mapped: give the guest less (--mem)",
			ErrMemory, gib, uint64(maxGiB))
	}
	le := binary.LittleEndian
	pdpt := uint64(tablesAddr + vmm.PageSize)
	pds := pdpt + vmm.PageSize
	var upper, lower []byte
	for i := range gib {
		upper = le.AppendUint64(upper, pds+i*vmm.PageSize|pteTable)
	}
	for i := range gib * 512 {
		lower = le.AppendUint64(lower, i<<21|ptePage)
	}
	w.write(tablesAddr, le.AppendUint64(nil, pdpt|pteTable))
	w.write(pdpt, upper)
	w.write(pds, lower)
	return nil
}
