package devices

import (
	"bytes"
	"testing"

	"ftvm/vmm"
)

// specimen is a device under the fuzzer: do executes one operation and returns all that
// the guest or the board can see of it. irq is nil if the device has no interrupt line.
type specimen struct {
	vmm.Stateful
	irq *irqTrace
	do  func(op, x, y uint8) uint64
}

// fuzzDevice runs operations, three bytes each, on a device. The outcome is the same
// on another instance, and on one that is saved and restored in the middle.
// And a restored state that was tampered with never panics, refused or not.
func fuzzDevice(f *testing.F, fresh func() specimen, seeds ...string) {
	for _, seed := range seeds {
		f.Add([]byte(seed), uint16(len(seed)/6), []byte("\x01\x00\x80\xff\x07"))
	}
	f.Fuzz(func(t *testing.T, script []byte, cut uint16, tamper []byte) {
		script = script[:min(len(script), 3000)]
		straight, twin := fresh(), fresh()
		for i := 0; i+3 <= len(script); i += 3 {
			op, x, y := script[i], script[i+1], script[i+2]
			if i/3 == int(cut) {
				saved := saveState(t, twin)
				line := twin.irq
				twin = fresh()
				if err := loadState(twin, saved); err != nil {
					t.Fatalf("restoring what was saved before operation %d: %v", i/3, err)
				}
				if again := saveState(t, twin); !bytes.Equal(again, saved) {
					t.Fatalf("before operation %d: saved again as\n%x, want\n%x", i/3, again, saved)
				}
				if line != nil {
					*twin.irq = *line // the level of the line is state of the PIC
				}
			}
			if got, want := twin.do(op, x, y), straight.do(op, x, y); got != want {
				t.Fatalf("operation %d (%#x %#x %#x): %#x on the twin, %#x on the first", i/3, op, x, y, got, want)
			}
		}
		saved := saveState(t, straight)
		if got := saveState(t, twin); !bytes.Equal(got, saved) {
			t.Fatalf("final states differ:\n%x\n%x", got, saved)
		}
		for i := range saved {
			if len(tamper) > 0 {
				saved[i] ^= tamper[i%len(tamper)]
			}
		}
		_ = loadState(twin, saved)
		for i := 0; i+3 <= len(script); i += 3 {
			twin.do(script[i], script[i+1], script[i+2])
		}
		saveState(t, twin)
	})
}

func saveState(t *testing.T, s vmm.Stateful) []byte {
	t.Helper()
	a := vmm.NewSaver(nil)
	s.State(a)
	if err := a.Finish(); err != nil {
		t.Fatalf("saving: %v", err)
	}
	return bytes.Clone(a.Data())
}

func loadState(s vmm.Stateful, data []byte) error {
	a := vmm.NewLoader(data)
	s.State(a)
	return a.Finish()
}

// irqTrace records what a device does to its interrupt line.
type irqTrace struct {
	level bool
	rises int
}

func (r *irqTrace) set(level bool) {
	if level && !r.level {
		r.rises++
	}
	r.level = level
}

// ticks takes edges of the timer, all at once.
func (r *irqTrace) ticks(n uint64) (owed uint64) {
	r.rises += int(n)
	return 0
}

// seen is what rose since the last call, and the level.
func (r *irqTrace) seen() uint64 {
	v := uint64(r.rises) << 1
	if r.level {
		v |= 1
	}
	r.rises = 0
	return v
}

// guestClock turns two bytes into a step of guest time, from 0 ns to 255 * 2^47 ns.
func guestClock(now *vmm.Time, x, y uint8) vmm.Time {
	*now += vmm.Time(uint64(y) << (x % 48))
	return *now
}
