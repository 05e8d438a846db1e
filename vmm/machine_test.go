package vmm_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ftvm/vmm"
)

// busy is a program with all that a stop can bring: accesses, an alarm that comes while
// interrupts are off, one that comes while they are on, and the end.
var busy = []instruction{
	{op: nop}, {out, 1}, {op: nop}, {mov, 40}, {op: nop}, {op: nop}, {out, 2}, {op: nop}, {in, 0}, {op: nop},
	{op: sti}, {op: nop}, {op: nop}, {out, 3}, {load, 0}, {op: sti}, {mov, 25}, {op: nop}, {op: nop}, {op: nop},
	{out, 4}, {op: nop}, {out, 5}, {op: sti}, {out, 6}, {off, 1},
}

// TestPauseIsUntil: a run that is paused at a position and one that was told to end there do the
// same, there and afterwards. So a backup can repeat what its primary did.
func TestPauseIsUntil(t *testing.T) {
	for _, clock := range []vmm.Clock{exits, exact} {
		whole := newRig(clock, busy...)
		whole.run(t, forever, nil, vmm.StopEnded)
		if !slices.ContainsFunc(whole.log, func(s string) bool { return strings.HasPrefix(s, "interrupt") }) {
			t.Fatalf("clock %s: no interrupt in %q", clock.Name, whole.log)
		}
		for stop := range whole.Position() {
			until, paused := newRig(clock, busy...), newRig(clock, busy...)
			until.run(t, stop, nil, vmm.StopPosition)
			// On an exact clock the machine comes out only where something happens.
			reason, err := paused.Run(forever, func() bool { return paused.Position() >= stop })
			if err != nil || reason != vmm.StopPaused {
				t.Fatalf("Run = %d, %v, want paused", reason, err)
			}
			until.run(t, max(stop, paused.Position()), nil, vmm.StopPosition)
			for _, r := range []*rig{until, paused} {
				if got, want := r.log, whole.log[:len(r.log)]; !slices.Equal(got, want) {
					t.Fatalf("clock %s, position %d: did %q, want %q", clock.Name, stop, got, want)
				}
			}
			if !slices.Equal(until.log, paused.log) {
				t.Errorf("clock %s, position %d:\nuntil  %q\npaused %q", clock.Name, stop, until.log, paused.log)
			}
			if u, p := until.digest(t, true), paused.digest(t, true); u != p {
				t.Errorf("clock %s, position %d: digests %x and %x", clock.Name, stop, u, p)
			}
			until.run(t, forever, nil, vmm.StopEnded)
			paused.run(t, forever, nil, vmm.StopEnded)
			if !slices.Equal(until.log, whole.log) || !slices.Equal(paused.log, whole.log) {
				t.Errorf("clock %s, after position %d:\nwhole  %q\nuntil  %q\npaused %q", clock.Name, stop, whole.log, until.log, paused.log)
			}
		}
	}
}

// TestOrderAtStop: time first, then the interrupt that it brings, then pause.
func TestOrderAtStop(t *testing.T) {
	r := newRig(exits, instruction{op: sti}, instruction{mov, 10}, instruction{out, 7})
	r.run(t, forever, func() bool {
		r.log = append(r.log, fmt.Sprintf("pause at %d", r.Position()))
		return r.Position() == 1
	}, vmm.StopPaused)
	want := []string{"pause at 0", "write 0xc0000000 10 at 0", "alarm at 10", "interrupt 32 at 1", "pause at 1"}
	if !slices.Equal(r.log, want) {
		t.Errorf("got  %q\nwant %q", r.log, want)
	}
}

