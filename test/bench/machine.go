package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/guests/ledger"
	"ftvm/test/harness"
	"ftvm/vmm/kvm"
)

// machine is what the figures depend on.
type machine struct {
	Ftvm   string    `json:"ftvm"`
	CPUs   int       `json:"cpus"`
	CPU    string    `json:"cpu"`
	Kernel string    `json:"kernel"`
	KVM    []string  `json:"kvm_modules"`
	Doctor []finding `json:"doctor,omitempty"`
	Load   string    `json:"loadavg"` // before anything was measured
	Disk   disk      `json:"disk"`
}

// finding is a line of `ftvm doctor --json`.
type finding struct {
	Name    string `json:"name"`
	Finding string `json:"finding"`
}

// costs are the findings that explain the figures.
var costs = []string{"port access at CPL0", "port access at CPL3", "state"}

// disk is what the disk under the images does without ftvm: the time of a write of a
// transaction with its fdatasync(2), by one process alone and by two at once.
type disk struct {
	Directory  string `json:"directory"`
	FileSystem string `json:"file_system"`
	AloneUs    spread `json:"alone_us"`
	TogetherUs spread `json:"together_us"`
}

func describeMachine(ctx context.Context, lab *harness.Lab) (m machine, err error) {
	m = machine{CPUs: runtime.NumCPU(), CPU: cpuName() + ", " + kvm.CPUModel()}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, err
	}
	m.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("uname: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	modules, err := filepath.Glob("/sys/module/kvm_*")
	if err != nil {
		return m, err
	}
	for _, path := range modules {
		m.KVM = append(m.KVM, filepath.Base(path))
	}
	version, err := lab.Run(ctx, "version")
	if err != nil {
		return m, err
	}
	m.Ftvm = strings.TrimSpace(version.Stdout)
	doctor, err := lab.Run(ctx, "doctor", "--json")
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal([]byte(doctor.Stdout), &m.Doctor); err != nil {
		return m, fmt.Errorf("ftvm doctor --json: %w", err)
	}
	m.Disk, err = measureDisk(lab.Path("."))
	return m, err
}

// cpuName is the CPU as its maker calls it.
func cpuName() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// fileSystems names those on which images may well lie, by their statfs(2) magic.
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

func fileSystem(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("statfs %s: %w", dir, err)
	}
	if name, ok := fileSystems[st.Type]; ok {
		return name, nil
	}
	return fmt.Sprintf("file system %#x", st.Type), nil
}

// diskTurns is how often the disk is measured by one process and by two.
const diskTurns = 5

func measureDisk(dir string) (d disk, err error) {
	d.Directory = dir
	if d.FileSystem, err = fileSystem(dir); err != nil {
		return d, err
	}
	var alone, together []float64
	for range diskTurns {
		for _, k := range []struct {
			writers int
			times   *[]float64
		}{{1, &alone}, {2, &together}} {
			times, err := writeTogether(dir, k.writers)
			if err != nil {
				return d, err
			}
			*k.times = append(*k.times, times...)
		}
	}
	d.AloneUs, d.TogetherUs = spreadOf(alone), spreadOf(together)
	return d, nil
}

// writeTogether has several writers write at once, and returns the median time of each, in us.
func writeTogether(dir string, writers int) ([]float64, error) {
	times, errs := make([]float64, writers), make([]error, writers)
	var wait sync.WaitGroup
	for i := range writers {
		wait.Go(func() {
			times[i], errs[i] = writeAndSync(filepath.Join(dir, fmt.Sprintf("probe-%d", i)))
		})
	}
	wait.Wait()
	return times, errors.Join(errs...)
}

// writeAndSync appends transactions to a new sparse file as a ledger does to its image, and
// returns the median time of one, in us.
func writeAndSync(path string) (us float64, err error) {
	const count = 100
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	if err := errors.Join(f.Truncate(count*ledger.BlockSize), f.Sync()); err != nil {
		return 0, err
	}
	block := slices.Repeat([]byte{0xa5}, ledger.BlockSize)
	var times []float64
	for i := range int64(count) {
		began := time.Now()
		if _, err := f.WriteAt(block, i*ledger.BlockSize); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("fdatasync %s: %w", path, err)
		}
		times = append(times, float64(time.Since(began))/float64(time.Microsecond))
	}
	return quantile(times, 0.5), nil
}

func (m *machine) print(out io.Writer) {
	fmt.Fprintf(out, "%s\n", m.Ftvm)
	fmt.Fprintf(out, "machine  %d CPUs, %s; %s; KVM by %s\n", m.CPUs, m.CPU, m.Kernel, strings.Join(m.KVM, ", "))
	for _, f := range m.Doctor {
		if slices.Contains(costs, f.Name) {
			fmt.Fprintf(out, "         %s: %s\n", f.Name, f.Finding)
		}
	}
	d := &m.Disk
	fmt.Fprintf(out, "disk     %s, a 4 KiB write and its fdatasync: %.0f us alone, %.0f us when two processes do it at once (x %.2f)\n",
		d.FileSystem, d.AloneUs.Median, d.TogetherUs.Median, d.TogetherUs.Median/d.AloneUs.Median)
	fmt.Fprintf(out, "loadavg  %s before the first measurement\n", m.Load)
}
