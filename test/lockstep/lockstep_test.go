package lockstep

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"ftvm/devices"
	"ftvm/epoch"
	"ftvm/guests/ledger"
	"ftvm/host"
	"ftvm/vmm"
	"ftvm/vmm/boot"
	"ftvm/vmm/kvm"
	"ftvm/vmm/soft"
)

var seed = flag.Uint64("seed", 1, "what decides where epochs end, and when disk requests do")

const (
	memSize  = 8 << 20
	diskSize = 1 << 20
	start    = vmm.Time(1_700_000_000_000_000_000)
)

// world is a machine with what surrounds it.
type world struct {
	t       *testing.T
	m       *vmm.Machine
	ram     *vmm.RAM
	disk    []byte
	console []byte
	// done holds what the disk said of each request, in order of issue; the guest was told of the first ones.
	done []vmm.Input
	told int
}

// interpret says whether the engine soft that was made last does.
var interpret bool

// newEngine makes the engine that has a clock.
func newEngine(t *testing.T, ram *vmm.RAM, clock string) vmm.Engine {
	t.Helper()
	if clock == instructions {
		// Every other one interprets. That must make no difference.
		var o soft.Options
		if interpret = !interpret; !interpret {
			code, err := host.AllocCode(1 << 20)
			if err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() {
				if err := host.FreeCode(code); err != nil {
					t.Error(err)
				}
			})
			o.Code = code
		}
		return soft.New(ram, o)
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skipf("needs /dev/kvm: %v", err)
	}
	e, err := kvm.New(ram, kvm.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const instructions = "instructions" // the clock of engine soft

func newWorld(t *testing.T, clock, cmdline string) *world {
	return newWorldWith(t, cmdline, func(ram *vmm.RAM) vmm.Engine { return newEngine(t, ram, clock) })
}

func newWorldWith(t *testing.T, cmdline string, newEngine func(*vmm.RAM) vmm.Engine) *world {
	t.Helper()
	mem, _, err := host.AllocFixedRAM(memSize)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ram: vmm.NewRAM(mem), disk: make([]byte, diskSize)}
	state, err := boot.Load(w.ram, boot.Image{Kernel: ledger.ELF, Cmdline: cmdline})
	if err != nil {
		t.Fatal(err)
	}
	engine := newEngine(w.ram)
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
		if err := host.FreeRAM(mem); err != nil {
			t.Error(err)
		}
	})
	if err := engine.SetState(state); err != nil {
		t.Fatal(err)
	}
	board := devices.New(devices.Config{Disks: []devices.Disk{{SizeBytes: diskSize}}}, w.ram)
	w.m = vmm.NewMachine(engine, w.ram, board)
	return w
}

// collect takes the machine's outputs to the outside world.
func (w *world) collect() {
	for _, o := range w.m.Outputs(nil) {
		if o.Kind == vmm.OutputConsole {
			w.console = append(w.console, o.Data...)
			continue
		}
		in := vmm.Input{Kind: vmm.InputDisk, Device: o.Device, ID: o.Seq}
		switch o.Op {
		case vmm.DiskRead:
			in.Data = bytes.Clone(w.disk[o.Offset:][:o.Length])
		case vmm.DiskWrite:
			copy(w.disk[o.Offset:], o.Data)
		}
		w.done = append(w.done, in)
	}
}

// record runs the guest to its end as a primary would, which ends epochs where it likes, and
// returns the records.
func (w *world) record(rng *rand.Rand) []epoch.Record {
	x := epoch.NewExecutor(w.m, 1)
	now := start
	length := uint64(1000)
	if w.m.Clock().Name == instructions {
		length = 100_000
	}
	var records []epoch.Record
	for {
		left := rng.IntN(60)
		reason, err := x.Run(func() bool { w.collect(); left--; return left < 0 && w.m.Clock().Name != instructions })
		if err != nil {
			w.t.Fatal(err)
		}
		w.collect()
		if reason == vmm.StopHalted && x.MayAwait() && w.told < len(w.done) && rng.IntN(4) > 0 {
			w.await(x)
			continue
		}
		b, err := x.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		now += vmm.Time(rng.IntN(1_000_000))
		if due, ok := w.m.Deadline(); ok && reason == vmm.StopHalted {
			now = max(now, due)
		}
		r := epoch.Record{Epoch: x.Opened(), Position: b.Position, Awaited: b.Awaited, Digest: b.Digest, Memory: b.Memory,
			Ended: b.Ended, Length: 1 + rng.Uint64N(length), Awaits: rng.Uint64N(4), Time: max(now, b.Time)}
		if n := w.m.EntropyWanted(); n > 0 {
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			r.Inputs = append(r.Inputs, vmm.Input{Kind: vmm.InputEntropy, Data: data})
		}
		for w.told < len(w.done) && rng.IntN(3) > 0 {
			r.Inputs = append(r.Inputs, w.done[w.told])
			w.told++
		}
		records = append(records, r)
		if b.Ended {
			return records
		}
		if err := x.Open(r); err != nil {
			w.t.Fatal(err)
		}
	}
}

// await tells the halted guest of the oldest request that it was not told of.
func (w *world) await(x *epoch.Executor) {
	if err := x.Await(w.done[w.told]); err != nil {
		w.t.Fatal(err)
	}
	w.told++
}