// TestInjectionOnlyAtStops: an interrupt that becomes possible between two nameable stops waits
// for the second; also if a kick stopped the CPU in between, on one of the replicas only.
func TestInjectionOnlyAtStops(t *testing.T) {
	program := []instruction{{out, 1}, {op: sti}, {op: nop}, {op: nop}, {out, 2}, {op: nop}, {out, 3}}
	for kick := -1; kick < len(program); kick++ {
		r := newRig(exits, program...)
		r.board.pending = true
		if kick >= 0 {
			r.cpu.kicks[uint64(kick)] = true
		}
		for r.Position() < 3 {
			reason, err := r.Run(3, nil)
			if err != nil {
				t.Fatal(err)
			}
			if reason != vmm.StopKicked {
				continue
			}
			if want := vmm.Time(10 * r.Position()); r.Time() != want || r.Position() > vmm.Position(kick) {
				t.Errorf("kick at %d: time is %d at position %d", kick, r.Time(), r.Position())
			}
			if _, err := r.Digest(false); !errors.Is(err, vmm.ErrMidEpoch) {
				t.Errorf("Digest after StopKicked: %v", err)
			}
			if _, err := r.Report(); !errors.Is(err, vmm.ErrMidEpoch) {
				t.Errorf("Report after StopKicked: %v", err)
			}
			if err := r.Apply(100, 0, nil); !errors.Is(err, vmm.ErrMidEpoch) {
				t.Errorf("Apply after StopKicked: %v", err)
			}
			if err := r.Save(vmm.NewSaver(nil)); !errors.Is(err, vmm.ErrMidEpoch) {
				t.Errorf("Save after StopKicked: %v", err)
			}
		}
		want := []string{"out 0x10 1 at 0", "out 0x10 2 at 10", "interrupt 32 at 2", "out 0x10 3 at 20"}
		if !slices.Equal(r.log, want) {
			t.Errorf("kick at %d:\ngot  %q\nwant %q", kick, r.log, want)
		}
	}
}

// TestMidAsksNobody: after a kick that left the CPU at no nameable position, nothing is asked
// before the next stop: neither pause nor the platform.
func TestMidAsksNobody(t *testing.T) {
	r := newRig(exits, instruction{op: nop}, instruction{op: nop}, instruction{out, 1}, instruction{out, 2})
	r.cpu.kicks[1] = true
	var pauses []vmm.Position
	pause := func() bool { pauses = append(pauses, r.Position()); return false }
	r.run(t, 2, pause, vmm.StopKicked)
	r.run(t, 2, pause, vmm.StopPosition)
	if want := []vmm.Position{0, 1}; !slices.Equal(pauses, want) {
		t.Errorf("pause was called at %v, want %v", pauses, want)
	}
	if got := r.Exits(); got != 3 {
		t.Errorf("%d exits, want 3", got)
	}
}

// TestKickAtStop: a kick that comes at a nameable position pauses there, on any clock.
func TestKickAtStop(t *testing.T) {
	for _, clock := range []vmm.Clock{exits, exact} {
		r := newRig(clock, instruction{out, 1}, instruction{out, 2}, instruction{out, 3})
		r.cpu.kicks[1] = true
		r.run(t, 3, nil, vmm.StopPaused)
		if r.Position() != 1 {
			t.Errorf("clock %s: kicked at %d, want 1", clock.Name, r.Position())
		}
		r.run(t, 3, nil, vmm.StopPosition)
	}
	r := newRig(exits, instruction{out, 1})
	r.Kick()
	r.run(t, 1, nil, vmm.StopPaused)
	r.run(t, 1, nil, vmm.StopPosition)
}

// TestHorizon: on an exact clock the machine stops at the first position at which the alarm is due.
func TestHorizon(t *testing.T) {
	for _, row := range []struct {
		name  string
		alarm vmm.Time
		until vmm.Position
		base  vmm.Time
		want  vmm.Position
	}{
		{"no alarm", 0, 50, 0, 50},
		{"at a position", 200, 50, 0, 20},
		{"between two positions", 201, 50, 0, 21},
		{"at once", 1, 50, 0, 1},
		{"after the end", 501, 50, 0, 50},
		{"at the end", 500, 50, 0, 50},
		{"counted from the last record", 10_205, 50, 10_000, 21},
		{"never", ^vmm.Time(0) - 100, 50, 0, 50},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(exact, make([]instruction, 100)...)
			r.cpu.state.RFLAGS = vmm.FlagIF
			r.apply(t, row.base)
			r.board.alarm = row.alarm
			r.run(t, row.until, nil, vmm.StopPosition)
			if r.cpu.asked[0] != row.want {
				t.Errorf("the first horizon is %d, want %d", r.cpu.asked[0], row.want)
			}
			if row.want < row.until {
				if want := fmt.Sprintf("interrupt 32 at %d", row.want); !slices.Contains(r.log, want) {
					t.Errorf("%q is not in %q", want, r.log)
				}
			}
		})
	}
}

// leaper is an engine that is at once where it is to stop.
type leaper struct {
	vmm.Engine
	stops []vmm.Position
}

