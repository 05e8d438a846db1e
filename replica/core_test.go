package replica

import (
	"errors"
	"testing"

	"ftvm/epoch"
	"ftvm/vmm"
)

var config = Config{MaxLag: 4, SuspectTicks: 3}

// begun is how every primary's transcript begins: its backup comes, and the machine starts.
const begun = `
	connected 1 : -> wait
	ack 0 0     : -> run
	boundary    : opens record 0, send record 0 -> run
	ack 1 1     : -> run
`

// followed is how every backup's transcript begins: it comes, and repeats epoch 0.
const followed = `
	connected 1 : send ack 0 0 -> wait
	record 0    : send ack 1 0 -> replay 0
	executed    : send ack 1 1 -> wait
`

// What reaches the primary is not delivered: it goes into the record of the next boundary,
// in the order in which it came, whole and once.
func TestP1(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		type a   : -> run
		disk 0   : -> run
		type b   : -> run
		boundary : opens record 1 type a disk 0 type b, send record 1 type a disk 0 type b -> run
		boundary : opens record 2, send record 2 -> run
	`)
	// A request is outstanding until its completion is in a record.
	c := NewPrimary(config, false)
	play(t, c, begun+`
		writes 0 : release write 0 -> run
		writes 1 : release write 1 -> run
		disk 0   : -> run
	`)
	if n := len(c.gate.Outstanding()); n != 2 {
		t.Errorf("%d requests are outstanding before the boundary, want 2", n)
	}
	play(t, c, `boundary : opens record 1 disk 0, send record 1 disk 0 -> run`)
	if n := len(c.gate.Outstanding()); n != 1 {
		t.Errorf("%d requests are outstanding after the boundary, want 1", n)
	}
}

// At a boundary the primary appends the record, ships it, and goes on without waiting.
func TestP2(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		boundary : opens record 1, send record 1 -> run
		boundary : opens record 2, send record 2 -> run
		boundary : opens record 3, send record 3 -> run
	`)
}

// A backup ignores what its own host brings. What it had ignored is not there later, when it
// is the primary.
func TestP3(t *testing.T) {
	play(t, NewBackup(config), followed+`
		type a              : -> wait
		record 1            : send ack 2 1 -> replay 1
		disk 0              : -> replay 1
		disconnected 1      : dial -> replay 1
		no-such-process     : claim -> replay 1
		claimed won         : -> replay 1
		type b              : -> replay 1
		executed            : -> failover
		type c              : -> failover
		boundary            : opens record 2 -> run
		type d              : -> run
		boundary            : opens record 3 type d -> run
	`)
}

// A backup acknowledges a record when it holds it, before it repeats the epoch; and says how
// far it has verified.
func TestP4(t *testing.T) {
	play(t, NewBackup(config), followed+`
		record 1 : send ack 2 1 -> replay 1
		record 2 : send ack 3 1 -> replay 1
	`)
	lazy := config
	lazy.MaxLag = 16
	play(t, NewBackup(lazy), `
		connected 1 : send ack 0 0 -> wait
		record 0    : send ack 1 0 -> replay 0
		record 1    : send ack 2 0 -> replay 0
		record 2    : send ack 3 0 -> replay 0
		record 3    : send ack 4 0 -> replay 0
		# What it has verified, the next acknowledgement will say; at every fourth of the
		# lag that the primary allows, at once.
		executed    : -> replay 1
		executed    : -> replay 2
		# An acknowledgement was as good as a heartbeat; the next tick has none yet.
		tick        : -> replay 2
		tick        : send ack 4 2 -> replay 2
		executed    : -> replay 3
		executed    : send ack 4 4 -> wait
	`)
}

// A backup runs an epoch only when it holds the record that ends it.
func TestP5(t *testing.T) {
	play(t, NewBackup(config), `
		connected 1 : send ack 0 0 -> wait
		record 0    : send ack 1 0 -> replay 0
		executed    : send ack 1 1 -> wait
		heartbeat 0 : -> wait
		record 1    : send ack 2 1 -> replay 1
		executed    : send ack 2 2 -> wait
	`)
}

