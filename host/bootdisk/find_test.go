package bootdisk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ftvm/test/need"
)

const fsUUID = "12345678-1234-4234-8234-123456789abc"

// tree makes files in a new directory: contents by path; a path that ends in "@" is a symbolic link, one in "/" a directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, strings.TrimRight(name, "@"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case strings.HasSuffix(name, "@"):
			err = os.Symlink(text, path)
		default:
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mkfs makes a file system of kib KiB with these files.
func mkfs(t testing.TB, kib int, files map[string]string, options ...string) []byte {
	t.Helper()
	image := filepath.Join(t.TempDir(), "fs")
	args := append([]string{"-q", "-F", "-U", fsUUID, "-d", tree(t, files)}, options...)
	need.Run(t, "", "mke2fs", append(args, image, fmt.Sprint(kib))...)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// table makes a disk: volumes one after the other, from 1 MiB on, as sfdisk is told by head and by line, which has a verb for each
// start and size in sectors.
func table(t testing.TB, head string, lines []string, volumes ...[]byte) []byte {
	t.Helper()
	script := head + "\n"
	disk := make([]byte, 1<<20)
	for i, v := range volumes {
		script += fmt.Sprintf(lines[i], len(disk)/512, len(v)/512) + "\n"
		disk = append(disk, v...)
		disk = append(disk, make([]byte, 1<<20)...)
	}
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	need.Run(t, script, "sfdisk", "-q", image)
	disk, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

func find(disk []byte) (*System, error) {
	return Find(bytes.NewReader(disk), uint64(len(disk)), "vda")
}

// holes is a file as Debian's kernels are: with blocks of zeros, of which mke2fs makes holes.
var holes = "kernel" + strings.Repeat("\x00", 50_000) + "middle" + strings.Repeat("\x00", 100_000) + "end"

const grubText = `
set default="0"
if [ "${next_entry}" ] ; then set default="${next_entry}"; fi
menuentry 'Debian' --class debian $menuentry_id_option 'simple' {
	insmod ext2
	search --no-floppy --fs-uuid --set=root 12345678
	linux	/boot/vmlinuz-6.1 root=UUID=12345678 ro  quiet
	initrd	/boot/initrd.img-6.1
}
`

// TestFileSystems: what mke2fs makes is read right, whatever its features.
func TestFileSystems(t *testing.T) {
	files := map[string]string{"boot/grub/grub.cfg": grubText, "boot/vmlinuz-6.1": holes, "boot/initrd.img-6.1": strings.Repeat("initrd", 70_000)}
	for i := range 300 {
		files[fmt.Sprintf("boot/file-with-a-long-name-%d", i)] = ""
	}
	for _, options := range []string{
		"-t ext4",
		"-t ext4 -b 1024 -O ^has_journal",
		"-t ext4 -O ^64bit,^metadata_csum",
		"-t ext4 -O metadata_csum_seed,orphan_file",
		"-t ext4 -O bigalloc",
		"-t ext3 -b 1024",
		"-t ext2 -b 1024 -I 128",
		"-t ext2 -r 0",
	} {
		t.Run(options, func(t *testing.T) {
			s, err := find(mkfs(t, 8<<10, files, strings.Fields(options+" -N 512")...))
			if err != nil {
				t.Fatal(err)
			}
			check(t, s, "root=UUID=12345678 ro quiet",
				`the whole disk, /boot/grub/grub.cfg, "Debian": /boot/vmlinuz-6.1, /boot/initrd.img-6.1`)
			if string(s.Kernel) != holes || string(s.Initrd) != files["boot/initrd.img-6.1"] {
				t.Errorf("kernel of %d bytes and initrd of %d are not as they were written", len(s.Kernel), len(s.Initrd))
			}
		})
	}
}

func check(t *testing.T, s *System, cmdline, where string) {
	t.Helper()
	if s.Cmdline != cmdline {
		t.Errorf("command line %q, want %q", s.Cmdline, cmdline)
	}
	if s.Where != where {
		t.Errorf("said %s, want %s", s.Where, where)
	}
}

// TestIndexedDirectory: what e2fsck -D makes of a large directory, and a kernel made of more extents than an inode holds.
func TestIndexedDirectory(t *testing.T) {
	files := map[string]string{}
	for i := range 1000 {
		files[fmt.Sprintf("boot/file-with-a-long-name-%d", i)] = ""
	}
	var kernel strings.Builder
	for i := range 100 {
		fmt.Fprintf(&kernel, "%02048d%s", i, strings.Repeat("\x00", 2048))
	}
	files["boot/vmlinuz"] = kernel.String()
	image := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(image, mkfs(t, 8<<10, files, "-t", "ext4", "-b", "1024", "-N", "2048"), 0o644); err != nil {
		t.Fatal(err)
	}
	need.Run(t, "", "e2fsck", "-fyD", image)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	s, err := find(data)
	if err != nil {
		t.Fatal(err)
	}
	if string(s.Kernel) != kernel.String() {
		t.Error("the kernel is not as it was written")
	}
}

// TestPartitions: a system is found whatever the table, and on a disk with a /boot of its own.
func TestPartitions(t *testing.T) {
	boot := mkfs(t, 512, map[string]string{"grub/grub.cfg": strings.ReplaceAll(grubText, "/boot/", "/"), "vmlinuz-6.1": "kernel", "initrd.img-6.1": "initrd"})
	root := mkfs(t, 512, map[string]string{"usr/bin/init": "", "sbin@": "usr/bin", "boot/vmlinuz": "plain kernel"}, "-U", "11111111-2222-4333-8444-555555555555")
	gpt := "label: gpt\nunit: sectors"
	part := `start=%d, size=%d, uuid=AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE`
	for _, row := range []struct {
		name           string
		disk           []byte
		cmdline, where string
	}{
		{"MBR", table(t, "label: dos\nlabel-id: 0xdeadbeef", []string{"start=%d, size=%d, type=83"}, root),
			"root=PARTUUID=deadbeef-01 ro", "partition 1: /boot/vmlinuz"},
		{"MBR, logical", table(t, "label: dos\nlabel-id: 0xdeadbeef\nstart=1024, type=5", []string{"start=%d, size=%d, type=83"}, root),
			"root=PARTUUID=deadbeef-05 ro", "partition 5: /boot/vmlinuz"},
		{"GPT", table(t, gpt, []string{part}, root),
			"root=PARTUUID=aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee ro", "partition 1: /boot/vmlinuz"},
		{"GPT with /boot", table(t, gpt, []string{"start=%d, size=%d", "start=%d, size=%d"}, boot, root),
			"root=UUID=12345678 ro quiet", `partition 1, /grub/grub.cfg, "Debian": /vmlinuz-6.1, /initrd.img-6.1`},
		{"whole disk", root, "root=/dev/vda ro", "the whole disk: /boot/vmlinuz"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, err := find(row.disk)
			if err != nil {
				t.Fatal(err)
			}
			check(t, s, row.cmdline, row.where)
		})
	}
}

// TestConfigurations: each kind of boot loader file, and what is made up without one.
func TestConfigurations(t *testing.T) {
	for _, row := range []struct {
		name           string
		files          map[string]string
		cmdline, where string
		initrd         string
	}{
		{"Boot Loader Specification", map[string]string{
			"boot/grub2/grub.cfg":                 "set default=\"${saved_entry}\"\nblscfg\nmenuentry 'UEFI Firmware Settings' { fwsetup }\n",
			"boot/grub2/grubenv":                  "# GRUB Environment Block\nkernelopts=root=UUID=1 ro\n####",
			"boot/loader/entries/m-5.9.conf":      "title Old\nlinux /boot/vmlinuz-5.9\n",
			"boot/loader/entries/m-5.10.conf":     "title New\nversion 5.10\nlinux /boot/vmlinuz-5.10\ninitrd /boot/a /boot/b\noptions $kernelopts\noptions quiet\n",
			"boot/loader/entries/m-0-rescue.conf": "title Rescue\nlinux /boot/vmlinuz-0\n",
			"boot/vmlinuz-5.10":                   "5.10", "boot/a": "12345", "boot/b": "6",
		}, "root=UUID=1 ro quiet", `the whole disk, /boot/loader/entries/m-5.10.conf, "New": /boot/vmlinuz-5.10, /boot/a, /boot/b`, "12345\x00\x00\x006"},
		{"Boot Loader Specification with a default", map[string]string{
			"loader/loader.conf":      "timeout 3\ndefault old*\n",
			"loader/entries/old.conf": "linux /old\n",
			"loader/entries/new.conf": "sort-key a\nlinux /new\n",
			"loader/entries/README":   "linux /readme\n",
			"old":                     "o",
			"new":                     "n",
		}, "", "the whole disk, /loader/entries/old.conf: /old", ""},
		{"extlinux", map[string]string{
			"boot/extlinux.conf": "DEFAULT virt\nLABEL lts\n  LINUX vmlinuz-lts\nLABEL virt\n  MENU LABEL Linux virt\n  LINUX vmlinuz-virt\n  INITRD initramfs-virt\n  APPEND root=UUID=1 modules=ext4 quiet\n",
			"boot/vmlinuz-virt":  "k", "boot/initramfs-virt": "i",
		}, "root=UUID=1 modules=ext4 quiet", `the whole disk, /boot/extlinux.conf, "virt": vmlinuz-virt, initramfs-virt`, "i"},
		{"syslinux", map[string]string{
			"syslinux/syslinux.cfg": "append ro\nlabel a\nkernel /k\nlabel b\nmenu default\nkernel /k2\nappend initrd=/i1,/i2 ro quiet\n",
			"k2":                    "k", "i1": "1111", "i2": "2",
		}, "ro quiet", `the whole disk, /syslinux/syslinux.cfg, "b": /k2, /i1, /i2`, "11112"},
		{"nothing but links", map[string]string{
			"vmlinuz@": "boot/vmlinuz-6", "initrd.img@": "/boot/../boot/initrd.img-6", "boot/vmlinuz-6": "k", "boot/initrd.img-6": "i",
		}, "root=UUID=" + fsUUID + " ro", "the whole disk: /vmlinuz, /initrd.img", "i"},
		{"a long link", map[string]string{
			"vmlinuz@": strings.Repeat("./", 50) + "boot/vmlinuz", "boot/vmlinuz": "k",
		}, "root=/dev/vda ro", "the whole disk: /vmlinuz", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, err := find(mkfs(t, 512, row.files))
			if err != nil {
				t.Fatal(err)
			}
			check(t, s, row.cmdline, row.where)
			if string(s.Initrd) != row.initrd {
				t.Errorf("initrd %q, want %q", s.Initrd, row.initrd)
			}
		})
	}
}

