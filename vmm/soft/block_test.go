package soft

import (
	"testing"

	"ftvm/vmm"
)

// TestForgetCode drops all decoded code whenever there is something new to decode, in a guest that changes its code, and
// then the page table without telling the TLB: it must not notice.
func TestForgetCode(t *testing.T) {
	const f, g, other = codeAt + 0x1000, codeAt + 0x2000, codeAt + 0x3000
	for _, forgetful := range []bool{false, true} {
		m := newGuest(t)
		if forgetful {
			m.code.limit = 1
		}
		m.put(f, machineCode("81 c0 01 00 00 00 c3"))     // add eax,1; ret
		m.put(g, machineCode("01 c3 c3"))                 // add ebx,eax; ret
		m.put(other, machineCode("81 c0 00 00 01 00 c3")) // add eax,0x10000; ret
		m.halt(
			"b9 e8 03 00 00",                      // mov ecx,1000
			"e8 f6 0f 00 00",                      // call f
			"e8 f1 1f 00 00",                      // call g
			"ff 04 25 02 10 01 00",                // inc dword [f+2]
			"ff c9",                               // dec ecx
			"75 eb",                               // jne to the first call
			"48 c7 04 25 88 40 00 00 07 30 01 00", // mov qword [the entry of f's page],other+7
			"e8 d5 0f 00 00",                      // call f
		)
		m.want("RAX", m.r[vmm.RAX], 1001*1002/2)
		m.want("the sum of all RAX, in 32 bits", m.r[vmm.RBX], 1000*1001*1002/6)
		kept := 0
		for _, p := range m.code.pages {
			if p != nil {
				kept += len(p.blocks)
			}
		}
		if forgetful != (kept <= 1) {
			t.Errorf("forgetful: %v, and %d blocks are kept", forgetful, kept)
		}
	}
}

// TestSlab keeps values of different lengths, across the ends of objects.
func TestSlab(t *testing.T) {
	var s slab[int]
	var all [][]int
	for i := range 3 * maxBlock {
		v := make([]int, i%maxBlock)
		for j := range v {
			v[j] = i
		}
		all = append(all, s.keep(v...))
	}
	for i, v := range all {
		if len(v) != i%maxBlock || cap(v) != len(v) {
			t.Fatalf("slice %d has length %d and capacity %d", i, len(v), cap(v))
		}
		for _, x := range v {
			if x != i {
				t.Fatalf("slice %d holds %d", i, x)
			}
		}
	}
	if want := 3 * maxBlock * (maxBlock - 1) / 2; s.kept != want {
		t.Errorf("it keeps %d values, want %d", s.kept, want)
	}
}
