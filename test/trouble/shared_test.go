package trouble

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/test/harness"
	"ftvm/test/need"
)

// shared are the disks that both hosts reach: a function makes one, and returns its image and what --disk is to be.
var shared = []struct {
	name string
	make func(t *testing.T, ctx context.Context) (image, disk string)
}{
	{"file", func(t *testing.T, ctx context.Context) (string, string) {
		path := image(t, ctx, t.TempDir())
		return path, path + ",shared"
	}},
	{"nbd", func(t *testing.T, ctx context.Context) (string, string) {
		path, socket := image(t, ctx, t.TempDir()), filepath.Join(t.TempDir(), "s")
		s, err := lab.StartProgram("server", need.Program(t, "qemu-nbd"), "-t", "-f", "raw", "-k", socket, path)
		check(t, err)
		t.Cleanup(func() {
			s.Kill()
			_, err := s.Wait(ctx)
			check(t, err)
			if t.Failed() {
				t.Log(s.Transcript())
			}
		})
		// With a size the replicas wait for the server, which may not listen yet.
		return path, "nbd+unix:///?socket=" + socket + ",size=" + diskSize
	}},
}

// startShared starts a pair whose guest does the task "disk" on a shared disk, and returns when it is writing.
func startShared(t *testing.T, ctx context.Context, disk string, args ...string) *harness.Pair {
	t.Helper()
	p := startPair(t, ctx, [2]string{disk, disk}, [2][]string{}, append(need.Guest(t, "initrd.gz", "disk"), args...)...)
	_, err := p.Primary.Console.AwaitText(ctx, "disk: raw")
	check(t, err)
	return p
}

// TestSharedDiskSurvives: a primary is killed while its guest writes to a disk that both hosts reach.
func TestSharedDiskSurvives(t *testing.T) {
	for _, kind := range shared {
		t.Run(kind.name, func(t *testing.T) {
			ctx := begin(t)
			image, disk := kind.make(t, ctx)
			p := startShared(t, ctx, disk)
			p.Primary.Kill()
			ends(t, ctx, p.Primary, harness.Killed)
			ends(t, ctx, p.Backup, 0)
			says(t, ctx, p.Backup, 0, "taking over")
			untroubled(t, console(t, p))
			sound(t, image)
		})
	}
}

// TestSharedDiskNotToBeHad: a primary is stopped, and goes on after its backup has lost patience.
func TestSharedDiskNotToBeHad(t *testing.T) {
	for _, kind := range shared {
		t.Run(kind.name, func(t *testing.T) {
			ctx := begin(t)
			image, disk := kind.make(t, ctx)
			const patience = 1200 * time.Millisecond // it tells why it waits once a second
			p := startShared(t, ctx, disk, "--acquire-time", patience.String())
			check(t, p.Primary.Signal(syscall.SIGSTOP))
			ends(t, ctx, p.Backup, 1)
			says(t, ctx, p.Backup, 0, "the other replica counts as failed")
			says(t, ctx, p.Backup, 0, "waiting for disk")
			says(t, ctx, p.Backup, 0, "shared disk 0 is not this host's")
			check(t, p.Primary.Signal(syscall.SIGCONT))
			ends(t, ctx, p.Primary, 0)
			says(t, ctx, p.Primary, 0, "going on alone")
			untroubled(t, console(t, p))
			sound(t, image)
		})
	}
}

// TestSharedDiskFails: another host would do no better, so the guest is told, and nobody leaves.
func TestSharedDiskFails(t *testing.T) {
	ctx := begin(t)
	args := need.Guest(t, "initrd.gz", "disk")
	path := small(t, ctx, early).path
	p := startPair(t, ctx, [2]string{path + ",shared", path + ",shared"}, [2][]string{}, args...)
	ends(t, ctx, p.Primary, 3)
	ends(t, ctx, p.Backup, 3)
	says(t, ctx, p.Primary, 0, path, "no space left on device")
	told(t, console(t, p))
}

// TestSharedDiskIsLetGo: a primary hands over as its own disk is full, and cannot end, as nobody reads its console. It does not keep the shared
// disk from the survivor for long.
func TestSharedDiskIsLetGo(t *testing.T) {
	ctx := begin(t)
	own, shared := small(t, ctx, early).path, image(t, ctx, t.TempDir())+",shared"
	args := append(need.Guest(t, "initrd.gz", "disk"), "--disk", shared)
	fifo := filepath.Join(t.TempDir(), "console")
	check(t, unix.Mkfifo(fifo, 0o600))
	f, err := os.OpenFile(fifo, os.O_RDWR, 0) // whoever opens only one side waits for the other
	check(t, err)
	defer f.Close()
	room, err := unix.FcntlInt(f.Fd(), unix.F_GETPIPE_SZ, 0)
	check(t, err)
	_, err = f.Write(make([]byte, room)) // not a byte more gets in
	check(t, err)
	primary, err := lab.StartProgram("primary", "/bin/sh", slices.Concat([]string{"-c", `exec "$0" "$@" >` + fifo, lab.Binary(),
		"primary", "--listen", "127.0.0.1:0", "--disk", own, "--suspect", "100"}, args)...)
	check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(primary.Transcript())
		}
	})
	addr, err := primary.Address(ctx)
	check(t, err)
	backup, err := lab.StartBackup(addr, image(t, ctx, t.TempDir()), args...)
	check(t, err)
	says(t, ctx, primary, 0, "this replica failed and cannot stop")
	ends(t, ctx, primary, 1)
	ends(t, ctx, backup, 0)
	says(t, ctx, backup, 0, "this replica is the primary now")
}
