package badinput

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ftvm/test/harness"
)

// TestNoKVM runs ftvm where there is no usable /dev/kvm, in a root directory of its own.
func TestNoKVM(t *testing.T) {
	for _, row := range []struct {
		name string
		// dev is the device number behind /dev/kvm, mode its permissions; 0 is no such file.
		dev  uint64
		mode uint32
		says []string
	}{
		{"missing", 0, 0, []string{"/dev/kvm: no such file", "load the kernel module kvm_intel or kvm_amd"}},
		{"no permission", unix.Mkdev(10, 232), 0o600, []string{"/dev/kvm: permission denied", "the group that owns it"}},
		{"something else", unix.Mkdev(1, 3), 0o666, []string{"/dev/kvm is something else"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx := begin(t)
			if os.Geteuid() != 0 {
				t.Skip("only root can give a process another root directory")
			}
			root, err := os.MkdirTemp("", "ftvm-root-")
			check(t, err)
			t.Cleanup(func() { os.RemoveAll(root) })
			check(t, os.Chmod(root, 0o755))
			check(t, os.Mkdir(filepath.Join(root, "dev"), 0o755))
			if row.dev != 0 {
				kvm := filepath.Join(root, "dev/kvm")
				check(t, unix.Mknod(kvm, unix.S_IFCHR|row.mode, int(row.dev)))
				check(t, os.Chmod(kvm, os.FileMode(row.mode)))
			}
			copyFile(t, lab.Binary(), filepath.Join(root, "ftvm"), 0o755)
			copyFile(t, image(t, imageSize, ""), filepath.Join(root, "disk.img"), 0o666)

			for _, command := range []string{"run --engine kvm --disk /disk.img", "primary --engine kvm --listen 127.0.0.1:0 --disk /disk.img"} {
				nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
				cmd := exec.CommandContext(ctx, "/ftvm", strings.Fields(command)...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: nobody, Pdeathsig: unix.SIGKILL}
				cmd.Dir = "/"
				var said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &said, &said
				_ = cmd.Run() // the exit code tells it all
				t.Logf("%s", said.String())
				if code := cmd.ProcessState.ExitCode(); code != 1 {
					t.Errorf("%s: exit code %d, want 1", command, code)
				}
				for _, want := range row.says {
					if !strings.Contains(said.String(), want) {
						t.Errorf("%s: it does not say %q", command, want)
					}
				}
			}
		})
	}
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	check(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, mode)
	check(t, err)
	_, err = io.Copy(out, in)
	check(t, err)
	check(t, out.Close())
	check(t, os.Chmod(to, mode))
}

// TestDiskFull: the replica whose host has no room left stops, and the other goes on.
func TestDiskFull(t *testing.T) {
	for full, name := range []string{"primary", "backup"} {
		t.Run(name, func(t *testing.T) {
			ctx := begin(t)
			small := t.TempDir()
			if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=256k"); err != nil {
				t.Skipf("mounting a small file system: %v", err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			p := &harness.Pair{Images: [2]string{image(t, imageSize, ""), image(t, imageSize, "")}}
			p.Images[full] = filepath.Join(small, "disk.img")
			check(t, lab.CreateDisk(ctx, p.Images[full], "1M"))
			report(t, p)
			var err error
			p.Primary, p.Addr, err = lab.StartPrimary(ctx, p.Images[0], guest...)
			check(t, err)
			p.Backup, err = lab.StartBackup(p.Addr, p.Images[1], guest...)
			check(t, err)

			dies, survivor := p.Primary, p.Backup
			if full == 1 {
				dies, survivor = p.Backup, p.Primary
			}
			fails(ctx, t, dies, "no space left on device: make room on the host's file system")
			if full == 0 {
				_, err = survivor.Messages.AwaitText(ctx, "is the primary now")
				check(t, err)
			}
			unharmed(ctx, t, survivor)
			_, err = lab.Judge(ctx, p, dies)
			check(t, err)
		})
	}
}
