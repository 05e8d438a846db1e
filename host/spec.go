package host

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"ftvm/vmm"
)

// DiskSpec is what --disk asks for.
type DiskSpec struct {
	// Path is the image; "" for a disk that an NBD server has.
	Path string
	NBD  NBDAddress
	// Shared says that all hosts reach this disk: it is not the replica's own. A disk at an NBD server always is.
	Shared   bool
	ReadOnly bool
	// Serial is what the guest sees as the disk's serial number, at most 20 bytes of printable ASCII; "" if none was given.
	Serial string
	// Size is the size in bytes of an export, if it was given: the server need not be asked before Acquire then.
	Size uint64
}

// maxSerial is VIRTIO_BLK_ID_BYTES (virtio 1.2, 5.2.6).
const maxSerial = 20

// diskUsage ends what is said about a bad specification.
const diskUsage = "want FILE[,shared][,ro][,serial=TEXT] or nbd://HOST[:PORT]/[EXPORT][,ro][,serial=TEXT][,size=SIZE]"

// ParseDisk reads "FILE[,shared][,ro][,serial=TEXT]" or "URL[,ro][,serial=TEXT][,size=SIZE]" with a URL nbd://HOST[:PORT]/[EXPORT]
// or nbd+unix:///[EXPORT]?socket=PATH. A comma cannot be part of a name.
func ParseDisk(s string) (DiskSpec, error) {
	d, err := parseDisk(s)
	if err != nil {
		return DiskSpec{}, fmt.Errorf("disk %q: %w: %s", s, err, diskUsage)
	}
	return d, nil
}

func parseDisk(s string) (d DiskSpec, err error) {
	fields := strings.Split(s, ",")
	if strings.HasPrefix(fields[0], "nbd:") || strings.HasPrefix(fields[0], "nbd+") {
		d.Shared = true
		if d.NBD, err = parseNBD(fields[0]); err != nil {
			return d, err
		}
	} else if d.Path = fields[0]; d.Path == "" {
		return d, errors.New("names no file")
	}
	seen := map[string]bool{}
	for _, field := range fields[1:] {
		key, value, valued := strings.Cut(field, "=")
		if seen[key] {
			return d, fmt.Errorf("%s is given twice", key)
		}
		seen[key] = true
		switch {
		case field == "shared":
			d.Shared = true
		case field == "ro":
			d.ReadOnly = true
		case key == "serial" && valued:
			d.Serial, err = value, checkSerial(value)
		case key == "size" && valued && d.Path == "":
			if d.Size, err = ParseSize(value); err == nil && (d.Size == 0 || d.Size%vmm.SectorSize != 0) {
				err = fmt.Errorf("size %s is not a multiple of %d bytes", value, vmm.SectorSize)
			}
		default:
			err = fmt.Errorf("unknown %q", field)
		}
		if err != nil {
			return d, err
		}
	}
	return d, nil
}

func checkSerial(s string) error {
	if s == "" || len(s) > maxSerial || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("serial number %q: 1 to %d characters of ASCII without spaces are possible", s, maxSerial)
	}
	return nil
}

// String is how the disk is called in messages.
func (d DiskSpec) String() string {
	if d.Path == "" {
		return "disk " + d.NBD.String()
	}
	return "disk image " + d.Path
}

// Identity names a shared disk for the comparison of what two replicas were started with. Its contents are one and the same for both.
func (d DiskSpec) Identity(size uint64) string {
	return fmt.Sprintf("shared %s, %s", d, FormatSize(size))
}

// Open opens the disk: a *Disk, or, for a shared one, a *SharedDisk or *NBD, which a replica must Acquire before
// it submits the first request. waiting is told once a second why Acquire does not go on.
func (d DiskSpec) Open(waiting func(error)) (Storage, error) {
	switch {
	case d.Path == "":
		return OpenNBD(d.NBD, NBDOptions{ReadOnly: d.ReadOnly, Size: d.Size, Waiting: waiting})
	case d.Shared:
		return OpenSharedDisk(d.Path, OpenOptions{ReadOnly: d.ReadOnly}, waiting)
	}
	return OpenDisk(d.Path, OpenOptions{ReadOnly: d.ReadOnly})
}

// NBDAddress says where an NBD server is, and which of its disks is meant.
type NBDAddress struct {
	Network string // "tcp" or "unix"
	Address string // as net.Dial wants it
	Export  string
}

// nbdPort is registered with IANA.
const nbdPort = "10809"

func parseNBD(s string) (a NBDAddress, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return a, err
	}
	a.Export = strings.TrimPrefix(u.Path, "/")
	query := u.Query()
	socket := query.Get("socket")
	query.Del("socket")
	switch {
	case len(query) > 0 || u.Fragment != "" || u.User != nil || u.Opaque != "":
		return a, errors.New("there is more in this URL than an NBD address has")
	case len(a.Export) > maxExportName:
		return a, fmt.Errorf("the export's name is longer than %d bytes", maxExportName)
	case u.Scheme == "nbd" && u.Hostname() != "" && socket == "":
		port := u.Port()
		if port == "" {
			port = nbdPort
		}
		a.Network, a.Address = "tcp", net.JoinHostPort(u.Hostname(), port)
	case u.Scheme == "nbd+unix" && u.Host == "" && socket != "":
		a.Network, a.Address = "unix", socket
	default:
		return a, errors.New("no NBD address")
	}
	return a, nil
}

func (a NBDAddress) String() string {
	if a.Network == "unix" {
		return "nbd+unix:///" + a.Export + "?socket=" + a.Address
	}
	return "nbd://" + a.Address + "/" + a.Export
}
