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

func clearing(seq uint64, op vmm.DiskOp, off, n uint64) vmm.Output {
	return vmm.Output{Kind: vmm.OutputDisk, Seq: seq, Op: op, Offset: off, Length: n}
}

// perform submits requests, which are numbered from 0, to d, closes it and returns the completions by number.
func perform(t *testing.T, d Storage, outs ...vmm.Output) []Completion {
	t.Helper()
	all, reported := make([]Completion, len(outs)), make([]int, len(outs))
	d.Start(func(c Completion) {
		all[c.Seq] = c
		reported[c.Seq]++
	})
	for _, o := range outs {
		d.Submit(o)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	for i, n := range reported {
		if n != 1 {
			t.Fatalf("request %d was reported %d times", i, n)
		}
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
			t.Errorf("request %d: %d bytes that may be the wrong ones, status %d (%v); want %d", i, len(c.Data), c.Status, c.Err, len(want))
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

// TestDiskTrouble: an error is that of one request.
func TestDiskTrouble(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no /dev/full: %v", err)
	}
	d := &Disk{f: f, path: "full.img", size: 1 << 20}
	d.wake.L = &d.mu
	got := perform(t, d, read(0, 0, 512), write(1, 4096, make([]byte, 512)), read(2, 4096, 512), write(3, 4096, nil))
	mentions(t, got[1].Err, "full.img", "write of 512 bytes at offset 4096", "make room")
	if !errors.Is(got[1].Err, unix.ENOSPC) || got[1].Status != vmm.DiskError {
		t.Errorf("got status %d, %v; want ENOSPC", got[1].Status, got[1].Err)
	}
	for _, i := range []int{0, 2, 3} {
		if got[i].Err != nil || got[i].Status != vmm.DiskOK {
			t.Errorf("request %d: status %d, %v", i, got[i].Status, got[i].Err)
		}
	}
}

// TestDiskFullFileSystem: what does not fit fails, and does not once there is room again.
func TestDiskFullFileSystem(t *testing.T) {
	path := filepath.Join(privateTmpfs(t, "size=1m"), "disk.img")
	if err := CreateDisk(path, 16<<20); err != nil {
		t.Fatal(err)
	}
	const block, count = 64 << 10, 32
	content := func(i uint64) []byte { return bytes.Repeat([]byte{byte(i + 1)}, block) }
	var outs []vmm.Output
	for i := range uint64(count) {
		outs = append(outs, write(i, i*block, content(i)))
	}
	var written []vmm.Output
	var failed vmm.Output
	for i, c := range perform(t, open(t, path, OpenOptions{}), outs...) {
		if c.Err == nil {
			written = append(written, outs[i])
			continue
		}
		failed = outs[i]
		mentions(t, c.Err, path, "no space left", "make room")
	}
	if len(written) < 8 || len(written) > 16 {
		t.Fatalf("%d writes of %d fitted, want about 16", len(written), count)
	}
	last := written[len(written)-1]
	failed.Seq = 1
	outs = []vmm.Output{clearing(0, vmm.DiskDiscard, last.Offset, block), flush(2)}
	perform(t, open(t, path, OpenOptions{}), outs[0])
	for i, w := range written[:len(written)-1] {
		outs = append(outs, read(uint64(i)+3, w.Offset, block))
	}
	got := perform(t, open(t, path, OpenOptions{}), append([]vmm.Output{outs[0], failed}, outs[1:]...)...)
	for i, c := range got {
		if c.Err != nil {
			t.Errorf("request %d, with room: %v", i, c.Err)
		} else if i >= 3 && !bytes.Equal(c.Data, written[i-3].Data) {
			t.Errorf("what was written at %d is not there", written[i-3].Offset)
		}
	}
}

func TestDiskClears(t *testing.T) {
	const size, from, length = 1 << 20, 4096 + 512, 512 << 10 // not where blocks of a file system begin
	ram := t.TempDir()                                        // a file system without holes that can be punched
	privateTmpfs(t, "")
	if err := unix.Mount("ramfs", ram, "ramfs", 0, ""); err != nil {
		t.Skipf("mount ramfs: %v", err)
	}
	defer unix.Unmount(ram, unix.MNT_DETACH)
	for _, op := range []vmm.DiskOp{vmm.DiskDiscard, vmm.DiskWriteZeroes} {
		for name, dir := range map[string]string{"": t.TempDir(), " without holes": ram} { // no subtests: threads see different mounts
			path := filepath.Join(dir, "disk.img")
			content := bytes.Repeat([]byte{7}, size)
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
			clear(content[from : from+length])
			before := blocks(t, path)
			got := perform(t, open(t, path, OpenOptions{}),
				clearing(0, op, from, length), read(1, 0, size), clearing(2, op, size, 0), clearing(3, op, size-512, 1024))
			if !bytes.Equal(got[1].Data, content) || got[0].Err != nil || got[2].Err != nil {
				t.Errorf("%s%s: not these bytes became zero, or others: %v, %v", opName(op), name, got[0].Err, got[2].Err)
			}
			mentions(t, got[3].Err, opName(op)+" of 1024 bytes", "has only")
			if freed := before - blocks(t, path); (freed >= length-8192) != (name == "") {
				t.Errorf("%s%s: %d bytes of %d were given back", opName(op), name, freed, length)
			}
		}
	}
}

// blocks is the room that a file takes, in bytes.
func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestDiskWorkers: what does not depend on each other is done at once, by no more than so many threads.
func TestDiskWorkers(t *testing.T) {
	for _, c := range []struct {
		name  string
		apart uint64
		want  int
	}{{"independent", 512, maxWorkers}, {"overlapping", 0, 1}} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t, newImage(t, 1<<20), OpenOptions{})
			for i := range uint64(100) {
				d.Submit(write(i, i*c.apart, make([]byte, 512)))
			}
			left := 100
			d.Start(func(Completion) { left-- })
			d.mu.Lock()
			got := d.workers
			d.mu.Unlock()
			if err := d.Close(); err != nil || left != 0 || got != c.want {
				t.Errorf("%d workers, want %d; %d requests left (%v)", got, c.want, left, err)
			}
		})
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
		t.Errorf("%d bytes (%v), want io.ErrUnexpectedEOF and no data", len(got.Data), got.Err)
	}
}
