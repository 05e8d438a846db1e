package pair

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ftvm/proto"
	"ftvm/replica"
)

func list(namesAndValues ...string) (s []Setting) {
	for i := 0; i < len(namesAndValues); i += 2 {
		s = append(s, Setting{namesAndValues[i], namesAndValues[i+1]})
	}
	return s
}

// TestDifference: both sides say the same about what is not equal.
func TestDifference(t *testing.T) {
	const other = "the two replicas describe their machines differently: run the same ftvm on both hosts"
	for _, row := range []struct {
		name            string
		primary, backup []Setting
		want            string
	}{
		{"one thing", list("guest memory", "64MiB", "clock", "exits"), list("guest memory", "128MiB", "clock", "exits"),
			"guest memory is 64MiB on the primary, 128MiB on the backup"},
		{"two things", list("guest memory", "64MiB", "clock", "exits"), list("guest memory", "128MiB", "clock", "step"),
			"guest memory is 64MiB on the primary, 128MiB on the backup; clock is exits on the primary, step on the backup"},
		{"another name", list("memory", "64MiB"), list("guest memory", "64MiB"), other},
		{"nothing to tell", nil, list("guest memory", "64MiB"), other},
		{"too much to tell", list("a", "1"), list("a", "1", "b", "2"), other},
		{"what explains the rest", list("disks", "1", "disk 0", "x"), list("disks", "2", "disk 0", "x", "disk 1", "y"),
			"disks is 1 on the primary, 2 on the backup"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, b := net.Pipe()
			defer p.Close()
			defer b.Close()
			told := make(chan error, 1)
			go func() {
				_, err := answer(p, row.primary, func([]byte) ([]byte, error) { return nil, errors.New("admitted") })
				told <- err
			}()
			_, _, err := greet(b, row.backup, nil)
			for who, err := range map[string]error{"primary": <-told, "backup": err} {
				var refused *RefusedError
				if !errors.As(err, &refused) || refused.Reason != row.want || err.Error() != "refused: "+row.want {
					t.Errorf("the %s says %v, want %s", who, err, row.want)
				}
			}
		})
	}
}

// TestDifferentVersions: the backup finds out by itself, too, should the primary not.
func TestDifferentVersions(t *testing.T) {
	same := list("clock", "exits")
	hello := func(version uint32) *proto.Hello {
		h := helloMessage(same, nil).GetHello()
		h.Version = version
		return h
	}
	if d := difference(hello(1), hello(1)); d != "" {
		t.Errorf("the same: %q", d)
	}
	const want = "the primary speaks protocol version 1, the backup version 2: run the same ftvm on both hosts"
	if d := difference(hello(1), hello(2)); d != want {
		t.Errorf("got %q, want %q", d, want)
	}

	p, b := net.Pipe()
	defer p.Close()
	go func() {
		defer b.Close()
		l := newLink(b)
		l.read()
		l.write(&proto.Message{Body: &proto.Message_Hello{Hello: hello(ProtocolVersion + 1)}})
	}()
	_, _, err := greet(p, same, nil)
	refused := fmt.Sprintf("refused: the primary speaks protocol version %d, the backup version %d: run the same ftvm on both hosts", ProtocolVersion+1, ProtocolVersion)
	if err == nil || err.Error() != refused {
		t.Errorf("got %v, want %s", err, refused)
	}
}

func TestHandshake(t *testing.T) {
	same := list("clock", "exits")
	for _, row := range []struct {
		name           string
		session, gives string
		refuses        error
		want           string
	}{
		{"first time", "", "new", nil, ""},
		{"again", "old", "old", nil, ""},
		{"another machine", "old", "new", nil, errOtherMachine.Error()},
		{"not admitted", "", "", errors.New("not today"), "refused: not today"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, b := net.Pipe()
			defer p.Close()
			defer b.Close()
			told := make(chan error, 1)
			go func() {
				_, err := answer(p, same, func(session []byte) ([]byte, error) {
					if string(session) != row.session {
						t.Errorf("the primary heard session %q", session)
					}
					return []byte(row.gives), row.refuses
				})
				told <- err
			}()
			var session []byte
			if row.session != "" {
				session = []byte(row.session)
			}
			l, session, err := greet(b, same, session)
			if row.want == "" && (err != nil || string(session) != row.gives || l == nil) || row.want != "" && (err == nil || err.Error() != row.want) {
				t.Errorf("the backup has session %q, %v; want %q", session, err, row.want)
			}
			if err := <-told; row.refuses != nil && (err == nil || err.Error() != row.want) || row.refuses == nil && err != nil {
				t.Errorf("the primary says %v", err)
			}
		})
	}
}

