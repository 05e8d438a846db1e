package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"ftvm/devices"
	"ftvm/guests/ledger"
	"ftvm/host"
	"ftvm/test/harness"
	"ftvm/vmm"
	"ftvm/vmm/boot"
	"ftvm/vmm/soft"
)

// softResult is what engine soft costs, next to QEMU's compiler.
type softResult struct {
	Linux    *linuxResult `json:"linux,omitempty"` // nil if there is no such guest here
	StopNs   spread       `json:"stop_ns"`
	DigestNs spread       `json:"digest_ns"`
}

// What there should be, on a machine that does nothing else.
const (
	targetBootRatio = 1.0 // of wall times, by QEMU with icount, at most
	targetBootMIPS  = 150 // at least
	targetHotMIPS   = 250 // at least, in loops in ring 3
	targetMemoryMiB = 100
	targetStopNs    = 2000
	targetDigestNs  = 1000
)

func measureSoft(ctx context.Context, lab *harness.Lab, p *plan) (r *softResult, err error) {
	r = &softResult{}
	progress("engine soft: boundaries")
	if r.StopNs, r.DigestNs, err = measureBoundary(p.rounds); err != nil {
		return nil, fmt.Errorf("boundaries: %w", err)
	}
	guest, err := openLinux(ctx, lab, p.linux)
	if err != nil {
		progress("Linux on engine soft is left out: %v; make guest-linux gets it", err)
		return r, nil
	}
	if r.Linux, err = guest.measure(ctx, lab, p); err != nil {
		return nil, fmt.Errorf("booting Linux on engine soft: %w", err)
	}
	return r, nil
}

// softMachine is a machine in this process that is about to start.
func softMachine(mem []byte, image boot.Image, config devices.Config) (*vmm.Machine, error) {
	ram := vmm.NewRAM(mem)
	state, err := boot.Load(ram, image)
	if err != nil {
		return nil, err
	}
	code, err := host.AllocCode(1 << 20)
	if err != nil {
		progress("engine soft interprets: %v", err)
	}
	cpu := soft.New(ram, soft.Options{Code: code})
	return vmm.NewMachine(cpu, ram, devices.New(config, ram)), cpu.SetState(state)
}

// measureBoundary takes the times of what a boundary costs the machine itself, many of them at once: to run up to it
// and to apply a record without inputs, and the digest of registers and devices.
func measureBoundary(rounds int) (stop, digest spread, err error) {
	m, err := softMachine(make([]byte, 32<<20), boot.Image{Kernel: ledger.ELF, Cmdline: "work=1000000"},
		devices.Config{Disks: []devices.Disk{{SizeBytes: 16 << 20}}})
	if err != nil {
		return stop, digest, err
	}
	defer m.Close()
	measure := func(f func() error) (s spread, err error) {
		const times = 100_000
		values := make([]float64, rounds)
		for i := range values {
			began := time.Now()
			for range times {
				if err := f(); err != nil {
					return s, err
				}
			}
			values[i] = float64(time.Since(began)) / times
		}
		return spreadOf(values), nil
	}
	if stop, err = measure(func() error {
		if _, err := m.Run(m.Position()+1, nil); err != nil {
			return err
		}
		return m.Apply(m.Time(), m.Clock().Rate(), nil)
	}); err != nil {
		return stop, digest, err
	}
	digest, err = measure(func() error { _, err := m.Digest(false); return err })
	return stop, digest, err
}

func (r *softResult) print(out io.Writer) {
	if r.Linux != nil {
		r.Linux.print(out)
	}
	fmt.Fprint(out, "\nWhat engine soft costs besides; median (lowest to highest).\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tmeasured\ttarget, at most")
	fmt.Fprintf(w, "a stop at a boundary, ns\t%s\t%d\n", r.StopNs, targetStopNs)
	fmt.Fprintf(w, "a digest of registers and devices, ns\t%s\t%d\n", r.DigestNs, targetDigestNs)
	if r.Linux != nil && len(r.Linux.MemoryMiB) > 0 {
		fmt.Fprintf(w, "memory beyond that of the guest, MiB\t%s\t%d\n", spreadOf(r.Linux.MemoryMiB), targetMemoryMiB)
	}
	w.Flush()
}
