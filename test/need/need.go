package need

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Program is the path of a program.
func Program(t testing.TB, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} { // which not everybody searches
		if path, err := exec.LookPath(path); err == nil {
			return path
		}
	}
	t.Skipf("there is no %s", name)
	return ""
}

// Run runs a program, which must not fail.
func Run(t testing.TB, stdin, name string, args ...string) {
	t.Helper()
	c := exec.Command(Program(t, name), args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", c, err, out)
	}
}

// Built is the path of a part of the Linux guests, which a target of make builds. The test's package lies two folders below the
// module's root.
func Built(t testing.TB, name, target string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../guests/linux/out", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s is not built: make %s", path, target)
	}
	return path
}

// Guest is the flags of a small Linux guest that does a task.
func Guest(t testing.TB, initrd, task string) []string {
	t.Helper()
	return []string{"--engine", "soft", "--mem", "256M", "--kernel", Built(t, "vmlinuz", "guest-linux"),
		"--initrd", Built(t, initrd, "guest-linux"),
		"--cmdline", "console=ttyS0 quiet panic=-1 ftvm.task=" + task}
}
