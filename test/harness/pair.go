package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// Pair is a primary and its backup on this machine.
type Pair struct {
	Primary, Backup *Process
	// Images are the disks: the primary's, the backup's.
	Images [2]string
	// Addr is where the primary listens.
	Addr string

	opt  PairOptions
	dir  string
	link *link // nil if there is nothing between the two
}

// PairOptions says how a Pair is run.
type PairOptions struct {
	// Size is that of the disks, as for --size.
	Size string
	// Delay is how long every byte between the replicas takes on its way; what is under way when
	// one of them dies is lost then, as on a network. Without it the kernel delivers at once,
	// and whatever was sent.
	Delay time.Duration
	// Args are for both replicas, besides --disk and the address.
	Args []string
}

// patience lets a replica wait for a second before it suspects the other. These hosts are
// processes on one machine that may be busy with other things; a busy one is not dead. A process
// that is killed shows at once, by its connection.
var patience = []string{"--suspect", "100"}

// StartPair makes two images and starts a pair on a free port of the loopback interface. It
// returns when both know of each other. On an error the pair may hold what was started.
func (l *Lab) StartPair(ctx context.Context, o PairOptions) (*Pair, error) {
	p := &Pair{opt: o}
	var err error
	if p.dir, err = os.MkdirTemp(l.dir, "pair-"); err != nil {
		return p, err
	}
	for i, name := range []string{"primary.img", "backup.img"} {
		p.Images[i] = filepath.Join(p.dir, name)
		if err := l.CreateDisk(ctx, p.Images[i], o.Size); err != nil {
			return p, err
		}
	}
	if p.Primary, p.Addr, err = l.StartPrimary(ctx, p.Images[0], o.Args...); err != nil {
		return p, err
	}
	if err = l.AddBackup(ctx, p); err != nil {
		return p, err
	}
	_, err = p.Primary.Messages.AwaitText(ctx, "the backup is here")
	return p, err
}

// AddBackup starts a backup for the pair's primary, which has none, and waits until it follows. If there was one before, it must be dead.
func (l *Lab) AddBackup(ctx context.Context, p *Pair) error {
	addr := p.Addr
	if p.link != nil {
		p.link.close()
	}
	var err error
	if p.opt.Delay > 0 {
		if p.link, err = newLink(p.Addr, p.opt.Delay); err != nil {
			return err
		}
		addr = p.link.addr()
	}
	if p.Backup, err = l.StartBackup(addr, p.Images[1], p.opt.Args...); err != nil {
		return err
	}
	_, err = p.Backup.Messages.AwaitText(ctx, "following the primary")
	return err
}

// errNoAddress is returned if a primary does not say where it listens.
var errNoAddress = errors.New("it does not say where it listens")

var listening = regexp.MustCompile(`waiting for the backup .*address ([0-9.]+:[0-9]+)`)

// StartPrimary starts a primary on a free port of the loopback interface, and returns its address.
func (l *Lab) StartPrimary(ctx context.Context, image string, args ...string) (*Process, string, error) {
	p, err := l.Start("primary", slices.Concat([]string{"primary", "--listen", "127.0.0.1:0", "--disk", image}, patience, args)...)
	if err != nil {
		return nil, "", err
	}
	addr, err := p.Address(ctx)
	return p, addr, err
}

// Address awaits that a primary listens, and returns where.
func (p *Process) Address(ctx context.Context) (string, error) {
	said, err := p.Messages.AwaitText(ctx, "waiting for the backup")
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, p.Transcript())
	}
	at := listening.FindStringSubmatch(said.Text)
	if at == nil {
		return "", fmt.Errorf("%q: %w", said.Text, errNoAddress)
	}
	return at[1], nil
}

// StartBackup starts a backup of the primary at addr.
func (l *Lab) StartBackup(addr, image string, args ...string) (*Process, error) {
	return l.Start("backup", slices.Concat([]string{"backup", "--peer", addr, "--disk", image}, patience, args)...)
}

// Remove kills what still runs of the pair, and removes its images.
func (p *Pair) Remove() error {
	for _, r := range []*Process{p.Primary, p.Backup} {
		if r != nil {
			r.Kill()
			<-r.ended
		}
	}
	if p.link != nil {
		p.link.close()
	}
	return os.RemoveAll(p.dir)
}

// Transcript is all that can be said about a pair, for the report of a failure.
func (p *Pair) Transcript() string {
	var s string
	for _, r := range []*Process{p.Primary, p.Backup} {
		if r != nil {
			s += r.Transcript()
		}
	}
	return s
}
