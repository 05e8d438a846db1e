package kvm

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// Report is what this host's KVM really does, in the order in which people want to read it.
type Report []Finding

// Finding is one line of a Report.
type Finding struct {
	Name    string  `json:"name"`
	Finding string  `json:"finding"`
	OK      Verdict `json:"ok"`
	Means   string  `json:"means"` // what follows from it for ftvm
}

// Verdict says whether a Finding is good for ftvm.
type Verdict uint8

const (
	// Neutral: a figure, or something that could not be found out.
	Neutral Verdict = iota
	Yes
	No
)

func (v Verdict) String() string { return [...]string{"-", "yes", "no"}[v] }

// MarshalText makes a Verdict readable in JSON.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

func verdict(ok bool) Verdict {
	if ok {
		return Yes
	}
	return No
}

// Probe finds out what this host's KVM really does, by running tiny guests: some hosts accept
// what they then ignore. It takes about a second, and comes back on any host.
func Probe() Report {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var r Report
	for _, p := range probes {
		if p.guest && r[0].OK == No {
			continue // there is no KVM to run a guest on
		}
		finding, ok, err := p.run()
		if err != nil {
			finding, ok = err.Error(), No
		}
		means := p.yes
		if ok == No {
			means = p.no
		}
		r = append(r, Finding{p.name, finding, ok, means})
	}
	return r
}

// probes are the questions. The first is whether there is a KVM at all; guest marks those
// that run a guest.
var probes = []struct {
	name    string
	guest   bool
	yes, no string // what the answer means
	run     func() (finding string, ok Verdict, err error)
}{
	{"/dev/kvm", false, "engine kvm can run", "engine kvm cannot run here", probeDevice},
	{"CPU", false, "replicas on engine kvm need the same", "", func() (string, Verdict, error) {
		return CPUModel(), Neutral, nil
	}},
	{"clock exits", true, "replicas can run in lockstep", "replicas cannot run in lockstep", probeClock("exits")},
	{"clock step", true, "replicas can run in lockstep, slowly", "use the clock exits", probeClock("step")},
	{"single-step at CPL0", true, "clock step counts instructions at CPL0", "no clock step", probeStep(0, false)},
	{"single-step at CPL3", true, "clock step counts instructions at CPL3",
		"clock step counts a stretch at CPL3 as one position", probeStep(3, false)},
	{"single-step into handlers", true, "clock step counts instructions of interrupt handlers",
		"clock step counts an interrupt handler as one position", probeStep(0, true)},
	{"breakpoint at CPL0", true, "a landing on an instruction could use it", "landings need single steps", probeBreakpoint(0)},
	{"breakpoint at CPL3", true, "a landing on an instruction could use it", "landings need single steps", probeBreakpoint(3)},
	{"interrupt window", true, "interrupts could be injected there",
		"interrupts must wait for the guest's own exits (they do)", probeWindow},
	{"CPUID masks at CPL0", true, "the guest's kernel sees only what is safe",
		"the guest's kernel may use instructions whose results differ between replicas", probeCPUID(0)},
	{"CPUID masks at CPL3", true, "the guest's programs see only what is safe",
		"the guest's programs may use instructions whose results differ between replicas", probeCPUID(3)},
	{"RDTSC", true, "the guest cannot read time", "a guest that reads the time stamp counter diverges", probeUntrapped("0f 31")},
	{"RDTSC with CR4.TSD", true, "a guest kernel can forbid it to its programs", "not even a guest kernel can forbid it to its programs", probeTSD},
	{"RDTSCP", true, "the guest cannot read time", "a guest that reads the time stamp counter diverges", probeUntrapped("0f 01 f9")},
	{"RDMSR of the TSC", true, "the guest cannot read time", "a guest that reads the time stamp counter diverges", probeUntrapped("b9 10 00 00 00 0f 32")},
	{"RDRAND", true, "the guest cannot read the CPU's entropy", "a guest that uses it diverges", probeUntrapped("0f c7 f0")},
	{"RDSEED", true, "the guest cannot read the CPU's entropy", "a guest that uses it diverges", probeUntrapped("0f c7 f8")},
	{"instructions at CPL0", true, "an ordinary guest kernel can run",
		"a guest kernel must not use these, or it ends as unsupported", probeInstructions},
	{"INT n", true, "guests may use it", "guests must not use it", probeSoftwareInterrupt},
	{"SYSCALL at CPL3", true, "programs of an ordinary guest kernel can run", "programs of an ordinary guest kernel cannot run", probeSyscall},
	{"port access at CPL0", true, "cost of one position, clock exits", "", probeCost("exits", 0, "e6 80 eb fc")},
	{"port access at CPL3", true, "cost of one position, clock exits", "", probeCost("exits", 3, "e6 80 eb fc")},
	{"memory access at CPL0", true, "cost of one position, clock exits", "", probeCost("exits", 0, "89 07 eb fc")},
	{"step at CPL0", true, "cost of one position, clock step", "", probeCost("step", 0, "90 eb fd")},
	{"state", true, "cost of reading the registers at each epoch's end", "", probeState},
	{"PMU, conditional branches", false, "a clock could count branches", "no clock can count branches", probePMU},
	{"memory lock limit", false, "guest memory can be locked", "raise it (ulimit -l) to lock guest memory", probeLock},
}

