package host

import (
	"bytes"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAllocRAM(t *testing.T) {
	const size = 4 << 20
	for name, alloc := range map[string]func() ([]byte, error){
		"huge pages": func() ([]byte, error) { return AllocRAM(size) },
		"fixed": func() ([]byte, error) {
			mem, unlocked, err := AllocFixedRAM(size)
			if unlocked != nil {
				t.Log(unlocked) // depends on the machine's limits
			}
			return mem, err
		},
	} {
		t.Run(name, func(t *testing.T) { checkRAM(t, size, alloc) })
	}
}

func checkRAM(t *testing.T, size int, alloc func() ([]byte, error)) {
	mem, err := alloc()
	if err != nil {
		t.Fatal(err)
	}
	if len(mem) != size || !bytes.Equal(mem, make([]byte, size)) {
		t.Errorf("got %d bytes, want %d zero ones", len(mem), size)
	}
	mem[0], mem[size-1] = 1, 2
	if err := FreeRAM(mem); err != nil {
		t.Error(err)
	}
}

// TestAllocFixedRAMUnlocked takes away this thread's right to lock and checks that the
// memory comes nevertheless, with advice.
func TestAllocFixedRAMUnlocked(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	dropCapability(t, unix.CAP_IPC_LOCK)
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	mem, unlocked, err := AllocFixedRAM(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	mentions(t, unlocked, "not locked", "ulimit -l", "CAP_IPC_LOCK")
	if err := FreeRAM(mem); err != nil {
		t.Error(err)
	}
}

func TestAllocRAMBadSizes(t *testing.T) {
	for size, want := range map[uint64]string{
		0:              "multiple of the page size",
		4095:           "multiple of the page size",
		math.MaxUint64: "multiple of the page size",
		1 << 60:        "--mem",
	} {
		_, err := AllocRAM(size)
		mentions(t, err, want)
	}
}
