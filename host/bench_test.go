package host

import (
	"fmt"
	"os"
	"testing"

	"ftvm/vmm"
)

// BenchmarkDisk keeps so many requests of 4 KiB in flight: reads at random places of a cached file, and writes each of which is
// followed by a flush. The plain system calls stand beside.
func BenchmarkDisk(b *testing.B) {
	const size, block = 64 << 20, 4096
	place := func(i uint64) uint64 { return i * 2654435761 % (size / block) * block }
	path := b.TempDir() + "/disk.img"
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, block)
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("read/depth=%d", depth), func(b *testing.B) {
			submitAll(b, path, depth, func(i uint64) []vmm.Output { return []vmm.Output{read(i, place(i), block)} })
		})
	}
	b.Run("read/syscall", func(b *testing.B) {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for i := uint64(0); b.Loop(); i++ {
			if _, err := f.ReadAt(data, int64(place(i))); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("write+flush/depth=%d", depth), func(b *testing.B) {
			submitAll(b, path, depth, func(i uint64) []vmm.Output {
				return []vmm.Output{write(2*i, place(i), data), flush(2*i + 1)}
			})
		})
	}
	b.Run("write+flush/syscall", func(b *testing.B) {
		d, err := OpenDisk(path, OpenOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		for i := uint64(0); b.Loop(); i++ {
			if _, err := d.f.WriteAt(data, int64(place(i))); err != nil {
				b.Fatal(err)
			}
			if err := d.flush(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// submitAll submits the requests of each i one after the other is complete, for depth values of i at a time.
func submitAll(b *testing.B, path string, depth int, requests func(i uint64) []vmm.Output) {
	d, err := OpenDisk(path, OpenOptions{})
	if err != nil {
		b.Fatal(err)
	}
	n := len(requests(0))
	done := make([]chan bool, depth*n)
	for i := range done {
		done[i] = make(chan bool, 1)
	}
	d.Start(func(c Completion) {
		if c.Err != nil {
			b.Error(c.Err)
		}
		done[c.Seq%uint64(len(done))] <- true
	})
	turn := make(chan uint64)
	ended := make(chan bool)
	for range depth {
		go func() {
			for i := range turn {
				for _, out := range requests(i) {
					d.Submit(out)
					<-done[out.Seq%uint64(len(done))]
				}
			}
			ended <- true
		}()
	}
	for i := uint64(0); b.Loop(); i++ {
		turn <- i
	}
	close(turn)
	for range depth {
		<-ended
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
