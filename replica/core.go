package replica

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"ftvm/epoch"
	"ftvm/vmm"
)

// Config is what both replicas of a pair agree on, except SuspectTicks.
type Config struct {
	// Verified makes commit mean that the backup has executed the epoch and found the same
	// digest; otherwise it means that the backup holds the record.
	Verified bool
	// MaxLag is how many epochs the backup's execution may lie behind the primary's; at
	// the limit the primary waits.
	MaxLag uint64
	// MaxWork is how much the backup's execution may lie behind the primary's, in ns that the primary ran, or waited for its disks; at the limit
	// the primary waits, also within an epoch. It bounds how long a takeover takes. An epoch should last half as long at most. 0 is no limit.
	MaxWork uint64
	// SuspectTicks is after how many ticks without a word the peer counts as failed. Ticks
	// are counted as they are lived through, so a process that was stopped for a while gives its
	// peer's words a chance to be read before it judges.
	SuspectTicks int
	// Shared tells that the machine has a disk that all hosts reach: a backup acquires it before it claims the machine.
	Shared bool
}

// maxConsole is how many bytes of console output may wait for the outside world to take them.
const maxConsole = 1 << 20

// maxRecord is how many bytes the inputs of one record have, if they are several: the others wait for the next.
const maxRecord = 1 << 20

// Role is what a replica is.
type Role uint8

const (
	// Waiting: will be the primary once a backup is there.
	Waiting Role = iota
	// Primary: runs the machine and decides what enters it.
	Primary
	// Backup: repeats what the primary did.
	Backup
	// Failover: a backup that won the machine, and is on its way to be the primary.
	Failover
	// Ending: the guest came to its end; the last outputs are leaving.
	Ending
	// Leaving: this replica stops by its own will; what it has let out is still on its way.
	Leaving
	// Stopped: nothing more will happen.
	Stopped
)

func (r Role) String() string {
	return [...]string{"waiting", "primary", "backup", "failover", "ending", "leaving", "stopped"}[r]
}

// Action is something that the core wants done. Actions are done in order.
type Action struct {
	Kind ActionKind
	// Message is what to send, for ActSend.
	Message Message
	// Outputs are to leave, for ActRelease and ActRepeat.
	Outputs []vmm.Output
	// Text is for people, for ActNotice.
	Text string
}

// ActionKind says what an Action is.
type ActionKind uint8

const (
	// ActSend: send Message on the present connection.
	ActSend ActionKind = 1 + iota
	// ActRelease: let Outputs leave. Frames have left when it is done.
	ActRelease
	// ActRepeat: these disk requests have no completion: issue those that were not issued here, or failed; what comes of the others is
	// the guest's.
	ActRepeat
	// ActDial: connect to the primary, and call Connected or Unreachable.
	ActDial
	// ActAcquire: acquire the shared disks, so that no other host can do anything to them any more, and call Acquired.
	// It may take long.
	ActAcquire
	// ActClaim: ask whether this replica may go on without the other, and call Claimed.
	ActClaim
	// ActHangUp: forget the backup, whose connection, if it is still up, is to be closed once
	// all is sent. Another may come.
	ActHangUp
	// ActNotice: tell people.
	ActNotice
)

// Task is what the machine is to do next.
type Task struct {
	Kind TaskKind
	// Record ends the epoch to be replayed, and is then to be applied, for TaskReplay.
	Record epoch.Record
}

// TaskKind says what a Task is.
type TaskKind uint8

const (
	// TaskWait: nothing, until the core was called again.
	TaskWait TaskKind = iota
	// TaskRun: run the present epoch as the primary, then call Boundary.
	TaskRun
	// TaskReplay: run the present epoch to the end that Record names, compare, apply
	// Record, and call Executed.
	TaskReplay
	// TaskFailover: run the present epoch to its full length, then call Boundary.
	TaskFailover
	// TaskStop: the machine is not needed any more; see Core.Result.
	TaskStop
)

