package badinput

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"

	"ftvm/guests/ledger"
	"ftvm/proto"
	"ftvm/replica/pair"
	"ftvm/test/harness"
)

// stranger is somebody who is at the other end by mistake, or by malice.
type stranger struct {
	name string
	// speak is what it does with the connection, which is closed afterwards unless stays is set.
	speak func(c net.Conn) error
	stays bool
	// primarySays and backupSays are what ftvm says about it.
	primarySays, backupSays string
}

const notFtvm = "the peer does not speak ftvm's protocol"

func send(data string) func(net.Conn) error {
	return func(c net.Conn) error { _, err := io.WriteString(c, data); return err }
}

func sendMessage(m *proto.Message) func(net.Conn) error {
	return func(c net.Conn) error { _, err := protodelim.MarshalTo(c, m); return err }
}

func hello(magic string, version uint32, settings ...*proto.Setting) *proto.Message {
	return &proto.Message{Body: &proto.Message_Hello{Hello: &proto.Hello{Magic: magic, Version: version, Settings: settings}}}
}

func noise(n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := r.Read(b); err != nil {
		panic(err) // documented never to happen
	}
	return string(b)
}

// ours begins what ftvm's own hello says.
const ours = "ftvm replication"

var strangers = []stranger{
	{name: "HTTP", speak: send("HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
		primarySays: notFtvm, backupSays: notFtvm},
	{name: "TLS", speak: func(c net.Conn) error {
		err := tls.Client(c, &tls.Config{ServerName: "ftvm"}).Handshake()
		if err == nil {
			return fmt.Errorf("ftvm speaks TLS")
		}
		return nil
	}, primarySays: notFtvm, backupSays: notFtvm},
	{name: "noise", speak: send(noise(10000)), primarySays: notFtvm, backupSays: notFtvm},
	{name: "a huge length", speak: send("\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), primarySays: notFtvm, backupSays: notFtvm},
	{name: "a length of more than 64 bits", speak: send(strings.Repeat("\xff", 20)), primarySays: notFtvm, backupSays: notFtvm},
	{name: "a message that is cut off", speak: send("\x80\x80\x80\x03 and no more"), primarySays: notFtvm, backupSays: notFtvm},
	{name: "somebody who leaves without a word", speak: send(""), primarySays: "closed the connection without a word", backupSays: "closed the connection without a word"},
	{name: "somebody who stays without a word", speak: send(""), stays: true, backupSays: "does not answer"},
	{name: "another magic word", speak: sendMessage(hello("fvtm replication", pair.ProtocolVersion)), primarySays: notFtvm, backupSays: notFtvm},
	{name: "a newer version", speak: sendMessage(hello(ours, pair.ProtocolVersion+1)),
		primarySays: fmt.Sprintf("the primary speaks protocol version %d, the backup version %d: run the same ftvm on both hosts", pair.ProtocolVersion, pair.ProtocolVersion+1),
		backupSays:  fmt.Sprintf("the primary speaks protocol version %d, the backup version %d: run the same ftvm on both hosts", pair.ProtocolVersion+1, pair.ProtocolVersion)},
	{name: "no settings", speak: sendMessage(hello(ours, pair.ProtocolVersion)),
		primarySays: "describe their machines differently: run the same ftvm on both hosts",
		backupSays:  "describe their machines differently: run the same ftvm on both hosts"},
	{name: "too many settings", speak: sendMessage(hello(ours, pair.ProtocolVersion, make([]*proto.Setting, 1000)...)),
		primarySays: "describe their machines differently", backupSays: "describe their machines differently"},
	{name: "a record first", speak: sendMessage(&proto.Message{Body: &proto.Message_Record{Record: &proto.Record{Length: 1}}}),
		primarySays: notFtvm, backupSays: notFtvm},
	{name: "a refusal with escape sequences",
		speak:       sendMessage(&proto.Message{Body: &proto.Message_Refusal{Refusal: &proto.Refusal{Reason: "\x1b[2J\x1b]0;gotcha\a no"}}}),
		primarySays: "turned away", backupSays: "refused"},
}

// noEscapes checks that nothing that a peer said can play with the terminal.
func noEscapes(t *testing.T, p *harness.Process) {
	t.Helper()
	if strings.ContainsAny(p.Messages.String(), "\x1b\a") {
		t.Errorf("%s lets a peer write escape sequences to the terminal", p.Name)
	}
}

// TestStrangersAtPrimary: a primary turns them away, and afterwards lets its backup in.
func TestStrangersAtPrimary(t *testing.T) {
	ctx := begin(t)
	p := awaitingPair(ctx, t)
	for _, s := range strangers {
		t.Run(s.name, func(t *testing.T) {
			from := p.Primary.Messages.Len()
			c, err := net.Dial("tcp", p.Addr)
			check(t, err)
			if s.stays {
				defer func() { go io.Copy(io.Discard, c) }() // for as long as the primary likes
			} else {
				defer c.Close()
			}
			check(t, s.speak(c))
			if s.stays {
				return // what the primary says of it comes later
			}
			check(t, c.(*net.TCPConn).CloseWrite())
			turnedAway(ctx, t, p.Primary, from, s.primarySays)
		})
	}
	_, err := p.Primary.Messages.AwaitText(ctx, "does not answer")
	check(t, err)
	noEscapes(t, p.Primary)
	joins(ctx, t, p)
}

// turnedAway checks that the primary says, from byte from of its messages on, whom it turned away and why.
func turnedAway(ctx context.Context, t *testing.T, p *harness.Process, from int, says string) {
	t.Helper()
	l, err := p.Messages.Await(ctx, from, func(l harness.Line) bool { return strings.Contains(l.Text, "turned away a peer") })
	check(t, err)
	t.Log(l.Text)
	if !strings.Contains(l.Text, says) {
		t.Errorf("it does not say %q", says)
	}
}

// awaitingPair is a pair whose backup is not started yet.
func awaitingPair(ctx context.Context, t *testing.T, args ...string) *harness.Pair {
	t.Helper()
	p := &harness.Pair{Images: [2]string{image(t, imageSize, ""), image(t, imageSize, "")}}
	report(t, p)
	var err error
	p.Primary, p.Addr, err = lab.StartPrimary(ctx, p.Images[0], append(guest, args...)...)
	check(t, err)
	return p
}

// joins checks that the pair's backup is let in now, and that all is well then.
func joins(ctx context.Context, t *testing.T, p *harness.Pair) {
	t.Helper()
	var err error
	p.Backup, err = lab.StartBackup(p.Addr, p.Images[1], guest...)
	check(t, err)
	_, err = p.Backup.Messages.AwaitText(ctx, "following the primary")
	check(t, err)
	unharmed(ctx, t, p.Primary)
	check(t, p.Backup.WaitFor(ctx, 0))
	check(t, harness.SameImage(p.Images[0], p.Images[1]))
}

// TestStrangersAsPrimary: a backup that finds one at its primary's address stops.
func TestStrangersAsPrimary(t *testing.T) {
	for _, s := range strangers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			ctx := begin(t)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			check(t, err)
			defer ln.Close()
			backup, err := lab.StartBackup(ln.Addr().String(), image(t, imageSize, ""), guest...)
			check(t, err)
			defer backup.Kill()
			c, err := ln.Accept()
			check(t, err)
			defer c.Close()
			check(t, s.speak(c))
			if !s.stays {
				check(t, c.(*net.TCPConn).CloseWrite())
			}
			fails(ctx, t, backup, s.backupSays)
			noEscapes(t, backup)
		})
	}
}

