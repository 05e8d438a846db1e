package linux

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ftvm/test/harness"
	"ftvm/test/need"
)

var (
	long  = flag.Bool("long", false, "run the self-tests of the guest as well, which take minutes")
	kills = flag.Int("kills", len(moments), "how often TestSurvives kills a primary")
)

// lab is where all tests run their processes.
var lab *harness.Lab

func TestMain(m *testing.M) { os.Exit(harness.WithLab(&lab, m.Run)) }

// within gives a test its time.
func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	t.Cleanup(lab.KillAll)
	return ctx
}

func check(t *testing.T, err error, p *harness.Process) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Transcript())
	}
}

// done checks that a guest's task went well: it says so, and powers off.
func done(t *testing.T, ctx context.Context, p *harness.Process, task string) {
	t.Helper()
	check(t, p.WaitFor(ctx, 0), p)
	if text := fmt.Sprintf("ftvm: task %s ended with 0", task); !strings.Contains(p.Console.String(), text) {
		t.Errorf("the console does not show %q\n%s", text, p.Transcript())
	}
}

// TestShell boots to a shell on the serial console, uses it, and powers off.
func TestShell(t *testing.T) {
	args := need.Guest(t, "initrd.gz", "shell")
	ctx := within(t, 2*time.Minute)
	p, err := lab.Start("run", append([]string{"run"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Console.AwaitText(ctx, "built-in shell")
	check(t, err, p)
	check(t, p.Type("echo $((6 * 7)) of $(uname -s) && poweroff"), p)
	_, err = p.Console.AwaitText(ctx, "42 of Linux")
	check(t, err, p)
	check(t, p.WaitFor(ctx, 0), p)
}

// pair starts a primary and a backup that do a task with a disk of 64 MiB.
func pair(t *testing.T, ctx context.Context, task string, args ...string) *harness.Pair {
	t.Helper()
	p, err := lab.StartPair(ctx, harness.PairOptions{Size: "64M", Args: append(need.Guest(t, "initrd.gz", task), args...)})
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Transcript())
	}
	return p
}

// TestLockstep: a primary and its backup go through the same digests, of all memory after each 200 million instructions, and end
// with the same disk.
func TestLockstep(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	p := pair(t, ctx, "disk", "--digest-memory", "2")
	done(t, ctx, p.Primary, "disk")
	check(t, p.Backup.WaitFor(ctx, 0), p.Backup)
	var stats [2]string
	for i, r := range []*harness.Process{p.Primary, p.Backup} {
		s, err := r.Stats()
		check(t, err, r)
		stats[i] = fmt.Sprintf("digest %s at position %d after %d epochs", s.Digest, s.Position, s.Epochs)
	}
	t.Log(stats[0])
	if stats[0] != stats[1] {
		t.Errorf("the primary ends with %s, the backup with %s", stats[0], stats[1])
	}
	if err := harness.SameImage(p.Images[0], p.Images[1]); err != nil {
		t.Error(err)
	}
}

// moments are lines of the guest's after which TestSurvives kills.
var moments = []string{"disk: raw", "disk: 131072 sectors", "ftvm: init", "disk: 50 flushed"}

// TestSurvives kills the primary while its guest writes to its disk, at moments that differ by how much of the
// work is done; the guest on the backup finds on its disk what it wrote.
func TestSurvives(t *testing.T) {
	for i := range *kills {
		after := moments[i%len(moments)]
		t.Run(fmt.Sprintf("%d after %s", i, strings.TrimPrefix(after, "disk: ")), func(t *testing.T) {
			ctx := within(t, 5*time.Minute)
			p := pair(t, ctx, "disk")
			_, err := p.Primary.Console.AwaitText(ctx, after)
			check(t, err, p.Primary)
			p.Primary.Kill()
			check(t, p.Primary.WaitFor(ctx, harness.Killed), p.Primary)
			check(t, p.Backup.WaitFor(ctx, 0), p.Backup)
			s, err := p.Backup.Stats()
			check(t, err, p.Backup)
			if s.Takeover == nil {
				t.Fatalf("the backup did not take over\n%s", p.Transcript())
			}
			console, _, err := harness.Join(p.Primary.Console.Bytes(), p.Backup.Console.Bytes(), s.Takeover.ConsoleFrom)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{"disk: 50 flushed sectors", "ftvm: task disk ended with 0"} {
				if strings.Count(string(console), text) != 1 {
					t.Errorf("the world does not see %q once:\n%s", text, console)
				}
			}
		})
	}
}

// TestSelfTests runs what tests itself: busybox, the kernel's cryptography, and programs of Debian's.
func TestSelfTests(t *testing.T) {
	if !*long {
		t.Skip("takes minutes: -long runs it")
	}
	for _, row := range []struct {
		task, initrd string
		args         []string
	}{
		{"selftest", "initrd-selftest.gz", nil},
		{"debian", "initrd.gz", []string{"--disk", "debian.img"}},
	} {
		t.Run(row.task, func(t *testing.T) {
			args := slices.Concat([]string{"run"}, need.Guest(t, row.initrd, row.task), row.args)
			for i, arg := range args {
				if arg == "debian.img" {
					args[i] = copyOf(t, need.Built(t, arg, "guest-linux-debian"))
				}
			}
			ctx := within(t, 30*time.Minute)
			p, err := lab.Start("run", args...)
			if err != nil {
				t.Fatal(err)
			}
			done(t, ctx, p, row.task)
			t.Log(p.Console.String())
		})
	}
}

// copyOf copies an image that the guest will write to.
func copyOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
