package pair

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"ftvm/epoch"
	"ftvm/host"
	"ftvm/replica"
)

// TestMain also checks that no goroutine of a node is left when all nodes are over.
func TestMain(m *testing.M) {
	code := m.Run()
	stacks := make([]byte, 1<<20)
	for late := time.Now().Add(patience); code == 0; runtime.Gosched() {
		left := string(stacks[:runtime.Stack(stacks, true)])
		if _, others, _ := strings.Cut(left, "\n\n"); !strings.Contains(others, "ftvm/replica/pair.(*") {
			break
		}
		if time.Now().After(late) {
			fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// work is a script with everything in it. It is typed "hello, world".
var work = []op{
	say("begin\n"), write(0, 1, "one"), write(1, 1, "uno"), think(9), await(), read(0, 1), await(), read(1, 1), await(), show(), say("\n"),
	ask(5), write(0, 2, "two"), say("middle\n"), think(20), write(0, 1, "three"), await(), ask(7), read(0, 1), await(), show(),
	say("\nend\n"), off(),
}

// workShows is what it prints.
const workShows = "begin\nuno\x00\x00\x00\x00\x00\nhellomiddle\n, worldthree\x00\x00\x00\nend\n"

// variants are the settings under which everything must work.
func variants(t *testing.T, f func(t *testing.T, change func(s *side))) {
	for _, verified := range []bool{false, true} {
		for _, exact := range []bool{false, true} {
			for _, length := range []uint64{1, 7, 1000} {
				t.Run(fmt.Sprintf("verified=%v/exact=%v/length=%d", verified, exact, length), func(t *testing.T) {
					t.Parallel()
					f(t, func(s *side) {
						s.opt.Core.Verified, s.machine.exact, s.opt.EpochLength = verified, exact, length
					})
				})
			}
		}
	}
}

// sameMachine checks that two replicas ended as the same machine, with the same disks.
func sameMachine(t *testing.T, p, b *side) {
	t.Helper()
	rp, rb := p.Report(), b.Report()
	if rp.Digest != rb.Digest || rp.Position != rb.Position || rp.Epochs != rb.Epochs || rp.End != rb.End {
		t.Errorf("primary %+v\nbackup  %+v", rp, rb)
	}
	for i := range p.disks {
		if d, e := p.disks[i].blocks, b.disks[i].blocks; !maps.Equal(d, e) {
			t.Errorf("disk %d: primary %v, backup %v", i, d, e)
		}
	}
}

// TestLockstep: both replicas go from the same start to the same end, and only the primary is seen.
func TestLockstep(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, change, work...)
		p.Type([]byte("hello"))
		p.Type([]byte(", world"))
		p.ends(t)
		b.ends(t)
		sameMachine(t, p, b)
		if got := p.console.text(); got != workShows {
			t.Errorf("the primary showed %q, want %q", got, workShows)
		}
		if got := b.console.text(); got != "" {
			t.Errorf("the backup showed %q", got)
		}
		rp, rb := p.Report(), b.Report()
		if rp.Role != "primary" || rb.Role != "backup" || rp.Takeover != nil || rb.Takeover != nil {
			t.Errorf("primary %+v\nbackup  %+v", rp, rb)
		}
		if rp.End != "power-off" || rp.ShippedBytes == 0 || rb.ShippedBytes == 0 {
			t.Errorf("primary %+v\nbackup  %+v", rp, rb)
		}
	})
}

// TestAlone: a node without another replica.
func TestAlone(t *testing.T) {
	s := newSide("alone", work...)
	s.startAlone(t)
	s.Type([]byte("hello, world"))
	s.ends(t)
	if got := s.console.text(); got != workShows {
		t.Errorf("showed %q, want %q", got, workShows)
	}
}

// TestTakeover: the primary dies while the guest waits for input, with requests in flight or
// without. What it showed and what the backup shows then is one stream, in which only what was not
// known to have left is there twice.
func TestTakeover(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, change, work...)
		p.Type([]byte("hel"))
		p.console.awaitText(t, "hel")
		p.die()
		b.log.awaitLine(t, "this replica is the primary now")
		b.Type([]byte("lo, world"))
		b.ends(t)
		oneStream(t, p, b, workShows)
		r := b.Report()
		if r.Role != "primary" || r.Takeover == nil || r.Takeover.ConsoleFrom != b.console.from || r.End != "power-off" {
			t.Errorf("report %+v, takeover %+v", r, r.Takeover)
		} else if k := r.Takeover; !(k.DetectedNs <= k.FirstInstructionNs && k.FirstInstructionNs <= k.PrimaryNs) {
			t.Errorf("takeover %+v", k)
		}
		if got := b.disks[0].blocks[8]; got != "three\x00\x00\x00" {
			t.Errorf("the survivor's disk has %q", got)
		}
	})
}

