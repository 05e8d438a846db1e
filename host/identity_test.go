package host

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func identity(t *testing.T, path string) Identity {
	t.Helper()
	d := open(t, path, OpenOptions{ReadOnly: true})
	defer d.Close()
	id, err := d.Identity(nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestIdentityOfHoles: a file with holes and one without, with the same bytes, are the same disk.
func TestIdentityOfHoles(t *testing.T) {
	const size = 8<<20 + 512*3 // the last chunk is a short one
	for name, offsets := range map[string][]int64{
		"nothing":        nil,
		"first byte":     {0},
		"last byte":      {size - 1},
		"second chunk":   {1 << 20},
		"before a chunk": {3<<20 - 1},
		"several":        {5000, 2<<20 + 17, 2<<20 + 900_000, 7 << 20, size - 600},
		"in the tail":    {8 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			sparse := newImage(t, size)
			full := filepath.Join(t.TempDir(), "full.img")
			content := make([]byte, size)
			f, err := os.OpenFile(sparse, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			for i, off := range offsets {
				content[off] = byte(i + 1)
				if _, err := f.WriteAt(content[off:off+1], off); err != nil {
					t.Fatal(err)
				}
			}
			f.Close()
			if err := os.WriteFile(full, content, 0o644); err != nil {
				t.Fatal(err)
			}
			a, b := identity(t, sparse), identity(t, full)
			if a != b {
				t.Errorf("sparse: %v\nfull:   %v", a, b)
			}
			if empty := identity(t, newImage(t, size)); (a == empty) != (offsets == nil) {
				t.Errorf("%v, and the empty disk is %v", a, empty)
			}
		})
	}
}

// TestIdentityIsAsDocumented holds the definition still: replicas of different builds compare it.
func TestIdentityIsAsDocumented(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	content := make([]byte, 2<<20+512)
	for i := range content {
		content[i] = byte(i * 7)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	// for o in 0 1 2; do dd if=disk.img bs=1M skip=$o count=1 | sha256sum | xxd -r -p; done | sha256sum
	const want = "2097664, sha256/1MiB dcea2d9f9aa2d2b8ee48b681377646df673227ae9bb7a6a83fb09ba092d8dc78"
	if got := identity(t, path).String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestIdentityDiffers(t *testing.T) {
	if a, b := identity(t, newImage(t, 1<<20)), identity(t, newImage(t, 2<<20)); a == b {
		t.Errorf("disks of 1 and 2 MiB are both %v", a)
	}
}

func TestIdentityProgress(t *testing.T) {
	const size = 300<<20 + 512
	d := open(t, newImage(t, size), OpenOptions{})
	defer d.Close()
	var got []uint64
	if _, err := d.identity(func(done uint64) { got = append(got, done) }, 0); err != nil {
		t.Fatal(err)
	}
	if len(got) < 2 || !slices.IsSorted(got) || got[len(got)-1] != size {
		t.Errorf("progress was %v, want steps up to %d", got, size)
	}
}

// TestIdentityOfAHugeHole would take minutes if holes were read.
func TestIdentityOfAHugeHole(t *testing.T) {
	const size = 256 << 30
	path := newImage(t, size)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		t.Skipf("this file system does not tell where holes are (%v)", err)
	}
	if id := identity(t, path); id.Size != size {
		t.Errorf("size is %d, want %d", id.Size, uint64(size))
	}
}

func TestIdentityOfATruncatedImage(t *testing.T) {
	path := newImage(t, 4<<20)
	d := open(t, path, OpenOptions{})
	defer d.Close()
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	_, err := d.Identity(nil)
	mentions(t, err, path, "ends early")
}

func BenchmarkIdentity(b *testing.B) {
	const size = 64 << 20
	path := filepath.Join(b.TempDir(), "disk.img")
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	d, err := OpenDisk(path, OpenOptions{ReadOnly: true})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	b.SetBytes(size)
	for b.Loop() {
		if _, err := d.Identity(nil); err != nil {
			b.Fatal(err)
		}
	}
}
