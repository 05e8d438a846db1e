package badinput

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"

	"ftvm/proto"
	"ftvm/test/harness"
)

// start is the first record that is lied about; by then the guest works.
const start = 30

// aboutRecord changes one record of the primary's.
func aboutRecord(change func(r *proto.Record)) func(*proto.Message) ([]any, bool) {
	return func(m *proto.Message) ([]any, bool) {
		if m.GetRecord().GetEpoch() < start {
			return nil, false
		}
		change(m.GetRecord())
		return []any{m}, true
	}
}

// aboutCompletion changes the first record with the completion of a disk request.
func aboutCompletion(change func(r *proto.Record, i int)) func(*proto.Message) ([]any, bool) {
	return func(m *proto.Message) ([]any, bool) {
		r := m.GetRecord()
		i := slices.IndexFunc(r.GetInputs(), func(in *proto.Input) bool { return in.GetKind() == proto.Input_DISK })
		if r.GetEpoch() < start || i < 0 {
			return nil, false
		}
		change(r, i)
		return []any{m}, true
	}
}

// insteadOfRecord says something else; what may use the record.
func insteadOfRecord(what func(m *proto.Message) []any) func(*proto.Message) ([]any, bool) {
	return func(m *proto.Message) ([]any, bool) {
		if m.GetRecord().GetEpoch() < start {
			return nil, false
		}
		return what(m), true
	}
}

func wire(m *proto.Message) bytesOnTheWire {
	var b bytes.Buffer
	if _, err := protodelim.MarshalTo(&b, m); err != nil {
		panic(err) // writing to memory cannot fail
	}
	return b.Bytes()
}

func input(r *proto.Record, in *proto.Input) { r.Inputs = append(r.Inputs, in) }

// TestLyingPrimary: a backup that is told something that cannot be stops and says so. The primary,
// which is innocent here, goes on alone.
func TestLyingPrimary(t *testing.T) {
	for _, row := range []struct {
		name string
		lie  func(*proto.Message) ([]any, bool)
		says string
	}{
		{"a record is left out", insteadOfRecord(func(m *proto.Message) []any { return nil }), "is next"},
		{"a record out of order", func() func(*proto.Message) ([]any, bool) {
			var first *proto.Message
			return func(m *proto.Message) ([]any, bool) {
				switch {
				case m.GetRecord().GetEpoch() < start:
					return nil, false
				case first == nil:
					first = m
					m.GetRecord().Epoch += 5
				}
				return []any{m}, true
			}
		}(), "is next"},
		{"a position beyond the epoch", aboutRecord(func(r *proto.Record) { r.Position += 1 << 40 }), "divergence"},
		{"a position that was", aboutRecord(func(r *proto.Record) { r.Position = 1 }), "divergence"},
		{"the next position", aboutRecord(func(r *proto.Record) { r.Position++ }), "divergence"},
		{"another digest", aboutRecord(func(r *proto.Record) { r.Digest++ }), "divergence"},
		{"a digest of memory out of turn", aboutRecord(func(r *proto.Record) { r.Memory = !r.Memory }), "divergence"},
		{"the guest's end", aboutRecord(func(r *proto.Record) { r.Ended = true }), "divergence"},
		{"no length", aboutRecord(func(r *proto.Record) { r.Length = 0 }), "opens an epoch of no length"},
		{"time that goes back", aboutRecord(func(r *proto.Record) { r.TimeNs = 1 }), "guest time would go back"},
		{"time from the far future", aboutRecord(func(r *proto.Record) { r.TimeNs = 1 << 62 }), "divergence"},
		{"an input of unknown kind", aboutRecord(func(r *proto.Record) { input(r, &proto.Input{Kind: 77}) }), "unknown kind 77"},
		{"an input of unknown status", aboutRecord(func(r *proto.Record) { input(r, &proto.Input{Kind: proto.Input_DISK, Status: 256}) }), "unknown disk status 256"},
		{"a giant input", aboutRecord(func(r *proto.Record) {
			input(r, &proto.Input{Kind: proto.Input_CONSOLE, Data: make([]byte, 2<<20)})
		}), "2097152 bytes"},
		{"more console input than there is room for", aboutRecord(func(r *proto.Record) {
			for range 7 {
				input(r, &proto.Input{Kind: proto.Input_CONSOLE, Data: bytes.Repeat([]byte("x"), 1<<20)})
			}
		}), "send no more until the guest reads"},
		{"more entropy than there is room for", aboutRecord(func(r *proto.Record) {
			for range 7 {
				input(r, &proto.Input{Kind: proto.Input_ENTROPY, Data: make([]byte, 1<<20)})
			}
		}), "send at most what was asked for"},
		{"a completion of no request", aboutRecord(func(r *proto.Record) {
			input(r, &proto.Input{Kind: proto.Input_DISK, Id: 1 << 40, Local: true})
		}), "a completion of request 1099511627776 of disk 0, which the guest did not make"},
		{"a completion of no disk", aboutRecord(func(r *proto.Record) {
			input(r, &proto.Input{Kind: proto.Input_DISK, Device: 1 << 31, Local: true})
		}), "which the guest did not make"},
		{"a completion twice", aboutCompletion(func(r *proto.Record, i int) { input(r, r.Inputs[i]) }), "which the guest did not make"},
		{"a completion with another status", aboutCompletion(func(r *proto.Record, i int) { r.Inputs[i].Status = 1 }), "divergence"},
		{"no completion", aboutCompletion(func(r *proto.Record, i int) { r.Inputs = slices.Delete(r.Inputs, i, i+1) }), "divergence"},
		{"an acknowledgement", insteadOfRecord(func(m *proto.Message) []any {
			return []any{&proto.Message{Body: &proto.Message_Ack{Ack: &proto.Ack{}}}}
		}), "an acknowledgement for a backup"},
		{"a hello", insteadOfRecord(func(m *proto.Message) []any { return []any{hello(ours, 1)} }), "no place after the handshake"},
		{"nothing at all", insteadOfRecord(func(m *proto.Message) []any { return []any{&proto.Message{}} }), "an empty message"},
		{"a goodbye without a cause", insteadOfRecord(func(m *proto.Message) []any {
			return []any{&proto.Message{Body: &proto.Message_Goodbye{Goodbye: &proto.Goodbye{}}}}
		}), "unknown cause 0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx := begin(t)
			p := between(ctx, t, liar{true, row.lie})
			fails(ctx, t, p.Backup, row.says)
			unharmed(ctx, t, p.Primary)
			if slices.Contains(strays, row.name) {
				// The backup ran where the primary never was, and finds out at the end of that epoch:
				// what it wrote on the way is on its own image, and only there.
				_, err := lab.Verify(ctx, p.Images[0])
				check(t, err)
			} else {
				_, err := lab.Judge(ctx, p, p.Backup)
				check(t, err)
			}
			noEscapes(t, p.Primary)
		})
	}
}

