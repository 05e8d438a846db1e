package devices

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ftvm/vmm"
)

// script is fuzz input, read as numbers. After its end there are zeros.
type script struct{ rest []byte }

func (s *script) bytes(n int) []byte {
	p := make([]byte, n)
	s.rest = s.rest[copy(p, s.rest):]
	return p
}

func (s *script) u8() uint8   { return s.bytes(1)[0] }
func (s *script) u16() uint16 { return binary.LittleEndian.Uint16(s.bytes(2)) }
func (s *script) u32() uint32 { return binary.LittleEndian.Uint32(s.bytes(4)) }
func (s *script) u64() uint64 { return binary.LittleEndian.Uint64(s.bytes(8)) }

// lockstep runs the steps that data describes on two equal machines, one of which is
// saved and restored into a fresh board on the way, and compares all that can be seen.
// setup prepares a guest and returns what one step does.
func lockstep(t *testing.T, data []byte, setup func(*guest) func(*script)) {
	straight := &script{data}
	moveAt := int(straight.u8())
	moved := &script{straight.rest}
	config := Config{Disks: []Disk{testDisk, {SizeBytes: 4096, ReadOnly: true}}, NICs: []NIC{testNIC}}
	a, b := newGuestOf(t, config), newGuestOf(t, config)
	stepA, stepB := setup(a), setup(b)
	for n := 0; len(straight.rest) > 0; n++ {
		if n == moveAt {
			b.move()
		}
		stepA(straight)
		stepB(moved)
		b.outputs()
		if !bytes.Equal(a.state(), b.state()) {
			t.Fatalf("states differ after step %d", n)
		}
	}
	a.outputs()
	if !bytes.Equal(a.seen, b.seen) {
		t.Error("the guests read different things")
	}
	if x, y := flat(a.sent), flat(b.sent); x != y {
		t.Errorf("the guests sent different things:\n%s\n%s", x, y)
	}
	if !bytes.Equal(a.ram.View(0, guestRAM), b.ram.View(0, guestRAM)) {
		t.Error("the guests' memories differ")
	}
	for _, d := range a.b.disks {
		if len(d.requests) > blkMaxRequests || d.inFlight >= blkMaxInFlight+blkMaxData {
			t.Errorf("disk %d has %d requests of %d bytes in flight", d.index, len(d.requests), d.inFlight)
		}
	}
}

// state is the board's saved state.
func (g *guest) state() []byte {
	a := vmm.NewSaver(nil)
	g.b.State(a)
	return a.Data()
}

// move saves the board's state and goes on with a fresh board restored from it.
func (g *guest) move() {
	g.t.Helper()
	g.outputs()
	saved := g.state()
	now := g.b.pit.now
	g.b = New(g.made, g.ram)
	a := vmm.NewLoader(saved)
	g.b.State(a)
	if err := a.Finish(); err != nil {
		g.t.Fatalf("restore: %v", err)
	}
	g.b.SetTime(now)
	if !bytes.Equal(saved, g.state()) {
		g.t.Fatal("a restored board saves another state")
	}
}

// flat writes outputs down in a way that does not show when they were collected.
func flat(outputs []vmm.Output) string {
	var b strings.Builder
	for _, o := range outputs {
		if o.Kind == vmm.OutputConsole {
			for i, c := range o.Data {
				fmt.Fprintf(&b, "%d:%02x ", o.Seq+uint64(i), c)
			}
			continue
		}
		fmt.Fprintf(&b, "%+v ", o)
	}
	return b.String()
}

func TestConfigValidate(t *testing.T) {
	for _, tt := range []struct {
		what  string
		disks []Disk
		nics  []NIC
		want  string // in the error
	}{
		{"nothing", nil, nil, ""},
		{"as many as fit", bigConfig(MaxDevices - 1), []NIC{testNIC}, ""},
		{"too many", bigConfig(MaxDevices), []NIC{testNIC}, "at most 30"},
		{"no size", []Disk{{}}, nil, "multiple of 512"},
		{"odd size", []Disk{{SizeBytes: 513}}, nil, "multiple of 512"},
		{"serial", []Disk{{SizeBytes: 512, Serial: strings.Repeat("x", 21)}}, nil, "longer than 20"},
		{"no address", nil, []NIC{{}}, "not the address of one station"},
		{"group address", nil, []NIC{{MAC: [6]byte{1, 0, 0x5E, 0, 0, 1}}}, "not the address of one station"},
		{"same address", nil, []NIC{testNIC, {MAC: [6]byte{2}}, testNIC}, "interface 2: another one"},
	} {
		err := Config{Disks: tt.disks, NICs: tt.nics}.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.what, err, tt.want)
		}
	}
	g := newGuest(t, bigConfig(MaxDevices)...)
	if v := g.config(31, pciVendorID, 4); v != 0x1044_1AF4 {
		t.Errorf("slot 31 of a full board: %#x, want the entropy source", v)
	}
}