// Core is the protocol of a pair, as seen by one replica.
type Core struct {
	cfg     Config
	role    Role
	actions []Action
	result  error

	gate            epoch.Gate
	consoleReleased uint64         // console bytes handed out by ActRelease
	inputs          []vmm.Input    // for the record of the next boundary (P1)
	opened          epoch.Number   // records applied to the machine
	records         []epoch.Record // Primary: not known to be held by the backup. Backup: not yet applied.
	time            vmm.Time       // of the newest record that was applied to the machine

	conn     uint64 // the present connection, 0 if there is none
	parted   bool   // the last word was said on it
	dialing  bool   // ActDial is under way
	silent   int    // ticks since the peer was last heard
	heard    bool   // it said something on this connection, or on the one before
	spoke    bool   // something other than a heartbeat was sent since the last tick
	claiming bool   // ActAcquire or ActClaim is under way
	why      string // the reason for the claim
	alone    bool   // no other replica counts any more
	met      bool   // a connection was up: there is another replica that may claim the machine
	trouble  error  // of this primary's host: the backup is to go on, if there is one
	ready    bool   // a record was made since, from which it can
	offered  bool   // it was asked to, and has not said no: only it may go on

	// Of the peer, on a primary.
	synced         bool // it has told on this connection what it holds
	held, verified epoch.Number
	worked         uint64   // for how long the machine ran, in ns
	behind         []uint64 // the same at the ends of the epochs that it has not verified, and of the last that it has

	// On a backup.
	told  vmm.Time  // of the newest record that it had applied when it last acknowledged
	over  bool      // the primary said that the machine is over
	asked *Handover // the primary asked this backup to go on
	ended bool      // the guest came to its end
}

// NewPrimary makes the core of a primary that waits for its backup, or, if alone, of a machine
// that has no other replica.
func NewPrimary(cfg Config, alone bool) *Core {
	c := &Core{cfg: cfg, role: Waiting, alone: alone}
	if alone {
		c.role = Primary
	}
	return c
}

// NewBackup makes the core of a backup; its first connection is still to come.
func NewBackup(cfg Config) *Core { return &Core{cfg: cfg, role: Backup} }

// Actions returns what is to be done since the last call. The slice is valid until the
// core is called again.
func (c *Core) Actions() []Action {
	a := c.actions
	c.actions = nil
	return a
}

// Role is what the replica is now.
func (c *Core) Role() Role { return c.role }

// Alone reports whether no other replica counts any more.
func (c *Core) Alone() bool { return c.alone }

// Opened is how many records were applied to the machine, or handed out to be.
func (c *Core) Opened() epoch.Number { return c.opened }

// Records is how many records are held and not yet applied, on a backup, or not yet known to
// be held by the backup, on a primary.
func (c *Core) Records() int { return len(c.records) }

// Left is how much output is known to have left.
func (c *Core) Left() epoch.Left { return c.gate.Left() }

// Result is why the core stopped: nil if the guest ended or an operator ended it.
func (c *Core) Result() error { return c.result }

// Reasons to stop that are not the guest's end.
var (
	// ErrDropped: the other replica goes on, and this one must not.
	ErrDropped = errors.New("the other replica goes on without this one")
	// ErrPeer: the peer broke the protocol.
	ErrPeer = errors.New("the peer broke the protocol")
)

func (c *Core) do(a Action) { c.actions = append(c.actions, a) }

func (c *Core) notice(format string, args ...any) {
	c.do(Action{Kind: ActNotice, Text: fmt.Sprintf(format, args...)})
}

func (c *Core) send(m Message) {
	if c.conn != 0 && !c.parted && c.role != Stopped {
		c.spoke = true
		c.do(Action{Kind: ActSend, Message: m})
	}
}

// goodbye tells the peer the last word.
func (c *Core) goodbye(cause Cause, reason string) {
	c.send(Goodbye{Cause: cause, Reason: reason, Left: c.gate.Left()})
	c.parted = true
}

// drop tells the other replica, if it can hear it, that it does not count any more.
func (c *Core) drop() {
	c.goodbye(CauseDropped, "it goes on alone: "+c.why)
}

func (c *Core) stop(err error) {
	if c.role != Stopped {
		c.role, c.result = Stopped, err
	}
}

