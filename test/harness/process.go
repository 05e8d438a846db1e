package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/guests/ledger"
	"ftvm/replica/pair"
)

// Process is an ftvm, or another program, that runs or ran.
type Process struct {
	// Name tells people which one it is.
	Name string
	// Console is what the guest printed: its standard output.
	Console *Stream
	// Messages is what the program itself said: its standard error.
	Messages *Stream

	cmd   *exec.Cmd
	input io.WriteCloser
	stats string
	ended chan struct{} // closed when it has ended and its streams are read to their ends
}

var started atomic.Uint64 // numbers the files of statistics

// dieWithUs makes the kernel kill a child when we die, however we do.
func dieWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL} }

// Start starts a replica with args, and with --stats, on the CPU that Pin gave it.
func (l *Lab) Start(name string, args ...string) (*Process, error) {
	stats := l.Path(fmt.Sprintf("stats-%d", started.Add(1)))
	p, err := l.StartProgram(name, l.bin, append(slices.Clone(args), "--stats", stats)...)
	if err == nil {
		p.stats = stats
	}
	return p, err
}

// StartProgram starts any program in the same way, such as another VMM to compare with.
func (l *Lab) StartProgram(name, path string, args ...string) (*Process, error) {
	p := &Process{Name: name, Console: newStream(), Messages: newStream(), ended: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir = l.dir // what it writes beside its work, such as a report of a divergence
	p.cmd.SysProcAttr = dieWithUs()
	start := p.start
	if cpu, ok := l.cpus[name]; ok {
		start = func() error { return pinned(cpu, p.start) }
	}
	if err := start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p, err)
	}
	l.mu.Lock()
	l.procs = append(l.procs, p)
	l.mu.Unlock()
	return p, nil
}

// pinned calls start on one CPU: the process that it starts stays there.
func pinned(cpu int, start func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("sched_setaffinity to CPU %d: %w", cpu, err)
	}
	defer func() { err = errors.Join(err, unix.SchedSetaffinity(0, &before)) }()
	return start()
}

func (p *Process) start() (err error) {
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	console, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	messages, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	read := make(chan struct{})
	go func() { p.Messages.fill(messages); close(read) }()
	go func() {
		p.Console.fill(console)
		<-read
		_ = p.cmd.Wait() // the state tells it all
		close(p.ended)
	}()
	return nil
}

// Args is the command that this process runs.
func (p *Process) Args() []string { return p.cmd.Args }

func (p *Process) String() string { return strings.Join(p.cmd.Args, " ") }

// Killed is the exit code of a process that a signal ended.
const Killed = -1

// Kill kills the process by SIGKILL, if it still runs, and returns the time just before that. WaitFor(ctx, Killed) tells whether it did.
func (p *Process) Kill() time.Time {
	at := time.Now()
	_ = p.cmd.Process.Kill() // only fails if it has ended
	return at
}

// Signal sends sig.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("%s to %s: %w", sig, p.Name, err)
	}
	return nil
}

// Type types a line at the console.
func (p *Process) Type(line string) error {
	_, err := io.WriteString(p.input, line+"\n")
	return err
}

// Wait waits for the end and returns the exit code, which may be Killed.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("awaiting the end of %s: %w", p.Name, ctx.Err())
	}
}

// WaitFor waits for the end; an exit code other than code is an error.
func (p *Process) WaitFor(ctx context.Context, code int) error {
	got, err := p.Wait(ctx)
	if err == nil && got != code {
		err = fmt.Errorf("%s ended with exit code %d, want %d", p.Name, got, code)
	}
	return err
}

// Stats is the report that the process, which has ended by itself, wrote to its --stats file.
func (p *Process) Stats() (r pair.Report, err error) {
	data, err := os.ReadFile(p.stats)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		err = fmt.Errorf("statistics of %s: %w", p.Name, err)
	}
	return r, err
}

// AwaitTxn waits until the console showed transaction seq or a later one.
func (p *Process) AwaitTxn(ctx context.Context, seq uint64) (Line, error) {
	l, err := p.Console.Await(ctx, 0, func(l Line) bool {
		n, _, ok := ledger.ParseTxn(l.Text)
		return ok && n >= seq
	})
	if err != nil {
		err = fmt.Errorf("awaiting transaction %d of %s: %w", seq, p.Name, err)
	}
	return l, err
}

// Memory is how much memory of its own the process, which runs, has resident, in bytes: without its guest's, which alone
// of what it has is not given to forked children (proc_pid_smaps(5), VmFlags, dc).
func (p *Process) Memory() (bytes uint64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("the memory of %s: %w", p.Name, err)
	}
	var kib uint64
	for line := range strings.Lines(string(data)) {
		switch w := strings.Fields(line); w[0] {
		case "Rss:":
			if kib, err = strconv.ParseUint(w[1], 10, 64); err != nil {
				return 0, fmt.Errorf("the memory of %s: %w", p.Name, err)
			}
		case "VmFlags:":
			if !slices.Contains(w, "dc") {
				bytes += kib << 10
			}
		}
	}
	return bytes, nil
}

// CPUTime is how long all threads of the process, which runs, were on a CPU.
func (p *Process) CPUTime() (time.Duration, error) {
	const allThreads = 2 // CPUCLOCK_SCHED, in what clock_getcpuclockid(3) makes of a process
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|allThreads), &t); err != nil {
		return 0, fmt.Errorf("the CPU clock of %s: %w", p.Name, err)
	}
	return time.Duration(t.Nano()), nil
}

// Transcript is all that can be said about a process, for the report of a failure. If it still runs, it is told to end with
// what its goroutines do.
func (p *Process) Transcript() string {
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s: %s\n", p.Name, p)
	select {
	case <-p.ended:
	default:
		fmt.Fprintf(&b, "    still running: %s\n", p.threads())
		_ = p.cmd.Process.Signal(unix.SIGQUIT) // only fails if it has ended
		select {
		case <-p.ended:
		case <-time.After(quitTime):
		}
	}
	for _, l := range p.Messages.Lines(0) {
		fmt.Fprintf(&b, "    %s %s\n", l.At.Format("05.000000"), l.Text)
	}
	lines := p.Console.Lines(0)
	const shown = 8
	if n := len(lines) - shown; n > 0 {
		fmt.Fprintf(&b, "    %d lines on the console before these:\n", n)
		lines = lines[n:]
	}
	for _, l := range lines {
		fmt.Fprintf(&b, "  | %s %s\n", l.At.Format("05.000000"), l.Text)
	}
	select {
	case <-p.ended:
		fmt.Fprintf(&b, "    ended: %v\n", p.cmd.ProcessState)
	default:
		fmt.Fprintf(&b, "    does not end by SIGQUIT\n")
	}
	return b.String()
}

// quitTime bounds how long a process takes to end by SIGQUIT.
const quitTime = 2 * time.Second

// threads tells in which state each thread is, and where in the kernel it waits.
func (p *Process) threads() string {
	var all []string
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.cmd.Process.Pid)) // the pattern is sound
	for _, task := range tasks {
		stat, _ := os.ReadFile(filepath.Join(task, "stat")) // a thread that is gone has neither
		wchan, _ := os.ReadFile(filepath.Join(task, "wchan"))
		_, state, _ := strings.Cut(string(stat), ") ")
		all = append(all, fmt.Sprintf("%s %.1s %s", filepath.Base(task), state, wchan))
	}
	return strings.Join(all, ", ")
}
