package x86

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// TestSilicon compares lengths, and what is undefined, with the CPU's word.
func TestSilicon(t *testing.T) {
	program := buildSilicon(t)
	for _, test := range []struct {
		name string
		mode Mode
	}{
		{"64", Mode64},
		{"32", Mode32},
	} {
		t.Run(test.name, func(t *testing.T) {
			var all []sample
			for i, s := range samples(t, test.mode) {
				// It is slow: unless more rounds than usual are asked for, a part must do.
				if s.harmless(test.mode) && (*rounds > usualRounds || i%3 == 0) {
					all = append(all, s)
				}
			}
			failed := 0
			for i, v := range silicon(t, program, test.mode, all) {
				s := &all[i]
				if v.agrees(s) || s.vendorSpecific(test.mode) {
					continue
				}
				if failed++; failed <= 20 {
					t.Errorf("%x is %q of %d bytes; the CPU says %d bytes, vector %d", s.code, s.text, s.inst.Len, v.len, v.vector)
				}
			}
			if failed > 0 {
				t.Errorf("%d of %d differ", failed, len(all))
			}
		})
	}
}

// verdict is what the CPU says about a sample; see testdata/silicon.c.
type verdict struct{ len, vector uint8 }

func (v verdict) agrees(s *sample) bool {
	const ud, gp = 6, 13
	switch s.err {
	case ErrTooLong:
		return v.len == MaxLen && v.vector == gp
	case ErrUndefined:
		return v.len == s.inst.Len && v.vector == ud
	}
	switch op := s.inst.Op; {
	case v.vector != ud:
		return v.len == s.inst.Len
	case op >= MOVBE: // the CPU need not have it
		return v.len == s.inst.Len
	}
	switch s.inst.Op {
	case UD0, UD1, UD2, RSM:
		return v.len == s.inst.Len
	}
	return false
}

// harmless tells whether the CPU may be asked about s: it does not enter the kernel or the hypervisor, nor wait, whatever
// the CPU takes it for.
func (s *sample) harmless(mode Mode) bool {
	_, opMap, op, rest := split(s.code, mode)
	switch {
	case opMap == map1 && op == 0xcd: // INT
		return false
	case opMap == map0F && (op == 0x05 || op == 0x34): // SYSCALL, SYSENTER
		return false
	case opMap == map0F && op == 0x01 && rest[0] >= 0xc0: // VMCALL, VMMCALL, MWAITX
		return false
	case opMap == map0F && op == 0xae && rest[0] >= 0xf0 && rest[0] < 0xf8: // TPAUSE, UMWAIT
		return false
	}
	return true
}

// vendorSpecific tells whether the CPU that was asked, AMD's, differs by design from the one that is decoded for, Intel's.
func (s *sample) vendorSpecific(mode Mode) bool {
	prefixes, opMap, op, rest := split(s.code, mode)
	lock, small := slices.Contains(prefixes, 0xf0), slices.Contains(prefixes, 0x66)
	switch opMap {
	case map1:
		switch op {
		case 0x62, 0xc4, 0xc5: // VEX and EVEX are not decoded to their end
			return s.inst.Op == VEX || s.inst.Op == EVEX || s.err != nil
		case 0x8f: // XOP
			return s.err == ErrUndefined
		case 0xe8, 0xe9: // near branches heed 66 in 64-bit mode
			return mode == Mode64 && small
		}
	case map0F:
		switch {
		case op == 0x00: // LOCK VERW is no #UD on Zen 5
			return lock && rest[0]>>3&7 == 5
		case op >= 0x80 && op <= 0x8f:
			return mode == Mode64 && small
		case op == 0x20 || op == 0x22: // LOCK MOV CR0 is MOV CR8
			return lock
		case op == 0x2b, op == 0x78, op == 0x79: // SSE4a
			return s.inst.Op != MOVNTPS && s.inst.Op != MOVNTPD
		case op == 0xb9, op == 0xff: // UD1 and UD0 have no ModRM byte
			return true
		}
	}
	return false
}

// buildSilicon makes the program that asks the CPU.
func buildSilicon(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("needs Linux on amd64")
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !bytes.Contains(info, []byte("AuthenticAMD")) {
		t.Skip("knows the peculiarities of AMD's processors only")
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc: ", err)
	}
	program := filepath.Join(t.TempDir(), "silicon")
	build := exec.Command(gcc, "-O1", "-fno-stack-protector", "-o", program, "testdata/silicon.c")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return program
}

// silicon asks the CPU about the samples.
func silicon(t *testing.T, program string, mode Mode, all []sample) []verdict {
	t.Helper()
	var in bytes.Buffer
	for _, s := range all {
		in.Write(s.code)
		in.WriteByte(byte(mode)<<7 | s.inst.Len)
	}
	run := exec.Command(program)
	run.Stdin = &in
	out, err := run.Output()
	if err != nil || len(out) != 2*len(all) {
		t.Fatalf("silicon: %v; %d bytes for %d samples", err, len(out), len(all))
	}
	verdicts := make([]verdict, len(all))
	for i := range verdicts {
		verdicts[i] = verdict{out[2*i], out[2*i+1]}
	}
	return verdicts
}
