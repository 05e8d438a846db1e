package bootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"strings"
)

var (
	errDamaged     = errors.New("the file system is damaged")
	errUnsupported = errors.New("the file system cannot be read here")
)

// Bounds on what is read from an image, in bytes.
const (
	// MaxFile is the longest kernel or initial RAM disk.
	MaxFile   = 1 << 31
	maxConfig = 1 << 20
	maxDir    = 16 << 20
	maxLink   = 4096

	maxLinks = 40 // on one path, as in Linux
)

// ext4 is an ext2, ext3 or ext4 file system, as it is on the disk: a journal is not replayed, checksums are not compared.
type ext4 struct {
	r              io.ReaderAt
	size           uint64 // of the file system, in bytes
	blockSize      uint64
	descriptors    uint64 // where the group descriptors are
	descriptorSize uint64
	inodes         uint32
	inodesPerGroup uint32
	inodeSize      uint64
	uuid           string
}

// Offsets in the superblock, which is at 1024 (ext4 docs, "Super Block").
const (
	superblockAt   = 1024
	superblockSize = 1024

	sbInodes         = 0x00
	sbBlocks         = 0x04
	sbLogBlockSize   = 0x18
	sbInodesPerGroup = 0x28
	sbMagic          = 0x38
	sbRevision       = 0x4C
	sbInodeSize      = 0x58
	sbIncompatible   = 0x60
	sbUUID           = 0x68
	sbDescriptorSize = 0xFE
	sbBlocksHigh     = 0x150

	ext4Magic = 0xEF53
)

// Incompatible features that change nothing for this reader, or that it knows: file types, journal to be
// replayed, extents, 64 bit, MMP, flexible groups, extended attributes in inodes, checksum seed, large
// directories; and those that it looks for in each inode: inline data, encryption, case folding.
const (
	feature64Bit  = 0x80
	featuresKnown = 0x2 | 0x4 | 0x40 | feature64Bit | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
)

// hasExt4 reports whether an ext2, ext3 or ext4 begins at the start of r.
func hasExt4(r io.ReaderAt) bool {
	var magic [2]byte
	_, err := r.ReadAt(magic[:], superblockAt+sbMagic)
	return err == nil && binary.LittleEndian.Uint16(magic[:]) == ext4Magic
}

// openExt4 reads the superblock of the file system that begins at the start of r and has room bytes at most.
func openExt4(r io.ReaderAt, room uint64) (*ext4, error) {
	le := binary.LittleEndian
	sb := make([]byte, superblockSize)
	if room < superblockAt+superblockSize {
		return nil, fmt.Errorf("%w: %d bytes are too few", errDamaged, room)
	}
	if _, err := r.ReadAt(sb, superblockAt); err != nil {
		return nil, err
	}
	features := le.Uint32(sb[sbIncompatible:])
	log := le.Uint32(sb[sbLogBlockSize:])
	if odd := features &^ featuresKnown; odd != 0 {
		return nil, fmt.Errorf("%w: it has incompatible features %#x", errUnsupported, odd)
	}
	if log > 6 {
		return nil, fmt.Errorf("%w: its blocks have 2^%d KiB", errDamaged, log)
	}
	f := &ext4{
		r: r, blockSize: 1024 << log, inodeSize: 128, descriptorSize: 32,
		inodes: le.Uint32(sb[sbInodes:]), inodesPerGroup: le.Uint32(sb[sbInodesPerGroup:]),
		uuid: uuidString(sb[sbUUID:]),
	}
	f.descriptors = (superblockAt/f.blockSize + 1) * f.blockSize // in the block after the superblock's
	if le.Uint32(sb[sbRevision:]) > 0 {
		f.inodeSize = uint64(le.Uint16(sb[sbInodeSize:]))
	}
	blocks := uint64(le.Uint32(sb[sbBlocks:]))
	if features&feature64Bit != 0 {
		blocks |= uint64(le.Uint32(sb[sbBlocksHigh:])) << 32
		f.descriptorSize = uint64(le.Uint16(sb[sbDescriptorSize:]))
	}
	switch {
	case blocks > room/f.blockSize:
		return nil, fmt.Errorf("%w: it has %d blocks of %d bytes, there is room for %d: is the image complete?",
			errDamaged, blocks, f.blockSize, room/f.blockSize)
	case f.inodeSize < 128 || f.inodeSize > f.blockSize || f.inodesPerGroup == 0 || f.descriptorSize < 32 || f.descriptorSize > 1024:
		return nil, fmt.Errorf("%w: inodes of %d bytes, %d in a group, group descriptors of %d bytes",
			errDamaged, f.inodeSize, f.inodesPerGroup, f.descriptorSize)
	}
	f.size = blocks * f.blockSize
	return f, nil
}

// read fills p with what is at off.
func (f *ext4) read(p []byte, off uint64) error {
	if n := uint64(len(p)); n > f.size || off > f.size-n {
		return fmt.Errorf("%w: it says that something is at %d, beyond its end at %d", errDamaged, off, f.size)
	}
	_, err := f.r.ReadAt(p, int64(off))
	return err
}

