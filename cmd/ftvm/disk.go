package main

import (
	"fmt"
	"log/slog"
	"slices"

	"ftvm/host"
)

// parseDisks reads all --disk.
func (g *guestFlags) parseDisks() ([]host.DiskSpec, error) {
	var specs []host.DiskSpec
	for _, text := range g.disks {
		spec, err := host.ParseDisk(text)
		if err != nil {
			return nil, fmt.Errorf("--disk: %w", err)
		}
		if slices.ContainsFunc(specs, func(s host.DiskSpec) bool { return s.String() == spec.String() }) {
			return nil, fmt.Errorf("--disk %s is given twice: each disk of the guest needs an image of its own", text)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// identify describes the disks for a comparison with those of another replica. Images are read, wholly.
func identify(disks []host.Storage, specs []host.DiskSpec, log *slog.Logger) ([]string, error) {
	var all []string
	for i, d := range disks {
		text := specs[i].Identity(d.Size())
		if own, ok := d.(*host.Disk); ok {
			id, err := own.Identity(func(done uint64) {
				log.Info(fmt.Sprintf("reading %s: %d %%", specs[i], done*100/d.Size()))
			})
			if err != nil {
				return nil, err
			}
			text = id.String()
		}
		if specs[i].ReadOnly {
			text += ", read-only"
		}
		if specs[i].Serial != "" {
			text += ", serial number " + specs[i].Serial
		}
		all = append(all, text)
	}
	return all, nil
}
