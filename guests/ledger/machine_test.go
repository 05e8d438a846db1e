package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"ftvm/devices"
	"ftvm/vmm"
	"ftvm/vmm/boot"
	"ftvm/vmm/kvm"
)

// machine is the guest on /dev/kvm with a world around it that is a function of the test alone:
// a disk in memory that has done at each boundary what was asked of it in the epoch before, a
// console, entropy, and time that passes at boundaries, faster while the guest waits for it.
type machine struct {
	*vmm.Machine
	t       testing.TB
	disk    []byte
	console strings.Builder
	typed   []byte // not yet delivered
	entropy *rand.ChaCha8
	digests []uint64 // at each boundary, and of memory as well at the end; if wanted
	digest  bool

	requests, failFrom int // disk requests so far; if not 0, the first that fails
}

const (
	epoch     = 10        // in exits
	epochTime = 1_000_000 // ns

	startTime = 1_700_000_000_000_000_000
)

// start boots the guest with one disk.
func start(t testing.TB, disk []byte, cmdline string) *machine {
	t.Helper()
	m := startWith(t, devices.Config{Disks: []devices.Disk{{SizeBytes: uint64(len(disk))}}}, cmdline)
	m.disk = disk
	return m
}

func startWith(t testing.TB, config devices.Config, cmdline string) *machine {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	ram := vmm.NewRAM(make([]byte, 8<<20))
	e, err := kvm.New(ram, kvm.Options{})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	cpu, err := boot.Load(ram, boot.Image{Kernel: ELF, Cmdline: cmdline})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetState(cpu); err != nil {
		t.Fatal(err)
	}
	m := &machine{Machine: vmm.NewMachine(e, ram, devices.New(config, ram)), t: t, entropy: rand.NewChaCha8([32]byte{1})}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// run goes from boundary to boundary until the guest ends, and returns how. It calls
// each with what is on the console after each boundary.
func (m *machine) run(each func(console string)) vmm.End {
	m.t.Helper()
	now, stop := vmm.Time(startTime), vmm.StopPosition
	var outputs []vmm.Output
	for {
		inputs := m.world(outputs)
		if end, ok := m.End(); ok {
			m.note(true)
			return end
		}
		now = max(now+epochTime, m.Time())
		if stop == vmm.StopHalted && len(inputs) == 0 {
			due, ok := m.Deadline()
			if !ok {
				m.t.Fatalf("the guest waits for nothing; console:\n%s", m.console.String())
			}
			now = max(now, due)
		}
		if err := m.Apply(now, m.Clock().Rate(), inputs); err != nil {
			m.t.Fatal(err)
		}
		m.note(false)
		var err error
		if stop, err = m.Run(m.Position()+epoch, nil); err != nil {
			m.t.Fatal(err)
		}
		outputs = m.Outputs(outputs[:0])
		each(m.console.String())
	}
}

// world does what the guest asked for, and returns what it gets in return.
func (m *machine) world(outputs []vmm.Output) (inputs []vmm.Input) {
	for _, o := range outputs {
		if o.Kind == vmm.OutputConsole {
			m.console.Write(o.Data)
			continue
		}
		m.requests++
		in := vmm.Input{Kind: vmm.InputDisk, ID: o.Seq}
		if m.failFrom != 0 && m.requests >= m.failFrom {
			in.Status = vmm.DiskError
			inputs = append(inputs, in)
			continue
		}
		switch at := m.disk[o.Offset:]; o.Op {
		case vmm.DiskRead:
			in.Data = slices.Clone(at[:o.Length])
		case vmm.DiskWrite:
			copy(at, o.Data)
		}
		inputs = append(inputs, in)
	}
	if n := m.EntropyWanted(); n > 0 {
		p := make([]byte, n)
		m.entropy.Read(p)
		inputs = append(inputs, vmm.Input{Kind: vmm.InputEntropy, Data: p})
	}
	if len(m.typed) > 0 {
		inputs = append(inputs, vmm.Input{Kind: vmm.InputConsole, Data: m.typed})
		m.typed = nil
	}
	return inputs
}

func (m *machine) note(memory bool) {
	if !m.digest {
		return
	}
	d, err := m.Digest(memory)
	if err != nil {
		m.t.Fatal(err)
	}
	m.digests = append(m.digests, d)
}

func nothing(string) {}

// typing is what someone types: each text once, in this order, when a line that begins with
// `after` is on the console.
type typing []struct{ after, text string }

func (m *machine) types(script typing) func(console string) {
	return func(console string) {
		if len(script) > 0 && strings.Contains("\n"+console, "\n"+script[0].after) {
			m.typed = append(m.typed, script[0].text...)
			script = script[1:]
		}
	}
}

// check is what holds for every run: the disk verifies, and the console reports from..to, each
// with the hash that is on the disk.
func (m *machine) check(end vmm.End, from, to uint64) {
	m.t.Helper()
	console := m.console.String()
	if end.Kind != vmm.EndPowerOff {
		m.t.Fatalf("the guest ended by %v, want power-off\n%s\n%s", end, end.Detail, console)
	}
	disk := bytes.NewReader(m.disk)
	s, err := Verify(disk, disk.Size())
	if err != nil || s.Txns != to || s.Torn {
		m.t.Fatalf("the disk has %d transactions, torn %v, error %v; want %d sound ones\n%s", s.Txns, s.Torn, err, to, console)
	}
	want := from
	for _, line := range strings.Split(console, "\n") {
		seq, hash, ok := ParseTxn(line)
		if !ok {
			continue
		}
		txn, err := Read(disk, seq)
		if err != nil || seq != want || hash != txn.Hash() {
			m.t.Errorf("console says %q; want transaction %d with hash %s; error %v", line, want, txn.Hash(), err)
		}
		want++
	}
	if want != to+1 {
		m.t.Errorf("the console's last transaction is %d, want %d\n%s", want-1, to, console)
	}
	if sum := fmt.Sprintf("sum txns=%d last=%s time=", to, s.Last.Hash()); !strings.Contains(console, sum) {
		m.t.Errorf("no line %q on the console:\n%s", sum, console)
	}
}

func TestTxnsThenPowerOff(t *testing.T) {
	m := start(t, make([]byte, 1<<20), "txns=20 work=5")
	m.check(m.run(nothing), 1, 20)
	if want := "ledger: 0 of 256 txns on disk, chain verified\n"; !strings.HasPrefix(m.console.String(), want) {
		t.Errorf("the console does not begin with %q:\n%s", want, m.console.String())
	}
}

func TestRebootGoesOn(t *testing.T) {
	disk := make([]byte, 1<<20)
	m := start(t, disk, "txns=70 work=0 period=0")
	m.check(m.run(nothing), 1, 70)
	before, err := Read(bytes.NewReader(disk), 70)
	if err != nil {
		t.Fatal(err)
	}

	m = start(t, disk, "txns=3 work=0") // as far as it knows, at the same time as before
	m.check(m.run(nothing), 71, 73)
	after, err := Read(bytes.NewReader(disk), 71)
	if err != nil || after.Time < before.Time {
		t.Errorf("time goes from %d to %d, error %v", before.Time, after.Time, err)
	}

	clear(disk[72*BlockSize+512 : 73*BlockSize]) // the last write, as a power cut may leave it
	m = start(t, disk, "txns=2 work=0")
	m.check(m.run(nothing), 73, 74)
	if want := "72 of 256 txns on disk, chain verified; the next one is torn"; !strings.Contains(m.console.String(), want) {
		t.Errorf("no %q on the console:\n%s", want, m.console.String())
	}
}

func TestConsole(t *testing.T) {
	m := start(t, make([]byte, 1<<20), "work=5")
	end := m.run(m.types(typing{
		{"txn 3 ", "help\r"},
		{"txn 4 ", "x\x7fsux\bm"},
		{"txn 5 ", "\n\r\n"},
		{"txn 6 ", "jump\n" + strings.Repeat("long", 30) + "\n"},
		{"txn 8 ", "stop\n"},
	}))
	m.check(end, 1, 8)
	for _, want := range []string{
		"\nhelp\nsum: where the ledger stands; stop: end; crash: triple fault\n",
		"x\b \bsux\b \bm\ntxn 5 ", // what is printed meanwhile does not mix with what is typed
		"\nsum\nsum txns=5 last=",
		"\nunknown command 'jump'; try help\n",
		"\nunknown command '" + strings.Repeat("long", 20) + "'; try help\n",
		"\nstop\nsum txns=8 last=",
	} {
		if !strings.Contains(m.console.String(), want) {
			t.Errorf("no %q on the console:\n%q", want, m.console.String())
		}
	}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		cmdline string
		blocks  int
		txns    uint64
		console string
	}{
		{"txns=1 work=0 ring3=0", 16, 1, "txn 1 "},
		{"txns=2 work=0 flush=0", 16, 2, "txn 2 "},
		{"work=0 period=0", 5, 5, "\nledger full\n"},
	}
	for _, tt := range tests {
		t.Run(tt.cmdline, func(t *testing.T) {
			m := start(t, make([]byte, tt.blocks*BlockSize), tt.cmdline)
			m.check(m.run(nothing), 1, tt.txns)
			if !strings.Contains(m.console.String(), tt.console) {
				t.Errorf("no %q on the console:\n%s", tt.console, m.console.String())
			}
		})
	}
}

