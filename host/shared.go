package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"ftvm/vmm"
)

// SharedDisk is an image that all hosts reach, such as a file on NFS. It is locked by the replica that uses it, and only by that: the
// lock is the fence. While the process of the last user lives, wherever it is, nobody else gets it.
type SharedDisk struct {
	*Disk
	waiting  func(error)
	acquired atomic.Bool
}

// OpenSharedDisk opens an image without locking it. waiting, if not nil, is told once a second why Acquire does not go on. Block devices are refused:
// a lock on one holds on one host only.
func OpenSharedDisk(path string, o OpenOptions, waiting func(error)) (*SharedDisk, error) {
	o.shared = true
	d, err := OpenDisk(path, o)
	if err != nil {
		return nil, err
	}
	return &SharedDisk{Disk: d, waiting: waiting}, nil
}

// lockInterval is how often a lock that somebody else has is tried: it is part of the time that a takeover lasts.
const lockInterval = 2 * time.Millisecond

// Acquire takes the image for this replica, until Close, or until the process ends. It waits for whoever has it.
func (d *SharedDisk) Acquire(ctx context.Context) error {
	err := wait(ctx, lockInterval, tellInterval, d.waiting, func() (bool, error) {
		err := d.lock()
		return !errors.Is(err, ErrInUse), err
	})
	if err == nil && !d.hasSize() {
		err = fmt.Errorf("its size is not %s any more: start the replica again", FormatSize(d.size))
	}
	if err != nil {
		return fmt.Errorf("acquiring disk image %s: %w", d.path, err)
	}
	d.acquired.Store(true)
	return nil
}

// hasSize reports whether the image is as large as it was.
func (d *SharedDisk) hasSize() bool {
	info, err := d.f.Stat()
	return err == nil && uint64(info.Size()) == d.size
}

// Submit is that of Disk, once the image was acquired.
func (d *SharedDisk) Submit(out vmm.Output) {
	if !d.acquired.Load() {
		panic("host: SharedDisk.Submit before Acquire") // another host may be writing
	}
	d.Disk.Submit(out)
}

// tellInterval is how often a log hears what Acquire waits for.
const tellInterval = time.Second

// wait calls try at every interval until it succeeds, or says that waiting is no use, or ctx is done. tell, if not nil, hears so often what
// the last one said, or that the first is still under way.
func wait(ctx context.Context, interval, every time.Duration, tell func(error), try func() (useless bool, err error)) error {
	var mu sync.Mutex
	last := errors.New("no answer yet")
	tick := time.NewTicker(every)
	ended := make(chan struct{})
	defer close(ended)
	defer tick.Stop()
	go func() {
		for tell != nil {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			mu.Lock()
			err := last
			mu.Unlock()
			tell(err)
		}
	}()
	for {
		useless, err := try()
		if err == nil || useless {
			return err
		}
		mu.Lock()
		last = err
		mu.Unlock()
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return fmt.Errorf("%w, while waiting: %w", context.Cause(ctx), err)
		}
	}
}
