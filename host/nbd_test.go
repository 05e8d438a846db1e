package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// fakeServer is an NBD server in the test. handle gets each connection's requests; it may answer, or not, or close.
type fakeServer struct {
	t       *testing.T
	address NBDAddress
	export  nbdExport
	minimum uint32 // block size
	content []byte
	refuse  uint32 // kind of reply to options instead
	handle  func(c *fakeConn, q fakeRequest)
	options chan uint32 // those that came
}

type fakeConn struct {
	net.Conn
	s *fakeServer
}

type fakeRequest struct {
	command        uint16
	cookie, offset uint64
	length         uint32
	data           []byte
}

const fakeSize = 1 << 20

func serve(t *testing.T) *fakeServer {
	t.Helper()
	s := &fakeServer{
		t: t, content: make([]byte, fakeSize), minimum: 1, options: make(chan uint32, 1000),
		address: NBDAddress{"unix", filepath.Join(t.TempDir(), "s"), "disk"},
		export:  nbdExport{size: fakeSize, flags: 1 | nbdHasFlush | nbdHasWriteZeroes, maxPayload: maxPayload},
		handle:  (*fakeConn).perform,
	}
	s.listen()
	return s
}

// listen takes connections, one after the other, until the test ends or the listener is closed.
func (s *fakeServer) listen() net.Listener {
	l, err := net.Listen("unix", s.address.Address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.t.Cleanup(func() { c.Close() })
			(&fakeConn{c, s}).serve()
			c.Close()
		}
	}()
	return l
}

// serve negotiates, and hands requests to handle until the client is gone.
func (c *fakeConn) serve() {
	s := c.s
	c.put(uint64(nbdMagic), uint64(nbdOptionMagic), uint16(nbdFixedNewstyle|nbdNoZeroes))
	var flags uint32
	var option struct {
		Magic          uint64
		Option, Length uint32
	}
	if c.get(&flags) != nil {
		return
	}
	for option.Option != nbdOptGo {
		if c.get(&option) != nil {
			return
		}
		s.options <- option.Option
		data := make([]byte, option.Length)
		if c.get(data) != nil || option.Option == nbdOptAbort {
			return
		}
		reply := func(kind uint32, values ...any) {
			c.put(uint64(nbdReplyMagic), option.Option, kind, uint32(binarySize(values)))
			c.put(values...)
		}
		if s.refuse != 0 {
			reply(s.refuse, []byte("because"))
			return
		}
		reply(nbdRepInfo, uint16(99), []byte("what nobody knows"))
		reply(nbdRepInfo, uint16(nbdInfoExport), s.export.size, s.export.flags)
		reply(nbdRepInfo, uint16(nbdInfoBlockSize), s.minimum, uint32(4096), uint32(s.export.maxPayload))
		reply(nbdRepAck)
	}
	for {
		var head struct {
			Magic          uint32
			Flags, Command uint16
			Cookie, Offset uint64
			Length         uint32
		}
		if c.get(&head) != nil {
			return
		}
		q := fakeRequest{command: head.Command, cookie: head.Cookie, offset: head.Offset, length: head.Length}
		if q.command == nbdCmdWrite {
			q.data = make([]byte, q.length)
			if c.get(q.data) != nil {
				return
			}
		}
		if q.command == nbdCmdDisconnect {
			return
		}
		s.handle(c, q)
	}
}

// perform does what is asked for, and answers.
func (c *fakeConn) perform(q fakeRequest) {
	place := c.s.content[min(q.offset, fakeSize):min(q.offset+uint64(q.length), fakeSize)]
	switch q.command {
	case nbdCmdRead:
		q.data = place
	case nbdCmdWrite:
		copy(place, q.data)
		q.data = nil
	case nbdCmdWriteZeroes:
		clear(place)
	}
	c.answer(q.cookie, 0, q.data)
}

func (c *fakeConn) answer(cookie uint64, errno unix.Errno, data []byte) {
	c.put(uint32(nbdSimpleMagic), uint32(errno), cookie, data)
}

func (c *fakeConn) put(values ...any) {
	var b bytes.Buffer
	for _, v := range values {
		_ = binary.Write(&b, binary.BigEndian, v)
	}
	_, _ = c.Write(b.Bytes())
}

func (c *fakeConn) get(v any) error { return binary.Read(c, binary.BigEndian, v) }

