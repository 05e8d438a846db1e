package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Stateful is what every part of the machine implements: one method that walks
// all of its state. The same walk saves, restores and digests, and names the
// fields of a divergence report, so that the four can never disagree.
type Stateful interface {
	// State visits every field in a fixed order. While restoring, an invalid
	// value is reported with Archive.Fail and must not be usable to panic later.
	State(a *Archive)
}

// Archive is a walk over state. Saving appends each field to a buffer,
// little-endian and without padding; restoring reads them back in the same order.
type Archive struct {
	buf     []byte
	off     int
	loading bool
	err     error
	section string
	fields  []Field
	naming  bool
	// plain is set while there is nothing to do but to append. It has a way of its own through U8 to U64: a
	// digest walks all of the state at every boundary.
	plain bool
}

// Field is a named stretch of a saved state.
type Field struct {
	Name       string
	Start, End int
}

// ErrState is wrapped by every failure to restore a saved state.
var ErrState = errors.New("saved state is not valid")

// NewSaver returns an archive that saves into buf[:0], growing it as needed.
func NewSaver(buf []byte) *Archive { return &Archive{buf: buf[:0], plain: true} }

// NewNamingSaver is NewSaver, and keeps the name of each field.
func NewNamingSaver() *Archive { return &Archive{naming: true} }

// NewLoader returns an archive that restores from data.
func NewLoader(data []byte) *Archive { return &Archive{buf: data, loading: true} }

// Reset makes a saver start again in the same buffer.
func (a *Archive) Reset() { a.buf, a.fields, a.section = a.buf[:0], a.fields[:0], "" }

// Loading reports whether the walk restores.
func (a *Archive) Loading() bool { return a.loading }

// Data is what has been saved so far.
func (a *Archive) Data() []byte { return a.buf }

// Fields lists what has been saved, for a naming saver.
func (a *Archive) Fields() []Field { return a.fields }

// Section sets the prefix of the names of the fields that follow.
func (a *Archive) Section(name string) { a.section = name }

// Fail makes a restore end with an error.
func (a *Archive) Fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf("%w: %s: %s", ErrState, a.section, fmt.Sprintf(format, args...))
	}
}

// Err is the first failure of a restore.
func (a *Archive) Err() error { return a.err }

// Finish is Err, and for a restore also checks that nothing is left over.
func (a *Archive) Finish() error {
	if a.loading && a.err == nil && a.off != len(a.buf) {
		a.Fail("%d bytes left over", len(a.buf)-a.off)
	}
	return a.err
}

// take returns the next n bytes of the buffer: ones to be overwritten while saving,
// the stored ones while restoring, nil after a failure.
func (a *Archive) take(name string, n int) []byte {
	if a.loading {
		if a.err != nil {
			return nil
		}
		if n > len(a.buf)-a.off {
			a.Fail("%s: state ends early", name)
			return nil
		}
		a.off += n
		return a.buf[a.off-n : a.off]
	}
	start := len(a.buf)
	a.buf = slices.Grow(a.buf, n)[:start+n]
	if a.naming {
		a.fields = append(a.fields, Field{a.section + "." + name, start, start + n})
	}
	return a.buf[start:]
}

// U8 visits an 8-bit field.
func (a *Archive) U8(name string, p *uint8) {
	if a.plain {
		a.buf = append(a.buf, *p)
		return
	}
	if b := a.take(name, 1); b == nil {
		return
	} else if a.loading {
		*p = b[0]
	} else {
		b[0] = *p
	}
}

// U16 visits a 16-bit field.
func (a *Archive) U16(name string, p *uint16) {
	if a.plain {
		a.buf = binary.LittleEndian.AppendUint16(a.buf, *p)
		return
	}
	if b := a.take(name, 2); b == nil {
		return
	} else if a.loading {
		*p = binary.LittleEndian.Uint16(b)
	} else {
		binary.LittleEndian.PutUint16(b, *p)
	}
}

// U32 visits a 32-bit field.
func (a *Archive) U32(name string, p *uint32) {
	if a.plain {
		a.buf = binary.LittleEndian.AppendUint32(a.buf, *p)
		return
	}
	if b := a.take(name, 4); b == nil {
		return
	} else if a.loading {
		*p = binary.LittleEndian.Uint32(b)
	} else {
		binary.LittleEndian.PutUint32(b, *p)
	}
}

// U64 visits a 64-bit field.
func (a *Archive) U64(name string, p *uint64) {
	if a.plain {
		a.buf = binary.LittleEndian.AppendUint64(a.buf, *p)
		return
	}
	if b := a.take(name, 8); b == nil {
		return
	} else if a.loading {
		*p = binary.LittleEndian.Uint64(b)
	} else {
		binary.LittleEndian.PutUint64(b, *p)
	}
}

// Bool visits a flag; a restored value other than 0 or 1 fails.
func (a *Archive) Bool(name string, p *bool) {
	var v uint8
	if *p {
		v = 1
	}
	a.U8(name, &v)
	if a.loading {
		if v > 1 {
			a.Fail("%s: %d is not a flag", name, v)
		}
		*p = v == 1
	}
}

// Fixed visits len(p) bytes.
func (a *Archive) Fixed(name string, p []byte) {
	if b := a.take(name, len(p)); b == nil {
		return
	} else if a.loading {
		copy(p, b)
	} else {
		copy(b, p)
	}
}

// Len visits the length of a list; a restored length over max fails and is 0.
func (a *Archive) Len(name string, n, max int) int {
	v := uint32(n)
	a.U32(name, &v)
	if a.loading && int64(v) > int64(max) {
		a.Fail("%s: length %d is over %d", name, v, max)
	}
	if a.err != nil {
		return 0
	}
	return int(v)
}

// Bytes visits a byte string of at most max bytes.
func (a *Archive) Bytes(name string, p *[]byte, max int) {
	n := a.Len(name, len(*p), max)
	if a.loading {
		*p = make([]byte, n)
	}
	a.Fixed(name, *p)
}
