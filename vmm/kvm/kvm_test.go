package kvm

import (
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// A gokvm that repeats a call that a signal interrupted would make a vCPU that cannot be kicked.
// Only set-up goes through gokvm, but whoever changes that should know.
func TestGokvmReturnsEINTR(t *testing.T) {
	g := needTiny(t, "exits", machineCode("f4")) // hlt
	g.run.control.Store(immediateExit)
	hung := time.AfterFunc(time.Second, func() { g.run.control.Store(0) }) // lets the guest reach HLT
	_, err := gokvm.Ioctl(uintptr(g.vcpu), kvmRun, 0)
	hung.Stop()
	if err != unix.EINTR {
		t.Errorf("KVM_RUN with immediate_exit through gokvm: %v, want EINTR", err)
	}
}

// Go preempts goroutines by a signal. It must not be seen: neither as a return from Run, nor as
// a position.
func TestForeignSignalsAreInvisible(t *testing.T) {
	g := needTiny(t, "exits", machineCode("b9 00 00 40 00", "ff c9", "75 fc", "e6 80")) // mov ecx, 4<<20; again: dec ecx; jnz again; out 0x80, al
	tid, stop, done := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
					t.Error(err)
					return
				}
				runtime.Gosched()
			}
		}
	}()
	err := g.adjust(func(s *vmm.CPUState) { tinyState(s, 3) })
	if err != nil {
		t.Fatal(err)
	}
	x, err := g.Run(10, false, &tinyBus{})
	close(stop)
	<-done
	if err != nil || x != (vmm.Exit{Reason: vmm.ExitAccess}) || g.Position() != 1 {
		t.Errorf("exit %+v at position %d, error %v; want ExitAccess at position 1", x, g.Position(), err)
	}
}

func TestHiddenMSRs(t *testing.T) {
	needTiny(t, "exits", nil)
	for _, c := range []struct{ name, code, want string }{
		{"RDMSR of IA32_TSC", "b9 10 00 00 00 0f 32", "#GP"},
		{"WRMSR of IA32_TSC", "b9 10 00 00 00 0f 30", "#GP"},
		{"RDMSR of IA32_MISC_ENABLE", "b9 a0 01 00 00 0f 32", "#GP"},
		{"RDMSR of an unknown MSR", "b9 45 23 01 00 0f 32", "#GP"},
		{"RDMSR of LSTAR", "b9 82 00 00 c0 0f 32", "runs"},
		{"RDMSR of EFER", "b9 80 00 00 c0 0f 32", "runs"},
	} {
		if _, how, err := attempt(0, machineCode(c.code), nil); err != nil || how != c.want {
			t.Errorf("%s: %s, error %v; want %s", c.name, how, err, c.want)
		}
	}
}

