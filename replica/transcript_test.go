package replica

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"ftvm/epoch"
	"ftvm/vmm"
)

// play plays a transcript against a core: on each line an event, then after " : " the actions
// that it must cause and after " -> " what the machine is to do next. Notices are for people
// and are left out. Blank lines and those with # are comments.
func play(t *testing.T, c *Core, transcript string) {
	t.Helper()
	p := &player{core: c}
	for n, line := range strings.Split(transcript, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		event, want, ok := strings.Cut(line, " : ")
		if !ok {
			t.Fatalf("line %d: %q has no \" : \"", n, line)
		}
		if got := p.step(strings.Fields(event)); got != strings.TrimSpace(want) {
			t.Fatalf("line %d: %s\n got: %s\nwant: %s", n, strings.TrimSpace(event), got, strings.TrimSpace(want))
		}
	}
}

type player struct {
	core     *Core
	conn     uint64
	position vmm.Position
}

// step lets one event happen and describes what the core does.
func (p *player) step(w []string) string {
	c := p.core
	arg := func(i int) (n uint64) {
		if i < len(w) {
			fmt.Sscan(w[i], &n)
		}
		return
	}
	var said []string
	receive := func(m Message) { c.Receive(p.conn, m) }
	late := p.conn
	if w[0] == "late" { // a message on an old connection
		late, w = arg(1), w[2:]
		receive = func(m Message) { c.Receive(late, m) }
	}
	switch w[0] {
	case "connected":
		p.conn = arg(1)
		c.Connected(p.conn)
	case "disconnected":
		c.Disconnected(arg(1))
	case "unreachable":
		c.Unreachable(false)
	case "no-such-process":
		c.Unreachable(true)
	case "refused":
		c.Refused(errors.New("full"))
	case "tick":
		c.Tick()
	case "claimed":
		c.Claimed(w[1] == "won")
	case "record": // record <number> [<time>]
		r := epoch.Record{Epoch: epoch.Number(arg(1)), Length: 10, Time: vmm.Time(arg(2))}
		r.Ended = len(w) > 2 && w[2] == "ended"
		if len(w) > 3 && w[2] == "left" {
			r.Left = epoch.Left{Console: arg(3), Frames: arg(4)}
		}
		if len(w) > 3 && w[2] == "disk" {
			r.Inputs = []vmm.Input{{Kind: vmm.InputDisk, ID: arg(3)}}
		}
		receive(RecordMessage{r})
	case "ack":
		receive(Ack{epoch.Number(arg(1)), epoch.Number(arg(2))})
	case "heartbeat":
		receive(Heartbeat{epoch.Left{Console: arg(1), Frames: arg(2)}})
	case "handover":
		receive(Handover{"disk full"})
	case "goodbye":
		cause := map[string]Cause{"ended": CauseEnded, "quit": CauseQuit, "leaving": CauseLeaving, "dropped": CauseDropped}[w[1]]
		receive(Goodbye{Cause: cause, Left: epoch.Left{Console: arg(2), Frames: arg(3)}})
	case "garbage":
		c.PeerBroke(p.conn, errors.New("garbage"))
	case "type":
		c.Input(vmm.Input{Kind: vmm.InputConsole, Data: []byte(w[1])})
	case "disk": // disk <id> [fails]
		in := vmm.Input{Kind: vmm.InputDisk, ID: arg(1)}
		if len(w) > 2 {
			in.Status = vmm.DiskError
		}
		c.Input(in)
	case "brings": // brings <bytes>: a frame
		c.Input(vmm.Input{Kind: vmm.InputFrame, Data: make([]byte, arg(1))})
	case "trouble":
		c.Trouble(errors.New("disk full"))
	case "acquired":
		c.Acquired()
	case "prints": // prints <seq> <text>
		c.Produced([]vmm.Output{{Kind: vmm.OutputConsole, Seq: arg(1), Data: []byte(w[2])}})
	case "writes": // writes <seq> [shared]
		c.Produced([]vmm.Output{{Kind: vmm.OutputDisk, Op: vmm.DiskWrite, Seq: arg(1), Shared: len(w) > 2}})
	case "frame": // frame <seq>
		c.Produced([]vmm.Output{{Kind: vmm.OutputFrame, Seq: arg(1)}})
	case "left":
		c.ConsoleWritten(arg(1))
	case "boundary":
		p.position++
		r := c.Boundary(epoch.Boundary{Position: p.position, Ended: len(w) > 1}, Opening{Worked: 10, Time: 100, Rate: 1, Length: 10, Awaits: 1})
		if r.Awaits == 0 {
			said = append(said, "awaits nothing")
		}
		said = append(said, "opens "+record(r))
	case "await": // the guest is halted
		if in, ok := c.Await(); ok {
			said = append(said, fmt.Sprint("awaited ", in.ID))
		}
	case "executed":
		c.Executed()
	case "leave":
		c.Leave("leaving")
	case "quit":
		c.Quit("quit")
	case "fail":
		c.Fail(errors.New("disk full"))
	default:
		panic("no event " + w[0])
	}
	for _, a := range c.Actions() {
		if a.Kind != ActNotice {
			said = append(said, describe(a))
		}
	}
	return strings.TrimSpace(strings.Join(said, ", ") + " -> " + next(c))
}

