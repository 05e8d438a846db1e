package services

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"ftvm/test/harness"
	"ftvm/test/need"
)

// lab is where all tests run their processes; nil if no test was asked for.
var lab *harness.Lab

func TestMain(m *testing.M) {
	flag.Parse()
	if *kills == 0 && *soak == "" {
		os.Exit(m.Run())
	}
	os.Exit(harness.WithLab(&lab, m.Run))
}

// limit bounds one boot, and what is done then. It is far more than any needs, on any host.
const limit = 5 * time.Minute

// image is the disk of the guest; the test skips if it cannot run here.
func image(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces take root")
	}
	return need.Built(t, "services.img", "guest-linux-services")
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within gives a case its time.
func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}
