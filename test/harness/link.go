package harness

import (
	"net"
	"sync"
	"time"
)

// link is a network between a backup and its primary: it takes some time for every byte, and what
// is under way when one end dies never arrives. Then it is gone for good.
type link struct {
	ln      net.Listener
	primary string
	delay   time.Duration
	done    sync.WaitGroup
}

func newLink(primary string, delay time.Duration) (*link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{ln: ln, primary: primary, delay: delay}
	l.done.Go(l.carry)
	return l, nil
}

func (l *link) addr() string { return l.ln.Addr().String() }

// close cuts the link, and waits until nothing of it is left. One end must be dead.
func (l *link) close() {
	l.ln.Close()
	l.done.Wait()
}

// carry carries one connection to its end.
func (l *link) carry() {
	defer l.ln.Close()
	backup, err := l.ln.Accept()
	if err != nil {
		return
	}
	defer backup.Close()
	primary, err := net.Dial("tcp", l.primary)
	if err != nil {
		return
	}
	defer primary.Close()
	over := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{primary, backup}, {backup, primary}} {
		l.done.Go(func() {
			l.pass(way[0], way[1])
			over <- struct{}{}
		})
	}
	<-over
}

// pass passes on what from says until one end dies.
func (l *link) pass(from, to net.Conn) {
	type parcel struct {
		data []byte
		due  time.Time
	}
	underWay := make(chan parcel, 1<<12)
	lost := make(chan struct{})
	l.done.Go(func() {
		for p := range underWay {
			select {
			case <-time.After(time.Until(p.due)):
			case <-lost:
				return
			}
			if _, err := to.Write(p.data); err != nil {
				from.Close()
			}
		}
	})
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			close(lost)
			close(underWay)
			return
		}
		underWay <- parcel{append([]byte(nil), buf[:n]...), time.Now().Add(l.delay)}
	}
}
