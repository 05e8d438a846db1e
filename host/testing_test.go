package host

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mentions checks that err is there and says all of words.
func mentions(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// dropCapability takes a capability from the test's thread, which ends with the test.
func dropCapability(t *testing.T, capability uint) {
	t.Helper()
	runtime.LockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&head, &data[0]); err != nil {
		t.Fatal(err)
	}
}