// A backup that takes over uses up its records first, then runs the failover epoch without
// inputs, and is the primary after it. What was held for the console leaves at once.
func TestP6(t *testing.T) {
	play(t, NewBackup(config), followed+`
		record 1         : send ack 2 1 -> replay 1
		record 2         : send ack 3 1 -> replay 1
		prints 0 one     : -> replay 1
		disconnected 1   : dial -> replay 1
		no-such-process  : claim -> replay 1
		claimed won      : release print 0 one -> replay 1
		executed         : -> replay 2
		prints 3 two     : release print 3 two -> replay 2
		executed         : -> failover
		type a           : -> failover
		prints 6 three   : release print 6 three -> failover
		boundary         : opens record 3 -> run
	`)
}

// Requests without a completion in any record are issued again when the failover epoch is
// over, in their order; others are not.
func TestP7(t *testing.T) {
	play(t, NewBackup(config), followed+`
		writes 0        : release write 0 -> wait
		writes 1        : release write 1 -> wait
		record 1 disk 0 : send ack 2 1 -> replay 1
		disconnected 1  : dial -> replay 1
		no-such-process : claim -> replay 1
		claimed won     : -> replay 1
		executed        : -> failover
		writes 2        : release write 2 -> failover
		boundary        : opens record 2, repeat write 1 write 2 -> run
		disk 1          : -> run
		boundary        : opens record 3 disk 1 -> run
	`)
}

// An output leaves when the record that opened its epoch is committed, no earlier, and
// needs nothing more.
func TestOutputRule(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		# Record 0 is held by the backup: what epoch 0 makes leaves at once.
		prints 0 a : release print 0 a -> run
		boundary   : opens record 1, send record 1 -> run
		prints 1 b : -> run
		ack 1 1    : -> run
		# The primary's own image is not the outside world.
		writes 0   : release write 0 -> run
		ack 2 1    : release print 1 b -> run
		prints 2 c : release print 2 c -> run
	`)
}

// Where commit means verified, the epoch must have been executed on the backup, digest and
// all: that is when the record that ends it is applied there.
func TestOutputRuleVerified(t *testing.T) {
	verified := config
	verified.Verified = true
	c := NewPrimary(verified, false)
	play(t, c, begun+`
		prints 0 a : -> run
		ack 1 1    : -> run
		boundary   : opens record 1, send record 1 -> run
		prints 1 b : -> run
		ack 2 1    : -> run
		ack 2 2    : release print 0 a -> run
	`)
	if !c.BoundaryWanted() {
		t.Error("an output of the present epoch waits, and nobody says that a boundary is wanted")
	}
	play(t, c, "boundary : opens record 2, send record 2 -> run")
	if c.BoundaryWanted() {
		t.Error("a boundary is wanted for an output whose epoch is over: it would bring nothing")
	}
}

// A primary alone waits for nobody.
func TestAlone(t *testing.T) {
	play(t, NewPrimary(config, true), `
		boundary       : opens record 0 -> run
		prints 0 a     : release print 0 a -> run
		tick           : -> run
		boundary ended : opens record 1 ended -> wait
		left 1         : -> stop
	`)
}

// A primary that is too far ahead of what the backup has repeated waits.
func TestBackPressure(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		boundary : opens record 1, send record 1 -> run
		boundary : opens record 2, send record 2 -> run
		boundary : opens record 3, send record 3 -> run
		boundary : opens record 4, send record 4 -> run
		boundary : opens record 5, send record 5 -> wait
		ack 6 1  : -> wait
		ack 6 2  : -> run
		boundary : opens record 6, send record 6 -> wait
	`)
	lockstep := Config{SuspectTicks: 3}
	play(t, NewPrimary(lockstep, false), `
		connected 1 : -> wait
		ack 0 0     : -> run
		boundary    : opens record 0, send record 0 -> wait
		ack 1 0     : -> wait
		ack 1 1     : -> run
	`)
}

// A primary also waits, at a boundary or within an epoch, when the backup has too much to repeat, however few epochs that is: each
// boundary ends 10 ns of work.
func TestWork(t *testing.T) {
	play(t, NewPrimary(Config{MaxLag: 64, MaxWork: 25, SuspectTicks: 3}, false), begun+`
		boundary : opens record 1, send record 1 -> run
		boundary : opens record 2, send record 2 -> run for 5
		boundary : opens record 3, send record 3 -> wait
		ack 4 1  : -> wait
		ack 4 2  : -> run for 5
		ack 4 3  : -> run
		boundary : opens record 4, send record 4 -> run for 5
		ack 5 5  : -> run
	`)
	// The backup tells at once of what it has executed only if the primary may be waiting for that.
	play(t, NewBackup(Config{MaxLag: 64, MaxWork: 320, SuspectTicks: 3}), `
		connected 1  : send ack 0 0 -> wait
		record 0 100 : send ack 1 0 -> replay 0
		executed     : -> wait
		record 1 200 : send ack 2 1 -> replay 1
		record 2 300 : send ack 3 1 -> replay 1
		executed     : send ack 3 2 -> replay 2
		executed     : -> wait
	`)
}

