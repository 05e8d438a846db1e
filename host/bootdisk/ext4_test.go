package bootdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// extentNode is a node of an extent tree: its depth, and entries of three numbers each.
func extentNode(depth uint16, entries ...[3]uint64) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, 0xF30A)
	b = le.AppendUint16(b, uint16(len(entries)))
	b = le.AppendUint16(b, 4)
	b = le.AppendUint16(b, depth)
	b = le.AppendUint32(b, 0)
	for _, e := range entries {
		b = le.AppendUint32(b, uint32(e[0])) // first block of the file
		if depth > 0 {
			b = le.AppendUint32(b, uint32(e[1]))
			b = le.AppendUint32(b, uint32(e[1]>>32))
			continue
		}
		b = le.AppendUint16(b, uint16(e[2]))
		b = le.AppendUint16(b, uint16(e[1]>>32))
		b = le.AppendUint32(b, uint32(e[1]))
	}
	return b
}

// TestExtents: holes, extents of the greatest length, and those that are not written yet (ext4 docs, "Extent Tree").
func TestExtents(t *testing.T) {
	disk := make([]byte, 64<<10)
	copy(disk[5<<10:], extentNode(0, [3]uint64{100, 7 | 1<<40, 3}))
	copy(disk[6<<10:], extentNode(1, [3]uint64{0, 5, 0}))
	f := &ext4{r: bytes.NewReader(disk), size: uint64(len(disk)), blockSize: 1024}
	leaf := extentNode(0, [3]uint64{1, 10, 2}, [3]uint64{4, 20, 1<<15 + 3}, [3]uint64{10, 100, 1 << 15})
	for _, row := range []struct {
		name         string
		node         []byte
		block, at, n uint64
		err          error
	}{
		{"before the first", leaf, 0, 0, 1, nil},
		{"written", leaf, 1, 10, 2, nil},
		{"written, the last of them", leaf, 2, 11, 1, nil},
		{"a hole", leaf, 3, 0, 1, nil},
		{"not written", leaf, 5, 0, 2, nil},
		{"after what is not written", leaf, 7, 0, 3, nil},
		{"of the greatest length", leaf, 11, 101, 1<<15 - 1, nil},
		{"after the last", leaf, 1 << 16, 0, 1<<32 - 1<<16, nil},
		{"no extents", extentNode(0), 9, 0, 1<<32 - 9, nil},
		{"further down", extentNode(1, [3]uint64{50, 5, 0}), 101, 8 | 1<<40, 2, nil},
		{"further down, a hole", extentNode(1, [3]uint64{50, 5, 0}, [3]uint64{200, 5, 0}), 150, 0, 50, nil},
		{"in circles", extentNode(2, [3]uint64{0, 6, 0}), 1, 0, 99, nil},
		{"a depth that does not fall", extentNode(1, [3]uint64{0, 6, 0}), 1, 0, 0, errDamaged},
		{"too deep", extentNode(6, [3]uint64{0, 6, 0}), 1, 0, 0, errDamaged},
		{"no node", make([]byte, 60), 1, 0, 0, errDamaged},
		{"a node that is not there", extentNode(1, [3]uint64{0, 1 << 40, 0}), 1, 0, 0, errDamaged},
		{"in disorder", extentNode(0, [3]uint64{9, 1, 1}, [3]uint64{2, 1, 1}, [3]uint64{1, 1, 1}), 3, 0, 1<<32 - 3, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			in := &inode{flags: inodeExtents}
			copy(in.block[:], row.node)
			at, n, err := f.run(in, row.block)
			if !errors.Is(err, row.err) || at != row.at || n != row.n {
				t.Errorf("got block %d, %d of them, %v; want %d, %d, %v", at, n, err, row.at, row.n, row.err)
			}
		})
	}
}
