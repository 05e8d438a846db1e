package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ftvm/devices"
	"ftvm/epoch"
	"ftvm/replica/pair"
	"ftvm/vmm"
)

// beFtvm, in its environment, makes the test binary the command itself.
const beFtvm = "FTVM_TEST_IS_FTVM"

func TestMain(m *testing.M) {
	if os.Getenv(beFtvm) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// file makes a file of size bytes that begins with head, and returns its path.
func file(t *testing.T, head string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(head), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// try executes the command line in this process.
func try(args ...string) (stdout string, err error) {
	c := command()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	err = c.Execute()
	return out.String(), err
}

// TestUsage: what is wrong with a command line is told before anything is touched, and what to do.
func TestUsage(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	text := file(t, "no kernel", 4096)
	blank := file(t, "", 1<<20)
	for _, row := range []struct {
		args string
		want string
	}{
		{"run", "the ledger guest needs a disk: add --disk IMG (and create one with: ftvm disk create IMG --size 64M)"},
		{"run --epoch 0", "--epoch 0: an epoch must have some length"},
		{"run --epoch -1", "invalid argument"},
		{"run --engine steam", "--engine steam: there are auto, kvm and soft"},
		{"run --mem 64X", "--mem: "},
		{"run --mem 0 --disk " + blank, "--mem 0: "},
		{"run --mem -5M", "--mem: "},
		{"run --kernel " + missing, "--kernel: open " + missing + ": no such file or directory"},
		{"run --kernel " + text, "--kernel " + text + ": "},
		{"run --initrd " + missing, "--initrd: open " + missing + ": no such file or directory"},
		{"run --initrd " + t.TempDir(), "is a directory"},
		{"run --disk " + missing, "disk image " + missing + ": no such file or directory: create one with: ftvm disk create"},
		{"run --disk " + text, "disk image " + text + ": "},
		{"run --disk " + blank + " --disk " + blank, "--disk " + blank + " is given twice"},
		{"run --disk " + blank + ",rw", `--disk: disk "` + blank + `,rw": unknown "rw": want FILE[,shared]`},
		{"run --net eth0", `--net: network "eth0": unknown "eth0": want tap=NAME`},
		{"run --net tap=a --net tap=a,mac=52:00:00:00:00:01", "tap a is given twice"},
		{"run --disk " + blank + " --net tap=a,mac=52:00:00:00:00:01 --net tap=b,mac=52:00:00:00:00:01", "another one has the address"},
		{"run --epoch-time 0s", "--epoch-time must be more than 0"},
		{"run --epoch-time 5", "invalid argument"},
		{"run --heartbeat 10ms", "unknown flag: --heartbeat"},
		{"run image", `unknown command "image" for "ftvm run"`},
		{"primary --commit maybe", "--commit maybe: there are held and verified"},
		{"primary --heartbeat 0s", "--heartbeat must be more than 0, --suspect at least 2"},
		{"primary --heartbeat -1s", "--heartbeat must be more than 0, --suspect at least 2"},
		{"primary --suspect 1", "--heartbeat must be more than 0, --suspect at least 2"},
		{"primary --max-lag 1", "--max-lag must be at least 2"},
		{"primary --peer 127.0.0.1:1", "unknown flag: --peer"},
		{"backup --commit maybe", "--commit maybe: there are held and verified"},
		{"backup --suspect 0", "--heartbeat must be more than 0, --suspect at least 2"},
		{"backup --max-lag 0", "--max-lag must be at least 2"},
		{"backup --listen 127.0.0.1:1", "unknown flag: --listen"},
		{"disk create", "want one image: ftvm disk create IMG"},
		{"disk create " + missing + " --size 1Z", "--size: "},
		{"disk create " + missing + " --size 100", "want a multiple of 512 bytes"},
		{"disk create " + missing + " --size 0", "0"},
		{"disk create " + blank, "left as it is"},
		{"ledger verify", "want one image: ftvm ledger verify IMG"},
		{"ledger verify " + missing, "no such file or directory"},
		{"ledger verify " + text, "ledger " + text + ": "},
		{"replicate", `unknown command "replicate" for "ftvm"`},
		{"--frobnicate", "unknown flag: --frobnicate"},
	} {
		t.Run(row.args, func(t *testing.T) {
			out, err := try(strings.Fields(row.args)...)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
			if out != "" {
				t.Errorf("printed %q", out)
			}
		})
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a refused command made a file")
	}
}

// TestTooManyDisks: what the machine cannot have is told before its host looks for it.
func TestTooManyDisks(t *testing.T) {
	var config devices.Config
	args := []string{"run"}
	for config.Validate() == nil {
		if len(config.Disks) > 64 {
			t.Skip("the machine takes any number of disks")
		}
		config.Disks = append(config.Disks, devices.Disk{SizeBytes: 1 << 20})
		args = append(args, "--disk", file(t, "", 1<<20))
	}
	if _, err := try(args...); err == nil || !strings.Contains(err.Error(), config.Validate().Error()) {
		t.Errorf("%d disks: got %v, want %v", len(config.Disks), err, config.Validate())
	}
}

// TestFlagsAreTheSame: all commands that run a guest describe it with the same flags.
func TestFlagsAreTheSame(t *testing.T) {
	guest := &cobra.Command{}
	new(guestFlags).register(guest)
	for _, c := range []*cobra.Command{runCommand(), primaryCommand(), backupCommand()} {
		guest.Flags().VisitAll(func(want *pflag.Flag) {
			got := c.Flags().Lookup(want.Name)
			if got == nil || got.Usage != want.Usage || got.DefValue != want.DefValue || got.Value.Type() != want.Value.Type() {
				t.Errorf("%s: --%s is %+v, want %+v", c.Name(), want.Name, got, want)
			}
		})
	}
	for _, name := range []string{"kernel", "initrd", "cmdline", "mem", "append", "engine", "clock", "epoch", "disk", "net", "name"} {
		if guest.Flags().Lookup(name) == nil {
			t.Errorf("there is no --%s", name)
		}
	}
}

// TestDefaults: the defaults of all flags pass the checks; also on a command that does not have them.
func TestDefaults(t *testing.T) {
	for _, replicated := range []bool{false, true} {
		var r replicaFlags
		r.register(&cobra.Command{}, replicated)
		if err := r.check(); err != nil {
			t.Errorf("replicated %v: %v", replicated, err)
		}
	}
}

// TestExitCodes: of real processes.
func TestExitCodes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "disk.img")
	for _, row := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"version", 0, "ftvm ", ""},
		{"help", 0, "ftvm runs one virtual machine on two hosts", ""},
		{"disk create " + image + " --size 1M", 0, "", ""},
		{"ledger verify " + image, 0, "", ""},
		{"run --epoch 0", exitTrouble, "", "ftvm: --epoch 0: an epoch must have some length\n"},
		{"disk create " + image, exitTrouble, "", "ftvm: creating disk image " + image + ": file exists: it is left as it is; choose another name, or remove it first\n"},
	} {
		cmd := exec.Command(self, strings.Fields(row.args)...)
		cmd.Env = append(os.Environ(), beFtvm+"=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // the code says it all
		if code := cmd.ProcessState.ExitCode(); code != row.code || !strings.HasPrefix(stdout.String(), row.stdout) || stderr.String() != row.stderr {
			t.Errorf("ftvm %s: code %d, stdout %q, stderr %q; want code %d, stdout %q…, stderr %q",
				row.args, code, stdout.String(), stderr.String(), row.code, row.stdout, row.stderr)
		}
	}
	if info, err := os.Stat(image); err != nil || info.Size() != 1<<20 {
		t.Errorf("disk create made %v, %v", info, err)
	}
}

