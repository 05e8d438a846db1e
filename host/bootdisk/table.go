package bootdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

var errTable = errors.New("the partition table is damaged")

const sectorSize = 512

// partition is a part of a disk, or all of it.
type partition struct {
	number int    // as Linux counts; 0 is the whole disk
	start  uint64 // in bytes
	size   uint64
	uuid   string // what Linux calls PARTUUID; "" for the whole disk
}

func (p partition) String() string {
	if p.number == 0 {
		return "the whole disk"
	}
	return fmt.Sprintf("partition %d", p.number)
}

// Offsets in a master boot record (UEFI 2.10, 5.2.1).
const (
	mbrSignature = 440
	mbrEntries   = 446
	mbrEntrySize = 16
	mbrMagic     = 510

	typeProtective = 0xEE
)

// partitions lists the partitions of a disk of size bytes; without a table there is one, the whole disk.
func partitions(r io.ReaderAt, size uint64) ([]partition, error) {
	whole := []partition{{size: size}}
	mbr := make([]byte, sectorSize)
	if _, err := r.ReadAt(mbr, 0); err != nil {
		return nil, err
	}
	entries, ok := readMBR(mbr)
	if !ok {
		return whole, nil
	}
	for _, e := range entries {
		if e.kind == typeProtective {
			return readGPT(r, size)
		}
	}
	var list []partition
	signature := binary.LittleEndian.Uint32(mbr[mbrSignature:])
	add := func(number int, start, sectors uint64) error {
		p := partition{number: number, start: start * sectorSize, size: sectors * sectorSize, uuid: fmt.Sprintf("%08x-%02x", signature, number)}
		if start == 0 || p.start > size || p.size > size-p.start {
			return fmt.Errorf("%w: partition %d ends at %d, the disk at %d: is the image complete?", errTable, number, p.start+p.size, size)
		}
		list = append(list, p)
		return nil
	}
	for i, e := range entries {
		switch {
		case e.sectors == 0 || e.kind == 0:
		case e.extended():
			if err := logical(r, e.start, add); err != nil {
				return nil, err
			}
		default:
			if err := add(i+1, e.start, e.sectors); err != nil {
				return nil, err
			}
		}
	}
	if list == nil {
		return whole, nil // what looked like a table was a boot sector's code
	}
	return list, nil
}

// mbrEntry is a row of a master, or an extended, boot record.
type mbrEntry struct {
	kind           uint8
	start, sectors uint64
}

func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0F || e.kind == 0x85 }

// readMBR returns the table in a boot sector; ok is false if it holds none.
func readMBR(sector []byte) (entries [4]mbrEntry, ok bool) {
	le := binary.LittleEndian
	if le.Uint16(sector[mbrMagic:]) != 0xAA55 {
		return entries, false
	}
	for i := range entries {
		b := sector[mbrEntries+i*mbrEntrySize:]
		if b[0]&0x7F != 0 { // neither active nor inactive
			return entries, false
		}
		entries[i] = mbrEntry{b[4], uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))}
	}
	return entries, true
}

// logical follows the chain of boot records in an extended partition that begins at sector start.
func logical(r io.ReaderAt, start uint64, add func(number int, start, sectors uint64) error) error {
	const first, most = 5, 60
	sector := make([]byte, sectorSize)
	at := start
	for number := first; number < first+most; number++ {
		if _, err := r.ReadAt(sector, int64(at*sectorSize)); err != nil {
			return fmt.Errorf("%w: reading the extended partition at sector %d: %w", errTable, at, err)
		}
		entries, ok := readMBR(sector)
		if !ok {
			return nil
		}
		if e := entries[0]; e.sectors > 0 && e.kind != 0 {
			if err := add(number, at+e.start, e.sectors); err != nil {
				return err
			}
		}
		if !entries[1].extended() {
			return nil
		}
		at = start + entries[1].start
	}
	return nil
}

// readGPT reads the primary table (UEFI 2.10, 5.3.2 and 5.3.3).
func readGPT(r io.ReaderAt, size uint64) ([]partition, error) {
	const headerSize, maxEntries, minEntry, maxEntry = 92, 1024, 128, 4096
	le := binary.LittleEndian
	h := make([]byte, sectorSize)
	if _, err := r.ReadAt(h, sectorSize); err != nil {
		return nil, err
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	at, count, each := le.Uint64(h[72:]), uint64(le.Uint32(h[80:])), uint64(le.Uint32(h[84:]))
	switch {
	case !bytes.HasPrefix(h, []byte("EFI PART")) || le.Uint32(h[12:]) != headerSize || crc32.ChecksumIEEE(h[:headerSize]) != sum:
		return nil, fmt.Errorf("%w: there is no sound GPT at sector 1: repair it, with sgdisk for one", errTable)
	case count > maxEntries || each < minEntry || each > maxEntry || at > size/sectorSize:
		return nil, fmt.Errorf("%w: a GPT of %d entries of %d bytes at sector %d", errTable, count, each, at)
	}
	table := make([]byte, count*each)
	if _, err := r.ReadAt(table, int64(at*sectorSize)); err != nil {
		return nil, fmt.Errorf("%w: reading it at sector %d: %w", errTable, at, err)
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("%w: the GPT's entries have a wrong checksum: repair it, with sgdisk for one", errTable)
	}
	var list []partition
	for i := range count {
		e := table[i*each:]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > last || last >= size/sectorSize {
			return nil, fmt.Errorf("%w: partition %d reaches from sector %d to %d, the disk has %d: is the image complete?",
				errTable, i+1, first, last, size/sectorSize)
		}
		list = append(list, partition{number: int(i + 1), start: first * sectorSize, size: (last - first + 1) * sectorSize, uuid: guidString(e[16:])})
	}
	return list, nil
}

// guidString writes a GUID, whose first three fields are little-endian (UEFI 2.10, appendix A).
func guidString(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
