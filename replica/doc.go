// Package replica is the replication protocol for a pair: who runs what, who may
// speak, and who is the primary. docs/PROTOCOL.md has the rules P1 to P7 and the argument.
//
// It decides and does nothing else: events come in as method calls, actions go out of
// Core.Actions, and Core.Next says what the machine is to do. There is no clock, socket or
// goroutine in here; time is the number of Ticks. One caller at a time may use a Core.
// Package replica/pair runs it with real parts, the simulator in test/sim with injected ones.
//
// Invariants, checked where they could break:
//
//   - An output leaves a replica only if every replica that could take over will produce it too.
//   - Not both: a primary that goes on alone and a backup that took over. Either asks (Claim)
//     before it does so.
//   - A backup acknowledges only what it holds, and nothing after it claimed the machine.
//
// Read core.go first.
package replica