func binarySize(values []any) (n int) {
	for _, v := range values {
		n += binary.Size(v)
	}
	return n
}

func openNBD(t *testing.T, a NBDAddress) *NBD {
	t.Helper()
	n, err := OpenNBD(a, NBDOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func acquire(t *testing.T, n *NBD) *NBD {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := n.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	return n
}

// checkDisk performs all kinds of requests on a disk of zeros of at least 1 MiB.
func checkDisk(t *testing.T, d Storage) {
	t.Helper()
	const block = 64 << 10
	want := make([]byte, 1<<20)
	var outs []vmm.Output
	for i := range uint64(16) {
		data := bytes.Repeat([]byte{byte(i + 1)}, block)
		outs = append(outs, write(uint64(len(outs)), i*block, data))
		copy(want[i*block:], data)
	}
	clear(want[block+512:][:2*block])
	clear(want[8*block:][:block])
	outs = append(outs,
		clearing(16, vmm.DiskDiscard, block+512, 2*block),
		clearing(17, vmm.DiskWriteZeroes, 8*block, block),
		flush(18), read(19, 0, 1<<20), write(20, 512, nil), read(21, d.Size()-512, 1024))
	got := perform(t, d, outs...)
	last := len(got) - 1
	for i, c := range got[:last] {
		if c.Err != nil || c.Status != vmm.DiskOK {
			t.Errorf("request %d: status %d, %v", i, c.Status, c.Err)
		}
	}
	if !bytes.Equal(got[last-2].Data, want) {
		t.Error("the disk does not hold what was written")
	}
	mentions(t, got[last].Err, "read of 1024 bytes", "has only")
}

func TestNBD(t *testing.T) {
	for name, change := range map[string]func(*fakeServer){
		"everything":     func(*fakeServer) {},
		"no zeroing":     func(s *fakeServer) { s.export.flags &^= nbdHasWriteZeroes },
		"small requests": func(s *fakeServer) { s.export.maxPayload = 4096 + 100 },
		"small requests and no zeroing": func(s *fakeServer) {
			s.export.maxPayload, s.export.flags = 512, s.export.flags&^nbdHasWriteZeroes
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			change(s)
			checkDisk(t, acquire(t, openNBD(t, s.address)))
		})
	}
}

// command starts a server and ends it with the test.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%v: apt-get install qemu-utils nbd-server", err)
	}
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", name, said.String())
		}
	})
}

// realServers starts real servers of an image. That of QEMU admits one client at a time. nbd-server 3.24 can be told to
// (maxconnections), and then does not admit a second one when the first has gone, either.
var realServers = map[string]func(t *testing.T, image string) NBDAddress{
	"qemu-nbd": func(t *testing.T, image string) NBDAddress {
		socket := filepath.Join(t.TempDir(), "s")
		command(t, "qemu-nbd", "-f", "raw", "-t", "-x", "disk", "-k", socket, image)
		return NBDAddress{"unix", socket, "disk"}
	},
	"nbd-server": func(t *testing.T, image string) NBDAddress {
		dir := t.TempDir()
		l, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		config := filepath.Join(dir, "config")
		if err := os.WriteFile(config, fmt.Appendf(nil, "[generic]\nlistenaddr = 127.0.0.1\nport = %d\n"+
			"[disk]\nexportname = %s\nflush = true\n", l.Addr().(*net.TCPAddr).Port, image), 0o644); err != nil {
			t.Fatal(err)
		}
		// It leaves the test's process and writes down its own. (With -d it stays, and serves one client in its life.)
		pidFile := filepath.Join(dir, "pid")
		command(t, "nbd-server", "-C", config, "-p", pidFile)
		t.Cleanup(func() {
			var pid int
			text, err := os.ReadFile(pidFile)
			if err == nil {
				_, err = fmt.Sscan(string(text), &pid)
			}
			if err == nil {
				err = unix.Kill(pid, unix.SIGKILL)
			}
			if err != nil {
				t.Errorf("nbd-server may still run: %v", err)
			}
		})
		return NBDAddress{"tcp", l.Addr().String(), "disk"}
	},
}