// Records that are not known to be held are sent again on a new connection, as soon as
// the backup has told where it stands; what comes late on the old connection does not count.
func TestReconnect(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		boundary       : opens record 1, send record 1 -> run
		boundary       : opens record 2, send record 2 -> run
		disconnected 1 : -> run
		prints 0 a     : -> run
		boundary       : opens record 3 -> run
		connected 2    : -> run
		# It does not know yet what the backup holds.
		boundary       : opens record 4 -> run
		late 1 ack 3 1 : -> run
		ack 2 2        : send record 2, send record 3, send record 4 -> run
		disconnected 1 : -> run
		ack 5 2        : release print 0 a -> run
		boundary       : opens record 5, send record 5 -> run
	`)
	play(t, NewBackup(config), followed+`
		disconnected 1   : dial -> wait
		# One attempt at a time.
		tick             : -> wait
		unreachable      : -> wait
		tick             : dial -> wait
		connected 2      : send ack 1 1 -> wait
		record 1         : send ack 2 1 -> replay 1
		late 1 record 2  : -> replay 1
		disconnected 1   : -> replay 1
		# It had this one already.
		record 0         : -> replay 1
		record 2         : send ack 3 1 -> replay 1
	`)
}

// What the next record takes is told to those who would give it more: nothing is left over for the one after.
func TestRoom(t *testing.T) {
	c := NewPrimary(config, true)
	room := func(want int) {
		t.Helper()
		if got := c.Room(); got != want {
			t.Errorf("room for %d bytes, want %d", got, want)
		}
	}
	play(t, c, "boundary : opens record 0 -> run")
	room(maxRecord)
	play(t, c, "brings 700000 : -> run")
	room(maxRecord - 700000)
	play(t, c, "brings 700000 : -> run")
	room(0)
	play(t, c, "boundary : opens record 1 frame of 700000 -> run")
	room(maxRecord - 700000)
	c = NewPrimary(config, false)
	play(t, c, begun+"trouble : -> run")
	room(0)
}

// A peer that is silent counts as failed; a backup without a connection claims first.
func TestSilence(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		tick        : -> run
		tick        : send heartbeat 0 -> run
		ack 1 1     : -> run
		tick        : send heartbeat 0 -> run
		tick        : send heartbeat 0 -> run
		prints 0 a  : release print 0 a -> run
		boundary    : opens record 1, send record 1 -> run
		prints 1 b  : -> run
		tick        : claim -> run
		# It has not won yet: nothing more may leave. It asks once.
		tick        : send heartbeat 0 -> run
		claimed won : send goodbye dropped, release print 1 b -> run
		boundary    : opens record 2 -> run
	`)
	play(t, NewPrimary(config, false), begun+`
		disconnected 1 : -> run
		tick           : -> run
		tick           : -> run
		tick           : -> run
		tick           : -> run
		tick           : -> run
		tick           : claim -> run
	`)
	play(t, NewBackup(config), followed+`
		disconnected 1 : dial -> wait
		tick           : -> wait
		tick           : -> wait
		tick           : claim -> wait
		claimed won    : -> failover
	`)
	// One that lets it in again and again, and says nothing.
	play(t, NewBackup(config), followed+`
		disconnected 1 : dial -> wait
		connected 2    : send ack 1 1 -> wait
		tick           : -> wait
		disconnected 2 : dial -> wait
		connected 3    : send ack 1 1 -> wait
		tick           : -> wait
		disconnected 3 : dial -> wait
		connected 4    : send ack 1 1 -> wait
		tick           : claim -> wait
	`)
}

// Ticks are counted as they are lived through: one that was stopped for an hour gives its
// peer's words a chance to be read.
func TestSlowProcess(t *testing.T) {
	play(t, NewBackup(config), followed+`
		tick        : -> wait
		tick        : send ack 1 1 -> wait
		heartbeat 0 : -> wait
		tick        : send ack 1 1 -> wait
		tick        : send ack 1 1 -> wait
	`)
}

