package sim

import (
	"errors"
	"fmt"

	"ftvm/epoch"
	"ftvm/replica"
	"ftvm/vmm"
)

// proc is a process that runs one replica, as package replica/pair does.
type proc struct {
	w    *world
	id   int
	name string
	core *replica.Core
	x    *epoch.Executor
	m    *toy
	skew int64 // of its host's clock

	// As the fields of pair.Node.
	link   *link
	conn   uint64
	local  [disks][]result // by request
	frames [][]byte        // what arrived and the guest did not take yet
	wanted bool
	outs   []vmm.Output
	clock  replica.Clock
	speed  replica.Pace
	began  vmm.Position
	opened int64
	due    int64

	// The goroutine that runs the machine.
	task  replica.Task
	busy  bool  // it is in work, or computes until an event says that it is done
	idle  bool  // it is in Node.idle
	ended bool  // the epoch of task ran to its end; for a replay: digests were compared
	wake  int64 // when the guest's timer ends idle

	disks        [disks]disk
	console      console
	dials, heard int // attempts to connect, and of how many the outcome is known

	paused bool
	inbox  []func() // what happened meanwhile
	gone   bool     // exited or dead

	// For the checker.
	log      []entry
	awaited  []vmm.Input // in the present epoch
	accepted []typedLine // what the core took
	alone    bool        // it was alone at some time
	granted  bool        // it won a claim
	parted   bool        // its failover epoch began
	told     bool        // that an operator ended the machine
	injected bool        // a fault or an operator ended it
	sick     bool        // its disk had an error
	powerCut bool        // nobody answers for it any more
	finished bool        // its guest came to its end
	moments  [moments]int
	made     []made         // console bytes that the machine made
	framed   []epoch.Number // for each frame that the machine made, in which epoch
	shared   []epoch.Number // for each request to the shared disk
	known    uint64         // frames that it was told have left
}

// entry is a record that was applied, and what entered, awaited, in the epoch that it closed.
type entry struct {
	epoch.Record
	awaited []vmm.Input
}

// made says in which epoch a piece of console output was made.
type made struct {
	seq   uint64
	epoch epoch.Number
}

// typedLine is console input, and how many records were opened when it came.
type typedLine struct {
	line   []byte
	opened epoch.Number
}

// result is what a replica's own disk said of a request.
type result struct {
	kept bool // it is not for the core, but for a record that names it
	done bool
	data []byte
	err  error
}

func (w *world) newProc(id int) *proc {
	p := &proc{w: w, id: id, name: [2]string{"primary", "backup"}[id], m: newToy(&w.plan.guest), skew: w.upTo(w.plan.skew)}
	p.x = epoch.NewExecutor(p.m, w.plan.memoryEvery)
	p.disks[0].image, p.disks[sharedDisk].image = new(image), &w.shared
	if id == 0 {
		p.core = replica.NewPrimary(w.plan.core, false)
	} else {
		p.core = replica.NewBackup(w.plan.core)
	}
	w.at(w.upTo(heartbeat), p, p.tick)
	return p
}

func (p *proc) tick() {
	p.step((*replica.Core).Tick)
	p.w.at(p.w.now+heartbeat-heartbeat/20+p.w.upTo(heartbeat/10), p, p.tick)
}

// step is Node.step.
func (p *proc) step(f func(c *replica.Core)) {
	if p.gone {
		return
	}
	stopped := p.core.Role() == replica.Stopped
	f(p.core)
	for _, a := range p.core.Actions() {
		if stopped {
			p.w.violate("the %s stopped and does %+v", p.name, a)
		}
		p.perform(a)
		if p.gone {
			return
		}
	}
	if p.core.BoundaryWanted() {
		p.wanted = true
	}
	if p.core.Alone() && !p.alone {
		p.alone = true
		p.w.tell(p, "is alone")
		p.checkAlone()
	}
	p.work()
}