// Next tells what the machine is to do. A TaskRun that is under way is not ended by calls
// to the core; the runner ends it when it wants a boundary.
func (c *Core) Next() Task {
	switch c.role {
	case Primary:
		if c.Headroom() == 0 {
			return Task{Kind: TaskWait} // back-pressure
		}
		if c.consoleReleased > c.gate.Left().Console+maxConsole {
			return Task{Kind: TaskWait} // nobody reads the console
		}
		if c.yielding() && c.ready {
			return Task{Kind: TaskWait}
		}
		return Task{Kind: TaskRun}
	case Backup, Failover:
		switch {
		case len(c.records) > 0 && !(c.role == Failover && broken(RuleP6)):
			return Task{Kind: TaskReplay, Record: c.records[0]}
		case c.role == Failover && broken(RuleFailover):
			c.takeOver()
			return Task{Kind: TaskRun}
		case c.role == Failover || c.opened > 0 && !c.ended && broken(RuleP5):
			return Task{Kind: TaskFailover}
		}
	case Stopped:
		return Task{Kind: TaskStop}
	}
	return Task{Kind: TaskWait}
}

// Headroom is how long the machine may run in the present epoch, in ns, before it has to wait for the backup to execute more. It grows
// when the backup acknowledges. It has no bound while the backup is at most half of MaxWork behind: an epoch adds no more than the other
// half. Beyond, the backup acknowledges each record when it has executed it (see nearLimit), so the primary does not wait for a tick.
func (c *Core) Headroom() uint64 {
	if c.role != Primary || c.alone || len(c.behind) == 0 {
		return math.MaxUint64
	}
	if uint64(c.opened-min(c.opened, c.verified)) > c.cfg.MaxLag {
		return 0
	}
	lag := c.worked - c.behind[0]
	if c.cfg.MaxWork == 0 || lag <= c.cfg.MaxWork/2 {
		return math.MaxUint64
	}
	return c.cfg.MaxWork - min(c.cfg.MaxWork, lag)
}

// Connected tells that a connection, numbered conn, is up and past its handshake. Each has a
// higher number than the one before, which it replaces.
func (c *Core) Connected(conn uint64) {
	// One that lets us in and says nothing, again and again, counts as silent. So does a backup that is alive and does not follow,
	// because it claims, however often it connects.
	if c.role == Backup && c.heard {
		c.silent = 0
	}
	c.heard = false
	c.conn, c.parted, c.synced, c.dialing, c.met = conn, false, false, false, true
	switch {
	case c.alone:
		c.drop() // whoever is there has come too late, and must know it
	case c.role == Backup:
		c.ack()
	}
}

// Disconnected tells that a connection is lost.
func (c *Core) Disconnected(conn uint64) {
	if conn != c.conn {
		return
	}
	if c.role == Backup && c.heard || c.synced {
		c.silent = 0
	}
	c.conn, c.synced = 0, false
	if !c.claiming { // else a tick is soon enough to hear whether the primary went on alone
		c.dial()
	}
}

// dial makes a backup that lost its connection try again.
func (c *Core) dial() {
	if c.role == Backup && c.conn == 0 && !c.dialing && !c.over {
		c.dialing = true
		c.do(Action{Kind: ActDial})
	}
}

// Unreachable tells a backup that it could not connect to the primary. refused is true if
// the primary's host answered that there is no such process, which is proof of its end.
func (c *Core) Unreachable(refused bool) {
	c.dialing = false
	if refused && c.role == Backup && c.conn == 0 && !c.over {
		c.claim("the primary's process is gone")
	}
}

// Refused tells a backup that the primary is there and did not let it in again.
func (c *Core) Refused(err error) {
	c.dialing = false
	if c.role == Backup && c.conn == 0 {
		c.stop(fmt.Errorf("%w: %w", ErrDropped, err))
	}
}