func (l *leaper) Clock() vmm.Clock             { return exact }
func (l *leaper) Interruptible() (bool, error) { return false, nil }
func (l *leaper) Position() vmm.Position {
	if len(l.stops) == 0 {
		return 0
	}
	return l.stops[len(l.stops)-1]
}

func (l *leaper) Run(until vmm.Position, _ bool, _ vmm.Bus) (vmm.Exit, error) {
	l.stops = append(l.stops, until)
	return vmm.Exit{Reason: vmm.ExitPosition}, nil
}

// TestRate: guest time and the horizon are exact at every rate, and nothing overflows.
func TestRate(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func() uint64 { return rng.Uint64() >> rng.IntN(64) }
	integer := func(x uint64) *big.Int { return new(big.Int).SetUint64(x) }
	for range 20000 {
		cpu, platform := &leaper{}, &board{log: new([]string)}
		m := vmm.NewMachine(cpu, vmm.NewRAM(make([]byte, vmm.PageSize)), platform)
		base, rate, until := vmm.Time(draw()), vmm.Rate(draw()), vmm.Position(1+draw()/2)
		if err := m.Apply(base, rate, nil); err != nil {
			t.Fatal(err)
		}
		alarm := max(base, vmm.Time(draw()))
		platform.alarm = alarm
		// Guest time at position n: base + n*rate/RateUnit, rounded down; not more than a Time can be.
		at := func(n vmm.Position) vmm.Time {
			ns := new(big.Int).Mul(integer(uint64(n)), integer(uint64(rate)))
			ns.Add(ns.Div(ns, big.NewInt(vmm.RateUnit)), integer(uint64(base)))
			if !ns.IsUint64() {
				return math.MaxUint64
			}
			return vmm.Time(ns.Uint64())
		}
		if _, err := m.Run(until, nil); err != nil {
			t.Fatal(err)
		}
		if m.Time() != at(until) {
			t.Fatalf("base %d, rate %d: time at position %d is %d, want %d", base, rate, until, m.Time(), at(until))
		}
		if first := cpu.stops[0]; alarm > base && (first < until && at(first) < alarm || at(first-1) >= alarm && first > 1) {
			t.Fatalf("base %d, rate %d, alarm %d, until %d: the horizon is %d", base, rate, alarm, until, first)
		}
	}
}

// TestClockWithoutTime: where a count stands for no time, timers move at boundaries only.
func TestClockWithoutTime(t *testing.T) {
	clock := vmm.Clock{Name: "count", Exact: true}
	r := newRig(clock, make([]instruction, 10)...)
	r.board.alarm = 5
	r.run(t, 10, nil, vmm.StopPosition)
	if r.Time() != 0 || len(r.log) != 0 {
		t.Errorf("time is %d after %q", r.Time(), r.log)
	}
	r.apply(t, 5)
	if want := []string{"alarm at 5"}; !slices.Equal(r.log, want) {
		t.Errorf("got %q, want %q", r.log, want)
	}
}

// TestWindow: on an exact clock an interrupt is taken at the first instruction that lets it in.
func TestWindow(t *testing.T) {
	r := newRig(exact, instruction{op: nop}, instruction{op: nop}, instruction{op: sti}, instruction{op: nop}, instruction{op: nop})
	r.board.pending = true
	r.run(t, 5, nil, vmm.StopPosition)
	if want := []string{"interrupt 32 at 3"}; !slices.Equal(r.log, want) {
		t.Errorf("got %q, want %q", r.log, want)
	}
	if want := []bool{true, false}; !slices.Equal(r.cpu.windows, want) {
		t.Errorf("windows were asked for as %v, want %v", r.cpu.windows, want)
	}
}

// TestWindowAfterInterrupt: a controller may ask for the CPU again as soon as it was acknowledged (the 8259 with automatic end of
// interrupt does). The second interrupt comes where the CPU lets it in, whether or not somebody stops there.
func TestWindowAfterInterrupt(t *testing.T) {
	r := newRig(exact, instruction{op: sti}, instruction{op: nop}, instruction{op: sti}, instruction{op: nop}, instruction{op: nop})
	r.board.pending, r.board.another = true, true
	r.run(t, 5, nil, vmm.StopPosition)
	if want := []string{"interrupt 32 at 1", "interrupt 32 at 3"}; !slices.Equal(r.log, want) {
		t.Errorf("got %q, want %q", r.log, want)
	}
}