func bigConfig(n int) (disks []Disk) {
	for range n {
		disks = append(disks, testDisk)
	}
	return disks
}

func TestBoardUnclaimed(t *testing.T) {
	g := newGuest(t)
	for _, port := range []uint16{0x80, 0x1F0, 0x2F8, 0xFFFF} {
		g.out(port, 4, 0)
		for _, n := range []int{1, 2, 4} {
			if v, want := g.in(port, n), uint32(1<<(8*n)-1); port != 0xFFFF && v != want {
				t.Errorf("%d bytes of port %#x: %#x, want %#x", n, port, v, want)
			}
		}
	}
	for _, addr := range []vmm.GPA{vmm.HoleStart, virtioBARBase, 0xFEC0_0000, vmm.HoleEnd, 1 << 52, ^vmm.GPA(0)} {
		g.store(addr, 8, 0)
		for _, n := range []int{1, 2, 3, 4, 8} {
			if v, want := g.load(addr, n), ^uint64(0)>>(64-8*n); v != want {
				t.Errorf("%d bytes at %#x: %#x, want %#x", n, addr, v, want)
			}
		}
	}
}

// TestBoardWide reads two 8-bit registers at once.
func TestBoardWide(t *testing.T) {
	g := newGuest(t)
	g.initPIC()
	g.out(0x20, 2, 0xA5<<8|0x0A) // OCW3 "read IRR", and the mask
	if v := g.in(0x20, 2); v != 0xA500 {
		t.Errorf("ports 20 and 21: %#x, want a500", v)
	}
	if v := g.in(0x21, 4); v != 0xFFFF_FFA5 {
		t.Errorf("ports 21 to 24: %#x, want ffffffa5", v)
	}
}

func TestBoardEnds(t *testing.T) {
	for _, tt := range []struct {
		port uint16
		n    int
		v    uint32
		want vmm.End
	}{
		{0xF4, 1, 0x10, vmm.End{Kind: vmm.EndDebugExit, Code: 0x21}},
		{0xF4, 4, 0x10, vmm.End{Kind: vmm.EndDebugExit, Code: 0x21}},
		{0x604, 2, 0x2000, vmm.End{Kind: vmm.EndPowerOff}},
		{0xB004, 2, 0x2000, vmm.End{Kind: vmm.EndPowerOff}},
		{0x64, 1, 0xFE, vmm.End{Kind: vmm.EndReset}},
		{0xCF9, 1, 0x06, vmm.End{Kind: vmm.EndReset}},
		{0x92, 1, 0x01, vmm.End{Kind: vmm.EndReset}},
	} {
		g := newGuest(t)
		if end, ok := g.b.Ended(); ok {
			t.Fatalf("a new board has ended: %v", end)
		}
		g.out(tt.port, tt.n, tt.v)
		if end, ok := g.b.Ended(); !ok || end != tt.want {
			t.Errorf("%#x to port %#x: ended %v, %+v; want %+v", tt.v, tt.port, ok, end, tt.want)
		}
	}
}

// TestBoardOutputOrder mixes console bytes and disk requests.
func TestBoardOutputOrder(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(blkFlush, 16)
	console := func(s string) {
		for _, c := range []byte(s) {
			g.out(0x3F8, 1, uint32(c))
		}
	}
	console("ab")
	d.request(blkTypeFlush, 0, nil, 0)
	d.request(blkTypeFlush, 0, nil, 0)
	console("cde")
	got := g.outputs()
	console("f")
	console("g")
	got = append(got, g.outputs()...)
	want := []vmm.Output{
		{Kind: vmm.OutputConsole, Data: []byte("ab")},
		{Kind: vmm.OutputDisk, Op: vmm.DiskFlush},
		{Kind: vmm.OutputDisk, Op: vmm.DiskFlush, Seq: 1},
		{Kind: vmm.OutputConsole, Data: []byte("cde"), Seq: 2},
		{Kind: vmm.OutputConsole, Data: []byte("fg"), Seq: 5},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("outputs\n%+v, want\n%+v", got, want)
	}
}

