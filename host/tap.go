package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// Tap is the outside end of one of the guest's network interfaces. Frames begin with
// vmm.FrameHeader bytes of header in both directions.
type Tap struct {
	name    string
	options TapOptions
	created bool          // by OpenTap
	retry   time.Duration // how often a lost interface is looked for

	mu     sync.Mutex
	port   *port // nil while the interface is lost
	closed chan struct{}

	dropped atomic.Uint64
}

// TapOptions tells OpenTap what the interface is for.
type TapOptions struct {
	// Bridge is where the interface is put; "" leaves it where it is.
	Bridge string
	// MAC is the guest's address, for Announce.
	MAC MAC
}

// TapEvents are a Tap's callbacks. They come from one goroutine.
type TapEvents struct {
	// Frames brings what arrived, oldest first; there is at least one, and they are the callee's.
	// While it blocks nothing more is read: the interface's queue fills, then the kernel drops.
	Frames func(frames [][]byte)
	// Lost says that somebody took the interface away. Until Back nothing is sent or received.
	Lost func(err error)
	// Back says that the interface is there again. One that OpenTap made is made again, one that it found must be
	// brought back by whoever knows where it belongs.
	Back func()
}

// A batch of frames ends when it has so many, or so many bytes.
const (
	batchFrames = 64
	batchBytes  = 256 << 10
)

// OpenTap attaches to the tap called name, or makes one, which ends with the process, and sets it up. To make one, or
// to change one that is there, takes CAP_NET_ADMIN.
func OpenTap(name string, o TapOptions) (*Tap, error) {
	t := &Tap{name: name, options: o, retry: time.Second, closed: make(chan struct{})}
	var err error
	if t.port, t.created, err = openPort(name, o.Bridge, true); err != nil {
		return nil, err
	}
	return t, nil
}

// Start begins to receive. It is called once in a Tap's life.
func (t *Tap) Start(events TapEvents) { go t.receive(events) }

// Submit sends a frame; when it returns the frame has left, or was dropped and counted. It does not block.
func (t *Tap) Submit(out vmm.Output) {
	if p := t.attached(); p == nil || p.send(out.Data) != nil {
		t.dropped.Add(1)
	}
}

// Dropped counts the frames in both directions that were lost here: the kernel did not take them, there was no interface,
// or they were longer than vmm.MaxFrame.
func (t *Tap) Dropped() uint64 { return t.dropped.Load() }

// announceAgain is when an announcement is sent again: a bridge port that was just made may not forward yet.
var announceAgain = []time.Duration{50 * time.Millisecond, 250 * time.Millisecond, time.Second}

// Announce tells switches that the guest's address is behind this interface now. It sends a frame, before any that is
// submitted later, and more for a second. It returns at once.
func (t *Tap) Announce() {
	out := vmm.Output{Kind: vmm.OutputFrame, Data: announcement(t.options.MAC)}
	t.Submit(out)
	for _, after := range announceAgain {
		time.AfterFunc(after, func() { t.Submit(out) })
	}
}

// Close detaches from the interface; one that OpenTap made is gone. It does not wait for a call of an event, so these
// may call it. What is submitted afterwards is dropped.
func (t *Tap) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.closed:
		return nil
	default:
	}
	close(t.closed)
	if t.port == nil {
		return nil
	}
	p := t.port
	t.port = nil
	if err := p.f.Close(); err != nil {
		return fmt.Errorf("tap %s: close: %w", t.name, cause(err))
	}
	return nil
}

func (t *Tap) attached() *port {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.port
}

// receive delivers frames until the tap is closed, over as many lives of the interface as there are.
func (t *Tap) receive(events TapEvents) {
	buf := make([]byte, vmm.MaxFrame+1)
	for p := t.attached(); p != nil; {
		frames, tooLong, err := p.receive(buf)
		t.dropped.Add(tooLong)
		if len(frames) > 0 {
			events.Frames(frames)
		}
		if err == nil {
			continue
		}
		if !t.lose() {
			return
		}
		events.Lost(fmt.Errorf("tap %s is gone, the guest is without this network: %w", t.name, cause(err)))
		if p = t.find(); p != nil {
			events.Back()
		}
	}
}

// lose lets go of an interface that does not answer any more. It reports whether the tap is still wanted.
func (t *Tap) lose() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.port == nil {
		return false // it was Close
	}
	_ = t.port.f.Close() // there is nothing behind it
	t.port = nil
	return true
}

