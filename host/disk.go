package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// ErrInUse is wrapped by OpenDisk's error if another process has the image open.
var ErrInUse = errors.New("in use by another process")

// Disk is an open disk image: a raw file or a block device.
type Disk struct {
	f        *os.File
	path     string
	size     uint64
	readOnly bool

	mu      sync.Mutex
	order   order
	ready   []*request // may begin, in the order in which they became so
	wake    sync.Cond  // something is ready, or the disk was closed
	idle    int        // workers that wait and were not woken yet
	workers int        // workers that there are
	closed  bool
	done    func(Completion)
	working sync.WaitGroup // the workers

	reporting sync.Mutex // held while done is called
}

// OpenOptions tells OpenDisk what the image is for.
type OpenOptions struct {
	// ReadOnly opens the image for reading: others may read it too, nobody may write.
	ReadOnly bool

	shared bool // not locked, and on a file system; see SharedDisk
}

// OpenDisk opens an image and locks it until Close, or until the process ends, however it
// ends. It looks at the image's size, not at its contents.
func OpenDisk(path string, o OpenOptions) (*Disk, error) {
	d, err := openDisk(path, o)
	if err != nil {
		return nil, fmt.Errorf("disk image %s: %w", path, err)
	}
	return d, nil
}

func openDisk(path string, o OpenOptions) (*Disk, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: create one with: ftvm disk create %s --size 64M", cause(err), path)
	} else if err != nil {
		return nil, cause(err)
	}
	flags := os.O_RDONLY
	if !o.ReadOnly {
		flags = os.O_RDWR
	}
	if o.shared {
		// What the guest believes to be written must not be in the memory of a host that may die.
		flags |= unix.O_DSYNC
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return nil, errors.New("is a directory: name a file in it")
	case mode.IsRegular():
	case mode.Type() == fs.ModeDevice && o.shared:
		return nil, errors.New("is a block device, which cannot be locked against other hosts: share it through an NBD server")
	case mode.Type() == fs.ModeDevice:
		if !o.ReadOnly {
			flags |= unix.O_EXCL // not while it is mounted: open(2)
		}
	default:
		return nil, fmt.Errorf("is neither a regular file nor a block device (mode %v)", mode)
	}
	// The kernel lets root write to files that are marked read-only; their owner meant it.
	if !o.ReadOnly && info.Mode().Perm()&0o222 == 0 {
		return nil, fmt.Errorf("is read-only (mode %v): if the guest may write to it: chmod u+w %s", info.Mode(), path)
	}
	f, err := os.OpenFile(path, flags, 0)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("%w: this user must be able to read it and, for a guest's disk, to write it", cause(err))
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w, or mounted: stop that one, or unmount it", ErrInUse)
	case err != nil:
		return nil, cause(err)
	}
	d := &Disk{f: f, path: path, readOnly: o.ReadOnly}
	d.wake.L = &d.mu
	if !o.shared {
		if err = d.lock(); errors.Is(err, ErrInUse) {
			err = fmt.Errorf("%w: stop that one, or give each replica an image of its own", err)
		}
	}
	if err == nil {
		err = d.measure()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// lock takes the image for this open file alone, or among readers for reading. flock is
// used because the kernel frees it with the process, and tells who holds it.
func (d *Disk) lock() error {
	how := unix.LOCK_EX
	if d.readOnly {
		how = unix.LOCK_SH
	}
	err := unix.Flock(int(d.f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return lockedError{d.path}
	} else if err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	return nil
}

// lockedError is ErrInUse, and finds out who has the image when somebody wants to read it: SharedDisk makes
// hundreds in a second.
type lockedError struct{ path string }

func (e lockedError) Error() string { return ErrInUse.Error() + lockHolder(e.path) }

func (e lockedError) Unwrap() error { return ErrInUse }

// lockHolder says which process holds a lock on an image, or nothing where
// /proc/locks (proc(5)) does not show it.
func lockHolder(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer locks.Close()
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for s := bufio.NewScanner(locks); s.Scan(); {
		// 1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF
		if w := strings.Fields(s.Text()); len(w) >= 6 && w[1] == "FLOCK" && w[5] == inode {
			return " (process " + w[4] + ")"
		}
	}
	return ""
}

// measure finds the size, which for a block device stat does not tell.
func (d *Disk) measure() error {
	end, err := d.f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("finding its size: %w", cause(err))
	}
	d.size = uint64(end)
	switch {
	case d.size == 0:
		return fmt.Errorf("is empty: remove it and create one with: ftvm disk create %s --size 64M", d.path)
	case d.size%vmm.SectorSize != 0:
		return fmt.Errorf("its size, %d bytes, is not a multiple of %d: is it a raw image, and complete?", d.size, vmm.SectorSize)
	}
	return nil
}

// Size is the disk's size in bytes, a multiple of vmm.SectorSize.
func (d *Disk) Size() uint64 { return d.size }

// ReadAt reads the image as it is now, without what was submitted and is not done yet.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.f.ReadAt(p, off) }

// CreateDisk makes a new image of size bytes, all zero and taking no space until it is
// written to. It never touches a file that exists.
func CreateDisk(path string, size uint64) error {
	if err := createDisk(path, size); err != nil {
		return fmt.Errorf("creating disk image %s: %w", path, err)
	}
	return nil
}

func createDisk(path string, size uint64) error {
	if size == 0 || size%vmm.SectorSize != 0 || size > math.MaxInt64 {
		return fmt.Errorf("a size of %s: want a multiple of %d bytes", FormatSize(size), vmm.SectorSize)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it is left as it is; choose another name, or remove it first", cause(err))
	} else if err != nil {
		return cause(err)
	}
	if err := errors.Join(cause(f.Truncate(int64(size))), cause(f.Sync()), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// syncDir makes new names in a directory survive a power cut.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// cause strips operation and path from a file error; ours name both, once.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
