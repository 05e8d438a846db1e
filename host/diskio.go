package host

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// Storage is one of the guest's disks, wherever it is: *Disk, *SharedDisk or *NBD.
type Storage interface {
	Size() uint64
	Start(done func(Completion))
	Submit(vmm.Output)
	Close() error
}

// Completion is the end of one disk request.
type Completion struct {
	Seq    uint64 // Output.Seq of the request
	Status vmm.DiskStatus
	Data   []byte // what a read returned
	// Err is host trouble: the request was not done, or not wholly. Any part of the bytes that a failed write was about may
	// hold the old or the new ones. After a failed flush what was written before may be lost, even if a later
	// flush succeeds: the kernel forgets what it could not write. Later requests are tried as usual.
	Err error
}

// maxWorkers is how many requests of a disk can be under way at the same time. More wait: a guest cannot make this process
// start threads without end.
const maxWorkers = 16

// Start begins to perform requests, those submitted before included. done is called once
// for each. It is called once in a Disk's life.
func (d *Disk) Start(done func(Completion)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = done
	d.employ(len(d.ready))
}

// Submit queues a request and returns at once. Requests that do not depend on each other are done at the same time; see
// order for what depends. Of those that do, the earlier is reported first. out.Data must not change any more. Nothing may be submitted
// after Close.
func (d *Disk) Submit(out vmm.Output) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		panic("host: Disk.Submit after Close") // losing a write in silence would be worse
	}
	if r := d.order.add(out, d.size); r.blockers == 0 {
		d.ready = append(d.ready, r)
		d.employ(1)
	}
}

// Close waits until everything that was submitted is done and reported, if the disk was started, then closes and
// unlocks the image. It does not flush: only the guest's flushes promise anything.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	d.wake.Broadcast()
	d.mu.Unlock()
	d.working.Wait()
	if err := d.f.Close(); err != nil {
		return fmt.Errorf("disk image %s: close: %w", d.path, cause(err))
	}
	return nil
}

// employ sees to it that n more requests are taken from ready, by workers that wait or by new ones.
func (d *Disk) employ(n int) {
	for ; n > 0 && d.done != nil; n-- {
		switch {
		case d.idle > 0:
			d.idle--
			d.wake.Signal()
		case d.workers < maxWorkers:
			d.workers++
			d.working.Go(d.work)
		default:
			return // a worker that is busy will take it
		}
	}
}

// work performs requests until the disk is closed and none is left.
func (d *Disk) work() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		for len(d.ready) == 0 {
			if d.closed {
				return // whoever finishes what blocks the rest goes on with that
			}
			d.idle++
			d.wake.Wait()
		}
		r := d.ready[0]
		d.ready[0], d.ready = nil, d.ready[1:]
		d.mu.Unlock()

		c := Completion{Seq: r.Seq}
		if c.Data, c.Err = d.perform(r); c.Err != nil {
			c.Status = vmm.DiskError
		}
		d.reporting.Lock()
		d.done(c)
		d.reporting.Unlock()

		d.mu.Lock()
		before := len(d.ready)
		d.ready = d.order.finish(r, d.ready)
		d.employ(len(d.ready) - before - 1) // one is for this worker
	}
}

// perform does one request, all of it.
func (d *Disk) perform(r *request) (data []byte, err error) {
	if err = r.check(d.size, d.readOnly); err == nil {
		switch r.Op {
		case vmm.DiskFlush:
			err = d.flush()
		case vmm.DiskRead:
			data = r.room()
			_, err = d.f.ReadAt(data, int64(r.Offset))
		case vmm.DiskWrite:
			_, err = d.f.WriteAt(r.Data, int64(r.Offset))
		case vmm.DiskDiscard, vmm.DiskWriteZeroes:
			err = d.clear(int64(r.Offset), int64(r.Length))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("disk image %s: %w", d.path, r.failed(advise(cause(err))))
	}
	return data, nil
}

// room is where to put what a read returns.
func (r *request) room() []byte {
	if r.Data != nil {
		return r.Data
	}
	return make([]byte, r.Length)
}

// clear makes bytes zero and gives back their room, where file system or block device can do that.
func (d *Disk) clear(off, length int64) error {
	if length == 0 {
		return nil
	}
	// On a block device this makes zeros, or fails (Linux, block/fops.c: no fallback); it wants whole blocks of that device.
	err := ignoringEINTR(func() error {
		return unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	})
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	for length > 0 {
		n, err := d.f.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

// zeros is read only.
var zeros = make([]byte, 1<<20)

// check refuses what cannot be done on a disk of size bytes.
func (r *request) check(size uint64, readOnly bool) error {
	switch {
	case r.Op < vmm.DiskRead || r.Op > vmm.DiskWriteZeroes:
		return errors.New("no such operation")
	case r.Op == vmm.DiskFlush:
		return nil
	case !r.inside(size):
		return fmt.Errorf("the disk has only %d bytes", size)
	case r.changes() && readOnly:
		return errors.New("the disk is open for reading only")
	}
	return nil
}

// failed says which request it was.
func (r *request) failed(err error) error {
	if r.Op == vmm.DiskFlush {
		return fmt.Errorf("flush: %w", err)
	}
	return fmt.Errorf("%s of %d bytes at offset %d: %w", opName(r.Op), r.Length, r.Offset, err)
}

// flush returns when everything written so far is on stable storage.
func (d *Disk) flush() error {
	return ignoringEINTR(func() error { return unix.Fdatasync(int(d.f.Fd())) })
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
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
	case vmm.DiskDiscard:
		return "discard"
	case vmm.DiskWriteZeroes:
		return "zeroing"
	}
	return fmt.Sprintf("operation %d", op)
}

// advise adds what to do to the errors that people can do something about.
func advise(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: make room on the host's file system", err)
	case errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: raise the limit with ulimit -f", err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the file ends early: something made it shorter while the guest ran: %w", io.ErrUnexpectedEOF)
	}
	return err
}