func TestLedgerVerify(t *testing.T) {
	blank := file(t, "", 1<<20)
	text, err := try("ledger", "verify", blank)
	if err != nil || text == "" {
		t.Errorf("a blank disk: %q, %v", text, err)
	}
	asJSON, err := try("ledger", "verify", "--json", blank)
	if err != nil || !strings.HasPrefix(asJSON, "{") {
		t.Errorf("a blank disk: %q, %v", asJSON, err)
	}
}

// TestEpilogue: how the guest ended makes the exit code; its crash is reported with its registers.
func TestEpilogue(t *testing.T) {
	const detail = "position 7  rip 0000000000001000\nrax 0000000000000001"
	for _, row := range []struct {
		end       vmm.End
		code      int
		says      string
		registers bool
	}{
		{vmm.End{Kind: vmm.EndPowerOff}, 0, "ftvm: the guest ended: power-off (position 7)\n", false},
		{vmm.End{Kind: vmm.EndReset}, exitReset, "ftvm: the guest ended: reset (position 7)\n", false},
		{vmm.End{Kind: vmm.EndDebugExit, Code: 1}, 1, "ftvm: the guest ended: debug exit with code 1 (position 7)\n", false},
		{vmm.End{Kind: vmm.EndDebugExit, Code: 85}, 85, "ftvm: the guest ended: debug exit with code 85 (position 7)\n", false},
		{vmm.End{Kind: vmm.EndDebugExit, Code: 0x1ff}, 0xff, "ftvm: the guest ended: debug exit with code 511 (position 7)\n", false},
		{vmm.End{Kind: vmm.EndCrash, Detail: detail}, exitCrash, "ftvm: error: the guest ended: crash (triple fault) (position 7)\n", true},
		{vmm.End{Kind: vmm.EndDeadHalt, Detail: detail}, exitStuck, "ftvm: error: the guest ended: halt with interrupts disabled (position 7)\n", true},
		{vmm.End{Kind: vmm.EndUnsupported, Detail: detail}, exitStuck, "ftvm: error: the guest ended: unsupported instruction (position 7)\n", true},
	} {
		var log bytes.Buffer
		var err error
		stderr := captureStderr(t, func() { err = epilogue(newLog(&log), row.end, pair.Report{Position: 7}) })
		var exit exitError
		if errors.As(err, &exit); exit.code != row.code || (err == nil) != (row.code == 0) {
			t.Errorf("%v: %v, want exit code %d", row.end, err, row.code)
		}
		if log.String() != row.says {
			t.Errorf("%v: said %q, want %q", row.end, log.String(), row.says)
		}
		want := ""
		if row.registers {
			want = "  position 7  rip 0000000000001000\n  rax 0000000000000001\n"
		}
		if stderr != want {
			t.Errorf("%v: wrote %q, want %q", row.end, stderr, want)
		}
	}
}