// oneStream checks that what two replicas showed, one after the other, is want without a gap.
func oneStream(t *testing.T, p, b *side, want string) {
	t.Helper()
	before, after, from := p.console.text(), b.console.text(), b.console.from
	if from > uint64(len(before)) {
		t.Fatalf("the primary showed %q, the backup goes on at byte %d", before, from)
	}
	if !strings.HasPrefix(want, before) || want[from:] != after {
		t.Errorf("the primary showed %q, the backup from byte %d on %q; want %q", before, from, after, want)
	}
}

// TestOutputsAreRepeatedFromWhatWasConfirmed: exactly.
func TestOutputsAreRepeatedFromWhatWasConfirmed(t *testing.T) {
	for confirmed := range uint64(7) {
		t.Run(fmt.Sprint(confirmed), func(t *testing.T) {
			t.Parallel()
			p, b := newPair(t, func(s *side) { s.console.held = s.name == "the primary" }, say("abcdef"), ask(1), say("ghi"), off())
			p.console.awaitText(t, "abcdef")
			p.ConsoleSent(confirmed, nil)
			p.Type([]byte("-")) // the record with this tells the backup
			p.console.awaitText(t, "abcdef-ghi")
			p.die()
			b.ends(t)
			if want := "abcdef-ghi"[confirmed:]; b.console.from != confirmed || b.console.text() != want {
				t.Errorf("the backup showed %q from byte %d on, want %q from %d on", b.console.text(), b.console.from, want, confirmed)
			}
		})
	}
}

// TestHeartbeatConfirms: while nothing else is sent, heartbeats tell how much has left.
func TestHeartbeatConfirms(t *testing.T) {
	p, b := newPair(t, func(s *side) { s.console.held = s.name == "the primary" }, say("abcdef"), ask(1), off())
	p.console.awaitText(t, "abcdef")
	p.ConsoleSent(4, nil)
	p.tick(1)
	// It comes after the heartbeat on the same connection.
	p.Type([]byte("-"))
	p.console.awaitText(t, "abcdef-")
	p.die()
	b.ends(t)
	if b.console.text() != "ef-" {
		t.Errorf("the backup showed %q, want %q", b.console.text(), "ef-")
	}
}

// TestBackupLost: the primary goes on alone after a while.
func TestBackupLost(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, change, work...)
		p.Type([]byte("hel"))
		p.console.awaitText(t, "hel")
		// It cannot be reached again, as if its host were dead.
		b.step(func(c *replica.Core) { b.addr = "127.0.0.1:0" })
		gone := p.present().gone
		b.die()
		<-gone
		p.Type([]byte("lo, world"))
		p.tick(2 * p.opt.Core.SuspectTicks)
		p.ends(t)
		if got := p.console.text(); got != workShows {
			t.Errorf("showed %q, want %q", got, workShows)
		}
		p.log.awaitLine(t, "going on alone, without a backup")
	})
}

// TestReconnect: connections that break while both live are made again, and nothing is lost.
func TestReconnect(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, change, work...)
		for i, key := range []byte("hello, world") {
			p.Type([]byte{key})
			cut := []*side{p, b}[i%2].present()
			cut.Close()
			<-cut.gone
		}
		p.ends(t)
		b.ends(t)
		sameMachine(t, p, b)
		if got := p.console.text(); got != workShows {
			t.Errorf("showed %q, want %q", got, workShows)
		}
	})
}

// TestDivergence: a backup that is another machine stops and says so; the primary goes on.
func TestDivergence(t *testing.T) {
	variants(t, func(t *testing.T, change func(s *side)) {
		p, b := newPair(t, func(s *side) {
			change(s)
			if s.name == "the backup" {
				s.machine.spoil = 12
			}
		}, work...)
		p.console.awaitText(t, "uno")
		p.Type([]byte("hello"))
		err := b.wait(t) // while the guest waits for more
		var d *epoch.Divergence
		if !errors.As(err, &d) || d.Field != "digest" || d.Position < 12 || d.State == nil {
			t.Errorf("the backup stopped with %v", err)
		}
		p.Type([]byte(", world"))
		p.ends(t)
		if got := p.console.text(); got != workShows {
			t.Errorf("showed %q, want %q", got, workShows)
		}
		p.log.awaitLine(t, "it leaves: divergence at the end of epoch")
		if r := b.Report(); r.Role != "backup" || r.Takeover != nil {
			t.Errorf("the backup reports %+v", r)
		}
	})
}