// strays are the lies about a record that make a backup run on before it can know better.
var strays = []string{"the next position", "time from the far future", "a completion with another status"}

// TestLyingBackup: a primary that is told something that cannot be goes on without that backup,
// which is told to stop.
func TestLyingBackup(t *testing.T) {
	// about changes an acknowledgement when the guest works.
	about := func(change func(a *proto.Ack)) func(*proto.Message) ([]any, bool) {
		return func(m *proto.Message) ([]any, bool) {
			if m.GetAck().GetHeld() < start {
				return nil, false
			}
			change(m.GetAck())
			return []any{m}, true
		}
	}
	instead := func(lie *proto.Message) func(*proto.Message) ([]any, bool) {
		return func(m *proto.Message) ([]any, bool) {
			if m.GetAck().GetHeld() < start {
				return nil, false
			}
			return []any{lie}, true
		}
	}
	for _, row := range []struct {
		name string
		lie  func(*proto.Message) ([]any, bool)
		says string
	}{
		{"it holds what was never sent", about(func(a *proto.Ack) { a.Held += 1 << 40 }), "it acknowledges record 1099511627"},
		{"it verified what it does not hold", about(func(a *proto.Ack) { a.Verified = a.Held + 1 }), "and verifies"},
		{"it held more before", about(func(a *proto.Ack) { a.Held, a.Verified = 1, 0 }), "after it held"},
		{"a record", instead(&proto.Message{Body: &proto.Message_Record{Record: &proto.Record{Length: 1}}}), "a record for a replica that is primary"},
		{"a record that is none", instead(&proto.Message{Body: &proto.Message_Record{Record: &proto.Record{}}}), "opens an epoch of no length"},
		{"the machine is over", instead(&proto.Message{Body: &proto.Message_Goodbye{Goodbye: &proto.Goodbye{Cause: proto.Goodbye_ENDED}}}),
			"a backup cannot end the virtual machine"},
		{"a hello", instead(hello(ours, 1)), "no place after the handshake"},
		{"nothing at all", instead(&proto.Message{}), "an empty message"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx := begin(t)
			p := between(ctx, t, liar{false, row.lie})
			said, err := p.Primary.Messages.AwaitText(ctx, row.says)
			check(t, err)
			t.Log(said.Text)
			fails(ctx, t, p.Backup, "the other replica goes on without this one")
			unharmed(ctx, t, p.Primary)
			_, err = lab.Judge(ctx, p, p.Backup)
			check(t, err)
		})
	}
}

// TestBrokenStream: what is no message ends the connection, not the pair: the backup comes back,
// and nothing is lost.
func TestBrokenStream(t *testing.T) {
	for _, row := range []struct {
		name string
		what func(m *proto.Message) []any
	}{
		{"it ends between messages", func(m *proto.Message) []any { return []any{hangUp{}} }},
		{"it ends within a message", func(m *proto.Message) []any { w := wire(m); return []any{w[:len(w)/2], hangUp{}} }},
		{"it ends within a length", func(m *proto.Message) []any { return []any{bytesOnTheWire{0xff}, hangUp{}} }},
		{"a huge length", func(m *proto.Message) []any { return []any{bytesOnTheWire("\xff\xff\xff\xff\xff\xff\xff\xff\x7f")} }},
		{"noise", func(m *proto.Message) []any { return []any{bytesOnTheWire(noise(10000))} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx := begin(t)
			p := between(ctx, t, liar{true, insteadOfRecord(row.what)})
			unharmed(ctx, t, p.Primary)
			check(t, p.Backup.WaitFor(ctx, 0))
			check(t, harness.SameImage(p.Images[0], p.Images[1]))
		})
	}
}

// between starts a pair with a relay in between that lies, and waits until it has.
func between(ctx context.Context, t *testing.T, l liar) *harness.Pair {
	t.Helper()
	p := awaitingPair(ctx, t)
	lied := make(chan struct{})
	lie := l.lie
	l.lie = func(m *proto.Message) ([]any, bool) {
		lies, done := lie(m)
		if done {
			close(lied)
		}
		return lies, done
	}
	r := newRelay(t, p.Addr, l)
	var err error
	p.Backup, err = lab.StartBackup(r.ln.Addr().String(), p.Images[1], guest...)
	check(t, err)
	select {
	case <-lied:
	case <-ctx.Done():
		t.Fatal("there was nothing to lie about")
	}
	return p
}