// Tick is called at the interval of heartbeats. One is sent if nothing else was since the last tick.
func (c *Core) Tick() {
	switch {
	case c.role == Stopped || c.alone || !c.met:
		return
	case c.role == Leaving: // it still lives, and does not judge any more
		c.send(Heartbeat{c.gate.Left()})
		return
	case c.role == Backup:
		c.dial()
		if !c.spoke {
			c.ack()
		}
	case !c.spoke:
		c.send(Heartbeat{c.gate.Left()})
	}
	c.spoke = false
	c.silent++
	limit := c.cfg.SuspectTicks
	if c.role != Backup && c.conn == 0 {
		// A backup that lives comes back well within its own limit.
		limit *= 2
	}
	if c.silent >= limit {
		c.claim(fmt.Sprintf("not a word for %d heartbeats", c.silent))
	}
}

// claim asks to go on without the peer.
func (c *Core) claim(why string) {
	switch {
	case c.claiming || c.alone || c.role == Stopped || c.role == Leaving || c.over:
		return
	case c.offered && !broken(RuleHandover): // the backup may have gone on
		c.stop(fmt.Errorf("the backup was asked to go on: %w", c.trouble))
		return
	}
	c.claiming, c.why = true, why
	c.notice("the other replica counts as failed: %s", why)
	if c.role == Backup && c.cfg.Shared && !broken(RuleFence) {
		c.do(Action{Kind: ActAcquire})
		return
	}
	c.do(Action{Kind: ActClaim})
}

// Acquired answers ActAcquire: the shared disks are this host's.
func (c *Core) Acquired() {
	if c.claiming && c.role == Backup && !c.over {
		c.do(Action{Kind: ActClaim})
	}
}

// Claimed answers ActClaim.
func (c *Core) Claimed(won bool) {
	switch {
	case !c.claiming || c.role == Stopped || c.role == Leaving || c.over:
		return
	case !won:
		c.stop(fmt.Errorf("%w: it was first at the arbiter", ErrDropped))
		return
	}
	c.claiming = false
	c.drop()
	if c.role == Waiting {
		// The machine has not begun. Now that the backup that was there cannot begin it
		// either, another may come.
		c.hangUp()
		c.notice("waiting for another backup")
		return
	}
	c.alone = true
	if c.role == Backup {
		// P6: the records that are held are used up by Next; then comes the failover epoch.
		c.role = Failover
		c.notice("taking over: %d records to use up", len(c.records))
		if c.ended {
			c.repeat()
			c.role = Ending
		}
	} else {
		c.records, c.behind = nil, nil
		c.notice("going on alone, without a backup")
	}
	c.release()
}

// Receive takes a message that came on connection conn.
func (c *Core) Receive(conn uint64, m Message) {
	if conn != c.conn || c.role == Stopped || c.role == Leaving || c.alone {
		return // a late word on an old connection, or of a replica that does not count
	}
	c.silent, c.heard = 0, true
	switch m := m.(type) {
	case RecordMessage:
		c.receiveRecord(m.Record)
	case Ack:
		c.receiveAck(m)
	case Heartbeat:
		c.left(m.Left)
	case Handover:
		c.receiveHandover(m)
	case Goodbye:
		c.receiveGoodbye(m)
	}
}

// PeerBroke tells that the peer sent something on connection conn that is no message.
func (c *Core) PeerBroke(conn uint64, err error) {
	if conn == c.conn && c.role != Stopped && !c.alone {
		c.distrust(fmt.Errorf("%w: %w", ErrPeer, err))
	}
}

// distrust ends the work with a peer that broke the protocol. The machine is not harmed: a
// primary goes on without its backup, a backup leaves.
func (c *Core) distrust(err error) {
	switch c.role {
	case Backup:
		c.fail(err)
	case Waiting:
		c.notice("turned away: %v", err)
		c.hangUp()
	default:
		c.claim(err.Error())
	}
}

// hangUp makes room for another backup, before the machine has begun.
func (c *Core) hangUp() {
	c.do(Action{Kind: ActHangUp})
	c.conn, c.met, c.silent = 0, false, 0
}

