package boot

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/pierrec/lz4/v4"
)

// legacyBlock is the most that a block of LZ4's legacy frame unpacks to (lz4_Frame_format.md, "Legacy frame"), which is
// what Linux's build makes.
const legacyBlock = 8 << 20

const legacyMagic = 0x184C2102

// legacyLZ4 unpacks a legacy frame. The library's own reader keeps all that it unpacked as history, which
// blocks of this frame do not have.
type legacyLZ4 struct {
	r        io.Reader
	in, out  []byte
	unpacked []byte // the part of out that is still to be read
}

var errLZ4 = errors.New("lz4: damaged block")

func (z *legacyLZ4) Read(p []byte) (int, error) {
	for len(z.unpacked) == 0 {
		if err := z.block(); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.unpacked)
	z.unpacked = z.unpacked[n:]
	return n, nil
}

// block unpacks the next block; between blocks there may be the magic number of another frame.
func (z *legacyLZ4) block() error {
	var size [4]byte
	if _, err := io.ReadFull(z.r, size[:]); err != nil {
		return err
	}
	n := int(binary.LittleEndian.Uint32(size[:]))
	if n == legacyMagic {
		return nil
	}
	if n > lz4.CompressBlockBound(legacyBlock) {
		return errLZ4
	}
	if z.out == nil {
		z.in, z.out = make([]byte, lz4.CompressBlockBound(legacyBlock)), make([]byte, legacyBlock)
	}
	if _, err := io.ReadFull(z.r, z.in[:n]); err != nil {
		return io.ErrUnexpectedEOF
	}
	n, err := lz4.UncompressBlock(z.in[:n], z.out)
	if err != nil {
		return errLZ4
	}
	z.unpacked = z.out[:n]
	return nil
}
