package harness

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watch sees writes to a file.
type Watch struct{ f *os.File }

// NewWatch begins to watch the file at path.
func NewWatch(path string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &Watch{os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		w.Close()
		return nil, fmt.Errorf("inotify on %s: %w", path, err)
	}
	return w, nil
}

// Await waits for a write that was done since the watch began or since the last call.
func (w *Watch) Await(ctx context.Context) error {
	if t, ok := ctx.Deadline(); ok {
		if err := w.f.SetReadDeadline(t); err != nil {
			return err
		}
	}
	buf := make([]byte, 4096)
	if _, err := w.f.Read(buf); err != nil {
		return fmt.Errorf("awaiting a write: %w", err)
	}
	return nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.f.Close() }
