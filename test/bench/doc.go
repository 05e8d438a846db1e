// Command bench measures what replication costs, and how long a takeover takes:
//
//	go run ./test/bench [-quick] [-json] [-rounds N] [-kills N]
//
// It runs the real ftvm with the embedded guest, plain and replicated in turns (both replicas
// on this machine, over loopback), because the speed of a shared host changes from minute to
// minute and only neighbours can be compared. It reports and never judges: no time makes it
// fail, only a replica that does not do its work.
//
// What is measured, and what is not:
//
//   - Progress is the wall time between the first and the last transaction that the guest printed;
//     starting and ending do not count.
//   - Plain is `ftvm run` with its defaults, whatever the epoch length of the other.
//   - Each guest runs on one CPU: the plain one and the primary on the same, the backup on another.
//     So a replica is a host with one CPU, and the other replica's work does not come on top.
//   - They still share the disk, caches, and perhaps a core. Two plain guests at once, one on each of the
//     two CPUs, show what that costs without replication; the disk is also measured alone, and left out by
//     images in memory. "By two" is what replication itself adds to that: replicated by plain twice.
//   - With each figure stands how much of the CPUs other programs took at the time. A round that they
//     disturbed is taken again, within limits.
//
// Read main.go first, then compare.go.
package main