func TestGuestCPUID(t *testing.T) {
	all := gokvm.CPUIDEntry2{Eax: all, Ebx: all, Ecx: all, Edx: all}
	host := []gokvm.CPUIDEntry2{}
	for _, f := range []uint32{0, 1, 4, 7, 0xb, 0xd, 0x15, 0x4000_0000, 0x4000_0001, 0x8000_0000, 0x8000_0001, 0x8000_0007, 0x8000_0008} {
		e := all
		e.Function = f
		host = append(host, e)
	}
	got := map[uint32]gokvm.CPUIDEntry2{}
	for _, e := range guestCPUID(host) {
		got[e.Function] = e
	}
	for _, f := range []uint32{4, 0xb, 0xd, 0x15, 0x4000_0000, 0x4000_0001, 0x8000_0007} {
		if e, ok := got[f]; ok {
			t.Errorf("leaf %#x is shown: %+v", f, e)
		}
	}
	if got[0].Eax != maxBasic || got[0x8000_0000].Eax != maxExtended {
		t.Errorf("highest leaves %#x and %#x, want %#x and %#x", got[0].Eax, got[0x8000_0000].Eax, maxBasic, uint32(maxExtended))
	}
	bit := func(f uint32, reg func(gokvm.CPUIDEntry2) uint32, n int) bool { return reg(got[f])>>n&1 != 0 }
	ebx := func(e gokvm.CPUIDEntry2) uint32 { return e.Ebx }
	ecx := func(e gokvm.CPUIDEntry2) uint32 { return e.Ecx }
	edx := func(e gokvm.CPUIDEntry2) uint32 { return e.Edx }
	for _, c := range []struct {
		name     string
		function uint32
		reg      func(gokvm.CPUIDEntry2) uint32
		bit      int
		want     bool
	}{
		// What 64-bit Linux cannot do without.
		{"FPU", 1, edx, 0, true}, {"PSE", 1, edx, 3, true}, {"MSR", 1, edx, 5, true}, {"PAE", 1, edx, 6, true},
		{"CX8", 1, edx, 8, true}, {"CMOV", 1, edx, 15, true}, {"FXSR", 1, edx, 24, true}, {"SSE", 1, edx, 25, true},
		{"SSE2", 1, edx, 26, true}, {"SYSCALL", 0x8000_0001, edx, 11, true}, {"NX", 0x8000_0001, edx, 20, true},
		{"LM", 0x8000_0001, edx, 29, true},
		// What would let in the host.
		{"TSC", 1, edx, 4, false}, {"APIC", 1, edx, 9, false}, {"TSC deadline", 1, ecx, 24, false}, {"x2APIC", 1, ecx, 21, false},
		{"MONITOR", 1, ecx, 3, false}, {"PCID", 1, ecx, 17, false}, {"RDRAND", 1, ecx, 30, false}, {"XSAVE", 1, ecx, 26, false},
		{"OSXSAVE", 1, ecx, 27, false}, {"AVX", 1, ecx, 28, false}, {"FMA", 1, ecx, 12, false}, {"RDSEED", 7, ebx, 18, false},
		{"AVX2", 7, ebx, 5, false}, {"RTM", 7, ebx, 11, false}, {"INVPCID", 7, ebx, 10, false}, {"TSC_ADJUST", 7, ebx, 1, false},
		{"RDPID", 7, ecx, 22, false}, {"WAITPKG", 7, ecx, 5, false}, {"RDTSCP", 0x8000_0001, edx, 27, false},
		{"SVM", 0x8000_0001, ecx, 2, false}, {"MWAITX", 0x8000_0001, ecx, 29, false}, {"initial APIC ID", 1, ebx, 24, false},
	} {
		if got := bit(c.function, c.reg, c.bit); got != c.want {
			t.Errorf("%s shown: %v, want %v", c.name, got, c.want)
		}
	}
}

// At CPL0, with no handler to enter, every clock that steps stops exactly.
func TestStepAtCPL0(t *testing.T) {
	g := needTiny(t, "step", slices.Repeat(machineCode("90"), 50))
	for _, until := range []vmm.Position{1, 2, 10, 11, 40} {
		x, err := g.Run(until, false, &tinyBus{})
		if err != nil || x.Reason != vmm.ExitPosition || g.Position() != until {
			t.Fatalf("Run(%d): exit %+v at position %d, error %v", until, x, g.Position(), err)
		}
		if want := tinyCode + uint64(until); g.rip() != want {
			t.Errorf("at position %d: rip %#x, want %#x", until, g.rip(), want)
		}
	}
}

func TestStepCountsHaltOnce(t *testing.T) {
	g := needTiny(t, "step", machineCode("90", "f4", "90", "66 f4", "90")) // nop; hlt; nop; data16 hlt; nop
	for _, want := range []struct {
		reason   vmm.ExitReason
		position vmm.Position
		rip      uint64
	}{
		{vmm.ExitHalt, 2, tinyCode + 2},
		{vmm.ExitHalt, 4, tinyCode + 5},
		{vmm.ExitPosition, 5, tinyCode + 6},
	} {
		x, err := g.Run(5, false, &tinyBus{})
		if err != nil || x.Reason != want.reason || g.Position() != want.position || g.rip() != want.rip {
			t.Errorf("exit %+v at position %d, rip %#x, error %v; want %+v", x, g.Position(), g.rip(), err, want)
		}
	}
}

