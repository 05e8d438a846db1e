package badinput

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskImages: images that cannot be a guest's disk. IMG in says stands for the image's path.
func TestDiskImages(t *testing.T) {
	for _, row := range []struct {
		name  string
		image func(t *testing.T) string
		code  int
		says  string
	}{
		{"missing", func(t *testing.T) string { return filepath.Join(t.TempDir(), "disk.img") }, 1,
			"no such file or directory: create one with: ftvm disk create IMG"},
		{"empty", func(t *testing.T) string { return image(t, 0, "") }, 1,
			"is empty: remove it and create one with: ftvm disk create IMG"},
		{"too small", func(t *testing.T) string { return image(t, 512, "") }, 1,
			"512 bytes are too few for a ledger"},
		{"odd size", func(t *testing.T) string { return image(t, imageSize+1, "") }, 1,
			"not a multiple of 512: is it a raw image, and complete?"},
		{"read-only", func(t *testing.T) string {
			path := image(t, imageSize, "")
			check(t, os.Chmod(path, 0o444))
			return path
		}, 1, "is read-only (mode -r--r--r--): if the guest may write to it: chmod u+w IMG"},
		{"a directory", func(t *testing.T) string { return t.TempDir() }, 1, "is a directory: name a file in it"},
		{"a pipe", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "disk.img")
			check(t, unix.Mkfifo(path, 0o644))
			return path
		}, 1, "is neither a regular file nor a block device"},
		{"of something else", func(t *testing.T) string { return image(t, imageSize, "\xeb\x63\x90 a boot sector") }, 1,
			"there is something else on it; the ledger guest wants an empty disk (ftvm disk create IMG)"},
		{"of a qcow2", func(t *testing.T) string { return image(t, imageSize, "QFI\xfb\x00\x00\x00\x03") }, 1,
			"a qcow2 image, not a raw one: convert it with qemu-img convert -O raw"},
		{"of something else further in", func(t *testing.T) string {
			path := image(t, imageSize, "")
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			check(t, err)
			defer f.Close()
			_, err = f.WriteAt([]byte("precious"), 8192)
			check(t, err)
			return path
		}, 7, "the guest ended: debug exit with code 7"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx := begin(t)
			path := row.image(t)
			before := contents(t, path)
			r, err := lab.Run(ctx, "run", "--disk", path)
			check(t, err)
			t.Logf("%s", r.Stderr)
			if r.Code != row.code {
				t.Errorf("exit code %d, want %d", r.Code, row.code)
			}
			if want := strings.ReplaceAll(row.says, "IMG", path); !strings.Contains(r.Stderr, want) &&
				!strings.Contains(r.Stderr, row.says) {
				t.Errorf("it does not say %q", want)
			}
			if contents(t, path) != before {
				t.Error("the image was changed")
			}
		})
	}
}

// contents is what a regular file holds; "" for anything else.
func contents(t *testing.T, path string) string {
	t.Helper()
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	data, err := os.ReadFile(path)
	check(t, err)
	return string(data)
}

// TestImageInUse: an image that a replica uses is nobody else's, and the replica does not mind
// the attempt.
func TestImageInUse(t *testing.T) {
	ctx := begin(t)
	p := startPair(ctx, t)
	for _, image := range p.Images {
		for _, command := range [][]string{{"run", "--disk"}, {"backup", "--peer", p.Addr, "--disk"}, {"ledger", "verify"}} {
			r, err := lab.Run(ctx, append(command, image)...)
			check(t, err)
			t.Logf("%s", r.Stderr)
			if r.Code != 1 || !strings.Contains(r.Stderr, "in use by another process (process ") {
				t.Errorf("ftvm %s ends with exit code %d", command[0], r.Code)
			}
		}
	}
	unharmed(ctx, t, p.Primary)
	check(t, p.Backup.WaitFor(ctx, 0))
}

