package bootdisk

import (
	"cmp"
	"fmt"
	"path"
	"strings"
)

// blsEntry is a file of the Boot Loader Specification, type 1.
type blsEntry struct {
	entry
	id               string // the file's name without .conf
	version, sortKey string
	machine          string
	options          []string // lines of them, which may name variables: expand makes the command line
}

// parseBLS reads one.
func parseBLS(id, text string) *blsEntry {
	e := &blsEntry{id: id}
	for line := range strings.Lines(text) {
		key, value := keyValue(line)
		switch key {
		case "title":
			e.title = value
		case "version":
			e.version = value
		case "sort-key":
			e.sortKey = value
		case "machine-id":
			e.machine = value
		case "linux":
			e.kernel = value
		case "initrd":
			for _, path := range strings.Fields(value) {
				if !strings.HasPrefix(path, "$") { // for what is not there, as a rule
					e.initrds = append(e.initrds, path)
				}
			}
		case "options":
			e.options = append(e.options, value)
		}
	}
	return e
}

// expand makes the command line; variables, which GRUB allows there, are taken from env.
func (e *blsEntry) expand(env map[string]string) error {
	var b strings.Builder
	for _, line := range e.options {
		for _, w := range strings.Fields(line) {
			if name, ok := strings.CutPrefix(w, "$"); ok {
				w = env[name]
			}
			if b.Len()+len(w) > maxConfig {
				return fmt.Errorf("%w: the command line is longer than %d bytes", errDamaged, maxConfig)
			}
			b.WriteString(w)
			b.WriteByte(' ')
		}
	}
	e.cmdline = strings.Join(strings.Fields(b.String()), " ")
	return nil
}

// keyValue takes a line of a boot loader's file apart: its first word, and the rest.
func keyValue(line string) (key, value string) {
	key, value, _ = strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), " ")
	return key, strings.TrimSpace(value)
}

// compareBLS orders entries as a menu shows them: those with a sort key first, newer versions before older ones.
func compareBLS(a, b *blsEntry) int {
	if (a.sortKey == "") != (b.sortKey == "") {
		return cmp.Compare(b.sortKey, a.sortKey)
	}
	if a.sortKey != "" {
		if c := cmp.Or(cmp.Compare(a.sortKey, b.sortKey), cmp.Compare(a.machine, b.machine), compareVersions(b.version, a.version)); c != 0 {
			return c
		}
	}
	return compareVersions(b.id, a.id)
}

// blsDefault is the pattern in loader.conf that the default entry's file name matches, or "".
func blsDefault(loaderConf string) string {
	for line := range strings.Lines(loaderConf) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == "default" {
			return strings.TrimSuffix(words[1], ".conf")
		}
	}
	return ""
}

// chooseBLS returns the first entry that matches one of the patterns, or the first, or nil. They are in order.
func chooseBLS(entries []*blsEntry, patterns ...string) *blsEntry {
	for _, pattern := range patterns {
		for _, e := range entries {
			if ok, err := path.Match(pattern, e.id); ok && err == nil {
				return e
			}
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return entries[0]
}

// compareVersions compares texts in which numbers count as numbers, so that 6.10 is more than 6.9; "~" makes less of what
// it follows (UAPI.10 Version Format).
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		if c := cmp.Compare(rank(a), rank(b)); c != 0 {
			return c
		}
		if isDigit(a) {
			var x, y string
			x, a = digits(a)
			y, b = digits(b)
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			continue
		}
		if c := cmp.Compare(a[0], b[0]); c != 0 {
			return c
		}
		a, b = a[1:], b[1:]
	}
	return 0
}

// rank orders what may stand at the same place in two versions.
func rank(s string) int {
	switch {
	case strings.HasPrefix(s, "~"):
		return 0
	case s == "":
		return 1
	case isDigit(s):
		return 3
	}
	return 2
}

func isDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

// digits cuts the number off that s begins with, without its leading zeros.
func digits(s string) (number, rest string) {
	n := 0
	for n < len(s) && isDigit(s[n:]) {
		n++
	}
	return strings.TrimLeft(s[:n], "0"), s[n:]
}