func TestUnknownClock(t *testing.T) {
	needTiny(t, "exits", nil)
	if _, err := New(vmm.NewRAM(make([]byte, tinySize)), Options{Clock: "sundial"}); err == nil ||
		!strings.Contains(err.Error(), `unknown clock "sundial": use exits or step`) {
		t.Errorf("New with clock sundial: %v", err)
	}
}

func TestUnsupportedNamesTheInstruction(t *testing.T) {
	g := needTiny(t, "exits", machineCode("0f 01 f9")) // rdtscp
	x, err := g.Run(10, false, &tinyBus{})
	if err != nil {
		t.Fatal(err)
	}
	if x.Reason != vmm.ExitUnsupported {
		t.Logf("this host's KVM executes RDTSCP at CPL0: exit %+v", x)
		return
	}
	if !strings.Contains(x.Detail, "0x8000") || !strings.Contains(x.Detail, "0f 01 f9") {
		t.Errorf("Detail = %q, want rip 0x8000 and bytes 0f 01 f9", x.Detail)
	}
}

// Where CPUID masks do not hold, programs of the guest may use AVX: its registers travel with the
// state.
func TestExtendedStateTravels(t *testing.T) {
	lock(t)
	code := machineCode("c5 fd 76 c0", "e6 80", "c5 fd 7f 06", "e6 f4") // vpcmpeqd ymm0, ymm0, ymm0; out 0x80, al; vmovdqa [rsi], ymm0; out 0xf4, al
	ones := slices.Repeat([]byte{0xff}, 32)
	var s vmm.CPUState
	for half := range 2 {
		g, err := newTiny("exits", 3, code, reportVector)
		skipWithoutKVM(t, err)
		defer g.Close()
		if half == 1 {
			if err := g.SetState(&s); err != nil {
				t.Fatal(err)
			}
		}
		var bus tinyBus
		if x, err := g.Run(10, false, &bus); err != nil || x.Reason != vmm.ExitAccess {
			t.Fatalf("exit %+v, error %v", x, err)
		}
		switch bus.port {
		case 0x80:
			if err := g.State(&s); err != nil {
				t.Fatal(err)
			}
		case tinyVectorPort:
			t.Logf("AVX is hidden here: %s", vectorName(bus.value))
			return
		case tinyEndPort:
			if got := g.ram.View(tinyData, 32); !slices.Equal(got, ones) {
				t.Errorf("ymm0 = %x, want %x", got, ones)
			}
		}
	}
}

func TestProbe(t *testing.T) {
	needTiny(t, "exits", nil)
	start := time.Now()
	r := Probe()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Probe took %v", took)
	}
	if len(r) != len(probes) {
		t.Errorf("%d findings for %d probes", len(r), len(probes))
	}
	for _, f := range r {
		t.Logf("%-26s %-3s %s: %s", f.Name, f.OK, f.Finding, f.Means)
		if f.Finding == "" {
			t.Errorf("%s: nothing found", f.Name)
		}
	}
	for _, name := range []string{"/dev/kvm", "clock exits"} {
		if i := slices.IndexFunc(r, func(f Finding) bool { return f.Name == name }); i < 0 || r[i].OK != Yes {
			t.Errorf("%s is not found to work", name)
		}
	}
	if text, err := json.Marshal(r[:1]); err != nil || !strings.Contains(string(text), `"ok":"yes"`) {
		t.Errorf("as JSON: %s, error %v", text, err)
	}
}

// needTiny makes a tiny guest at CPL0, or skips the test where there is no KVM.
func needTiny(t *testing.T, clock string, code []byte) *tiny {
	t.Helper()
	lock(t)
	g, err := newTiny(clock, 0, code, reportVector)
	skipWithoutKVM(t, err)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}
