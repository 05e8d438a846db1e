//go:build simfault

package pair

import (
	"fmt"
	"os"
	"time"

	"ftvm/vmm"
)

// aheadEnv names the environment variable that, in this test build, says by how much the host's wall clock is ahead, such as 5s or
// -5s: the replicas of a pair on one host have hosts of different clocks then.
const aheadEnv = "FTVM_CLOCK_AHEAD"

var ahead = func() time.Duration {
	s := os.Getenv(aheadEnv)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", aheadEnv, err))
	}
	return d
}()

// wallTime is what the host's wall clock shows at a moment.
func wallTime(at time.Time) vmm.Time { return vmm.Time(at.Add(ahead).UnixNano()) }