// find waits until the interface is there again, or the tap is closed; then there is none.
func (t *Tap) find() *port {
	tick := time.NewTicker(t.retry)
	defer tick.Stop()
	for {
		select {
		case <-t.closed:
			return nil
		case <-tick.C:
		}
		p, _, err := openPort(t.name, t.options.Bridge, t.created)
		if err != nil {
			continue // Lost has said what there is to say
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		select {
		case <-t.closed:
			_ = p.f.Close()
			return nil
		default:
		}
		t.port = p
		return p
	}
}

// port is one attachment to an interface.
type port struct {
	f   *os.File // non-blocking, known to Go's poller
	raw syscall.RawConn
}

// openPort attaches to an interface, which it makes if there is none and create is set.
func openPort(name, bridge string, create bool) (p *port, created bool, err error) {
	fail := func(format string, args ...any) (*port, bool, error) {
		return nil, false, fmt.Errorf("tap %s: "+format, append([]any{name}, args...)...)
	}
	if err := checkName(name); err != nil {
		return fail("%w", err)
	}
	master, err := findBridge(bridge)
	if err != nil {
		return fail("%w", err)
	}
	link, err := netlink.LinkByName(name)
	switch {
	case errors.As(err, &netlink.LinkNotFoundError{}) && create:
		created = true
	case err != nil:
		return fail("%w", err)
	default:
		if err := checkTap(link); err != nil {
			return fail("%w", err)
		}
	}
	f, err := attach(name)
	if err != nil {
		return fail("%w", err)
	}
	if err = setUp(name, master, created); err != nil {
		return fail("%w", errors.Join(err, f.Close()))
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fail("%w", errors.Join(err, f.Close()))
	}
	return &port{f, raw}, created, nil
}

// findBridge returns the index of a bridge, or 0 if name is empty.
func findBridge(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return 0, fmt.Errorf("there is no bridge %s: make one with: ip link add %s type bridge && ip link set %s up", name, name, name)
	} else if err != nil {
		return 0, fmt.Errorf("bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return 0, fmt.Errorf("%s is not a bridge but of type %s", name, link.Type())
	}
	return link.Attrs().Index, nil
}

// checkTap refuses an interface that cannot be attached to as a tap.
func checkTap(link netlink.Link) error {
	const advice = "choose another name, and one is made, or make one with: ip tuntap add NAME mode tap"
	tuntap, ok := link.(*netlink.Tuntap)
	switch {
	case !ok:
		return fmt.Errorf("there is an interface of this name, of type %s: %s", link.Type(), advice)
	case tuntap.Mode != netlink.TUNTAP_MODE_TAP:
		return fmt.Errorf("there is an interface of this name in mode tun, which carries no Ethernet frames: %s", advice)
	case tuntap.Flags&netlink.TUNTAP_MULTI_QUEUE != 0:
		return fmt.Errorf("it has several queues: %s", advice)
	}
	return nil
}

// attach opens a queue of the interface (Linux, Documentation/networking/tuntap.rst).
func attach(name string) (_ *os.File, err error) {
	const device = "/dev/net/tun"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("%s: %w: load the kernel's module with: modprobe tun", device, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: another process has it: stop that one, or name another tap", ErrInUse)
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%w: it takes CAP_NET_ADMIN, or a tap of this user's: ip tuntap add %s mode tap user %d", err, name, unix.Getuid())
	case err != nil:
		return nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vmm.FrameHeader); err != nil {
		return nil, fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		return nil, fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// setUp puts the interface into its bridge, if it has one, and switches it on. What is so already is not done again: that
// takes no rights.
func setUp(name string, master int, created bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a := link.Attrs()
	if created {
		// A bridge without an address of its own takes the lowest of its ports' and would change it with every guest that
		// comes and goes.
		high := slices.Clone(a.HardwareAddr)
		high[0] = 0xfe
		if err := netlink.LinkSetHardwareAddr(link, high); err != nil {
			return fmt.Errorf("setting its address: %w", err)
		}
	}
	if master != 0 && a.MasterIndex != master {
		if err := netlink.LinkSetMasterByIndex(link, master); err != nil {
			return fmt.Errorf("putting it into its bridge: %w", err)
		}
	}
	if a.RawFlags&unix.IFF_UP == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("switching it on: %w", err)
		}
	}
	return nil
}

// send gives one frame to the kernel, which takes it or not.
func (p *port) send(frame []byte) (err error) {
	closed := p.raw.Write(func(fd uintptr) bool {
		_, err = unix.Write(int(fd), frame)
		return true
	})
	return errors.Join(closed, err)
}

// receive waits for frames and returns those that are there, up to a batch. tooLong counts others.
func (p *port) receive(buf []byte) (frames [][]byte, tooLong uint64, err error) {
	gone := p.raw.Read(func(fd uintptr) bool {
		for size := 0; len(frames) < batchFrames && size < batchBytes; {
			n, e := unix.Read(int(fd), buf)
			switch {
			case errors.Is(e, unix.EINTR):
			case errors.Is(e, unix.EAGAIN):
				return len(frames) > 0
			case e != nil:
				err = e
				return true
			case n == len(buf):
				tooLong++
			default:
				frames = append(frames, slices.Clone(buf[:n]))
				size += n
			}
		}
		return true
	})
	return frames, tooLong, errors.Join(gone, err)
}

// announcement is the frame by which a machine that moved makes switches learn its new place: it asks for its own address
// by reverse ARP (RFC 903), which nobody answers and every switch passes on.
func announcement(mac MAC) []byte {
	const broadcast, rarp = "\xff\xff\xff\xff\xff\xff", 0x8035
	f := make([]byte, vmm.FrameHeader, vmm.FrameHeader+60)
	f = append(f, broadcast...)
	f = append(f, mac[:]...)
	f = binary.BigEndian.AppendUint16(f, rarp)
	// Hardware Ethernet, protocol IPv4, lengths of their addresses, request reverse.
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 3)
	for range 2 { // sender, target
		f = append(f, mac[:]...)
		f = append(f, 0, 0, 0, 0)
	}
	return f[:cap(f)] // Ethernet's minimum
}