func probeDevice() (string, Verdict, error) {
	dev, err := openDevice()
	if err != nil {
		return "", No, err
	}
	modules, _ := filepath.Glob("/sys/module/kvm_*")
	for i, m := range modules {
		modules[i] = filepath.Base(m)
	}
	return fmt.Sprintf("API version %d, module %s", apiVersion, strings.Join(modules, " ")), Yes, unix.Close(dev)
}

// probeClock runs the same guest twice, and compares the states at all its stops.
func probeClock(clock string) func() (string, Verdict, error) {
	return func() (string, Verdict, error) {
		stops := 0
		var name string
		for _, cpl := range []int{0, 3} {
			var traces [2][]byte
			for i := range traces {
				t, err := newTiny(clock, cpl, machineCode(
					"48 ff c0",    // start: inc rax
					"48 6b c0 1d", // imul rax, rax, 29
					"e6 80",       // out 0x80, al
					"01 07",       // add [rdi], eax
					"eb f3",       // jmp start
				), func(byte) []byte { return machineCode("48 ff c3", "e6 20", "48 cf") }) // inc rbx; out 0x20, al; iretq
				if err != nil {
					return "", No, err
				}
				name = t.Clock().Name
				traces[i], stops, err = t.trace(30)
				if err := errors.Join(err, t.Close()); err != nil {
					return "", No, err
				}
			}
			if !bytes.Equal(traces[0], traces[1]) {
				return fmt.Sprintf("%s: two runs of a guest at CPL%d differ", name, cpl), No, nil
			}
		}
		return fmt.Sprintf("%s: two runs of %d positions are the same, at CPL0 and CPL3", name, stops), Yes, nil
	}
}

// trace runs the guest to the given position, with an interrupt at each third position
// where it can be, and returns the states at all stops.
func (t *tiny) trace(until vmm.Position) (states []byte, stops int, err error) {
	defer t.watch()()
	a := vmm.NewSaver(nil)
	for t.Position() < until {
		x, err := t.Run(until, false, &tinyBus{})
		if err != nil {
			return nil, 0, err
		}
		if x.Reason != vmm.ExitAccess && x.Reason != vmm.ExitPosition {
			return nil, 0, fmt.Errorf("the guest stopped at position %d for reason %d %s", t.Position(), x.Reason, x.Detail)
		}
		if ready, err := t.Interruptible(); err != nil {
			return nil, 0, err
		} else if ready && t.Position()%3 == 0 {
			if err := t.Interrupt(tinyVector); err != nil {
				return nil, 0, err
			}
		}
		var s vmm.CPUState
		if err := t.State(&s); err != nil {
			return nil, 0, err
		}
		s.Digestible(a)
		stops++
	}
	return a.Data(), stops, nil
}

