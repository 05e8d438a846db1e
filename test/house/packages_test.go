package house

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// tags are the sets of build tags that the module is looked at with.
var tags = []string{"", "simfault"}

// pkg is one of our packages, under one set of tags.
type pkg struct {
	name        string // import path without the module: "vmm/kvm"
	tags        string
	files       []file // with tests
	imports     []string
	testImports []string
	fset        *token.FileSet
	export      map[string]string // import path -> file with export data
}

// file is a parsed source file.
type file struct {
	name string // relative to the package
	test bool
	*ast.File
}

// listed is what we want to know of `go list -json`.
type listed struct {
	ImportPath, Dir, Export                      string
	GoFiles, CgoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports           []string
	Module                                       *struct{ Path string }
}

// packages returns all packages of the module; one that has other files under some tags is
// there once more for these.
func packages(t *testing.T) []*pkg {
	t.Helper()
	all, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 {
		t.Fatalf("go list found %d packages, want at least vmm and this one", len(all))
	}
	return all
}

var load = sync.OnceValues(func() (all []*pkg, err error) {
	seen := map[string]bool{}
	for _, tag := range tags {
		ps, err := list(tag)
		if err != nil {
			return nil, err
		}
		for _, p := range ps {
			key := p.name
			for _, f := range p.files {
				key += " " + f.name
			}
			if !seen[key] {
				seen[key] = true
				all = append(all, p)
			}
		}
	}
	return all, nil
})

// list runs go list and parses what it finds. -e: a package that does not compile is the
// compiler's to report; its imports are still looked at.
func list(tag string) (all []*pkg, err error) {
	cmd := exec.Command("go", "list", "-e", "-tags", tag, "-export", "-deps",
		"-json=ImportPath,Dir,Export,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports,Module", "./...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	export := map[string]string{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		export[l.ImportPath] = l.Export
		if l.Module == nil || l.Module.Path != module {
			continue
		}
		p := &pkg{
			name: strings.TrimPrefix(l.ImportPath, module+"/"), tags: tag, imports: l.Imports,
			testImports: append(l.TestImports, l.XTestImports...), fset: token.NewFileSet(), export: export,
		}
		for i, names := range [][]string{l.GoFiles, l.CgoFiles, l.TestGoFiles, l.XTestGoFiles} {
			for _, name := range names {
				f, err := parser.ParseFile(p.fset, filepath.Join(l.Dir, name), nil, parser.ParseComments)
				if err != nil {
					return nil, err
				}
				p.files = append(p.files, file{name, i >= 2, f})
			}
		}
		all = append(all, p)
	}
}

// mapRanges returns the places in p, tests excepted, that range over a map.
func (p *pkg) mapRanges() (places []token.Position, err error) {
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(p.export[path]) }
	conf := types.Config{Importer: importer.ForCompiler(p.fset, "gc", lookup)}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	var files []*ast.File
	for _, f := range p.files {
		if !f.test {
			files = append(files, f.File)
		}
	}
	if _, err := conf.Check(p.name, p.fset, files, info); err != nil {
		return nil, err
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if r, ok := n.(*ast.RangeStmt); ok {
				if _, isMap := info.TypeOf(r.X).Underlying().(*types.Map); isMap {
					places = append(places, p.fset.Position(r.Pos()))
				}
			}
			return true
		})
	}
	return places, nil
}