// TestBoardSent: boards that sent different bytes have different states, however many were
// sent.
func TestBoardSent(t *testing.T) {
	states := map[string]string{}
	for _, tt := range []struct{ disk, console string }{
		{"", "x"}, {"one", "x"}, {"two", "x"}, {"one", "y"},
	} {
		g := newGuest(t, testDisk)
		d := g.probe(1).start(blkFlush, 16)
		block := make([]byte, 512)
		copy(block, tt.disk)
		d.request(blkTypeOut, 0, block, 0)
		g.out(portUART, 1, uint32(tt.console[0]))
		s, what := string(g.state()), fmt.Sprint(tt)
		if other, ok := states[s]; ok {
			t.Errorf("after sending %s the state is as after %s", what, other)
		}
		states[s] = what
	}
}

// session is a guest's life with every kind of device. It calls step between any two
// things that the guest or a record does.
func session(g *guest, step func()) {
	send := func(f func()) { f(); g.outputs(); step() }
	send(g.initPIC)
	send(func() { g.b.SetTime(1e9) })
	for _, w := range [][2]uint32{{0x43, 0x34}, {0x40, 0xA9}, {0x40, 0x04}, {0x70, 0x0B}} {
		send(func() { g.out(uint16(w[0]), 1, w[1]) })
	}
	g.in(0x71, 1)
	// Registers that are written in one access and matter in the next.
	send(func() { g.out(pciConfigAddress, 4, pciEnable|2<<11|pciBAR0) })
	send(func() { g.out(pciConfigData, 4, 0xFFFF_FFFF) })
	send(func() { g.in(pciConfigData, 4) })
	send(func() { g.out(pciConfigData, 4, 0xE800_0000) })
	disk, nic, rng := g.probe(1), g.probe(3), g.probe(4)
	for _, f := range []vmm.GPA{0x00, 0x08, 0x16} { // the select registers
		send(func() { disk.store(disk.common+f, 1<<(2-f/0x16), 1) })
		g.load(disk.common, 8)
		g.load(disk.common+8, 8)
		g.load(disk.common+0x16, 4)
	}
	send(func() { g.setConfig(1, disk.pciCap+pciCapOffset, 4, 0x14) })
	send(func() { g.setConfig(1, disk.pciCap+pciCapLength, 4, 1) })
	send(func() { g.config(1, disk.pciCap+pciCapData, 1) })
	disk.setStatus(0)
	send(func() { disk.setStatus(statusAcknowledge | statusDriver) })
	send(func() { disk.store(disk.common+0x08, 4, 1) })
	send(func() { disk.store(disk.common+0x0C, 4, 1) })
	send(func() { disk.store(disk.common+0x08, 4, 0) })
	send(func() { disk.store(disk.common+0x0C, 4, blkFlush|featureIndirectDesc) })
	send(func() { disk.setStatus(statusFeaturesOK) })
	send(func() { disk.store(disk.common+0x18, 2, 16) })
	for i, v := range []vmm.GPA{testDesc, testAvail, testUsed} {
		send(func() { disk.store(disk.common+0x20+vmm.GPA(8*i), 8, uint64(v)) })
	}
	send(func() { disk.store(disk.common+0x1C, 2, 1) })
	send(func() { disk.setStatus(statusDriverOK) })
	disk.size, disk.desc, disk.avail, disk.usedRing = 16, testDesc, testAvail, testUsed

	irq := func() {
		if g.b.Interrupt() {
			g.seen = append(g.seen, byte(g.b.Acknowledge()))
		}
		step()
		g.out(0xA0, 1, 0x20)
		g.out(0x20, 1, 0x20)
		step()
	}
	send(func() { disk.request(blkTypeIn, 3, nil, 1024) })
	send(func() { disk.request(blkTypeOut, 9, sector('s'), 0) })
	send(func() { g.out(portUART, 1, 'a') })
	send(func() { disk.request(blkTypeGetID, 0, nil, 20) })
	irq()
	send(func() { disk.load(disk.isr, 1) })
	send(func() { disk.request(blkTypeFlush, 0, nil, 0) })
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 2}) })
	send(func() { disk.load(disk.isr, 1) })
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 0, Data: append(sector('1'), sector('2')...)}) })
	irq()
	send(func() { disk.load(disk.isr, 1) })
	send(func() { disk.setStatus(0) }) // the write becomes an orphan
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 1}) })
	send(func() { disk.start(0, 4) })
	send(func() { disk.request(blkTypeOut, 1, sector('t'), 0) })
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 3}) }) // and a flush follows
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 4}) })
	send(func() { disk.request(blkTypeIn, 5, nil, 512) }) // is lent the buffer that the write was lent
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 5, Data: sector('5')}) })
	send(func() { disk.offer(77) })
	send(disk.kick)
	send(func() { disk.load(disk.isr, 1) })

	// The entropy source uses the same place for its queue.
	send(func() { rng.start(0, 8) })
	send(func() { rng.send(buf{testData, 32, descWrite, 0}) })
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputEntropy, Data: entropy(1, 40)}) })
	irq()
	send(func() { rng.load(rng.isr, 1) })
	send(func() { rng.send(buf{testData + 64, 32, descWrite, 0}) })
	send(func() { g.setConfig(4, pciCommand, 2, pciCommandMemory|pciCommandInterruptDisable) })
	send(func() { g.setConfig(4, pciCommand, 2, pciCommandMemory) })

	// And so does the network interface.
	var receive, transmit *driver
	send(func() { receive, transmit = nic.startNIC(netFeatures, 8) })
	send(func() { receive.send(buf{testData, 64, descWrite, 0}) })
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputFrame, Data: frame('i', 40)}) })
	irq()
	send(func() { nic.load(nic.isr, 1) })
	send(func() { g.deliver(vmm.Input{Kind: vmm.InputFrame, Data: frame('l', 40)}) }) // there is no buffer
	send(func() { transmit.write(testData+64, frame('o', 50)) })
	send(func() { transmit.send(buf{testData + 64, 50, 0, 0}) })
	send(func() { transmit.send(buf{testData + 64, 3, 0, 0}) }) // is no frame
	send(func() { transmit.send(buf{testData + 64, 48, 0, 0}) })
	irq()
	send(func() { g.out(portPM1Enable, 2, 0x0120) })
	send(func() { g.out(portPM1Control, 2, 0x1402) })
	g.in(portPM1Enable, 4)
	g.in(portPMTimer, 4)

	send(func() { g.deliver(vmm.Input{Kind: vmm.InputConsole, Data: []byte("hello")}) })
	send(func() { g.in(portUART, 1) })
	send(func() { g.out(portUART+1, 1, 1) })
	send(func() { g.b.SetTime(1e9 + 3e6) })
	irq()
	irq()
	for range 5 {
		send(func() { g.in(portUART, 1) })
	}
	send(func() { g.out(portUART, 1, 'b') })
	send(func() { g.out(0xF4, 1, 3) })
	end, ok := g.b.Ended()
	g.seen = fmt.Append(g.seen, end, ok)
}

