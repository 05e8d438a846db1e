package host

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// The NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md), in the parts that a client with one connection, simple replies and
// without TLS needs. Numbers are big-endian.
const (
	nbdMagic        = 0x4e42444d41474943
	nbdOptionMagic  = 0x49484156454f5054
	nbdReplyMagic   = 0x0003e889045565a9
	nbdRequestMagic = 0x25609513
	nbdSimpleMagic  = 0x67446698

	nbdFixedNewstyle = 1 << 0 // handshake flags of both sides
	nbdNoZeroes      = 1 << 1

	nbdOptAbort = 2
	nbdOptInfo  = 6
	nbdOptGo    = 7

	nbdRepAck   = 1
	nbdRepInfo  = 3
	nbdRepError = 1 << 31

	nbdRepPolicy   = nbdRepError | 2
	nbdRepShutdown = nbdRepError | 7

	nbdInfoExport    = 0
	nbdInfoBlockSize = 3

	nbdHasReadOnly    = 1 << 1 // transmission flags
	nbdHasFlush       = 1 << 2
	nbdHasWriteZeroes = 1 << 6

	nbdCmdRead        = 0
	nbdCmdWrite       = 1
	nbdCmdDisconnect  = 2
	nbdCmdFlush       = 3
	nbdCmdWriteZeroes = 6
)

const (
	// maxExportName is the longest string of the protocol, in bytes.
	maxExportName = 4096
	// maxOptionReply is more than any reply to an option that we send has to say, in bytes.
	maxOptionReply = 64 << 10
	// maxPayload is what every server takes in one request, unless it says less, in bytes.
	maxPayload = 32 << 20
	// maxZeroes is how much one request may zero: lengths have 32 bits, and this is a multiple of any block size.
	maxZeroes = 1 << 30
)

// nbdRefusals says what error replies to an option mean.
var nbdRefusals = map[uint32]string{
	nbdRepError | 1: "it does not know this option: a newer server is needed",
	nbdRepPolicy:    "its policy forbids it",
	nbdRepError | 3: "it finds the request invalid",
	nbdRepError | 4: "it cannot do this on its platform",
	nbdRepError | 5: "it wants TLS, which is not supported: let it listen on an address that you trust",
	nbdRepError | 6: "it has no such export",
	nbdRepShutdown:  "it is shutting down",
	nbdRepError | 8: "it wants a block size to be kept, and does not say which",
}

// refusal is what a server said, and will say again if it is asked again.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// nbdExport is what a server tells of an export.
type nbdExport struct {
	size       uint64 // bytes
	flags      uint16 // transmission flags
	maxPayload uint64 // bytes
}

// nbdConn is a connection. One goroutine may send and another one receive.
type nbdConn struct {
	net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	export nbdExport
}

// dialNBD connects and negotiates, until ctx is done. option is nbdOptGo for a connection that is ready for requests, nbdOptInfo for one that has
// told what the export is.
func dialNBD(ctx context.Context, a NBDAddress, option uint32) (*nbdConn, error) {
	dialer := net.Dialer{
		// A server whose host is dead is found out within 10 s, idle or not.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control: func(network, _ string, raw syscall.RawConn) (err error) {
			if network == "unix" {
				return nil
			}
			return errors.Join(raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 10_000)
			}), err)
		},
	}
	conn, err := dialer.DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nil, err
	}
	c := newNBDConn(conn)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = c.negotiate(a.Export, option)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func newNBDConn(conn net.Conn) *nbdConn {
	return &nbdConn{Conn: conn, r: bufio.NewReaderSize(conn, 64<<10), w: bufio.NewWriterSize(conn, 64<<10)}
}

// negotiate asks for the export with one option.
func (c *nbdConn) negotiate(export string, option uint32) error {
	var greeting struct {
		Magic, OptionMagic uint64
		Flags              uint16
	}
	if err := binary.Read(c.r, binary.BigEndian, &greeting); err != nil {
		return fmt.Errorf("waiting for the server's greeting: %w", err)
	}
	if greeting.Magic != nbdMagic || greeting.OptionMagic != nbdOptionMagic || greeting.Flags&nbdFixedNewstyle == 0 {
		return refuse("who answers is no NBD server, or one from before 2012")
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(greeting.Flags&(nbdFixedNewstyle|nbdNoZeroes)))
	b = binary.BigEndian.AppendUint64(b, nbdOptionMagic)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(export)+4))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 1) // one item is asked for
	b = binary.BigEndian.AppendUint16(b, nbdInfoBlockSize)
	if _, err := c.Write(b); err != nil {
		return err
	}
	c.export.maxPayload = maxPayload
	for told := false; ; {
		kind, data, err := c.optionReply(option)
		switch {
		case err != nil:
			return err
		case kind == nbdRepAck && told:
			return nil
		case kind == nbdRepAck:
			return refuse("the server did not tell the export's size")
		case kind&nbdRepError != 0:
			why, known := nbdRefusals[kind]
			if !known {
				why = fmt.Sprintf("error %#x", kind)
			}
			err := fmt.Errorf("the server refuses export %q: %s%s", export, why, printable(data))
			if kind == nbdRepPolicy || kind == nbdRepShutdown {
				return err // another client may be all that is in the way
			}
			return refusal{err}
		case kind == nbdRepInfo && len(data) >= 2:
			is, err := c.export.learn(binary.BigEndian.Uint16(data), data[2:])
			if err != nil {
				return err
			}
			told = told || is
		}
	}
}