// captureStderr returns what f writes there.
func captureStderr(t *testing.T, f func()) string {
	t.Helper()
	path := file(t, "", 0)
	to, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	old := os.Stderr
	os.Stderr = to
	defer func() { os.Stderr = old }()
	f()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestLog: one line for each message, for people.
func TestLog(t *testing.T) {
	var b bytes.Buffer
	log := newLog(&b)
	for _, row := range []struct {
		say  func()
		want string
	}{
		{func() { log.Info("it works") }, "ftvm: it works\n"},
		{func() { log.Warn("take care") }, "ftvm: warn: take care\n"},
		{func() { log.Error("no") }, "ftvm: error: no\n"},
		{func() { log.Debug("nobody wants to know") }, ""},
		{func() { log.Info("told", "position", 7) }, "ftvm: told (position 7)\n"},
		{func() { log.Info("told", "position", 7, "reason", errors.New("it is so")) }, "ftvm: told (position 7, reason it is so)\n"},
		{func() { log.With("peer", "a").Info("told", "position", 7) }, "ftvm: told (peer a, position 7)\n"},
		{func() { log.With("peer", "a").Info("told") }, "ftvm: told (peer a)\n"},
		{func() {
			base := log.With("a", 1)
			one, two := base.With("b", 2), base.With("c", 3)
			one.Info("one")
			two.Info("two")
		}, "ftvm: one (a 1, b 2)\nftvm: two (a 1, c 3)\n"},
		{func() { log.WithGroup("g").Info("told", "k", slog.IntValue(1)) }, "ftvm: told (k 1)\n"},
	} {
		b.Reset()
		if row.say(); b.String() != row.want {
			t.Errorf("wrote %q, want %q", b.String(), row.want)
		}
	}
}

// TestReadImage: a file that cannot be a kernel is not read.
func TestReadImage(t *testing.T) {
	if data, err := readImage("--kernel", file(t, "image", 8)); err != nil || string(data) != "image\x00\x00\x00" {
		t.Errorf("got %q, %v", data, err)
	}
	if data, err := readImage("--initrd", file(t, "", 0)); err != nil || len(data) != 0 {
		t.Errorf("an empty file: %q, %v", data, err)
	}
	huge := file(t, "", maxFile+1)
	if _, err := readImage("--kernel", huge); err == nil || !strings.HasPrefix(err.Error(), "--kernel "+huge+": ") || !strings.HasSuffix(err.Error(), "is too large") {
		t.Errorf("a huge file: %v", err)
	}
	for _, path := range []string{t.TempDir(), huge + "-not"} {
		if _, err := readImage("--initrd", path); err == nil || !strings.HasPrefix(err.Error(), "--initrd: ") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestDescribe(t *testing.T) {
	if got := describe(nil); got != "none" {
		t.Errorf("nothing is %q", got)
	}
	// The first test vector of FIPS 180-2, B.1.
	if got, want := describe([]byte("abc")), "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; got != want {
		t.Errorf("abc is %q, want %q", got, want)
	}
}

// TestDivergenceReport: it names what differs, and every field of the state.
func TestDivergenceReport(t *testing.T) {
	a := vmm.NewNamingSaver()
	a.Section("cpu")
	rax := uint64(0x1234)
	a.U64("rax", &rax)
	d := &epoch.Divergence{Epoch: 3, Position: 7, Field: "digest", Primary: 1, Backup: 2, State: a}
	path := filepath.Join(t.TempDir(), "report")
	if err := writeDivergence(path, d); err == nil || !strings.HasSuffix(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{d.Error() + "\n", "position 7", "cpu.rax = 3412000000000000\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q is not in %s", want, data)
		}
	}
	if err := writeDivergence(t.TempDir(), d); err == nil || !strings.HasPrefix(err.Error(), "--divergence-report: ") {
		t.Errorf("to a directory: %v", err)
	}
}

func TestStats(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stats.json")
	if err := writeStats(path, stats{Report: pair.Report{Role: "primary", Position: 7}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"position", "epochs", "exits", "shipped_bytes", "gate_wait_seconds", "wall_seconds", "digest"} {
		if !strings.Contains(string(data), fmt.Sprintf("%q: ", name)) {
			t.Errorf("%s is not in %s", name, data)
		}
	}
	if strings.Contains(string(data), "takeover") || !strings.HasSuffix(string(data), "}\n") {
		t.Errorf("wrote %s", data)
	}
	if err := writeStats(t.TempDir(), stats{}); err == nil || !strings.HasPrefix(err.Error(), "--stats: ") {
		t.Errorf("to a directory: %v", err)
	}
}
