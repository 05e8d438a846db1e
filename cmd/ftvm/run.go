package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ftvm/epoch"
	"ftvm/host"
	"ftvm/replica"
	"ftvm/replica/pair"
	"ftvm/vmm"
)

// replicaFlags say how a replica behaves towards the other.
type replicaFlags struct {
	stats     string
	epochTime time.Duration
	heartbeat time.Duration
	suspect   int
	commit    string
	maxLag    uint64
	acquire   time.Duration
	stuck     time.Duration
	diverged  string
	profile   string
}

// maxWork is how far the backup's execution may lie behind, in --epoch-time: what a takeover has to run before the guest goes on is
// at most that.
const maxWork = 2

func (r *replicaFlags) register(c *cobra.Command, replicated bool) {
	f := c.Flags()
	f.StringVar(&r.stats, "stats", "", "write what happened to this file as JSON at the end")
	f.StringVar(&r.profile, "cpu-profile", "", "write a profile of this process to this file, for go tool pprof")
	f.DurationVar(&r.epochTime, "epoch-time", 10*time.Millisecond, "end an epoch at the first exit after this time")
	f.DurationVar(&r.acquire, "acquire-time", 10*time.Second, "how long to wait for shared disks that another host may still use")
	f.DurationVar(&r.stuck, "stuck-time", 5*time.Second, "how long the machine or a disk may not get on before this replica counts as failed")
	r.heartbeat, r.suspect, r.commit, r.maxLag = 10*time.Millisecond, 5, "held", 256
	if replicated {
		f.DurationVar(&r.heartbeat, "heartbeat", r.heartbeat, "interval of heartbeats")
		f.IntVar(&r.suspect, "suspect", r.suspect, "silent heartbeats after which the other replica counts as failed")
		f.StringVar(&r.commit, "commit", r.commit, "outputs wait until the backup has their record (held) or has executed their epoch (verified)")
		f.Uint64Var(&r.maxLag, "max-lag", r.maxLag, "epochs that the backup may lie behind before the primary waits")
	}
}

func (r *replicaFlags) check() error {
	switch {
	case r.commit != "held" && r.commit != "verified":
		return fmt.Errorf("--commit %s: there are held and verified", r.commit)
	case r.heartbeat <= 0 || r.suspect < 2:
		return errors.New("--heartbeat must be more than 0, --suspect at least 2")
	case r.maxLag < 2:
		return errors.New("--max-lag must be at least 2")
	case r.epochTime <= 0:
		return errors.New("--epoch-time must be more than 0")
	case r.acquire <= 0 || r.stuck <= 0:
		return errors.New("--acquire-time and --stuck-time must be more than 0")
	}
	return nil
}

// settings are what both replicas must have alike: a backup acknowledges before its primary has to wait for it, by these.
func (r *replicaFlags) settings() []pair.Setting {
	return []pair.Setting{{Name: "commit", Value: r.commit}, {Name: "max-lag", Value: fmt.Sprint(r.maxLag)}, {Name: "epoch-time", Value: r.epochTime.String()}}
}

// start makes the node of a replica whose machine is ready, and where its peer comes to.
type start func(context.Context, *slog.Logger, pair.Options) (*pair.Node, net.Listener, error)

// guestCommand makes a command that runs a guest.
func guestCommand(use, short string, replicated bool, s start) (*cobra.Command, *replicaFlags) {
	g := guestFlags{replicated: replicated}
	var r replicaFlags
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("epoch") && g.epoch == 0 {
				return errors.New("--epoch 0: an epoch must have some length")
			}
			return operate(c.Context(), &g, &r, s)
		}}
	g.register(c)
	r.register(c, replicated)
	return c, &r
}

func runCommand() *cobra.Command {
	c, _ := guestCommand("run", "Run a virtual machine on this host alone", false,
		func(_ context.Context, _ *slog.Logger, opt pair.Options) (*pair.Node, net.Listener, error) {
			return pair.NewAlone(opt), nil, nil
		})
	return c
}

