// Package host is the world outside the door: the memory that guest RAM lies in,
// disk images, and the terminal. It does what the machine's outputs ask for and
// brings back what becomes inputs; it decides nothing.
//
// What must hold:
//
//   - What was submitted to one [Disk] or one [Console] is done in the order of
//     submission, all of it, once.
//   - A completion is reported after the kernel took the whole request, never before. A
//     flush is complete when the data is on stable storage.
//   - Host trouble is reported with operation, object and offset, and is final: after it
//     nothing more is done for that object, so that no later success can hide it.
//   - An image that is open for writing is locked against every other ftvm process.
//
// Any goroutine may submit. Callbacks come from goroutines of this package, for one Disk
// one at a time, for a Console as [ConsoleEvents] says, and may submit.
//
// Read disk.go first.
package host
