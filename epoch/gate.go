package epoch

import "ftvm/vmm"

// Gate holds the machine's outputs until the output rule lets them leave, keeps disk
// requests until their completion is in a record, and remembers how much of the console
// has left. It decides; somebody else does the I/O.
//
// The output rule: an output of epoch e leaves only when record e is committed. See
// docs/PROTOCOL.md for why that is enough.
type Gate struct {
	// held is what may not leave yet, in the order of production.
	held []heldOutput
	// outstanding are the disk requests without a completion in a record, held or not, in
	// the order of production.
	outstanding []vmm.Output
	// consoleLeft is how many console bytes are known to have left.
	consoleLeft uint64
}

type heldOutput struct {
	vmm.Output
	epoch Number
}

// Produce takes outputs of epoch e. Console bytes that are known to have left already
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
	g.held = append(g.held[:0], g.held[n:]...)
	return dst
}

// TakeDisk releases disk requests only, whatever their epoch: a replica carries out its
// machine's requests on its own image, which is part of the replica and not of the outside world.
func (g *Gate) TakeDisk(dst []vmm.Output) []vmm.Output {
	kept := g.held[:0]
	for _, h := range g.held {
		if h.Kind == vmm.OutputDisk {
			dst = append(dst, h.Output)
		} else {
			kept = append(kept, h)
		}
	}
	g.held = kept
	return dst
}

// Holding reports whether an output of epoch `from` or later waits to be released.
func (g *Gate) Holding(from Number) bool {
	return len(g.held) > 0 && g.held[len(g.held)-1].epoch >= from
}

// ConsoleLeft tells that the first n bytes of console output have left; n never goes
// back, and earlier values are ignored.
func (g *Gate) ConsoleLeft(n uint64) {
	g.consoleLeft = max(g.consoleLeft, n)
	g.trim()
}

// Left is how many bytes of console output are known to have left.
func (g *Gate) Left() uint64 { return g.consoleLeft }

// trim drops held console bytes that have left.
func (g *Gate) trim() {
	kept := g.held[:0]
	for _, h := range g.held {
		if h.Kind == vmm.OutputConsole && h.Seq < g.consoleLeft {
			gone := min(g.consoleLeft-h.Seq, uint64(len(h.Data)))
			h.Seq, h.Data = h.Seq+gone, h.Data[gone:]
			if len(h.Data) == 0 {
				continue
			}
		}
		kept = append(kept, h)
	}
	g.held = kept
}

// Complete notes that the completion of a disk request is in a record.
func (g *Gate) Complete(device uint32, id uint64) {
	for i, o := range g.outstanding {
		if o.Device == device && o.Seq == id {
			g.outstanding = append(g.outstanding[:i], g.outstanding[i+1:]...)
			return
		}
	}
}

// Outstanding lists the disk requests whose completion is in no record.
func (g *Gate) Outstanding() []vmm.Output { return g.outstanding }
