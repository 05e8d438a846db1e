package house

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// module is the first part of every import path of ours.
const module = "ftvm"

// arrows says what each package may import of ours: cmd -> replica -> epoch -> vmm <- devices,
// with proto at the bottom. An entry is about the package and what lies below it, up to a
// longer entry; within an entry imports are free. "*" is everything but cmd and test. It is
// about what the command is built of: a package's own tests may import what they need, such
// as test/conformance.
var arrows = map[string][]string{
	"proto":        {},
	"vmm":          {},
	"vmm/boot":     {"vmm"},
	"vmm/kvm":      {"vmm"},
	"vmm/soft":     {"vmm"},
	"devices":      {"vmm"},
	"epoch":        {"vmm", "proto"},
	"replica":      {"epoch", "vmm", "proto"},
	"replica/pair": {"replica", "epoch", "vmm", "proto", "host"},
	"host":         {"vmm"},
	"guests":       {},
	"cmd":          {"*"},
	"test":         {"*"},
}

// insideDoor lists the packages that are, or decide, what every replica must do alike.
var insideDoor = []string{"vmm", "vmm/soft", "devices", "epoch", "replica"}

// doorImports is what these may import from outside the module. Nothing here can tell one
// replica from another: no clock, file, socket, random source, lock or goroutine; nor
// maps and reflect, which walk a map in any order.
var doorImports = []string{
	"bufio", "bytes", "cmp", "container/heap", "container/list", "container/ring", "crypto/sha256",
	"encoding", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt",
	"hash", "hash/adler32", "hash/crc32", "hash/crc64", "hash/fnv", "io", "iter",
	"math", "math/big", "math/bits", "slices", "sort", "strconv", "strings", "unicode/utf8", "unsafe",
	"github.com/cespare/xxhash/v2",
	"google.golang.org/protobuf/encoding/protodelim", "google.golang.org/protobuf/encoding/protowire",
	"google.golang.org/protobuf/proto",
}

// doorExceptions is what a single package inside the door may import as well.
var doorExceptions = map[string][]string{
	// Engine.Kick may come from any goroutine. It decides how soon Run returns, which the primary puts
	// into its record, and never what the guest does.
	"vmm/soft": {"sync/atomic"},
}

// onlyFrom names the packages that alone may import a foreign module.
var onlyFrom = map[string][]string{
	"github.com/bobuhiro11/gokvm": {"vmm/kvm", "vmm/boot"},
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		from := entry(p.name)
		if from == "" {
			t.Errorf("package %s has no entry in the table of arrows: give it one", p.name)
			continue
		}
		for _, imported := range p.imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if !mayImport(from, entry(to)) {
				t.Errorf("%s imports %s; it may import only %q", p.name, to, arrows[from])
			}
		}
		for _, imported := range slices.Concat(p.imports, p.testImports) {
			for foreign, users := range onlyFrom {
				if within(imported, foreign) && !slices.Contains(users, p.name) {
					t.Errorf("%s imports %s; only %q may", p.name, imported, users)
				}
			}
		}
	}
}

func TestDoorImports(t *testing.T) {
	for _, p := range packages(t) {
		if !p.insideDoor() {
			continue
		}
		for _, imported := range p.imports {
			if within(imported, module) || slices.Contains(doorImports, imported) ||
				slices.Contains(doorExceptions[p.name], imported) {
				continue
			}
			t.Errorf("%s is inside the door and imports %s; if that is the same on every replica "+
				"at every time, add it to doorImports", p.name, imported)
		}
	}
}

// insideDoor reports whether p is one of the packages inside the door.
func (p *pkg) insideDoor() bool { return slices.Contains(insideDoor, entry(p.name)) }

// mayImport reports whether packages of entry from may import packages of entry to.
func mayImport(from, to string) bool {
	if from == to || slices.Contains(arrows[from], to) {
		return true
	}
	return slices.Contains(arrows[from], "*") && to != "cmd" && to != "test"
}

// entry is the longest entry of arrows that name lies in, or "" if there is none.
func entry(name string) string {
	for ; name != "."; name = path.Dir(name) {
		if _, ok := arrows[name]; ok {
			return name
		}
	}
	return ""
}

// within reports whether name is dir or lies below it.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}