func TestReport(t *testing.T) {
	m := start(t, make([]byte, 16*BlockSize), "txns=7 work=0 report=3")
	if end := m.run(nothing); end.Kind != vmm.EndPowerOff {
		t.Fatalf("the guest ended by %v, want power-off", end)
	}
	var got []uint64
	for _, line := range strings.Split(m.console.String(), "\n") {
		if seq, _, ok := ParseTxn(line); ok {
			got = append(got, seq)
		}
	}
	if want := []uint64{3, 6}; !slices.Equal(got, want) {
		t.Errorf("reported %v, want %v:\n%s", got, want, m.console.String())
	}
}

// TestUnsoundDisk spoils a disk with 70 transactions, in the ways that Verify finds as well.
func TestUnsoundDisk(t *testing.T) {
	tests := []struct {
		name    string
		spoil   func(m image)
		console string
	}{
		{"foreign", func(m image) { copy(m, "\xebfat") }, "block 0: this is not a ledger's"},
		{"damaged", func(m image) { m.block(66)[3000] ^= 4 }, "block 66: damaged"},
		{"gap", func(m image) { clear(m.block(68)) }, "block 68: empty"},
		{"number", func(m image) { m.put(69, 71) }, "block 69: a transaction with another number"},
		{"chain", func(m image) { m.block(69)[70] ^= 1; m.sign(69) }, "block 69: the chain is broken"},
		{"time", func(m image) { m.block(69)[22] = 0; m.sign(69) }, "block 69: its time is before"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			disk := newImage(256, 70)
			tt.spoil(disk)
			before := slices.Clone(disk)
			m := start(t, disk, "txns=1")
			end := m.run(nothing)
			if want := (vmm.End{Kind: vmm.EndDebugExit, Code: 7}); end != want {
				t.Errorf("the guest ended by %v, want %v", end, want)
			}
			if console := m.console.String(); !strings.Contains(console, "ledger: "+tt.console) {
				t.Errorf("no %q on the console:\n%s", tt.console, console)
			}
			if !bytes.Equal(disk, before) {
				t.Error("the guest wrote to the disk")
			}
			if _, err := Verify(bytes.NewReader(disk), int64(len(disk))); !errors.As(err, new(*BlockError)) {
				t.Errorf("Verify: %v, want a BlockError", err)
			}
		})
	}
}