func primaryCommand() *cobra.Command {
	var listen string
	c, _ := guestCommand("primary --listen ADDR --disk IMG", "Run a virtual machine that a backup on another host follows", true,
		func(_ context.Context, log *slog.Logger, opt pair.Options) (*pair.Node, net.Listener, error) {
			ln, err := net.Listen("tcp", listen)
			if err != nil {
				return nil, nil, fmt.Errorf("--listen: %w", err)
			}
			log.Warn("without an arbiter, a cut link between the two hosts can leave both running")
			log.Info("waiting for the backup", "address", ln.Addr())
			return pair.NewPrimary(opt), ln, nil
		})
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:7700", "address at which the backup is awaited")
	return c
}

func backupCommand() *cobra.Command {
	var peer string
	c, r := guestCommand("backup --peer ADDR --disk IMG", "Follow a primary, and take over when its host dies", true,
		func(ctx context.Context, log *slog.Logger, opt pair.Options) (*pair.Node, net.Listener, error) {
			n, err := pair.NewBackup(ctx, peer, opt)
			if err != nil {
				return nil, nil, err
			}
			log.Info("following the primary", "address", peer)
			return n, nil, nil
		})
	c.Flags().StringVar(&r.diverged, "divergence-report", "ftvm-divergence.txt", "where to write this replica's state if it is not equal to the primary's")
	c.Flags().StringVar(&peer, "peer", "127.0.0.1:7700", "address of the primary")
	return c
}