// replay runs the guest from records as a backup would; at boundary move, if there is such, it
// goes on in the world that moved makes. It returns the world that came to the end.
func (w *world) replay(records []epoch.Record, move epoch.Number, moved func() *world) *world {
	x := epoch.NewExecutor(w.m, 1)
	for _, r := range records {
		err := epoch.ErrAwait
		for err == epoch.ErrAwait {
			err = x.Replay(r, func() bool { w.collect(); return false })
			if w.collect(); err == epoch.ErrAwait {
				w.await(x)
			}
		}
		if err != nil {
			w.t.Fatalf("record %d of %d: %v", r.Epoch, len(records), err)
		}
		for _, in := range r.Inputs {
			if in.Kind == vmm.InputDisk {
				w.told++
			}
		}
		if r.Ended {
			return w
		}
		if r.Epoch == move {
			w = w.moveTo(moved())
			x = epoch.ResumeExecutor(w.m, 1, r.Epoch)
		}
		if err := x.Open(r); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Fatal("the records end before the guest")
	return nil
}

// moveTo brings the whole state into another world.
func (w *world) moveTo(to *world) *world {
	a := vmm.NewSaver(nil)
	if err := w.m.Save(a); err != nil {
		w.t.Fatal(err)
	}
	w.ram.Regions(func(at vmm.GPA, mem []byte) { to.ram.Write(at, mem) })
	if err := to.m.Restore(vmm.NewLoader(a.Data())); err != nil {
		w.t.Fatal(err)
	}
	copy(to.disk, w.disk)
	to.console, to.done, to.told = w.console, w.done, w.told
	return to
}

// TestSameRecordsSameMachine: every guest that is run from the same records has the same
// digests, of all registers, devices and memory, at every boundary, on every clock; also if
// it is moved to another vCPU on the way.
func TestSameRecordsSameMachine(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// In ring 0 only, clock step would need seconds for each SHA-256.
	guests := map[string][]string{
		"exits": {"txns=6 period=0 work=20", "txns=2 period=1 work=200", "txns=2 period=0 work=1 ring3=0"},
		"step":  {"txns=6 period=0 work=20", "txns=2 period=1 work=200"},
		// Every boundary digests all of memory.
		instructions: {"txns=3 period=0 work=2", "txns=2 period=1 work=2", "txns=2 period=0 work=1 ring3=0"},
	}
	for _, clock := range []string{"exits", "step", instructions} {
		for _, cmdline := range guests[clock] {
			t.Run(fmt.Sprintf("%s/%s", clock, cmdline), func(t *testing.T) {
				t.Logf("repeat with: go test ./test/lockstep -run '%s' -seed=%d", t.Name(), *seed)
				rng := rand.New(rand.NewPCG(*seed, 1))
				first := newWorld(t, clock, cmdline)
				records := first.record(rng)
				t.Logf("%d records, %d positions", len(records), first.m.Position())
				if _, err := ledger.Verify(bytes.NewReader(first.disk), diskSize); err != nil {
					t.Error(err)
				}
				fresh := func() *world { return newWorld(t, clock, cmdline) }
				middle := epoch.Number(rng.IntN(len(records) - 1))
				for _, move := range []epoch.Number{epoch.Number(len(records)), middle} {
					again := fresh().replay(records, move, fresh)
					if !bytes.Equal(again.disk, first.disk) {
						t.Error("the disks differ")
					}
					if !bytes.Equal(again.console, first.console) {
						t.Errorf("the consoles differ:\n%s\n%s", first.console, again.console)
					}
				}
			})
		}
	}
}

// still is an engine on whose clock time stands still within an epoch, so that guest time does not depend on
// how the engine counts.
type still struct{ vmm.Engine }

func (e still) Clock() vmm.Clock {
	c := e.Engine.Clock()
	c.TickNs = 0
	return c
}

// runBetweenHalts runs the guest to its end with boundaries only where it waits in HLT, at which all requests
// are complete. What the records bring then follows from their number alone.
func (w *world) runBetweenHalts() {
	told := 0
	for n, now := uint64(0), start; ; n++ {
		var inputs []vmm.Input
		if want := w.m.EntropyWanted(); want > 0 {
			inputs = append(inputs, vmm.Input{Kind: vmm.InputEntropy, Data: bytes.Repeat([]byte{byte(n)}, want)})
		}
		inputs = append(inputs, w.done[told:]...)
		told = len(w.done)
		if due, ok := w.m.Deadline(); ok {
			now = max(now+1000, due)
		}
		if err := w.m.Apply(now, w.m.Clock().Rate(), inputs); err != nil {
			w.t.Fatal(err)
		}
		reason, err := w.m.Run(1<<60, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		w.collect()
		if reason == vmm.StopEnded {
			return
		}
		if reason != vmm.StopHalted {
			w.t.Fatalf("the machine stopped for reason %d at position %d", reason, w.m.Position())
		}
	}
}

// TestEnginesAgree: from the same records the ledger makes the same transactions on kvm and on soft.
func TestEnginesAgree(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, cmdline := range []string{"txns=20 period=0 work=20", "txns=5 period=2 work=50", "txns=2 period=0 work=1 ring3=0"} {
		t.Run(cmdline, func(t *testing.T) {
			var worlds [2]*world
			for i, clock := range []string{"exits", instructions} {
				w := newWorldWith(t, cmdline, func(ram *vmm.RAM) vmm.Engine { return still{newEngine(t, ram, clock)} })
				w.runBetweenHalts()
				worlds[i] = w
			}
			if !bytes.Equal(worlds[0].console, worlds[1].console) {
				t.Errorf("on kvm the guest printed\n%s\non soft\n%s", worlds[0].console, worlds[1].console)
			}
			if !bytes.Equal(worlds[0].disk, worlds[1].disk) {
				t.Error("the disks differ")
			}
			if s, err := ledger.Verify(bytes.NewReader(worlds[1].disk), diskSize); err != nil || s.Txns == 0 {
				t.Errorf("the ledger has %d transactions: %v", s.Txns, err)
			}
		})
	}
}