// TestBoardMove lives the same session again and again, each time with a move to a
// fresh board at another step. A part of the state that is not saved shows up here.
func TestBoardMove(t *testing.T) {
	newSession := func() *guest {
		return newGuestOf(t, Config{Disks: []Disk{testDisk, testDisk}, NICs: []NIC{testNIC}})
	}
	want, steps := newSession(), 0
	session(want, func() { steps++ })
	want.outputs()
	if len(want.sent) < 5 {
		t.Fatalf("the session sent only %+v", want.sent)
	}
	for k := range steps {
		g, n := newSession(), 0
		session(g, func() {
			if n == k {
				g.move()
			}
			n++
		})
		g.outputs()
		switch {
		case !bytes.Equal(g.seen, want.seen):
			t.Errorf("moved after step %d, the guest reads other things", k)
		case flat(g.sent) != flat(want.sent):
			t.Errorf("moved after step %d, the guest sends\n%s, not\n%s", k, flat(g.sent), flat(want.sent))
		case !bytes.Equal(g.ram.View(0, guestRAM), want.ram.View(0, guestRAM)):
			t.Errorf("moved after step %d, the guest's memory differs", k)
		case !bytes.Equal(g.state(), want.state()):
			t.Errorf("moved after step %d, the last state differs", k)
		}
	}
}

