package main

import (
	"fmt"
	"slices"

	"ftvm/host"
)

// parseNets reads all --net. Addresses that are not given derive from the machine's name.
func (g *guestFlags) parseNets() ([]host.NetSpec, error) {
	var specs []host.NetSpec
	for i, text := range g.nets {
		spec, err := host.ParseNet(text)
		if err != nil {
			return nil, fmt.Errorf("--net: %w", err)
		}
		if slices.ContainsFunc(specs, func(s host.NetSpec) bool { return s.Tap == spec.Tap }) {
			return nil, fmt.Errorf("--net %s: tap %s is given twice: each network interface of the guest needs one of its own", text, spec.Tap)
		}
		if spec.MAC == (host.MAC{}) {
			spec.MAC = host.DefaultMAC(g.name, i)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// openTaps attaches to the taps, in the order of the guest's network interfaces.
func (v *guest) openTaps(specs []host.NetSpec) error {
	for _, spec := range specs {
		t, err := host.OpenTap(spec.Tap, host.TapOptions{Bridge: spec.Bridge, MAC: spec.MAC})
		if err != nil {
			return err
		}
		v.taps = append(v.taps, t)
	}
	return nil
}