// Of two that claim the arbiter lets one go on; the other stops and says nothing.
func TestArbiter(t *testing.T) {
	primary, backup := NewPrimary(config, false), NewBackup(config)
	play(t, primary, begun+`
		boundary    : opens record 1, send record 1 -> run
		prints 0 a  : -> run
		tick        : -> run
		tick        : send heartbeat 0 -> run
		tick        : send heartbeat 0, claim -> run
		claimed lost : -> stop with an error
		ack 2 2     : -> stop with an error
		prints 1 b  : -> stop with an error
		tick        : -> stop with an error
	`)
	play(t, backup, followed+`
		tick        : -> wait
		tick        : send ack 1 1 -> wait
		tick        : send ack 1 1, claim -> wait
		# What it acknowledged is what it goes on from: nothing that comes now counts.
		record 1    : -> wait
		tick        : -> wait
		claimed won : send goodbye dropped -> failover
		record 1    : -> failover
		boundary    : opens record 1 -> run
	`)
	if !errors.Is(primary.Result(), ErrDropped) {
		t.Errorf("the primary stops with %v; want ErrDropped", primary.Result())
	}
}

// An old primary that was only slow cannot do harm: it goes on to run, and what it makes waits
// for a commit that nobody gives.
func TestSlowPrimary(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		boundary        : opens record 1, send record 1 -> run
		prints 0 a      : -> run
		boundary        : opens record 2, send record 2 -> run
		prints 1 b      : -> run
		goodbye dropped : -> stop with an error
		# The machine's goroutine has not noticed yet.
		prints 2 c      : -> stop with an error
		ack 3 3         : -> stop with an error
		boundary        : opens record 3 -> stop with an error
	`)
}

// Whoever comes to one that has gone on alone must know that it does not count: without an arbiter
// it would go on alone as well, after a while of silence.
func TestTooLate(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		disconnected 1  : -> run
		tick : -> run
		tick : -> run
		tick : -> run
		tick : -> run
		tick : -> run
		tick : claim -> run
		claimed won     : -> run
		connected 2     : send goodbye dropped -> run
		ack 1 1         : -> run
		goodbye dropped : -> run
	`)
	play(t, NewBackup(config), followed+`
		disconnected 1  : dial -> wait
		tick : -> wait
		tick : -> wait
		tick : claim -> wait
		claimed won     : -> failover
		connected 2     : send goodbye dropped -> failover
	`)
}

// A backup that the primary turns away stops; one that took over meanwhile does not.
func TestTurnedAway(t *testing.T) {
	play(t, NewBackup(config), followed+`
		disconnected 1 : dial -> wait
		refused        : -> stop with an error
	`)
	play(t, NewBackup(config), followed+`
		disconnected 1 : dial -> wait
		tick           : -> wait
		tick           : -> wait
		tick           : claim -> wait
		claimed won    : -> failover
		refused        : -> failover
	`)
}