func TestBoardDeliver(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(blkFlush, 16)
	d.request(blkTypeIn, 0, nil, 512)
	d.request(blkTypeIn, 0, nil, 512)
	g.deliver(vmm.Input{Kind: vmm.InputDisk, ID: 0, Data: make([]byte, 512)})
	for _, tt := range []struct {
		in   vmm.Input
		want string // in the error
	}{
		{vmm.Input{Kind: 0}, "unknown kind 0"},
		{vmm.Input{Kind: 99}, "unknown kind 99"},
		{vmm.Input{Kind: vmm.InputDisk, Device: 1, ID: 1, Data: make([]byte, 512)}, "1 disks"},
		{vmm.Input{Kind: vmm.InputDisk, ID: 2}, "never made"},
		{vmm.Input{Kind: vmm.InputDisk, ID: 0, Data: make([]byte, 512)}, "complete already"},
		{vmm.Input{Kind: vmm.InputDisk, ID: 1, Data: make([]byte, 511)}, "511 bytes of data, not 512"},
		{vmm.Input{Kind: vmm.InputDisk, ID: 1, Status: vmm.DiskError, Data: []byte{1}}, "1 bytes of data, not 0"},
		{vmm.Input{Kind: vmm.InputDisk, ID: 1, Status: 2}, "status 2"},
		{vmm.Input{Kind: vmm.InputFrame, Data: frame('f', 64)}, "the machine has 0"},
		{vmm.Input{Kind: vmm.InputConsole, Data: make([]byte, 1<<20)}, ""},
		{vmm.Input{Kind: vmm.InputEntropy, Data: make([]byte, 1<<20)}, ""},
	} {
		before, memory := g.state(), g.read(0, guestRAM)
		err := g.b.Deliver(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("kind %d, device %d, id %d: error %v, want %q", tt.in.Kind, tt.in.Device, tt.in.ID, err, tt.want)
		}
		if !bytes.Equal(before, g.state()) || !bytes.Equal(memory, g.read(0, guestRAM)) {
			t.Errorf("kind %d, device %d, id %d: refused, but something changed", tt.in.Kind, tt.in.Device, tt.in.ID)
		}
	}
}

func TestBoardDeadline(t *testing.T) {
	g := newGuest(t)
	g.b.SetTime(1e9)
	g.initPIC()
	g.out(0x43, 1, 0x34) // counter 0, mode 2
	g.out(0x40, 1, 0xA9) // 1193 clocks: 999.85 us
	g.out(0x40, 1, 0x04)
	at, ok := g.b.Deadline()
	if !ok || at <= 1e9+900e3 || at > 1e9+1100e3 {
		t.Fatalf("deadline %d, %v; want about 1 ms from now", at, ok)
	}
	g.out(0x21, 1, 1)
	if at, ok := g.b.Deadline(); ok {
		t.Errorf("deadline %d although IRQ 0 is masked", at)
	}
	g.out(0x21, 1, 0)
	if g.b.SetTime(at - 1); g.b.Interrupt() {
		t.Error("interrupt before the deadline")
	}
	if g.b.SetTime(at); !g.b.Interrupt() || g.b.Acknowledge() != 0x20 {
		t.Error("no interrupt at the deadline")
	}
}

