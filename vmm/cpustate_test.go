package vmm_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"ftvm/vmm"
)

// filled is a state in which every field has a value of its own.
func filled() vmm.CPUState {
	var s vmm.CPUState
	n := uint64(1)
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		case reflect.Array:
			for i := range v.Len() {
				fill(v.Index(i))
			}
		case reflect.Slice:
			v.SetBytes([]byte("extended state"))
		case reflect.Bool:
			v.SetBool(true)
		default:
			v.SetUint(n & (1<<(v.Type().Bits()-1)<<1 - 1))
			n = n*6364136223846793005 + 1442695040888963407
		}
	}
	fill(reflect.ValueOf(&s).Elem())
	return s
}

func TestCPUStateRoundTrip(t *testing.T) {
	want := filled()
	for _, rf := range []uint64{0, vmm.FlagRF} {
		want.RFLAGS = want.RFLAGS&^vmm.FlagRF | rf
		a := vmm.NewSaver(nil)
		want.State(a)
		if err := a.Finish(); err != nil {
			t.Fatal(err)
		}
		got := vmm.CPUState{RFLAGS: vmm.FlagRF} // what was there before is gone
		loader := vmm.NewLoader(a.Data())
		got.State(loader)
		if err := loader.Finish(); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("restored\n%+v\nwant\n%+v", got, want)
		}
	}
}

// TestCPUStateIsLoadedAlike: what a digest covers comes back without the rest, too.
func TestCPUStateIsLoadedAlike(t *testing.T) {
	want := filled()
	want.RFLAGS &^= vmm.FlagRF
	a := vmm.NewSaver(nil)
	want.Digestible(a)
	var got vmm.CPUState
	loader := vmm.NewLoader(a.Data())
	got.Digestible(loader)
	if err := loader.Finish(); err != nil {
		t.Fatal(err)
	}
	if want.Ext = nil; !reflect.DeepEqual(got, want) {
		t.Errorf("restored\n%+v\nwant\n%+v", got, want)
	}
}

func TestCPUStateString(t *testing.T) {
	s := filled()
	text := s.String()
	for i, name := range []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"} {
		if want := fmt.Sprintf("%3s %016x", name, s.GPR[i]); !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	for i, name := range []string{"es", "cs", "ss", "ds", "fs", "gs"} {
		if want := fmt.Sprintf("%s %04x", name, s.Seg[i].Selector); !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if want := fmt.Sprintf("position %d  rip %016x", s.Position, s.RIP); !strings.HasPrefix(text, want) {
		t.Errorf("%q does not begin\n%s", want, text)
	}
	s.RFLAGS ^= vmm.FlagRF
	if s.String() != text {
		t.Error("RF, which differs between replicas, is in the text")
	}
}
