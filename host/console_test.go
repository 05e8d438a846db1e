package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func null(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func console(t *testing.T, in, out *os.File) *Console {
	t.Helper()
	c, err := OpenConsole(in, out, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func printed(seq uint64, text string) vmm.Output {
	return vmm.Output{Kind: vmm.OutputConsole, Seq: seq, Data: []byte(text)}
}

// TestConsoleOutput: all bytes leave in order, and Sent tells of none that has not left.
func TestConsoleOutput(t *testing.T) {
	r, w := pipe(t)
	c := console(t, null(t), w)
	var last uint64
	var got bytes.Buffer
	const first = 1000 // a console that takes over does not begin at 0
	c.Start(ConsoleEvents{Input: func([]byte) {}, Sent: func(seq uint64, err error) {
		if err != nil || seq <= last {
			t.Errorf("sent up to %d after %d, error %v", seq, last, err)
		}
		last = seq
		if _, err := io.CopyN(&got, r, int64(seq-first)-int64(got.Len())); err != nil {
			t.Error(err)
		}
	}})
	var want strings.Builder
	for i := range 1000 {
		line := fmt.Sprintf("txn %d\r\n", i)
		c.Submit(printed(first+uint64(want.Len()), line))
		want.WriteString(line)
	}
	c.Close()
	if got.String() != want.String() || last != first+uint64(want.Len()) {
		t.Errorf("%d bytes left, %d were told of; want %d", got.Len(), last-first, want.Len())
	}
}

// TestConsoleReaderGone: part of the output leaves, then the reader does.
func TestConsoleReaderGone(t *testing.T) {
	r, w := pipe(t)
	c := console(t, null(t), w)
	type report struct {
		seq uint64
		err error
	}
	reports := make(chan report)
	c.Start(ConsoleEvents{Sent: func(seq uint64, err error) { reports <- report{seq, err} }})
	c.Submit(printed(0, "before"))
	if got := <-reports; got.seq != 6 || got.err != nil {
		t.Errorf("got %+v, want 6 bytes", got)
	}
	r.Close()
	c.Submit(printed(6, "after"))
	got := <-reports
	if got.seq != 6 || !errors.Is(got.err, unix.EPIPE) {
		t.Errorf("got %+v, want 6 bytes and EPIPE", got)
	}
	mentions(t, got.err, "console: write to")
	c.Submit(printed(11, "more")) // is dropped, and nobody is told
	c.Close()
}

// TestConsoleFull: a short write(2) counts for what it took.
func TestConsoleFull(t *testing.T) {
	dir := privateTmpfs(t, "size=64k")
	f, err := os.Create(dir + "/console.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := console(t, null(t), f)
	var seq uint64
	c.Start(ConsoleEvents{Sent: func(s uint64, e error) { seq, err = s, e }})
	c.Submit(printed(0, strings.Repeat("x", 100<<10)))
	c.Close()
	info, _ := f.Stat()
	if !errors.Is(err, unix.ENOSPC) || seq != uint64(info.Size()) || seq == 0 {
		t.Errorf("sent %d bytes (%v), the file has %d", seq, err, info.Size())
	}
}

func TestConsoleInput(t *testing.T) {
	regular := t.TempDir() + "/keys"
	if err := os.WriteFile(regular, []byte("from a file\x01x"), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(regular)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, w := pipe(t)
	if _, err := w.WriteString("from a pipe\x01x"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	for _, c := range []struct {
		name string
		in   *os.File
		want string // what is no terminal has no escape key
	}{
		{"pipe", r, "from a pipe\x01x"},
		{"file", file, "from a file\x01x"},
		{"null", null(t), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			con := console(t, c.in, null(t))
			ended := make(chan struct{})
			var got []byte
			go func() {
				defer close(ended)
				con.read(func(p []byte) { got = append(got, p...) }, func() { t.Error("quit") })
			}()
			<-ended
			if string(got) != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			con.Close()
		})
	}
}

// TestConsoleCloseEndsReader: a reader that nobody types to must not swallow a key later.
func TestConsoleCloseEndsReader(t *testing.T) {
	r, w := pipe(t)
	c := console(t, r, null(t))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.read(func(p []byte) { t.Errorf("got %q after Close", p) }, nil)
	}()
	c.Close()
	<-ended
	if _, err := w.WriteString("for the shell"); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if n, err := r.Read(p); string(p[:n]) != "for the shell" {
		t.Errorf("left in the pipe: %q (%v)", p[:n], err)
	}
}

// TestConsoleClosedInput is a process that was started with its standard input closed.
func TestConsoleClosedInput(t *testing.T) {
	r, _ := pipe(t)
	r.Close()
	c := console(t, r, null(t))
	c.Start(ConsoleEvents{Input: func([]byte) { t.Error("input") }, Sent: func(uint64, error) {}})
	c.Close()
}

// openPty returns the two ends of a pseudo-terminal.
func openPty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestConsoleTerminal(t *testing.T) {
	master, slave := openPty(t)
	settings := func() unix.Termios {
		s, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	before := settings()
	var messages bytes.Buffer
	c, err := OpenConsole(slave, slave, &messages)
	if err != nil {
		t.Fatal(err)
	}
	raw := settings()
	if raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 || raw.Oflag&unix.OPOST == 0 {
		t.Errorf("terminal flags are %+v; want raw input and processed output", raw)
	}
	input, quit := make(chan string), make(chan bool)
	c.Start(ConsoleEvents{
		Input: func(p []byte) { input <- string(p) },
		Quit:  func() { close(quit) },
		Sent:  func(uint64, error) {},
	})
	if _, err := master.WriteString("sum\r\x03\x01\x01\x01h\x01x"); err != nil {
		t.Fatal(err)
	}
	got := ""
	for done := false; !done; {
		select {
		case p := <-input:
			got += p
		case <-quit:
			done = true
		}
	}
	if want := "sum\r\x03\x01"; got != want {
		t.Errorf("the guest got %q, want %q", got, want)
	}
	if messages.String() != escapeHelp {
		t.Errorf("Ctrl-A h answered %q", messages.String())
	}
	c.Close()
	if after := settings(); after != before {
		t.Errorf("terminal is left in %+v, want %+v", after, before)
	}
	c.Restore() // does no harm
}
