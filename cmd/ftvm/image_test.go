package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"ftvm/guests/ledger"
	"ftvm/host"
	"ftvm/host/bootdisk"
	"ftvm/test/need"
	"ftvm/vmm/boot"
)

// linuxDisk is an image of 1 MiB with an ext4 that has these files.
func linuxDisk(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "linux.img")
	need.Run(t, "", "mke2fs", "-q", "-t", "ext4", "-d", dir, path, "1M")
	return path
}

// completed is the image that a command line makes with these disks.
func completed(t *testing.T, args []string, disks ...string) (image, error) {
	t.Helper()
	var g imageFlags
	c := &cobra.Command{}
	g.register(c.Flags())
	if err := c.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	var specs []host.DiskSpec
	var open []host.Storage
	for _, path := range disks {
		d, err := host.OpenDisk(path, host.OpenOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		specs, open = append(specs, host.DiskSpec{Path: path}), append(open, d)
	}
	img, err := g.read()
	if err != nil {
		return img, err
	}
	return img, g.find(&img, open, specs)
}

// TestImage: what the guest is started from, by the flags and by what is on the disks.
func TestImage(t *testing.T) {
	blank := file(t, "", 1<<20)
	btrfs := filepath.Join(t.TempDir(), "btrfs")
	if err := os.WriteFile(btrfs, append(append(make([]byte, 0x10040), "_BHRfS_M"...), make([]byte, 1<<20-0x40-8)...), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := linuxDisk(t, nil)
	linux := linuxDisk(t, map[string][]byte{"vmlinuz": ledger.ELF, "extlinux.conf": []byte("label l\nlinux /vmlinuz\nappend ro console=tty0\n"),
		"initrd.img": []byte("on disk")})
	junk := linuxDisk(t, map[string][]byte{"vmlinuz": []byte("no kernel")})
	kernel, initrd := file(t, string(ledger.ELF), int64(len(ledger.ELF))), file(t, "given", 5)

	for _, row := range []struct {
		name            string
		args            []string
		disks           []string
		cmdline, initrd string
		ledger          bool
		err             string
	}{
		{"nothing", nil, nil, "", "", false, "the ledger guest needs a disk"},
		{"ledger", []string{"--cmdline", "txns=1", "--append", "work=1"}, []string{blank}, "txns=1 work=1", "", true, ""},
		{"kernel", []string{"--kernel", kernel, "--append", "a"}, []string{btrfs, empty}, "a", "", false, ""},
		{"disk", nil, []string{linux}, "ro console=tty0 console=ttyS0", "", false, ""},
		{"second disk", nil, []string{blank, linux}, "ro console=tty0 console=ttyS0", "", false, ""},
		{"disk and more", []string{"--append", "quiet", "--initrd", initrd}, []string{linux}, "ro console=tty0 console=ttyS0 quiet", "given", false, ""},
		{"disk, no command line", []string{"--cmdline", ""}, []string{linux}, "", "", false, ""},
		{"no system", nil, []string{blank, empty}, "", "", false, "disk image " + empty + ": there is nothing to boot from: "},
		{"no system that is known", nil, []string{btrfs}, "", "", false, "the whole disk: Btrfs"},
		{"no kernel", nil, []string{junk}, "", "", false, "it is no x86 bzImage, ELF or Multiboot image"},
	} {
		t.Run(row.name, func(t *testing.T) {
			img, err := completed(t, row.args, row.disks...)
			if row.err != "" {
				if err == nil || !strings.Contains(err.Error(), row.err) {
					t.Errorf("got %v, want %q", err, row.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if img.Cmdline != row.cmdline || string(img.Initrd) != row.initrd || img.ledger != row.ledger || !bytes.Equal(img.Kernel, ledger.ELF) {
				t.Errorf("command line %q, initrd %q, ledger %v", img.Cmdline, img.Initrd, img.ledger)
			}
			if (img.where != "") != (row.disks[len(row.disks)-1] == linux) {
				t.Errorf("found it at %q", img.where)
			}
		})
	}
}

// TestBootFromDisk: a disk with a system on it is all that it takes. The system is the ledger, which
// does not want the disk that it came from and says so by its exit code.
func TestBootFromDisk(t *testing.T) {
	path := linuxDisk(t, map[string][]byte{"vmlinuz": ledger.ELF})
	c := exec.Command(os.Args[0], "run", "--engine", "soft", "--mem", "16M", "--disk", path+",serial=one")
	c.Env = append(os.Environ(), beFtvm+"=1")
	out, err := c.CombinedOutput()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("got %v, want exit code 7", err)
	}
	for _, want := range []string{"ftvm: booting from disk image " + path + ", the whole disk: /vmlinuz\n", "guest: vmlinux ELF64, 16MiB of memory"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

func TestAdopt(t *testing.T) {
	for _, row := range []struct{ cmdline, want string }{
		{"", "console=ttyS0"},
		{"ro quiet", "ro quiet console=ttyS0"},
		{"console=tty0 ro", "console=tty0 ro console=ttyS0"},
		{"console=ttyS0,115200n8 ro", "console=ttyS0,115200n8 ro"},
	} {
		img := image{Image: boot.Image{Cmdline: "other"}}
		if err := img.adopt(&bootdisk.System{Kernel: ledger.ELF, Cmdline: row.cmdline}); err != nil || img.Cmdline != row.want {
			t.Errorf("%q becomes %q, %v; want %q", row.cmdline, img.Cmdline, err, row.want)
		}
	}
}

func TestDiskName(t *testing.T) {
	for i, want := range map[int]string{0: "vda", 1: "vdb", 25: "vdz", 26: "vdaa", 29: "vdad"} {
		if got := diskName(i); got != want {
			t.Errorf("disk %d is %s, want %s", i, got, want)
		}
	}
}