// operate runs one replica from start to end.
func operate(ctx context.Context, g *guestFlags, r *replicaFlags, s start) (err error) {
	if err := r.check(); err != nil {
		return err
	}
	if r.stats != "" { // to fail now, and not when the guest has run
		if err := os.WriteFile(r.stats, nil, 0o644); err != nil {
			return fmt.Errorf("--stats: %w", err)
		}
	}
	if r.profile != "" {
		f, err := os.Create(r.profile)
		if err != nil {
			return fmt.Errorf("--cpu-profile: %w", err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("--cpu-profile: %w", errors.Join(err, f.Close()))
		}
		defer func() { pprof.StopCPUProfile(); err = errors.Join(err, f.Close()) }()
	}
	// While the guest runs, the thread that it is run by keeps one of Go's processors; the others are for everything else.
	runtime.LockOSThread()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	log := newLog(os.Stderr)
	v, err := g.build(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	console, err := host.OpenConsole(os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil {
			console.Restore() // whoever was told to leave does not wait for a reader
			return
		}
		console.Close()
	}()

	opt := pair.Options{
		Machine: v.machine, Roams: v.roams, Console: console, Log: log,
		Settings:  append(v.settings, r.settings()...),
		Core:      replica.Config{Verified: r.commit == "verified", MaxLag: r.maxLag, MaxWork: maxWork * uint64(r.epochTime), SuspectTicks: r.suspect},
		Heartbeat: r.heartbeat, EpochLength: g.epoch, EpochTime: r.epochTime, MemoryEvery: g.memoryEvery(),
		AcquireTime: r.acquire, StuckTime: r.stuck,
	}
	for _, d := range v.disks {
		opt.Disks = append(opt.Disks, d)
	}
	for _, t := range v.taps {
		opt.Net = append(opt.Net, t)
	}
	n, ln, err := s(ctx, log, opt)
	if err != nil {
		return err
	}
	if v.shares() {
		go r.letGo(n, log)
	}
	for i, d := range v.disks {
		d.Start(func(c host.Completion) { n.DiskDone(uint32(i), c) })
	}
	for i, t := range v.taps {
		object := fmt.Sprintf("network interface %d", i)
		t.Start(host.TapEvents{
			Frames: func(frames [][]byte) { n.Frames(uint32(i), frames) },
			Lost:   func(err error) { n.Trouble(object, err) },
			Back:   func() { log.Info(object + " is there again") },
		})
	}
	console.Start(host.ConsoleEvents{
		Input: n.Type,
		Quit:  func() { n.Quit("somebody typed Ctrl-A x") },
		Sent:  n.ConsoleSent,
	})
	err = n.Run(ctx, ln)
	if d := (*epoch.Divergence)(nil); errors.As(err, &d) {
		err = errors.Join(err, writeDivergence(r.diverged, d))
	}
	report := stats{Report: n.Report()}
	if v.undefined != nil {
		report.Undefined = v.undefined()
		for _, name := range slices.Sorted(maps.Keys(report.Undefined)) {
			log.Warn(fmt.Sprintf("the guest tried %s, which this CPU does not have (#UD)", name), "times", report.Undefined[name])
		}
	}
	for _, t := range v.taps {
		report.Dropped = append(report.Dropped, t.Dropped())
	}
	if r.stats != "" {
		err = errors.Join(err, writeStats(r.stats, report))
	}
	if err != nil {
		return err
	}
	end, ended := v.machine.End()
	if !ended {
		log.Info("stopped; the guest did not switch itself off", "position", report.Position)
		return nil
	}
	return epilogue(log, end, report.Report)
}

// leaveTime is how long a replica that failed has for its last words, and for what it writes of itself.
const leaveTime = 2 * time.Second

// letGo ends the process of a primary that failed if something keeps it from ending: a disk that does not answer, a console that
// nobody reads, the machine itself. As long as the process is there, it keeps the shared disks that the backup waits for.
func (r *replicaFlags) letGo(n *pair.Node, log *slog.Logger) {
	if role, err := n.Failed(); err == nil || role == replica.Backup {
		return
	}
	time.Sleep(max(leaveTime, min(r.stuck, r.acquire/2)))
	log.Error("this replica failed and cannot stop: the process ends as it is, so that its shared disks are free")
	os.Exit(exitTrouble)
}

// epilogue tells how the guest ended, and turns that into an exit code.
func epilogue(log *slog.Logger, end vmm.End, report pair.Report) error {
	text := fmt.Sprintf("the guest ended: %s", end)
	switch end.Kind {
	case vmm.EndPowerOff:
		log.Info(text, "position", report.Position)
		return nil
	case vmm.EndReset: // which is how a Linux that panics ends, too
		log.Info(text, "position", report.Position)
		return exitError{exitReset}
	case vmm.EndDebugExit:
		log.Info(text, "position", report.Position)
		return exitError{end.Code & 0xff}
	case vmm.EndCrash:
		log.Error(text, "position", report.Position)
		fmt.Fprint(os.Stderr, registers(end))
		return exitError{exitCrash}
	default:
		log.Error(text, "position", report.Position)
		fmt.Fprint(os.Stderr, registers(end))
		return exitError{exitStuck}
	}
}

// writeDivergence keeps what a diverged backup can tell, for whoever looks for the cause.
func writeDivergence(path string, d *epoch.Divergence) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n\nThis replica's state at position %d, memory excepted:\n\n", d, d.Position)
	data := d.State.Data()
	for _, f := range d.State.Fields() {
		fmt.Fprintf(&b, "%s = %x\n", f.Name, data[f.Start:f.End])
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("--divergence-report: %w", err)
	}
	return fmt.Errorf("this replica's state there is in %s", path)
}

// stats is what --stats writes.
type stats struct {
	pair.Report
	// Undefined counts, by name, the guest's instructions that the engine does not have.
	Undefined map[string]uint64 `json:"undefined_instructions,omitempty"`
	// Dropped counts, by network interface, the frames in both directions that this host lost.
	Dropped []uint64 `json:"frames_dropped,omitempty"`
}

func writeStats(path string, report stats) error {
	data, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("--stats: %w", err)
	}
	return nil
}
