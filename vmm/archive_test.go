package vmm_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"ftvm/vmm"
)

// everything is one field of each kind.
type everything struct {
	u8         uint8
	u16        uint16
	u32        uint32
	u64        uint64
	yes, no    bool
	fixed      [3]byte
	text       []byte
	list       []uint16
	afterwards uint8
}

func (e *everything) State(a *vmm.Archive) {
	a.Section("first")
	a.U8("u8", &e.u8)
	a.U16("u16", &e.u16)
	a.U32("u32", &e.u32)
	a.U64("u64", &e.u64)
	a.Section("second")
	a.Bool("yes", &e.yes)
	a.Bool("no", &e.no)
	a.Fixed("fixed", e.fixed[:])
	a.Bytes("text", &e.text, 8)
	n := a.Len("list", len(e.list), 3)
	if a.Loading() {
		e.list = make([]uint16, n)
	}
	for i := range e.list {
		a.U16("item", &e.list[i])
	}
	a.U8("afterwards", &e.afterwards)
}

func sample() *everything {
	return &everything{0x12, 0x3456, 0x789abcde, 0x0123456789abcdef, true, false, [3]byte{1, 2, 3}, []byte("text"), []uint16{7, 8}, 9}
}

// sampleBytes is what sample is saved as.
const sampleBytes = "\x12" + "\x56\x34" + "\xde\xbc\x9a\x78" + "\xef\xcd\xab\x89\x67\x45\x23\x01" + "\x01" + "\x00" + "\x01\x02\x03" +
	"\x04\x00\x00\x00text" + "\x02\x00\x00\x00\x07\x00\x08\x00" + "\x09"

func TestArchive(t *testing.T) {
	saver := vmm.NewSaver([]byte("what was here before"))
	for range 2 { // Reset makes it start again
		sample().State(saver)
		if err := saver.Finish(); err != nil || string(saver.Data()) != sampleBytes {
			t.Fatalf("saved %q, %v; want %q", saver.Data(), err, sampleBytes)
		}
		if saver.Loading() || len(saver.Fields()) != 0 {
			t.Errorf("loading %v, %d fields", saver.Loading(), len(saver.Fields()))
		}
		saver.Reset()
	}
	var got everything
	loader := vmm.NewLoader([]byte(sampleBytes))
	got.State(loader)
	if err := loader.Finish(); err != nil || !loader.Loading() {
		t.Fatalf("Finish: %v", err)
	}
	again := vmm.NewSaver(nil)
	got.State(again)
	if !bytes.Equal(again.Data(), []byte(sampleBytes)) {
		t.Errorf("restored %+v", got)
	}
	// What was restored is no part of what it was restored from.
	data := []byte(sampleBytes)
	got.State(vmm.NewLoader(data))
	clear(data)
	if string(got.text) != "text" {
		t.Errorf("text is %q after its source was overwritten", got.text)
	}
}

func TestArchiveNames(t *testing.T) {
	a := vmm.NewNamingSaver()
	sample().State(a)
	var names []string
	for _, f := range a.Fields() {
		names = append(names, f.Name)
	}
	want := []string{"first.u8", "first.u16", "first.u32", "first.u64", "second.yes", "second.no", "second.fixed",
		"second.text", "second.text", "second.list", "second.item", "second.item", "second.afterwards"}
	if !slices.Equal(names, want) {
		t.Errorf("got  %q\nwant %q", names, want)
	}
	if f := a.Fields()[2]; f.Start != 3 || f.End != 7 {
		t.Errorf("u32 is at %d to %d, want 3 to 7", f.Start, f.End)
	}
	a.Reset()
	if len(a.Fields()) != 0 || len(a.Data()) != 0 {
		t.Errorf("after Reset: %d fields, %d bytes", len(a.Fields()), len(a.Data()))
	}
}

func TestArchiveRefuses(t *testing.T) {
	change := func(at int, with string) string {
		return sampleBytes[:at] + with + sampleBytes[at+len(with):]
	}
	for _, row := range []struct{ name, data, want string }{
		{"nothing", "", "first: u8: state ends early"},
		{"the middle of a field", sampleBytes[:5], "first: u32: state ends early"},
		{"all but the last", sampleBytes[:len(sampleBytes)-1], "second: afterwards: state ends early"},
		{"left over", sampleBytes + "..", "second: 2 bytes left over"},
		{"a flag of 2", change(15, "\x02"), "second: yes: 2 is not a flag"},
		{"a flag of 255", change(16, "\xff"), "second: no: 255 is not a flag"},
		{"a long text", change(20, "\x09\x00\x00\x00"), "second: text: length 9 is over 8"},
		{"a text longer than all", change(20, "\x08\x00\x00\x00"), "second: list: length"},
		{"a text longer than memory", change(20, "\xff\xff\xff\xff"), "second: text: length 4294967295 is over 8"},
		{"a long list", change(28, "\xff\xff\xff\x7f"), "second: list: length 2147483647 is over 3"},
	} {
		var e everything
		a := vmm.NewLoader([]byte(row.data))
		e.State(a)
		err := a.Finish()
		if !errors.Is(err, vmm.ErrState) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
		if len(e.text) > 8 || len(e.list) > 3 {
			t.Errorf("%s: %d bytes of text and a list of %d", row.name, len(e.text), len(e.list))
		}
	}
}

// TestArchiveKeepsFirstFailure: what comes after a failure is not restored, and does not hide it.
func TestArchiveKeepsFirstFailure(t *testing.T) {
	a := vmm.NewLoader([]byte{1, 2, 3, 4, 5})
	a.Section("part")
	a.Fail("value %d is wrong", 42)
	v, flag, list := uint8(7), true, []byte("old")
	a.U8("v", &v)
	a.Bool("flag", &flag)
	a.Bytes("list", &list, math.MaxInt)
	a.Fail("another")
	if v != 7 || !flag || len(list) != 0 {
		t.Errorf("after a failure v is %d, flag %v, list %q", v, flag, list)
	}
	if err := a.Err(); !errors.Is(err, vmm.ErrState) || err.Error() != "saved state is not valid: part: value 42 is wrong" || a.Finish() != err {
		t.Errorf("Err = %v, Finish = %v", err, a.Finish())
	}
}

func FuzzArchive(f *testing.F) {
	f.Add([]byte(sampleBytes))
	f.Add([]byte(sampleBytes[:9]))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e everything
		a := vmm.NewLoader(data)
		e.State(a)
		if err := a.Finish(); err != nil {
			if !errors.Is(err, vmm.ErrState) {
				t.Errorf("%v is no ErrState", err)
			}
			return
		}
		again := vmm.NewSaver(nil)
		e.State(again)
		if !bytes.Equal(again.Data(), data) {
			t.Errorf("restored from %x, saved as %x", data, again.Data())
		}
	})
}

func FuzzCPUState(f *testing.F) {
	a := vmm.NewSaver(nil)
	full := filled()
	full.State(a)
	f.Add(bytes.Clone(a.Data()))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s vmm.CPUState
		a := vmm.NewLoader(data)
		s.State(a)
		_ = s.String()
		if a.Finish() != nil {
			return
		}
		again := vmm.NewSaver(nil)
		s.State(again)
		var twice vmm.CPUState
		loader := vmm.NewLoader(again.Data())
		twice.State(loader)
		if err := loader.Finish(); err != nil {
			t.Errorf("what was saved cannot be restored: %v", err)
		}
	})
}