// The guest's end: the last outputs leave, the backup holds the last record, then both stop.
func TestGuestEnd(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		boundary       : opens record 1, send record 1 -> run
		prints 0 bye   : -> run
		type a         : -> run
		boundary ended : opens record 2 ended, send record 2 ended -> wait
		type b         : -> wait
		ack 2 1        : release print 0 bye -> wait
		ack 3 1        : -> wait
		left 2         : -> wait
		left 3         : send goodbye ended -> stop
	`)
	play(t, NewBackup(config), followed+`
		prints 0 bye   : -> wait
		record 1       : send ack 2 1 -> replay 1
		record 2 ended : send ack 3 1 -> replay 1
		goodbye ended 3 : -> replay 1
		disconnected 1 : -> replay 1
		executed       : -> replay 2
		executed       : -> stop
	`)
}

// If the primary dies with the guest's end shipped and the last words unsaid, the backup
// says them. A guest's crash is an end like others, and no reason to run it again.
func TestGuestEndUnsaid(t *testing.T) {
	play(t, NewBackup(config), followed+`
		prints 0 bye    : -> wait
		record 1 ended  : send ack 2 1 -> replay 1
		executed        : send ack 2 2 -> wait
		heartbeat 2     : -> wait
		disconnected 1  : dial -> wait
		no-such-process : claim -> wait
		claimed won     : release print 2 e -> wait
		left 3          : -> stop
	`)
	play(t, NewBackup(config), followed+`
		record 1 ended  : send ack 2 1 -> replay 1
		disconnected 1  : dial -> replay 1
		no-such-process : claim -> replay 1
		claimed won     : -> replay 1
		prints 0 bye    : release print 0 bye -> replay 1
		executed        : -> wait
		left 3          : -> stop
	`)
	// The guest ends within the failover epoch.
	play(t, NewBackup(config), followed+`
		disconnected 1  : dial -> wait
		no-such-process : claim -> wait
		claimed won     : -> failover
		boundary ended  : opens record 1 ended -> stop
	`)
	// The backup is lost while the primary waits for it to hold the last record.
	play(t, NewPrimary(config, false), begun+`
		boundary ended  : opens record 1 ended, send record 1 ended -> wait
		goodbye leaving : claim -> wait
		claimed won     : send goodbye dropped -> stop
	`)
}

// An operator's end is not to be survived, however far behind the backup is, and whatever it
// had begun.
func TestQuit(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		quit  : send goodbye quit -> stop
		# The last word is the last.
		fail  : -> stop
		leave : -> stop
	`)
	play(t, NewBackup(config), followed+`
		record 1       : send ack 2 1 -> replay 1
		goodbye quit   : -> replay 1
		tick           : -> replay 1
		tick           : send ack 2 1 -> replay 1
		tick           : send ack 2 1 -> replay 1
		tick           : send ack 2 1 -> replay 1
		disconnected 1 : -> replay 1
		tick           : -> replay 1
		executed       : -> stop
	`)
	play(t, NewBackup(config), followed+`
		record 1       : send ack 2 1 -> replay 1
		tick           : -> replay 1
		tick           : send ack 2 1 -> replay 1
		tick           : send ack 2 1, claim -> replay 1
		goodbye quit   : -> replay 1
		claimed won    : -> replay 1
		executed       : -> stop
	`)
	// A backup's operator ends the backup only.
	play(t, NewBackup(config), followed+`
		quit : send goodbye leaving -> stop
	`)
}

// A replica that leaves, by its operator's will or because of its host, hands over at once.
func TestLeaving(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		leave : send goodbye leaving -> stop
	`)
	play(t, NewPrimary(config, false), begun+`
		fail : send goodbye leaving -> stop with an error
	`)
	play(t, NewPrimary(config, false), begun+`
		goodbye leaving : claim -> run
		claimed won     : send goodbye dropped -> run
		boundary        : opens record 1 -> run
	`)
	play(t, NewBackup(config), followed+`
		record 1          : send ack 2 1 -> replay 1
		goodbye leaving 5 : claim -> replay 1
		prints 3 abcd     : -> replay 1
		claimed won       : send goodbye dropped, release print 5 cd -> replay 1
		executed          : -> failover
	`)
}

// A backup that was let in and is gone before the machine began takes nothing with it: the
// primary waits for another, once it is sure that the first cannot begin the machine by itself.
func TestLostBeforeTheBeginning(t *testing.T) {
	play(t, NewPrimary(config, false), `
		tick           : -> wait
		connected 1    : -> wait
		tick           : send heartbeat 0 -> wait
		disconnected 1 : -> wait
		tick           : -> wait
		tick           : -> wait
		tick           : -> wait
		tick           : -> wait
		tick           : claim -> wait
		claimed won    : hang up -> wait
		tick           : -> wait
		connected 2    : -> wait
		ack 0 0        : -> run
	`)
	// It is there and silent, or comes again and again and says nothing.
	play(t, NewPrimary(config, false), `
		connected 1    : -> wait
		tick           : send heartbeat 0 -> wait
		connected 2    : -> wait
		tick           : send heartbeat 0 -> wait
		connected 3    : -> wait
		tick           : send heartbeat 0, claim -> wait
	`)
	play(t, NewPrimary(config, false), `
		connected 1 : -> wait
		tick        : send heartbeat 0 -> wait
		tick        : send heartbeat 0 -> wait
		tick        : send heartbeat 0, claim -> wait
		claimed won : send goodbye dropped, hang up -> wait
		ack 0 0     : -> wait
		connected 2 : -> wait
		ack 0 0     : -> run
	`)
	play(t, NewPrimary(config, false), `
		connected 1     : -> wait
		goodbye leaving : claim -> wait
		claimed lost    : -> stop with an error
	`)
}

// Console bytes that are known to have left are not sent again: by a record's or a
// heartbeat's word, or a last word.
func TestLeft(t *testing.T) {
	play(t, NewBackup(config), followed+`
		prints 0 abcdef  : -> wait
		heartbeat 2      : -> wait
		record 1 left 3  : send ack 2 1 -> replay 1
		goodbye leaving 4 : claim -> replay 1
		claimed won      : send goodbye dropped, release print 4 ef -> replay 1
	`)
	play(t, NewBackup(config), followed+`
		prints 0 abcdef  : -> wait
		record 1 left 3  : send ack 2 1 -> replay 1
		disconnected 1   : dial -> replay 1
		no-such-process  : claim -> replay 1
		claimed won      : release print 3 def -> replay 1
	`)
	play(t, NewBackup(config), followed+`
		frame 0             : -> wait
		frame 1             : -> wait
		frame 2             : -> wait
		heartbeat 0 1       : -> wait
		record 1 left 0 2   : send ack 2 1 -> replay 1
		frame 3             : -> replay 1
		goodbye leaving 0 3 : claim -> replay 1
		claimed won         : send goodbye dropped, release frame 3 -> replay 1
	`)
}

// A frame has left when it is released: whoever is told so is told after that.
func TestFrames(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		frame 0    : release frame 0 -> run
		boundary   : opens record 1 left 0 1, send record 1 left 0 1 -> run
		frame 1    : -> run
		tick       : -> run
		tick       : send heartbeat 0 1 -> run
		boundary   : opens record 2 left 0 1, send record 2 left 0 1 -> run
		frame 2    : -> run
		ack 2 1    : release frame 1 -> run
		tick       : -> run
		tick       : send heartbeat 0 2 -> run
		ack 3 1    : release frame 2 -> run
	`)
}

