//go:build simfault

package sim

import (
	"testing"

	"ftvm/replica"
)

// TestRulesAreNeeded switches the rules off one after the other. The simulator must find a
// violation of each, with its eyes outside of the system alone, or it would not find an implementation
// that forgot the rule.
func TestRulesAreNeeded(t *testing.T) {
	const enough = 5000
	rules := []struct {
		name string
		rule replica.Rule
	}{
		{"none", 0},
		{"P1", replica.RuleP1}, {"P2", replica.RuleP2}, {"P3", replica.RuleP3}, {"P4", replica.RuleP4},
		{"P5", replica.RuleP5}, {"P6", replica.RuleP6}, {"failover", replica.RuleFailover}, {"P7", replica.RuleP7},
		{"output", replica.RuleOutput}, {"left", replica.RuleLeft}, {"shared", replica.RuleShared}, {"fence", replica.RuleFence},
		{"time", replica.RuleTime}, {"handover", replica.RuleHandover}, {"await", replica.RuleAwait},
	}
	defer func() { replica.Broken = 0 }()
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			replica.Broken = r.rule
			for seed := range uint64(enough) {
				switch o := runSeed(seed, true, nil); {
				case len(o.violations) == 0:
				case r.rule == 0:
					t.Fatalf("with every rule kept, seed %d: %s", seed, o.violations[0])
				default:
					t.Logf("found after %d seeds: %s", seed+1, o.violations[0])
					return
				}
			}
			if r.rule != 0 {
				t.Errorf("no violation in %d seeds", enough)
			}
		})
	}
}
