package soft

// effect says what a micro-operation does with the arithmetic flags, and who can see them.
type effect uint8

const (
	// flagsSeen: it may read them, or leave the block so that others can.
	flagsSeen effect = iota
	// flagsKept: it does neither, and does not set them all.
	flagsKept
	// flagsSet: it does neither, and sets them all.
	flagsSet
)

// silence replaces micro-operations whose flags nobody can see, because later ones set them all before anything may
// read them or leave the block, by those that do not compute them. Between two of these instructions nothing
// stops but a boundary, for which there is loud.
func silence(ops []uop) {
	unseen := false
	for i := len(ops) - 1; i >= 0; i-- {
		u := &ops[i]
		if u.op >= numOpcodes {
			unseen = false
			continue
		}
		kind := effects[u.op]
		if q := quiets[u.op]; unseen && q != 0 {
			u.op, u.fn = q, fnNumber(q)
			kind = max(kind, effects[q])
		}
		switch kind {
		case flagsSet:
			unseen = true
		case flagsSeen:
			unseen = false
		}
	}
}

// louds are the micro-operations that quiet ones were.
var louds = func() (l [numOpcodes]opcode) {
	for loud, q := range quiets {
		if q != 0 {
			l[q] = opcode(loud)
		}
	}
	return l
}()

// loud executes a micro-operation with all its flags.
func (c *CPU) loud(u *uop) bool {
	if u.op < numOpcodes && louds[u.op] != 0 {
		return micro[louds[u.op]].fn(c, u)
	}
	return u.do(c)
}
