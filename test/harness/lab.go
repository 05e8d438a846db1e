package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"ftvm/guests/ledger"
)

// BinaryEnv names the environment variable with the path of the ftvm to use; without it, or if it is to have build tags, one is built.
const BinaryEnv = "FTVM_BIN"

// Lab is a directory with an ftvm binary, and the processes that run there.
type Lab struct {
	bin, dir string
	cpus     map[string]int

	mu    sync.Mutex
	procs []*Process
}

// Open makes a lab, in a new directory for temporary files, and builds ftvm from the module in
// which the caller was started, with the build tags that are given.
func Open(tags ...string) (*Lab, error) {
	dir, err := os.MkdirTemp("", "ftvm-")
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: dir, bin: os.Getenv(BinaryEnv)}
	if l.bin == "" || len(tags) > 0 {
		l.bin = l.Path("ftvm")
		build := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", l.bin, "ftvm/cmd/ftvm")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("building ftvm: %w\n%s", err, out), l.Close())
		}
	}
	return l, nil
}

// Main runs a package's tests, with a lab in *lab where there is /dev/kvm, and returns their exit
// code.
func Main(lab **Lab, run func() int) int {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return run()
	}
	return WithLab(lab, run)
}

// WithLab runs a package's tests with a lab in *lab, and returns their exit code.
func WithLab(lab **Lab, run func() int) int {
	var err error
	if *lab, err = Open(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := run()
	if err := (*lab).Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// Close kills what still runs and removes the directory.
func (l *Lab) Close() error {
	l.KillAll()
	return os.RemoveAll(l.dir)
}

// Pin makes processes that are started from now on under one of these names run on one CPU each, as if each had
// a host of its own with that CPU.
func (l *Lab) Pin(cpus map[string]int) { l.cpus = cpus }

// Binary is the path of the ftvm command.
func (l *Lab) Binary() string { return l.bin }

// Path is the path of a file in the lab's directory.
func (l *Lab) Path(name string) string { return filepath.Join(l.dir, name) }

// KillAll kills every process that still runs, and waits for their ends.
func (l *Lab) KillAll() {
	l.mu.Lock()
	procs := l.procs
	l.procs = nil
	l.mu.Unlock()
	for _, p := range procs {
		p.Kill()
		<-p.ended
	}
}

// Result is what became of a command that ends by itself.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs ftvm with args to its end.
func (l *Lab) Run(ctx context.Context, args ...string) (Result, error) {
	var out, msg bytes.Buffer
	cmd := exec.CommandContext(ctx, l.bin, args...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &out, &msg, dieWithUs()
	err := cmd.Run()
	r := Result{out.String(), msg.String(), cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		err = nil
	}
	if err != nil {
		return r, fmt.Errorf("ftvm %q: %w\n%s", args, err, r.Stderr)
	}
	return r, nil
}

// CreateDisk makes a disk image by `ftvm disk create`; size is as for --size.
func (l *Lab) CreateDisk(ctx context.Context, path, size string) error {
	r, err := l.Run(ctx, "disk", "create", path, "--size", size)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("ftvm disk create: exit code %d: %s", r.Code, r.Stderr)
	}
	return err
}

// Verify has `ftvm ledger verify --json` look at an image. An image that is not sound is an error.
func (l *Lab) Verify(ctx context.Context, image string) (s ledger.Summary, err error) {
	r, err := l.Run(ctx, "ledger", "verify", "--json", image)
	switch {
	case err != nil:
		return s, err
	case r.Code != 0:
		return s, errors.New(r.Stderr)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		return s, fmt.Errorf("ftvm ledger verify --json: %w in %q", err, r.Stdout)
	}
	return s, nil
}
