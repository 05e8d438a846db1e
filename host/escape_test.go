package host

import (
	"slices"
	"testing"
)

func TestEscape(t *testing.T) {
	for _, c := range []struct {
		typed []string // one element for each read
		keys  string
		asked []action
	}{
		{typed: []string{"sum\r"}, keys: "sum\r"},
		{typed: []string{"x\x03\x1a\x04\x00\xff"}, keys: "x\x03\x1a\x04\x00\xff"},
		{typed: []string{"a\x01xb"}, keys: "ab", asked: []action{actQuit}},
		{typed: []string{"\x01", "x"}, asked: []action{actQuit}},
		{typed: []string{"\x01", "", "X"}, asked: []action{actQuit}},
		{typed: []string{"\x01\x01x"}, keys: "\x01x"},
		{typed: []string{"\x01\x01\x01x"}, keys: "\x01", asked: []action{actQuit}},
		{typed: []string{"\x01h\x01?\x01H."}, keys: ".", asked: []action{actHelp, actHelp, actHelp}},
		{typed: []string{"\x01zx"}, keys: "x"},
		{typed: []string{"\x01\xffx"}, keys: "x"},
		{typed: []string{"\x01"}},
	} {
		var e escape
		var keys []byte
		var asked []action
		for _, p := range c.typed {
			k, a := e.scan([]byte(p))
			keys, asked = append(keys, k...), append(asked, a...)
		}
		if string(keys) != c.keys || !slices.Equal(asked, c.asked) {
			t.Errorf("%q: got %q and %v, want %q and %v", c.typed, keys, asked, c.keys, c.asked)
		}
	}
}
