// Package pair runs the protocol of package replica with real parts: a machine on the
// caller's thread, TCP, disks, a console and the host's clock. It does what the core decides;
// every decision is the core's.
//
// One goroutine, the caller's, runs the machine. All others (accepting, reading and writing
// connections, heartbeats, disk and console callbacks) only call the core under Node.mu, and
// carry out its actions, none of which blocks.
//
// Read node.go first; vcpu.go runs the machine, connect.go finds the peer.
package pair
