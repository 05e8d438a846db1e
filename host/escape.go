package host

// escapeKey is Ctrl-A, as on QEMU's serial console.
const escapeKey = 'A' & 0x1f

const escapeHelp = `
Ctrl-A x       leave ftvm
Ctrl-A Ctrl-A  send Ctrl-A to the guest
Ctrl-A h       this help
`

// action is what a key after the escape key asks ftvm to do.
type action uint8

const (
	actNone action = iota
	actSend        // send the key to the guest
	actQuit
	actHelp
)

// escapeKeys says what each key after the escape key does; others do nothing.
var escapeKeys = [256]action{
	escapeKey: actSend,
	'x':       actQuit, 'X': actQuit,
	'h': actHelp, 'H': actHelp, '?': actHelp,
}

// escape takes the escape sequences out of what is typed.
type escape struct {
	open bool // the last key was the escape key
}

// scan returns the keys of p that are for the guest, in p's own memory, and what ftvm is
// asked to do.
func (e *escape) scan(p []byte) (keys []byte, asked []action) {
	keys = p[:0]
	for _, k := range p {
		a := actSend
		switch {
		case e.open:
			e.open, a = false, escapeKeys[k]
		case k == escapeKey:
			e.open, a = true, actNone
		}
		switch a {
		case actNone:
		case actSend:
			keys = append(keys, k)
		default:
			asked = append(asked, a)
		}
	}
	return keys, asked
}