// await waits until a server that was just started listens.
func await(t *testing.T, a NBDAddress) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		c, err := net.Dial(a.Network, a.Address)
		if err == nil {
			c.Close()
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestNBDServers(t *testing.T) {
	for name, start := range realServers {
		t.Run(name, func(t *testing.T) {
			a := start(t, newImage(t, 4<<20))
			await(t, a)
			n := openNBD(t, a)
			if n.Size() != 4<<20 {
				t.Errorf("size is %d", n.Size())
			}
			checkDisk(t, acquire(t, n))
			got := perform(t, acquire(t, openNBD(t, a)), read(0, 0, 512))[0]
			if !bytes.Equal(got.Data, bytes.Repeat([]byte{1}, 512)) {
				t.Errorf("the next client does not read what was written (%v)", got.Err)
			}
		})
	}
}

// TestNBDFence: a second client is admitted when the first one's connection is gone, and not before.
func TestNBDFence(t *testing.T) {
	a := realServers["qemu-nbd"](t, newImage(t, 4<<20))
	await(t, a)
	first, second := openNBD(t, a), openNBD(t, a)
	acquire(t, first)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	mentions(t, second.Acquire(ctx), "acquiring disk "+a.String(), "deadline")
	acquired := make(chan error)
	go func() { acquired <- second.Acquire(t.Context()) }()
	checkDisk(t, first) // and closes it
	if err := <-acquired; err != nil {
		t.Fatal(err)
	}
	if got := perform(t, second, read(0, 0, 512))[0]; !bytes.Equal(got.Data, bytes.Repeat([]byte{1}, 512)) {
		t.Errorf("the second client does not read what the first one wrote (%v)", got.Err)
	}
}

// TestNBDPipelines: the server answers nothing before all requests are there, and then the last one first.
func TestNBDPipelines(t *testing.T) {
	const count = 100
	s := serve(t)
	for i := range s.content {
		s.content[i] = byte(i / 512)
	}
	var held []fakeRequest
	s.handle = func(c *fakeConn, q fakeRequest) {
		if held = append(held, q); len(held) == count {
			slices.Reverse(held)
			for _, q := range held {
				c.perform(q)
			}
		}
	}
	var outs []vmm.Output
	for i := range uint64(count) {
		outs = append(outs, read(i, i*512, 512))
	}
	for i, c := range perform(t, acquire(t, openNBD(t, s.address)), outs...) {
		if c.Err != nil || len(c.Data) != 512 || c.Data[0] != byte(i) {
			t.Errorf("read %d got %d bytes of something else (%v)", i, len(c.Data), c.Err)
		}
	}
}

// TestNBDReconnects: the server goes away with requests that it has not answered.
func TestNBDReconnects(t *testing.T) {
	s := serve(t)
	var got []uint64
	lives := 0
	s.handle = func(c *fakeConn, q fakeRequest) {
		got = append(got, q.offset/512)
		switch {
		case lives < 3 && len(got) == 4:
			c.Close()
			lives++
			got = nil
		case lives == 3 && len(got) == 4:
			for i := range uint64(4) { // the cookies of the last life are the latest
				c.answer(q.cookie-3+i, 0, nil)
			}
		}
	}
	for i, c := range perform(t, acquire(t, openNBD(t, s.address)),
		write(0, 5*512, make([]byte, 512)), write(1, 3*512, make([]byte, 512)), write(2, 4*512, make([]byte, 512)), write(3, 0, make([]byte, 512))) {
		if c.Err != nil {
			t.Errorf("request %d: %v", i, c.Err)
		}
	}
	if want := []uint64{5, 3, 4, 0}; lives != 3 || !slices.Equal(got, want) {
		t.Errorf("in the last life writes to %v came, want %v as at first", got, want)
	}
}

// TestNBDFlushAfterLoss: when a connection breaks, what its server acknowledged and was not asked to flush may be lost. One flush tells, and
// so do all that were under way.
func TestNBDFlushAfterLoss(t *testing.T) {
	const lost = "flush: the connection to the server was lost: what it had not written may be lost"
	const part = 4096
	some := make([]byte, part)
	first := func(command uint16) func(fakeRequest) bool {
		return func(q fakeRequest) bool { return q.command == command }
	}
	for name, c := range map[string]struct {
		before []vmm.Output           // are done one after the other
		cut    func(fakeRequest) bool // the request that breaks the connection, the first time that it comes
		then   []vmm.Output           // are submitted together
		want   []string               // their errors
	}{
		"written":             {[]vmm.Output{write(0, 0, some)}, first(nbdCmdRead), []vmm.Output{read(0, 0, part), flush(1), flush(2)}, []string{"", lost, lost}},
		"zeroed":              {[]vmm.Output{clearing(0, vmm.DiskDiscard, 0, part)}, first(nbdCmdRead), []vmm.Output{read(0, 0, part), flush(1)}, []string{"", lost}},
		"a part written":      {nil, func(q fakeRequest) bool { return q.offset == part }, []vmm.Output{write(0, 0, make([]byte, 2*part)), flush(1)}, []string{"", lost}},
		"flush under way":     {[]vmm.Output{write(0, 0, some)}, first(nbdCmdFlush), []vmm.Output{flush(0), flush(1)}, []string{lost, lost}},
		"flushed meanwhile":   {[]vmm.Output{write(0, 0, some)}, first(nbdCmdWrite), []vmm.Output{flush(0), write(1, 0, some), flush(2)}, []string{"", "", ""}},
		"flushed and written": {[]vmm.Output{flush(0), write(1, 0, some)}, first(nbdCmdRead), []vmm.Output{read(0, 0, part), flush(1)}, []string{"", lost}},
		"written and flushed": {[]vmm.Output{write(0, 0, some), flush(1)}, first(nbdCmdRead), []vmm.Output{read(0, 0, part), flush(1)}, []string{"", ""}},
		"write under way":     {nil, first(nbdCmdWrite), []vmm.Output{write(0, 0, some), flush(1)}, []string{"", ""}},
		"only read":           {[]vmm.Output{read(0, 0, part)}, first(nbdCmdFlush), []vmm.Output{flush(0)}, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.export.maxPayload = part
			cut, submitted := make(chan func(fakeRequest) bool, 1), make(chan bool)
			s.handle = func(conn *fakeConn, q fakeRequest) {
				select {
				case at := <-cut:
					if at(q) {
						<-submitted
						conn.Close()
						return
					}
					cut <- at
				default:
				}
				conn.perform(q)
			}
			n := acquire(t, openNBD(t, s.address))
			done := make(chan Completion, len(c.then))
			n.Start(func(c Completion) { done <- c })
			for _, out := range c.before {
				n.Submit(out)
				if got := <-done; got.Err != nil {
					t.Fatal(got.Err)
				}
			}
			cut <- c.cut
			for _, out := range c.then {
				n.Submit(out)
			}
			close(submitted)
			for range c.then {
				got := <-done
				if want := c.want[got.Seq]; want != "" {
					mentions(t, got.Err, want)
				} else if got.Err != nil {
					t.Error(got.Err)
				}
			}
			n.Submit(flush(0))
			if got := <-done; got.Err != nil {
				t.Errorf("it is told again: %v", got.Err)
			}
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNBDFlushCovers: a flush does not cover what was written while it was under way.
func TestNBDFlushCovers(t *testing.T) {
	s := serve(t)
	var got []fakeRequest
	s.handle = func(c *fakeConn, q fakeRequest) {
		got = append(got, q)
		switch len(got) {
		case 1: // the flush, which is answered after the write
		case 2:
			c.perform(q)
			c.perform(got[0])
			c.Close()
		default:
			c.perform(q)
		}
	}
	n := acquire(t, openNBD(t, s.address))
	done := make(chan Completion, 3)
	n.Start(func(c Completion) { done <- c })
	n.Submit(flush(0))
	n.Submit(write(1, 0, make([]byte, 512)))
	for range 2 {
		if got := <-done; got.Err != nil {
			t.Error(got.Err)
		}
	}
	n.Submit(flush(2))
	mentions(t, (<-done).Err, "may be lost")
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestNBDTrouble: a server that cannot be used for too long, in many ways, and then recovers: too late, as another replica may
// have been admitted.
func TestNBDTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		handle func(c *fakeConn, q fakeRequest)
		want   string
	}{
		"closes":          {func(c *fakeConn, q fakeRequest) { c.Close() }, "does not answer"},
		"garbage":         {func(c *fakeConn, q fakeRequest) { c.put(make([]byte, 16)) }, "breaks the protocol"},
		"wrong cookie":    {func(c *fakeConn, q fakeRequest) { c.answer(q.cookie+1, 0, nil) }, "not under way"},
		"answers twice":   {func(c *fakeConn, q fakeRequest) { c.answer(q.cookie, 0, nil); c.answer(q.cookie, 0, nil) }, ""},
		"short header":    {func(c *fakeConn, q fakeRequest) { c.put(uint32(nbdSimpleMagic)); c.Close() }, "unexpected EOF"},
		"short data":      {func(c *fakeConn, q fakeRequest) { c.answer(q.cookie, 0, make([]byte, 100)); c.Close() }, "unexpected EOF"},
		"shuts down":      {func(c *fakeConn, q fakeRequest) { c.answer(q.cookie, unix.ESHUTDOWN, nil) }, "shutting down"},
		"structured":      {func(c *fakeConn, q fakeRequest) { c.put(uint32(0x668e33ef), make([]byte, 16)) }, "breaks the protocol"},
		"another's error": {func(c *fakeConn, q fakeRequest) { c.answer(0, unix.EIO, nil) }, "not under way"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			well := make(chan bool, 1)
			s.handle = func(conn *fakeConn, q fakeRequest) {
				if len(well) == 0 {
					c.handle(conn, q)
				} else {
					conn.perform(q)
				}
			}
			n := acquire(t, openNBD(t, s.address))
			if c.want != "" {
				n.patience = 30 * time.Millisecond
			}
			done := make(chan Completion, 1)
			n.Start(func(c Completion) { done <- c })
			op := read(0, 0, 512)
			if c.want == "" {
				op = flush(0)
			}
			n.Submit(op)
			got := <-done
			if c.want == "" {
				if got.Err != nil {
					t.Error(got.Err)
				}
			} else {
				mentions(t, got.Err, "disk "+s.address.String(), "read of 512 bytes at offset 0", "does not answer", c.want)
				if got.Status != vmm.DiskError || got.Data != nil {
					t.Errorf("status %d and %d bytes of data", got.Status, len(got.Data))
				}
			}
			well <- true
			n.Submit(read(1, 512, 512))
			if got := <-done; c.want != "" {
				mentions(t, got.Err, "read of 512 bytes at offset 512", "the disk is given up", c.want)
			} else if got.Err != nil || len(got.Data) != 512 {
				t.Errorf("when the server is well: %d bytes, %v", len(got.Data), got.Err)
			}
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNBDServerError: what a server says of a request is the request's own.
func TestNBDServerError(t *testing.T) {
	s := serve(t)
	s.handle = func(c *fakeConn, q fakeRequest) {
		if q.command == nbdCmdWrite {
			c.answer(q.cookie, unix.ENOSPC, nil)
			return
		}
		c.perform(q)
	}
	got := perform(t, acquire(t, openNBD(t, s.address)), write(0, 0, make([]byte, 512)), read(1, 0, 512))
	mentions(t, got[0].Err, "write of 512 bytes", "the server says: no space left")
	if !errors.Is(got[0].Err, unix.ENOSPC) || got[0].Status != vmm.DiskError || got[1].Err != nil {
		t.Errorf("got %v and %v, want ENOSPC and none", got[0].Err, got[1].Err)
	}
}

func TestNBDRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*fakeServer)
		options NBDOptions
		want    string // "" if it is admitted
	}{
		"no such export":      {func(s *fakeServer) { s.refuse = nbdRepError | 6 }, NBDOptions{}, `no such export ("because")`},
		"TLS":                 {func(s *fakeServer) { s.refuse = nbdRepError | 5 }, NBDOptions{}, "wants TLS"},
		"old":                 {func(s *fakeServer) { s.refuse = nbdRepError | 1 }, NBDOptions{}, "newer server"},
		"something new":       {func(s *fakeServer) { s.refuse = nbdRepError | 77 }, NBDOptions{}, "error 0x8000004d"},
		"no size":             {func(s *fakeServer) { s.refuse = nbdRepAck }, NBDOptions{}, "did not tell"},
		"read-only":           {func(s *fakeServer) { s.export.flags |= nbdHasReadOnly }, NBDOptions{}, "give it to the guest as such"},
		"read-only as wanted": {func(s *fakeServer) { s.export.flags = nbdHasReadOnly }, NBDOptions{ReadOnly: true}, ""},
		"no flush":            {func(s *fakeServer) { s.export.flags &^= nbdHasFlush }, NBDOptions{}, "flush = true"},
		"odd size":            {func(s *fakeServer) { s.export.size = 1000 }, NBDOptions{}, "not a multiple of 512"},
		"empty":               {func(s *fakeServer) { s.export.size = 0 }, NBDOptions{}, "not a multiple of 512"},
		"large blocks":        {func(s *fakeServer) { s.minimum = 4096 }, NBDOptions{}, "wants requests of 4096"},
		"tiny requests":       {func(s *fakeServer) { s.export.maxPayload = 100 }, NBDOptions{}, "to 100 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			c.change(s)
			n, err := OpenNBD(s.address, c.options)
			if c.want == "" {
				if err == nil {
					err = errors.Join(n.Acquire(t.Context()), n.Close())
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
			mentions(t, err, "disk "+s.address.String(), c.want)
		})
	}
	s := serve(t)
	n, err := OpenNBD(s.address, NBDOptions{Size: 2 * fakeSize})
	if err != nil {
		t.Fatal(err)
	}
	mentions(t, n.Acquire(t.Context()), "its size is 1MiB, not 2MiB")
	n.Close()
	_, err = OpenNBD(NBDAddress{"unix", filepath.Join(t.TempDir(), "nobody"), ""}, NBDOptions{})
	mentions(t, err, "no such file")
}

// TestNBDIdleLoss: a connection that nobody uses is made again: it is the fence.
func TestNBDIdleLoss(t *testing.T) {
	s := serve(t)
	conns := make(chan *fakeConn, 10)
	s.handle = func(c *fakeConn, q fakeRequest) {
		conns <- c
		c.perform(q)
	}
	n := acquire(t, openNBD(t, s.address))
	n.Start(func(Completion) {})
	n.Submit(flush(0))
	(<-conns).Close()
	for range 4 { // information, end of that, use, use again
		<-s.options
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestNBDCloseDoesNotHang: a server keeps its connection, as one that is stopped does, and answers nothing.
func TestNBDCloseDoesNotHang(t *testing.T) {
	s := serve(t)
	s.handle = func(*fakeConn, fakeRequest) {}
	n := acquire(t, openNBD(t, s.address))
	n.patience = 10 * time.Millisecond
	for i, c := range perform(t, n, write(0, 0, make([]byte, 512)), flush(1), read(2, 0, 512)) {
		mentions(t, c.Err, "before the disk was closed")
		if c.Status != vmm.DiskError {
			t.Errorf("request %d has status %d", i, c.Status)
		}
	}
}

// TestNBDReadOnly: a server that does not flush serves a disk that is only read, and is never asked to.
func TestNBDReadOnly(t *testing.T) {
	s := serve(t)
	s.export.flags = 1 | nbdHasReadOnly
	s.handle = func(c *fakeConn, q fakeRequest) {
		if q.command != nbdCmdRead {
			t.Errorf("the server got command %d", q.command)
		}
		c.perform(q)
	}
	n, err := OpenNBD(s.address, NBDOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	got := perform(t, acquire(t, n), read(0, 0, 512), flush(1), write(2, 0, make([]byte, 512)))
	if got[0].Err != nil || got[1].Err != nil {
		t.Errorf("read: %v; flush: %v", got[0].Err, got[1].Err)
	}
	mentions(t, got[2].Err, "reading only")
}

// FuzzNBDServer: whatever a server says, negotiation and a read end with an error or what was asked for.
func FuzzNBDServer(f *testing.F) {
	hello := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, nbdMagic), nbdOptionMagic), 3)
	f.Add(hello)
	info := binary.BigEndian.AppendUint64(hello, nbdReplyMagic)
	info = append(info, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 5)
	info = binary.BigEndian.AppendUint64(info, nbdReplyMagic)
	f.Add(append(info, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		go func() {
			go io.Copy(io.Discard, theirs)
			_, _ = theirs.Write(said)
			theirs.Close()
		}()
		c := newNBDConn(ours)
		defer ours.Close()
		if c.negotiate("e", nbdOptGo) != nil || c.export.check(false, 0) != nil {
			return
		}
		if c.export.size%vmm.SectorSize != 0 || c.export.maxPayload < vmm.SectorSize {
			t.Fatalf("accepted %+v", c.export)
		}
		_, _, _ = c.reply()
	})
}