// TestHostTrouble: trouble of one host stops its replica, and the other goes on.
func TestHostTrouble(t *testing.T) {
	broken := errors.New("input/output error")
	for _, row := range []struct {
		name  string
		spoil func(s *side)
		want  error
		// backupToo is whether a backup meets that.
		backupToo bool
	}{
		{"disk", func(s *side) { s.disks[0].broken = broken }, broken, true},
		{"second disk", func(s *side) { s.disks[1].broken = broken }, broken, true},
		{"console", func(s *side) { s.console.broken = broken }, broken, false},
		{"engine", func(s *side) { s.machine.fails = 10 }, errToy, true},
	} {
		for _, sick := range []string{"the primary", "the backup"} {
			if sick == "the backup" && !row.backupToo {
				continue
			}
			t.Run(row.name+" of "+sick, func(t *testing.T) {
				t.Parallel()
				p, b := newPair(t, func(s *side) {
					if s.name == sick {
						row.spoil(s)
					}
				}, work...)
				fails, goesOn := p, b
				if sick == "the backup" {
					fails, goesOn = b, p
				}
				if err := fails.wait(t); !errors.Is(err, row.want) {
					t.Errorf("%s stopped with %v, want %v", sick, err, row.want)
				}
				goesOn.log.awaitLine(t, row.want.Error())
				if goesOn == b {
					b.log.awaitLine(t, "this replica is the primary now")
				}
				goesOn.Type([]byte("hello, world"))
				goesOn.ends(t)
				if goesOn == b {
					oneStream(t, p, b, workShows)
				} else if got := p.console.text(); got != workShows {
					t.Errorf("showed %q, want %q", got, workShows)
				}
			})
		}
	}
}

// stages is a script that waits for its disk so many times; it reads back what it wrote.
func stages(n int) (script []op, shows string) {
	for i := range uint64(n) {
		script = append(script, write(0, i, fmt.Sprintf("stage%2d\n", i)), await(), read(0, i), await(), show())
		shows += fmt.Sprintf("stage%2d\n", i)
	}
	return append(script, ask(1), say("end\n"), off()), shows + "xend\n"
}

// TestAwaitedCompletions: what a halted guest waits for on the replica's own disk takes no records.
func TestAwaitedCompletions(t *testing.T) {
	for _, exact := range []bool{false, true} {
		script, shows := stages(50)
		p, b := newPair(t, func(s *side) { s.machine.exact, s.opt.EpochLength, s.opt.EpochTime = exact, 1e6, time.Hour }, script...)
		p.Type([]byte("x"))
		p.ends(t)
		b.ends(t)
		sameMachine(t, p, b)
		if got := p.console.text(); got != shows {
			t.Errorf("showed %q, want %q", got, shows)
		}
		// On a clock that is not exact a completion that comes before the guest halts ends the epoch.
		if n := p.Report().Epochs; exact && n > 20 {
			t.Errorf("it took %d epochs", n)
		}
	}
}

// TestAwaitedTakeover: a primary that dies while its guest waits for the disk has printed what followed from earlier completions,
// none of which is in a record. The backup's own disk says the same.
func TestAwaitedTakeover(t *testing.T) {
	for _, requests := range []int{1, 2, 7, 20} {
		script, shows := stages(20)
		p, b := newPair(t, func(s *side) {
			s.machine.exact, s.opt.EpochLength, s.opt.EpochTime = true, 1e6, time.Hour
			s.disks[0].held = s.name == "the primary"
		}, script...)
		for n := range requests {
			p.disks[0].awaitRequests(t, n+1)
			p.disks[0].finish()
		}
		p.disks[0].awaitRequests(t, requests+1)
		p.die()
		b.log.awaitLine(t, "this replica is the primary now")
		b.Type([]byte("x"))
		b.ends(t)
		oneStream(t, p, b, shows)
	}
}

// TestAwaitedTrouble: a backup whose own disk fails what the primary's did leaves; in the failover epoch, too, as the primary may
// have said what followed.
func TestAwaitedTrouble(t *testing.T) {
	for _, dies := range []bool{false, true} {
		script, shows := stages(5)
		p, b := newPair(t, func(s *side) {
			s.machine.exact, s.opt.EpochLength, s.opt.EpochTime = true, 1e6, time.Hour
			if s.name == "the backup" {
				s.disks[0].broken = errBroken
			}
		}, script...)
		p.console.awaitText(t, "stage 4")
		if dies {
			p.die()
		} else {
			p.Type([]byte("x"))
			p.ends(t)
			if got := p.console.text(); got != shows {
				t.Errorf("showed %q, want %q", got, shows)
			}
		}
		if err := b.wait(t); !errors.Is(err, errBroken) {
			t.Errorf("the backup stopped with %v", err)
		}
	}
}

