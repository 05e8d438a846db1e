package failover

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"ftvm/test/harness"
)

// lab is where all tests run their processes; nil without /dev/kvm.
var lab *harness.Lab

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if _, err := os.Stat("/dev/kvm"); err == nil {
		if lab, err = harness.Open(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer lab.Close()
	}
	return m.Run()
}

// limit bounds one case. It is far more than any needs, on any host.
const limit = 30 * time.Second

func begin(t *testing.T) context.Context {
	if lab == nil {
		t.Skip("there is no /dev/kvm on this host")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	t.Cleanup(lab.KillAll)
	return ctx
}