func probeStep(cpl int, handler bool) func() (string, Verdict, error) {
	return func() (string, Verdict, error) {
		x, rip, err := oneStep(cpl, machineCode("90 90 90 f4"), handler)
		want := uint64(tinyCode + 1)
		if handler {
			want = tinyEntry + 16*tinyVector
		}
		if err != nil {
			return "", No, err
		}
		// On delivery a step may end before or after the handler's first instruction.
		ok := x == gokvm.EXITDEBUG && (rip == want || handler && rip == want+1)
		if ok {
			return "stops after one instruction", Yes, nil
		}
		return fmt.Sprintf("%s at %#x, want one at %#x", exitName(x), rip, want), No, nil
	}
}

func probeBreakpoint(cpl int) func() (string, Verdict, error) {
	return func() (string, Verdict, error) {
		t, err := newTiny("exits", cpl, machineCode("90 90 90 90 e6 f4"), reportVector)
		if err != nil {
			return "", No, err
		}
		debug := guestDebug{control: debugEnable | debugBreakpoint}
		debug.dr[0] = tinyCode + 2
		debug.dr[7] = 1<<10 | 1<<1 // G0, an instruction breakpoint (SDM vol. 3B, 18.2.4)
		x, err := t.enter(debug, 0)
		rip := t.rip()
		if err := errors.Join(err, t.Close()); err != nil {
			return "", No, err
		}
		if x == gokvm.EXITDEBUG && rip == tinyCode+2 {
			return "stops there", Yes, nil
		}
		return fmt.Sprintf("does not stop there, but with %s", exitName(x)), No, nil
	}
}

// probeWindow counts how many INC a guest executes between STI and the exit for the interrupt
// window.
func probeWindow() (string, Verdict, error) {
	var counts []uint64
	for range 5 {
		t, err := newTiny("exits", 0, machineCode("fb", "48 ff c3", "eb fb"), reportVector) // sti; again: inc rbx; jmp again
		if err != nil {
			return "", No, err
		}
		var x gokvm.ExitType
		if err = t.adjust(func(s *vmm.CPUState) { s.RFLAGS &^= vmm.FlagIF; s.GPR[vmm.RBX] = 0 }); err == nil {
			x, err = t.enter(guestDebug{}, windowExit)
		}
		n := t.run.sync.regs.RBX
		if err := errors.Join(err, t.Close()); err != nil {
			return "", No, err
		}
		if x != gokvm.EXITIRQWINDOWOPEN {
			return fmt.Sprintf("ends with %s", exitName(x)), No, nil
		}
		counts = append(counts, n)
	}
	// STI holds interrupts off for one instruction.
	first, last := slices.Min(counts), slices.Max(counts)
	return fmt.Sprintf("opens %d to %d instructions after STI, in %d tries", first, last, len(counts)),
		verdict(first == last && last <= 1), nil
}

// probeCPUID compares the feature bits that the guest sees with those that it was given.
func probeCPUID(cpl int) func() (string, Verdict, error) {
	return func() (string, Verdict, error) {
		s, how, err := attempt(cpl, machineCode("b8 01 00 00 00", "0f a2"), nil) // mov eax, 1; cpuid
		if err != nil || how != "runs" {
			return how, No, err
		}
		const osxsave = 1 << 27 // shows CR4
		mask := leaves[slices.IndexFunc(leaves, func(l leaf) bool { return l.function == 1 })]
		extra := [2]uint32{uint32(s.GPR[vmm.RCX]) &^ mask.ecx &^ osxsave, uint32(s.GPR[vmm.RDX]) &^ mask.edx}
		if extra == [2]uint32{} {
			return "hold", Yes, nil
		}
		return fmt.Sprintf("leaf 1 shows ECX %#x and EDX %#x that are masked", extra[0], extra[1]), No, nil
	}
}

