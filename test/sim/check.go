package sim

import (
	"bytes"
	"cmp"
	"errors"
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

// note remembers in which epoch console bytes were made.
func (p *proc) note(outs []vmm.Output) {
	for _, o := range outs {
		if o.Kind == vmm.OutputConsole {
			p.made = append(p.made, made{o.Seq, p.x.Opened() - 1})
		}
	}
}

// checkRelease is called when an output may leave. For the console of a primary that has a backup that
// is only if the backup holds the record that opened its epoch, or has executed the epoch.
func (p *proc) checkRelease(o *vmm.Output) {
	w, other := p.w, p.w.procs[1-p.id]
	if w.outside {
		return
	}
	if o.Kind == vmm.OutputConsole && o.Seq < p.core.ConsoleLeft() {
		w.violate("the %s prints byte %d again; it was told that %d have left", p.name, o.Seq, p.core.ConsoleLeft())
	}
	if p.core.Alone() || o.Kind == vmm.OutputDisk {
		return
	}
	if p.core.Role() == replica.Backup {
		w.violate("the %s prints, and is a backup", p.name)
		return
	}
	i, exact := slices.BinarySearchFunc(p.made, o.Seq, func(m made, seq uint64) int { return cmp.Compare(m.seq, seq) })
	if !exact {
		i-- // some of it had left already
	}
	e, held := p.made[i].epoch, other.core.Opened()+epoch.Number(other.core.Records())
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
	if other := p.w.procs[1-p.id]; !p.w.outside && !p.core.Alone() && uint64(next) > uint64(other.core.Opened())+p.w.plan.core.MaxLag {
		p.w.violate("the %s opens epoch %d; the backup has opened %d", p.name, next, other.core.Opened())
	}
}

// checkExit is called when a process ends by its own will.
func (p *proc) checkExit(ended bool, err error) {
	w, other := p.w, p.w.procs[1-p.id]
	switch {
	case p.injected:
	case err == nil && (ended || p.told):
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
	w.checkTyped(actor)
	w.checkLogs(actor, other)
	w.checkImage(actor, ref)
	if ref := w.refer(other); ref != nil {
		w.checkImage(other, ref)
	}
}

// excused tells whether the end of the machine is explained by faults: an operator ended it,
// both replicas are lost, or the one that had gone on alone is.
func (w *world) excused(actor, other *proc) bool {
	switch {
	case w.quit, actor.injected && other.injected, actor.injected && actor.alone:
		return true
	}
	return w.arbiter != nil && w.arbiter.injected
}

// reference is the machine that never fails.
type reference struct {
	console []byte
	image   [2 * blocks]uint64
	writes  []write
	results [][]byte // by request
}

// write is a write that the reference made.
type write struct {
	vmm.Output
	completed int // number of the record with the completion
}

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
	for i, r := range p.log {
		err := x.Replay(r, drain)
		drain()
		if err == nil {
			err = ref.complete(i, r.Inputs)
		}
		if err == nil {
			err = x.Open(r)
		}
		if err != nil {
			w.violate("a machine that never fails does not follow the %s's records: %v", p.name, err)
			return nil
		}
	}
	if _, err := x.Run(drain); err != nil {
		w.violate("the reference: %v", err)
		return nil
	}
	drain()
	if end, ended := m.End(); p.finished && (!ended || end != p.m.end) {
		w.violate("the %s's guest ended with %v, the reference with %v", p.name, p.m.end, end)
	}
	return ref
}

// take does at once what the machine asks for.
func (ref *reference) take(o *vmm.Output) {
	if o.Kind == vmm.OutputConsole {
		ref.console = append(ref.console, o.Data...)
		return
	}
	if o.Op == vmm.DiskWrite {
		ref.writes = append(ref.writes, write{*o, 1 << 30})
	}
	ref.results = append(ref.results, perform(&ref.image, o))
}

// complete notes completions, whose data must be what the reference read.
func (ref *reference) complete(record int, inputs []vmm.Input) error {
	for _, in := range inputs {
		if in.Kind != vmm.InputDisk {
			continue
		}
		if in.ID >= uint64(len(ref.results)) || !bytes.Equal(ref.results[in.ID], in.Data) {
			return errors.New("a read returned something else")
		}
		for i := range ref.writes {
			if ref.writes[i].Seq == in.ID {
				ref.writes[i].completed = record
			}
		}
	}
	return nil
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
	return a.Position == b.Position && a.Digest == b.Digest && a.Time == b.Time && a.Length == b.Length && a.Ended == b.Ended &&
		slices.EqualFunc(a.Inputs, b.Inputs, func(x, y vmm.Input) bool {
			return x.Kind == y.Kind && x.ID == y.ID && bytes.Equal(x.Data, y.Data)
		})
}

// common is how many records two logs begin with alike.
func common(a, b []epoch.Record) int {
	n := 0
	for n < len(a) && n < len(b) && same(&a[n], &b[n]) {
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
func (w *world) checkImage(p *proc, ref *reference) {
	known := len(p.log)
	if p.finished && !p.injected {
		if p.disk.image != ref.image {
			w.violate("the %s's image is not that of the reference", p.name)
		}
		return
	}
	for s := range p.disk.image {
		var want uint64
		ok := p.disk.image[s] == 0
		for i := range ref.writes {
			o := &ref.writes[i]
			if first := int(o.Offset / sectorBytes); s == first || s == first+1 {
				want = sector(&o.Output, s-first)
				ok = p.disk.image[s] == want || ok && o.completed >= known
			}
		}
		if !ok {
			w.violate("sector %d of the %s's image is %#x, which is not in the history or is too old (last %#x)", s, p.name, p.disk.image[s], want)
			return
		}
	}
	if w.plan.fifo && p.moments[momentRepeat] == 0 && !prefix(&p.disk.image, ref.writes, known) {
		w.violate("the %s's image is no state that the reference went through", p.name)
	}
}

// prefix tells whether an image is what some first writes leave, all those with a completion in
// the first `known` records among them.
func prefix(image *[2 * blocks]uint64, writes []write, known int) bool {
	must := 0
	for i := range writes {
		if writes[i].completed < known {
			must = i + 1
		}
	}
	var state [2 * blocks]uint64
	for i := range writes {
		if i >= must && state == *image {
			return true
		}
		first := writes[i].Offset / sectorBytes
		state[first] = sector(&writes[i].Output, 0)
		if i >= must && state == *image {
			return true
		}
		state[first+1] = sector(&writes[i].Output, 1)
	}
	return state == *image
}
