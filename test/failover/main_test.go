package failover

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"ftvm/test/harness"
)

// lab is where all tests run their processes; nil without /dev/kvm.
var lab *harness.Lab

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(harness.Main(&lab, m.Run))
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
