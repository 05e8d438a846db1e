// Command bench measures what replication costs, how long a takeover takes, and how fast engine soft is:
//
//	go run ./test/bench [-quick] [-json] [-only kvm,soft,linux,linux-takeover] [-rounds N] [-kills N] [-linux DIR]
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
// Engine soft is measured with Debian's kernel (`make guest-linux`), in turns with QEMU's compiler (TCG) with and without
// counting instructions, where these are installed:
//
//   - Kernel, initrd, command line and memory are the same. QEMU's CPU has the features, family and model of ours;
//     other devices and the clock of its machine differ, so boots are alike but not equal. Loads compute the same, or
//     that is an error.
//   - Time is that of this host, from the start of the process, or of a load, to the line on the console that tells of the
//     end. Guest clocks run by instructions in both, and tell nothing.
//   - A process of ours or of QEMU has one CPU for all its threads.
//   - Instructions are those between the same lines, in a run within this process whose clock is its
//     position. Runs in real time have a few more or less, in timer interrupts: below 1 %.
//   - Memory is what was resident at most, loading included, without the guest's.
//   - A stop and a digest are measured in this process: the functions that ftvm calls at a boundary.
//
// Linux under replication on engine soft is the same guest with a disk and a network interface, plain and replicated in turns:
//
//   - It does task replicated of guests/linux: computing, system calls, its disk, and then it serves a client in this process.
//     Guest and client are joined by a bridge in a network namespace of their own, which takes root.
//   - Time is that of this host: of the lines on the console between which a load lies, or of the client.
//   - Images are in this host's page cache when they are read: so what is compared is the replicas' work, and not a disk
//     that both wait for.
//   - The client shares the two CPUs with the replicas. A plain guest leaves it one for itself.
//   - A virtual machine on a shared host cannot see its neighbours. Each CPU has times in which the same work takes a third longer, and a
//     pair goes at the slower one's speed at each moment. So of two plain guests at once the slower one counts in each part of a load, of some
//     hundred ms; and besides the ratio of all parts, which has all that there was, stands that of the fastest ones, which has only what
//     comes each time.
//   - The log is what the kernel counts on the primary's connection to its backup, without headers.
//   - A takeover is of a guest that computes and has used 200 MiB of its memory, which the kernel frees before the
//     connection of a killed process closes. A silent death is a SIGSTOP, with heartbeats as by default.
//
// Read main.go first, then compare.go; soft.go and soft_linux.go for engine soft; linux.go and site.go for Linux under
// replication.
package main
