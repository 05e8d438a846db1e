// Package vmm is the machine: guest memory, the engine contract, and the loop
// that joins an engine (the CPU) to a platform (the device models).
//
// Everything here is inside the door: a [Machine] is a deterministic function of
// its initial state and of the inputs that [Machine.Apply] gives it at epoch
// boundaries. It reads no host clock, file, socket or random source, starts no
// goroutine and ranges over no map. One goroutine at a time may call a Machine;
// only [Engine.Kick] may be called from others.
//
// Read machine.go first, then engine.go.
package vmm
