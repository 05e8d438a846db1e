package soft_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"ftvm/vmm"
	"ftvm/vmm/soft"
)

// TestRepeat checks positions and results of REP MOVS and STOS against a plain model: each element is one
// position, and a count of zero is one as well.
func TestRepeat(t *testing.T) {
	const dataPhys, size = 0x20_0000, 3 * vmm.PageSize
	prefix := code("b9 00 00 00 00 be 00 00 00 00 bf 00 00 00 00") // mov ecx, mov esi, mov edi: to be filled in
	for _, op := range []struct {
		name  string
		bytes string
		width int
		moves bool
	}{
		{"movsb", "f3 a4", 1, true}, {"movsw", "f3 66 a5", 2, true}, {"movsd", "f3 a5", 4, true}, {"movsq", "f3 48 a5", 8, true},
		{"stosb", "f3 aa", 1, false}, {"stosq", "f3 48 ab", 8, false},
	} {
		for _, c := range []struct{ from, to, count int }{
			{0, 0x800, 0}, {0, 0x800, 1}, {0, 0x800, 100}, {0x800, 0, 100},
			{0x100, 0x101, 300}, {0x100, 0x103, 300}, {0x100, 0x108, 300}, {0x101, 0x100, 300}, {0x100, 0x100, 50}, // overlapping
			{0xf01, 0x0, 500}, {0x0, 0xff9, 200}, {0xffd, 0x1ffb, 100}, // across pages
		} {
			text := bytes.Clone(prefix)
			text[1], text[2] = byte(c.count), byte(c.count>>8)
			for i, a := range []int{c.from, c.to} {
				a += dataAddr
				copy(text[5*i+6:], []byte{byte(a), byte(a >> 8), byte(a >> 16)})
			}
			text = append(text, code("bb 2a 00 00 00")...) // mov ebx, 42: not what is repeated
			text = append(text, code(op.bytes, "90 90")...)

			m := program(t, text, soft.Compiled(t))
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(i) ^ byte(i>>8)*7
			}
			m.ram.Write(dataPhys, want)
			rax := m.state(t).GPR[vmm.RAX]
			for i := range c.count {
				element := make([]byte, 8)
				binary.LittleEndian.PutUint64(element, rax)
				if op.moves {
					copy(element, want[c.from+i*op.width:])
				}
				copy(want[c.to+i*op.width:], element[:op.width])
			}
			m.runFor(t, 4+uint64(max(c.count, 1)))
			s := m.state(t)
			if end := uint64(codeAddr + len(text) - 2); s.RIP != end || s.GPR[vmm.RCX] != 0 {
				t.Errorf("%s %+v: RIP %#x, want %#x; RCX %#x", op.name, c, s.RIP, end, s.GPR[vmm.RCX])
			}
			if got := m.ram.View(dataPhys, size); !bytes.Equal(got, want) {
				t.Errorf("%s %+v: memory is wrong", op.name, c)
			}
			if to := uint64(dataAddr + c.to + c.count*op.width); s.GPR[vmm.RDI] != to {
				t.Errorf("%s %+v: RDI %#x, want %#x", op.name, c, s.GPR[vmm.RDI], to)
			}
		}
	}
}
