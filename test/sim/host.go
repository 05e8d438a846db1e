package sim

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"ftvm/replica"
	"ftvm/vmm"
)

// image is what a disk holds, by sectors.
type image [blocks * 2]uint64

// disk is a disk as one replica's host sees it: its image, which is shared in some cases, and the host's queue of requests for it.
type disk struct {
	image   *image
	pending []*pending // in the order of submission
	// stuckUntil is when the disk goes on after a hitch; sickUntil, when it is well again.
	stuckUntil, sickUntil int64
}

// pending is a request that was submitted and is not done yet.
type pending struct {
	vmm.Output
	at int64 // when it is done
}

var le = binary.LittleEndian

// perform does a request on an image, and returns what was read.
func perform(image *image, o *vmm.Output) []byte {
	first := int(o.Offset / sectorBytes)
	switch o.Op {
	case vmm.DiskWrite:
		for i := range 2 {
			image[first+i] = sector(o, i)
		}
	case vmm.DiskRead:
		data := make([]byte, 0, blockBytes)
		for i := range 2 {
			data = le.AppendUint64(data, image[first+i])
		}
		return data
	}
	return nil
}

// sector is the content that a write brings to its i-th sector.
func sector(o *vmm.Output, i int) uint64 { return le.Uint64(o.Data[i*sectorBytes:]) }

// submit queues a request. Requests of the same block, and everything before a flush, keep
// their order; others may overtake each other if the plan says so.
func (p *proc) submit(o vmm.Output) {
	w, d := p.w, &p.disks[o.Device]
	q := &pending{o, max(w.now, d.stuckUntil) + w.around(w.plan.disk)}
	for _, e := range d.pending {
		if w.plan.fifo || o.Op == vmm.DiskFlush || e.Op == vmm.DiskFlush || e.Offset == o.Offset {
			q.at = max(q.at, e.at)
		}
	}
	d.pending = append(d.pending, q)
	w.at(q.at, p, func() { p.complete(q) })
}

var errSick = errors.New("input/output error")

// complete does a request and reports it.
func (p *proc) complete(q *pending) {
	d := &p.disks[q.Device]
	for i, e := range d.pending {
		if e == q {
			d.pending = append(d.pending[:i], d.pending[i+1:]...)
			break
		}
	}
	var data []byte
	var err error
	if p.w.now < d.sickUntil {
		p.sick, err = true, errSick
	} else {
		data = perform(d.image, &q.Output)
	}
	p.w.tell(p, "disk %d: request %d is done: %v", q.Device, q.Seq, err)
	p.moment(momentDisk)
	if !p.gone {
		p.diskDone(q.Device, q.Seq, data, err)
	}
}

// settle decides, when a process dies, what becomes of the requests that it had submitted:
// some were done and nobody was told, and of a write perhaps the first half. To a shared disk they may still be on their way:
// whoever acquires it then waits for them.
func (p *proc) settle(device uint32) {
	w, d := p.w, &p.disks[device]
	slices.SortStableFunc(d.pending, func(a, b *pending) int { return cmp.Compare(a.at, b.at) })
	d.pending = d.pending[:min(len(d.pending), w.rng.IntN(maxFlight+1))]
	for i, q := range d.pending {
		do := func() { perform(d.image, &q.Output) }
		if i == len(d.pending)-1 && q.Op == vmm.DiskWrite && w.chance(50) {
			do = func() { d.image[q.Offset/sectorBytes] = sector(&q.Output, 0) }
		}
		if device != sharedDisk {
			do()
			continue
		}
		w.settled = max(w.now, w.settled) + w.upTo(w.plan.late)
		w.at(w.settled, nil, do)
	}
	d.pending = nil
}

var errFence = errors.New("the shared disk cannot be had")

// acquire waits until the other process, wherever it was, can do nothing to the shared disk any more; not for ever.
func (w *world) acquire(p *proc, giveUp int64) {
	other := w.procs[1-p.id]
	if !other.gone {
		w.at(w.now+2*millisecond, p, func() {
			if w.now > giveUp {
				p.fail(errFence)
				return
			}
			w.acquire(p, giveUp)
		})
		return
	}
	t := max(w.now, w.settled)
	if other.powerCut { // the server has to find out
		t += w.upTo(w.plan.late)
	}
	w.at(t+1, p, func() {
		w.tell(p, "has the shared disk")
		p.step((*replica.Core).Acquired)
	})
}

// console is where a process prints.
type console struct {
	queue []vmm.Output // released, not yet left
	busy  bool
}

// print queues console output.
func (p *proc) print(o vmm.Output) {
	p.console.queue = append(p.console.queue, o)
	p.write()
}

// write lets the oldest console output leave, and some time after that confirms it.
func (p *proc) write() {
	w := p.w
	if p.console.busy || len(p.console.queue) == 0 {
		return
	}
	p.console.busy = true
	w.at(w.now+w.around(w.plan.console), p, func() {
		o := p.console.queue[0]
		p.console.queue = p.console.queue[1:]
		w.leave(p, o.Seq, o.Data)
		p.moment(momentConsole)
		w.at(w.now+w.upTo(w.plan.console), p, func() {
			p.console.busy = false
			p.step(func(c *replica.Core) { c.ConsoleWritten(o.Seq + uint64(len(o.Data))) })
			p.write()
		})
	})
}

// settleConsole decides, when a process dies, how much of what was on its way has left.
func (p *proc) settleConsole() {
	if q := p.console.queue; len(q) > 0 && p.w.chance(50) {
		p.w.leave(p, q[0].Seq, q[0].Data[:p.w.rng.IntN(len(q[0].Data)+1)])
	}
}
