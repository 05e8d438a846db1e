package main

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/term"

	"ftvm/guests/ledger"
	"ftvm/test/harness"
)

// screen is where the demonstration is shown, by several goroutines.
type screen struct {
	mu     sync.Mutex
	out    *os.File
	colour bool
	last   uint64 // the newest transaction that was shown
}

// newScreen makes a screen that uses colours if out is a terminal (see no-color.org for the exception).
func newScreen(out *os.File) *screen {
	return &screen{out: out, colour: term.IsTerminal(int(out.Fd())) && os.Getenv("NO_COLOR") == ""}
}

// style is a parameter of SGR (ECMA-48, 8.3.117).
type style string

const (
	plain style = "0"
	bold  style = "1"
	faint style = "2"
	red   style = "1;31"
	green style = "1;32"
)

// of maps a replica to the style of its console.
var of = map[string]style{"primary": "36", "backup": "33"}

func (s *screen) line(st style, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.colour && st != plain {
		text = "\x1b[" + string(st) + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(s.out, text)
}

func (s *screen) title(text string) { s.line(bold, text) }
func (s *screen) step(text string)  { s.line(bold, "\n==> "+text) }
func (s *screen) say(text string)   { s.line(plain, text) }

func (s *screen) command(p *harness.Process) { s.say("  $ " + shortened(p)) }

func (s *screen) message(name, text string) {
	s.line(faint, fmt.Sprintf("  %-7s   %s", name, text))
}

// console shows a line that the guest printed, and marks a transaction that was shown before.
func (s *screen) console(name, text string) {
	s.mu.Lock()
	if seq, _, ok := ledger.ParseTxn(text); ok {
		if seq <= s.last {
			text += "   (again: the dead primary could not say that this line had left)"
		}
		s.last = max(s.last, seq)
	}
	s.mu.Unlock()
	s.line(of[name], fmt.Sprintf("  %-7s | %s", name, text))
}

func (s *screen) passed(text string) { s.line(green, "\nPASS: "+text) }

func (s *screen) failed(err error) { s.line(red, "\nFAIL: "+err.Error()) }
