package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"ftvm/vmm"
)

// Console joins the guest's console to two files, usually standard input and output. If
// the input is a terminal, it is in raw mode until Restore, and Ctrl-A is the escape key.
type Console struct {
	in, out  *os.File
	messages io.Writer
	keys     *os.File    // in duplicated, the reader's own; nil if nobody can type
	cooked   *term.State // what Restore brings back; nil if in is no terminal
	restore  sync.Once

	mu     sync.Mutex
	wake   sync.Cond // buf or closed changed
	buf    []byte    // submitted, not yet taken by the writer
	end    uint64    // Seq of the byte after buf
	closed bool
	writer sync.WaitGroup

	// A pipe; closing stopReading ends the reader, which polls stopped.
	stopped, stopReading *os.File
}

// ConsoleEvents are a Console's callbacks. Input and Quit come from one goroutine, Sent
// from another.
type ConsoleEvents struct {
	// Input brings what was typed; p is the callee's. While it blocks nothing more is read.
	Input func(p []byte)
	// Quit says that somebody typed Ctrl-A x.
	Quit func()
	// Sent says that every byte before seq has left: the kernel took it. With an error it
	// is the last call, and nothing from seq on has left or will leave.
	Sent func(seq uint64, err error)
}

// OpenConsole prepares in and out; messages is where Ctrl-A h is answered. Whoever calls it
// must see to it that Restore or Close is called at every end of the process that can be
// caught: on return, on signals, and deferred in goroutines that may panic.
func OpenConsole(in, out *os.File, messages io.Writer) (*Console, error) {
	c := &Console{in: in, out: out, messages: messages}
	c.wake.L = &c.mu
	if err := c.prepare(); err != nil {
		c.Restore()
		return nil, fmt.Errorf("console: input %s: %w", in.Name(), err)
	}
	// Go ends a process that writes to a broken pipe on standard output. A replica must
	// outlive those who watch it; the writer reports EPIPE.
	signal.Ignore(unix.SIGPIPE)
	return c, nil
}

// prepare opens the way for the reader, and makes a terminal hand over every key as it comes.
func (c *Console) prepare() (err error) {
	if c.stopped, c.stopReading, err = os.Pipe(); err != nil {
		return err
	}
	fd := int(c.in.Fd())
	// The caller may close in while the reader is still between poll and read.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if errors.Is(err, unix.EBADF) {
		return nil // started with its standard input closed
	} else if err != nil {
		return err
	}
	c.keys = os.NewFile(uintptr(own), c.in.Name())
	if !term.IsTerminal(fd) {
		return nil
	}
	// A background job that touches its terminal is stopped by SIGTTOU or SIGTTIN: a
	// replica started with & would hang. Without a controlling terminal there is no
	// background, and the question fails.
	if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && group != unix.Getpgrp() {
		err := c.keys.Close()
		c.keys = nil
		return err
	}
	if c.cooked, err = term.MakeRaw(fd); err != nil {
		return err
	}
	// Output stays processed: messages of ftvm itself go to the same terminal and end
	// their lines with \n alone.
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag |= unix.OPOST
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// Restore puts a terminal back into the mode in which OpenConsole found it. Any goroutine
// may call it, any number of times.
func (c *Console) Restore() {
	c.restore.Do(func() {
		if c.cooked != nil {
			// A terminal that is gone needs no restoring.
			_ = term.Restore(int(c.in.Fd()), c.cooked)
		}
	})
}

// Start begins to read and to write. It is called once in a Console's life.
func (c *Console) Start(events ConsoleEvents) {
	c.writer.Go(func() { c.write(events.Sent) })
	if c.keys != nil {
		go c.read(events.Input, events.Quit)
	}
}

// Submit queues a console output and returns at once. Nothing may be submitted after Close.
// How much waits is what was submitted less what Sent told of: a caller that does not want a
// guest to fill the host's memory while nobody reads holds the guest back by that.
func (c *Console) Submit(out vmm.Output) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		panic("host: Console.Submit after Close")
	}
	c.buf = append(c.buf, out.Data...)
	c.end = out.Seq + uint64(len(out.Data))
	c.wake.Signal()
}

// Close stops reading, waits until everything that was submitted has left, and restores the
// terminal. It waits as long as nobody reads the output, where Restore does not; it does not
// wait for a call of Input or Quit, so these may call it.
func (c *Console) Close() {
	c.mu.Lock()
	c.closed = true
	c.wake.Signal()
	c.mu.Unlock()
	_ = c.stopReading.Close() // only a second Close can fail
	c.writer.Wait()
	c.Restore()
}

// write sends what was submitted until the console is closed and all has left. What comes
// while a write(2) is under way goes with the next one.
func (c *Console) write(sent func(uint64, error)) {
	var failed error
	var spare []byte
	for {
		c.mu.Lock()
		for len(c.buf) == 0 && !c.closed {
			c.wake.Wait()
		}
		buf, end := c.buf, c.end
		c.buf = spare[:0]
		c.mu.Unlock()
		if len(buf) == 0 {
			return
		}
		spare = buf
		if failed != nil {
			continue
		}
		n, err := c.out.Write(buf)
		if err != nil {
			failed = fmt.Errorf("console: write to %s: %w", c.out.Name(), cause(err))
		}
		sent(end-uint64(len(buf)-n), failed)
	}
}

// read delivers what is typed until the input ends, which is no error: a replica whose
// standard input is closed or /dev/null just has nobody who types.
func (c *Console) read(input func([]byte), quit func()) {
	defer c.stopped.Close()
	defer c.keys.Close()
	fd := int(c.keys.Fd())
	var sequence escape
	buf := make([]byte, 4096)
	for {
		wait := []unix.PollFd{{Fd: int32(c.stopped.Fd()), Events: unix.POLLIN}, {Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(wait, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || wait[0].Revents != 0 {
			return
		}
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		} else if err != nil || n == 0 {
			return
		}
		typed, asked := slices.Clone(buf[:n]), []action(nil)
		if c.cooked != nil {
			typed, asked = sequence.scan(typed)
		}
		if len(typed) > 0 {
			input(typed)
		}
		for _, a := range asked {
			switch a {
			case actQuit:
				quit()
			case actHelp:
				fmt.Fprint(c.messages, escapeHelp)
			}
		}
	}
}
