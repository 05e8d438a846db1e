package host

import "testing"

func TestAllocCode(t *testing.T) {
	const size = 1 << 20
	mem, err := AllocCode(size)
	if err != nil {
		t.Skip(err)
	}
	if len(mem) != size {
		t.Errorf("got %d bytes, want %d", len(mem), size)
	}
	mem[0], mem[size-1] = 1, 2
	if err := FreeCode(mem); err != nil {
		t.Error(err)
	}
	if _, err := AllocCode(-1); err == nil {
		t.Error("memory of -1 bytes")
	} else {
		mentions(t, err, "machine code")
	}
}
