package sim

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"ftvm/epoch"
	"ftvm/replica"
	"ftvm/vmm"
)

// checkAlone is called when a process goes on alone: at most one ever may.
func (p *proc) checkAlone() {
	w, other := p.w, p.w.procs[1-p.id]
	switch {
	case other.alone:
		w.violate("both replicas went on alone: first the %s, now the %s", other.name, p.name)
	case w.plan.arbiter && w.arbiter != p:
		w.violate("the %s goes on alone and did not win at the arbiter", p.name)
	case p.told:
		w.violate("the %s takes over a machine that an operator ended", p.name)
	}
}

// note remembers in which epoch outputs were made.
func (p *proc) note(outs []vmm.Output) {
	e := p.x.Opened() - 1
	for _, o := range outs {
		switch {
		case o.Kind == vmm.OutputConsole:
			p.made = append(p.made, made{o.Seq, e})
		case o.Kind == vmm.OutputFrame:
			p.framed = append(p.framed, e)
		case o.Shared:
			p.shared = append(p.shared, e)
		}
	}
}

// hear notes what a process was told has left.
func (p *proc) hear(m replica.Message) {
	if p.core.Role() != replica.Backup {
		return
	}
	switch m := m.(type) {
	case replica.RecordMessage:
		p.known = max(p.known, m.Left.Frames)
	case replica.Heartbeat:
		p.known = max(p.known, m.Left.Frames)
	case replica.Goodbye:
		p.known = max(p.known, m.Left.Frames)
	}
}

// checkRelease is called when an output may leave. For that of a primary that has a backup that
// is only if the backup holds the record that opened its epoch, or has executed the epoch.
func (p *proc) checkRelease(o *vmm.Output) {
	w, other := p.w, p.w.procs[1-p.id]
	if w.outside {
		return
	}
	switch left := p.core.Left(); {
	case o.Kind == vmm.OutputConsole && o.Seq < left.Console:
		w.violate("the %s prints byte %d again; it was told that %d have left", p.name, o.Seq, left.Console)
	case o.Kind == vmm.OutputFrame && o.Seq < p.known:
		w.violate("the %s sends frame %d again; it was told that %d have left", p.name, o.Seq, p.known)
	case p.core.Role() == replica.Failover && o.Shared:
		w.violate("the %s has a request to the shared disk leave in its failover epoch", p.name)
	}
	if p.core.Alone() || o.Kind == vmm.OutputDisk && !o.Shared {
		return
	}
	if p.core.Role() == replica.Backup {
		w.violate("an output leaves from the %s, which is a backup", p.name)
		return
	}
	var e epoch.Number
	switch o.Kind {
	case vmm.OutputFrame:
		e = p.framed[o.Seq]
	case vmm.OutputDisk:
		e = p.shared[o.Seq]
	default:
		i, exact := slices.BinarySearchFunc(p.made, o.Seq, func(m made, seq uint64) int { return cmp.Compare(m.seq, seq) })
		if !exact {
			i-- // some of it had left already
		}
		e = p.made[i].epoch
	}
	held := other.core.Opened() + epoch.Number(other.core.Records())
	switch {
	case held <= e:
		w.violate("the %s lets an output of epoch %d leave; the backup holds %d records", p.name, e, held)
	case w.plan.core.Verified && other.core.Opened() <= e+1:
		w.violate("the %s lets an output of epoch %d leave; the backup has not verified it", p.name, e)
	}
}

// checkLag is called when the primary ends an epoch: it may be MaxLag ahead of what the backup
// has repeated.
func (p *proc) checkLag(next epoch.Number) {
	other, plan := p.w.procs[1-p.id], p.w.plan
	if p.w.outside || p.core.Alone() {
		return
	}
	if uint64(next) > uint64(other.core.Opened())+plan.core.MaxLag {
		p.w.violate("the %s opens epoch %d; the backup has opened %d", p.name, next, other.core.Opened())
	}
}

// checkExit is called when a process ends by its own will.
func (p *proc) checkExit(ended bool, err error) {
	w, other := p.w, p.w.procs[1-p.id]
	switch {
	case p.injected:
	case err == nil && (ended || p.told):
	case errors.Is(err, errSick):
	case errors.Is(err, errFence) && (other.granted || w.arbiter == other):
	case errors.Is(err, replica.ErrDropped) && (other.granted || w.arbiter == other):
	default:
		w.violate("the %s exits without a fault that explains it: %v", p.name, err)
	}
}

