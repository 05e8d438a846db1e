// Package failover kills replicas of real pairs, by SIGKILL and otherwise, and looks whether
// anything that the world saw was lost or taken back. It has only tests; test/harness starts
// the processes and judges.
//
//	go test ./test/failover -v -run TestKills -kills=200 -seed=1 -timeout 0
//
// Every kill is drawn from a seed of its own: who dies, at which moment, and what the guest does
// meanwhile. A failure prints the command that repeats it; the moment is the same then, to the
// accuracy of this host's scheduling.
//
// Read scenario_test.go first, then kills_test.go.
package failover
