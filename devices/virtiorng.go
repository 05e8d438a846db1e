package devices

import "ftvm/vmm"

// virtioRNG is an entropy source (virtio 1.2, 5.4). It gives out what the pool has; while
// that is empty the driver's buffers wait in the ring.
type virtioRNG struct {
	*virtioPCI
	pool  *entropyPool
	chain chain // scratch
}

func newVirtioRNG(ram *vmm.RAM, slot int, pool *entropyPool) *virtioRNG {
	d := &virtioRNG{pool: pool}
	d.virtioPCI = newVirtioPCI(ram, slot, virtioType{
		name: "rng", id: 4, class: 0xFF_00_00, // in no class
		queues: 1,
	}, d)
	return d
}

// serve fills the buffers that the driver made available, the last one perhaps in part
// (5.4.6.2).
func (d *virtioRNG) serve(q *virtqueue) {
	for len(d.pool.bytes) > 0 && q.next(&d.chain) {
		n := total(d.chain.writable)
		if n == 0 || len(d.chain.readable) > 0 {
			d.needsReset() // the driver must not do that (5.4.6.1)
			return
		}
		p := d.pool.take(int(min(n, uint64(len(d.pool.bytes)))))
		q.push(d.chain.head, uint32(scatter(d.ram, d.chain.writable, 0, p)))
	}
}

// refilled serves the buffers that wait, when the pool has bytes again.
func (d *virtioRNG) refilled() { d.serve(&d.queues[0]) }

func (d *virtioRNG) reset() {}

// modelState: the transport's state is all there is.
func (d *virtioRNG) modelState(*vmm.Archive) {}