// The inputs of a record have a size that a message can have; what is too much comes with the next.
func TestRecordsAreBounded(t *testing.T) {
	c := NewPrimary(config, true)
	play(t, c, `
		boundary       : opens record 0 -> run
		brings 700000  : -> run
		brings 300000  : -> run
		brings 100000  : -> run
		brings 2000000 : -> run
		boundary       : opens record 1 frame of 700000 frame of 300000 -> run
		boundary       : opens record 2 frame of 100000 -> run
	`)
	if !c.BoundaryWanted() {
		t.Error("an input waits, and nobody says that a boundary is wanted")
	}
	play(t, c, "boundary : opens record 3 frame of 2000000 -> run")
	if c.BoundaryWanted() {
		t.Error("a boundary is wanted, and no input waits")
	}
}

// A request to a shared disk waits like every output. A backup never issues one; it drops those that a record has
// the completion of. At a takeover it acquires the disk first, and issues the others when the failover epoch is over.
func TestSharedDisk(t *testing.T) {
	shared := config
	shared.Shared = true
	play(t, NewPrimary(shared, false), begun+`
		writes 0 shared : release write 0 -> run
		boundary        : opens record 1, send record 1 -> run
		writes 1 shared : -> run
		writes 2        : release write 2 -> run
		ack 2 1         : release write 1 -> run
		# It holds the disk already.
		goodbye leaving : claim -> run
	`)
	play(t, NewBackup(shared), followed+`
		writes 0 shared : -> wait
		record 1 disk 0 : send ack 2 1 -> replay 1
		writes 1 shared : -> replay 1
		executed        : send ack 2 2 -> wait
		disconnected 1  : dial -> wait
		no-such-process : acquire -> wait
		tick            : dial -> wait
		acquired        : claim -> wait
		claimed won     : -> failover
		writes 2 shared : -> failover
		prints 0 a      : release print 0 a -> failover
		boundary        : opens record 2, repeat write 1 write 2 -> run
		writes 3 shared : release write 3 -> run
	`)
	// The guest came to its end with a request under way.
	play(t, NewBackup(shared), followed+`
		writes 0 shared : -> wait
		record 1 ended  : send ack 2 1 -> replay 1
		executed        : send ack 2 2 -> wait
		goodbye leaving : acquire -> wait
		acquired        : claim -> wait
		claimed won     : send goodbye dropped, repeat write 0 -> stop
	`)
	play(t, NewBackup(shared), followed+`
		writes 0 shared : -> wait
		record 1 ended  : send ack 2 1 -> replay 1
		goodbye leaving : acquire -> replay 1
		acquired        : claim -> replay 1
		claimed won     : send goodbye dropped -> replay 1
		executed        : repeat write 0 -> stop
	`)
	// While it waits for the disk, it hears that the primary went on alone.
	play(t, NewBackup(shared), followed+`
		tick            : -> wait
		tick            : send ack 1 1 -> wait
		tick            : send ack 1 1, acquire -> wait
		goodbye dropped : -> stop with an error
		acquired        : -> stop with an error
	`)
	play(t, NewBackup(shared), followed+`
		disconnected 1 : dial -> wait
		tick           : -> wait
		tick           : -> wait
		tick           : acquire -> wait
		unreachable    : -> wait
		tick           : dial -> wait
		refused        : -> stop with an error
	`)
}

