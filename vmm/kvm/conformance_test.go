package kvm

import (
	"errors"
	"io/fs"
	"runtime"
	"testing"

	"ftvm/test/conformance"
	"ftvm/vmm"
)

func TestConformance(t *testing.T) {
	lacking := lackingHere(t)
	for _, clock := range []string{"exits", "step"} {
		t.Run(clock, func(t *testing.T) {
			conformance.Run(t, func(t *testing.T, ram *vmm.RAM) vmm.Engine {
				lock(t)
				e, err := New(ram, Options{Clock: clock})
				skipWithoutKVM(t, err)
				return e
			}, lacking...)
		})
	}
}

// lackingHere lists what this host's KVM cannot do, and ftvm doctor reports.
func lackingHere(t *testing.T) (lacking []string) {
	for _, c := range []struct {
		behaviour string
		run       func() (string, Verdict, error)
	}{
		{conformance.SoftwareInterrupt, probeSoftwareInterrupt},
		{conformance.SystemCall, probeSyscall},
	} {
		_, ok, err := c.run()
		skipWithoutKVM(t, err)
		if ok == No {
			lacking = append(lacking, c.behaviour)
		}
	}
	return lacking
}

func lock(t testing.TB) {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
}

// skipWithoutKVM skips the test if err says that this machine has no /dev/kvm for us.
func skipWithoutKVM(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
