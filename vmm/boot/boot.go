package boot

import (
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/bobuhiro11/gokvm/bootparam"

	"ftvm/vmm"
)

// Image is what a guest is started from.
type Image struct {
	Kernel []byte
	// Initrd is optional; a Multiboot kernel gets it as its only module.
	Initrd  []byte
	Cmdline string
	// RNGSeed is optional. Linux credits it as entropy (setup_data type 9, from Linux 6.0);
	// the other protocols have no place for it. At most 4080 bytes.
	RNGSeed []byte
	// HideRTC makes the ACPI tables say that there is no RTC, for an engine that tells the time to the nanosecond: Linux
	// sets its clock by an RTC, to the second, whatever it knew before.
	HideRTC bool
}

// Load wraps one of these, unless the fault is in the RNG seed.
var (
	// ErrFormat: the kernel is of no format that can be started here.
	ErrFormat = errors.New("cannot boot this kind of kernel image")
	// ErrCorrupt: the kernel image contradicts itself or ends early.
	ErrCorrupt = errors.New("kernel image is damaged")
	// ErrMemory: kernel or initrd do not fit into the guest's memory.
	ErrMemory = errors.New("image does not fit into guest memory")
	// ErrCmdline: the kernel cannot take this command line.
	ErrCmdline = errors.New("kernel command line is not usable")
)

// Fixed places; the package documentation has the table.
const (
	gdtAddr     = 0x1000
	infoAddr    = 0x2000
	seedAddr    = 0x3000
	cmdlineAddr = 0x4000
	tablesAddr  = 0x10000
	tablesEnd   = 0x9F000
	lowEnd      = 0x100000

	cmdlineRoom = tablesAddr - cmdlineAddr - 1 // bytes without the NUL
)

// kernel is an image as far as its format tells how to start it.
type kernel struct {
	name       string
	protocol   protocol
	entry      uint64 // guest physical
	segments   []segment
	cmdlineMax uint64 // bytes without the NUL
	initrdMax  uint64 // highest address that the initrd may occupy

	header bootparam.SetupHeader // for protocol linux
	packed *packed               // if segments are still to be unpacked from it
}

type protocol uint8

const (
	linux protocol = iota
	pvh
	multiboot
)

// segment is a stretch of guest physical memory: data, then zeros up to size bytes.
type segment struct {
	addr, size uint64
	data       []byte
}

func (s segment) end() uint64 { return s.addr + s.size }

// handover is what the protocols tell a kernel about its machine.
type handover struct {
	memory []bootparam.E820Entry
	initrd segment // no initrd: size 0
	seed   uint64  // address of the setup_data, or 0
	rsdp   uint64  // address of ACPI's root pointer
}

// Identify names the format of a kernel image, such as "bzImage 6.1.0-18-amd64 (LZ4
// payload)", "vmlinux ELF64", "PVH ELF", "Multiboot ELF" or "Multiboot image". It fails with
// ErrFormat or ErrCorrupt; that it succeeds does not promise that Load will.
func Identify(image []byte) (string, error) {
	k, err := parse(image)
	if err != nil {
		return "", err
	}
	return k.name, nil
}

// Load writes kernel, initrd and boot data to ram and returns the state in which the
// CPU enters the kernel. The RAM must be fresh, that is all zero, as it must be for
// replicas to agree; after an error it is not to be used.
func Load(ram *vmm.RAM, img Image) (*vmm.CPUState, error) {
	if ram.Size() <= lowEnd {
		return nil, fmt.Errorf("%w: it is %d KiB, and kernels lie at 1 MiB: give the guest more (--mem)",
			ErrMemory, ram.Size()>>10)
	}
	k, err := parse(img.Kernel)
	if err != nil {
		return nil, err
	}
	if n := uint64(len(img.Cmdline)); n > k.cmdlineMax {
		return nil, fmt.Errorf("%w: %d bytes, and this kernel takes %d: shorten it", ErrCmdline, n, k.cmdlineMax)
	}
	if i := strings.IndexByte(img.Cmdline, 0); i >= 0 {
		return nil, fmt.Errorf("%w: NUL at byte %d would end it: remove it", ErrCmdline, i)
	}
	if k.packed != nil {
		if err := k.unpack(ram.Size()); err != nil {
			return nil, err
		}
	}
	if err := k.check(ram); err != nil {
		return nil, err
	}
	h := handover{memory: memoryMap(ram)}
	if h.initrd, err = k.placeInitrd(ram, img.Initrd); err != nil {
		return nil, err
	}

	w := writer{ram: ram}
	for _, s := range append(k.segments, h.initrd) {
		w.write(s.addr, s.data)
	}
	w.write(cmdlineAddr, []byte(img.Cmdline+"\x00"))
	h.rsdp = w.writeACPI(img.HideRTC)
	var cpu *vmm.CPUState
	switch k.protocol {
	case linux:
		if len(img.RNGSeed) > 0 {
			data, err := setupSeed(img.RNGSeed)
			if err != nil {
				return nil, err
			}
			h.seed = seedAddr
			w.write(seedAddr, data)
		}
		info, err := bootParams(k.header, &h)
		if err != nil {
			return nil, err
		}
		w.write(infoAddr, info)
		if err := w.pageTables(h.memory); err != nil {
			return nil, err
		}
		cpu = w.start(code64, k.entry)
		cpu.GPR[vmm.RSI] = infoAddr
	case pvh:
		w.write(infoAddr, startInfo(&h))
		cpu = w.start(code32, k.entry)
		cpu.GPR[vmm.RBX] = infoAddr
	case multiboot:
		w.write(infoAddr, multibootInfo(&h))
		cpu = w.start(code32, k.entry)
		cpu.GPR[vmm.RAX] = multibootLoaderMagic
		cpu.GPR[vmm.RBX] = infoAddr
	}
	return cpu, w.err
}

