package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"ftvm/guests/ledger"
	"ftvm/host"
	"ftvm/host/bootdisk"
	"ftvm/vmm/boot"
)

// imageFlags say what the guest is started from. What they leave open, a disk says.
type imageFlags struct {
	kernel, initrd    string
	cmdline, appended string
	flags             *pflag.FlagSet
}

func (g *imageFlags) register(f *pflag.FlagSet) {
	f.StringVar(&g.kernel, "kernel", "", "kernel image: vmlinux, bzImage, PVH or Multiboot ELF (default: that of the first disk with a system on it, or the embedded guest \"ledger\" if there is none)")
	f.StringVar(&g.initrd, "initrd", "", "initial RAM disk, in place of the one on the disk")
	f.StringVar(&g.cmdline, "cmdline", "", "kernel command line, in place of the one on the disk")
	f.StringVar(&g.appended, "append", "", "more of the kernel command line")
	g.flags = f
}

// image is what the guest is started from.
type image struct {
	boot.Image
	kernel string // what the kernel is, for people
	ledger bool   // it is the embedded guest
	where  string // on which disk, and where on it, the kernel was; "" if it was not on a disk
}

// maxFile bounds what is read as a kernel or initrd, in bytes.
const maxFile = bootdisk.MaxFile

// read reads the files that the flags name.
func (g *imageFlags) read() (img image, err error) {
	if g.kernel != "" {
		if img.Kernel, err = readImage("--kernel", g.kernel); err != nil {
			return img, err
		}
		if img.kernel, err = boot.Identify(img.Kernel); err != nil {
			return img, fmt.Errorf("--kernel %s: %w", g.kernel, err)
		}
	}
	if g.initrd != "" {
		if img.Initrd, err = readImage("--initrd", g.initrd); err != nil {
			return img, err
		}
	}
	return img, nil
}

// find completes img by what is on the disks, and by the command line.
func (g *imageFlags) find(img *image, disks []host.Storage, specs []host.DiskSpec) error {
	if img.Kernel == nil {
		system, where, err := findSystem(disks, specs)
		if system != nil {
			if err = img.adopt(system); err != nil {
				err = fmt.Errorf("%s: %w", where, err)
			}
			img.where = where
		}
		switch {
		case err != nil:
			return fmt.Errorf("%w; %s", err, giveKernel)
		case system != nil:
		case len(disks) == 0:
			return errors.New("the ledger guest needs a disk: add --disk IMG (and create one with: ftvm disk create IMG --size 64M)")
		default:
			img.Kernel, img.kernel, img.ledger = ledger.ELF, "the embedded ledger", true
		}
	}
	if g.flags.Changed("cmdline") {
		img.Cmdline = g.cmdline
	}
	img.Cmdline = strings.TrimSpace(img.Cmdline + " " + g.appended)
	return nil
}

// giveKernel is what to do about a disk that does not boot.
const giveKernel = "a kernel can be given with --kernel"

// adopt makes img what a disk says, but for an initial RAM disk that was given.
func (img *image) adopt(s *bootdisk.System) (err error) {
	if img.kernel, err = boot.Identify(s.Kernel); err != nil {
		return err
	}
	img.Kernel, img.Cmdline = s.Kernel, s.Cmdline
	if img.Initrd == nil {
		img.Initrd = s.Initrd
	}
	// The UART is the only console, whatever the system was installed for.
	if !strings.Contains(img.Cmdline, "console=ttyS") {
		img.Cmdline = strings.TrimSpace(img.Cmdline + " console=ttyS0")
	}
	return nil
}

// findSystem looks for a system on each disk that can be read before the machine runs, which an NBD server's cannot.
// It returns nil if there is none, and all of these disks are empty or a ledger's.
func findSystem(disks []host.Storage, specs []host.DiskSpec) (s *bootdisk.System, where string, err error) {
	var without error
	for i, d := range disks {
		r, ok := d.(io.ReaderAt)
		if !ok {
			continue
		}
		s, err := bootdisk.Find(r, d.Size(), diskName(i))
		if err == nil {
			return s, fmt.Sprintf("%s, %s", specs[i], s.Where), nil
		}
		if errors.Is(err, bootdisk.ErrUnknown) {
			if err = ledger.Check(r, int64(d.Size())); err == nil {
				continue
			}
		} else if !errors.Is(err, bootdisk.ErrNothing) {
			return nil, "", fmt.Errorf("%s: %w", specs[i], err)
		}
		if without == nil {
			without = fmt.Errorf("%s: %w", specs[i], err)
		}
	}
	return nil, "", without
}

// diskName is what Linux calls virtio disk number i.
func diskName(i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('a'+(i-1)%26)) + name
	}
	return "vd" + name
}

func readImage(flag, path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxFile {
		return nil, fmt.Errorf("%s %s: %s is too large", flag, path, host.FormatSize(uint64(info.Size())))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return data, nil
}

func describe(p []byte) string {
	if len(p) == 0 {
		return "none"
	}
	return fmt.Sprintf("sha256 %x", sha256.Sum256(p))
}
