package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Addresses. The replicas talk to each other over the same wires as the guest and its client do.
const (
	guestAddr   = "10.77.0.2" // as guests/linux/services has it
	clientAddr  = "10.77.0.1/24"
	primaryAddr = "10.77.1.1"
	backupAddr  = "10.77.1.2"
)

// bridge is the name of the bridge on each host, which the guest's tap is put into, and of that in the switch.
const bridge = "br0"

// world is the client, the switch and the hosts. None of it outlives the process.
type world struct {
	hosts       [2]space
	hub, client space
}

// space is a network namespace.
type space struct {
	ns   netns.NsHandle
	link *netlink.Handle
}

// newWorld makes the namespaces and joins them.
func newWorld() (_ *world, err error) {
	w := &world{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("joining hosts and client by namespaces: %w", errors.Join(err, w.close()))
		}
	}()
	for _, s := range w.spaces() {
		if *s, err = newSpace(); err != nil {
			return w, err
		}
	}
	if err := w.hub.addBridge(""); err != nil {
		return w, err
	}
	for i, address := range []string{primaryAddr, backupAddr} {
		if err := w.hosts[i].addBridge(address + "/24"); err != nil {
			return w, err
		}
		if err := w.hub.plug(fmt.Sprint("host", i), w.hosts[i]); err != nil {
			return w, err
		}
		if err := w.hosts[i].enslave(wire); err != nil {
			return w, err
		}
	}
	if err := w.hub.plug("client", w.client); err != nil {
		return w, err
	}
	return w, w.client.address(wire, clientAddr)
}

func (w *world) spaces() []*space { return []*space{&w.hosts[0], &w.hosts[1], &w.hub, &w.client} }

func (w *world) close() (err error) {
	for _, s := range w.spaces() {
		if s.link != nil {
			s.link.Close()
			err = errors.Join(err, s.ns.Close())
		}
	}
	return err
}

// unplug pulls host i's cable.
func (w *world) unplug(i int) error { return w.hub.set(fmt.Sprint("host", i), w.hub.link.LinkSetDown) }

// dial connects the client to a port of the guest.
func (w *world) dial(ctx context.Context, port int) (conn net.Conn, err error) {
	err = w.client.do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", guestAddr, port))
		return err
	})
	return conn, err
}

func newSpace() (s space, err error) {
	// The thread goes back to the namespace where it was.
	err = space{}.do(func() error {
		if s.ns, err = netns.New(); err != nil {
			return fmt.Errorf("a new network namespace: %w", err)
		}
		s.link, err = netlink.NewHandle()
		return err
	})
	if err != nil {
		return s, err
	}
	return s, s.set("lo", s.link.LinkSetUp)
}

// do calls f on a thread that is in the namespace: sockets that it opens and processes that it starts stay there.
func (s space) do(f func() error) (err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("this thread's network namespace: %w", err)
	}
	defer func() {
		back := netns.Set(home)
		err = errors.Join(err, back, home.Close())
		if back == nil { // a thread that is lost elsewhere ends with the goroutine
			runtime.UnlockOSThread()
		}
	}()
	if s.link != nil {
		if err := netns.Set(s.ns); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
	}
	return f()
}

// wire is the name of the cable to the switch, at all ends but the switch's.
const wire = "wire"

// addBridge makes the bridge of a host or of the switch.
func (s space) addBridge(address string) error {
	if err := s.link.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
		return fmt.Errorf("adding a bridge: %w", err)
	}
	if address == "" {
		return s.set(bridge, s.link.LinkSetUp)
	}
	return s.address(bridge, address)
}

// plug joins the switch to another namespace by a cable.
func (s space) plug(name string, to space) error {
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: wire, PeerNamespace: netlink.NsFd(to.ns)}
	if err := s.link.LinkAdd(cable); err != nil {
		return fmt.Errorf("adding the cable %s: %w", name, err)
	}
	return errors.Join(s.enslave(name), to.set(wire, to.link.LinkSetUp))
}

func (s space) enslave(name string) error {
	br, err := s.link.LinkByName(bridge)
	if err != nil {
		return err
	}
	return errors.Join(s.set(name, func(l netlink.Link) error { return s.link.LinkSetMaster(l, br) }), s.set(name, s.link.LinkSetUp))
}

// address gives an interface an address and sets it up.
func (s space) address(name, address string) error {
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(s.set(name, func(l netlink.Link) error { return s.link.AddrAdd(l, a) }), s.set(name, s.link.LinkSetUp))
}

// set changes the interface called name.
func (s space) set(name string, change func(netlink.Link) error) error {
	l, err := s.link.LinkByName(name)
	if err == nil {
		err = change(l)
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}
