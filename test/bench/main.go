package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ftvm/test/harness"
)

// plan is how much is measured.
type plan struct {
	rounds int // runs of each kind
	kills  int
	idleS  int // seconds in which an idle guest is watched
	// spare is how many rounds may be taken again, all in all, because other programs disturbed them.
	spare int
	// shorten divides the number of transactions of each run.
	shorten int
	parts   []string // of allParts
	linux   string   // where guests/linux put what it made
}

var (
	full  = plan{rounds: 5, kills: 50, idleS: 5, spare: 25, shorten: 1}
	quick = plan{rounds: 2, kills: 8, idleS: 2, spare: 4, shorten: 2}
)

// The parts of what is measured, which -only chooses from.
const (
	kvmPart      = "kvm"            // replication on engine kvm
	softPart     = "soft"           // engine soft beside QEMU
	linuxPart    = "linux"          // Linux on engine soft, replicated
	takeoverPart = "linux-takeover" // its takeovers
)

var allParts = []string{kvmPart, softPart, linuxPart, takeoverPart}

// result is all that was found out.
type result struct {
	Machine        machine           `json:"machine"`
	Progress       []comparison      `json:"progress"`
	Log            []logRate         `json:"log,omitempty"`
	Takeover       *takeovers        `json:"takeover,omitempty"`
	Soft           *softResult       `json:"soft,omitempty"`
	Linux          *replicatedResult `json:"linux,omitempty"`
	LinuxTakeovers *linuxTakeovers   `json:"linux_takeovers,omitempty"`
}

func main() {
	asJSON := flag.Bool("json", false, "print the result as JSON, with every single measurement")
	short := flag.Bool("quick", false, "measure less")
	rounds := flag.Int("rounds", 0, "runs of each kind (default 5, quick 2)")
	kills := flag.Int("kills", 0, "takeovers of each kind (default 50, quick 8)")
	only := flag.String("only", strings.Join(allParts, ","), "parts to measure, by commas")
	linux := flag.String("linux", "guests/linux/out", "where make guest-linux put its kernel and initrd")
	flag.Parse()
	p := full
	if *short {
		p = quick
	}
	if *rounds > 0 {
		p.rounds = *rounds
	}
	if *kills > 0 {
		p.kills = *kills
	}
	p.linux = *linux
	p.parts = strings.Split(*only, ",")
	for _, part := range p.parts {
		if !slices.Contains(allParts, part) {
			fmt.Fprintf(os.Stderr, "bench: -only %s: there are %s\n", *only, strings.Join(allParts, ", "))
			os.Exit(2)
		}
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		progress("engine kvm is left out: %v", err)
		p.parts = slices.DeleteFunc(p.parts, func(part string) bool { return part == kvmPart })
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := bench(ctx, p, *asJSON, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, p plan, asJSON bool, out io.Writer) (err error) {
	lab, err := harness.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if runtime.NumCPU() > 1 {
		lab.Pin(map[string]int{"plain": 0, "primary": 0, "other": 1, "backup": 1,
			softSystem: 0, icountSystem: 0, plainSystem: 0})
	}
	tables := out
	if asJSON {
		tables = io.Discard
	}
	r, err := run(ctx, lab, p, tables)
	if err != nil || !asJSON {
		return err
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// run measures everything, and prints each part for people when it is there.
func run(ctx context.Context, lab *harness.Lab, p plan, out io.Writer) (r result, err error) {
	if r.Machine, err = describeMachine(ctx, lab); err != nil {
		return r, err
	}
	r.Machine.print(out)
	if r.Progress, err = compareAll(ctx, lab, &p); err != nil {
		return r, err
	}
	if len(r.Progress) > 0 {
		printProgress(out, r.Progress)
	}
	if slices.Contains(p.parts, kvmPart) {
		if r.Log, err = logRates(ctx, lab, p, r.Progress); err != nil {
			return r, err
		}
		printLog(out, r.Log)
		if r.Takeover, err = measureTakeovers(ctx, lab, p); err != nil {
			return r, err
		}
		r.Takeover.print(out)
	}
	if slices.Contains(p.parts, softPart) {
		if r.Soft, err = measureSoft(ctx, lab, &p); err != nil {
			return r, err
		}
		r.Soft.print(out)
	}
	if !slices.Contains(p.parts, linuxPart) && !slices.Contains(p.parts, takeoverPart) {
		return r, nil
	}
	linux := openLinuxBench(lab, &p)
	if linux != nil && slices.Contains(p.parts, linuxPart) {
		if r.Linux, err = linux.compare(ctx, &p); err != nil {
			return r, fmt.Errorf("replication of Linux: %w", err)
		}
		r.Linux.print(out)
	}
	if linux != nil && slices.Contains(p.parts, takeoverPart) {
		if r.LinuxTakeovers, err = linux.takeovers(ctx, p.kills); err != nil {
			return r, fmt.Errorf("replication of Linux: %w", err)
		}
		r.LinuxTakeovers.print(out)
	}
	return r, nil
}

// progress tells people who wait what is going on.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
