package trouble

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"ftvm/test/harness"
	"ftvm/test/need"
)

// Where the guest's client is, and the guest.
const (
	bridge     = "br0"
	clientAddr = "10.77.0.1"
	guestAddr  = "10.77.0.2"
)

// taps are those of the primary and the backup, two ports of one bridge.
var taps = [2]string{"tap0", "tap1"}

// TestTaps takes away the taps of both hosts, one after the other, while a client talks to the guest over one TCP connection.
func TestTaps(t *testing.T) {
	needRoot(t, "a network namespace")
	ctx := begin(t)
	args := need.Guest(t, "initrd.gz", "shell")
	space, err := harness.NewSpace()
	check(t, err)
	t.Cleanup(func() { check(t, space.Close()) })
	check(t, space.AddBridge(bridge, clientAddr+"/24"))
	var p *harness.Pair
	check(t, space.Do(func() error {
		var images [2]string
		var sides [2][]string
		for i, tap := range taps {
			images[i] = image(t, ctx, t.TempDir())
			sides[i] = []string{"--net", "tap=" + tap + ",bridge=" + bridge}
		}
		p = startPair(t, ctx, images, sides, args...)
		return nil
	}))
	talk, hangUp := connect(t, ctx, space, p.Primary)
	talk("with both taps")

	// A tap that is taken is nobody else's, and its owner does not mind.
	for _, command := range [][]string{{"run"}, {"primary", "--listen", "127.0.0.1:0"}} {
		var r harness.Result
		check(t, space.Do(func() (err error) {
			r, err = lab.Run(ctx, append(append(command, args...), "--net", "tap="+taps[0])...)
			return err
		}))
		t.Logf("%s: %s", command[0], r.Stderr)
		if want := "tap tap0: in use by another process: another process has it: stop that one, or name another tap"; r.Code != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("ftvm %s ends with %d, saying %s; want 1, and %q", command[0], r.Code, r.Stderr, want)
		}
	}
	talk("after strangers asked for the primary's tap")

	lose := func(i int, p *harness.Process, told ...string) {
		before := p.Messages.Len()
		check(t, space.Set(taps[i], space.Link.LinkDel))
		for _, words := range told {
			says(t, ctx, p, before, words)
		}
	}
	const gone, back = " is gone, the guest is without this network", "network interface 0 is there again"
	lose(1, p.Backup, "tap tap1"+gone, back)
	talk("after the backup lost its tap")
	lose(0, p.Primary, "the backup goes on: tap tap0"+gone)
	ends(t, ctx, p.Primary, 1)
	talk("after the primary lost its tap")
	lose(1, p.Backup, "tap tap1"+gone, back)
	talk("after the survivor lost its tap")
	hangUp()
	ends(t, ctx, p.Backup, 0)
	console(t, p)
}

// connect has the guest connect to the client, send back what comes, and switch itself off when the connection is closed.
func connect(t *testing.T, ctx context.Context, space *harness.Space, p *harness.Process) (talk func(string), hangUp func()) {
	t.Helper()
	var ln net.Listener
	check(t, space.Do(func() (err error) {
		ln, err = net.Listen("tcp4", clientAddr+":0")
		return err
	}))
	defer ln.Close()
	_, err := p.Console.AwaitText(ctx, "built-in shell")
	check(t, err)
	check(t, p.Type(fmt.Sprintf("ip address add %s/24 dev eth0; ip link set eth0 up; nc %s %d -e cat; poweroff",
		guestAddr, clientAddr, ln.Addr().(*net.TCPAddr).Port)))
	deadline, _ := ctx.Deadline()
	check(t, ln.(*net.TCPListener).SetDeadline(deadline))
	conn, err := ln.Accept()
	check(t, err)
	check(t, conn.SetDeadline(deadline))
	back := bufio.NewReader(conn)
	return func(when string) {
		t.Helper()
		_, err := fmt.Fprintln(conn, when)
		check(t, err)
		answer, err := back.ReadString('\n')
		if err != nil || answer != when+"\n" {
			t.Fatalf("%s: the guest answers %q: %v", when, answer, err)
		}
	}, func() { conn.Close() }
}