// check looks at the world after its end.
func (w *world) check() {
	actor, other := w.procs[0], w.procs[1]
	if actor.core.Role() == replica.Waiting && !actor.gone && other.gone && len(w.left) == 0 {
		return // the backup was lost before anything began; the primary waits for another
	}
	for _, p := range w.procs {
		if !p.gone {
			w.violate("the %s is still %s at the end of time", p.name, p.core.Role())
			return
		}
	}
	if other.alone {
		actor, other = other, actor
	}
	if !actor.finished && !other.finished && !w.excused(actor, other) {
		w.violate("the guest did not come to its end: a replica lived and nobody went on")
	}
	if !actor.parted && common(actor.log, other.log) == len(actor.log) {
		actor, other = other, actor // it was lost before it did anything of its own
	}
	ref := w.refer(actor)
	if ref == nil {
		return
	}
	w.checkConsole(actor, ref)
	w.checkFrames(actor, ref)
	w.checkTyped(actor)
	w.checkLogs(actor, other)
	w.checkImage(actor, 0, ref)
	w.checkImage(actor, sharedDisk, ref)
	if ref := w.refer(other); ref != nil {
		w.checkImage(other, 0, ref)
	}
}

// excused tells whether the end of the machine is explained by faults: an operator ended it,
// both replicas are lost, or the one that had gone on alone is. Sick disks explain nothing if one replica could hand the machine over
// to the other, and could be told that it must not.
func (w *world) excused(actor, other *proc) bool {
	more := actor.injected || other.injected || w.apart || actor.moments[momentHandover]+other.moments[momentHandover] == 0
	hurt := func(p *proc) bool { return p.injected || p.sick && more }
	switch {
	case w.quit, hurt(actor) && hurt(other), hurt(actor) && actor.alone:
		return true
	}
	return w.arbiter != nil && hurt(w.arbiter)
}

// reference is the machine that never fails.
type reference struct {
	console []byte
	frames  [][]byte
	disks   [disks]struct {
		image    image
		requests []request // by number
		// doubt is what else each sector may hold since a write to it failed.
		doubt [2 * blocks][]uint64
	}
}

// request is one that the reference made. It is done when its completion is in a record: no request that is in flight with it can
// tell the difference.
type request struct {
	vmm.Output
	done      bool
	completed int // number of the record with the completion
	failed    bool
}

const never = 1 << 30

// refer runs a machine on the records of a process, and on to the end of the epoch that it was in.
func (w *world) refer(p *proc) *reference {
	ref := &reference{}
	m := newToy(&w.plan.guest)
	x := epoch.NewExecutor(m, w.plan.memoryEvery)
	var outs []vmm.Output
	drain := func() bool {
		outs = m.Outputs(outs[:0])
		for i := range outs {
			ref.take(&outs[i])
		}
		return false
	}
	follow := func() error {
		for i, r := range p.log {
			for _, in := range r.awaited {
				if err := x.Replay(r.Record, drain); err != epoch.ErrAwait {
					return fmt.Errorf("request %d did not enter where the guest halts: %w", in.ID, err)
				}
				drain()
				if err := ref.await(x, i, in); err != nil {
					return err
				}
			}
			err := x.Replay(r.Record, drain)
			drain()
			if err == nil {
				err = ref.complete(i, r.Inputs)
			}
			if err == nil {
				err = x.Open(r.Record)
			}
			if err != nil {
				return err
			}
		}
		// The epoch that it was in, and what it did not come to any more.
		for awaited := p.awaited; ; {
			reason, err := x.Run(drain)
			drain()
			if err != nil || reason != vmm.StopHalted || !x.MayAwait() || len(awaited) == 0 && ref.oldest() == nil {
				return err
			}
			if len(awaited) > 0 {
				err, awaited = ref.await(x, len(p.log)-1, awaited[0]), awaited[1:]
			} else {
				q := ref.oldest()
				err = ref.await(x, never, vmm.Input{Kind: vmm.InputDisk, Device: q.Device, ID: q.Seq, Data: perform(&ref.disks[q.Device].image, &q.Output), Local: true})
			}
			if err != nil {
				return err
			}
		}
	}
	if err := follow(); err != nil {
		w.violate("a machine that never fails does not follow the %s's records: %v", p.name, err)
		return nil
	}
	if end, ended := m.End(); p.finished && (!ended || end != p.m.end) {
		w.violate("the %s's guest ended with %v, the reference with %v", p.name, p.m.end, end)
	}
	return ref
}

