package soft_test

import (
	"testing"

	"ftvm/test/conformance"
	"ftvm/vmm"
	"ftvm/vmm/soft"
)

func TestConformance(t *testing.T) {
	for name, options := range map[string]func(testing.TB) soft.Options{
		"interpreted": func(testing.TB) soft.Options { return soft.Options{} }, "compiled": soft.Compiled,
	} {
		t.Run(name, func(t *testing.T) {
			conformance.Run(t, func(t *testing.T, ram *vmm.RAM) vmm.Engine { return soft.New(ram, options(t)) })
		})
	}
}
