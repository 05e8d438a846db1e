package trouble

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ftvm/test/harness"
	"ftvm/test/need"
)

// lab is where all tests run their processes.
var lab *harness.Lab

func TestMain(m *testing.M) { os.Exit(harness.WithLab(&lab, m.Run)) }

// limit bounds one case. It is far more than any needs, on any host.
const limit = 3 * time.Minute

// begin begins a case, which is independent of all others.
func begin(t *testing.T) context.Context {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip(why + " takes root")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// diskSize is that of the guest's disk: for what the task "disk" does.
const diskSize = "32M"

// image makes an image in dir.
func image(t *testing.T, ctx context.Context, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "disk.img")
	check(t, lab.CreateDisk(ctx, path, diskSize))
	return path
}

// startPair starts a pair: disks and sides are what primary and backup have for themselves, args are for both. If the test fails, its report shows what both said.
func startPair(t *testing.T, ctx context.Context, disks [2]string, sides [2][]string, args ...string) *harness.Pair {
	t.Helper()
	p := &harness.Pair{Images: disks}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Transcript())
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	var err error
	p.Primary, p.Addr, err = lab.StartPrimary(ctx, disks[0], slices.Concat(args, sides[0])...)
	check(t, err)
	p.Backup, err = lab.StartBackup(p.Addr, disks[1], slices.Concat(args, sides[1])...)
	check(t, err)
	_, err = p.Backup.Messages.AwaitText(ctx, "following the primary")
	check(t, err)
	return p
}

// says awaits a line of p's, from byte from on, that has all of words.
func says(t *testing.T, ctx context.Context, p *harness.Process, from int, words ...string) {
	t.Helper()
	l, err := p.Messages.Await(ctx, from, func(l harness.Line) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l.Text, w) })
	})
	if err != nil {
		t.Fatalf("awaiting a line with %q of %s: %v", words, p.Name, err)
	}
	t.Logf("%s: %s", p.Name, l.Text)
}

// ends checks how p ends.
func ends(t *testing.T, ctx context.Context, p *harness.Process, code int) {
	t.Helper()
	check(t, p.WaitFor(ctx, code))
}

// console is what the world saw: of the primary, and then of the backup if it took over.
func console(t *testing.T, p *harness.Pair) string {
	t.Helper()
	stats, err := p.Backup.Stats()
	check(t, err)
	if stats.Takeover == nil {
		if n := p.Backup.Console.Len(); n > 0 {
			t.Errorf("the backup let out %d bytes while the primary was there", n)
		}
		return p.Primary.Console.String()
	}
	all, _, err := harness.Join(p.Primary.Console.Bytes(), p.Backup.Console.Bytes(), stats.Takeover.ConsoleFrom)
	check(t, err)
	return string(all)
}

// untroubled checks that the guest did the task "disk", which reads all back that it wrote, and that its kernel has not complained.
func untroubled(t *testing.T, console string) {
	t.Helper()
	for text, times := range map[string]int{"disk: file ": 1, "ftvm: task disk ended with 0": 1, "error": 0} {
		if n := strings.Count(console, text); n != times {
			t.Errorf("the world sees %q %d times, want %d:\n%s", text, n, times, console)
		}
	}
}

// sound checks the file system that the task "disk" leaves on an image.
func sound(t *testing.T, image string) {
	t.Helper()
	need.Run(t, "", "e2fsck", "-f", "-n", image)
}