// TestMismatch: a backup whose machine is not the primary's is turned away; both say what
// differs, and the primary goes on waiting for the right one.
func TestMismatch(t *testing.T) {
	ctx := begin(t)
	p := awaitingPair(ctx, t)
	kernel := t.TempDir() + "/kernel"
	check(t, os.WriteFile(kernel, append(ledger.ELF[:len(ledger.ELF):len(ledger.ELF)], 0), 0o644))
	blank := image(t, imageSize, "")
	for _, row := range []struct {
		name, image, says string
		args              []string
	}{
		{"memory", blank, "guest memory is 64MiB on the primary, 128MiB on the backup", []string{"--mem", "128M"}},
		{"kernel", blank, "kernel is the embedded ledger, sha256 ", []string{"--kernel", kernel}},
		{"initrd", blank, "initrd is none on the primary, sha256 ", []string{"--initrd", kernel}},
		{"command line", blank, `command line is "period=1" on the primary, "period=2" on the backup`, []string{"--cmdline", "period=2"}},
		{"epoch", blank, "epoch length is 1000 on the primary, 999 on the backup", []string{"--epoch", "999"}},
		{"memory digests", blank, "memory digest interval is 1000 on the primary, 10 on the backup", []string{"--digest-memory", "10"}},
		{"commit", blank, "commit is held on the primary, verified on the backup", []string{"--commit", "verified"}},
		{"number of disks", blank, "number of disks is 1 on the primary, 2 on the backup", []string{"--disk", image(t, imageSize, "")}},
		{"size of the disk", image(t, 2*imageSize, ""), "disk 0 is 1MiB, ", nil},
		{"contents of the disk", usedImage(ctx, t), "disk 0 is 1MiB, ", nil},
		{"two things", blank, "guest memory is 64MiB on the primary, 128MiB on the backup; command line is", []string{"--mem", "128M", "--cmdline", "period=2"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			from := p.Primary.Messages.Len()
			backup, err := lab.StartBackup(p.Addr, row.image, append(guest, row.args...)...)
			check(t, err)
			defer backup.Kill()
			fails(ctx, t, backup, row.says)
			turnedAway(ctx, t, p.Primary, from, row.says)
		})
	}
	joins(ctx, t, p)
}