// TestLeave: whoever is told to leave does so, and the other goes on.
func TestLeave(t *testing.T) {
	t.Run("primary", func(t *testing.T) {
		p, b := newPair(t, nil, work...)
		p.console.awaitText(t, "uno")
		p.cancel()
		p.ends(t)
		b.log.awaitLine(t, "this replica is the primary now")
		b.Type([]byte("hello, world"))
		b.ends(t)
		oneStream(t, p, b, workShows)
	})
	t.Run("backup", func(t *testing.T) {
		p, b := newPair(t, nil, work...)
		p.console.awaitText(t, "uno")
		b.cancel()
		b.ends(t)
		p.log.awaitLine(t, "it leaves: its operator stopped it")
		p.Type([]byte("hello, world"))
		p.ends(t)
		if got := p.console.text(); got != workShows {
			t.Errorf("showed %q, want %q", got, workShows)
		}
	})
	t.Run("waiting", func(t *testing.T) {
		p := newSide("the primary", work...)
		p.startPrimary(t)
		p.cancel()
		p.ends(t)
		if p.machine.pos != 0 {
			t.Errorf("the machine stands at %d", p.machine.pos)
		}
	})
	t.Run("both", func(t *testing.T) {
		p, b := newPair(t, nil, work...)
		p.console.awaitText(t, "uno")
		p.cancel()
		b.cancel()
		p.ends(t)
		b.ends(t)
	})
}

// TestSpinningGuest: a guest without a nameable stop holds up nobody's end.
func TestSpinningGuest(t *testing.T) {
	for name, stop := range map[string]func(s *side){
		"leave": func(s *side) { s.cancel() },
		"quit":  func(s *side) { s.Quit("somebody typed Ctrl-A x") },
		"fail":  func(s *side) { s.Fail(errToy) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSide("alone", say("spin\n"), spin())
			s.startAlone(t)
			<-s.machine.spins
			// Kicks that are not meant to stop it do not.
			s.machine.Kick()
			stop(s)
			if err := s.wait(t); (err != nil) != (name == "fail") {
				t.Errorf("stopped with %v", err)
			}
			if got := s.console.text(); got != "spin\n" {
				t.Errorf("showed %q", got)
			}
		})
	}
}

// TestQuit: whoever ends the machine at the primary ends it on both.
func TestQuit(t *testing.T) {
	p, b := newPair(t, nil, work...)
	p.console.awaitText(t, "uno")
	p.Quit("somebody typed Ctrl-A x")
	p.ends(t)
	b.ends(t)
	b.log.awaitLine(t, "the primary says that the virtual machine is over: somebody typed Ctrl-A x")
	if b.console.text() != "" {
		t.Errorf("the backup showed %q", b.console.text())
	}
	// Late calls find a node that is over.
	p.Type([]byte("x"))
	p.Type([]byte("x"))
	p.Quit("again")
	p.Fail(errToy)
	p.tick(20)
	p.DiskDone(0, host.Completion{Seq: 99})
	p.ConsoleSent(1, nil)
}

// TestQuitAtBackup: there it is only this replica that ends.
func TestQuitAtBackup(t *testing.T) {
	p, b := newPair(t, nil, work...)
	p.console.awaitText(t, "uno")
	b.Quit("somebody typed Ctrl-A x")
	b.ends(t)
	p.log.awaitLine(t, "it leaves: somebody typed Ctrl-A x")
	p.Type([]byte("hello, world"))
	p.ends(t)
}

// TestTypeAtBackup: what is typed there is dropped (P3).
func TestTypeAtBackup(t *testing.T) {
	p, b := newPair(t, nil, work...)
	for range 10 {
		b.Type([]byte("never mind"))
	}
	p.Type([]byte("hello, world"))
	p.ends(t)
	b.ends(t)
	sameMachine(t, p, b)
}

// TestManyTypists: nothing that is typed is lost or torn, and each typist's input keeps its order.
func TestManyTypists(t *testing.T) {
	const each = 50
	p, b := newPair(t, nil, ask(4*each*3), say("."), off())
	for _, c := range "abcd" {
		go func() {
			for range each {
				p.Type([]byte{byte(c), byte(c), byte(c)})
			}
		}()
	}
	p.ends(t)
	b.ends(t)
	sameMachine(t, p, b)
	text := p.console.text()
	for i := 0; i+3 <= len(text); i += 3 {
		if text[i] != text[i+1] || text[i] != text[i+2] {
			t.Fatalf("torn at %d: %q", i, text)
		}
	}
	if len(text) != 4*each*3+1 {
		t.Errorf("%d bytes came out", len(text))
	}
}
