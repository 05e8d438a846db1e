package oracle

import "encoding/binary"

// The linear address space of a case. All of it lies below 2 GiB, so that every form of addressing reaches it.
const (
	PageSize = 4096

	// CodeBase is where code is: CodePages pages, executable and read-only. They hold CodeFill,
	// except where the instruction is.
	CodeBase  = 0x1000_0000
	CodePages = 2
	CodeSize  = CodePages * PageSize

	// CodeFill is HLT, which faults at CPL 3.
	CodeFill = 0xf4

	// DataBase is where data is: DataPages pages, writable but for page DataReadOnly, and not executable.
	DataBase     = 0x2000_0000
	DataPages    = 4
	DataSize     = DataPages * PageSize
	DataReadOnly = 2
)

// Segment is a segment register as every case finds it.
type Segment struct {
	Selector uint16
	Base     uint32
	Limit    uint32 // in bytes, less one
}

// Segments are the data segments, in the order of their encoding; CS (1) is Case.Mode's.
// ES, SS, DS, FS and GS are writable 32-bit data segments with DPL 3, already accessed. FS and GS come from entries 0 and 1 of
// the local descriptor table, which has two.
var Segments = [6]Segment{
	{Selector: 0x2b, Limit: 0xffff_ffff},
	{Limit: 0xffff_ffff},
	{Selector: 0x2b, Limit: 0xffff_ffff},
	{Selector: 0x2b, Limit: 0xffff_ffff},
	{Selector: 0x07, Limit: 0xffff_ffff, Base: fsBase},
	{Selector: 0x0f, Limit: gsLimit, Base: gsBase},
}

const (
	fsBase  = DataBase + 0x340
	gsBase  = DataBase - 0x800
	gsLimit = 0x2fff // ends within the read-only page
)

// Pristine is what the data area holds, but for the patches of a case: a fixed pattern without a
// zero byte.
func Pristine() []byte {
	p := make([]byte, DataSize)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], mix(uint64(i))|0x0101_0101_0101_0101)
	}
	return p
}

// mix is a fixed hash of x (a round of multiplication and shift, twice).
func mix(x uint64) uint64 {
	for range 2 {
		x = (x + 0x632b_e59b_d9b4_e019) * 0xd6e8_feb8_6659_fd93
		x ^= x >> 32
	}
	return x
}