func (c *Core) receiveRecord(r epoch.Record) {
	c.left(r.Left)
	next := c.opened + epoch.Number(len(c.records))
	switch {
	case c.role != Backup:
		c.distrust(fmt.Errorf("%w: a record for a replica that is %s", ErrPeer, c.role))
	case c.claiming || r.Epoch < next: // after the claim nothing counts; before: sent again
	case r.Epoch > next:
		c.distrust(fmt.Errorf("%w: record %d came where %d is next", ErrPeer, r.Epoch, next))
	default:
		c.records = append(c.records, r)
		c.ack() // P4
	}
}

// ack tells the primary what this backup holds. Once it has claimed the machine it
// acknowledges nothing: what it acknowledged before is what it goes on from.
func (c *Core) ack() {
	if c.claiming {
		return
	}
	c.told = c.time
	held := c.opened + epoch.Number(len(c.records))
	if broken(RuleP4) {
		held++
	}
	c.send(Ack{Held: held, Verified: c.opened})
}

func (c *Core) receiveAck(m Ack) {
	// The records that are kept end with the newest, number opened-1.
	oldest := c.opened - epoch.Number(len(c.records))
	switch {
	case c.role == Backup:
		c.distrust(fmt.Errorf("%w: an acknowledgement for a backup", ErrPeer))
		return
	case m.Held > c.opened && !broken(RuleP4) || m.Verified > m.Held:
		c.distrust(fmt.Errorf("%w: it acknowledges record %d and verifies %d; the newest is %d", ErrPeer, m.Held, m.Verified, c.opened))
		return
	case m.Held < c.held || m.Verified < c.verified:
		c.distrust(fmt.Errorf("%w: it holds %d records after it held %d", ErrPeer, m.Held, c.held))
		return
	}
	// Of what is behind, the last is the newest record's, number opened-1; the first is to be that of record verified-1.
	if n := c.opened - max(m.Verified, 1) + 1; uint64(len(c.behind)) > uint64(n) {
		c.behind = c.behind[uint64(len(c.behind))-uint64(n):]
	}
	c.held, c.verified = m.Held, m.Verified
	if m.Held > oldest {
		c.records = c.records[min(int(m.Held-oldest), len(c.records)):]
	}
	if c.role == Waiting {
		c.role = Primary
	}
	if !c.synced {
		c.synced = true
		for _, r := range c.records {
			c.send(RecordMessage{r})
		}
		c.offer()
	}
	c.release()
}

// left takes the peer's word for how much output has left. Only a primary has a word
// there: whoever believed a backup's would withhold what never left.
func (c *Core) left(l epoch.Left) {
	if c.role == Backup {
		c.gate.HasLeft(l)
	}
}

// Trouble tells of trouble of this host that another host may not have, and that the guest could live with, such as
// an error of this replica's disk. A primary that has a backup asks it to go on instead, and runs no further
// until it has heard; if the backup cannot, or there is none, this replica goes on.
func (c *Core) Trouble(err error) {
	if c.role == Primary && c.trouble == nil && !c.alone {
		c.trouble = err
		c.notice("the backup is to go on: %v", err)
	}
}

// yielding reports whether this primary waits for its backup to go on in its place.
func (c *Core) yielding() bool { return c.trouble != nil && !c.alone }

// offer asks the backup to go on, from a record of which nothing was run here. Whoever claims the machine itself does not ask.
func (c *Core) offer() {
	if c.role == Primary && c.yielding() && c.ready && c.synced && !c.claiming {
		c.offered = true
		c.send(Handover{c.trouble.Error()})
	}
}

func (c *Core) receiveHandover(m Handover) {
	if c.role != Backup {
		c.distrust(fmt.Errorf("%w: a handover to a replica that is %s", ErrPeer, c.role))
		return
	}
	c.asked = &m
	c.accept()
}

// accept goes on in the place of a primary that asked for it, once all that the primary did was repeated here: as long as that may fail,
// this backup may still say that it cannot. The primary will not go on unless it hears that, so it need not wait for the claim.
func (c *Core) accept() {
	if c.role == Backup && c.asked != nil && len(c.records) == 0 && !c.claiming && !c.over {
		c.claim("it leaves: " + c.asked.Reason)
		c.drop()
	}
}