func (p *proc) perform(a replica.Action) {
	w := p.w
	switch a.Kind {
	case replica.ActSend:
		if w.trace != nil {
			w.tell(p, "sends %T%+v", a.Message, a.Message)
		}
		w.send(p.link, 1-p.id, a.Message)
		switch a.Message.(type) {
		case replica.RecordMessage:
			p.moment(momentSent)
		case replica.Handover:
			p.moment(momentHandover)
		}
	case replica.ActRelease:
		for _, o := range a.Outputs {
			if p.release(o); p.gone {
				return
			}
		}
	case replica.ActRepeat:
		for _, o := range a.Outputs {
			p.repeat(o)
		}
		p.moment(momentRepeat)
	case replica.ActDial:
		w.dial(p)
	case replica.ActAcquire:
		w.tell(p, "wants the shared disk")
		w.acquire(p, w.now+5*second)
		p.moment(momentClaim)
	case replica.ActClaim:
		w.tell(p, "asks whether it may go on alone")
		w.claim(p)
		p.moment(momentClaim)
	case replica.ActHangUp:
		p.hangUp(limit)
	case replica.ActNotice:
		w.tell(p, "notice: %s", a.Text)
	}
}

// release is Node.release.
func (p *proc) release(o vmm.Output) {
	p.checkRelease(&o)
	switch o.Kind {
	case vmm.OutputDisk:
		p.request(o)
	case vmm.OutputFrame:
		p.w.sendFrame(p, o.Seq, o.Data)
		p.moment(momentFrame)
	default:
		p.print(o)
	}
}

// request is the disk's part of Node.release.
func (p *proc) request(o vmm.Output) {
	if !p.live() {
		p.result(o.Device, o.Seq).kept = true
	}
	p.issue(o)
}

// repeat is Node.repeat.
func (p *proc) repeat(o vmm.Output) {
	p.w.tell(p, "repeats request %d of disk %d", o.Seq, o.Device)
	r := p.result(o.Device, o.Seq)
	kept := r.kept
	r.kept = false
	switch {
	case !kept || r.done && r.err != nil && o.Op != vmm.DiskFlush:
		p.issue(o)
	case r.done:
		p.finish(p.core, o.Device, o.Seq, r.data, r.err)
	}
}

func (p *proc) live() bool {
	r := p.core.Role()
	return r == replica.Primary || r == replica.Ending
}

func (p *proc) result(device uint32, id uint64) *result {
	of := &p.local[device]
	for uint64(len(*of)) <= id {
		*of = append(*of, result{})
	}
	return &(*of)[id]
}

func (p *proc) issue(o vmm.Output) {
	p.w.tell(p, "disk %d: request %d, op %d, offset %d", o.Device, o.Seq, o.Op, o.Offset)
	p.submit(o)
	p.moment(momentSubmit)
}

// diskDone is Node.DiskDone.
func (p *proc) diskDone(device uint32, id uint64, data []byte, err error) {
	p.step(func(c *replica.Core) {
		if r := p.result(device, id); r.kept {
			r.done, r.data, r.err = true, data, err
		} else {
			p.finish(c, device, id, data, err)
		}
	})
}

// finish is Node.complete.
func (p *proc) finish(c *replica.Core, device uint32, id uint64, data []byte, err error) {
	in := vmm.Input{Kind: vmm.InputDisk, Device: device, ID: id, Data: data, Local: device != sharedDisk}
	if err != nil {
		in.Status = vmm.DiskError
	}
	c.Input(in)
	if err != nil && in.Local && !c.Alone() && c.Role() == replica.Primary {
		c.Trouble(err)
	}
}

// receive is a round of Node.read.
func (p *proc) receive(l *link, m replica.Message) {
	if g, ok := m.(replica.Goodbye); ok && g.Cause == replica.CauseQuit && l == p.link && p.core.Role() == replica.Backup {
		p.told = true
	}
	if l == p.link {
		p.hear(m)
	}
	p.step(func(c *replica.Core) { c.Receive(l.conn[p.id], m) })
}

// install is Node.install.
func (p *proc) install(l *link) {
	p.conn++
	l.conn[p.id] = p.conn
	p.link = l
	p.w.tell(p, "connection %d is up", p.conn)
	p.step(func(c *replica.Core) { c.Connected(l.conn[p.id]) })
}

func (p *proc) claimed(won bool) {
	p.w.tell(p, "hears from the arbiter: %v", won)
	p.granted = p.granted || won
	p.step(func(c *replica.Core) { c.Claimed(won) })
	p.moment(momentClaimed)
}

func (p *proc) fail(err error) { p.step(func(c *replica.Core) { c.Fail(err) }) }

// host is the host's wall clock.
func (p *proc) host() vmm.Time { return vmm.Time(100*second + p.w.now + p.skew) }