// TestNoSystem: what is there instead is told.
func TestNoSystem(t *testing.T) {
	ext4 := func(files map[string]string) []byte { return mkfs(t, 512, files) }
	at := func(off int, text string) []byte {
		p := make([]byte, 1<<20)
		copy(p[off:], text)
		return p
	}
	patched := func(disk []byte, off int, text string) []byte {
		copy(disk[off:], text)
		return disk
	}
	cut := table(t, "label: gpt", []string{"start=%d, size=%d"}, make([]byte, 1<<20))
	for _, row := range []struct {
		name string
		disk []byte
		err  error
		says string
	}{
		{"blank", make([]byte, 1<<20), ErrUnknown, ""},
		{"tiny", make([]byte, 512), ErrUnknown, ""},
		{"text", at(0, "hello"), ErrUnknown, ""},
		{"Btrfs", at(0x10040, "_BHRfS_M"), ErrNothing, "the whole disk: Btrfs"},
		{"qcow2", at(0, "QFI\xfb"), ErrNothing, "qemu-img convert"},
		{"XFS on a partition", table(t, "label: dos", []string{"start=%d, size=%d"}, at(0, "XFSB")), ErrNothing, "partition 1: XFS"},
		{"empty ext4", ext4(nil), ErrNothing, "looked for grub.cfg, loader/entries, extlinux.conf and vmlinuz on ext4 file systems (the whole disk: ext4)"},
		{"no kernel", ext4(map[string]string{"boot/grub/grub.cfg": grubText}), nil,
			`there is no /boot/vmlinuz-6.1, which the whole disk, /boot/grub/grub.cfg, "Debian" wants`},
		{"links in a circle", ext4(map[string]string{"vmlinuz@": "a", "a@": "vmlinuz"}), nil, "too many symbolic links"},
		{"cut short", cut[:len(cut)-1<<20-1<<19], errTable, "is the image complete?"},
		{"file system cut short", ext4(map[string]string{"vmlinuz": "k"})[:256<<10], ErrNothing, "the file system is damaged: it has 512 blocks of 1024 bytes, there is room for 256: is the image complete?"},
		{"bad GPT", patched(table(t, "label: gpt", []string{"start=%d, size=%d"}, make([]byte, 1<<20)), 512+40, "\xff"), errTable, "sgdisk"},
		{"unknown feature", patched(ext4(nil), superblockAt+sbIncompatible, "\xff\xff"), ErrNothing, "the file system cannot be read here: it has incompatible features"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := find(row.disk)
			if err == nil || row.err != nil && !errors.Is(err, row.err) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v, want %v, saying %q", err, row.err, row.says)
			}
		})
	}
}

