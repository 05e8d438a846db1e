package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

func read(seq, off, n uint64) vmm.Output {
	return vmm.Output{Kind: vmm.OutputDisk, Seq: seq, Op: vmm.DiskRead, Offset: off, Length: n}
}

func write(seq, off uint64, data []byte) vmm.Output {
	return vmm.Output{Kind: vmm.OutputDisk, Seq: seq, Op: vmm.DiskWrite, Offset: off, Length: uint64(len(data)), Data: data}
}

func flush(seq uint64) vmm.Output {
	return vmm.Output{Kind: vmm.OutputDisk, Seq: seq, Op: vmm.DiskFlush}
}

// perform submits requests to d, closes it and returns the completions.
func perform(t *testing.T, d *Disk, outs ...vmm.Output) []Completion {
	t.Helper()
	var all []Completion
	d.Start(func(c Completion) { all = append(all, c) })
	for _, o := range outs {
		d.Submit(o)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if len(all) != len(outs) {
		t.Fatalf("%d requests completed of %d", len(all), len(outs))
	}
	return all
}

func TestDiskReadsWhatWasWritten(t *testing.T) {
	path := newImage(t, 1<<20)
	data := bytes.Repeat([]byte{1, 2, 3, 4}, 1024)
	for i, c := range perform(t, open(t, path, OpenOptions{}),
		read(0, 8192, 4096),
		write(1, 8192, data),
		flush(2),
		read(3, 8192, 4096),
		read(4, 1<<20-512, 512),
		read(5, 1<<20, 0),
	) {
		want := map[int][]byte{0: make([]byte, 4096), 3: data, 4: make([]byte, 512), 5: {}}[i]
		if c.Err != nil || c.Status != vmm.DiskOK || c.Seq != uint64(i) || !bytes.Equal(c.Data, want) {
			t.Errorf("request %d: got %+v, want %d bytes of data", i, c, len(want))
		}
	}
	file, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(file[8192:8192+4096], data) {
		t.Errorf("the image does not hold what was written (%v)", err)
	}
}

// TestDiskOrder overwrites one place many times while requests are submitted and done at
// once: each read must see the write before it.
func TestDiskOrder(t *testing.T) {
	const rounds = 2000
	d := open(t, newImage(t, 4096), OpenOptions{})
	next := uint64(0)
	d.Start(func(c Completion) {
		if c.Seq != next || c.Err != nil {
			t.Errorf("completion of %d (%v), want %d", c.Seq, c.Err, next)
		}
		if c.Seq%2 == 1 && binary.LittleEndian.Uint64(c.Data) != c.Seq/2 {
			t.Errorf("read %d returned write %d", c.Seq, binary.LittleEndian.Uint64(c.Data))
		}
		next++
	})
	for i := range uint64(rounds) {
		data := make([]byte, 512)
		binary.LittleEndian.PutUint64(data, i)
		d.Submit(write(2*i, 0, data))
		d.Submit(read(2*i+1, 0, 512))
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if next != 2*rounds {
		t.Errorf("%d requests completed, want %d", next, 2*rounds)
	}
}

// TestDiskSubmitFromMany is for the race detector; the callback submits, too.
func TestDiskSubmitFromMany(t *testing.T) {
	d := open(t, newImage(t, 1<<20), OpenOptions{})
	var wait sync.WaitGroup
	wait.Add(4 * 100 * 2)
	d.Start(func(c Completion) {
		if c.Seq == 0 {
			d.Submit(read(1, 0, 512))
		}
		wait.Done()
	})
	for g := range uint64(4) {
		go func() {
			for range 100 {
				d.Submit(write(0, g*4096, make([]byte, 4096)))
			}
		}()
	}
	wait.Wait()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestDiskImpossibleRequests(t *testing.T) {
	const size = 1 << 20
	for _, c := range []struct {
		name string
		out  vmm.Output
		want string
	}{
		{"read past the end", read(0, size-512, 1024), "read of 1024 bytes at offset 1048064"},
		{"read far away", read(0, 1<<63, 512), "has only 1048576 bytes"},
		{"read that wraps", read(0, 512, 1<<64-512), "has only 1048576 bytes"},
		{"read of everything there is", read(0, 0, 1<<64-1), "has only 1048576 bytes"},
		{"write past the end", write(0, size, make([]byte, 512)), "write of 512 bytes at offset 1048576"},
		{"write that wraps", write(0, 1<<64-512, make([]byte, 1024)), "has only 1048576 bytes"},
		{"unknown operation", vmm.Output{Op: 77}, "operation 77"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := newImage(t, size)
			got := perform(t, open(t, path, OpenOptions{}), c.out)[0]
			mentions(t, got.Err, c.want, path)
			if got.Status != vmm.DiskError {
				t.Errorf("status is %d, want %d", got.Status, vmm.DiskError)
			}
			if info, err := os.Stat(path); err != nil || info.Size() != size {
				t.Errorf("the image has %d bytes now (%v), want %d", info.Size(), err, size)
			}
		})
	}
}

func TestDiskReadOnlyRefusesWrites(t *testing.T) {
	path := newImage(t, 4096)
	got := perform(t, open(t, path, OpenOptions{ReadOnly: true}), read(0, 0, 512), write(1, 0, make([]byte, 512)))
	if got[0].Err != nil {
		t.Error(got[0].Err)
	}
	mentions(t, got[1].Err, "write of 512 bytes at offset 0", "reading only")
}

// TestDiskTroubleIsFinal: a flush that followed a failed write and succeeded would tell the
// guest that its data is safe.
func TestDiskTroubleIsFinal(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no /dev/full: %v", err)
	}
	d := &Disk{f: f, path: "full.img", size: 1 << 20}
	d.wake.L = &d.mu
	got := perform(t, d, read(0, 0, 512), write(1, 4096, make([]byte, 512)), read(2, 0, 512), flush(3))
	if got[0].Err != nil {
		t.Errorf("the read before: %v", got[0].Err)
	}
	mentions(t, got[1].Err, "full.img", "write of 512 bytes at offset 4096", "make room")
	for _, c := range got[1:] {
		if !errors.Is(c.Err, unix.ENOSPC) || c.Status != vmm.DiskError || c.Data != nil {
			t.Errorf("request %d: got %+v, want the write's ENOSPC", c.Seq, c)
		}
	}
}

func TestDiskFullFileSystem(t *testing.T) {
	path := filepath.Join(privateTmpfs(t, "size=1m"), "disk.img")
	if err := CreateDisk(path, 16<<20); err != nil {
		t.Fatal(err)
	}
	d := open(t, path, OpenOptions{})
	block := bytes.Repeat([]byte{0xa5}, 64<<10)
	var outs []vmm.Output
	for i := range uint64(32) {
		outs = append(outs, write(i, i*uint64(len(block)), block))
	}
	full := -1
	for i, c := range perform(t, d, outs...) {
		if c.Err != nil && full < 0 {
			full = i
		}
		if (c.Err != nil) != (full >= 0) {
			t.Errorf("write %d after the file system was full: %v", i, c.Err)
		}
		if c.Err != nil {
			mentions(t, c.Err, path, "no space left", "make room")
		}
	}
	if full < 8 || full > 16 {
		t.Errorf("write %d was the first to fail, want about the 16th", full)
	}
	again := open(t, path, OpenOptions{})
	got := perform(t, again, read(0, 0, uint64(full*len(block))))[0]
	if got.Err != nil || !bytes.Equal(got.Data, bytes.Repeat(block, full)) {
		t.Errorf("what was written before is not there (%v)", got.Err)
	}
}

func TestDiskTruncatedUnderneath(t *testing.T) {
	path := newImage(t, 8192)
	d := open(t, path, OpenOptions{})
	if err := os.Truncate(path, 4096+100); err != nil {
		t.Fatal(err)
	}
	got := perform(t, d, read(0, 4096, 512))[0]
	mentions(t, got.Err, "read of 512 bytes at offset 4096", "ends early")
	if !errors.Is(got.Err, io.ErrUnexpectedEOF) || got.Data != nil {
		t.Errorf("got %+v, want io.ErrUnexpectedEOF and no data", got)
	}
}