// TestBoardOwesTicks: ticks that come while the guest has yet to take one come after it, also if the guest masks
// them meanwhile, as Linux does; until the timer is programmed anew.
func TestBoardOwesTicks(t *testing.T) {
	g := newGuest(t)
	g.b.SetTime(1e9)
	g.initPIC()
	program := func() {
		g.out(0x43, 1, 0x34) // counter 0, mode 2
		g.out(0x40, 1, 0xA9) // 1193 clocks: 999.85 us
		g.out(0x40, 1, 0x04)
	}
	take := func() (n int) {
		for g.b.Interrupt() {
			if v := g.b.Acknowledge(); v != 0x20 {
				t.Fatalf("vector %#x", v)
			}
			g.out(0x21, 1, 1)
			g.out(0x20, 1, 0x20)
			g.b.SetTime(g.b.pit.now + 100) // nothing falls due
			g.out(0x21, 1, 0)
			n++
		}
		return n
	}
	program()
	g.b.SetTime(g.b.pit.now + 10e3)
	take() // the timer of before may have ticked
	for _, periods := range []int{1, 7, 1, 300} {
		g.b.SetTime(g.b.pit.now + vmm.Time(periods)*1e6)
		if n := take(); n != periods {
			t.Errorf("after %d periods the guest takes %d ticks", periods, n)
		}
	}
	g.b.SetTime(g.b.pit.now + 1e6)
	g.b.SetTime(g.b.pit.now + 2e6)
	if program(); g.b.pit.owed != 0 {
		t.Errorf("programmed anew, it owes %d ticks", g.b.pit.owed)
	}
	if n := take(); n != 1 {
		t.Errorf("programmed anew, the guest takes %d ticks, want the one that it was told of", n)
	}
}

// TestBoardHostileState restores damaged states: each must fail or give a board that
// works.
func TestBoardHostileState(t *testing.T) {
	config := Config{Disks: []Disk{testDisk}, NICs: []NIC{testNIC}}
	g := newGuestOf(t, config)
	d := g.probe(1).start(blkFlush, 16)
	d.request(blkTypeIn, 0, nil, 1024)
	d.request(blkTypeOut, 3, make([]byte, 512), 0)
	g.deliver(vmm.Input{Kind: vmm.InputEntropy, Data: make([]byte, 20)})
	receive, transmit := g.probe(2).startNIC(netFeatures, 8)
	receive.offerBuffers(2, 64)
	transmit.offer(transmit.chain(buf{testData, 64, 0, 0}))
	saved := g.state()
	for i := range saved {
		for _, flip := range []byte{0x01, 0x80, 0xFF} {
			bad := bytes.Clone(saved)
			bad[i] ^= flip
			h := newGuestOf(t, config)
			a := vmm.NewLoader(bad)
			if h.b.State(a); a.Finish() != nil {
				continue
			}
			for id := range uint64(2) {
				_ = h.b.Deliver(vmm.Input{Kind: vmm.InputDisk, ID: id, Data: make([]byte, 1024*(1-id))})
			}
			_ = h.b.Deliver(vmm.Input{Kind: vmm.InputFrame, Data: frame('h', 100)})
			for _, driver := range []*driver{d, receive, transmit} {
				h.store(driver.notify+notifyMultiplier*vmm.GPA(driver.queue), 2, 0)
			}
			h.b.SetTime(1 << 40)
			h.b.Interrupt()
		}
		if i%7 == 0 {
			a := vmm.NewLoader(saved[:i])
			if newGuestOf(t, config).b.State(a); a.Finish() == nil {
				t.Errorf("a state cut to %d of %d bytes was accepted", i, len(saved))
			}
		}
	}
	a := vmm.NewLoader(saved)
	if newGuest(t).b.State(a); a.Finish() == nil {
		t.Error("the state of a board with a disk was restored into one without")
	}
}

// TestBoardRefusedState sets one field of a good state to a value that no board has.
func TestBoardRefusedState(t *testing.T) {
	g := newGuest(t, testDisk)
	d := g.probe(1).start(blkFlush, 16)
	d.request(blkTypeOut, 0, sector('w'), 0)
	d.request(blkTypeIn, 0, nil, 1024)
	a := vmm.NewNamingSaver()
	g.b.State(a)
	for _, tt := range []struct {
		field string
		value uint64
	}{
		{"pci.address", 3},
		{"pci.devices", 1},
		{"disk0.command", 0x8000},
		{"disk0.bar0", 0xE000_0001},
		{"disk0.status", 0x10},
		{"disk0.isr", 4},
		{"disk0.driver_feature", 1 << 63},
		{"disk0.queue_size", 3},
		{"disk0.queue_size", 512},
		{"disk0.queue_enable", 2},
		{"disk0.queue_desc", guestRAM},
		{"disk0.queue_driver", guestRAM},
		{"disk0.queue_device", guestRAM},
		{"disk0.requests", blkMaxRequests + 1},
		{"disk0.request.id", 1},
		{"disk0.request.id", 2},
		{"disk0.request.op", 0},
		{"disk0.request.op", uint64(vmm.DiskRead)}, // without buffers for its bytes
		{"disk0.request.op", 6},
		{"acpi.pm1_enable", 2},
		{"acpi.pm1_control", pm1SCIEnable},
		{"disk0.request.status", guestRAM},
		{"disk0.request.segments", maxQueueSize + 1},
		{"disk0.request.bytes", 1 << 62},
		{"disk0.request.address", guestRAM - 8},
		{"disk0.request.length", guestRAM},
	} {
		i := slices.IndexFunc(a.Fields(), func(f vmm.Field) bool { return f.Name == tt.field })
		if i < 0 {
			t.Errorf("the state has no field %s", tt.field)
			continue
		}
		f, bad := a.Fields()[i], bytes.Clone(a.Data())
		copy(bad[f.Start:f.End], binary.LittleEndian.AppendUint64(nil, tt.value))
		l := vmm.NewLoader(bad)
		if newGuest(t, testDisk).b.State(l); l.Finish() == nil {
			t.Errorf("%s = %#x was accepted", tt.field, tt.value)
		}
	}
}