// Trouble of a primary's host that another host may not have: the backup is asked to go on.
func TestHandover(t *testing.T) {
	c := NewPrimary(config, false)
	play(t, c, begun+`
		writes 0        : release write 0 -> run
		disk 0 fails    : -> run
		trouble         : -> run
		# Only once; and the epoch that was under way ends without what the backup may get better.
		trouble         : -> run
		await           : -> run
		boundary        : awaits nothing, opens record 1, send record 1, send handover -> wait
		tick            : -> wait
		tick            : send heartbeat 0 -> wait
		goodbye dropped : -> stop with an error
	`)
	if err := c.Result(); err == nil || errors.Is(err, ErrDropped) {
		t.Errorf("the primary stops with %v; want its trouble", err)
	}
	play(t, NewBackup(config), followed+`
		handover        : claim, send goodbye dropped -> wait
		record 1        : -> wait
		claimed won     : -> failover
		boundary        : opens record 1 -> run
	`)
	// First it repeats what the primary did. As long as that may fail, it can say no.
	play(t, NewBackup(config), followed+`
		record 1        : send ack 2 1 -> replay 1
		handover        : -> replay 1
		disconnected 1  : dial -> replay 1
		connected 2     : send ack 2 1 -> replay 1
		handover        : -> replay 1
		executed        : send ack 2 2, claim, send goodbye dropped -> wait
		claimed won     : -> failover
	`)
	c = NewBackup(config)
	play(t, c, followed+`
		record 1        : send ack 2 1 -> replay 1
		handover        : -> replay 1
	`)
	c.Fail(errors.New("disk full"))
	play(t, c, "tick : send goodbye leaving -> stop with an error")
	// The backup cannot: the primary goes on, with its trouble.
	play(t, NewPrimary(config, false), begun+`
		writes 0        : release write 0 -> run
		disk 0 fails    : -> run
		trouble         : -> run
		boundary        : awaits nothing, opens record 1, send record 1, send handover -> wait
		goodbye leaving : claim -> wait
		claimed won     : send goodbye dropped -> run
		boundary        : opens record 2 disk 0 -> run
		trouble         : -> run
	`)
	// Once it was asked, a silent backup may have gone on.
	play(t, NewPrimary(config, false), begun+`
		trouble  : -> run
		boundary : awaits nothing, opens record 1, send record 1, send handover -> wait
		tick     : -> wait
		tick     : send heartbeat 0 -> wait
		tick     : send heartbeat 0 -> stop with an error
	`)
	// There is no connection when the trouble comes.
	play(t, NewPrimary(config, false), begun+`
		disconnected 1 : -> run
		trouble        : -> run
		boundary       : awaits nothing, opens record 1 -> wait
		connected 2    : -> wait
		ack 1 1        : send record 1, send handover -> wait
		disconnected 2 : -> wait
		connected 3    : -> wait
		ack 2 1        : send handover -> wait
		quit           : send goodbye leaving -> stop
	`)
	// Nor a backup any more.
	play(t, NewPrimary(config, false), begun+`
		goodbye leaving : claim -> run
		trouble         : -> run
		claimed won     : send goodbye dropped -> run
	`)
	play(t, NewPrimary(config, true), `
		boundary : opens record 0 -> run
		trouble  : -> run
		disk 0   : -> run
		boundary : opens record 1 disk 0 -> run
	`)
}

