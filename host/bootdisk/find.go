package bootdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Find wraps one of these if the disk says nothing about how to start it.
var (
	// ErrNothing: there is something on it, which the error names, but no system that can be started.
	ErrNothing = errors.New("there is nothing to boot from")
	// ErrUnknown: it has no partition table, and nothing that is known from its first bytes.
	ErrUnknown = errors.New("there is no partition table and no known file system")
)

// System is what a disk is started with.
type System struct {
	Kernel, Initrd []byte // Initrd may be empty
	Cmdline        string
	// Where tells people, in one line, what was found and where.
	Where string
}

// Find looks for a system on a disk of size bytes. device is how the guest's Linux calls the disk, such as "vda".
// Errors are of reading the disk, of what is damaged or cannot be read here, ErrNothing and ErrUnknown.
func Find(disk io.ReaderAt, size uint64, device string) (*System, error) {
	disk = &meter{disk, maxWork}
	parts, err := partitions(disk, size)
	if err != nil {
		return nil, err
	}
	d := &search{device: device}
	var seen []string // what is on the partitions, for people
	for _, p := range parts {
		r := io.NewSectionReader(disk, int64(p.start), int64(p.size))
		if !hasExt4(r) {
			name, ok := identify(r)
			if !ok && p.number == 0 {
				return nil, ErrUnknown
			}
			seen = append(seen, fmt.Sprintf("%s: %s", p, name))
			continue
		}
		f, err := openExt4(r, p.size)
		if err != nil {
			seen = append(seen, fmt.Sprintf("%s: %v", p, err))
			continue
		}
		d.volumes = append(d.volumes, &volume{ext4: f, partition: p})
		seen = append(seen, p.String()+": ext4")
	}
	for _, v := range d.volumes {
		for _, look := range []func(*volume) (*found, error){d.grub, d.bls, d.extlinux} {
			at, err := look(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v, err)
			}
			if at != nil {
				return d.load(at)
			}
		}
	}
	at, err := d.plain()
	if err != nil {
		return nil, err
	}
	if at != nil {
		return d.load(at)
	}
	return nil, fmt.Errorf("%w: looked for grub.cfg, loader/entries, extlinux.conf and vmlinuz on ext4 file systems (%s)",
		ErrNothing, strings.Join(seen, ", "))
}

// maxWork is how many bytes one Find may read. A kernel, an initial RAM disk and what leads to them never take so many.
const maxWork = 3 * MaxFile

// meter reads until it has read enough.
type meter struct {
	io.ReaderAt
	left int
}

func (m *meter) ReadAt(p []byte, off int64) (int, error) {
	if m.left -= len(p); m.left < 0 {
		return 0, fmt.Errorf("%w: to find what it names takes no end", errDamaged)
	}
	return m.ReaderAt.ReadAt(p, off)
}

// search is one Find under way.
type search struct {
	device  string
	volumes []*volume
}

// volume is a file system on the disk.
type volume struct {
	*ext4
	partition
}

func (v *volume) String() string { return v.partition.String() }

// found is an entry, and where it was.
type found struct {
	entry
	on   *volume
	path string // of the file that has it; "" if there was none
}

// file reads a file; ok is false if there is none.
func (v *volume) file(name string, limit uint64) (data []byte, ok bool, err error) {
	data, err = v.readFile(name, limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("%s: %w", name, err)
	}
	return data, true, nil
}

var grubDirs = []string{"/boot/grub", "/grub", "/boot/grub2", "/grub2"}

// grub looks for GRUB's configuration.
func (d *search) grub(v *volume) (*found, error) {
	for _, dir := range grubDirs {
		name := dir + "/grub.cfg"
		text, ok, err := v.file(name, maxConfig)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		env, err := v.grubenv()
		if err != nil {
			return nil, err
		}
		e, err := parseGrub(string(text), env)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if e != nil {
			return &found{*e, v, name}, nil
		}
	}
	return nil, nil
}

// grubenv reads what GRUB remembers from one boot to the next; there may be nothing.
func (v *volume) grubenv() (map[string]string, error) {
	for _, dir := range grubDirs {
		if text, ok, err := v.file(dir+"/grubenv", maxConfig); err != nil || ok {
			return parseGrubenv(string(text)), err
		}
	}
	return nil, nil
}

// bls looks for entries of the Boot Loader Specification.
func (d *search) bls(v *volume) (*found, error) {
	// Of each, all is kept until one is chosen.
	const maxEntries, maxEntry = 256, 64 << 10
	for _, dir := range []string{"/boot/loader", "/loader"} {
		names, err := v.list(dir + "/entries")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("%s/entries: %w", dir, err)
		}
		env, err := v.grubenv()
		if err != nil {
			return nil, err
		}
		var entries []*blsEntry
		for _, name := range names {
			id, ok := strings.CutSuffix(name, ".conf")
			if !ok || len(entries) == maxEntries {
				continue
			}
			text, _, err := v.file(dir+"/entries/"+name, maxEntry)
			if err != nil {
				return nil, err
			}
			if e := parseBLS(id, string(text)); e.kernel != "" {
				entries = append(entries, e)
			}
		}
		slices.SortFunc(entries, compareBLS)
		conf, _, err := v.file(dir+"/loader.conf", maxConfig)
		if err != nil {
			return nil, err
		}
		if e := chooseBLS(entries, blsDefault(string(conf)), env["saved_entry"]); e != nil {
			name := fmt.Sprintf("%s/entries/%s.conf", dir, e.id)
			if err := e.expand(env); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return &found{e.entry, v, name}, nil
		}
	}
	return nil, nil
}

