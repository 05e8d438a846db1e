package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newImage creates an image of size bytes and returns its path.
func newImage(t *testing.T, size uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := CreateDisk(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string, o OpenOptions) *Disk {
	t.Helper()
	d, err := OpenDisk(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCreateAndOpen(t *testing.T) {
	const size = 1 << 30
	path := newImage(t, size)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 1<<20 {
		t.Errorf("a new image of 1 GiB takes %d bytes, want next to none", used)
	}
	d := open(t, path, OpenOptions{})
	if d.Size() != size {
		t.Errorf("size is %d, want %d", d.Size(), size)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestCreateDiskRefuses(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there.img")
	if err := os.WriteFile(there, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		size       uint64
		want       []string
	}{
		{"exists", there, 4096, []string{there, "file exists", "left as it is"}},
		{"directory", dir, 4096, []string{dir, "file exists"}},
		{"no directory", filepath.Join(dir, "no", "x.img"), 4096, []string{"no such file or directory"}},
		{"zero", filepath.Join(dir, "x.img"), 0, []string{"multiple of 512"}},
		{"odd", filepath.Join(dir, "x.img"), 1000, []string{"1000", "multiple of 512"}},
		{"beyond int64", filepath.Join(dir, "x.img"), 1 << 63, []string{"multiple of 512"}},
		{"beyond the file system", filepath.Join(dir, "x.img"), 1<<63 - 512, []string{"file too large"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, _ := os.ReadDir(dir)
			err := CreateDisk(c.path, c.size)
			if err == nil && c.size == 1<<63-512 {
				t.Skip("this file system holds files of any size")
			}
			mentions(t, err, c.want...)
			if after, _ := os.ReadDir(dir); len(after) != len(before) {
				t.Errorf("%d files are there, want %d", len(after), len(before))
			}
		})
	}
	if got, _ := os.ReadFile(there); string(got) != "precious" {
		t.Errorf("the file that existed holds %q", got)
	}
}

func TestOpenDiskBadImages(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		options    OpenOptions
		want       []string
	}{
		{"missing", filepath.Join(dir, "none.img"), OpenOptions{}, []string{"none.img", "no such file", "ftvm disk create"}},
		{"directory", dir, OpenOptions{}, []string{"is a directory"}},
		{"read-only", file("ro.img", 4096, 0o444), OpenOptions{}, []string{"read-only", "chmod u+w"}},
		{"empty", file("empty.img", 0, 0o644), OpenOptions{}, []string{"is empty", "ftvm disk create"}},
		{"odd size", file("odd.img", 1000, 0o644), OpenOptions{}, []string{"1000 bytes", "multiple of 512"}},
		{"pipe", fifo, OpenOptions{}, []string{"neither a regular file nor a block device"}},
		{"terminal", "/dev/null", OpenOptions{}, []string{"neither a regular file nor a block device"}},
		{"symlink loop", loop, OpenOptions{}, []string{"too many levels"}},
		{"file for directory", filepath.Join(dir, "odd.img", "x"), OpenOptions{}, []string{"not a directory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := OpenDisk(c.path, c.options)
			mentions(t, err, append(c.want, "disk image "+c.path)...)
			if err != nil && strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("error %q has more than one line", err)
			}
		})
	}
}

// TestOpenDiskForbidden is the read-only image of somebody who is not root.
func TestOpenDiskForbidden(t *testing.T) {
	path := newImage(t, 4096)
	if err := os.Chmod(path, 0o020); err != nil {
		t.Fatal(err)
	}
	dropCapability(t, unix.CAP_DAC_OVERRIDE)
	_, err := OpenDisk(path, OpenOptions{})
	mentions(t, err, path, "permission denied", "must be able to read it")
}

func TestLock(t *testing.T) {
	path := newImage(t, 4096)
	rw, ro := OpenOptions{}, OpenOptions{ReadOnly: true}
	for _, c := range []struct {
		first, second OpenOptions
		ok            bool
	}{
		{rw, rw, false}, {rw, ro, false}, {ro, rw, false}, {ro, ro, true},
	} {
		first := open(t, path, c.first)
		second, err := OpenDisk(path, c.second)
		if c.ok {
			if err != nil {
				t.Errorf("%+v after %+v: %v", c.second, c.first, err)
				continue
			}
			second.Close()
		} else {
			mentions(t, err, path, fmt.Sprintf("(process %d)", os.Getpid()), "stop that one")
			if !errors.Is(err, ErrInUse) {
				t.Errorf("%+v after %+v: %v is not ErrInUse", c.second, c.first, err)
			}
		}
		first.Close()
	}
	open(t, path, rw).Close() // the locks are gone with their files
}

// privateTmpfs mounts a small file system that only the test's thread sees, which ends
// with the test, and returns its directory.
func privateTmpfs(t *testing.T, options string) string {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Skipf("a mount namespace for the test: unshare: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Skipf("a mount namespace for the test: making it private: %v", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