// take notes what the machine asks for.
func (ref *reference) take(o *vmm.Output) {
	switch o.Kind {
	case vmm.OutputConsole:
		ref.console = append(ref.console, o.Data...)
	case vmm.OutputFrame:
		ref.frames = append(ref.frames, o.Data)
	default:
		d := &ref.disks[o.Device]
		d.requests = append(d.requests, request{Output: *o, completed: never})
	}
}

// oldest is the request to the replica's own disk that a halted guest waits for, or nil.
func (ref *reference) oldest() *request {
	for i := range ref.disks[0].requests {
		if q := &ref.disks[0].requests[i]; !q.done {
			return q
		}
	}
	return nil
}

// await lets a completion enter in the epoch that a record closes. It must be that of the oldest request.
func (ref *reference) await(x *epoch.Executor, record int, in vmm.Input) error {
	if q := ref.oldest(); q == nil || q.Seq != in.ID || in.Device != 0 || in.Status != vmm.DiskOK {
		return fmt.Errorf("request %d of disk %d entered as awaited", in.ID, in.Device)
	}
	if err := ref.complete(record, []vmm.Input{in}); err != nil {
		return err
	}
	return x.Await(in)
}

// complete does what is complete; reads must have returned the same.
func (ref *reference) complete(record int, inputs []vmm.Input) error {
	for _, in := range inputs {
		if in.Kind != vmm.InputDisk {
			continue
		}
		d := &ref.disks[in.Device]
		if in.ID >= uint64(len(d.requests)) {
			return errors.New("a completion of a request that was not made")
		}
		q := &d.requests[in.ID]
		q.done, q.completed, q.failed = true, record, in.Status == vmm.DiskError
		if q.Op == vmm.DiskFlush || q.failed && q.Op == vmm.DiskRead {
			continue
		}
		for i := range 2 {
			s := int(q.Offset/sectorBytes) + i
			switch {
			case q.failed: // it may have been done all the same
				d.doubt[s] = append(d.doubt[s], sector(&q.Output, i))
				continue
			case q.Op == vmm.DiskRead && slices.Contains(d.doubt[s], le.Uint64(in.Data[i*sectorBytes:])):
				d.image[s] = le.Uint64(in.Data[i*sectorBytes:])
			}
			d.doubt[s] = nil
		}
		if !q.failed && !bytes.Equal(perform(&d.image, &q.Output), in.Data) {
			return fmt.Errorf("read %d of disk %d returned something else", in.ID, in.Device)
		}
	}
	return nil
}

// writes are the writes to a disk. failed tells that some may or may not have been done.
func (ref *reference) writes(device uint32) (writes []request, failed bool) {
	for _, q := range ref.disks[device].requests {
		if q.Op == vmm.DiskWrite {
			writes = append(writes, q)
			failed = failed || q.failed
		}
	}
	return writes, failed
}

// checkConsole: what left is what the reference printed, from whatever process it left, and
// of a machine that came to its end all of it.
func (w *world) checkConsole(actor *proc, ref *reference) {
	for _, c := range w.left {
		end := c.seq + uint64(len(c.data))
		if end > uint64(len(ref.console)) || !bytes.Equal(ref.console[c.seq:end], c.data) {
			w.violate("console bytes %d to %d, %q, left and are not in the history", c.seq, end, c.data)
			return
		}
	}
	if actor.finished && !actor.injected && w.high != uint64(len(ref.console)) {
		w.violate("the guest printed %d bytes and came to its end; %d left", len(ref.console), w.high)
	}
}

// checkFrames: as checkConsole.
func (w *world) checkFrames(actor *proc, ref *reference) {
	for i, f := range w.frames {
		if i >= len(ref.frames) || !bytes.Equal(f, ref.frames[i]) {
			w.violate("frame %d, %x, left and is not in the history", i, f)
			return
		}
	}
	if actor.finished && !actor.injected && len(w.frames) != len(ref.frames) {
		w.violate("the guest sent %d frames and came to its end; %d left", len(ref.frames), len(w.frames))
	}
}

