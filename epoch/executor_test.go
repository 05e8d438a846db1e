package epoch

import (
	"errors"
	"math"
	"testing"

	"ftvm/vmm"
)

// counter is a guest that counts: a position a step, an end at the hundredth, a halt
// where haltAt says until somebody types.
type counter struct {
	pos    vmm.Position
	time   vmm.Time
	sum    uint64
	haltAt vmm.Position
	awake  bool
}

func (m *counter) Position() vmm.Position { return m.pos }
func (m *counter) Time() vmm.Time         { return m.time + vmm.Time(m.pos) }
func (m *counter) End() (vmm.End, bool)   { return vmm.End{}, m.pos >= 100 }

func (m *counter) Run(until vmm.Position, pause func() bool) (vmm.StopReason, error) {
	for {
		switch {
		case m.pos >= 100:
			return vmm.StopEnded, nil
		case m.haltAt != 0 && m.pos == m.haltAt && !m.awake:
			return vmm.StopHalted, nil
		case m.pos >= until:
			return vmm.StopPosition, nil
		case pause != nil && pause():
			return vmm.StopPaused, nil
		}
		m.pos++
		m.sum = m.sum*31 + uint64(m.pos)
	}
}

func (m *counter) Apply(t vmm.Time, _ vmm.Rate, inputs []vmm.Input) error {
	if t < m.time {
		return errors.New("time goes back")
	}
	m.time = t
	for _, in := range inputs {
		m.Deliver(in)
	}
	return nil
}

func (m *counter) Deliver(in vmm.Input) error {
	if len(in.Data) > 100 {
		return errors.New("too long")
	}
	m.awake = true
	m.sum += uint64(len(in.Data))
	return nil
}

func (m *counter) Digest(memory bool) (uint64, error) { return m.sum<<1 | b2u(memory), nil }

func (m *counter) Report() (*vmm.Archive, error) {
	a := vmm.NewNamingSaver()
	a.U64("sum", &m.sum)
	return a, nil
}

// record closes the present epoch of x where its machine stands, as a primary does.
func record(t *testing.T, x *Executor, length uint64, inputs ...vmm.Input) Record {
	t.Helper()
	b, err := x.Close()
	if err != nil {
		t.Fatal(err)
	}
	return Record{Epoch: x.Opened(), Position: b.Position, Awaited: b.Awaited, Digest: b.Digest, Memory: b.Memory, Ended: b.Ended,
		Length: length, Time: 1000, Inputs: inputs}
}

func open(t *testing.T, x *Executor, r Record) {
	t.Helper()
	if err := x.Open(r); err != nil {
		t.Fatal(err)
	}
}

// history is what a primary's executor does: epochs of full length, one that ends early, one with
// inputs, up to the guest's end.
func history(t *testing.T) []Record {
	t.Helper()
	x := NewExecutor(&counter{haltAt: 60}, 30)
	var log []Record
	for _, early := range []int{0, 10, 3, 10, 100, 50} {
		n := early
		var inputs []vmm.Input
		if reason, err := x.Run(func() bool { n--; return n < 0 }); err != nil {
			t.Fatal(err)
		} else if reason == vmm.StopHalted {
			inputs = []vmm.Input{{Kind: vmm.InputConsole, Data: []byte("go on")}}
		}
		r := record(t, x, 50, inputs...)
		open(t, x, r)
		log = append(log, r)
	}
	return log
}

func TestReplayFollows(t *testing.T) {
	log := history(t)
	if last := log[len(log)-1]; !last.Ended {
		t.Fatalf("the history does not end: %+v", last)
	}
	x := NewExecutor(&counter{haltAt: 60}, 30)
	for i, r := range log {
		if want := i == 0 || r.Ended || r.Position/30 != log[i-1].Position/30; r.Memory != want {
			t.Errorf("the digest of record %d at position %d covers memory: %v", i, r.Position, r.Memory)
		}
		if err := x.Replay(r, nil); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		open(t, x, r)
	}
	if x.Opened() != Number(len(log)) {
		t.Errorf("%d records are opened, want %d", x.Opened(), len(log))
	}
}

// TestReplayGoesOn: an interrupted replay goes on where it was.
func TestReplayGoesOn(t *testing.T) {
	x := NewExecutor(&counter{haltAt: 60}, 30)
	for _, r := range history(t) {
		for {
			steps := 0
			err := x.Replay(r, func() bool { steps++; return steps > 4 })
			if err == nil {
				break
			}
			if !errors.Is(err, ErrInterrupted) {
				t.Fatal(err)
			}
		}
		open(t, x, r)
	}
}