func TestHalt(t *testing.T) {
	r := newRig(exits, instruction{op: sti}, instruction{op: hlt}, instruction{out, 1}, instruction{off, 0})
	r.run(t, forever, nil, vmm.StopHalted)
	r.run(t, forever, nil, vmm.StopHalted) // it still is
	if r.Position() != 1 {
		t.Errorf("halted at %d, want 1", r.Position())
	}
	r.apply(t, 50)
	r.run(t, forever, nil, vmm.StopHalted) // time alone wakes nobody
	r.apply(t, 60, vmm.Input{Kind: vmm.InputConsole, Data: []byte("x")})
	r.run(t, forever, nil, vmm.StopEnded)
	want := []string{`typed "x" at 60`, "interrupt 32 at 1", "out 0x10 1 at 60", "out 0x604 0 at 70"}
	if !slices.Equal(r.log, want) {
		t.Errorf("got  %q\nwant %q", r.log, want)
	}
	if outs := r.Outputs(nil); len(outs) != 2 {
		t.Errorf("%d outputs, want 2", len(outs))
	}
}

// TestAlarmWakesHalted: the alarm of a halted guest is due when a record brings its time.
func TestAlarmWakesHalted(t *testing.T) {
	r := newRig(exits, instruction{op: sti}, instruction{mov, 100}, instruction{op: hlt}, instruction{out, 1})
	r.run(t, 3, nil, vmm.StopHalted)
	if at, ok := r.Deadline(); at != 100 || !ok {
		t.Errorf("Deadline = %d, %v; want 100", at, ok)
	}
	r.apply(t, 99)
	r.run(t, 3, nil, vmm.StopHalted)
	r.apply(t, 100)
	r.run(t, 3, nil, vmm.StopPosition)
}

func TestEnds(t *testing.T) {
	for _, row := range []struct {
		name   string
		op     opcode
		kind   vmm.EndKind
		detail string
	}{
		{"power-off", off, vmm.EndPowerOff, ""},
		{"triple fault", triple, vmm.EndCrash, "rip "},
		{"dead halt", hlt, vmm.EndDeadHalt, "rip "},
		{"unsupported", unknown, vmm.EndUnsupported, "what is this\nposition 2"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(exits, instruction{out, 1}, instruction{op: row.op}, instruction{out, 2})
			if _, ended := r.End(); ended {
				t.Fatal("ended before it began")
			}
			// Also if the end is where the run was to stop, which is where a backup stops.
			r.run(t, 2, func() bool { return r.Position() == 2 }, vmm.StopEnded)
			r.run(t, forever, nil, vmm.StopEnded)
			end, ended := r.End()
			if !ended || end.Kind != row.kind || !strings.Contains(end.Detail, row.detail) || row.detail == "" && end.Detail != "" {
				t.Errorf("End = %+v, %v; want kind %d with %q", end, ended, row.kind, row.detail)
			}
			if r.Position() != 2 {
				t.Errorf("ended at %d, want 2", r.Position())
			}
		})
	}
}

// TestDeadHaltWithInterrupt: what is asked for and cannot be taken does not wake the CPU.
func TestDeadHaltWithInterrupt(t *testing.T) {
	r := newRig(exits, instruction{op: hlt})
	r.board.pending = true
	r.run(t, forever, nil, vmm.StopEnded)
	if end, _ := r.End(); end.Kind != vmm.EndDeadHalt || len(r.log) != 0 {
		t.Errorf("end %v after %q, want a dead halt after nothing", end, r.log)
	}
}

func TestApply(t *testing.T) {
	r := newRig(exits, instruction{out, 1}, instruction{out, 2}, instruction{out, 3})
	r.run(t, 2, nil, vmm.StopPosition)
	if r.Time() != 20 {
		t.Fatalf("time is %d, want 20", r.Time())
	}
	if err := r.Apply(19, 0, nil); err == nil || !strings.Contains(err.Error(), "go back from 20 to 19") {
		t.Errorf("time went back: %v", err)
	}
	if r.Time() != 20 {
		t.Errorf("a refused record set the time to %d", r.Time())
	}
	r.apply(t, 20)
	r.apply(t, 1000)
	if r.Time() != 1000 || r.board.now != 1000 {
		t.Errorf("time is %d, on the board %d, want 1000", r.Time(), r.board.now)
	}
	err := r.Apply(1000, exits.Rate(), []vmm.Input{{Kind: vmm.InputConsole}, {Kind: vmm.InputDisk}, {Kind: vmm.InputConsole}})
	if !errors.Is(err, errNotAsked) || !strings.Contains(err.Error(), "input 1") {
		t.Errorf("input 1 is bad: got %v", err)
	}
	r.run(t, 3, nil, vmm.StopPosition)
	if r.Time() != 1010 {
		t.Errorf("one count after the record time is %d, want 1010", r.Time())
	}
}