// strangers send this first, and then close the connection.
var strangers = []struct{ name, data, want string }{
	{"HTTP", "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", errNotFtvm.Error()},
	{"HTTP response", "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", errNotFtvm.Error()},
	{"TLS", "\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03" + strings.Repeat("\xaa", 0xed), errNotFtvm.Error()},
	{"SSH", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", errNotFtvm.Error()},
	{"zeros", strings.Repeat("\x00", 100), errNotFtvm.Error()},
	{"a huge length", "\xff\xff\xff\xff\xff\xff\xff\xff\x7f", errNotFtvm.Error()},
	{"an endless length", strings.Repeat("\xff", 20), errNotFtvm.Error()},
	{"8 MiB and a byte", "\x81\x80\x80\x04", errNotFtvm.Error()},
	{"half a message", "\x50 and no more", errNotFtvm.Error()},
	{"half a length", "\x80", errNotFtvm.Error()},
	{"nothing", "", "the peer closed the connection without a word"},
}

// TestStrangers: who does not speak our protocol is told about as such, and quickly.
func TestStrangers(t *testing.T) {
	sides := map[string]func(c net.Conn) error{
		"at the primary": func(c net.Conn) error {
			_, err := answer(c, nil, func([]byte) ([]byte, error) { panic("admitted") })
			return err
		},
		"at the backup": func(c net.Conn) error { _, _, err := greet(c, nil, nil); return err },
	}
	for side, meet := range sides {
		for _, s := range strangers {
			t.Run(s.name+" "+side, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ours, theirs := net.Pipe()
					defer ours.Close()
					go io.Copy(io.Discard, theirs)
					go func() {
						defer theirs.Close()
						io.WriteString(theirs, s.data)
					}()
					began := time.Now()
					if err := meet(ours); err == nil || !strings.Contains(err.Error(), s.want) {
						t.Errorf("got %v, want %s", err, s.want)
					}
					if time.Since(began) != 0 {
						t.Errorf("that took %v", time.Since(began))
					}
				})
			})
		}
	}
}

// TestSilence: who says nothing, or reads nothing, is not waited for longer than handshakeTime.
func TestSilence(t *testing.T) {
	const silent = "the peer does not answer within 5s: is it ftvm, and the right address?"
	for _, row := range []struct {
		name string
		meet func(c net.Conn) error
		does func(c net.Conn)
		want string
	}{
		{"a backup that says nothing", func(c net.Conn) error { _, err := answer(c, nil, nil); return err },
			func(net.Conn) {}, silent},
		{"a backup that says half a word", func(c net.Conn) error { _, err := answer(c, nil, nil); return err },
			func(c net.Conn) { c.Write([]byte{100, 1, 2}) }, silent},
		{"a primary that says nothing", func(c net.Conn) error { _, _, err := greet(c, nil, nil); return err },
			func(c net.Conn) { io.Copy(io.Discard, c) }, silent},
		{"a primary that does not read", func(c net.Conn) error { _, _, err := greet(c, nil, nil); return err },
			func(net.Conn) {}, "i/o timeout"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				go row.does(theirs)
				began := time.Now()
				if err := row.meet(ours); err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want %s", err, row.want)
				}
				if took := time.Since(began); took != handshakeTime {
					t.Errorf("that took %v", took)
				}
				ours.Close()
			})
		})
	}
}

// TestDeadlinesAreLifted: a connection that is past its handshake may be silent for long.
func TestDeadlinesAreLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, b := net.Pipe()
		defer p.Close()
		defer b.Close()
		links := make(chan *link, 1)
		go func() {
			l, err := answer(p, nil, func([]byte) ([]byte, error) { return []byte("s"), nil })
			if err != nil {
				t.Error(err)
			}
			links <- l
		}()
		mine, _, err := greet(b, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		theirs := <-links
		time.Sleep(2 * handshakeTime) // of the bubble's clock
		go theirs.write(helloMessage(nil, nil))
		if _, err := mine.read(); err != nil {
			t.Error(err)
		}
		go mine.write(helloMessage(nil, nil))
		if _, err := theirs.read(); err != nil {
			t.Error(err)
		}
	})
}

