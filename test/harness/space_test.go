package harness

import (
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestSpace: what is done in a namespace stays there, and the thread comes back.
func TestSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces take root")
	}
	s, err := NewSpace()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const bridge, address = "ftvm-test", "10.254.253.1"
	if err := s.AddBridge(bridge, address+"/30"); err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	err = s.Do(func() (err error) {
		ln, err = net.Listen("tcp4", address+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := netlink.LinkByName(bridge); err == nil {
		t.Errorf("%s is outside the namespace as well", bridge)
	}
	err = s.Do(func() error {
		conn, err := net.Dial("tcp4", ln.Addr().String())
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
