//go:build !simfault

package replica

// broken is always false: every rule is kept.
func broken(Rule) bool { return false }