// TestAdmission: who comes when.
func TestAdmission(t *testing.T) {
	refused := func(t *testing.T, s *side, session []byte, want string) {
		t.Helper()
		if _, _, err := enter(t, s.address(), session); err == nil || strings.TrimPrefix(err.Error(), "refused: ") != want {
			t.Errorf("got %v, want %s", err, want)
		}
		s.log.awaitLine(t, "turned away a peer: "+want)
	}
	start := func(t *testing.T) (*side, *peer, []byte) {
		s := newSide("the primary", say("begin"), ask(1), off())
		s.startPrimary(t)
		p, session, err := enter(t, s.address(), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.log.awaitLine(t, "the backup is here")
		return s, p, session
	}
	t.Run("two backups", func(t *testing.T) {
		s, _, _ := start(t)
		refused(t, s, nil, "the primary has its backup; another can join only a machine that starts")
	})
	t.Run("another session", func(t *testing.T) {
		s, _, _ := start(t)
		refused(t, s, []byte("another"), errOtherMachine.Error())
	})
	t.Run("another session at first", func(t *testing.T) {
		s := newSide("the primary", ask(1), off())
		s.startPrimary(t)
		refused(t, s, []byte("another"), errOtherMachine.Error())
	})
	t.Run("another session, and another machine", func(t *testing.T) {
		// As when the primary was started anew: a refusal would make the backup stop.
		s, _, _ := start(t)
		c, err := net.Dial("tcp", s.address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, _, err := greet(c, list("guest memory", "128MiB"), []byte("another")); !errors.Is(err, errOtherMachine) {
			t.Errorf("got %v, want %v", err, errOtherMachine)
		}
	})
	t.Run("alone", func(t *testing.T) {
		s, p, session := start(t)
		p.say(replica.Ack{})
		p.hear()
		p.say(replica.Ack{Held: 1})
		s.console.awaitText(t, "begin")
		s.tick(s.opt.Core.SuspectTicks)
		s.log.awaitLine(t, "going on alone")
		for _, session := range [][]byte{nil, session} {
			refused(t, s, session, "the primary went on alone; a backup can join only a machine that starts")
		}
	})
	t.Run("gone before the start", func(t *testing.T) {
		s, p, session := start(t)
		gone := s.present().gone
		p.Close()
		<-gone
		refused(t, s, nil, "the primary has its backup; another can join only a machine that starts")
		s.tick(2 * s.opt.Core.SuspectTicks) // it could have come back until now
		s.log.awaitLine(t, "waiting for another backup")
		if _, _, err := enter(t, s.address(), nil); err != nil {
			t.Errorf("another was turned away: %v", err)
		}
		refused(t, s, session, errOtherMachine.Error())
	})
	t.Run("back before the start", func(t *testing.T) {
		s, p, session := start(t)
		gone := s.present().gone
		p.Close()
		<-gone
		p, _, err := enter(t, s.address(), session)
		if err != nil {
			t.Fatal(err)
		}
		p.say(replica.Ack{})
		p.hear()
	})
	t.Run("over", func(t *testing.T) {
		s, p, session := start(t)
		s.Quit("enough")
		p.hearUntil(isGoodbye)
		p.Close()
		s.ends(t)
		if _, err := s.admit(nil); err == nil || err.Error() != "the primary has stopped" {
			t.Errorf("a machine that is over lets a new backup in: %v", err)
		}
		// The backup may have missed the last word. A refusal would make it stop; it is to find out
		// by itself that the primary is gone.
		if _, err := s.admit(session); err != nil {
			t.Errorf("a machine that is over turns its backup away: %v", err)
		}
	})
}

func FuzzReadHello(f *testing.F) {
	for _, s := range strangers {
		f.Add([]byte(s.data))
	}
	noise := make([]byte, 1000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	f.Add(noise)
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		go func() {
			theirs.Write(data)
			theirs.Close()
		}()
		if h, err := readHello(newLink(ours)); err == nil {
			difference(helloMessage(list("a", "b"), nil).GetHello(), h)
		}
		ours.Close()
	})
}
