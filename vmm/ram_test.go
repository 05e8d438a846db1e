package vmm_test

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

type access struct {
	addr vmm.GPA
	n    uint64
	ok   bool
}

func check(t *testing.T, ram *vmm.RAM, table []access) {
	t.Helper()
	for _, a := range table {
		v := ram.View(a.addr, a.n)
		if ok := v != nil; ok != a.ok || ok && uint64(len(v)) != a.n {
			t.Errorf("View(%#x, %#x) has %d bytes, ok %v; want ok %v", a.addr, a.n, len(v), ok, a.ok)
		}
		if cap(v) != len(v) {
			t.Errorf("View(%#x, %#x) lets its caller append over what follows", a.addr, a.n)
		}
	}
}

func TestRAM(t *testing.T) {
	const size = 2 * vmm.PageSize
	mem := make([]byte, size)
	ram := vmm.NewRAM(mem)
	if ram.Size() != size {
		t.Errorf("Size = %d", ram.Size())
	}
	check(t, ram, []access{
		{0, 1, true}, {0, size, true}, {0, size + 1, false}, {size - 1, 1, true}, {size - 1, 2, false}, {size, 1, false},
		{1, math.MaxUint64, false}, {0, math.MaxUint64, false}, {size - 1, math.MaxUint64 - size + 2, false},
		{math.MaxUint64, 1, false}, {math.MaxUint64, math.MaxUint64, false}, {math.MaxUint64, 2, false},
		{vmm.HoleStart, 1, false}, {vmm.HoleEnd - 1, 1, false}, {vmm.HoleEnd, 1, false}, {vmm.HoleEnd, math.MaxUint64, false},
	})

	if !ram.Write(4, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Error("a write in RAM failed")
	}
	if v, ok := ram.U16(4); v != 0x0201 || !ok {
		t.Errorf("U16 = %#x, %v", v, ok)
	}
	if v, ok := ram.U32(5); v != 0x05040302 || !ok {
		t.Errorf("U32 = %#x, %v", v, ok)
	}
	if v, ok := ram.U64(4); v != 0x0807060504030201 || !ok {
		t.Errorf("U64 = %#x, %v", v, ok)
	}
	p := []byte{9, 9, 9}
	if !ram.Read(10, p) || string(p) != "\x07\x08\x00" {
		t.Errorf("Read gives % x", p)
	}

	// An access that is not wholly in RAM changes nothing on either side.
	if ram.Write(size-1, []byte{1, 2}) || mem[size-1] != 0 {
		t.Errorf("a write over the end of RAM wrote %d", mem[size-1])
	}
	if ram.Read(size-2, p) || string(p) != "\x07\x08\x00" {
		t.Errorf("a read over the end of RAM read % x", p)
	}
	if _, ok := ram.U16(size - 1); ok {
		t.Error("U16 over the end of RAM")
	}
	if _, ok := ram.U32(size - 3); ok {
		t.Error("U32 over the end of RAM")
	}
	if _, ok := ram.U64(math.MaxUint64 - 3); ok {
		t.Error("U64 over the end of all")
	}
}

// TestRAMHole: memory over 3 GiB goes on at 4 GiB, and no access crosses the hole. Of the memory
// only what is touched exists.
func TestRAMHole(t *testing.T) {
	const above = 2 * vmm.PageSize
	mem, err := unix.Mmap(-1, 0, int(vmm.HoleStart)+above, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		t.Skipf("this host has no room for 3 GiB of addresses: %v", err)
	}
	defer func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	}()
	ram := vmm.NewRAM(mem)
	if ram.Size() != uint64(vmm.HoleStart)+above {
		t.Errorf("Size = %#x", ram.Size())
	}
	check(t, ram, []access{
		{vmm.HoleStart - 1, 1, true}, {vmm.HoleStart - 1, 2, false}, {vmm.HoleStart, 1, false},
		{vmm.HoleStart - 1, uint64(vmm.HoleEnd-vmm.HoleStart) + 2, false},
		{vmm.HoleEnd - 1, 1, false}, {vmm.HoleEnd - 1, 2, false}, {vmm.HoleEnd, 1, true}, {vmm.HoleEnd, above, true},
		{vmm.HoleEnd, above + 1, false}, {vmm.HoleEnd + above - 1, 1, true}, {vmm.HoleEnd + above - 1, 2, false},
		{vmm.HoleEnd + above, 1, false}, {vmm.HoleEnd + 1, math.MaxUint64, false}, {math.MaxUint64, 2, false},
		{0, uint64(vmm.HoleStart), true}, {0, uint64(vmm.HoleStart) + 1, false},
	})
	ram.Write(vmm.HoleEnd, []byte("high"))
	if got := string(mem[vmm.HoleStart:][:4]); got != "high" {
		t.Errorf("what was written at 4 GiB is %q in memory at 3 GiB", got)
	}
	var starts []vmm.GPA
	var sizes []int
	ram.Regions(func(start vmm.GPA, mem []byte) { starts, sizes = append(starts, start), append(sizes, len(mem)) })
	if len(starts) != 2 || starts[0] != 0 || starts[1] != vmm.HoleEnd || sizes[0] != int(vmm.HoleStart) || sizes[1] != above {
		t.Errorf("regions at %#x of %#x bytes", starts, sizes)
	}

	// Memory that ends at the hole has one region.
	starts = nil
	vmm.NewRAM(mem[:vmm.HoleStart]).Regions(func(start vmm.GPA, _ []byte) { starts = append(starts, start) })
	if len(starts) != 1 {
		t.Errorf("3 GiB are regions at %#x", starts)
	}
}