// probeUntrapped tries an instruction whose result is not a function of the guest's state.
func probeUntrapped(code string) func() (string, Verdict, error) {
	return func() (string, Verdict, error) {
		_, kernel, err := attempt(0, machineCode(code), nil)
		if err != nil {
			return "", No, err
		}
		_, user, err := attempt(3, machineCode(code), nil)
		return fmt.Sprintf("at CPL0: %s; at CPL3: %s", kernel, user), verdict(kernel != "runs" && user != "runs"), err
	}
}

func probeTSD() (string, Verdict, error) {
	const tsd = 1 << 2
	_, how, err := attempt(3, machineCode("0f 31"), func(s *vmm.CPUState) { s.CR4 |= tsd })
	return "at CPL3: " + how, verdict(how == "#GP"), err
}

// probeInstructions tries what compilers and kernels use, and emulators may lack.
func probeInstructions() (string, Verdict, error) {
	var failed []string
	for _, i := range []struct{ name, code string }{
		{"POPCNT", "f3 0f b8 c0"},
		{"CMPXCHG16B", "48 0f c7 0e"},
		{"PADDQ", "66 0f d4 c0"},
		{"ADDPD", "66 0f 58 c0"},
		{"MOVNTI", "0f c3 06"},
		{"FLD1", "d9 e8"},
		{"FXSAVE", "0f ae 06"},
		{"LDMXCSR", "0f ae 16"},
		{"CLFLUSH", "0f ae 3e"},
		{"MFENCE", "0f ae f0"},
		{"PAUSE", "f3 90"},
		{"BSF", "0f bc c0"},
		{"LOCK CMPXCHG", "f0 0f b1 06"},
		{"REP STOSB", "bf 00 a8 00 00 b9 04 00 00 00 f3 aa"},
		{"MOV DR", "0f 23 c0"},
		{"INVLPG", "0f 01 3e"},
		{"WBINVD", "0f 09"},
		{"SWAPGS", "0f 01 f8"},
	} {
		_, how, err := attempt(0, machineCode(i.code), nil)
		if err != nil {
			return "", No, err
		}
		if how != "runs" {
			failed = append(failed, i.name+": "+how)
		}
	}
	if len(failed) == 0 {
		return "all that were tried run", Yes, nil
	}
	return strings.Join(failed, ", "), No, nil
}

func probeSoftwareInterrupt() (string, Verdict, error) {
	int32 := machineCode("cd 20")
	want := vectorName(tinyVector)
	_, kernel, err := attempt(0, int32, nil)
	if err != nil {
		return "", No, err
	}
	_, user, err := attempt(3, int32, nil)
	if kernel == want && user == want {
		return "works", Yes, err
	}
	return fmt.Sprintf("at CPL0: %s; at CPL3: %s", kernel, user), No, err
}

// probeSyscall enters by SYSCALL code that only CPL0 may execute.
func probeSyscall() (string, Verdict, error) {
	_, how, err := attempt(3, machineCode("0f 05"), nil)
	switch how {
	case "runs":
		return "enters CPL0", Yes, err
	case "#GP":
		return "goes to LSTAR, but stays at CPL3", No, err
	}
	return how, No, err
}

// probeCost measures what one position takes.
func probeCost(clock string, cpl int, code string) func() (string, Verdict, error) {
	return func() (string, Verdict, error) {
		t, err := newTiny(clock, cpl, machineCode(code), reportVector)
		if err != nil {
			return "", No, err
		}
		stop := t.watch()
		const n = 500
		start := time.Now()
		for err == nil && t.Position() < n && time.Since(start) < patience/2 {
			_, err = t.Run(n, false, &tinyBus{})
		}
		each := time.Since(start) / time.Duration(max(t.Position(), 1))
		stop()
		return each.Round(100 * time.Nanosecond).String(), Neutral, errors.Join(err, t.Close())
	}
}

func probeState() (string, Verdict, error) {
	t, err := newTiny("exits", 0, nil, reportVector)
	if err != nil {
		return "", No, err
	}
	const n = 200
	start := time.Now()
	var s vmm.CPUState
	for i := 0; err == nil && i < n; i++ {
		err = t.State(&s)
	}
	each := time.Since(start) / n
	return each.Round(100 * time.Nanosecond).String(), Neutral, errors.Join(err, t.Close())
}

