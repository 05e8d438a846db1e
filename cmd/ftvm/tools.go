package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ftvm/guests/ledger"
	"ftvm/host"
	"ftvm/vmm/kvm"
)

// version is set by the linker (see Makefile). Without that, Go's tool may have told the commit.
var version string

func versionText() string {
	if version != "" {
		return version
	}
	text, modified := "(unknown version)", ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return text
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			text = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "-dirty"
		}
	}
	return text + modified
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell which ftvm this is",
		Args:  cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) {
			fmt.Fprintf(c.OutOrStdout(), "ftvm %s %s/%s %s\n", versionText(), runtime.GOOS, runtime.GOARCH, runtime.Version())
		},
	}
}

// oneImage wants the path of an image.
func oneImage(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one image: %s", c.UseLine())
	}
	return nil
}

func diskCommand() *cobra.Command {
	disk := &cobra.Command{Use: "disk", Short: "Make disk images"}
	var size string
	create := &cobra.Command{
		Use:   "create IMG",
		Short: "Make a raw disk image, all zero, that takes no space until it is written to",
		Args:  oneImage,
		RunE: func(_ *cobra.Command, args []string) error {
			n, err := host.ParseSize(size)
			if err != nil {
				return fmt.Errorf("--size: %w", err)
			}
			return host.CreateDisk(args[0], n)
		},
	}
	create.Flags().StringVar(&size, "size", "64M", "size of the disk")
	disk.AddCommand(create)
	return disk
}

func ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ledger", Short: "Look at what the embedded guest wrote"}
	var asJSON bool
	verify := &cobra.Command{
		Use:   "verify IMG",
		Short: "Check the chain of transactions on a ledger image: gaps, duplicates, hashes",
		Args:  oneImage,
		RunE: func(c *cobra.Command, args []string) error {
			d, err := host.OpenDisk(args[0], host.OpenOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			s, err := ledger.Verify(d, int64(d.Size()))
			if err = errors.Join(err, d.Close()); err != nil {
				return fmt.Errorf("ledger %s: %w", args[0], err)
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), s)
			}
			fmt.Fprintln(c.OutOrStdout(), s)
			return nil
		},
	}
	verify.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	cmd.AddCommand(verify)
	return cmd
}

func doctorCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find out with tiny guests what this host's KVM really does",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			runtime.LockOSThread()
			report := kvm.Probe()
			if asJSON {
				return writeJSON(c.OutOrStdout(), report)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, f := range report {
				fmt.Fprintf(w, "%v\t%s\t%s\n", f.OK, f.Name, f.Finding)
				if f.Means != "" {
					fmt.Fprintf(w, "\t\t  so %s\n", f.Means)
				}
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "write the findings, and what they mean, as JSON")
	return c
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
