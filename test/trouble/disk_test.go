package trouble

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ftvm/test/harness"
	"ftvm/test/need"
)

// TestDiskFails: the disk of one host fails, or those of both: at the same moment, or the primary's first and later that of the backup, which is
// alone then.
func TestDiskFails(t *testing.T) {
	for _, kind := range []struct {
		name string
		make func(t *testing.T, ctx context.Context, w when) disk
		says string
	}{
		{"ENOSPC", small, "no space left on device: make room on the host's file system"},
		{"EIO", brittle, "input/output error"},
		{"flush", hollow, "flush: input/output error"},
	} {
		for _, row := range []struct {
			name string
			// at is when the disks fail, by replica.
			at [2]when
			// codes are the replicas' exit codes that are right: that of the survivor is the guest's.
			codes [][2]int
		}{
			{"primary", [2]when{early, never}, [][2]int{{1, 0}}},
			{"backup", [2]when{never, early}, [][2]int{{0, 1}}},
			{"both", [2]when{early, late}, [][2]int{{1, 3}, {3, 1}}},
			{"both at once", [2]when{early, early}, [][2]int{{1, 3}, {3, 1}}},
		} {
			t.Run(kind.name+"/"+row.name, func(t *testing.T) {
				ctx := begin(t)
				args := need.Guest(t, "initrd.gz", "disk")
				var disks [2]disk
				for i, w := range row.at {
					if w == never {
						disks[i].path = image(t, ctx, t.TempDir())
					} else {
						disks[i] = kind.make(t, ctx, w)
					}
				}
				p := startPair(t, ctx, [2]string{disks[0].path, disks[1].path}, [2][]string{}, args...)
				for i, d := range disks {
					if d.fail == nil {
						continue
					}
					speaker := p.Primary
					if row.at[i] == late {
						speaker = p.Backup
					}
					_, err := speaker.Console.AwaitText(ctx, row.at[i].said)
					check(t, err)
					check(t, d.fail())
				}
				var codes [2]int
				for i, r := range []*harness.Process{p.Primary, p.Backup} {
					var err error
					codes[i], err = r.Wait(ctx)
					check(t, err)
					if row.at[i] != never {
						says(t, ctx, r, 0, disks[i].path, kind.says)
					}
				}
				if !slices.Contains(row.codes, codes) {
					t.Fatalf("primary and backup end with exit codes %d, want one of %d", codes, row.codes)
				}
				survivor := slices.IndexFunc(codes[:], func(code int) bool { return code != 1 })
				if seen := console(t, p); row.at[survivor] == never {
					untroubled(t, seen)
					sound(t, disks[survivor].path)
				} else {
					told(t, seen)
				}
			})
		}
	}
}

// when is the moment at which a disk fails: when the guest has written so much, as tmpfs(5) takes sizes, or when it has said so.
type when struct{ written, said string }

var (
	never = when{}
	early = when{"2M", "disk: raw"}
	late  = when{"5M", "disk: 50 flushed"} // by then a primary that failed early is long gone
)

// told checks that the guest was told of an error, and lived on.
func told(t *testing.T, console string) {
	t.Helper()
	for _, text := range []string{"I/O error, dev vda", "ftvm: task disk ended with 1"} {
		if !strings.Contains(console, text) {
			t.Errorf("the world does not see %q:\n%s", text, console)
		}
	}
}

// disk is one that fails.
type disk struct {
	path string
	// fail makes all that is done there fail from now on; nil if nobody need do anything.
	fail func() error
}

// small is an image in less room than the guest's task needs.
func small(t *testing.T, ctx context.Context, w when) disk {
	t.Helper()
	needRoot(t, "a file system of its own")
	dir := t.TempDir()
	mounted(t, dir, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+w.written))
	return disk{path: image(t, ctx, dir)}
}

// hollow is a block device with less room behind it than the guest's task needs: the kernel notices when it is flushed, and what was
// written is lost. It is always early: of what is lost later, the guest's file system does not tell the task.
func hollow(t *testing.T, ctx context.Context, _ when) disk {
	t.Helper()
	file := small(t, ctx, early).path
	out, err := exec.Command(need.Program(t, "losetup"), "--show", "-f", file).Output()
	if err != nil {
		t.Skipf("losetup: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { need.Run(t, "", "losetup", "-d", device) })
	return disk{path: device}
}

// brittle is an image on a file system that can be made to fail, as the kernel does to an ext4 that it finds damaged.
func brittle(t *testing.T, ctx context.Context, _ when) disk {
	t.Helper()
	needRoot(t, "a file system of its own")
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "fs")
	need.Run(t, "", "mke2fs", "-q", "-t", "ext4", file, "64M")
	out, err := exec.Command(need.Program(t, "mount"), "-o", "loop", file, dir).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("mount: %w: %s", err, out)
	}
	mounted(t, dir, err)
	return disk{image(t, ctx, dir), func() error {
		const (
			shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
			noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
		)
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush)
	}}
}

// mounted unmounts dir after the test. Without the file system, which err is about, it skips.
func mounted(t *testing.T, dir string, err error) {
	t.Helper()
	if err != nil {
		t.Skipf("mounting a file system: %v", err)
	}
	t.Cleanup(func() { check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}
