// Package conformance is the contract of vmm.Engine as tests: one body for all engines, a few
// bytes of machine code for each behaviour. An engine's own test calls [Run]. It imports
// package vmm only.
//
// A guest starts in 64-bit mode with a flat address space (guest.go), runs against a bus that logs
// accesses and answers from a fixed sequence, and reports what happened by its accesses,
// registers and memory. What an engine may do in its own way is left open here: how it splits an
// access that crosses a page, at which of its positions it stops besides those after accesses and
// HLT, and whether its clock is exact.
//
// Read conformance.go first, then lockstep.go: repetition and restoration are what replication
// rests on.
package conformance