// TestHostTrouble: an error of the engine is returned, and is no end of the guest.
func TestHostTrouble(t *testing.T) {
	calls := map[string]func(r *rig) error{
		"Run":           func(r *rig) error { _, err := r.Run(1, nil); return err },
		"Interruptible": func(r *rig) error { r.board.pending = true; _, err := r.Run(1, nil); return err },
		"Interrupt": func(r *rig) error {
			r.board.pending, r.cpu.state.RFLAGS = true, vmm.FlagIF
			_, err := r.Run(1, nil)
			return err
		},
		"State":    func(r *rig) error { _, err := r.Digest(false); return err },
		"SetState": func(r *rig) error { return r.Restore(vmm.NewLoader(save(r))) },
		"Close":    func(r *rig) error { return r.Close() },
	}
	for call, do := range calls {
		r := newRig(exits, instruction{out, 1})
		r.cpu.broken = call
		if err := do(r); !errors.Is(err, errBroken) {
			t.Errorf("%s fails: got %v", call, err)
		}
		if _, ended := r.End(); ended {
			t.Errorf("%s fails: the guest ended", call)
		}
	}
	for name, op := range map[string]opcode{"crash": triple, "dead halt": hlt, "unsupported": unknown} {
		r := newRig(exits, instruction{op: op})
		r.cpu.broken = "State"
		if _, err := r.Run(1, nil); !errors.Is(err, errBroken) {
			t.Errorf("State fails at a %s: got %v", name, err)
		}
	}
	for _, do := range []func(r *rig) error{
		func(r *rig) error { return r.Save(vmm.NewSaver(nil)) },
		func(r *rig) error { _, err := r.Report(); return err },
	} {
		r := newRig(exits)
		r.cpu.broken = "State"
		if err := do(r); !errors.Is(err, errBroken) {
			t.Errorf("State fails: got %v", err)
		}
	}
	r := newRig(exits, instruction{out, 1})
	r.cpu.broken = "exit reason"
	if _, err := r.Run(1, nil); err == nil || !strings.Contains(err.Error(), "unknown exit reason 99") {
		t.Errorf("unknown exit: %v", err)
	}
}

// TestDigestOfCPU: every field of the CPU's state changes the digest, but those that
// hosts set by themselves.
func TestDigestOfCPU(t *testing.T) {
	r := newRig(exits)
	reference := r.digest(t, false)
	fields := 0
	var each func(path string, v reflect.Value)
	each = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				each(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Array:
			for i := range v.Len() {
				each(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		case reflect.Bool, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			fields++
			old := reflect.New(v.Type()).Elem()
			old.Set(v)
			if v.Kind() == reflect.Bool {
				v.SetBool(true)
			} else {
				v.SetUint(1 << (v.Type().Bits() - 1))
			}
			if r.digest(t, false) == reference {
				t.Errorf("CPUState%s is not in the digest", path)
			}
			v.Set(old)
		case reflect.Slice:
			if path != ".Ext" {
				t.Errorf("CPUState%s: a slice that this test does not know", path)
			}
		default:
			t.Errorf("CPUState%s has kind %v, which this test does not know", path, v.Kind())
		}
	}
	each("", reflect.ValueOf(&r.cpu.state).Elem())
	if fields < 600 {
		t.Errorf("only %d fields found", fields)
	}

	r.cpu.state.RFLAGS = vmm.FlagRF
	if r.digest(t, false) != reference {
		t.Error("RF is in the digest")
	}
	r.cpu.state.Ext = []byte{1}
	if r.digest(t, false) != reference {
		t.Error("Ext is in the digest")
	}
}

func TestDigest(t *testing.T) {
	r := newRig(exits, instruction{op: sti}, instruction{op: hlt})
	small, whole := r.digest(t, false), r.digest(t, true)
	if small == whole {
		t.Error("memory makes no difference")
	}
	for _, i := range []int{0, vmm.PageSize, len(r.mem) - 1} {
		r.mem[i]++
		if r.digest(t, false) != small {
			t.Errorf("byte %#x is in a digest without memory", i)
		}
		if r.digest(t, true) == whole {
			t.Errorf("byte %#x is not in a digest with memory", i)
		}
		r.mem[i]--
	}
	if r.digest(t, true) != whole {
		t.Error("the same machine has another digest")
	}
	seen := map[uint64]string{small: "at first"}
	differs := func(what string) {
		t.Helper()
		d := r.digest(t, false)
		if other, ok := seen[d]; ok {
			t.Errorf("the digest %s is that %s", what, other)
		}
		seen[d] = what
	}
	r.board.register = 1
	differs("with another device")
	r.apply(t, 1)
	differs("after a record")
	r.run(t, forever, nil, vmm.StopHalted)
	differs("when halted")
	r.cpu.state.RFLAGS = 0
	r.run(t, forever, nil, vmm.StopEnded)
	differs("after the end")
}

// TestReport: it holds what is digested, and names all of it.
func TestReport(t *testing.T) {
	r := newRig(exits, busy...)
	r.run(t, 3, nil, vmm.StopPosition)
	a, err := r.Report()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	end := 0
	for _, f := range a.Fields() {
		if f.Start != end {
			t.Errorf("%s starts at %d, want %d", f.Name, f.Start, end)
		}
		end = f.End
		names = append(names, f.Name)
	}
	if end != len(a.Data()) {
		t.Errorf("%d of %d bytes are named", end, len(a.Data()))
	}
	for _, want := range []string{"cpu.position", "cpu.rax", "cpu.r15", "cpu.gs", "cpu.fx", "cpu.events.nmi", "machine.base", "machine.halted", "board.register"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %q", want, names)
		}
	}
}

