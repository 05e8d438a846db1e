//go:build simfault

package replica

// Broken is the rule that is switched off in this test build; 0 is none.
var Broken Rule

func broken(r Rule) bool { return Broken == r }