// writer stores to RAM and keeps the first failure.
type writer struct {
	ram *vmm.RAM
	err error
}

func (w *writer) write(addr uint64, p []byte) {
	if !w.ram.Write(vmm.GPA(addr), p) && w.err == nil {
		w.err = fmt.Errorf("%w: %d bytes at %#x", ErrMemory, len(p), addr)
	}
}

// parse finds out what the image is. It does not unpack.
func parse(image []byte) (*kernel, error) {
	mb := findMultiboot(image)
	switch {
	case bytes.HasPrefix(image, []byte(elf.ELFMAG)):
		f, err := parseELF(image)
		switch {
		case err != nil:
			return nil, err
		case f.class == elf.ELFCLASS64 && f.linux:
			return vmlinux(f), nil
		case f.pvhEntry != 0:
			return &kernel{name: "PVH ELF", protocol: pvh, entry: f.pvhEntry, segments: f.segments,
				cmdlineMax: cmdlineRoom, initrdMax: math.MaxUint32}, nil
		case mb >= 0:
			return parseMultiboot(image, mb, f)
		case f.class == elf.ELFCLASS64:
			return vmlinux(f), nil
		}
		return nil, fmt.Errorf("%w: nothing in this ELF32 says how to enter it; "+
			"it needs a PVH note or a Multiboot header", ErrFormat)
	case isBzImage(image):
		return parseBzImage(image)
	case mb >= 0:
		return parseMultiboot(image, mb, nil)
	}
	return nil, fmt.Errorf("%w: it is no x86 bzImage, ELF or Multiboot image", ErrFormat)
}

// check holds the segments against each other and against RAM.
func (k *kernel) check(ram *vmm.RAM) error {
	entered := false
	slices.SortFunc(k.segments, func(a, b segment) int { return cmp.Compare(a.addr, b.addr) })
	for i, s := range k.segments {
		switch {
		case s.addr < lowEnd:
			return fmt.Errorf("%w: a segment at %#x lies where boot data and firmware are: link the kernel at 1 MiB or above",
				ErrMemory, s.addr)
		case ram.View(vmm.GPA(s.addr), s.size) == nil:
			return fmt.Errorf("%w: a kernel segment of %d KiB at %#x lies outside the guest's %d MiB: give it more (--mem)",
				ErrMemory, s.size>>10, s.addr, ram.Size()>>20)
		case i > 0 && s.addr < k.segments[i-1].end():
			return fmt.Errorf("%w: segments at %#x and %#x overlap", ErrCorrupt, k.segments[i-1].addr, s.addr)
		}
		entered = entered || k.entry >= s.addr && k.entry < s.end()
	}
	if !entered || k.protocol != linux && k.entry > math.MaxUint32 {
		return fmt.Errorf("%w: there is no code to enter at %#x", ErrCorrupt, k.entry)
	}
	return nil
}

// placeInitrd finds the highest place for the initrd that the kernel leaves free.
func (k *kernel) placeInitrd(ram *vmm.RAM, initrd []byte) (segment, error) {
	floor, top := uint64(lowEnd), min(ram.Size(), uint64(vmm.HoleStart), k.initrdMax+1)
	for _, s := range k.segments {
		if s.addr < uint64(vmm.HoleStart) {
			floor = max(floor, (s.end()+vmm.PageSize-1)&^(vmm.PageSize-1))
		}
	}
	size := uint64(len(initrd))
	if size > 0 && (floor > top || size > top-floor) {
		return segment{}, fmt.Errorf("%w: the initrd of %d KiB must lie between the kernel's end at %#x and %#x: "+
			"give the guest more memory (--mem) or a smaller initrd", ErrMemory, size>>10, floor, top)
	}
	return segment{addr: (top - size) &^ (vmm.PageSize - 1), size: size, data: initrd}, nil
}

// memoryMap lists RAM as firmware would: conventional memory ends where the extended BIOS
// data area of a PC begins, and what is between that and 1 MiB is reserved.
func memoryMap(ram *vmm.RAM) []bootparam.E820Entry {
	m := []bootparam.E820Entry{
		{Addr: 0, Size: bootparam.EBDAStart, Type: bootparam.E820Ram},
		{Addr: bootparam.EBDAStart, Size: lowEnd - bootparam.EBDAStart, Type: bootparam.E820Reserved},
	}
	ram.Regions(func(start vmm.GPA, mem []byte) {
		skip := uint64(0)
		if start == 0 {
			skip = lowEnd
		}
		m = append(m, bootparam.E820Entry{Addr: uint64(start) + skip, Size: uint64(len(mem)) - skip, Type: bootparam.E820Ram})
	})
	return m
}