func TestUnfitDisk(t *testing.T) {
	tests := []struct {
		name    string
		config  devices.Config
		console string
	}{
		{"none", devices.Config{}, "ledger: there is no modern virtio-blk device on PCI bus 0\n"},
		{"read-only", devices.Config{Disks: []devices.Disk{{SizeBytes: 1 << 20, ReadOnly: true}}}, "ledger: the disk is read-only\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := startWith(t, tt.config, "")
			if end, want := m.run(nothing), (vmm.End{Kind: vmm.EndDebugExit, Code: 5}); end != want {
				t.Errorf("the guest ended by %v, want %v", end, want)
			}
			if got := m.console.String(); got != tt.console {
				t.Errorf("console %q, want %q", got, tt.console)
			}
		})
	}
}

func TestDiskError(t *testing.T) {
	m := start(t, make([]byte, 1<<20), "work=0 period=0")
	m.failFrom = 5
	if end, want := m.run(nothing), (vmm.End{Kind: vmm.EndDebugExit, Code: 5}); end != want {
		t.Errorf("the guest ended by %v, want %v", end, want)
	}
	console := m.console.String()
	if want := "txn 1 "; !strings.Contains(console, want) {
		t.Errorf("no %q on the console:\n%s", want, console)
	}
	if want := "the disk reports an error\n"; !strings.HasSuffix(console, want) {
		t.Errorf("the console does not end with %q:\n%s", want, console)
	}
}