func (c *Core) receiveGoodbye(m Goodbye) {
	c.left(m.Left)
	switch {
	case m.Cause == CauseDropped && c.offered:
		c.stop(fmt.Errorf("the backup goes on: %w", c.trouble))
	case m.Cause == CauseDropped:
		c.stop(fmt.Errorf("%w: %s", ErrDropped, m.Reason))
	case m.Cause == CauseLeaving:
		c.offered = false // it does not go on
		c.claim("it leaves: " + m.Reason)
	case c.role == Backup:
		c.over = true
		c.notice("the primary says that the virtual machine is over: %s", m.Reason)
		c.checkOver()
	default:
		c.distrust(fmt.Errorf("%w: a backup cannot end the virtual machine", ErrPeer))
	}
}

// checkOver stops a backup whose primary ended the machine once it has caught up.
func (c *Core) checkOver() {
	if c.role == Backup && c.over && len(c.records) == 0 {
		c.stop(nil)
	}
}

// Input takes something from the outside world for the machine. On a primary it goes into the
// record of the next boundary (P1); a backup ignores its host (P3).
func (c *Core) Input(in vmm.Input) {
	if c.role == Backup && broken(RuleP3) && len(c.records) > 0 {
		newest := &c.records[len(c.records)-1]
		newest.Inputs = append(newest.Inputs, in)
	}
	if c.role == Backup || c.role == Failover || c.role == Ending || c.role == Stopped {
		return
	}
	c.inputs = append(c.inputs, in)
}

// BoundaryWanted reports whether, on a primary, the epoch should end: inputs wait, or outputs that nothing else can commit,
// or the machine is to be handed over.
func (c *Core) BoundaryWanted() bool {
	outputs := c.cfg.Verified && c.role == Primary && c.opened > 0 && c.gate.Holding(c.opened-1)
	return outputs || len(c.inputs) > 0 || c.yielding() && !c.ready
}

// Oldest is the oldest request to the replica's own disks that is not complete: what a halted guest waits for.
func (c *Core) Oldest() (device uint32, id uint64, ok bool) {
	if c.role == Failover && len(c.records) == 0 && broken(RuleAwait) {
		return 0, 0, false
	}
	for i := range c.gate.Outstanding() {
		if o := &c.gate.Outstanding()[i]; isLocal(o) {
			return o.Device, o.Seq, true
		}
	}
	return 0, 0, false
}

// Await takes, on a primary whose guest is halted, the completion of the oldest request to the replica's own disks, if it
// is there: it may enter without a record. One that tells of an error may not: other replicas would not have it.
func (c *Core) Await() (in vmm.Input, ok bool) {
	i := c.oldestInput()
	if i < 0 {
		return in, false
	}
	in = c.inputs[i]
	c.inputs = slices.Delete(c.inputs, i, i+1)
	c.Awaited(in.Device, in.ID)
	return in, true
}

// Awaitable reports whether what Await takes is there, and nothing else wants a boundary.
func (c *Core) Awaitable() bool { return len(c.inputs) == 1 && c.oldestInput() == 0 }

// oldestInput is where among the inputs that is which Await takes, or -1.
func (c *Core) oldestInput() int {
	device, id, ok := c.Oldest()
	if !ok || c.role != Primary || c.yielding() {
		return -1
	}
	return slices.IndexFunc(c.inputs, func(in vmm.Input) bool {
		return in.Kind == vmm.InputDisk && in.Device == device && in.ID == id && in.Status == vmm.DiskOK
	})
}

// Awaited tells, on a replica that repeats an epoch or runs the failover epoch, that the completion of the oldest request entered.
func (c *Core) Awaited(device uint32, id uint64) { c.gate.Complete(device, id) }

// Produced takes outputs that the machine made in the present epoch.
func (c *Core) Produced(outs []vmm.Output) {
	c.gate.Produce(c.opened-1, outs)
	c.release()
}

func isDisk(o *vmm.Output) bool { return o.Kind == vmm.OutputDisk }

// isLocal tells requests to the replica's own image, which is part of the replica and not of the outside world.
func isLocal(o *vmm.Output) bool { return isDisk(o) && (!o.Shared || broken(RuleShared)) }

