package host

import (
	"crypto/sha256"
	"errors"
	"fmt"

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
// nil, is told after each chunk how many bytes of Size are behind.
func (d *Disk) Identity(progress func(done uint64)) (Identity, error) {
	buf := make([]byte, chunkSize)
	hole := sha256.Sum256(buf)
	all := sha256.New()
	var data uint64 // there is no data between the chunk before and here
	for off := uint64(0); off < d.size; off += chunkSize {
		n := min(chunkSize, d.size-off)
		if data < off {
			data = d.nextData(off)
		}
		h := hole
		if data < off+n || n < chunkSize {
			if _, err := d.f.ReadAt(buf[:n], int64(off)); err != nil {
				return Identity{}, fmt.Errorf("disk image %s: read of %d bytes at offset %d: %w", d.path, n, off, advise(cause(err)))
			}
			h = sha256.Sum256(buf[:n])
		}
		all.Write(h[:])
		if progress != nil {
			progress(off + n)
		}
	}
	id := Identity{Size: d.size}
	all.Sum(id.Hash[:0])
	return id, nil
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
