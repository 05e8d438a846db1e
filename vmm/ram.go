package vmm

import "encoding/binary"

// GPA is a guest physical address.
type GPA uint64

// Guest physical memory has one hole, as on a PC: RAM lies below HoleStart and
// from HoleEnd on; between them are device windows.
const (
	HoleStart GPA = 0xC000_0000
	HoleEnd   GPA = 0x1_0000_0000
	PageSize      = 4096
)

// RAM is the guest's physical memory. Every write that is not the CPU's own goes
// through its methods, so that one place knows what the machine changed.
type RAM struct {
	mem  []byte
	low  []byte // guest physical 0 up to HoleStart
	high []byte // guest physical HoleEnd and up

	watch func(addr GPA, n uint64)
}

// NewRAM makes mem, whose length is a multiple of PageSize, the guest's memory.
// The first 3 GiB lie at address 0, the rest at 4 GiB.
func NewRAM(mem []byte) *RAM {
	r := &RAM{mem: mem, low: mem}
	if uint64(len(mem)) > uint64(HoleStart) {
		r.low, r.high = mem[:HoleStart], mem[HoleStart:]
	}
	return r
}

// Size is the number of bytes of guest memory.
func (r *RAM) Size() uint64 { return uint64(len(r.mem)) }

// Regions calls f for each contiguous stretch of memory, lowest address first.
func (r *RAM) Regions(f func(start GPA, mem []byte)) {
	f(0, r.low)
	if len(r.high) > 0 {
		f(HoleEnd, r.high)
	}
}

// View returns the n bytes at addr for reading, or nil if they are not all in one
// region of RAM. The caller must not write through it.
func (r *RAM) View(addr GPA, n uint64) []byte {
	mem := r.low
	if addr >= HoleEnd {
		mem, addr = r.high, addr-HoleEnd
	}
	size := uint64(len(mem))
	if uint64(addr) > size || n > size-uint64(addr) {
		return nil
	}
	return mem[addr : uint64(addr)+n : uint64(addr)+n]
}

// Read fills p from addr and reports whether all of it lies in RAM; if not, p is
// unchanged.
func (r *RAM) Read(addr GPA, p []byte) bool {
	v := r.View(addr, uint64(len(p)))
	if v == nil {
		return false
	}
	copy(p, v)
	return true
}

// Write stores p at addr and reports whether all of it lies in RAM; if not, memory
// is unchanged.
func (r *RAM) Write(addr GPA, p []byte) bool {
	v := r.View(addr, uint64(len(p)))
	if v == nil {
		return false
	}
	copy(v, p)
	if r.watch != nil && len(p) > 0 {
		r.watch(addr, uint64(len(p)))
	}
	return true
}

// Watch makes every Write be followed by a call of f with what was written; nil ends that.
func (r *RAM) Watch(f func(addr GPA, n uint64)) { r.watch = f }

// U16 reads a little-endian 16-bit value; ok is false outside RAM.
func (r *RAM) U16(addr GPA) (v uint16, ok bool) {
	if b := r.View(addr, 2); b != nil {
		return binary.LittleEndian.Uint16(b), true
	}
	return 0, false
}

// U32 reads a little-endian 32-bit value; ok is false outside RAM.
func (r *RAM) U32(addr GPA) (v uint32, ok bool) {
	if b := r.View(addr, 4); b != nil {
		return binary.LittleEndian.Uint32(b), true
	}
	return 0, false
}

// U64 reads a little-endian 64-bit value; ok is false outside RAM.
func (r *RAM) U64(addr GPA) (v uint64, ok bool) {
	if b := r.View(addr, 8); b != nil {
		return binary.LittleEndian.Uint64(b), true
	}
	return 0, false
}
