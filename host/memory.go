package host

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// AllocRAM returns size bytes of zeroed memory for a guest's RAM, page-aligned and
// outside the Go heap. size is in bytes, a multiple of the page size.
//
// It is in huge pages where the host has them: the guest runs faster, and above all the host is done sooner with a
// process that was killed. Connections are closed after memory is freed, so that is when the other replica hears of
// it (512 MiB: 3 ms instead of 40).
func AllocRAM(size uint64) ([]byte, error) {
	return allocRAM(size, unix.MADV_HUGEPAGE, unix.MADV_DONTFORK)
}

// AllocFixedRAM is AllocRAM for an engine whose guest sees the host's own paging. With shadow paging page
// tables are walked again after the host dropped or moved a page, and accessed bits are
// set anew. So the host is kept from doing so where a process can ask: no swap, no huge pages
// assembled behind the guest's back, no merging of equal pages. Where the host forbids
// locking, the memory is returned all the same and unlocked says why and what to do.
func AllocFixedRAM(size uint64) (mem []byte, unlocked, err error) {
	// A forked child would make every page copy-on-write, which moves it.
	mem, err = allocRAM(size, unix.MADV_NOHUGEPAGE, unix.MADV_UNMERGEABLE, unix.MADV_DONTFORK)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Mlock(mem); err != nil {
		unlocked = fmt.Errorf("guest memory of %s is not locked: mlock: %w: "+
			"raise the limit with ulimit -l, or give ftvm CAP_IPC_LOCK", FormatSize(size), err)
	}
	return mem, unlocked, nil
}

// allocRAM maps memory and gives the kernel advice about it.
func allocRAM(size uint64, advice ...int) ([]byte, error) {
	if size == 0 || size%uint64(unix.Getpagesize()) != 0 || size > math.MaxInt {
		return nil, fmt.Errorf("guest memory of %s: want a multiple of the page size, %d bytes",
			FormatSize(size), unix.Getpagesize())
	}
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("guest memory of %s: mmap: %w: give the guest less with --mem", FormatSize(size), err)
	}
	if err := madvise(mem, advice...); err != nil {
		return nil, errors.Join(fmt.Errorf("guest memory of %s: %w", FormatSize(size), err), FreeRAM(mem))
	}
	return mem, nil
}

// madvise gives the kernel advice about memory, as far as it is built to take it.
func madvise(mem []byte, advice ...int) error {
	for _, a := range advice {
		// EINVAL: this kernel is built without the feature.
		if err := unix.Madvise(mem, a); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("madvise %d: %w", a, err)
		}
	}
	return nil
}

// FreeRAM gives back what AllocRAM or AllocFixedRAM returned. Nothing may touch mem afterwards.
func FreeRAM(mem []byte) error {
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("guest memory: munmap: %w", err)
	}
	return nil
}
