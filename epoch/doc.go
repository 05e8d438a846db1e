// Package epoch is lockstep itself: records, the boundaries between epochs, the
// execution of one epoch on a machine (first on the primary, then again on a
// backup), the digests that compare the two, and the gate that holds outputs back until
// the output rule lets them leave.
//
// It is inside the door: no host clock, no I/O, no goroutine. One goroutine at a
// time may use an Executor (the one that runs the machine); a Gate belongs to the protocol
// core and is called under its lock.
//
// Invariants:
//
//   - An epoch has no inputs but those of the record that opened it and awaited completions, which every replica has of its own,
//     and is at most Record.Length long. So whoever holds that record can produce every output of the epoch.
//   - The primary may end an epoch at any nameable position; a backup ends it there and
//     nowhere else.
//   - Digests are compared at every boundary, before the record is applied.
//
// Read record.go first.
package epoch