func save(r *rig) []byte {
	a := vmm.NewSaver(nil)
	if err := r.Save(a); err != nil {
		panic(err)
	}
	return a.Data()
}

// TestSaveRestore: a machine that is restored anywhere goes on like the one that was saved.
func TestSaveRestore(t *testing.T) {
	for _, clock := range []vmm.Clock{exits, exact} {
		whole := newRig(clock, busy...)
		whole.run(t, forever, nil, vmm.StopEnded)
		for stop := range whole.Position() + 1 {
			old := newRig(clock, busy...)
			old.apply(t, 0)
			old.cpu.state.RFLAGS |= vmm.FlagRF
			old.cpu.state.Ext = []byte("extended")
			if _, err := old.Run(stop, nil); err != nil {
				t.Fatal(err)
			}
			restored := newRig(clock, busy...)
			restored.cpu.kicks[1] = true // what it was in the middle of does not matter
			if _, err := restored.Run(2, nil); err != nil {
				t.Fatal(err)
			}
			if err := restored.Restore(vmm.NewLoader(save(old))); err != nil {
				t.Fatal(err)
			}
			if o, n := old.digest(t, true), restored.digest(t, true); o != n {
				t.Errorf("clock %s, position %d: digest %x, want %x", clock.Name, stop, n, o)
			}
			if restored.cpu.state.RFLAGS != old.cpu.state.RFLAGS || !bytes.Equal(restored.cpu.state.Ext, old.cpu.state.Ext) {
				t.Errorf("clock %s, position %d: RF or Ext got lost", clock.Name, stop)
			}
			if !bytes.Equal(save(restored), save(old)) {
				t.Errorf("clock %s, position %d: what was restored is not saved again", clock.Name, stop)
			}
			restored.log = nil
			restored.run(t, forever, nil, vmm.StopEnded)
			if want := whole.log[len(old.log):]; !slices.Equal(restored.log, want) {
				t.Errorf("clock %s, position %d: did %q, want %q", clock.Name, stop, restored.log, want)
			}
			old.run(t, forever, nil, vmm.StopEnded)
			if o, n := old.digest(t, true), restored.digest(t, true); o != n {
				t.Errorf("clock %s, after position %d: digest %x, want %x", clock.Name, stop, n, o)
			}
			if o, n := endOf(old), endOf(restored); o != n {
				t.Errorf("clock %s, after position %d: end %v, want %v", clock.Name, stop, n, o)
			}
		}
	}
}

func endOf(r *rig) vmm.End { end, _ := r.End(); return end }