// optionReply reads one reply to an option.
func (c *nbdConn) optionReply(option uint32) (kind uint32, data []byte, err error) {
	var head struct {
		Magic                uint64
		Option, Kind, Length uint32
	}
	if err := binary.Read(c.r, binary.BigEndian, &head); err != nil {
		return 0, nil, fmt.Errorf("waiting for the server to tell of the export: %w", err)
	}
	if head.Magic != nbdReplyMagic || head.Option != option || head.Length > maxOptionReply {
		return 0, nil, refuse("the server breaks the protocol: its reply to an option is none")
	}
	data = make([]byte, head.Length)
	_, err = io.ReadFull(c.r, data)
	return head.Kind, data, err
}

// learn takes in one piece of information. It reports whether that was the one that must be there.
func (e *nbdExport) learn(kind uint16, data []byte) (must bool, err error) {
	switch {
	case kind == nbdInfoExport && len(data) == 10:
		e.size, e.flags = binary.BigEndian.Uint64(data), binary.BigEndian.Uint16(data[8:])
		return true, nil
	case kind == nbdInfoBlockSize && len(data) == 12:
		least, most := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[8:])
		if least > vmm.SectorSize || most < vmm.SectorSize {
			return false, refuse("the server wants requests of %d to %d bytes, a guest's have %d or more", least, most, vmm.SectorSize)
		}
		e.maxPayload = min(maxPayload, uint64(most)/vmm.SectorSize*vmm.SectorSize)
	}
	return false, nil
}

// printable is what a server says to people, fit for a log.
func printable(p []byte) string {
	if len(p) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.200q)", p)
}

// check refuses an export that cannot be the guest's disk.
func (e *nbdExport) check(readOnly bool, size uint64) error {
	switch {
	case size != 0 && e.size != size:
		return refuse("its size is %s, not %s", FormatSize(e.size), FormatSize(size))
	case e.size == 0 || e.size%vmm.SectorSize != 0 || e.size > 1<<63:
		return refuse("its size, %d bytes, is not a multiple of %d", e.size, vmm.SectorSize)
	case readOnly:
	case e.flags&nbdHasReadOnly != 0:
		return refuse("it is read-only: give it to the guest as such, with ,ro")
	case e.flags&nbdHasFlush == 0:
		return refuse("its server does not flush, so nothing that the guest writes would be safe: switch that on (nbd-server: flush = true)")
	}
	return nil
}

// nbdRequest is a request as it is sent.
type nbdRequest struct {
	command        uint16
	cookie, offset uint64
	length         uint32
	data           []byte
}

// next makes a request of r's bytes from r.progress on, and notes in r.part how many they are.
func (c *nbdConn) next(r *request, cookie uint64) nbdRequest {
	r.part = c.part(r)
	q := nbdRequest{cookie: cookie, offset: r.Offset + r.progress, length: uint32(r.part)}
	switch {
	case r.Op == vmm.DiskRead:
		q.command = nbdCmdRead
	case r.Op == vmm.DiskWrite:
		q.command, q.data = nbdCmdWrite, r.Data[r.progress:][:r.part]
	case r.Op == vmm.DiskFlush:
		q.command, q.offset = nbdCmdFlush, 0
	case c.export.flags&nbdHasWriteZeroes != 0:
		q.command = nbdCmdWriteZeroes // not TRIM, after which a server may say anything
	default:
		q.command, q.data = nbdCmdWrite, zeros[:r.part]
	}
	return q
}

// send sends requests.
func (c *nbdConn) send(requests []nbdRequest) error {
	for _, q := range requests {
		b := c.w.AvailableBuffer()
		b = binary.BigEndian.AppendUint32(b, nbdRequestMagic)
		b = binary.BigEndian.AppendUint16(b, 0) // no flags
		b = binary.BigEndian.AppendUint16(b, q.command)
		b = binary.BigEndian.AppendUint64(b, q.cookie)
		b = binary.BigEndian.AppendUint64(b, q.offset)
		b = binary.BigEndian.AppendUint32(b, q.length)
		if _, err := c.w.Write(b); err != nil {
			return err
		}
		if _, err := c.w.Write(q.data); err != nil {
			return err
		}
	}
	return c.w.Flush()
}

// disconnect tells the server, and closes the connection.
func (c *nbdConn) disconnect() error {
	return errors.Join(c.send([]nbdRequest{{command: nbdCmdDisconnect}}), c.Close())
}

// abort is disconnect before the connection was ready for requests.
func (c *nbdConn) abort() error {
	b := binary.BigEndian.AppendUint64(nil, nbdOptionMagic)
	b = binary.BigEndian.AppendUint32(b, nbdOptAbort)
	b = binary.BigEndian.AppendUint32(b, 0)
	_, err := c.Write(b)
	return errors.Join(err, c.Close())
}

// part is how many bytes of r, from r.progress on, go with one request.
func (c *nbdConn) part(r *request) uint64 {
	left := r.Length - r.progress
	switch {
	case r.Op == vmm.DiskFlush:
		return 0
	case r.Op == vmm.DiskRead, r.Op == vmm.DiskWrite:
		return min(left, c.export.maxPayload)
	case c.export.flags&nbdHasWriteZeroes != 0:
		return min(left, maxZeroes)
	}
	return min(left, c.export.maxPayload, uint64(len(zeros)))
}

// reply reads the head of a reply: which request it is about, and the error.
func (c *nbdConn) reply() (cookie uint64, failed error, err error) {
	var b [16]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return 0, nil, err
	}
	if magic := binary.BigEndian.Uint32(b[:]); magic != nbdSimpleMagic {
		return 0, nil, fmt.Errorf("the server breaks the protocol: a reply begins with %#x", magic)
	}
	switch errno := unix.Errno(binary.BigEndian.Uint32(b[4:])); errno {
	case 0:
	case unix.ESHUTDOWN:
		return 0, nil, errors.New("the server is shutting down")
	default:
		failed = fmt.Errorf("the server says: %w", errno)
	}
	return binary.BigEndian.Uint64(b[8:]), failed, nil
}