// release lets leave what the output rule allows, and requests to the replica's own image at once.
func (c *Core) release() {
	if c.role == Stopped || c.role == Leaving {
		c.checkEnding()
		return
	}
	outs := c.gate.Take(nil, isLocal)
	switch {
	case c.role == Failover: // what is left of the requests to shared disks is issued by P7
		outs = c.gate.Take(outs, func(o *vmm.Output) bool { return !isDisk(o) })
	case c.alone || broken(RuleOutput) && c.role != Backup:
		outs = c.gate.Commit(math.MaxUint64, outs)
	case c.role == Backup:
	case c.cfg.Verified:
		outs = c.gate.Commit(max(c.verified, 1)-1, outs)
	default:
		outs = c.gate.Commit(c.held, outs)
	}
	for i := range outs {
		switch o := &outs[i]; o.Kind {
		case vmm.OutputConsole:
			c.consoleReleased = o.Seq + uint64(len(o.Data))
		case vmm.OutputFrame:
			// Whoever is told so is told after that.
			c.gate.HasLeft(epoch.Left{Frames: o.Seq + 1})
		}
	}
	if len(outs) > 0 {
		c.do(Action{Kind: ActRelease, Outputs: outs})
	}
	c.checkEnding()
}

// ConsoleWritten tells that all console output before byte n has left for the outside world.
func (c *Core) ConsoleWritten(n uint64) {
	c.gate.HasLeft(epoch.Left{Console: n})
	c.checkEnding()
	c.checkLeaving(false)
}

// checkEnding stops a replica whose guest has ended, once all outputs have left and the
// backup holds the last record.
func (c *Core) checkEnding() {
	if c.role != Ending || c.gate.Holding(0) || c.gate.Left().Console < c.consoleReleased || !c.alone && c.held < c.opened {
		return
	}
	c.goodbye(CauseEnded, "the guest came to its end")
	c.stop(nil)
}

// Executed tells that the TaskReplay is done: digests were equal and the record is applied.
func (c *Core) Executed() {
	r := c.records[0]
	c.records = c.records[1:]
	c.opened++
	c.complete(r.Inputs)
	c.ended = r.Ended
	if c.ended && c.role == Failover {
		c.repeat()
		c.role = Ending
		c.checkEnding()
	}
	c.time = r.Time
	// The primary hears of it with the next acknowledgement, or sooner if it may wait for it.
	if c.role == Backup && (c.cfg.Verified || c.nearLimit() || uint64(c.opened)%max(1, c.cfg.MaxLag/4) == 0) {
		c.ack()
	}
	c.checkOver()
	c.accept()
}

// nearLimit reports whether a primary that has sent what is here, and has heard of no more than was told, may come to its limit of
// work: whether Headroom has a bound there. Guest time passes for about as long as it worked, 15/16 at least.
func (c *Core) nearLimit() bool {
	newest := c.time
	if n := len(c.records); n > 0 {
		newest = c.records[n-1].Time
	}
	return c.cfg.MaxWork > 0 && uint64(newest-c.told) > c.cfg.MaxWork/32*15
}

func (c *Core) complete(inputs []vmm.Input) {
	for _, in := range inputs {
		if in.Kind == vmm.InputDisk {
			c.gate.Complete(in.Device, in.ID)
		}
	}
}

// Opening is what the runner tells of the epoch that a boundary ends, and decides about the one that it opens.
type Opening struct {
	// Worked is for how long the machine ran in the epoch that ended, or waited for its disks, in ns.
	Worked uint64
	Time   vmm.Time // guest time; see Clock
	Rate   vmm.Rate
	Length uint64 // the longest that the epoch may become, in positions
	Awaits uint64 // how many completions may enter in it while the guest is halted
}