// usedImage is an image with a ledger on it.
func usedImage(ctx context.Context, t *testing.T) string {
	t.Helper()
	path := image(t, imageSize, "")
	r, err := lab.Run(ctx, "run", "--disk", path, "--cmdline", "txns=1")
	check(t, err)
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	return path
}

// TestSecondBackup: a pair is two.
func TestSecondBackup(t *testing.T) {
	ctx := begin(t)
	p := startPair(ctx, t)
	from := p.Primary.Messages.Len()
	third, err := lab.StartBackup(p.Addr, image(t, imageSize, ""), guest...)
	check(t, err)
	defer third.Kill()
	fails(ctx, t, third, "the primary has its backup")
	turnedAway(ctx, t, p.Primary, from, "the primary has its backup")
	unharmed(ctx, t, p.Primary)
	check(t, p.Backup.WaitFor(ctx, 0))
	check(t, harness.SameImage(p.Images[0], p.Images[1]))
}

// TestAlmostABackup: somebody who knows what a backup says first is let in, and is none. A primary
// whose machine has not started lets another in.
func TestAlmostABackup(t *testing.T) {
	enter := func(ctx context.Context, t *testing.T) (*harness.Pair, net.Conn) {
		hello := overheard(ctx, t)
		p := awaitingPair(ctx, t)
		c, err := net.Dial("tcp", p.Addr)
		check(t, err)
		t.Cleanup(func() { c.Close() })
		check(t, sendMessage(hello)(c))
		_, err = p.Primary.Messages.AwaitText(ctx, "the backup is here")
		check(t, err)
		return p, c
	}
	t.Run("leaves", func(t *testing.T) {
		ctx := begin(t)
		p, c := enter(ctx, t)
		check(t, c.Close())
		// For all that the primary knows, it may come back, or begin the machine on its own.
		_, err := p.Primary.Messages.AwaitText(ctx, "waiting for another backup")
		check(t, err)
		joins(ctx, t, p)
	})
	t.Run("says nothing more", func(t *testing.T) {
		ctx := begin(t)
		p, _ := enter(ctx, t)
		_, err := p.Primary.Messages.AwaitText(ctx, "waiting for another backup")
		check(t, err)
		joins(ctx, t, p)
	})
	t.Run("lies at once", func(t *testing.T) {
		ctx := begin(t)
		p, c := enter(ctx, t)
		check(t, sendMessage(&proto.Message{Body: &proto.Message_Ack{Ack: &proto.Ack{Held: 1000}}})(c))
		l, err := p.Primary.Messages.AwaitText(ctx, "turned away")
		check(t, err)
		t.Log(l.Text)
		joins(ctx, t, p)
	})
}

// overheard is what a backup that is right for the pair of awaitingPair says first.
func overheard(ctx context.Context, t *testing.T) *proto.Message {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer ln.Close()
	backup, err := lab.StartBackup(ln.Addr().String(), image(t, imageSize, ""), guest...)
	check(t, err)
	defer backup.Kill()
	c, err := ln.Accept()
	check(t, err)
	defer c.Close()
	m := new(proto.Message)
	check(t, protodelim.UnmarshalFrom(bufio.NewReader(c), m))
	return m
}
