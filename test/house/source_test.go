package house

import (
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryPackageHasADoc(t *testing.T) {
	for _, p := range packages(t) {
		i := slices.IndexFunc(p.files, func(f file) bool { return f.name == "doc.go" })
		if i < 0 {
			t.Errorf("%s has no doc.go", p.name)
		} else if p.files[i].Doc == nil {
			t.Errorf("%s/doc.go does not document the package", p.name)
		}
	}
}

func TestUnsafe(t *testing.T) {
	named := regexp.MustCompile(`_unsafe(_[a-z0-9]+)?(_test)?\.go$`)
	for _, p := range packages(t) {
		for _, f := range p.files {
			for _, i := range f.Imports {
				switch {
				case i.Path.Value == `"C"`:
					t.Errorf("%s: cgo is not used here", p.fset.Position(i.Pos()))
				case i.Path.Value == `"unsafe"` && !named.MatchString(f.name) && !ast.IsGenerated(f.File):
					t.Errorf("%s: unsafe belongs in a file whose name ends in _unsafe.go", p.fset.Position(i.Pos()))
				}
			}
		}
	}
}

func TestNothingIsLeftToDo(t *testing.T) {
	mark := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	for _, p := range packages(t) {
		for _, f := range p.files {
			for _, group := range f.Comments {
				for _, c := range group.List {
					if mark.MatchString(c.Text) && !strings.Contains(c.Text, "reason:") {
						t.Errorf("%s: %s: do it, or open an issue, or say \"reason:\"", p.fset.Position(c.Pos()), c.Text)
					}
				}
			}
		}
	}
}

// TestDoorIsSequential: a goroutine, a select among ready channels and a walk over a map may
// go one way on one replica and another way on the next.
func TestDoorIsSequential(t *testing.T) {
	for _, p := range packages(t) {
		if !p.insideDoor() {
			continue
		}
		for _, f := range p.files {
			if f.test {
				continue
			}
			ast.Inspect(f.File, func(n ast.Node) bool {
				switch n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s: go statement inside the door", p.fset.Position(n.Pos()))
				case *ast.SelectStmt:
					t.Errorf("%s: select inside the door", p.fset.Position(n.Pos()))
				}
				return true
			})
		}
		places, err := p.mapRanges()
		if err != nil {
			t.Errorf("package %s (tags %q): %v", p.name, p.tags, err)
		}
		for _, at := range places {
			t.Errorf("%s: range over a map inside the door", at)
		}
	}
}
