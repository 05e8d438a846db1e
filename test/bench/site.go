package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftvm/test/harness"
)

// site is a network of its own with one guest, plain or replicated, and a client. The replicas talk to each other over its
// loopback interface.
type site struct {
	*harness.Space
	dir string // with the images
	// processes run the guest; the first is that whose console counts.
	processes []*harness.Process
	port      uint16 // of the primary, for its backup; 0 if the guest is plain
}

const (
	siteBridge = "br0"
	clientAddr = "10.77.0.1/24"
	serverAddr = "10.77.0.2:7" // tasks/replicated and src/io.c of guests/linux
)

func (b *linuxBench) site() (s *site, err error) {
	s = &site{}
	if s.dir, err = os.MkdirTemp(b.lab.Path("."), "site-"); err != nil {
		return nil, err
	}
	if s.Space, err = harness.NewSpace(); err != nil {
		return nil, err
	}
	return s, s.AddBridge(siteBridge, clientAddr)
}

// args are those of a guest on this site.
func (b *linuxBench) args(tap, task string) []string {
	return []string{"--engine", "soft", "--mem", fmt.Sprintf("%dM", linuxMiB), "--kernel", b.kernel, "--initrd", b.initrd,
		"--cmdline", linuxCmdline + task, "--net", fmt.Sprintf("tap=%s,bridge=%s", tap, siteBridge)}
}

// image makes a disk that has all its room, and is in this host's cache: what is measured is not how this host finds both.
func (b *linuxBench) image(s *site, name string) (path string, err error) {
	path = filepath.Join(s.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return path, err
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 128<<20)); err != nil {
		return path, err
	}
	return path, f.Sync()
}

// plains starts guests that have nothing to do with each other. On an error what was started is returned as well.
func (b *linuxBench) plains(names ...string) (all []*site, err error) {
	for _, name := range names {
		s, err := b.site()
		if err != nil {
			return all, err
		}
		all = append(all, s)
		image, err := b.image(s, name)
		if err != nil {
			return all, err
		}
		err = s.Do(func() error {
			p, err := b.lab.Start(name, append([]string{"run", "--disk", image}, b.args("plain", "replicated")...)...)
			s.processes = []*harness.Process{p}
			return err
		})
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// pair starts a replicated guest. On an error the site, if any, holds what was started.
func (b *linuxBench) pair(ctx context.Context, task string, args ...string) (s *site, err error) {
	if s, err = b.site(); err != nil {
		return s, err
	}
	images := [2]string{}
	for i, name := range []string{"primary", "backup"} {
		if images[i], err = b.image(s, name); err != nil {
			return s, err
		}
	}
	return s, s.Do(func() error {
		primary, addr, err := b.lab.StartPrimary(ctx, images[0], append(b.args("primary", task), args...)...)
		if primary != nil {
			s.processes = append(s.processes, primary)
		}
		if err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return err
		}
		s.port = uint16(n)
		backup, err := b.lab.StartBackup(addr, images[1], append(b.args("backup", task), args...)...)
		if err != nil {
			return err
		}
		s.processes = append(s.processes, backup)
		return nil
	})
}

// close kills what still runs, and removes what is left.
func (s *site) close() error {
	for _, p := range s.processes {
		p.Kill()
		if _, err := p.Wait(context.Background()); err != nil {
			return err
		}
	}
	return errors.Join(s.Space.Close(), os.RemoveAll(s.dir))
}

func (s *site) transcript() (text string) {
	for _, p := range s.processes {
		text += p.Transcript()
	}
	return text
}

// sent is how many bytes the primary has sent to its backup.
func (s *site) sent() (n uint64, err error) {
	if s.port == 0 {
		return 0, nil
	}
	err = s.Do(func() error {
		sockets, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
		for _, socket := range sockets {
			if socket.InetDiagMsg.ID.SourcePort == s.port && socket.TCPInfo != nil {
				n += socket.TCPInfo.Bytes_sent
			}
		}
		return err
	})
	return n, err
}

// dial connects to the guest's server, and tells it what for.
func (s *site) dial(ctx context.Context, purpose byte) (conn net.Conn, err error) {
	err = s.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp4", serverAddr)
		return err
	})
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(deadline)
	}
	if err == nil {
		_, err = conn.Write([]byte{purpose})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// with calls f with a connection to the guest's server.
func (s *site) with(ctx context.Context, purpose byte, f func(net.Conn) error) error {
	conn, err := s.dial(ctx, purpose)
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close())
}

const (
	tripBytes = 64
	trips     = 2000
	warmTrips = 100 // come first, and do not count
	bulkBytes = 64 << 20
)

// trips sends requests one after the other, each when the response to the one before is there.
func (s *site) trips(ctx context.Context, t *trial) error {
	var seconds []float64
	err := s.with(ctx, 'e', func(conn net.Conn) (err error) {
		seconds, err = pingPong(conn, trips+warmTrips)
		return err
	})
	if err != nil {
		return err
	}
	t.TripUs, t.SlowTripUs = 1e6*quantile(seconds[warmTrips:], 0.5), 1e6*quantile(seconds[warmTrips:], 0.99)
	return nil
}

// pingPong returns what each of n round trips to an echo took, in seconds.
func pingPong(conn net.Conn, n int) (seconds []float64, err error) {
	request, response := make([]byte, tripBytes), make([]byte, tripBytes)
	for i := range n {
		request[0] = byte(i)
		began := time.Now()
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, response); err != nil {
			return nil, err
		}
		seconds = append(seconds, time.Since(began).Seconds())
		if !bytes.Equal(request, response) {
			return nil, fmt.Errorf("request %d came back as %x", i, response)
		}
	}
	return seconds, nil
}

func (s *site) send(ctx context.Context, _ *trial) error {
	return s.with(ctx, 's', func(conn net.Conn) error {
		n, err := io.Copy(io.Discard, conn)
		if err == nil && n != bulkBytes {
			err = fmt.Errorf("%d bytes came, want %d", n, int64(bulkBytes))
		}
		return err
	})
}

func (s *site) receive(ctx context.Context, _ *trial) error {
	return s.with(ctx, 'r', func(conn net.Conn) error {
		data := slices.Repeat([]byte{0x5a}, 1<<16)
		for range bulkBytes / len(data) {
			if _, err := conn.Write(data); err != nil {
				return err
			}
		}
		_, err := io.ReadFull(conn, data[:1])
		return err
	})
}

// quit ends the guest's server, and with it the guest's task.
func (s *site) quit(ctx context.Context) error {
	conn, err := s.dial(ctx, 'q')
	if err != nil {
		return err
	}
	return conn.Close()
}

// tripUs is the median round trip between two goroutines over the loopback interface, in us.
func tripUs() (us float64, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	echoed := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			_, err = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) // not by splice(2)
			err = errors.Join(err, conn.Close())
		}
		echoed <- err
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return 0, err
	}
	seconds, err := pingPong(conn, trips)
	if err := errors.Join(err, conn.Close(), <-echoed); err != nil {
		return 0, err
	}
	return 1e6 * quantile(seconds, 0.5), nil
}