func (p *proc) guestTime() vmm.Time { return p.clock.Read(p.host(), uint64(p.w.now), p.m.Time()) }

// opening is Node.opening, for a guest that is now faster and now slower than anybody thought.
func (p *proc) opening(b epoch.Boundary) replica.Opening {
	plan := &p.w.plan
	now, length := p.guestTime(), plan.epochLength
	if now < p.host() {
		p.w.violate("guest time %d is behind the host's, %d", now, p.host())
	}
	rate := vmm.Rate(plan.rate/2 + p.w.rng.Uint64N(plan.rate))
	return replica.Opening{Worked: uint64(p.w.now - p.opened), Time: now, Rate: p.speed.Rate(length, uint64(plan.epochTime), uint64(max(b.Time, now)-now), rate), Length: length, Awaits: plan.awaits}
}

// work is Node.loop, until it must wait, or compute for a while.
func (p *proc) work() {
	for !p.busy && !p.gone {
		if p.core.Role() == replica.Stopped {
			p.exit()
			return
		}
		if p.task.Kind == replica.TaskWait {
			p.task, p.ended = p.core.Next(), false
		}
		p.busy = true // p.step does not come back in here
		var wait bool
		var err error
		switch p.task.Kind {
		case replica.TaskWait:
			wait = true
		case replica.TaskRun:
			wait, err = p.runEpoch()
		case replica.TaskFailover:
			wait, err = p.runFailover()
		case replica.TaskReplay:
			wait, err = p.replay()
		}
		switch {
		case p.gone:
			return
		case err != nil:
			p.busy = false
			p.task = replica.Task{}
			p.fail(err)
			return
		case wait:
			p.busy = false
			return
		}
		p.compute()
	}
}

// compute lets time pass for what the machine did since.
func (p *proc) compute() {
	p.w.at(p.w.now+p.w.around(p.w.plan.step[p.id]), p, func() {
		p.busy = false
		p.work()
	})
}

// done ends the task.
func (p *proc) done() { p.task = replica.Task{} }

// runEpoch is Node.runEpoch, Node.stand and Node.idle, and comes back when time has to pass, or (wait)
// something has to happen.
func (p *proc) runEpoch() (wait bool, err error) {
	w := p.w
	if !p.idle {
		if uint64(w.now-p.opened) >= p.core.Headroom() {
			return true, nil
		}
		slice, early := 1+w.rng.IntN(w.plan.slice), w.chance(w.plan.early)
		// An epoch that is too old ends, but not before the guest moved.
		due := func() bool { return w.now > p.due && p.m.Position() != p.began }
		// It goes on if it may be about to halt for what has come.
		wanted := func() bool { return p.wanted && (early || !p.x.MayAwait() || !p.core.Awaitable()) }
		reason, err := p.x.Run(func() bool {
			p.drain()
			slice--
			return slice < 0 || wanted() || p.gone || due()
		})
		p.drain()
		switch {
		case err != nil || p.gone:
			return false, err
		case p.moment(momentPosition):
			return true, nil
		case reason == vmm.StopHalted && !early && p.x.MayAwait():
			if in, ok := p.core.Await(); ok {
				p.wanted = p.core.BoundaryWanted()
				return false, p.await(in)
			}
			until := p.timer()
			if p.m.Position() != p.began {
				until = min(until, p.due+1)
			}
			if _, _, ok := p.core.Oldest(); ok && !p.wanted && !p.arriving() && w.now < until {
				w.at(until, p, p.work)
				return true, nil
			}
		}
		switch {
		case reason == vmm.StopHalted && w.now-p.opened < w.plan.idleCut:
			p.idle, p.wake = true, p.timer()
			w.at(p.wake, p, p.work)
		case reason == vmm.StopPaused && !wanted() && !due() && !early:
			return false, nil // go on
		}
	}
	if p.idle {
		if !p.wanted && w.now < p.wake && !p.arriving() {
			return true, nil
		}
		p.idle = false
	}
	return false, p.boundary()
}

// arriving is Node.arriving.
func (p *proc) arriving() bool { return len(p.frames) > 0 && p.m.FrameRoom(0, p.frames) > 0 }

// timer is Node.guestTimer.
func (p *proc) timer() int64 {
	t, ok := p.m.Deadline()
	if !ok {
		return limit
	}
	p.guestTime()
	return p.w.now + int64(p.clock.Wait(t))
}

