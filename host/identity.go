package host

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Identity names a disk's contents. Two images with the same Identity hold the same
// bytes, whether or not their files have holes.
type Identity struct {
	Size uint64 // bytes
	// Hash is the SHA-256 of the SHA-256 hashes of the disk's chunks of 1 MiB, in order.
	// Hashing chunks first makes a hole cost 32 bytes of hashing for each MiB.
	Hash [sha256.Size]byte
}

func (id Identity) String() string {
	return fmt.Sprintf("%s, sha256/1MiB %x", FormatSize(id.Size), id.Hash)
}

const chunkSize = 1 << 20

// Identity reads the image as it is now; no request may be under way. progress, if not
// nil, is told once a second how many bytes of Size are behind: images that are quickly read need none.
func (d *Disk) Identity(progress func(done uint64)) (Identity, error) {
	return d.identity(progress, time.Second)
}

func (d *Disk) identity(progress func(done uint64), every time.Duration) (Identity, error) {
	hashes := make([][sha256.Size]byte, 8*runtime.GOMAXPROCS(0)) // of so many chunks at a time
	bufs := make([][]byte, runtime.GOMAXPROCS(0))                // each for one goroutine
	for i := range bufs {
		bufs[i] = make([]byte, chunkSize)
	}
	hole := sha256.Sum256(bufs[0])
	all := sha256.New()
	told := time.Now()
	var data uint64 // there is no data between what was looked at before and here
	for off := uint64(0); off < d.size; {
		batch := hashes[:0]
		var inBatch []int // the chunks with data
		first := off
		for ; len(batch) < len(hashes) && off < d.size; off += chunkSize {
			if data < off {
				data = d.nextData(off)
			}
			if end := off + chunkSize; data < end || end > d.size {
				inBatch = append(inBatch, len(batch))
			}
			batch = append(batch, hole)
		}
		if err := inParallel(len(bufs), inBatch, func(worker, i int) error {
			return d.hashChunk(&batch[i], bufs[worker], first+uint64(i)*chunkSize)
		}); err != nil {
			return Identity{}, err
		}
		for i := range batch {
			all.Write(batch[i][:])
		}
		if now := time.Now(); progress != nil && now.Sub(told) >= every {
			progress(min(off, d.size))
			told = now
		}
	}
	id := Identity{Size: d.size}
	all.Sum(id.Hash[:0])
	return id, nil
}

// hashChunk hashes the chunk at off, of which the last may be a short one.
func (d *Disk) hashChunk(h *[sha256.Size]byte, buf []byte, off uint64) error {
	buf = buf[:min(chunkSize, d.size-off)]
	if _, err := d.f.ReadAt(buf, int64(off)); err != nil {
		return fmt.Errorf("disk image %s: read of %d bytes at offset %d: %w", d.path, len(buf), off, advise(cause(err)))
	}
	*h = sha256.Sum256(buf)
	return nil
}

// inParallel calls do for each of items, in so many goroutines, and returns the error of the first item that failed.
func inParallel(workers int, items []int, do func(worker, item int) error) error {
	errs := make([]error, len(items))
	var wait sync.WaitGroup
	for w := range min(workers, len(items)) {
		wait.Go(func() {
			for i := w; i < len(items); i += workers {
				errs[i] = do(w, items[i])
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// nextData is the first offset from off on that is not in a hole, or the disk's size. Where
// holes cannot be asked for (block devices, some file systems) all is data.
func (d *Disk) nextData(off uint64) uint64 {
	at, err := unix.Seek(int(d.f.Fd()), int64(off), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return d.size
	} else if err != nil {
		return off
	}
	return uint64(at)
}
