package badinput

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ftvm/guests/ledger"
	"ftvm/test/need"
)

// TestSystems: disks with a system on them that does not boot. IMG in says stands for the image's path.
func TestSystems(t *testing.T) {
	const entry = `partition 1, /boot/grub/grub.cfg, "Debian"`
	for _, row := range []struct {
		name   string
		kernel func(t *testing.T) []byte // nil if there is none
		// debugfs damages the file system, size cuts the image off; each may be left out.
		debugfs string
		size    int64
		says    string
	}{
		{"no kernel", nil, "", 0, "IMG: there is no /boot/vmlinuz-6.1, which " + entry + " wants"},
		{"no bzImage", script, "", 0, "IMG, " + entry + ": /boot/vmlinuz-6.1: cannot boot this kind of kernel image: it is no x86 bzImage"},
		{"kernel cut off", half, "", 0, "IMG, " + entry + ": /boot/vmlinuz-6.1: kernel image is damaged: ELF segment 1 lies outside the file"},
		{"kernel overwritten", overwritten, "", 0, "kernel image is damaged: bzImage "},
		{"kernel's blocks lost", whole, "set_inode_field /boot/vmlinuz-6.1 block[0] 0", 0,
			"IMG: partition 1: /boot/vmlinuz-6.1: the file system is damaged: inode "},
		{"directory's blocks lost", whole, "set_inode_field /boot block[0] 0", 0, "IMG: partition 1: /boot/grub/grub.cfg: the file system is damaged: inode "},
		{"image cut off", whole, "", 2 << 20, "IMG: the partition table is damaged: partition 1 ends at 5242880, the disk at 2097152: is the image complete?"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx := begin(t)
			var kernel []byte
			if row.kernel != nil {
				kernel = row.kernel(t)
			}
			path := bootable(t, kernel, row.debugfs)
			if row.size != 0 {
				check(t, os.Truncate(path, row.size))
			}
			before := contents(t, path)
			for _, command := range []string{"run", "primary --listen 127.0.0.1:0"} {
				r, err := lab.Run(ctx, append(strings.Fields(command), "--disk", path)...)
				check(t, err)
				t.Logf("%s", r.Stderr)
				if r.Code != 1 {
					t.Errorf("%s: exit code %d, want 1", command, r.Code)
				}
				for _, want := range []string{strings.ReplaceAll(row.says, "IMG", path), path, "a kernel can be given with --kernel"} {
					if !strings.Contains(r.Stderr, want) {
						t.Errorf("%s: it does not say %q", command, want)
					}
				}
				if contents(t, path) != before {
					t.Errorf("%s: the image was changed", command)
				}
			}
		})
	}
}

func whole(*testing.T) []byte  { return ledger.ELF }
func half(*testing.T) []byte   { return ledger.ELF[:len(ledger.ELF)/2] }
func script(*testing.T) []byte { return []byte("#!/bin/sh\n") }

// overwritten is a kernel whose compressed part is not what it was.
func overwritten(t *testing.T) []byte {
	t.Helper()
	kernel, err := os.ReadFile(need.Built(t, "vmlinuz", "guest-linux"))
	check(t, err)
	clear(kernel[len(kernel)/2:][:1<<16])
	return kernel
}

// bootable makes a disk with a partition, an ext4, and a system that has this kernel, and damages it by a command of debugfs(8).
func bootable(t *testing.T, kernel []byte, damage string) string {
	t.Helper()
	dir := t.TempDir()
	volume, disk, boot := filepath.Join(dir, "fs"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "root/boot")
	check(t, os.MkdirAll(filepath.Join(boot, "grub"), 0o755))
	check(t, os.WriteFile(filepath.Join(boot, "grub/grub.cfg"), []byte("menuentry 'Debian' {\n\tlinux /boot/vmlinuz-6.1 ro\n}\n"), 0o644))
	if kernel != nil {
		check(t, os.WriteFile(filepath.Join(boot, "vmlinuz-6.1"), kernel, 0o644))
	}
	need.Run(t, "", "mke2fs", "-q", "-t", "ext4", "-d", filepath.Dir(boot), volume, fmt.Sprintf("%dM", 4+len(kernel)>>19))
	if damage != "" {
		need.Run(t, "", "debugfs", "-w", "-R", damage, volume)
	}
	const start = 1 << 20
	data, err := os.ReadFile(volume)
	check(t, err)
	check(t, os.WriteFile(disk, append(make([]byte, start), data...), 0o644))
	need.Run(t, fmt.Sprintf("start=%d, type=83\n", start/512), "sfdisk", "-q", disk)
	return disk
}