// await lets a completion enter that the guest is halted for.
func (p *proc) await(in vmm.Input) error {
	p.w.tell(p, "request %d, which the guest waits for, enters as complete", in.ID)
	p.awaited = append(p.awaited, in)
	return p.x.Await(in)
}

// follow is Node.follow.
func (p *proc) follow() (ok, wait bool, err error) {
	device, id, ok := p.core.Oldest()
	if !ok {
		return false, false, nil
	}
	r := p.result(device, id)
	if !r.done || r.err != nil {
		return true, r.err == nil, r.err
	}
	p.core.Awaited(device, id)
	return true, false, p.await(vmm.Input{Kind: vmm.InputDisk, Device: device, ID: id, Data: r.data, Local: true})
}

// runFailover is Node.runFailover.
func (p *proc) runFailover() (wait bool, err error) {
	p.parted = true
	slice := 1 + p.w.rng.IntN(p.w.plan.slice)
	reason, err := p.x.Run(func() bool { p.drain(); slice--; return slice < 0 || p.gone })
	p.drain()
	if err != nil || p.gone || p.moment(momentFailover) || reason == vmm.StopPaused {
		return false, err
	}
	if reason == vmm.StopHalted && p.x.MayAwait() {
		if ok, wait, err := p.follow(); ok {
			return wait, err
		}
	}
	return false, p.boundary()
}

// boundary is Node.boundary.
func (p *proc) boundary() error {
	p.done()
	b, err := p.x.Close()
	if err != nil {
		return err
	}
	var r epoch.Record
	p.wanted = false
	p.step(func(c *replica.Core) {
		if c.Role() != replica.Failover && c.Room() > 0 {
			if want := p.m.EntropyWanted(); want > 0 {
				entropy := le.AppendUint64(nil, p.w.rng.Uint64())
				c.Input(vmm.Input{Kind: vmm.InputEntropy, Data: entropy[:min(want, len(entropy))]})
			}
			room := p.m.FrameRoom(0, p.frames)
			for _, f := range p.frames[:room] {
				c.Input(vmm.Input{Kind: vmm.InputFrame, Data: f})
			}
			p.frames = p.frames[room:]
		}
		r = c.Boundary(b, p.opening(b))
	})
	p.checkLag(r.Epoch)
	p.enter(r) // even if it died since: the record may be on its way
	if p.gone || p.moment(momentBoundary) {
		return nil
	}
	return p.open(r)
}

// enter puts a record into the log.
func (p *proc) enter(r epoch.Record) { p.log, p.awaited = append(p.log, entry{r, p.awaited}), nil }

// open is Node.open.
func (p *proc) open(r epoch.Record) error {
	if err := p.x.Open(r); err != nil {
		return err
	}
	if p.w.trace != nil {
		p.w.tell(p, "opens %+v", r)
	}
	p.began, p.opened = p.m.Position(), p.w.now
	p.due = p.opened + p.w.plan.epochTime
	if t, ok := p.m.Deadline(); ok {
		p.due = min(p.due, p.w.now+int64(t)-int64(p.m.Time()))
	}
	return nil
}

// replay is Node.replay.
func (p *proc) replay() (wait bool, err error) {
	r := p.task.Record
	if !p.ended {
		slice := 1 + p.w.rng.IntN(p.w.plan.slice)
		err := p.x.Replay(r, func() bool { p.drain(); slice--; return slice < 0 || p.gone })
		p.drain()
		switch {
		case p.gone || p.moment(momentReplay) || errors.Is(err, epoch.ErrInterrupted):
			return false, nil
		case errors.Is(err, epoch.ErrAwait):
			ok, wait, err := p.follow()
			if !ok {
				err = fmt.Errorf("%w: an awaited completion, where the guest waits for no disk", replica.ErrPeer)
			}
			return wait, err
		case err != nil:
			return false, err
		}
		p.ended = true
	}
	inputs, wait, err := p.resolve(r.Inputs)
	if wait || err != nil {
		return wait, err
	}
	r.Inputs = inputs
	if err := p.open(r); err != nil {
		return false, fmt.Errorf("%w: %w", replica.ErrPeer, err)
	}
	p.enter(r)
	p.done()
	p.step((*replica.Core).Executed)
	p.moment(momentExecuted)
	return false, nil
}