func next(c *Core) string {
	switch task := c.Next(); task.Kind {
	case TaskRun:
		if room := c.Headroom(); room < math.MaxUint64 {
			return fmt.Sprintf("run for %d", room)
		}
		return "run"
	case TaskReplay:
		return fmt.Sprintf("replay %d", task.Record.Epoch)
	case TaskFailover:
		return "failover"
	case TaskStop:
		if c.Result() != nil {
			return "stop with an error"
		}
		return "stop"
	}
	return "wait"
}

func describe(a Action) string {
	switch a.Kind {
	case ActSend:
		switch m := a.Message.(type) {
		case RecordMessage:
			return "send " + record(m.Record)
		case Ack:
			return fmt.Sprintf("send ack %d %d", m.Held, m.Verified)
		case Heartbeat:
			return "send heartbeat " + left(m.Left)
		case Handover:
			return "send handover"
		case Goodbye:
			return "send goodbye " + [...]string{"", "ended", "quit", "leaving", "dropped"}[m.Cause]
		}
	case ActRelease:
		return "release " + outputs(a.Outputs)
	case ActRepeat:
		return "repeat " + outputs(a.Outputs)
	case ActDial:
		return "dial"
	case ActAcquire:
		return "acquire"
	case ActClaim:
		return "claim"
	case ActHangUp:
		return "hang up"
	}
	return fmt.Sprintf("action %d", a.Kind)
}

func record(r epoch.Record) string {
	s := fmt.Sprintf("record %d", r.Epoch)
	for _, in := range r.Inputs {
		switch in.Kind {
		case vmm.InputConsole:
			s += fmt.Sprintf(" type %s", in.Data)
		case vmm.InputDisk:
			s += fmt.Sprintf(" disk %d", in.ID)
		case vmm.InputFrame:
			s += fmt.Sprintf(" frame of %d", len(in.Data))
		}
	}
	if r.Ended {
		s += " ended"
	}
	if r.Left.Frames > 0 {
		s += " left " + left(r.Left)
	}
	return s
}

// left is the console's bytes, and the frames if there are any.
func left(l epoch.Left) string {
	if l.Frames == 0 {
		return fmt.Sprint(l.Console)
	}
	return fmt.Sprintf("%d %d", l.Console, l.Frames)
}

func outputs(outs []vmm.Output) string {
	var s []string
	for _, o := range outs {
		switch o.Kind {
		case vmm.OutputDisk:
			s = append(s, fmt.Sprintf("write %d", o.Seq))
		case vmm.OutputFrame:
			s = append(s, fmt.Sprintf("frame %d", o.Seq))
		default:
			s = append(s, fmt.Sprintf("print %d %s", o.Seq, o.Data))
		}
	}
	return strings.Join(s, " ")
}
