package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/test/harness"
)

const (
	// guestOptions make about five transactions a second, which can be read along.
	guestOptions = "period=20"
	diskSize     = "16M"
	// before and after the kill, how many transactions are shown.
	before, after = 20, 20
	// limit bounds the whole demonstration.
	limit = time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	show := newScreen(os.Stdout)
	err := demonstrate(ctx, show)
	cancel()
	stop()
	if err != nil {
		show.failed(err)
		os.Exit(1)
	}
}

func demonstrate(ctx context.Context, show *screen) (err error) {
	show.title("ftvm: one virtual machine on two hosts; one of them is about to die")
	if err := kvmUsable(); err != nil {
		return err
	}
	show.step("building ftvm")
	lab, err := harness.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()

	pair := &harness.Pair{Images: [2]string{lab.Path("primary.img"), lab.Path("backup.img")}}
	var following sync.WaitGroup
	err = perform(ctx, show, lab, pair, &following)
	if err != nil {
		err = errors.Join(err, errors.New(pair.Transcript()))
	}
	lab.KillAll()
	following.Wait()
	return err
}

// perform is the play itself.
func perform(ctx context.Context, show *screen, lab *harness.Lab, pair *harness.Pair, following *sync.WaitGroup) (err error) {
	show.step("starting a primary and its backup, each with an empty disk image (here both on this machine)")
	for _, image := range pair.Images {
		if err := lab.CreateDisk(ctx, image, diskSize); err != nil {
			return err
		}
	}
	follow := func(p *harness.Process) {
		show.command(p)
		following.Go(func() { show.followMessages(ctx, p) })
		following.Go(func() { show.followConsole(ctx, p) })
	}
	var addr string
	if pair.Primary, addr, err = lab.StartPrimary(ctx, pair.Images[0], "--cmdline", guestOptions); err != nil {
		return err
	}
	follow(pair.Primary)
	if pair.Backup, err = lab.StartBackup(addr, pair.Images[1], "--cmdline", guestOptions); err != nil {
		return err
	}
	follow(pair.Backup)
	if _, err := pair.Primary.AwaitTxn(ctx, 1); err != nil {
		return err
	}
	show.step("the guest appends chained transactions to its disk, and prints each once it is there")
	if _, err := pair.Primary.AwaitTxn(ctx, before); err != nil {
		return err
	}
	killed, err := killInWrite(ctx, pair)
	if err != nil {
		return err
	}
	show.step("SIGKILL: the primary is dead, in the middle of a disk write")
	if _, err := pair.Backup.Messages.AwaitText(ctx, "is the primary now"); err != nil {
		return err
	}
	if _, err := pair.Primary.Wait(ctx); err != nil {
		return err
	}
	last := uint64(len(harness.Txns(pair.Primary.Console.Bytes())))
	if _, err := pair.Backup.AwaitTxn(ctx, last+1); err != nil {
		return err
	}
	show.step("the backup carries on from the same instruction; the guest has not noticed")
	if _, err := pair.Backup.AwaitTxn(ctx, last+after); err != nil {
		return err
	}
	show.step("typing \"sum\" and \"stop\" at the guest's console")
	for _, line := range []string{"sum", "stop"} {
		if err := pair.Backup.Type(line); err != nil {
			return err
		}
	}
	if _, err := pair.Backup.Wait(ctx); err != nil {
		return err
	}
	following.Wait()
	return judge(ctx, show, lab, pair, killed)
}

// killInWrite kills the primary right after a write to its disk image, whose flush is then to come.
func killInWrite(ctx context.Context, pair *harness.Pair) (time.Time, error) {
	w, err := harness.NewWatch(pair.Images[0])
	if err != nil {
		return time.Time{}, err
	}
	defer w.Close()
	if err := w.Await(ctx); err != nil {
		return time.Time{}, err
	}
	return pair.Primary.Kill(), nil
}

func judge(ctx context.Context, show *screen, lab *harness.Lab, pair *harness.Pair, killed time.Time) error {
	show.step("checking both disks and the two consoles")
	for i, owner := range []string{"dead primary", "survivor"} {
		sum, err := lab.Verify(ctx, pair.Images[i])
		if err != nil {
			return err
		}
		torn := ""
		if sum.Torn {
			torn = ", then a torn one that was never printed"
		}
		show.say(fmt.Sprintf("  disk of the %-12s  %s, chain verified%s", owner, count(int(sum.Txns), "transaction"), torn))
	}
	v, err := lab.Judge(ctx, pair, pair.Primary)
	if err != nil {
		return err
	}
	stats, err := pair.Backup.Stats()
	if err != nil {
		return err
	}
	show.step("the takeover, counted from SIGKILL")
	for _, s := range []struct {
		name string
		at   time.Time
	}{
		{"detected", time.Unix(0, stats.Takeover.DetectedNs)},
		{"first instruction", time.Unix(0, stats.Takeover.FirstInstructionNs)},
		{"first new transaction", v.NewTxn},
	} {
		show.say(fmt.Sprintf("  %-22s after %7.1f ms", s.name, float64(s.at.Sub(killed))/float64(time.Millisecond)))
	}
	show.passed(fmt.Sprintf("nothing was lost: %d transactions printed, all on the survivor's disk, chain verified, %s repeated",
		v.Printed, count(v.RepeatedLines, "line")))
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// kvmUsable finds out whether there is a point in starting.
func kvmUsable() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: join the group that owns it (sudo usermod -aG kvm $USER, then log in again), or run this as root", err)
	default:
		return fmt.Errorf("%w: this host offers no KVM: load the module (sudo modprobe kvm_intel, or kvm_amd), "+
			"or switch on virtualization in the firmware, or nested virtualization if this host is a virtual machine", err)
	}
}

// followConsole shows what a guest prints, line by line, until the process ends.
func (s *screen) followConsole(ctx context.Context, p *harness.Process) {
	for from := 0; ; {
		l, err := p.Console.Next(ctx, from)
		if err != nil {
			return
		}
		from = l.End
		s.console(p.Name, l.Text)
	}
}

// followMessages shows what ftvm itself says.
func (s *screen) followMessages(ctx context.Context, p *harness.Process) {
	for from := 0; ; {
		l, err := p.Messages.Next(ctx, from)
		if err != nil {
			return
		}
		from = l.End
		s.message(p.Name, l.Text)
	}
}

// shortened is a command as a person would type it.
func shortened(p *harness.Process) string {
	var words []string
	args := p.Args()
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--stats":
			i++
		case i == 0 || strings.HasPrefix(a, os.TempDir()):
			words = append(words, filepath.Base(a))
		case strings.Contains(a, "="):
			words = append(words, fmt.Sprintf("%q", a))
		default:
			words = append(words, a)
		}
	}
	return strings.Join(words, " ")
}
