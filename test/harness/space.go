package harness

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Space is a network namespace without a name: when the last process in it and this one have ended, it is gone. It takes
// root.
type Space struct {
	// Link manages the namespace's interfaces.
	Link *netlink.Handle

	ns netns.NsHandle
}

// NewSpace makes a namespace whose loopback interface is up.
func NewSpace() (*Space, error) {
	s := &Space{}
	err := elsewhere(func() (err error) { // a new namespace is where the thread is then
		if s.ns, err = netns.New(); err != nil {
			return err
		}
		s.Link, err = netlink.NewHandle()
		return err
	})
	if err == nil {
		err = s.Set("lo", s.Link.LinkSetUp)
	}
	if err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return s, nil
}

// Close lets go of the namespace.
func (s *Space) Close() error {
	s.Link.Close()
	return s.ns.Close()
}

// Do calls f on a thread that is in the namespace: sockets that f opens, and processes that it starts, stay there.
func (s *Space) Do(f func() error) error {
	return elsewhere(func() error {
		if err := netns.Set(s.ns); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return f()
	})
}

// elsewhere calls f on a thread that may go to another namespace, and comes back.
func elsewhere(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("this thread's network namespace: %w", err)
	}
	err = f()
	back := netns.Set(home)
	if back == nil { // else the thread stays locked, and ends with the goroutine
		runtime.UnlockOSThread()
	}
	return errors.Join(err, back, home.Close())
}

// AddBridge makes a bridge and sets it up, with an address as "10.0.0.1/24" unless that is empty.
func (s *Space) AddBridge(name, address string) error {
	if err := s.Link.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return fmt.Errorf("adding bridge %s: %w", name, err)
	}
	if address == "" {
		return s.Set(name, s.Link.LinkSetUp)
	}
	return s.Address(name, address)
}

// Address gives an interface an address and sets it up.
func (s *Space) Address(name, address string) error {
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(s.Set(name, func(l netlink.Link) error { return s.Link.AddrAdd(l, a) }), s.Set(name, s.Link.LinkSetUp))
}

// Plug joins the namespace to another by a cable, whose ends have these names here and there.
func (s *Space) Plug(here string, to *Space, there string) error {
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: here}, PeerName: there, PeerNamespace: netlink.NsFd(to.ns)}
	if err := s.Link.LinkAdd(cable); err != nil {
		return fmt.Errorf("adding the cable %s: %w", here, err)
	}
	return errors.Join(s.Set(here, s.Link.LinkSetUp), to.Set(there, to.Link.LinkSetUp))
}

// Enslave makes an interface a port of a bridge.
func (s *Space) Enslave(name, bridge string) error {
	br, err := s.Link.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	return s.Set(name, func(l netlink.Link) error { return s.Link.LinkSetMaster(l, br) })
}

// Set changes the interface called name.
func (s *Space) Set(name string, change func(netlink.Link) error) error {
	l, err := s.Link.LinkByName(name)
	if err == nil {
		err = change(l)
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}