// extlinux looks for the configuration of EXTLINUX, or of SYSLINUX.
func (d *search) extlinux(v *volume) (*found, error) {
	for _, dir := range []string{"/boot/extlinux", "/extlinux", "/boot/syslinux", "/syslinux", "/boot", ""} {
		for _, file := range []string{"/extlinux.conf", "/syslinux.cfg"} {
			text, ok, err := v.file(dir+file, maxConfig)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			if e := parseExtlinux(string(text)); e != nil {
				return &found{*e, v, dir + file}, nil
			}
		}
	}
	return nil, nil
}

// plain looks for a kernel where distributions put it, and makes up a command line.
func (d *search) plain() (*found, error) {
	for _, v := range d.volumes {
		for _, dir := range []string{"", "/boot"} {
			kernel := dir + "/vmlinuz"
			if ok, err := v.exists(kernel); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
			at := &found{entry{kernel: kernel}, v, ""}
			if ok, err := v.exists(dir + "/initrd.img"); err != nil {
				return nil, err
			} else if ok {
				at.initrds = []string{dir + "/initrd.img"}
			}
			root, err := d.root(v)
			if err != nil {
				return nil, err
			}
			at.cmdline = d.rootArgument(root, len(at.initrds) > 0) + " ro"
			return at, nil
		}
	}
	return nil, nil
}

func (v *volume) exists(name string) (bool, error) {
	_, err := v.find(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("%s: %s: %w", v, name, err)
	}
	return true, nil
}

// root is the file system that has /sbin/init, or otherwise, if none has.
func (d *search) root(otherwise *volume) (*volume, error) {
	for _, v := range d.volumes {
		if ok, err := v.exists("/sbin/init"); err != nil || ok {
			return v, err
		}
	}
	return otherwise, nil
}

// rootArgument names a file system: by itself to an initial RAM disk, by its partition to the kernel, which does not
// know the former.
func (d *search) rootArgument(v *volume, initrd bool) string {
	switch {
	case initrd:
		return "root=UUID=" + v.ext4.uuid
	case v.partition.uuid != "":
		return "root=PARTUUID=" + v.partition.uuid
	}
	return "root=/dev/" + d.device
}

// load reads what an entry names. The files may be on another file system than the entry.
func (d *search) load(at *found) (*System, error) {
	s := &System{Cmdline: at.cmdline}
	read := func(name string) ([]byte, error) {
		if !strings.HasPrefix(name, "/") {
			name = path.Join(path.Dir(at.path), name)
		}
		for _, v := range append([]*volume{at.on}, d.volumes...) {
			if data, ok, err := v.file(name, MaxFile); err != nil {
				return nil, fmt.Errorf("%s: %w", v, err)
			} else if ok {
				return data, nil
			}
		}
		return nil, fmt.Errorf("there is no %s, which %s wants", name, at)
	}
	var err error
	if s.Kernel, err = read(at.kernel); err != nil {
		return nil, err
	}
	for _, name := range at.initrds {
		data, err := read(name)
		if err != nil {
			return nil, err
		}
		if len(s.Initrd)+len(data) > MaxFile-4 {
			return nil, fmt.Errorf("the initial RAM disk that %s wants is longer than %d bytes", at, MaxFile)
		}
		// Archives in a row begin on whole words (Linux Documentation, initramfs buffer format).
		s.Initrd = append(s.Initrd, make([]byte, -len(s.Initrd)&3)...)
		s.Initrd = append(s.Initrd, data...)
	}
	s.Where = fmt.Sprintf("%s: %s", at, strings.Join(append([]string{at.kernel}, at.initrds...), ", "))
	return s, nil
}

func (f *found) String() string {
	text := f.on.String()
	if f.path != "" {
		text += ", " + f.path
	}
	if f.title != "" {
		text += fmt.Sprintf(", %q", f.title)
	}
	return text
}

// known are things on a disk that are no ext4: what at an offset tells them.
var known = []struct {
	offset      int64
	magic, name string
}{
	{0, "XFSB", "XFS"},
	{0x10040, "_BHRfS_M", "Btrfs"},
	{0x218, "LVM2 001", "LVM"},
	{0, "LUKS\xBA\xBE", "encrypted (LUKS)"},
	{82, "FAT32   ", "FAT"},
	{54, "FAT1", "FAT"},
	{3, "NTFS    ", "NTFS"},
	{0, "hsqs", "squashfs"},
	{0x8001, "CD001", "ISO 9660"},
	{4086, "SWAPSPACE2", "swap"},
	{0, "QFI\xFB", "a qcow2 image, not a raw one: convert it with qemu-img convert -O raw"},
	{0, "KDMV", "a VMDK image, not a raw one: convert it with qemu-img convert -O raw"},
	{0, "vhdxfile", "a VHDX image, not a raw one: convert it with qemu-img convert -O raw"},
}

// identify says what is there instead of a file system that can be read here.
func identify(r io.ReaderAt) (name string, ok bool) {
	for _, k := range known {
		p := make([]byte, len(k.magic))
		if _, err := r.ReadAt(p, k.offset); err == nil && bytes.Equal(p, []byte(k.magic)) {
			return k.name, true
		}
	}
	return "nothing known", false
}
