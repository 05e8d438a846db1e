// Package sim runs the protocol with everything around it made up: the real
// replica.Core, epoch.Gate and epoch.Executor of two replicas, with a toy guest in place of
// the CPU, and a clock, a network, disks, consoles, an arbiter and faults that are drawn
// from a seed. A seed says everything; the same seed is the same run.
//
// The checker (check.go) stands outside. It knows what left for the outside world, the
// images that are left at the end, and the records of the replica that had the last word. It
// runs one machine that never fails on those records, and compares. A few checks look into the
// replicas as well, to find a broken rule where no fault made it visible.
//
// Invariants:
//
//   - One goroutine for a world; nothing ranges over a map, nothing reads a host's clock.
//   - A draw from the seed depends on nothing but the seed and the draws before it.
//   - proc.go does what replica/pair/node.go does, in the same order, and no more.
//
// Read world.go first.
package sim
