// Package trouble gives real hosts trouble under a primary and a backup that run Debian's kernel: disks that fill or fail, taps that are
// taken or go away, shared disks whose owner dies or only stops. Either no guest notices, or it is told in
// order, and people are told always; docs/PROTOCOL.md, "Trouble of a host", says when. It has only tests, and most take root.
//
// With -v each shows what ftvm said, to be read as a user would.
//
// Read main_test.go first.
package trouble