// checkTyped: what was typed at the primary of the time is in the history, once and in
// order. What a primary took and never shipped may be lost with it, and what came too late for the guest.
func (w *world) checkTyped(actor *proc) {
	var lines [][]byte
	for _, r := range actor.log {
		for _, in := range r.Inputs {
			if in.Kind == vmm.InputConsole {
				lines = append(lines, in.Data)
			}
		}
	}
	match := func(taken []typedLine) (rest []typedLine) {
		for len(lines) > 0 && len(taken) > 0 && bytes.Equal(lines[0], taken[0].line) {
			lines, taken = lines[1:], taken[1:]
		}
		return taken
	}
	rest := match(w.procs[0].accepted)
	if actor.id == 1 {
		rest = match(actor.accepted)
	}
	if len(lines) > 0 {
		w.violate("the history has a line %q that nobody typed there", lines[0])
	}
	if len(rest) > 0 && actor.finished && !actor.injected && rest[0].opened+1 < epoch.Number(len(actor.log)) {
		w.violate("the line %q was typed in epoch %d and is not in the history", rest[0].line, rest[0].opened-1)
	}
}

func same(a, b *epoch.Record) bool {
	return a.Position == b.Position && a.Awaited == b.Awaited && a.Awaits == b.Awaits && a.Digest == b.Digest && a.Time == b.Time && a.Rate == b.Rate && a.Length == b.Length && a.Ended == b.Ended &&
		slices.EqualFunc(a.Inputs, b.Inputs, func(x, y vmm.Input) bool {
			return x.Kind == y.Kind && x.Device == y.Device && x.ID == y.ID && x.Status == y.Status && bytes.Equal(x.Data, y.Data)
		})
}

// common is how many records two logs begin with alike.
func common(a, b []entry) int {
	n := 0
	for n < len(a) && n < len(b) && same(&a[n].Record, &b[n].Record) {
		n++
	}
	return n
}

// checkLogs: a backup that did not take over followed the primary to where it stopped.
func (w *world) checkLogs(actor, other *proc) {
	if n := common(actor.log, other.log); other.id == 1 && n < len(other.log) {
		w.violate("the backup applied a record %d that is not the primary's", n)
	}
}

// checkImage: the image of a replica that saw the guest's end is that of a machine that ran on its records.
// That of any other replica has only writes of that machine, in their order within each sector, and all those of which
// it knew the completion; if its disk does requests in order, it is a state that the
// reference went through, but for one write that may be half done.
func (w *world) checkImage(p *proc, device uint32, ref *reference) {
	known := len(p.log)
	have := p.disks[device].image
	writes, failed := ref.writes(device)
	if p.finished && !p.injected && !failed {
		if *have != ref.disks[device].image {
			w.violate("the %s's image %d is not that of the reference", p.name, device)
		}
		return
	}
	for s := range have {
		var want uint64
		ok := have[s] == 0
		for i := range writes {
			o := &writes[i]
			if first := int(o.Offset / sectorBytes); s == first || s == first+1 {
				want = sector(&o.Output, s-first)
				ok = have[s] == want || ok && (o.failed || o.completed >= known)
			}
		}
		if !ok {
			w.violate("sector %d of the %s's image %d is %#x, which is not in the history or is too old (last %#x)", s, p.name, device, have[s], want)
			return
		}
	}
	if w.plan.fifo && device != sharedDisk && !failed && !p.sick && p.moments[momentRepeat] == 0 && !prefix(have, writes, known) {
		w.violate("the %s's image is no state that the reference went through", p.name)
	}
}

// prefix tells whether an image is what some first writes leave, all those with a completion in
// the first `known` records among them.
func prefix(have *image, writes []request, known int) bool {
	must := 0
	for i := range writes {
		if writes[i].completed < known {
			must = i + 1
		}
	}
	var state image
	for i := range writes {
		if i >= must && state == *have {
			return true
		}
		first := writes[i].Offset / sectorBytes
		state[first] = sector(&writes[i].Output, 0)
		if i >= must && state == *have {
			return true
		}
		state[first+1] = sector(&writes[i].Output, 1)
	}
	return state == *have
}
