package epoch

import (
	"slices"

	"ftvm/vmm"
)

// Gate holds the machine's outputs until the output rule lets them leave, keeps disk
// requests until their completion is in a record, and remembers how much of the console and how many frames
// have left. It decides; somebody else does the I/O.
//
// The output rule: an output of epoch e leaves only when record e is committed. See
// docs/PROTOCOL.md for why that is enough.
type Gate struct {
	// held is what may not leave yet, in the order of production.
	held []heldOutput
	// outstanding are the disk requests without a completion in a record, held or not, in
	// the order of production.
	outstanding []vmm.Output
	left        Left
}

type heldOutput struct {
	vmm.Output
	epoch Number
}

// Produce takes outputs of epoch e. Console bytes and frames that are known to have left already
// (from another replica) are dropped.
func (g *Gate) Produce(e Number, outs []vmm.Output) {
	for _, o := range outs {
		if o.Kind == vmm.OutputDisk {
			g.outstanding = append(g.outstanding, o)
		}
		g.held = append(g.held, heldOutput{o, e})
	}
	g.trim()
}

// Commit releases the outputs of all epochs before `below`, appending them to dst.
func (g *Gate) Commit(below Number, dst []vmm.Output) []vmm.Output {
	n := 0
	for n < len(g.held) && g.held[n].epoch < below {
		dst = append(dst, g.held[n].Output)
		n++
	}
	g.keep(append(g.held[:0], g.held[n:]...))
	return dst
}

// Take releases those outputs that are wanted, whatever their epoch, appending them to dst.
func (g *Gate) Take(dst []vmm.Output, wanted func(o *vmm.Output) bool) []vmm.Output {
	kept := g.held[:0]
	for _, h := range g.held {
		if wanted(&h.Output) {
			dst = append(dst, h.Output)
		} else {
			kept = append(kept, h)
		}
	}
	g.keep(kept)
	return dst
}

// keep makes kept, which lies at the beginning of held, what is held.
func (g *Gate) keep(kept []heldOutput) {
	clear(g.held[len(kept):]) // nothing that is gone stays in memory
	g.held = kept
}

// Holding reports whether an output of epoch `from` or later waits to be released.
func (g *Gate) Holding(from Number) bool {
	return len(g.held) > 0 && g.held[len(g.held)-1].epoch >= from
}

// HasLeft tells that so much output has left. It never goes back; earlier values are ignored.
func (g *Gate) HasLeft(l Left) {
	g.left = g.left.and(l)
	g.trim()
}

// Left is how much output is known to have left.
func (g *Gate) Left() Left { return g.left }

// trim drops held console bytes and frames that have left.
func (g *Gate) trim() {
	kept := g.held[:0]
	for _, h := range g.held {
		switch {
		case h.Kind == vmm.OutputFrame && h.Seq < g.left.Frames:
			continue
		case h.Kind == vmm.OutputConsole && h.Seq < g.left.Console:
			gone := min(g.left.Console-h.Seq, uint64(len(h.Data)))
			h.Seq, h.Data = h.Seq+gone, h.Data[gone:]
			if len(h.Data) == 0 {
				continue
			}
		}
		kept = append(kept, h)
	}
	g.keep(kept)
}

// Complete notes that the completion of a disk request is in a record. If the request is still held (that of a
// shared disk on a backup), it is done: another replica did it.
func (g *Gate) Complete(device uint32, id uint64) {
	same := func(o *vmm.Output) bool { return o.Kind == vmm.OutputDisk && o.Device == device && o.Seq == id }
	for i := range g.outstanding {
		if same(&g.outstanding[i]) {
			g.outstanding = slices.Delete(g.outstanding, i, i+1)
			g.Take(nil, same)
			return
		}
	}
}

// Outstanding lists the disk requests whose completion is in no record.
func (g *Gate) Outstanding() []vmm.Output { return g.outstanding }
