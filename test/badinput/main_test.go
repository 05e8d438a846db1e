package badinput

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"ftvm/test/harness"
)

// lab is where all tests run their processes; nil without /dev/kvm.
var lab *harness.Lab

func TestMain(m *testing.M) { os.Exit(harness.Main(&lab, m.Run)) }

// limit bounds one row. It is far more than any needs, on any host.
const limit = 30 * time.Second

func begin(t *testing.T) context.Context {
	t.Helper()
	if lab == nil {
		t.Skip("there is no /dev/kvm on this host")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// image makes a disk image of size bytes that begins with head, and returns its path.
func image(t *testing.T, size int64, head string) string {
	t.Helper()
	path := t.TempDir() + "/disk.img"
	check(t, os.WriteFile(path, []byte(head), 0o644))
	check(t, os.Truncate(path, size))
	return path
}

const imageSize = 1 << 20

// guest makes up to a hundred transactions a second.
var guest = []string{"--cmdline", "period=1"}

// startPair starts a pair that is well; if the test fails, its report shows what both said.
func startPair(ctx context.Context, t *testing.T, args ...string) *harness.Pair {
	t.Helper()
	p, err := lab.StartPair(ctx, harness.PairOptions{Size: "1M", Args: append(guest, args...)})
	report(t, p)
	check(t, err)
	return p
}

// report shows what a pair said if the test fails, and cleans up.
func report(t *testing.T, p *harness.Pair) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Transcript())
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
}

// fails checks how p ends: with exit code 1, and saying so.
func fails(ctx context.Context, t *testing.T, p *harness.Process, says string) {
	t.Helper()
	if err := p.WaitFor(ctx, 1); err != nil {
		t.Error(err)
	}
	said := p.Messages.String()
	t.Logf("%s", said)
	if !strings.Contains(said, says) {
		t.Errorf("%s does not say %q", p.Name, says)
	}
}

// unharmed checks that p makes transactions until it is told to stop, and ends well.
func unharmed(ctx context.Context, t *testing.T, p *harness.Process) {
	t.Helper()
	var last uint64
	if txns := harness.Txns(p.Console.Bytes()); len(txns) > 0 {
		last = txns[len(txns)-1].Seq
	}
	_, err := p.AwaitTxn(ctx, last+3)
	check(t, err)
	check(t, p.Type("stop"))
	check(t, p.WaitFor(ctx, 0))
}