// Boundary takes the end of an epoch that was run here first: of a TaskRun or a TaskFailover.
// It returns the record to be applied to the machine (P2).
func (c *Core) Boundary(b epoch.Boundary, o Opening) epoch.Record {
	if c.role == Failover {
		c.takeOver()
	}
	r := epoch.Record{
		Epoch: c.opened, Position: b.Position, Awaited: b.Awaited, Digest: b.Digest, Memory: b.Memory, Ended: b.Ended,
		Length: o.Length, Awaits: o.Awaits, Time: max(o.Time, b.Time), Rate: o.Rate, Left: c.gate.Left(),
	}
	if broken(RuleLeft) {
		r.Left.Frames = math.MaxUint64
	}
	if broken(RuleTime) {
		r.Time = o.Time
	}
	// What this replica's host is in trouble with, the backup's may do: so it does not enter yet. Nor will anything be awaited in
	// this epoch, which is not run here: then the backup may go on even if its own disk fails likewise.
	switch {
	case c.yielding():
		r.Awaits, c.ready = 0, true
	case !b.Ended:
		r.Inputs = c.takeInputs()
	}
	shipped := r
	if broken(RuleP1) {
		shipped.Inputs = nil
	}
	if broken(RuleP2) {
		r.Inputs = nil
	}
	c.opened++
	c.time = r.Time
	c.worked += o.Worked
	c.complete(r.Inputs)
	if !c.alone {
		c.behind = append(c.behind, c.worked)
		c.records = append(c.records, shipped)
		if c.synced {
			c.send(RecordMessage{shipped})
		}
	}
	if b.Ended && c.role == Primary {
		c.role = Ending
		c.checkEnding()
	} else {
		c.offer()
	}
	return r
}

// Room is how many bytes the next record has left for inputs. What the machine asks for may be given only within it: an input that is
// left over for a later record finds less room in the machine than there was when it was asked for, and there may be two answers then.
func (c *Core) Room() int {
	if c.yielding() {
		return 0
	}
	room := maxRecord
	for i := range c.inputs {
		room -= recorded(&c.inputs[i])
	}
	return max(0, room)
}

// recorded is how many bytes of data of an input a record has.
func recorded(in *vmm.Input) int {
	if in.Local {
		return 0
	}
	return len(in.Data)
}

// takeInputs takes the inputs of one record.
func (c *Core) takeInputs() (taken []vmm.Input) {
	size := 0
	for i := range c.inputs {
		size += recorded(&c.inputs[i])
		if i > 0 && size > maxRecord {
			taken, c.inputs = c.inputs[:i:i], c.inputs[i:]
			return taken
		}
	}
	taken, c.inputs = c.inputs, nil
	return taken
}

// takeOver makes the survivor the primary, at the end of the failover epoch.
func (c *Core) takeOver() {
	c.role = Primary
	c.notice("this replica is the primary now, alone")
	c.repeat()
}

// repeat sees to it that what is outstanding is done (P7), also what this replica did not issue before: requests to shared disks.
func (c *Core) repeat() {
	c.gate.Take(nil, isDisk)
	if again := c.gate.Outstanding(); len(again) > 0 && !broken(RuleP7) {
		c.do(Action{Kind: ActRepeat, Outputs: append([]vmm.Output(nil), again...)})
	}
}

// Fail stops this replica because of trouble of its own (its host, its peer, a divergence). The
// other is to go on alone.
func (c *Core) Fail(err error) { c.fail(err) }

func (c *Core) fail(err error) {
	c.goodbye(CauseLeaving, err.Error())
	c.stop(err)
}

// Leave stops this replica because its operator or host wants so; the machine goes on at
// the other one, if there is one. First what was let out leaves, so that the other one need not
// repeat it; called again, Leave does not wait for that any longer.
func (c *Core) Leave(reason string) {
	if c.role == Stopped {
		return
	}
	again := c.role == Leaving
	c.role, c.why = Leaving, reason
	c.checkLeaving(again)
}

func (c *Core) checkLeaving(now bool) {
	if c.role == Leaving && (now || c.gate.Left().Console >= c.consoleReleased) {
		c.goodbye(CauseLeaving, c.why)
		c.stop(nil)
	}
}

// Quit ends the virtual machine, on a primary; a backup, or a primary that asked its backup to go on, only leaves.
func (c *Core) Quit(reason string) {
	if c.role == Backup || c.offered {
		c.Leave(reason)
		return
	}
	c.goodbye(CauseQuit, reason)
	c.stop(nil)
}
