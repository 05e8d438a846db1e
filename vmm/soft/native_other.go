//go:build !amd64

package soft

// compiler is there on amd64 only. Here no block ever has code.
type compiler struct{}

func (n *native) init(Options) { n.threshold = never }

func (c *CPU) compile(*block) bool { return false }

func (n *native) drop() {}

func (n *native) link(_, _ *block) {}

func nativeRun(_ *CPU, _, _ uintptr) {}
