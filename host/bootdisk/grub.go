package bootdisk

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// An entry is one way to start a system, as a boot loader's file has it.
type entry struct {
	title   string
	kernel  string
	initrds []string // one after the other they are the initial RAM disk
	cmdline string
}

// grubItem is an entry of GRUB's menu, or a submenu.
type grubItem struct {
	title, id string
	items     []*grubItem
	linux     []string // the words after the first command "linux"
	initrd    []string
}

// parseGrub reads grub.cfg. env is what grubenv holds. It returns nil if the default entry starts no Linux.
func parseGrub(text string, env map[string]string) (*entry, error) {
	s := grubScript{text: text, vars: map[string]string{}}
	for name, value := range env {
		s.vars[name] = value
	}
	root := &grubItem{}
	open := []*grubItem{root} // the blocks that we are in
	for s.more() {
		words, opens := s.command()
		at := open[len(open)-1]
		item := at
		if len(words) > 0 {
			switch args := words[1:]; words[0] {
			case "}":
				open = open[:max(len(open)-1, 1)]
				continue
			case "menuentry", "submenu":
				item = newGrubItem(args)
				if opens {
					at.items = append(at.items, item)
				}
			case "set":
				s.assign(args)
			case "linux", "linux16", "linuxefi":
				if at.linux == nil {
					at.linux = args
				}
			case "initrd", "initrd16", "initrdefi":
				if at.initrd == nil {
					at.initrd = args
				}
			default:
				s.assign(words[:1])
			}
		}
		if opens {
			open = append(open, item)
		}
	}
	if s.expanded > maxConfig {
		return nil, fmt.Errorf("%w: its variables stand for more than %d bytes", errDamaged, maxConfig)
	}
	item := root.choose(s.vars["default"])
	if len(item.linux) == 0 {
		return nil, nil
	}
	e := &entry{title: item.title, kernel: grubPath(item.linux[0])}
	for _, path := range item.initrd {
		e.initrds = append(e.initrds, grubPath(path))
	}
	args := slices.Clone(item.linux[1:])
	for i, arg := range args {
		if strings.ContainsAny(arg, " \t") {
			args[i] = `"` + arg + `"`
		}
	}
	e.cmdline = strings.Join(args, " ")
	return e, nil
}

// newGrubItem makes an item of what stands between "menuentry" and "{".
func newGrubItem(args []string) *grubItem {
	item := &grubItem{}
	for i, arg := range args {
		id, joined := strings.CutPrefix(arg, "--id=")
		switch {
		case joined:
			item.id = id
		case arg == "--id" && i+1 < len(args):
			item.id = args[i+1]
		case i == 0:
			item.title = arg
		}
	}
	return item
}

// choose follows what the variable "default" says: numbers, titles or identifiers, of submenus first, with ">" between
// them. What it does not say, or says of nothing that is there, is the first.
func (m *grubItem) choose(which string) *grubItem {
	words := strings.Split(which, ">")
	for len(m.items) > 0 {
		i := 0
		if len(words) > 0 {
			name := words[0]
			words = words[1:]
			if n, err := strconv.Atoi(name); err == nil {
				i = n
			} else {
				i = slices.IndexFunc(m.items, func(item *grubItem) bool { return item.id == name || item.title == name })
			}
		}
		if i < 0 || i >= len(m.items) {
			i = 0
		}
		m = m.items[i]
	}
	return m
}

// grubPath strips the name of a device, "(hd0,1)/vmlinuz": where the file is, its file system's other files tell.
func grubPath(path string) string {
	if i := strings.IndexByte(path, ')'); i >= 0 && strings.HasPrefix(path, "(") {
		return path[i+1:]
	}
	return path
}

// grubScript splits a script into commands and their words (GRUB manual, "Shell-like scripting").
type grubScript struct {
	text     string
	vars     map[string]string
	expanded int // bytes that variables stood for: a few that are made of each other can stand for any number
}

func (s *grubScript) more() bool { return s.text != "" && s.expanded <= maxConfig }

// assign carries out NAME=VALUE, unless the value is empty.
func (s *grubScript) assign(args []string) {
	if len(args) == 1 {
		if name, value, ok := strings.Cut(args[0], "="); ok && value != "" {
			s.vars[name] = value
		}
	}
}

// command reads up to the end of a command. opens is set if a block begins there; "}" is a command of its own.
func (s *grubScript) command() (words []string, opens bool) {
	for s.text != "" {
		switch c := s.text[0]; {
		case c == '\n' || c == ';':
			s.text = s.text[1:]
			return words, false
		case c == ' ' || c == '\t' || c == '\r':
			s.text = s.text[1:]
		case strings.HasPrefix(s.text, "\\\n"): // the line goes on
			s.text = s.text[2:]
		case c == '{':
			s.text = s.text[1:]
			return words, true
		case c == '}':
			if len(words) == 0 {
				s.text = s.text[1:]
				words = []string{"}"}
			}
			return words, false
		case c == '#':
			if i := strings.IndexByte(s.text, '\n'); i >= 0 {
				s.text = s.text[i:]
			} else {
				s.text = ""
			}
		default:
			words = append(words, s.word())
		}
	}
	return words, false
}

// word reads one word. A variable that is not set is nothing.
func (s *grubScript) word() string {
	var b strings.Builder
	quote := byte(0)
	for s.text != "" {
		c := s.text[0]
		switch {
		case quote == 0 && strings.IndexByte(" \t\r\n;", c) >= 0:
			return b.String()
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == '\\' && quote != '\'' && len(s.text) > 1:
			s.text = s.text[1:]
			if s.text[0] != '\n' { // else the line goes on
				b.WriteByte(s.text[0])
			}
		case c == '$' && quote != '\'':
			value := s.variable()
			if s.expanded += len(value); s.expanded > maxConfig {
				return b.String()
			}
			b.WriteString(value)
			continue
		default:
			b.WriteByte(c)
		}
		s.text = s.text[1:]
	}
	return b.String()
}

// variable reads $NAME or ${NAME}, and returns its value.
func (s *grubScript) variable() string {
	s.text = s.text[1:]
	if rest, ok := strings.CutPrefix(s.text, "{"); ok {
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			after = ""
		}
		s.text = after
		return s.vars[name]
	}
	n := 0
	for n < len(s.text) && isNameByte(s.text[n]) {
		n++
	}
	name := s.text[:n]
	s.text = s.text[n:]
	return s.vars[name]
}

func isNameByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// parseGrubenv reads an environment block (GRUB manual, "The GRUB environment block").
func parseGrubenv(text string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok && !strings.HasPrefix(line, "#") {
			env[name] = strings.ReplaceAll(value, `\\`, `\`)
		}
	}
	// That one would hold for the next boot only, and GRUB would then remove it.
	delete(env, "next_entry")
	return env
}