// TestRestoreForgetsTheEnd: what a machine was before is gone, also its end.
func TestRestoreForgetsTheEnd(t *testing.T) {
	halted := newRig(exits, instruction{op: sti}, instruction{op: hlt})
	halted.run(t, forever, nil, vmm.StopHalted)
	off := newRig(exits, instruction{off, 0})
	off.run(t, forever, nil, vmm.StopEnded)
	for _, to := range []*rig{halted, off} {
		r := newRig(exits, instruction{op: triple})
		r.run(t, forever, nil, vmm.StopEnded)
		if err := r.Restore(vmm.NewLoader(save(to))); err != nil {
			t.Fatal(err)
		}
		got, gotEnded := r.End()
		want, wantEnded := to.End()
		if got != want || gotEnded != wantEnded {
			t.Errorf("End = %+v, %v; want %+v, %v", got, gotEnded, want, wantEnded)
		}
	}
}

// TestRestoreRefuses: a saved state that is cut off anywhere, or too long, is no state.
func TestRestoreRefuses(t *testing.T) {
	r := newRig(exits, busy...)
	r.run(t, 5, nil, vmm.StopPosition)
	r.board.typed = []byte("typed")
	data := save(r)
	for n := range data {
		if err := newRig(exits).Restore(vmm.NewLoader(data[:n])); !errors.Is(err, vmm.ErrState) {
			t.Fatalf("%d of %d bytes: %v", n, len(data), err)
		}
	}
	if err := newRig(exits).Restore(vmm.NewLoader(append(data, 0))); !errors.Is(err, vmm.ErrState) {
		t.Errorf("one byte too many: %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	r := newRig(exits, busy...)
	f.Add(save(r))
	if _, err := r.Run(5, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(save(r))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newRig(exact, busy...)
		if r.Restore(vmm.NewLoader(data)) != nil {
			return
		}
		// Whatever it is, it can be looked at, and run without a panic.
		if again := save(r); len(again) != len(data) {
			t.Errorf("%d bytes were restored, %d are saved", len(data), len(again))
		}
		_ = endOf(r).String() + r.cpu.state.String()
		_, _ = r.Run(r.Position()+3, nil)
		_, _ = r.Digest(true)
	})
}

func TestMachineTells(t *testing.T) {
	r := newRig(exact)
	if r.Clock() != exact || r.EntropyWanted() != 7 || r.ConsoleRoom() != 16 {
		t.Errorf("clock %v, entropy %d, room %d", r.Clock(), r.EntropyWanted(), r.ConsoleRoom())
	}
	if n := r.FrameRoom(2, make([][]byte, 5)); n != 2 {
		t.Errorf("room for %d frames, want 2", n)
	}
	if _, ok := r.Deadline(); ok {
		t.Error("a deadline without an alarm")
	}
	if err := r.Close(); err != nil || !r.cpu.closed {
		t.Errorf("Close: %v", err)
	}
}

// TestBus: data goes both ways, at the time before the instruction.
func TestBus(t *testing.T) {
	r := newRig(exits, instruction{out, 0x5a}, instruction{in, 0}, instruction{load, 0})
	r.run(t, 3, nil, vmm.StopPosition)
	if got := r.cpu.state.GPR[vmm.RAX]; got != 0x5aa5 {
		t.Errorf("RAX = %#x, want 0x5aa5", got)
	}
	want := []string{"out 0x10 90 at 0", "in 0x10 at 10", "read 0xc0000000 at 20"}
	if !slices.Equal(r.log, want) {
		t.Errorf("got %q, want %q", r.log, want)
	}
}

func TestEndString(t *testing.T) {
	for _, row := range []struct {
		end  vmm.End
		want string
	}{
		{vmm.End{Kind: vmm.EndPowerOff}, "power-off"},
		{vmm.End{Kind: vmm.EndReset}, "reset"},
		{vmm.End{Kind: vmm.EndDebugExit, Code: 85}, "debug exit with code 85"},
		{vmm.End{Kind: vmm.EndCrash, Detail: "registers"}, "crash (triple fault)"},
		{vmm.End{Kind: vmm.EndDeadHalt}, "halt with interrupts disabled"},
		{vmm.End{Kind: vmm.EndUnsupported}, "unsupported instruction"},
		{vmm.End{}, "unknown end 0"},
		{vmm.End{Kind: 255}, "unknown end 255"},
	} {
		if got := row.end.String(); got != row.want {
			t.Errorf("%+v is %q, want %q", row.end, got, row.want)
		}
	}
}
