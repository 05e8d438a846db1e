package harness

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stream is what a process wrote to one of its outputs so far.
type Stream struct {
	mu      sync.Mutex
	data    []byte
	arrived []arrival
	changed chan struct{} // closed, and replaced, when something comes
	over    bool
}

// arrival says when the bytes before end, and after those of the arrival before, came.
type arrival struct {
	end int
	at  time.Time
}

// Line is a line that a process wrote.
type Line struct {
	Text       string    // without its end
	Start, End int       // the bytes of the stream that it is, its end included
	At         time.Time // when the last of them came
}

func newStream() *Stream { return &Stream{changed: make(chan struct{})} }

// fill reads r to its end.
func (s *Stream) fill(r io.ReadCloser) {
	defer r.Close()
	buf := make([]byte, 1<<16)
	for {
		n, err := r.Read(buf)
		at := time.Now()
		s.mu.Lock()
		s.data = append(s.data, buf[:n]...)
		s.arrived = append(s.arrived, arrival{len(s.data), at})
		s.over = err != nil
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Bytes is everything so far.
func (s *Stream) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.data)
}

func (s *Stream) String() string { return string(s.Bytes()) }

// Len is how many bytes came so far.
func (s *Stream) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.data)
}

// next is the first whole line that starts at byte from; ok is false if there is none yet.
func (s *Stream) next(from int) (l Line, ok bool) {
	n := bytes.IndexByte(s.data[min(from, len(s.data)):], '\n')
	if n < 0 {
		return Line{}, false
	}
	l = Line{Text: strings.TrimRight(string(s.data[from:from+n]), "\r"), Start: from, End: from + n + 1}
	i, _ := slices.BinarySearchFunc(s.arrived, l.End, func(a arrival, end int) int { return cmp.Compare(a.end, end) })
	l.At = s.arrived[i].at
	return l, true
}

// Lines are the whole lines so far, from byte from on.
func (s *Stream) Lines(from int) (all []Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		l, ok := s.next(from)
		if !ok {
			return all
		}
		all = append(all, l)
		from = l.End
	}
}

// Next waits for the line that starts at byte from. At the end of the stream it returns io.EOF.
func (s *Stream) Next(ctx context.Context, from int) (Line, error) {
	for {
		s.mu.Lock()
		l, ok := s.next(from)
		over, changed := s.over, s.changed
		s.mu.Unlock()
		switch {
		case ok:
			return l, nil
		case over:
			return Line{}, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, ctx.Err()
		}
	}
}

// Await waits for the first line from byte from on that match accepts.
func (s *Stream) Await(ctx context.Context, from int, match func(Line) bool) (Line, error) {
	for {
		l, err := s.Next(ctx, from)
		if err != nil || match(l) {
			return l, err
		}
		from = l.End
	}
}

// AwaitText waits for the first line that contains text.
func (s *Stream) AwaitText(ctx context.Context, text string) (Line, error) {
	l, err := s.Await(ctx, 0, func(l Line) bool { return strings.Contains(l.Text, text) })
	if err != nil {
		err = fmt.Errorf("awaiting a line with %q: %w", text, err)
	}
	return l, err
}
