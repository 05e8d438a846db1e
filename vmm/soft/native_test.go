package soft

import (
	"flag"
	"testing"

	"ftvm/host"
)

// Compiled is the options with which each block is compiled before it is executed for the first time, where that can be
// done; elsewhere everything is interpreted.
func Compiled(tb testing.TB) Options {
	code, err := host.AllocCode(1 << 20)
	if err != nil {
		tb.Log(err)
		return Options{}
	}
	tb.Cleanup(func() {
		if err := host.FreeCode(code); err != nil {
			tb.Error(err)
		}
	})
	return Options{Code: code, Threshold: 1}
}

var interpret = flag.Bool("interpret", false, "interpret the guests of tests that have only one")

// guestOptions is for tests with one guest.
func guestOptions(tb testing.TB) Options {
	if *interpret {
		return Options{}
	}
	return Compiled(tb)
}

// OneByOne makes blocks of one instruction, so that each is compiled even if there are positions for no more.
func (c *CPU) OneByOne() { c.code.longest = 1 }