func FuzzBoard(f *testing.F) {
	f.Add([]byte("\x04\x00\x20\x00\x11\x02\x00\x00\x00\xe0\x04\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lockstep(t, data, func(g *guest) func(*script) {
			now := vmm.Time(0)
			return func(s *script) {
				switch op, n := s.u8(), 1<<(s.u8()%4); op % 8 {
				case 0:
					g.in(s.u16(), min(n, 4))
				case 1:
					g.out(s.u16(), min(n, 4), s.u32())
				case 2:
					g.in(g.b.ports[int(s.u8())%len(g.b.ports)].first, 1)
				case 3:
					r := g.b.ports[int(s.u8())%len(g.b.ports)]
					g.out(r.first+uint16(s.u8())%(r.last-r.first+1), 1, s.u32())
				case 4:
					slot := vmm.GPA(s.u8() % 4)
					g.setConfig(int(slot)+1, pciCommand, 2, uint32(s.u16()))
					g.load(virtioBARBase+slot*virtioBARSize+vmm.GPA(s.u16()), n)
				case 5:
					slot := vmm.GPA(s.u8() % 4)
					g.store(virtioBARBase+slot*virtioBARSize+vmm.GPA(s.u16()), n, s.u64())
				case 6:
					now += vmm.Time(s.u32())
					g.b.SetTime(now)
					if g.b.Interrupt() && op&0x80 != 0 {
						g.seen = append(g.seen, byte(g.b.Acknowledge()))
					}
				case 7:
					_ = g.b.Deliver(vmm.Input{Kind: vmm.InputKind(op >> 3 % 5), Device: uint32(n),
						ID: uint64(s.u8()), Data: s.bytes(int(s.u8()))})
				}
				at, ok := g.b.Deadline()
				g.seen = fmt.Append(g.seen, at, ok)
			}
		})
	})
}

// BenchmarkBoardState is what the devices' part of a boundary's digest costs, with two
// disk requests in flight. The pool is full in the one case and empty in the other.
func BenchmarkBoardState(b *testing.B) {
	for _, pool := range []int{0, entropyCapacity} {
		b.Run(fmt.Sprintf("entropy=%d", pool), func(b *testing.B) {
			g := newGuest(b, testDisk)
			d := g.probe(1).start(blkFlush, 16)
			d.request(blkTypeIn, 0, nil, 4096)
			d.request(blkTypeOut, 3, make([]byte, 4096), 0)
			g.deliver(vmm.Input{Kind: vmm.InputEntropy, Data: make([]byte, pool)})
			a := vmm.NewSaver(nil)
			for b.Loop() {
				a.Reset()
				g.b.State(a)
			}
			b.ReportMetric(float64(len(a.Data())), "bytes")
		})
	}
}

// BenchmarkBoardConsole is one byte written to the UART.
func BenchmarkBoardConsole(b *testing.B) {
	g := newGuest(b, testDisk)
	p := []byte{'x'}
	var out []vmm.Output
	for i := 0; b.Loop(); i++ {
		g.b.PortOut(0x3F8, p)
		if i%4096 == 0 {
			out = g.b.Outputs(out[:0])
		}
	}
}
