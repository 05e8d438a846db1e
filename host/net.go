package host

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// NetSpec is what --net asks for.
type NetSpec struct {
	Tap    string
	Bridge string // "" leaves the tap where it is
	MAC    MAC    // zero if none was given; see DefaultMAC
}

// ParseNet reads "tap=NAME[,bridge=NAME][,mac=ADDRESS]".
func ParseNet(s string) (NetSpec, error) {
	spec, err := parseNet(s)
	if err != nil {
		return NetSpec{}, fmt.Errorf("network %q: %w: want tap=NAME[,bridge=NAME][,mac=ADDRESS]", s, err)
	}
	return spec, nil
}

func parseNet(s string) (spec NetSpec, err error) {
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(field, "=")
		if seen[key] {
			return spec, fmt.Errorf("%s is given twice", key)
		}
		seen[key] = true
		switch key {
		case "tap":
			spec.Tap, err = value, checkName(value)
		case "bridge":
			spec.Bridge, err = value, checkName(value)
		case "mac":
			spec.MAC, err = parseMAC(value)
		default:
			err = fmt.Errorf("unknown %q", field)
		}
		if err != nil {
			return spec, err
		}
	}
	if spec.Tap == "" {
		return spec, errors.New("names no tap")
	}
	return spec, nil
}

// checkName refuses what the kernel would not take as the name of an interface, and a
// percent sign, of which it would make a number.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00") {
		return fmt.Errorf("%q cannot be the name of an interface", name)
	}
	return nil
}

func parseMAC(s string) (MAC, error) {
	a, err := net.ParseMAC(s)
	if err != nil || len(a) != len(MAC{}) {
		return MAC{}, fmt.Errorf("%q is no Ethernet address such as 52:00:00:12:34:56", s)
	}
	if m := MAC(a); m != (MAC{}) && m[0]&1 == 0 {
		return m, nil
	}
	return MAC{}, fmt.Errorf("%s is not the address of one station", a)
}

// DefaultMAC is the address of interface index of the machine called name: always the same,
// on every host. It is locally administered (IEEE 802, second bit of the first byte).
func DefaultMAC(name string, index int) MAC {
	h := sha256.Sum256(fmt.Appendf(nil, "%s/%d", name, index))
	m := MAC(h[:])
	m[0] = m[0]&^1 | 2
	return m
}