func TestCrash(t *testing.T) {
	m := start(t, make([]byte, 1<<20), "work=0")
	end := m.run(m.types(typing{{"txn 1 ", "crash\n"}}))
	if end.Kind != vmm.EndCrash {
		t.Errorf("the guest ended by %v, want a crash\n%s", end, m.console.String())
	}
}

func TestSameTwice(t *testing.T) {
	var digests [2][]uint64
	for i := range digests {
		m := start(t, make([]byte, 1<<20), "txns=10 work=300")
		m.digest = true
		m.check(m.run(m.types(typing{{"txn 5 ", "sum\n"}})), 1, 10)
		digests[i] = m.digests
	}
	if !slices.Equal(digests[0], digests[1]) {
		n := min(len(digests[0]), len(digests[1]))
		for i := range n {
			if digests[0][i] != digests[1][i] {
				t.Fatalf("at boundary %d the digests differ: %x, %x", i, digests[0][i], digests[1][i])
			}
		}
		t.Fatalf("%d and %d boundaries", len(digests[0]), len(digests[1]))
	}
}

// BenchmarkTxn is what a transaction costs without work and without waiting: for the disk, for
// a tick, or for the other end of the console.
func BenchmarkTxn(b *testing.B) {
	for _, options := range []string{"flush=1", "flush=0", "flush=0 report=1000000", "flush=0 report=1000000 work=100"} {
		b.Run(options, func(b *testing.B) {
			disk := make([]byte, (b.N+1)*BlockSize)
			m := start(b, disk, fmt.Sprintf("txns=%d work=0 period=0 %s", b.N, options))
			began := vmm.Position(0)
			end := m.run(func(console string) {
				if began == 0 && console != "" {
					began = m.Position()
					b.ResetTimer()
				}
			})
			if end.Kind != vmm.EndPowerOff {
				b.Fatal(end)
			}
			b.ReportMetric(float64(m.Position()-began)/float64(b.N), "exits/op")
		})
	}
}

// BenchmarkBoot is the time from the first instruction to the first line on the console.
func BenchmarkBoot(b *testing.B) {
	exits := vmm.Position(0)
	for range b.N {
		b.StopTimer()
		m := start(b, make([]byte, BlockSize), "txns=1 work=0")
		b.StartTimer()
		m.run(func(console string) {
			if console != "" {
				b.StopTimer()
			}
		})
		exits += m.Position()
	}
	b.ReportMetric(float64(exits)/float64(b.N), "exits/op")
}
