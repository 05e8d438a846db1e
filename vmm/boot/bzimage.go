package boot

import (
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/bobuhiro11/gokvm/bootparam"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// Offsets in a bzImage (boot.rst, "The Real-Mode Kernel Header").
const (
	offJump      = 0x201 // the byte here is the header's length from offMagic on
	offMagic     = 0x202
	bootProtocol = 0x020C // 2.12, the first with xloadflags

	xlfKernel64 = 1 << 0 // XLF_KERNEL_64: there is a 64-bit entry
	flagKASLR   = 1 << 1 // KASLR_FLAG in loadflags
)

// maxWindow is the largest history that Linux's build lets xz and zstd refer back to.
const maxWindow = 128 << 20

// codec is a way in which Linux packs a kernel (boot.rst, payload_offset).
type codec struct {
	name, magic string
	open        func(io.Reader) (io.Reader, error) // nil: not supported
}

var codecs = []codec{
	{"gzip", "\x1F\x8B", func(r io.Reader) (io.Reader, error) {
		z, err := gzip.NewReader(r)
		if err == nil {
			z.Multistream(false)
		}
		return z, err
	}},
	{"XZ", "\xFD7zXZ\x00", func(r io.Reader) (io.Reader, error) { return xz.NewReader(r, maxWindow) }},
	{"LZ4", "\x02\x21\x4C\x18", func(r io.Reader) (io.Reader, error) { return &legacyLZ4{r: r}, nil }},
	{"zstd", "\x28\xB5\x2F\xFD", func(r io.Reader) (io.Reader, error) {
		// With a concurrency of 1 it starts no goroutine, so that there is nothing to close.
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	}},
	{"bzip2", "BZh", func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
	{"LZMA", "\x5D\x00\x00", nil},
	{"LZO", "\x89LZO\x00", nil},
}

// packed is a compressed vmlinux.
type packed struct {
	codec codec
	data  []byte
	size  uint64 // unpacked
}

func isBzImage(image []byte) bool {
	return string(stretch(image, offMagic, 4)) == "HdrS"
}

func parseBzImage(image []byte) (*kernel, error) {
	// What follows the header of an older kernel is code; zeros stand in for it.
	setup := make([]byte, offMagic+0x100)
	copy(setup, image[:min(offMagic+int(image[offJump]), len(image))])
	params, err := bootparam.New(bytes.NewReader(setup))
	if err != nil {
		return nil, fmt.Errorf("%w: bzImage: %w", ErrFormat, err)
	}
	h := params.Hdr
	if h.Version < bootProtocol || h.XloadFlags&xlfKernel64 == 0 {
		return nil, fmt.Errorf("%w: bzImage without 64-bit entry (boot protocol %d.%d): it needs a 64-bit Linux from 3.8 on",
			ErrFormat, h.Version>>8, h.Version&0xFF)
	}
	sectors := uint64(h.SetupSects)
	if sectors == 0 {
		sectors = 4 // boot.rst, setup_sects
	}
	at, n := (sectors+1)*512+uint64(h.PayloadOffset), uint64(h.PayloadLength)
	payload := stretch(image, at, n)
	if len(payload) < 4 {
		return nil, fmt.Errorf("%w: bzImage of %d bytes with a payload of %d at %d: is the file complete?",
			ErrCorrupt, len(image), n, at)
	}
	i := slices.IndexFunc(codecs, func(c codec) bool { return bytes.HasPrefix(payload, []byte(c.magic)) })
	if i < 0 {
		return nil, fmt.Errorf("%w: bzImage payload begins with %x, which is no known compression", ErrCorrupt, payload[:4])
	}
	p := &packed{codec: codecs[i], data: payload, size: uint64(binary.LittleEndian.Uint32(payload[n-4:]))}
	if p.codec.name != "gzip" { // there the size is part of the format
		p.data = payload[:n-4]
	}
	return &kernel{
		name:       fmt.Sprintf("bzImage %s (%s payload)", version(image, h.KernelVersion), p.codec.name),
		protocol:   linux,
		cmdlineMax: min(uint64(h.CmdlineSize), cmdlineRoom),
		initrdMax:  uint64(h.InitrdAddrMax),
		header:     h,
		packed:     p,
	}, nil
}

// version is the first word of the version string that kernel_version points at.
func version(image []byte, pointer uint16) string {
	at := min(int(pointer)+0x200, len(image))
	s := image[at:min(at+64, len(image))]
	if i := bytes.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		s = s[:i]
	}
	if pointer == 0 || len(s) == 0 {
		return "of unknown version"
	}
	return string(s)
}

// unpack fills in the segments and entry of the vmlinux in a bzImage. One
// that says it is longer than limit bytes is refused before any work is done.
func (k *kernel) unpack(limit uint64) error {
	file, err := k.vmlinux(limit)
	if err != nil {
		return err
	}
	f, err := parseELF(file)
	if err != nil {
		return fmt.Errorf("%s: %w", k.name, err)
	}
	k.entry, k.segments = f.entry, f.segments
	return nil
}

// vmlinux is the file in a bzImage; limit is as for unpack.
func (k *kernel) vmlinux(limit uint64) ([]byte, error) {
	p := k.packed
	if p.codec.open == nil {
		return nil, fmt.Errorf("%w: %s is not supported; use a kernel with gzip, XZ, LZ4, zstd or bzip2, or its vmlinux",
			ErrFormat, k.name)
	}
	if p.size > limit {
		return nil, fmt.Errorf("%w: %s unpacks to %d MiB and the guest has %d MiB: give it more (--mem)",
			ErrMemory, k.name, p.size>>20, limit>>20)
	}
	r, err := p.codec.open(bytes.NewReader(p.data))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, k.name, err)
	}
	file := make([]byte, p.size)
	n, err := io.ReadFull(r, file)
	if err == nil { // the end must be here, and only at the end does a codec check its sums
		_, err = io.ReadFull(r, make([]byte, 1))
	}
	if uint64(n) != p.size || err != io.EOF {
		return nil, fmt.Errorf("%w: %s does not unpack to the %d bytes it announces: %d, then %v",
			ErrCorrupt, k.name, p.size, n, err)
	}
	return file, nil
}

// Vmlinux unpacks the ELF file in a bzImage, of at most limit bytes: what Load puts into memory, for
// other loaders.
func Vmlinux(bzImage []byte, limit uint64) ([]byte, error) {
	if !isBzImage(bzImage) {
		return nil, fmt.Errorf("%w: this is no bzImage", ErrFormat)
	}
	k, err := parseBzImage(bzImage)
	if err != nil {
		return nil, err
	}
	return k.vmlinux(limit)
}
