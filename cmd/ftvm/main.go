package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Exit codes besides 0 and those that a guest chooses by isa-debug-exit.
const (
	exitTrouble = 1   // of ftvm, its host or its peer; or bad usage
	exitCrash   = 101 // the guest crashed
	exitStuck   = 102 // the guest cannot go on: unsupported instruction, or halted for ever
	exitReset   = 103 // the guest asked for a reset; it is not started again
)

// exitError carries an exit code; its text, if any, has been told.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	// A second signal ends the process at once: the first may wait for a console that nobody reads.
	context.AfterFunc(ctx, stop)
	err := command().ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && err.Error() == exit.Error(): // else other trouble is joined to it
		os.Exit(exit.code)
	default:
		fmt.Fprintf(os.Stderr, "ftvm: %v\n", err)
		os.Exit(exitTrouble)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "ftvm",
		Short: "Keep a virtual machine alive when its host dies",
		Long: `ftvm runs one virtual machine on two hosts in lockstep. When the primary's host dies,
the backup carries on from the same instruction, and nothing that the outside world
has seen is taken back.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), primaryCommand(), backupCommand(), diskCommand(), ledgerCommand(),
		doctorCommand(), versionCommand())
	return root
}

// newLog is ftvm's own voice: for people, on standard error, one line each.
func newLog(w io.Writer) *slog.Logger { return slog.New(&lineHandler{w: w}) }