// While the guest is halted the completion of the oldest request to the replica's own disks may enter without a record.
func TestAwait(t *testing.T) {
	c := NewPrimary(config, false)
	play(t, c, begun+`
		writes 7 shared : release write 7 -> run
		writes 0        : release write 0 -> run
		writes 1        : release write 1 -> run
		writes 2        : release write 2 -> run
		await           : -> run
		disk 1          : -> run
		await           : -> run
		disk 0          : -> run
		await           : awaited 0 -> run
		await           : awaited 1 -> run
		# An error is not the same on all replicas.
		disk 2 fails    : -> run
		await           : -> run
		boundary        : opens record 1 disk 2, send record 1 disk 2 -> run
	`)
	c = NewPrimary(config, false)
	play(t, c, begun+`
		writes 0 : release write 0 -> run
		disk 0   : -> run
	`)
	if !c.Awaitable() {
		t.Error("what a guest that halts now would wait for is there, and the epoch is to end all the same")
	}
	c.Input(vmm.Input{Kind: vmm.InputConsole, Data: []byte("x")})
	if c.Awaitable() {
		t.Error("something else waits, and the epoch is not to end")
	}
	// A backup that takes over does not repeat what entered in its failover epoch.
	c = NewBackup(config)
	play(t, c, followed+`
		writes 0              : release write 0 -> wait
		writes 1              : release write 1 -> wait
		goodbye leaving       : claim -> wait
		claimed won           : send goodbye dropped -> failover
	`)
	if device, id, ok := c.Oldest(); device != 0 || id != 0 || !ok {
		t.Errorf("the oldest request is %d of disk %d, %v", id, device, ok)
	}
	c.Awaited(0, 0)
	play(t, c, "boundary : opens record 1, repeat write 1 -> run")
}

// Hostile or broken words do no harm to the machine: a primary goes on without such a backup,
// a backup leaves such a primary.
func TestHostile(t *testing.T) {
	for _, words := range []string{
		"ack 2 0",                  // what there is not
		"ack 18446744073709551615", // nor ever will be
		"ack 1 2",                  // verified and not held
		"ack 0 0",                  // less than before
		"record 1",
		"goodbye quit",
		"goodbye ended",
		"handover",
		"garbage",
	} {
		c := NewPrimary(config, false)
		play(t, c, begun+words+` : claim -> run
			claimed won : send goodbye dropped -> run
			boundary    : opens record 1 -> run
		`)
	}
	for _, words := range []string{"record 2", "record 18446744073709551615", "ack 0 0", "garbage"} {
		c := NewBackup(config)
		play(t, c, followed+words+` : send goodbye leaving -> stop with an error`)
		if !errors.Is(c.Result(), ErrPeer) {
			t.Errorf("after %s: %v; want ErrPeer", words, c.Result())
		}
	}
	// One that has not even begun is turned away, and another may come.
	play(t, NewPrimary(config, false), `
		connected 1 : -> wait
		ack 1 0     : hang up -> wait
		tick        : -> wait
		connected 2 : -> wait
		ack 0 0     : -> run
	`)
}

// A backup's word for how much has left is not believed: the primary would withhold what never left.
func TestBackupHasNoWordOnTheConsole(t *testing.T) {
	play(t, NewPrimary(config, false), begun+`
		heartbeat 100       : -> run
		goodbye leaving 100 : claim -> run
		prints 0 a          : release print 0 a -> run
	`)
}

// Guest time never goes back, whatever the host's clock says, and whatever it is on another host.
func TestTime(t *testing.T) {
	c := NewPrimary(config, true)
	for _, step := range []struct{ guest, host, want vmm.Time }{{0, 100, 100}, {150, 200, 200}, {250, 90, 250}, {260, 300, 300}} {
		if r := c.Boundary(epoch.Boundary{Time: step.guest}, Opening{Time: step.host, Length: 1}); r.Time != step.want {
			t.Errorf("the guest is at %d, the host at %d: the record says %d, want %d", step.guest, step.host, r.Time, step.want)
		}
	}
}

// A primary whose console nobody reads waits.
func TestConsoleBackPressure(t *testing.T) {
	c := NewPrimary(config, true)
	play(t, c, "boundary : opens record 0 -> run")
	c.consoleReleased = maxConsole + 1
	play(t, c, `
		tick   : -> wait
		left 1 : -> run
	`)
}