// offset is where a block begins.
func (f *ext4) offset(block uint64) (uint64, error) {
	if block >= f.size/f.blockSize {
		return 0, fmt.Errorf("%w: it says that something is in block %d, beyond its end", errDamaged, block)
	}
	return block * f.blockSize, nil
}

// readBlock fills p with what is from the start of a block on.
func (f *ext4) readBlock(p []byte, block uint64) error {
	off, err := f.offset(block)
	if err != nil {
		return err
	}
	return f.read(p, off)
}

// inode is what is read of one (ext4 docs, "Index Nodes").
type inode struct {
	number uint32
	mode   uint16
	flags  uint32
	size   uint64
	block  [60]byte
}

const (
	inodeRoot = 2

	modeType    = 0xF000
	modeDir     = 0x4000
	modeRegular = 0x8000
	modeLink    = 0xA000

	inodeEncrypted = 0x800
	inodeExtents   = 0x80000
	inodeInline    = 0x1000_0000
)

func (in *inode) is(mode uint16) bool { return in.mode&modeType == mode }

func (f *ext4) inode(number uint32) (*inode, error) {
	if number == 0 || number > f.inodes {
		return nil, fmt.Errorf("%w: there is no inode %d", errDamaged, number)
	}
	le := binary.LittleEndian
	d := make([]byte, f.descriptorSize)
	group, index := uint64((number-1)/f.inodesPerGroup), uint64((number-1)%f.inodesPerGroup)
	if err := f.read(d, f.descriptors+group*f.descriptorSize); err != nil {
		return nil, err
	}
	table := uint64(le.Uint32(d[0x8:]))
	if f.descriptorSize >= 64 {
		table |= uint64(le.Uint32(d[0x28:])) << 32
	}
	at, err := f.offset(table)
	if err != nil {
		return nil, err
	}
	var p [128]byte
	if err := f.read(p[:], at+index*f.inodeSize); err != nil {
		return nil, err
	}
	in := &inode{number: number, mode: le.Uint16(p[0:]), flags: le.Uint32(p[0x20:]),
		size: uint64(le.Uint32(p[4:])) | uint64(le.Uint32(p[0x6C:]))<<32}
	copy(in.block[:], p[0x28:])
	return in, nil
}

// run finds the block of the disk that holds a block of the file, and how many blocks, at least 1, follow it likewise.
// Block 0 is for a hole.
func (f *ext4) run(in *inode, block uint64) (at, n uint64, err error) {
	if in.flags&inodeExtents == 0 {
		return f.mapped(in, block)
	}
	return f.extent(in, block)
}

// extent looks block up in the tree of extents (ext4 docs, "Extent Tree").
func (f *ext4) extent(in *inode, block uint64) (at, n uint64, err error) {
	const header, size, maxDepth, maxWritten = 12, 12, 5, 1 << 15
	le := binary.LittleEndian
	node := in.block[:]
	end := uint64(1) << 32 // of what this node is about, in blocks of the file
	for level := -1; ; {
		entries, depth := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
		if le.Uint16(node) != 0xF30A || entries > (len(node)-header)/size || depth > maxDepth || level >= 0 && depth != level-1 {
			return 0, 0, fmt.Errorf("%w: inode %d has a bad extent tree", errDamaged, in.number)
		}
		level = depth
		entry := func(i int) []byte { return node[header+i*size:][:size] }
		first := func(i int) uint64 { return uint64(le.Uint32(entry(i))) }
		i := sort.Search(entries, func(i int) bool { return first(i) > block })
		if i < entries {
			end = min(end, first(i))
		}
		if i == 0 {
			return 0, end - block, nil
		}
		e := entry(i - 1)
		if depth > 0 {
			node = make([]byte, f.blockSize)
			if err := f.readBlock(node, uint64(le.Uint32(e[4:]))|uint64(le.Uint16(e[8:]))<<32); err != nil {
				return 0, 0, err
			}
			continue
		}
		skip, count := block-first(i-1), uint64(le.Uint16(e[4:]))
		start := uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32
		switch {
		case count > maxWritten && skip < count-maxWritten: // allocated, but not written yet
			return 0, count - maxWritten - skip, nil
		case count > maxWritten || skip >= count:
			return 0, end - block, nil
		}
		return start + skip, count - skip, nil
	}
}

