package soft_test

import (
	"testing"

	"ftvm/test/conformance"
	"ftvm/vmm"
	"ftvm/vmm/soft"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(_ *testing.T, ram *vmm.RAM) vmm.Engine { return soft.New(ram) })
}
