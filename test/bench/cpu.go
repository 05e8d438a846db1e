package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// usage is CPU time since some beginning: of the machine that was there to be used, what of it
// was used by anybody, and by us and our children that have ended.
type usage struct{ there, used, own time.Duration }

// jiffy is the unit of /proc/stat (proc(5), USER_HZ).
const jiffy = 10 * time.Millisecond

func readUsage() (u usage, err error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	// cpu user nice system idle iowait irq softirq steal guest guest_nice; user has guest in it.
	const idle, iowait, steal = 3, 4, 7
	fields := strings.Fields(line)
	if len(fields) < steal+2 {
		return u, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, s := range fields[1 : steal+2] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return u, fmt.Errorf("/proc/stat: %w", err)
		}
		u.there += time.Duration(n) * jiffy
		if i != idle && i != iowait {
			u.used += time.Duration(n) * jiffy
		}
	}
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		if err := unix.Getrusage(who, &r); err != nil {
			return u, fmt.Errorf("getrusage: %w", err)
		}
		u.own += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return u, nil
}

// others is the share of all CPUs that programs of other people used between two readings.
func others(from, to usage) float64 {
	there := to.there - from.there
	if there <= 0 {
		return 0
	}
	return max(0, float64((to.used-from.used)-(to.own-from.own))/float64(there))
}
