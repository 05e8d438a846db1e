package devices

import (
	"fmt"

	"ftvm/vmm"
)

const (
	entropyCapacity = 4096 // bytes
	entropyLow      = 2048 // low-water mark: at or below it records refill the pool
)

// entropyPool is the randomness that records brought and the guest has not
// used yet. Records refill it ahead of need, so that the guest never waits for
// one.
type entropyPool struct {
	bytes []byte
}

// refill appends p, or fails and changes nothing if the pool cannot hold it.
func (e *entropyPool) refill(p []byte) error {
	if room := entropyCapacity - len(e.bytes); len(p) > room {
		return fmt.Errorf("entropy pool: refill of %d bytes, but there is room for %d only: send at most what was asked for", len(p), room)
	}
	e.bytes = append(e.bytes, p...)
	return nil
}

// take removes the oldest n bytes, or all if there are fewer. The pool does
// not touch them again.
func (e *entropyPool) take(n int) []byte {
	n = min(n, len(e.bytes))
	p := e.bytes[:n:n]
	e.bytes = e.bytes[n:]
	return p
}

// wanted is 0 above the low-water mark, else the number of bytes that fill the
// pool.
func (e *entropyPool) wanted() int {
	if len(e.bytes) > entropyLow {
		return 0
	}
	return entropyCapacity - len(e.bytes)
}

func (e *entropyPool) State(a *vmm.Archive) {
	a.Section("entropy")
	a.Bytes("bytes", &e.bytes, entropyCapacity)
}