// probePMU opens a counter of the guest's retired conditional branches, as the CPU's vendor
// numbers that event.
func probePMU() (string, Verdict, error) {
	config := uint64(0x5101c4) // BR_INST_RETIRED.CONDITIONAL on Intel
	if strings.HasPrefix(CPUModel(), "AuthenticAMD") {
		config = 0x5100d1 // ex_ret_cond
	}
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_RAW, Config: config,
		Bits: unix.PerfBitExcludeHost | unix.PerfBitExcludeHv | unix.PerfBitPinned}
	attr.Size = perfAttrSize
	fd, err := unix.PerfEventOpen(attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return fmt.Sprintf("perf_event_open: %v", err), No, nil
	}
	return "can be counted", Yes, unix.Close(fd)
}

func probeLock() (string, Verdict, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return "", No, fmt.Errorf("kvm: getrlimit: %w", err)
	}
	if l.Cur == unix.RLIM_INFINITY {
		return "unlimited", Yes, nil
	}
	const enough = 256 << 20
	return fmt.Sprintf("%d KiB", l.Cur>>10), verdict(l.Cur >= enough || unix.Geteuid() == 0), nil
}

// attempt executes code at the given CPL and says what came of it: "runs", the exception that
// it raises, or how the guest ended. It returns the state then.
func attempt(cpl int, code []byte, adjust func(*vmm.CPUState)) (*vmm.CPUState, string, error) {
	t, err := newTiny("exits", cpl, append(code, machineCode("e6 f4")...), reportVector) // out endPort, al
	if err != nil {
		return nil, "", err
	}
	t.ram.Write(tinySyscall, machineCode("0f 20 d8", "e6 f4")) // mov rax, cr3; out endPort, al
	if adjust != nil {
		err = t.adjust(adjust)
	}
	how, s := "", new(vmm.CPUState)
	if err == nil {
		how, err = t.outcome()
	}
	if err == nil && how == "runs" {
		err = t.State(s)
	}
	return s, how, errors.Join(err, t.Close())
}

// The ports by which a tiny guest tells what happened.
const (
	tinyEndPort    = 0xf4
	tinyVectorPort = 0xf5
)

// reportVector is a handler that writes its vector to tinyVectorPort.
func reportVector(v byte) []byte { return []byte{0xb0, v, 0xe6, tinyVectorPort} } // mov al, v; out tinyVectorPort, al

func (t *tiny) outcome() (string, error) {
	defer t.watch()()
	var bus tinyBus
	x, err := t.Run(1, false, &bus)
	switch {
	case err != nil:
		return "", err
	case x.Reason == vmm.ExitAccess && bus.port == tinyEndPort:
		return "runs", nil
	case x.Reason == vmm.ExitAccess && bus.port == tinyVectorPort:
		return vectorName(bus.value), nil
	case x.Reason == vmm.ExitUnsupported:
		return "not emulated", nil
	case x.Reason == vmm.ExitShutdown:
		return "shutdown", nil
	case x.Reason == vmm.ExitKick:
		return "hangs", nil
	}
	return fmt.Sprintf("stops for reason %d", x.Reason), nil
}

// tinyBus remembers the last write to a port.
type tinyBus struct {
	port  uint16
	value byte
}

func (b *tinyBus) PortIn(uint16, []byte)         {}
func (b *tinyBus) PortOut(port uint16, p []byte) { b.port, b.value = port, p[0] }
func (b *tinyBus) MemIn(_ vmm.GPA, p []byte)     { clear(p) }
func (b *tinyBus) MemOut(addr vmm.GPA, p []byte) {}
func (b *tinyBus) Now() vmm.Time                 { return 0 }

func vectorName(v byte) string {
	switch v {
	case 1:
		return "#DB"
	case 3:
		return "#BP"
	case 6:
		return "#UD"
	case 13:
		return "#GP"
	case 14:
		return "#PF"
	}
	return fmt.Sprintf("vector %d", v)
}
