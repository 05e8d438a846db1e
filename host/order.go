package host

import "ftvm/vmm"

// order says when a disk request may begin, so that several can be under way and the outcome is as if they had been done one
// after the other in the order of submission:
//
//   - Of two requests that touch the same bytes, one of them to change them, the later begins when the earlier is complete.
//   - A flush begins when every change submitted before it is complete, so it covers them all. A disk must cover only those
//     that it reported complete (virtio 1.2, 5.2.6.2), which the guest has seen. But what the guest has seen is decided by the
//     primary's disk; a replica's own may be behind, and must not promise less.
//   - Nothing waits for a flush: it promises nothing about what comes after it.
//
// Its caller locks.
type order struct {
	unfinished []*request // in any order
}

// request is a disk request from its submission to its completion.
type request struct {
	vmm.Output
	begin, end uint64     // what it touches; empty if that is not on the disk: then it fails
	at         int        // its index in unfinished
	blockers   int        // how many must complete before it may begin
	blocked    []*request // those that wait for it

	// Where a request is done in parts: bytes that are done, how many are being done, and what a read returned so far.
	progress, part uint64
	data           []byte

	// At a server that may lose what it acknowledged: how many changes a flush covers, and how many losses have been
	// told to whoever submitted the request or hears of its end. See NBD.
	covers, told uint64
}

// add takes a request to a disk of size bytes. It may begin at once if it has no blockers.
func (o *order) add(out vmm.Output, size uint64) *request {
	r := &request{Output: out, at: len(o.unfinished)}
	if out.Op == vmm.DiskWrite {
		r.Length = uint64(len(out.Data))
	}
	if out.Op != vmm.DiskFlush && r.inside(size) {
		r.begin, r.end = r.Offset, r.Offset+r.Length
	}
	for _, earlier := range o.unfinished {
		if r.mustFollow(earlier) {
			earlier.blocked = append(earlier.blocked, r)
			r.blockers++
		}
	}
	o.unfinished = append(o.unfinished, r)
	return r
}

// finish ends a request and appends to dst those that may begin now.
func (o *order) finish(r *request, dst []*request) []*request {
	last := len(o.unfinished) - 1
	o.unfinished[r.at] = o.unfinished[last]
	o.unfinished[r.at].at = r.at
	o.unfinished[last] = nil
	o.unfinished = o.unfinished[:last]
	for _, b := range r.blocked {
		if b.blockers--; b.blockers == 0 {
			dst = append(dst, b)
		}
	}
	return dst
}

func (r *request) inside(size uint64) bool {
	return r.Offset <= size && r.Length <= size-r.Offset
}

func (r *request) changes() bool { return r.Op != vmm.DiskRead && r.Op != vmm.DiskFlush }

func (r *request) mustFollow(earlier *request) bool {
	if r.Op == vmm.DiskFlush {
		return earlier.changes()
	}
	return (r.changes() || earlier.changes()) && r.begin < earlier.end && earlier.begin < r.end
}
