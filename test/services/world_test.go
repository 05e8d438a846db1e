package services

import (
	"context"
	"errors"
	"fmt"
	"net"

	"ftvm/test/harness"
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

// wire is the name of the cable to the switch, at all ends but the switch's.
const wire = "wire"

// world is the client, the switch and the hosts. None of it outlives the process.
type world struct {
	hosts       [2]*harness.Space
	hub, client *harness.Space
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
		if *s, err = harness.NewSpace(); err != nil {
			return w, err
		}
	}
	if err := w.hub.AddBridge(bridge, ""); err != nil {
		return w, err
	}
	for i, address := range []string{primaryAddr, backupAddr} {
		if err := w.hosts[i].AddBridge(bridge, address+"/24"); err != nil {
			return w, err
		}
		if err := w.plug(cable(i), w.hosts[i]); err != nil {
			return w, err
		}
		if err := w.hosts[i].Enslave(wire, bridge); err != nil {
			return w, err
		}
	}
	if err := w.plug("client", w.client); err != nil {
		return w, err
	}
	return w, w.client.Address(wire, clientAddr)
}

func (w *world) spaces() []**harness.Space {
	return []**harness.Space{&w.hosts[0], &w.hosts[1], &w.hub, &w.client}
}

func (w *world) close() (err error) {
	for _, s := range w.spaces() {
		if *s != nil {
			err = errors.Join(err, (*s).Close())
		}
	}
	return err
}

// cable is the name of host i's at the switch.
func cable(i int) string { return fmt.Sprint("host", i) }

// plug joins the switch to a namespace.
func (w *world) plug(name string, to *harness.Space) error {
	return errors.Join(w.hub.Plug(name, to, wire), w.hub.Enslave(name, bridge))
}

// unplug pulls host i's cable.
func (w *world) unplug(i int) error { return w.hub.Set(cable(i), w.hub.Link.LinkSetDown) }

// dial connects the client to a port of the guest.
func (w *world) dial(ctx context.Context, port int) (conn net.Conn, err error) {
	err = w.client.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", guestAddr, port))
		return err
	})
	return conn, err
}