// TestAwait: a completion that entered while the guest was halted enters there again, and nowhere else.
func TestAwait(t *testing.T) {
	data := vmm.Input{Kind: vmm.InputDisk, Data: []byte("data")}
	first := Record{Length: 50, Awaits: 2, Time: 1}
	begin := func() *Executor {
		x := NewExecutor(&counter{haltAt: 30}, 0)
		if x.MayAwait() {
			t.Error("a completion may enter before the first record")
		}
		open(t, x, first)
		return x
	}
	primary := begin()
	for _, want := range []vmm.StopReason{vmm.StopHalted, vmm.StopPosition} {
		if reason, err := primary.Run(nil); reason != want || err != nil || !primary.MayAwait() {
			t.Fatalf("the primary stopped for %d, %v; a completion may enter: %v", reason, err, primary.MayAwait())
		}
		if want == vmm.StopHalted {
			if err := primary.Await(data); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := record(t, primary, 50)
	r.Time = 1
	if r.Awaited != 1 {
		t.Errorf("the record says that %d completions entered", r.Awaited)
	}
	for _, row := range []struct {
		name   string
		field  string // of the divergence
		change func(r *Record)
		awaits int // what the backup is told to let enter
	}{
		{"as it was", "", func(*Record) {}, 1},
		{"none", "position", func(r *Record) { r.Awaited = 0 }, 0},
		{"more than the guest waits for", "awaited", func(r *Record) { r.Awaited = 2 }, 1},
		{"more than may be", "awaited", func(r *Record) { r.Awaited = 3 }, 0},
	} {
		backup, s := begin(), r
		row.change(&s)
		err := backup.Replay(s, nil)
		for n := 0; n < row.awaits; n++ {
			if !errors.Is(err, ErrAwait) {
				t.Fatalf("%s: %v; want ErrAwait", row.name, err)
			}
			if err := backup.Await(data); err != nil {
				t.Fatal(err)
			}
			err = backup.Replay(s, nil)
		}
		var d *Divergence
		if errors.As(err, &d) != (row.field != "") || d != nil && d.Field != row.field {
			t.Errorf("%s: %v; want a difference of %q", row.name, err, row.field)
		}
	}
	if err := primary.Await(vmm.Input{Data: make([]byte, 101)}); err == nil {
		t.Error("a completion entered that the machine cannot take")
	}
	open(t, primary, Record{Epoch: 1, Length: 50, Time: 1})
	if primary.MayAwait() {
		t.Error("a completion may enter in an epoch that awaits none")
	}
}

// TestDivergence: whatever of a record does not fit is found, and named.
func TestDivergence(t *testing.T) {
	for _, d := range []struct {
		field  string
		change func(r *Record)
		steps  vmm.Position // where the backup's guest stands
	}{
		{"digest", func(r *Record) { r.Digest ^= 2 }, 20},
		{"digest of memory", func(r *Record) { r.Memory = true }, 20},
		{"ended", func(r *Record) { r.Ended = true }, 20},
		{"position", func(r *Record) { r.Position = 51 }, 0},  // longer than an epoch may be
		{"position", func(r *Record) { r.Position = 31 }, 30}, // the guest halts before
	} {
		x := NewExecutor(&counter{haltAt: 30}, 100)
		open(t, x, Record{Length: 50, Time: 1})
		primary := NewExecutor(&counter{haltAt: 30}, 100)
		open(t, primary, Record{Length: 50, Time: 1})
		n := 20
		if _, err := primary.Run(func() bool { n--; return n < 0 }); err != nil {
			t.Fatal(err)
		}
		r := record(t, primary, 50)
		d.change(&r)
		err := x.Replay(r, nil)
		var got *Divergence
		if !errors.As(err, &got) {
			t.Errorf("%s: %v; want a divergence", d.field, err)
			continue
		}
		if got.Field != d.field || got.Epoch != 0 || got.Position != d.steps || got.Primary == got.Backup || got.State == nil {
			t.Errorf("%s: %+v at position %d", d.field, got, d.steps)
		}
	}
}

func TestOpenChecksOrder(t *testing.T) {
	x := NewExecutor(&counter{}, 0)
	if err := x.Open(Record{Epoch: 1, Length: 1}); err == nil {
		t.Error("record 1 was opened before record 0")
	}
	open(t, x, Record{Epoch: 0, Length: 1, Time: 5})
	if err := x.Open(Record{Epoch: 0, Length: 1, Time: 5}); err == nil {
		t.Error("record 0 was opened twice")
	}
	if err := x.Open(Record{Epoch: 1, Length: 1, Time: 4}); err == nil {
		t.Error("a record that the machine refuses was opened")
	}
}

// TestEpochHasALength: Run never goes beyond the length that the record gave.
func TestEpochHasALength(t *testing.T) {
	m := &counter{}
	x := NewExecutor(m, 0)
	if reason, err := x.Run(nil); reason != vmm.StopPosition || err != nil || m.pos != 0 {
		t.Errorf("before the first record the guest ran to %d: %d, %v", m.pos, reason, err)
	}
	open(t, x, Record{Length: 7})
	if reason, err := x.Run(nil); reason != vmm.StopPosition || err != nil || m.pos != 7 {
		t.Errorf("an epoch of 7 ended at %d: %d, %v", m.pos, reason, err)
	}
}

// TestRunUpTo: an epoch can be told to be shorter than its length, not longer.
func TestRunUpTo(t *testing.T) {
	for _, row := range []struct {
		length, upTo uint64
		want         vmm.Position
	}{{10, 4, 4}, {10, 10, 10}, {10, 11, 10}, {10, math.MaxUint64, 10}, {math.MaxUint64, math.MaxUint64, 100}} {
		m := &counter{}
		x := NewExecutor(m, 0)
		open(t, x, Record{Length: row.length})
		if _, err := x.RunUpTo(row.upTo, nil); err != nil || m.pos != row.want {
			t.Errorf("up to %d of %d: it stands at %d, %v; want %d", row.upTo, row.length, m.pos, err, row.want)
		}
		// The limit of an epoch far from the beginning cannot overflow.
		if row.upTo == 4 {
			open(t, x, Record{Epoch: 1, Position: 4, Length: math.MaxUint64})
			if _, err := x.Run(nil); err != nil || m.pos != 100 {
				t.Errorf("it stands at %d, %v", m.pos, err)
			}
		}
	}
}
