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
// The memory is locked. With shadow paging the host's own paging shows in the guest: page
// tables are walked again after the host dropped or moved a page, and accessed bits are
// set anew. So it is kept from doing so where a process can ask: no swap, no huge pages
// assembled behind the guest's back, no merging of equal pages. Where the host forbids
// locking, the memory is returned all the same and unlocked says why and what to do.
func AllocRAM(size uint64) (mem []byte, unlocked, err error) {
	if size == 0 || size%uint64(unix.Getpagesize()) != 0 || size > math.MaxInt {
		return nil, nil, fmt.Errorf("guest memory of %s: want a multiple of the page size, %d bytes",
			FormatSize(size), unix.Getpagesize())
	}
	mem, err = unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("guest memory of %s: mmap: %w: give the guest less with --mem", FormatSize(size), err)
	}
	for _, advice := range []int{
		unix.MADV_NOHUGEPAGE,
		unix.MADV_UNMERGEABLE,
		// A forked child would make every page copy-on-write, which moves it.
		unix.MADV_DONTFORK,
	} {
		// EINVAL: this kernel is built without the feature that we decline.
		if err := unix.Madvise(mem, advice); err != nil && !errors.Is(err, unix.EINVAL) {
			return nil, nil, errors.Join(fmt.Errorf("guest memory of %s: madvise %d: %w", FormatSize(size), advice, err), FreeRAM(mem))
		}
	}
	if err := unix.Mlock(mem); err != nil {
		unlocked = fmt.Errorf("guest memory of %s is not locked: mlock: %w: "+
			"raise the limit with ulimit -l, or give ftvm CAP_IPC_LOCK", FormatSize(size), err)
	}
	return mem, unlocked, nil
}

// FreeRAM gives back what AllocRAM returned. Nothing may touch mem afterwards.
func FreeRAM(mem []byte) error {
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("guest memory: munmap: %w", err)
	}
	return nil
}