// resolve is Node.resolve.
func (p *proc) resolve(inputs []vmm.Input) (out []vmm.Input, wait bool, err error) {
	for _, in := range inputs {
		if in.Kind == vmm.InputDisk && in.Local {
			switch r := p.result(in.Device, in.ID); {
			case !r.kept:
				return nil, false, fmt.Errorf("%w: a completion of request %d, which the guest did not make", replica.ErrPeer, in.ID)
			case !r.done:
				return nil, true, nil
			case r.err != nil && in.Status == vmm.DiskOK:
				return nil, false, r.err
			default:
				in.Data = r.data
			}
		}
		out = append(out, in)
	}
	return out, false, nil
}

// drain is Node.drain.
func (p *proc) drain() {
	if p.outs = p.m.Outputs(p.outs[:0]); len(p.outs) > 0 {
		p.note(p.outs)
		p.step(func(c *replica.Core) { c.Produced(p.outs) })
	}
}

// exit ends the process by its own will: what it said is sent, what it submitted is done.
func (p *proc) exit() {
	err := p.core.Result()
	p.w.tell(p, "exits: %v", err)
	_, ended := p.m.End()
	p.finished = ended && err == nil && !p.w.quit
	for i := range p.disks {
		d := &p.disks[i]
		for _, q := range d.pending {
			perform(d.image, &q.Output)
		}
		d.pending = nil
	}
	if p.link != nil { // it closes its disks when its last word was heard
		p.w.settled = max(p.w.settled, p.link.newest[1-p.id]+1)
	}
	p.checkExit(ended, err)
	for _, o := range p.console.queue {
		p.w.leave(p, o.Seq, o.Data)
	}
	p.gone = true
	p.hangUp(limit)
}

// hangUp loses the process's connection; of what it sent, what arrives from lost on is lost.
func (p *proc) hangUp(lost int64) {
	if p.link == nil {
		return
	}
	p.link.closed = true
	t := max(p.link.newest[1-p.id]+1, p.w.arrival())
	if lost < t {
		t = max(lost, p.w.cutUntil)
	}
	p.w.hangUp(p.link, 1-p.id, t)
}

// end lets an operator, or trouble of the host, end the process.
func (p *proc) end(what misery) {
	p.injected = true
	switch what {
	case miseryLeave:
		p.step(func(c *replica.Core) { c.Leave("its operator stopped it") })
	case miseryFail:
		p.fail(errors.New("trouble of its host"))
	case miseryQuit:
		p.w.quit = true
		p.step(func(c *replica.Core) { c.Quit("an operator ended it") })
	}
}

// typeIn gives the console input, as Node.Type.
func (p *proc) typeIn(line []byte) {
	switch p.core.Role() {
	case replica.Waiting, replica.Primary, replica.Leaving:
		p.accepted = append(p.accepted, typedLine{line, p.core.Opened()})
	}
	p.step(func(c *replica.Core) { c.Input(vmm.Input{Kind: vmm.InputConsole, Data: line}) })
}

// arrive brings frames, as Node.Frames. While what came before waits, the tap is full.
func (p *proc) arrive(frames [][]byte) {
	if r := p.core.Role(); r == replica.Backup || r == replica.Failover || len(p.frames) > 0 {
		return
	}
	p.frames = frames
	p.wanted = true
	p.work()
}

// die ends the process from one instruction to the next; with its host, if powerCut.
func (p *proc) die(powerCut bool) {
	if p.gone {
		return
	}
	w := p.w
	w.tell(p, "DIES (power cut: %v)", powerCut)
	p.gone, p.injected, p.powerCut = true, true, powerCut
	for i := range p.disks {
		p.settle(uint32(i))
	}
	p.settleConsole()
	lost := w.now + w.upTo(2*w.plan.network)
	if !powerCut {
		p.hangUp(lost)
	} else if p.link != nil {
		p.link.closed = true
		p.link.lost[1-p.id] = min(p.link.lost[1-p.id], lost)
	}
}

// pause stops the process for a while, its ticks included.
func (p *proc) pause(d int64) {
	if p.gone || p.paused {
		return
	}
	p.w.tell(p, "is stopped for %.1f ms", float64(d)/1e6)
	p.paused = true
	p.w.at(p.w.now+d, nil, func() {
		p.w.tell(p, "goes on")
		p.paused = false
		for len(p.inbox) > 0 && !p.paused && !p.gone {
			do := p.inbox[0]
			p.inbox = p.inbox[1:]
			do()
		}
	})
}
