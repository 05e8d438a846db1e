//go:build !simfault

package pair

import (
	"time"

	"ftvm/vmm"
)

// wallTime is what the host's wall clock shows at a moment.
func wallTime(at time.Time) vmm.Time { return vmm.Time(at.UnixNano()) }
