package bootdisk

import (
	"slices"
	"strings"
)

// parseExtlinux reads the configuration of EXTLINUX or SYSLINUX. It returns nil if the default label starts no Linux.
func parseExtlinux(text string) *entry {
	type label struct {
		entry
		name string
	}
	var labels []*label
	byDefault, appended := "", "" // the latter for labels without a command line of their own
	for line := range strings.Lines(text) {
		key, value := keyValue(line)
		key = strings.ToLower(key)
		if key == "label" {
			labels = append(labels, &label{name: value, entry: entry{title: value, cmdline: appended}})
			continue
		}
		if len(labels) == 0 {
			switch key {
			case "default", "ontimeout":
				byDefault = value
			case "append":
				appended = value
			}
			continue
		}
		l := labels[len(labels)-1]
		switch key {
		case "menu":
			if word, _, _ := strings.Cut(value, " "); strings.EqualFold(word, "default") {
				byDefault = l.name
			}
		case "kernel", "linux":
			l.kernel = value
		case "initrd":
			l.initrds = strings.Split(value, ",")
		case "append":
			if l.cmdline = value; value == "-" {
				l.cmdline = ""
			}
		}
	}
	if len(labels) == 0 {
		return nil
	}
	l := labels[max(0, slices.IndexFunc(labels, func(l *label) bool { return l.name == byDefault }))]
	if l.kernel == "" {
		return nil
	}
	// The boot loader takes "initrd=" out of the command line; the kernel would ignore it.
	var words []string
	for _, word := range strings.Fields(l.cmdline) {
		if paths, ok := strings.CutPrefix(word, "initrd="); ok {
			l.initrds = strings.Split(paths, ",")
			continue
		}
		words = append(words, word)
	}
	l.cmdline = strings.Join(words, " ")
	return &l.entry
}
