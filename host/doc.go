// Package host is the world outside the door: the memory that guest RAM lies in,
// disks, the network, and the terminal. It does what the machine's outputs ask for and
// brings back what becomes inputs; it decides nothing.
//
// What must hold:
//
//   - What was submitted to one [Console] or one [Tap] leaves in the order of submission. A console loses nothing; a tap
//     may drop frames, as networks do.
//   - What was submitted to one [Disk] has the outcome of being done in the order of submission, all of it, once, as far as
//     requests can tell: those that touch the same bytes, and flushes, keep their order; others may be done at the same time.
//   - A completion is reported after the kernel took the whole request, never before. A
//     flush is complete when the data is on stable storage.
//   - Host trouble is reported with operation, object and offset, for each request. For a console it is final.
//   - An image that is open for writing is locked against every other ftvm process; a shared one, from Acquire on.
//
// What is here:
//
//   - [ParseDisk] reads what --disk says; [DiskSpec.Open] opens that: a [*Disk], the replica's own image, or one that all hosts
//     reach, a [*SharedDisk] or [*NBD]. All are [Storage]: Size, Start, Submit, Close. The shared ones have Acquire as well, which waits for the
//     fence, and take no request before it. Only a Disk has an [Identity]; what names a shared one is [DiskSpec.Identity].
//   - [ParseNet] reads what --net says; [OpenTap] opens that: Start, Submit, Announce, Close. [DefaultMAC] is the address of an interface
//     that was given none.
//   - [OpenConsole], [AllocRAM], [AllocFixedRAM], [ParseSize].
//
// Any goroutine may submit. Callbacks come from goroutines of this package, for one Disk or Tap
// one at a time, for a Console as [ConsoleEvents] says, and may submit.
//
// Read disk.go first, then order.go.
package host
