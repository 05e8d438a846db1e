package host

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// AllocCode returns size bytes of memory, outside the Go heap, that may be written and executed. It takes up no more of the
// host's memory than what is written, in huge pages like a guest's RAM. Hosts can forbid this (SELinux's execmem, seccomp, PaX); the error says so.
func AllocCode(size int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("%s of memory for machine code: mmap: %w: this host forbids memory that is writable and executable, or has too little", FormatSize(uint64(size)), err)
	}
	if err := madvise(mem, unix.MADV_HUGEPAGE); err != nil {
		return nil, errors.Join(fmt.Errorf("memory for machine code: %w", err), FreeCode(mem))
	}
	return mem, nil
}

// FreeCode gives back what AllocCode returned. Nothing may execute or touch mem afterwards.
func FreeCode(mem []byte) error {
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("memory for machine code: munmap: %w", err)
	}
	return nil
}
