package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// The guest and somebody else; experimental is an EtherType for local use (IEEE 802, 88B5), which no kernel sends.
var (
	guestMAC, otherMAC = MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
	broadcast          = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

const experimental = 0x88b5

// newNetwork gives the test's thread, which ends with the test, a network of its own with a bridge br0 in it.
func newNetwork(t testing.TB) *netlink.Bridge {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace for the test: unshare: %v", err)
	}
	for _, which := range []string{"default", "all"} { // so that nobody speaks by himself
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0)
	}
	// One that snoops multicast tells the group of all snoopers of itself (RFC 4286), within a second.
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: new(bool)}
	br.Name = "br0"
	add(t, br)
	return br
}

// add makes an interface and switches it on.
func add(t testing.TB, link netlink.Link) {
	t.Helper()
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}

// persistent makes a tap or tun as "ip tuntap add" does.
func persistent(t testing.TB, name string, mode netlink.TuntapMode, flags netlink.TuntapFlag) {
	t.Helper()
	tap := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: mode, Flags: flags | netlink.TUNTAP_NO_PI, Queues: 1}
	tap.Name = name
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
	for _, f := range tap.Fds {
		f.Close()
	}
}

func remove(t testing.TB, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func openTap(t testing.TB, name string, o TapOptions) *Tap {
	t.Helper()
	tap, err := OpenTap(name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	return tap
}

// frame is an output or input with an empty header.
func frame(to, from MAC, payload []byte) []byte {
	f := append(make([]byte, vmm.FrameHeader), to[:]...)
	f = append(f, from[:]...)
	return append(binary.BigEndian.AppendUint16(f, experimental), payload...)
}

func sent(frame []byte) vmm.Output { return vmm.Output{Kind: vmm.OutputFrame, Data: frame} }

// collector gathers what a tap receives; the test waits for it.
type collector struct {
	frames chan []byte
	lost   chan error
	back   chan bool
}

func collect() (*collector, TapEvents) {
	c := &collector{make(chan []byte, 10000), make(chan error, 10), make(chan bool, 10)}
	return c, TapEvents{
		Frames: func(frames [][]byte) {
			for _, f := range frames {
				c.frames <- f
			}
		},
		Lost: func(err error) { c.lost <- err },
		Back: func() { c.back <- true },
	}
}

// next is the next frame of ours.
func (c *collector) next(etherTypes ...uint16) []byte {
	for f := range c.frames {
		if slices.Contains(etherTypes, binary.BigEndian.Uint16(f[vmm.FrameHeader+12:])) {
			return f
		}
	}
	return nil
}

// TestTapCarriesFrames sends between two taps on a bridge, in both directions.
func TestTapCarriesFrames(t *testing.T) {
	newNetwork(t)
	a, b := openTap(t, "fta", TapOptions{Bridge: "br0"}), openTap(t, "ftb", TapOptions{Bridge: "br0"})
	atA, events := collect()
	a.Start(events)
	atB, events := collect()
	b.Start(events)
	for i := range 200 {
		payload := []byte(fmt.Sprintf("frame %d %s", i, strings.Repeat("x", 7*i)))
		there, back := frame(broadcast, guestMAC, payload), frame(guestMAC, otherMAC, payload)
		a.Submit(sent(there))
		if got := atB.next(experimental); !bytes.Equal(got, there) {
			t.Fatalf("frame %d: got %x, want %x", i, got, there)
		}
		b.Submit(sent(back))
		if got := atA.next(experimental); !bytes.Equal(got, back) {
			t.Fatalf("frame %d back: got %x, want %x", i, got, back)
		}
	}
	if a.Dropped() != 0 || b.Dropped() != 0 {
		t.Errorf("%d and %d frames were dropped", a.Dropped(), b.Dropped())
	}
}

// TestTapBigFrames: what is larger than the network's frames goes whole if its header says how to cut it up.
func TestTapBigFrames(t *testing.T) {
	newNetwork(t)
	a, b := openTap(t, "fta", TapOptions{Bridge: "br0"}), openTap(t, "ftb", TapOptions{Bridge: "br0"})
	atB, events := collect()
	b.Start(events)

	// Linux cuts up what has 64 KiB with its Ethernet header.
	big := segment(65535 - 14)
	a.Submit(sent(big))
	if got := atB.next(unix.ETH_P_IP); !bytes.Equal(got, big) {
		t.Errorf("of 64 KiB of TCP in one frame of %d bytes came %d", len(big), len(got))
	}

	jumbo := frame(broadcast, guestMAC, make([]byte, 9000))
	a.Submit(sent(jumbo)) // the bridge drops it, as any switch would
	for _, name := range []string{"fta", "ftb"} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetMTU(link, 9000)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	jumbo[len(jumbo)-1] = 1
	a.Submit(sent(jumbo))
	if got := atB.next(experimental); !bytes.Equal(got, jumbo) {
		t.Errorf("of a frame of %d bytes came %d, want the second one", len(jumbo), len(got))
	}
}

// segment is a TCP segment in an IPv4 packet of length bytes, to be cut into frames of 1,500 (virtio 1.2, 5.1.6).
func segment(length int) []byte {
	const gsoTCPv4, needsChecksum, ip, tcp = 1, 1, 20, 20
	f := []byte{needsChecksum, gsoTCPv4}
	for _, v := range []uint16{14 + ip + tcp, 1500 - ip - tcp, 14 + ip, 16, 0} { // header, segment, checksum's start and offset
		f = binary.LittleEndian.AppendUint16(f, v)
	}
	f = append(f, otherMAC[:]...)
	f = append(f, guestMAC[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IP)
	head := []byte{0x45, 0, byte(length >> 8), byte(length), 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	sum := uint32(0)
	for i := 0; i < ip; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(head[i:]))
	}
	binary.BigEndian.PutUint16(head[10:], ^uint16(sum+sum>>16))
	f = append(f, head...)
	f = append(f, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 5<<4, 0x10, 1, 0, 0, 0, 0, 0)
	for i := range length - ip - tcp {
		f = append(f, byte(i))
	}
	return f
}

// TestTapRefuses: what a guest may send and a tap does not take is dropped and counted.
func TestTapRefuses(t *testing.T) {
	newNetwork(t)
	a := openTap(t, "fta", TapOptions{})
	bad := segment(1000)
	bad[1] = 0x7f // no such kind of segment
	for i, f := range [][]byte{nil, make([]byte, vmm.FrameHeader-1), make([]byte, vmm.FrameHeader+5), bad} {
		a.Submit(sent(f))
		if got := a.Dropped(); got != uint64(i+1) {
			t.Errorf("frame %d: %d were dropped", i, got)
		}
	}
	a.Close()
	a.Submit(sent(frame(broadcast, guestMAC, nil)))
	if a.Dropped() != 5 {
		t.Error("a frame left after Close")
	}
}

// TestTapBackPressure: while the callback blocks frames wait in the interface.
func TestTapBackPressure(t *testing.T) {
	newNetwork(t)
	a, b := openTap(t, "fta", TapOptions{Bridge: "br0"}), openTap(t, "ftb", TapOptions{Bridge: "br0"})
	const count = 300 // less than the interface's queue
	entered, enter, got := make(chan bool), make(chan bool), make(chan int)
	var order []byte
	b.Start(TapEvents{Frames: func(frames [][]byte) {
		entered <- true
		<-enter
		if len(frames) > batchFrames {
			t.Errorf("a batch has %d frames", len(frames))
		}
		for _, f := range frames {
			order = append(order, f[len(f)-1])
		}
		if len(order) >= count {
			got <- len(order)
		}
	}})
	a.Submit(sent(frame(broadcast, guestMAC, []byte{0})))
	<-entered
	for i := 1; i < count; i++ {
		a.Submit(sent(frame(broadcast, guestMAC, []byte{byte(i)})))
	}
	batches := 1
	go func() {
		for range entered {
			batches++
			enter <- true
		}
	}()
	enter <- true
	if n := <-got; n != count {
		t.Fatalf("%d frames came, want %d", n, count)
	}
	close(entered)
	for i, b := range order {
		if b != byte(i) {
			t.Fatalf("frame %d is %d", i, b)
		}
	}
	if want := 1 + (count-1+batchFrames-1)/batchFrames; batches != want {
		t.Errorf("%d batches, want %d", batches, want)
	}
}

func TestTapErrors(t *testing.T) {
	newNetwork(t)
	openTap(t, "taken", TapOptions{})
	persistent(t, "tunnel", netlink.TUNTAP_MODE_TUN, 0)
	persistent(t, "queues", netlink.TUNTAP_MODE_TAP, netlink.TUNTAP_MULTI_QUEUE)
	for _, c := range []struct {
		name, bridge string
		want         []string
	}{
		{"taken", "", []string{"in use by another process", "name another tap"}},
		{"lo", "", []string{"of type", "ip tuntap add"}},
		{"br0", "", []string{"of type bridge", "ip tuntap add"}},
		{"tunnel", "", []string{"mode tun", "ip tuntap add"}},
		{"queues", "", []string{"several queues"}},
		{"new", "br7", []string{"no bridge br7", "ip link add br7 type bridge"}},
		{"new", "lo", []string{"lo is not a bridge"}},
		{"ft%d", "", []string{"cannot be the name"}},
	} {
		_, err := OpenTap(c.name, TapOptions{Bridge: c.bridge})
		mentions(t, err, append(c.want, "tap "+c.name+":")...)
	}
	if _, err := OpenTap("taken", TapOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("%v is not ErrInUse", err)
	}
	if _, err := net.InterfaceByName("new"); err == nil {
		t.Error("a tap that could not be used was left behind")
	}
}

// TestTapWithoutRights: a user without capabilities can use a tap that is ready and his.
func TestTapWithoutRights(t *testing.T) {
	br := newNetwork(t)
	persistent(t, "ready", netlink.TUNTAP_MODE_TAP, 0)
	link, err := netlink.LinkByName("ready")
	if err == nil {
		err = errors.Join(netlink.LinkSetMaster(link, br), netlink.LinkSetUp(link))
	}
	if err != nil {
		t.Fatal(err)
	}
	dropCapability(t, unix.CAP_NET_ADMIN)
	_, err = OpenTap("new", TapOptions{})
	mentions(t, err, "tap new:", "CAP_NET_ADMIN", "ip tuntap add new mode tap user")
	openTap(t, "ready", TapOptions{Bridge: "br0"})
}

// TestTapLifetime: what OpenTap made ends with it, what it found stays.
func TestTapLifetime(t *testing.T) {
	newNetwork(t)
	persistent(t, "found", netlink.TUNTAP_MODE_TAP, 0)
	for name, stays := range map[string]bool{"made": false, "found": true} {
		tap := openTap(t, name, TapOptions{Bridge: "br0"})
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if a := link.Attrs(); a.MasterIndex == 0 || a.Flags&net.FlagUp == 0 {
			t.Errorf("%s: %+v is not in its bridge and up", name, a)
		}
		if err := errors.Join(tap.Close(), tap.Close()); err != nil {
			t.Error(err)
		}
		if _, err := net.InterfaceByName(name); (err == nil) != stays {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestTapAnnounce(t *testing.T) {
	br := newNetwork(t)
	a, b := openTap(t, "fta", TapOptions{Bridge: "br0", MAC: guestMAC}), openTap(t, "ftb", TapOptions{Bridge: "br0", MAC: guestMAC})
	atA, events := collect()
	a.Start(events)
	learned := func() string {
		all, err := netlink.NeighList(0, unix.AF_BRIDGE)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			if slices.Equal(n.HardwareAddr, guestMAC[:]) && n.MasterIndex == br.Index {
				link, err := netlink.LinkByIndex(n.LinkIndex)
				if err != nil {
					t.Fatal(err)
				}
				return link.Attrs().Name
			}
		}
		return "nowhere"
	}
	atB, events := collect()
	b.Start(events)
	a.Submit(sent(frame(broadcast, guestMAC, nil)))
	atB.next(experimental) // it has gone through the bridge
	if got := learned(); got != "fta" {
		t.Fatalf("the bridge knows the guest at %s before", got)
	}
	b.Announce()
	b.Submit(sent(frame(broadcast, guestMAC, nil)))
	const want = "000000000000000000000000" + "ffffffffffff" + "020000000001" + "8035" +
		"0001" + "0800" + "06" + "04" + "0003" + "020000000001" + "00000000" + "020000000001" + "00000000" +
		"000000000000000000000000000000000000"
	for _, kinds := range [][]uint16{{0x8035, experimental}, {0x8035}} { // nothing of the guest's leaves before the first
		if got := fmt.Sprintf("%x", atA.next(kinds...)); got != want {
			t.Errorf("announced %s\nwant      %s", got, want)
		}
	}
	if got := learned(); got != "ftb" {
		t.Errorf("the bridge knows the guest at %s after", got)
	}
}

// TestTapLost deletes the interface underneath.
func TestTapLost(t *testing.T) {
	newNetwork(t)
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	b := openTap(t, "ftb", TapOptions{Bridge: "br0"})
	for _, name := range []string{"made", "found"} {
		if name == "found" {
			persistent(t, name, netlink.TUNTAP_MODE_TAP, 0)
		}
		a := openTap(t, name, TapOptions{Bridge: "br0"})
		a.retry = time.Millisecond
		atA, events := collect()
		ended := make(chan bool)
		go func() { // Start, in the test's network
			defer close(ended)
			runtime.LockOSThread()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				t.Error(err)
			}
			a.receive(events)
		}()
		remove(t, name)
		mentions(t, <-atA.lost, "tap "+name+" is gone", "without this network")
		if name == "found" {
			a.Submit(sent(frame(broadcast, guestMAC, nil)))
			if a.Dropped() != 1 {
				t.Error("a frame left without an interface")
			}
			persistent(t, name, netlink.TUNTAP_MODE_TAP, 0)
		}
		<-atA.back
		b.Submit(sent(frame(broadcast, otherMAC, []byte("again"))))
		if got := atA.next(experimental); !bytes.HasSuffix(got, []byte("again")) {
			t.Errorf("%s: got %x", name, got)
		}
		if len(atA.lost) != 0 {
			t.Errorf("%s: lost twice: %v", name, <-atA.lost)
		}
		a.Close()
		<-ended
	}
}

// BenchmarkTap sends frames from one tap to another over a bridge. frames/wake is how many come at a time.
func BenchmarkTap(b *testing.B) {
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"64B", frame(otherMAC, guestMAC, make([]byte, 50))},
		{"1500B", frame(otherMAC, guestMAC, make([]byte, 1500))},
		{"64KiB", segment(65535 - 14)},
	} {
		b.Run(c.name, func(b *testing.B) {
			newNetwork(b)
			from, to := openTap(b, "fta", TapOptions{Bridge: "br0"}), openTap(b, "ftb", TapOptions{Bridge: "br0"})
			const window = 128 // in flight, less than the interface's queue
			room := make(chan bool, window)
			wakes := 0
			to.Start(TapEvents{Frames: func(frames [][]byte) {
				wakes++
				for range frames {
					<-room
				}
			}, Lost: func(error) {}})
			to.Submit(sent(frame(broadcast, otherMAC, nil))) // so that the bridge learns
			b.SetBytes(int64(len(c.frame)))
			b.ReportAllocs()
			for b.Loop() {
				room <- true
				from.Submit(sent(c.frame))
			}
			for range window {
				room <- true
			}
			b.ReportMetric(float64(b.N)/float64(wakes), "frames/wake")
		})
	}
}
