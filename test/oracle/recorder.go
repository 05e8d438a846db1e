package oracle

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

//go:embed recorder.c
var recorderSource []byte

// ErrCannotRecord is returned, wrapped with the reason, by NewRecorder on hosts that cannot record.
var ErrCannotRecord = errors.New("this host cannot record what its CPU does")

// Recorder runs cases on this host's CPU. It is a child process.
type Recorder struct {
	cmd    *exec.Cmd
	dir    string
	in     io.WriteCloser
	out    *bufio.Reader
	errors bytes.Buffer
}

// NewRecorder compiles and starts a recorder.
func NewRecorder() (*Recorder, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("%w: it is %s/%s", ErrCannotRecord, runtime.GOOS, runtime.GOARCH)
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return nil, fmt.Errorf("%w: no gcc", ErrCannotRecord)
	}
	dir, err := os.MkdirTemp("", "oracle")
	if err != nil {
		return nil, err
	}
	r := &Recorder{dir: dir}
	if err := r.start(gcc); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return r, nil
}

func (r *Recorder) start(gcc string) error {
	binary := filepath.Join(r.dir, "recorder")
	define := func(name string, value int) string { return fmt.Sprintf("-D%s=%#xu", name, value) }
	compile := exec.Command(gcc, "-O2", "-Wall", "-Werror", "-static-pie", "-nostdlib", "-ffreestanding",
		"-fno-stack-protector", "-fcf-protection=none", "-x", "c", "-o", binary, "-",
		define("CODE", CodeBase), define("CODE_PAGES", CodePages), define("FILL", CodeFill),
		define("DATA", DataBase), define("DATA_PAGES", DataPages), define("DATA_READONLY", DataReadOnly),
		define("FS_BASE", fsBase), define("GS_BASE", gsBase), define("GS_LIMIT", gsLimit),
		define("FX_SIZE", FXSize))
	compile.Stdin = bytes.NewReader(recorderSource)
	if msg, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("compile recorder.c: %w\n%s", err, msg)
	}

	r.cmd = exec.Command(binary)
	r.cmd.Stderr = &r.errors
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	r.out = bufio.NewReaderSize(out, 1<<18)
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start the recorder: %w", err)
	}
	if _, err := r.in.Write(pristine); err != nil {
		return fmt.Errorf("send memory to the recorder: %w", err)
	}
	// The first case tells whether the kernel lets it run at all.
	if _, err := r.Run([]Case{{Code: []byte{0x90}, State: Base(Mode64)}}); err != nil {
		return fmt.Errorf("%w: %w", ErrCannotRecord, err)
	}
	return nil
}

// Close ends the recorder.
func (r *Recorder) Close() error {
	defer os.RemoveAll(r.dir)
	r.in.Close()
	return r.cmd.Wait()
}

// stuck is how long the recorder may take for an outcome; a case takes microseconds.
const stuck = 30 * time.Second

// Run runs cases, in their order, and returns their outcomes. After an error the recorder is of no more use.
func (r *Recorder) Run(cases []Case) ([]Outcome, error) {
	go func() { // ends at the latest when the recorder does
		var b []byte
		for i := range cases {
			if b = appendCase(b, &cases[i]); len(b) >= 1<<16 || i == len(cases)-1 {
				if _, err := r.in.Write(b); err != nil {
					return // reading tells why
				}
				b = b[:0]
			}
		}
	}()
	outcomes := make([]Outcome, len(cases))
	watchdog := time.AfterFunc(stuck, func() { r.cmd.Process.Kill() })
	defer watchdog.Stop()
	for i := range cases {
		if err := r.read(&outcomes[i]); err != nil {
			return nil, fmt.Errorf("record %v: %w %s", &cases[i], err, strings.TrimSpace(r.errors.String()))
		}
		if i%1024 == 0 {
			watchdog.Reset(stuck)
		}
	}
	return outcomes, nil
}

// appendCase appends struct incoming of recorder.c, and what follows it.
func appendCase(b []byte, c *Case) []byte {
	le := binary.LittleEndian
	start := len(b)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, c.Mode.CS())
	b = append(b, byte(len(c.Code)), byte(len(c.Memory)))
	step := uint32(1)
	if c.Form != nil && !c.Form.step {
		step = 0
	}
	b = le.AppendUint32(b, step)
	for _, r := range c.GPR {
		b = le.AppendUint64(b, r)
	}
	b = le.AppendUint64(b, c.RIP)
	b = le.AppendUint64(b, c.Flags)
	b = append(b, c.FX[:]...)
	b = append(b, c.Code...)
	for _, p := range c.Memory {
		b = appendPatch(b, p)
	}
	le.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func appendPatch(b []byte, p Patch) []byte {
	b = binary.LittleEndian.AppendUint16(b, p.Offset)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p.Data)))
	return append(b, p.Data...)
}

// outcomeSize is that of struct outgoing of recorder.c.
const outcomeSize = 4 + 2 + 1 + 1 + 4 + 8 + 8*18 + FXSize

// read reads struct outgoing of recorder.c, and what follows it.
func (r *Recorder) read(o *Outcome) error {
	var b [outcomeSize]byte
	if _, err := io.ReadFull(r.out, b[:]); err != nil {
		return err
	}
	le := binary.LittleEndian
	*o = Outcome{CS: le.Uint16(b[4:]), Vector: b[6], Error: le.Uint32(b[8:]), CR2: le.Uint64(b[12:])}
	for i := range o.GPR {
		o.GPR[i] = le.Uint64(b[20+8*i:])
	}
	o.RIP = le.Uint64(b[20+8*16:])
	o.Flags = le.Uint64(b[20+8*17:])
	copy(o.FX[:], b[20+8*18:])
	for _, m := range alwaysMasked {
		clear(o.FX[m[0]:][:m[1]])
	}
	// Linux sets P in the error code for addresses of the kernel, which begin with the last page of the
	// lower half, not to tell what is there.
	if o.Vector == vecPF && o.CR2 >= 1<<47-PageSize {
		o.Error &^= 1
	}

	rest := make([]byte, le.Uint32(b[:])-outcomeSize)
	if _, err := io.ReadFull(r.out, rest); err != nil {
		return err
	}
	for len(rest) > 0 {
		n := 4 + int(le.Uint16(rest[2:]))
		o.Memory = append(o.Memory, Patch{Offset: le.Uint16(rest), Data: rest[4:n:n]})
		rest = rest[n:]
	}
	o.Memory = join(o.Memory)
	return nil
}

// CPU names the CPU of this host: family, model and stepping decide what is recorded where manuals leave it open.
func CPU() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	field := func(name string) string {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
				return strings.TrimSpace(value)
			}
		}
		return "?"
	}
	return fmt.Sprintf("%s, %s, family %s, model %s, stepping %s", field("vendor_id"), field("model name"),
		field("cpu family"), field("model"), field("stepping"))
}