// TestCommandLines: flags and files that make no sense. DISK stands for an image that is well,
// JUNK for a file that is no kernel, BUSY for an address that is taken.
func TestCommandLines(t *testing.T) {
	ctx := begin(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer ln.Close()
	stand := strings.NewReplacer(
		"DISK", image(t, imageSize, ""),
		"JUNK", image(t, imageSize, "neither ELF nor bzImage"),
		"BUSY", ln.Addr().String(),
		"NOWHERE", filepath.Join(t.TempDir(), "nowhere"))
	for _, row := range []struct{ command, says string }{
		{"frob", `unknown command "frob"`},
		{"run", "the ledger guest needs a disk: add --disk IMG"},
		{"run --disk DISK --frob", "unknown flag: --frob"},
		{"run --disk DISK more", `"more"`},
		{"run --disk DISK --mem 3Q", "such as 64M or 1GiB"},
		{"run --disk DISK --mem 100", "want a multiple of the page size"},
		{"run --disk DISK --mem 1M", "give the guest more (--mem)"},
		{"run --disk DISK --mem 999T", "give the guest less with --mem"},
		{"run --disk DISK --epoch 0", "an epoch must have some length"},
		{"run --disk DISK --epoch many", `invalid argument "many" for "--epoch"`},
		{"run --disk DISK --engine steam", "--engine steam: there are auto, kvm and soft"},
		{"run --disk DISK --clock sundial", `--clock sundial: there are exits and step of engine kvm`},
		{"run --disk DISK --kernel NOWHERE", "--kernel: open NOWHERE: no such file"},
		{"run --disk DISK --kernel JUNK", "it is no x86 bzImage, ELF or Multiboot image"},
		{"run --disk DISK --initrd NOWHERE", "--initrd: open NOWHERE: no such file"},
		{"run --disk DISK --disk DISK", "given twice"},
		{"run --disk DISK --cmdline " + strings.Repeat("x", 5000), "kernel command line is not usable: 5000 bytes"},
		{"primary --disk DISK --listen here", "--listen: "},
		{"primary --disk DISK --listen BUSY", "address already in use"},
		{"primary --disk DISK --commit maybe", "--commit maybe: there are held and verified"},
		{"primary --disk DISK --heartbeat 0s", "--heartbeat must be more than 0"},
		{"primary --disk DISK --suspect 1", "--suspect at least 2"},
		{"primary --disk DISK --max-lag 1", "--max-lag must be at least 2"},
		{"primary --disk DISK --epoch-time 0s", "--epoch-time must be more than 0"},
		{"backup --disk DISK --peer there", "primary at there:"},
		{"backup --disk DISK --peer 127.0.0.1:1", "primary at 127.0.0.1:1:"},
		{"disk create DISK", "it is left as it is; choose another name, or remove it first"},
		{"disk create NOWHERE --size 100", "want a multiple of 512 bytes"},
		{"disk create NOWHERE --size big", "such as 64M or 1GiB"},
		{"disk create NOWHERE/disk.img", "no such file or directory"},
		{"disk create", "want one image"},
		{"ledger verify JUNK", "block 0 (transaction 1): not a ledger's block"},
		{"ledger verify NOWHERE", "no such file or directory"},
		{"run --disk DISK --cmdline txns=1 --stats NOWHERE/stats", "--stats: open NOWHERE/stats: no such file or directory"},
	} {
		t.Run(row.command[:min(len(row.command), 60)], func(t *testing.T) {
			var args []string
			for _, a := range strings.Fields(row.command) {
				args = append(args, stand.Replace(a))
			}
			r, err := lab.Run(ctx, args...)
			check(t, err)
			t.Logf("%s", r.Stderr)
			if r.Code != 1 {
				t.Errorf("exit code %d, want 1", r.Code)
			}
			if want := stand.Replace(row.says); !strings.Contains(r.Stderr, want) {
				t.Errorf("it does not say %q", want)
			}
		})
	}
}