// mapped looks block up in the direct and indirect blocks of ext2 and ext3 (ext4 docs, "Direct/Indirect Block Addressing").
func (f *ext4) mapped(in *inode, block uint64) (at, n uint64, err error) {
	const direct = 12
	le := binary.LittleEndian
	if block < direct {
		return uint64(le.Uint32(in.block[4*block:])), 1, nil
	}
	block -= direct
	each := f.blockSize / 4
	span := each
	for i := direct; i < len(in.block)/4; i++ {
		if block >= span {
			block, span = block-span, span*each
			continue
		}
		at = uint64(le.Uint32(in.block[4*i:]))
		for ; span > 1 && at != 0; span /= each {
			node := make([]byte, f.blockSize)
			if err := f.readBlock(node, at); err != nil {
				return 0, 0, err
			}
			at = uint64(le.Uint32(node[4*(block%span/(span/each)):]))
		}
		return at, span - block%span, nil
	}
	return 0, 0, fmt.Errorf("%w: inode %d is longer than its blocks can say", errDamaged, in.number)
}

// contents reads all of a file, of at most limit bytes.
func (f *ext4) contents(in *inode, limit uint64) ([]byte, error) {
	switch {
	case in.flags&inodeEncrypted != 0:
		return nil, fmt.Errorf("%w: inode %d is encrypted", errUnsupported, in.number)
	case in.flags&inodeInline != 0:
		return nil, fmt.Errorf("%w: inode %d has inline data", errUnsupported, in.number)
	case in.size > min(limit, f.size):
		return nil, fmt.Errorf("%d bytes are too many: at most %d are read", in.size, min(limit, f.size))
	}
	p := make([]byte, in.size)
	for off := uint64(0); off < in.size; {
		at, n, err := f.run(in, off/f.blockSize)
		if err != nil {
			return nil, err
		}
		part := p[off:min(off+n*f.blockSize, in.size)]
		if at != 0 {
			if err := f.readBlock(part, at); err != nil {
				return nil, err
			}
		}
		off += uint64(len(part))
	}
	return p, nil
}

// dirEntry is a name in a directory.
type dirEntry struct {
	name  string
	inode uint32
}

// entries lists a directory. One with an index is read like one without: what the index takes looks like unused
// entries (ext4 docs, "Hash Tree Directories").
func (f *ext4) entries(in *inode) ([]dirEntry, error) {
	const header = 8
	le := binary.LittleEndian
	p, err := f.contents(in, maxDir)
	if err != nil {
		return nil, err
	}
	var list []dirEntry
	for block := range slices.Chunk(p, int(f.blockSize)) {
		for len(block) > 0 {
			length := 0
			if len(block) >= header {
				length = int(le.Uint16(block[4:]))
			}
			if f.blockSize == 1<<16 && (length == 0 || length == 0xFFFF) {
				length = 1 << 16 // does not fit
			}
			if length < header || length > len(block) || int(block[6]) > length-header {
				return nil, fmt.Errorf("%w: inode %d is no sound directory", errDamaged, in.number)
			}
			if number := le.Uint32(block); number != 0 {
				list = append(list, dirEntry{string(block[header : header+int(block[6])]), number})
			}
			block = block[length:]
		}
	}
	return list, nil
}

// find walks along path, from the root, and follows symbolic links as if the file system were mounted at /. What is not
// there is fs.ErrNotExist.
func (f *ext4) find(path string) (*inode, error) {
	root, err := f.inode(inodeRoot)
	if err != nil {
		return nil, err
	}
	at := []*inode{root} // the directories down to where we are
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 1)]
			continue
		}
		in, err := f.child(at[len(at)-1], name)
		if err != nil {
			return nil, err
		}
		if !in.is(modeLink) {
			at = append(at, in)
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%s: too many symbolic links", path)
		}
		target, err := f.link(in)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			at = at[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at[len(at)-1], nil
}

func (f *ext4) child(dir *inode, name string) (*inode, error) {
	if !dir.is(modeDir) {
		return nil, fs.ErrNotExist
	}
	list, err := f.entries(dir)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(e dirEntry) bool { return e.name == name })
	if i < 0 {
		return nil, fs.ErrNotExist
	}
	return f.inode(list[i].inode)
}

// link is where a symbolic link points; a short one is in the inode (ext4 docs, "Symbolic Links").
func (f *ext4) link(in *inode) (string, error) {
	if in.flags&(inodeExtents|inodeInline|inodeEncrypted) == 0 && in.size < uint64(len(in.block)) {
		return string(in.block[:in.size]), nil
	}
	p, err := f.contents(in, maxLink)
	return string(p), err
}

// readFile reads a regular file of at most limit bytes.
func (f *ext4) readFile(path string, limit uint64) ([]byte, error) {
	in, err := f.find(path)
	if err != nil {
		return nil, err
	}
	if !in.is(modeRegular) {
		return nil, fs.ErrNotExist
	}
	return f.contents(in, limit)
}

// list returns the names in a directory.
func (f *ext4) list(path string) ([]string, error) {
	in, err := f.find(path)
	if err != nil {
		return nil, err
	}
	if !in.is(modeDir) {
		return nil, fs.ErrNotExist
	}
	entries, err := f.entries(in)
	var names []string
	for _, e := range entries {
		names = append(names, e.name)
	}
	return names, err
}

// uuidString writes the 16 bytes of a UUID in its usual form.
func uuidString(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
