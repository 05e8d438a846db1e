package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ftvm/test/harness"
)

// pair is a primary and a backup on two hosts that run the guest.
type pair struct {
	*world
	replicas [2]*harness.Process
	again    *harness.Process // the guest that boot booted
	images   [2]string
	dir      string
}

// machine is what the guest is given, wherever it runs.
var machine = []string{"--engine", "soft", "--mem", "512M", "--net", "tap=ftvm0,bridge=" + bridge}

// startPair boots the guest on two hosts. On an error the pair holds what was started.
func startPair(ctx context.Context, image string, args ...string) (p *pair, err error) {
	p = &pair{}
	if p.dir, err = os.MkdirTemp("", "ftvm-services-"); err != nil {
		return p, err
	}
	for i, name := range []string{"primary.img", "backup.img"} {
		p.images[i] = filepath.Join(p.dir, name)
		// Most of the image is holes.
		if err := command(ctx, 0, "cp", "--sparse=always", image, p.images[i]); err != nil {
			return p, err
		}
	}
	// The guest's flushes shall not wait for what was copied.
	if err := command(ctx, 0, "sync", p.images[0], p.images[1]); err != nil {
		return p, err
	}
	if p.world, err = newWorld(); err != nil {
		return p, err
	}
	args = slices.Concat(machine, args)
	var addr string
	err = p.hosts[0].Do(func() (err error) {
		p.replicas[0], addr, err = lab.StartPrimary(ctx, p.images[0], append(args, "--listen", primaryAddr+":0")...)
		return err
	})
	if err != nil {
		return p, err
	}
	err = p.hosts[1].Do(func() (err error) {
		p.replicas[1], err = lab.StartBackup(addr, p.images[1], args...)
		return err
	})
	if err != nil {
		return p, err
	}
	_, err = p.replicas[0].Console.AwaitText(ctx, "ftvm: services are up")
	return p, err
}

// boot boots the guest from what is on host i's image, without a backup.
func (p *pair) boot(ctx context.Context, i int) error {
	err := p.hosts[i].Do(func() (err error) {
		p.again, err = lab.Start("again", append([]string{"run", "--disk", p.images[i]}, machine...)...)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := p.again.Console.AwaitText(ctx, "ftvm: services are up"); err != nil {
		return err
	}
	// What is typed before there is a shell may be lost. This is the last that is said before.
	_, err = p.again.Console.AwaitText(ctx, "permitted by applicable law")
	return err
}

// start starts a pair for a test that nothing dies in, and removes it afterwards.
func start(ctx context.Context, t *testing.T, args ...string) *pair {
	t.Helper()
	p, err := startPair(ctx, image(t), args...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.transcript())
		}
		if err := p.remove(); err != nil {
			t.Error(err)
		}
	})
	check(t, err)
	return p
}

// sameImages is an error unless both replicas' images, of a guest that has switched itself off, are the same and sound.
func (p *pair) sameImages(ctx context.Context) error {
	return errors.Join(harness.SameImage(p.images[0], p.images[1]), fsck(ctx, p.images[0], false))
}

// powerOff asks the guest for what its kernel complained of, and has it switch itself off. It is
// an error if there was anything to complain of, or if a replica that still runs does not end well.
func (p *pair) powerOff(ctx context.Context, running ...*harness.Process) error {
	complaints, err := ask(ctx, running[0], "its kernel's complaints", `dmesg -l emerg,alert,crit,err | tr '\n' ';'`)
	if complaints != "" {
		err = fmt.Errorf("the guest's kernel complains: %s", complaints)
	}
	if err := errors.Join(err, running[0].Type("poweroff")); err != nil {
		return err
	}
	for _, r := range running {
		err = errors.Join(err, r.WaitFor(ctx, 0))
	}
	return err
}

// ask has the guest's shell carry out a command, and returns the line that it prints. What is not to be asked twice of one process.
func ask(ctx context.Context, p *harness.Process, what, command string) (string, error) {
	if err := p.Type(fmt.Sprintf(`echo "ftvm: %s: $(%s)"`, what, command)); err != nil {
		return "", err
	}
	answer := regexp.MustCompile("ftvm: " + what + ": ([^$]*)$") // and not the command, of which the console shows an echo
	told, err := p.Console.Await(ctx, 0, func(l harness.Line) bool { return answer.MatchString(l.Text) })
	if err != nil {
		return "", fmt.Errorf("asking the guest for %s: %w", what, err)
	}
	return strings.TrimSpace(answer.FindStringSubmatch(told.Text)[1]), nil
}

// fsck is an error if the file system on an image is not sound. One whose machine was killed needs to recover first, as at
// any boot.
func fsck(ctx context.Context, image string, recover bool) error {
	// The partition begins after the first MiB. A file of its own: e2fsck forgets an offset when it has recovered.
	fs := image + ".fs"
	if err := command(ctx, 0, "dd", "if="+image, "of="+fs, "bs=1M", "skip=1", "conv=sparse", "status=none"); err != nil {
		return err
	}
	defer os.Remove(fs)
	if recover {
		const corrected = 1 // "file system errors corrected" (e2fsck(8), exit code)
		if err := command(ctx, corrected, "e2fsck", "-p", fs); err != nil {
			return err
		}
	}
	return command(ctx, 0, "e2fsck", "-f", "-n", fs)
}

// command runs a program, whose exit code must be 0 or also.
func command(ctx context.Context, also int, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == also {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return nil
}

// remove kills what still runs and removes what is left of the pair.
func (p *pair) remove() error {
	lab.KillAll()
	var err error
	if p.world != nil {
		err = p.world.close()
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

func (p *pair) transcript() (s string) {
	for _, r := range append(p.replicas[:], p.again) {
		if r != nil {
			s += r.Transcript()
		}
	}
	return s
}

// pass lets a drawn time pass. It is not a wait for anything: it chooses the moment.
func pass(d time.Duration) { <-time.After(d) }
