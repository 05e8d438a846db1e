package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

func openShared(t *testing.T, path string, o OpenOptions) *SharedDisk {
	t.Helper()
	d, err := OpenSharedDisk(path, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSharedDisk: two hosts have it open, one has it.
func TestSharedDisk(t *testing.T) {
	path := newImage(t, 1<<20)
	first, second := openShared(t, path, OpenOptions{}), openShared(t, path, OpenOptions{})
	if err := first.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := OpenDisk(path, OpenOptions{})
	mentions(t, err, "in use")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	mentions(t, second.Acquire(ctx), "acquiring disk image "+path, "enough", "in use", fmt.Sprintf("process %d", os.Getpid()))

	acquired := make(chan error)
	go func() { acquired <- second.Acquire(t.Context()) }()
	for _, c := range perform(t, first, write(0, 0, []byte("from the first  ")), read(1, 0, 16)) { // and closes it
		if c.Err != nil {
			t.Error(c.Err)
		}
	}
	if err := <-acquired; err != nil {
		t.Fatal(err)
	}
	if got := perform(t, second, read(0, 0, 16))[0]; string(got.Data) != "from the first  " {
		t.Errorf("the second reads %q (%v)", got.Data, got.Err)
	}
}

func TestSharedDiskBeforeAcquire(t *testing.T) {
	d := openShared(t, newImage(t, 4096), OpenOptions{})
	defer d.Close()
	defer func() {
		if recover() == nil {
			t.Error("a disk that another host may have takes requests")
		}
	}()
	d.Submit(read(0, 0, 512))
}

func TestSharedDiskReadOnly(t *testing.T) {
	path := newImage(t, 4096)
	for range 2 {
		d := openShared(t, path, OpenOptions{ReadOnly: true})
		defer d.Close()
		if err := d.Acquire(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestSharedDiskChangedSize(t *testing.T) {
	path := newImage(t, 4096)
	d := openShared(t, path, OpenOptions{})
	defer d.Close()
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	mentions(t, d.Acquire(t.Context()), "not 4KiB any more")
}

// TestWaitTells is about what somebody sees who waits for a fence.
func TestWaitTells(t *testing.T) {
	told := make(chan error, 10)
	tries := 0
	err := wait(t.Context(), time.Millisecond, time.Millisecond, func(err error) { told <- err }, func() (bool, error) {
		tries++
		if len(told) == 0 {
			return false, fmt.Errorf("try %d", tries)
		}
		return true, errors.New("useless")
	})
	mentions(t, err, "useless")
	mentions(t, <-told, "try ")
}
