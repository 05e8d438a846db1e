package host

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// Completion is the end of one disk request.
type Completion struct {
	Seq    uint64 // Output.Seq of the request
	Status vmm.DiskStatus
	Data   []byte // what a read returned
	// Err is host trouble: the request was not done, or not wholly. No later request of
	// this disk is done either.
	Err error
}

// Start begins to perform requests, those submitted before included. done is called once
// for each. It is called once in a Disk's life.
func (d *Disk) Start(done func(Completion)) {
	d.worker.Go(func() { d.work(done) })
}

// Submit queues a request and returns at once. Requests are done one after the other, in
// the order of submission. out.Data must not change any more. Nothing may be submitted
// after Close.
func (d *Disk) Submit(out vmm.Output) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		panic("host: Disk.Submit after Close") // losing a write in silence would be worse
	}
	d.queue = append(d.queue, out)
	d.wake.Signal()
}

// Close waits until everything that was submitted is done and reported, then closes and
// unlocks the image. It does not flush: only the guest's flushes promise anything.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	d.wake.Signal()
	d.mu.Unlock()
	d.worker.Wait()
	if err := d.f.Close(); err != nil {
		return fmt.Errorf("disk image %s: close: %w", d.path, cause(err))
	}
	return nil
}

// work performs requests until the disk is closed and the queue is empty.
func (d *Disk) work(done func(Completion)) {
	var failed error
	for {
		d.mu.Lock()
		for len(d.queue) == 0 && !d.closed {
			d.wake.Wait()
		}
		batch := d.queue
		d.queue = nil
		d.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, out := range batch {
			c := Completion{Seq: out.Seq, Err: failed}
			if failed == nil {
				c.Data, c.Err = d.perform(out)
			}
			if c.Err != nil {
				c.Status, failed = vmm.DiskError, c.Err
			}
			done(c)
		}
	}
}

// perform does one request, all of it.
func (d *Disk) perform(out vmm.Output) (data []byte, err error) {
	length := out.Length
	if out.Op == vmm.DiskWrite {
		length = uint64(len(out.Data))
	}
	switch inside := out.Offset <= d.size && length <= d.size-out.Offset; {
	case out.Op == vmm.DiskFlush:
		err = d.flush()
	case !inside:
		err = fmt.Errorf("the disk has only %d bytes", d.size)
	case out.Op == vmm.DiskRead:
		data = make([]byte, length)
		_, err = d.f.ReadAt(data, int64(out.Offset))
	case out.Op == vmm.DiskWrite && d.readOnly:
		err = errors.New("the image is open for reading only")
	case out.Op == vmm.DiskWrite:
		_, err = d.f.WriteAt(out.Data, int64(out.Offset))
	default:
		err = errors.New("no such operation")
	}
	if err != nil {
		return nil, fmt.Errorf("disk image %s: %s of %d bytes at offset %d: %w",
			d.path, opName(out.Op), length, out.Offset, advise(cause(err)))
	}
	return data, nil
}

// flush returns when everything written so far is on stable storage.
func (d *Disk) flush() error {
	for {
		if err := unix.Fdatasync(int(d.f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func opName(op vmm.DiskOp) string {
	switch op {
	case vmm.DiskRead:
		return "read"
	case vmm.DiskWrite:
		return "write"
	case vmm.DiskFlush:
		return "flush"
	}
	return fmt.Sprintf("operation %d", op)
}

// advise adds what to do to the errors that people can do something about.
func advise(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: make room on the host's file system before this replica is started again", err)
	case errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: raise the limit with ulimit -f", err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the file ends early: something made it shorter while the guest ran: %w", io.ErrUnexpectedEOF)
	}
	return err
}