// FuzzFind: whatever is in an image, Find returns.
func FuzzFind(f *testing.F) {
	disk := table(f, "label: gpt", []string{"start=%d, size=%d"}, mkfs(f, 256, map[string]string{
		"boot/grub/grub.cfg": grubText, "boot/vmlinuz-6.1": holes, "boot/initrd.img-6.1": "initrd", "vmlinuz@": "boot/vmlinuz-6.1",
	}, "-b", "1024", "-N", "32"))
	const start = 1 << 20
	f.Add(uint32(superblockAt), []byte{})
	f.Add(uint32(2048), []byte{0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, off uint32, patch []byte) {
		image := bytes.Clone(disk)
		copy(image[start+int(off)%(len(image)-start):], patch)
		if s, err := find(image); (s == nil) == (err == nil) {
			t.Errorf("%v, %v", s, err)
		}
	})
}

// FuzzConfigurations: whatever is in a boot loader's file, it is read to its end.
func FuzzConfigurations(f *testing.F) {
	f.Add(grubText)
	f.Add("submenu a {menuentry \"b${c\" --id 'd\\")
	f.Add("label a\nkernel b\nappend initrd=c d\nmenu default")
	f.Add("linux a\noptions $b c\nversion 1.2~3")
	f.Add("b=$b$b\nb=c\nlinux a\noptions $b $b\noptions d")
	f.Fuzz(func(t *testing.T, text string) {
		env := parseGrubenv(text)
		if e, err := parseGrub(text, env); e != nil && err != nil || e != nil && len(e.cmdline) > len(text)*3+maxConfig {
			t.Errorf("%v, %v", e, err)
		}
		parseExtlinux(text)
		a, b := parseBLS(text, text), parseBLS("1", "version 1")
		if err := a.expand(env); len(a.cmdline) > maxConfig || err != nil && a.cmdline != "" {
			t.Errorf("a command line of %d bytes, %v", len(a.cmdline), err)
		}
		if compareBLS(a, b) != -compareBLS(b, a) || compareBLS(a, a) != 0 {
			t.Error("the order of entries is none")
		}
	})
}
