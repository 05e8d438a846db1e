package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"ftvm/guests/ledger"
)

// Txn is a transaction as the guest reports it.
type Txn struct {
	Seq  uint64
	Hash string
}

// Txns are the transactions of which a console shows the whole line, in order.
func Txns(console []byte) (all []Txn) {
	for line := range strings.Lines(string(console)) {
		if seq, hash, ok := ledger.ParseTxn(line); ok && strings.HasSuffix(line, "\n") {
			all = append(all, Txn{seq, hash})
		}
	}
	return all
}

// Verdict is what the world saw of a guest that lost a replica.
type Verdict struct {
	// Printed is how many transactions the world saw, each counted once.
	Printed int
	// RepeatedBytes and RepeatedLines of the console came from both replicas: the first had
	// let them out, and the second could not know.
	RepeatedBytes, RepeatedLines int
	// NewTxn is when the first transaction came that was not printed before the takeover. It is
	// zero without one.
	NewTxn time.Time
}

// Judge decides whether anything was lost or taken back when victim, one of the pair, was
// killed and the other went on until its guest switched itself off. It believes nothing that
// ftvm says, but for one number: the console byte from which on a takeover repeats. That is:
//
//   - What both printed joins to one console without a gap, equal where it overlaps.
//   - Its transactions are numbered from 1 on and each is on the survivor's disk, where there
//     are no others.
//   - The ledgers on both disks are sound. A dead backup's is the same as the survivor's, up to where it
//     ends; a dead primary's is the same in all that was printed.
//   - What the victim printed is on its own disk as well.
func (l *Lab) Judge(ctx context.Context, p *Pair, victim *Process) (v Verdict, err error) {
	survivor, image, dead := p.Backup, p.Images[1], p.Images[0]
	if victim == p.Backup {
		survivor, image, dead = p.Primary, p.Images[0], p.Images[1]
	}
	if err := survivor.WaitFor(ctx, 0); err != nil {
		return v, err
	}
	if _, err := victim.Wait(ctx); err != nil {
		return v, err
	}
	stats, err := survivor.Stats()
	if err != nil {
		return v, err
	}
	console := survivor.Console.Bytes()
	before := victim.Console.Bytes()
	switch {
	case (victim == p.Primary) != (stats.Takeover != nil):
		return v, fmt.Errorf("the statistics of %s report a takeover: %t", survivor.Name, stats.Takeover != nil)
	case victim == p.Primary:
		var repeated []byte
		if console, repeated, err = Join(before, console, stats.Takeover.ConsoleFrom); err != nil {
			return v, err
		}
		v.RepeatedBytes, v.RepeatedLines = len(repeated), bytes.Count(repeated, []byte("\n"))
		v.NewTxn = firstAfter(survivor.Console, Txns(before))
	case len(before) > 0:
		return v, fmt.Errorf("the backup let out %q while the primary lived", before)
	}
	txns := Txns(console)
	v.Printed = len(txns)
	n, err := l.sound(ctx, image, dead, len(txns))
	if victim == p.Primary {
		n = uint64(len(Txns(before)))
	}
	return v, errors.Join(err, wholeConsole(console), numbered(txns), onDisk(image, txns), onDisk(dead, Txns(before)),
		sameTxns(image, dead, n))
}

// JudgeBoth decides whether anything was lost or taken back when both replicas were killed,
// the backup after the primary. What is then promised: each transaction that was printed is on the
// disk of the replica that printed it, both ledgers are sound, and they are the same in what the primary printed,
// as far as the backup had come.
func (l *Lab) JudgeBoth(ctx context.Context, p *Pair) (v Verdict, err error) {
	var consoles [2][]byte
	var backup ledger.Summary
	for i, r := range []*Process{p.Primary, p.Backup} {
		if _, err := r.Wait(ctx); err != nil {
			return v, err
		}
		consoles[i] = r.Console.Bytes()
		if err := onDisk(p.Images[i], Txns(consoles[i])); err != nil {
			return v, fmt.Errorf("%s: %w", r.Name, err)
		}
		if backup, err = l.Verify(ctx, p.Images[i]); err != nil {
			return v, err
		}
	}
	// The backup died without telling from where on it repeated.
	joined := errors.New("no place fits")
	for from := len(consoles[0]); from >= 0 && joined != nil; from-- {
		all, repeated, err := Join(consoles[0], consoles[1], uint64(from))
		if joined = errors.Join(err, wholeConsole(all), numbered(Txns(all))); joined == nil {
			v = Verdict{Printed: len(Txns(all)), RepeatedBytes: len(repeated), RepeatedLines: bytes.Count(repeated, []byte("\n"))}
		}
	}
	if joined != nil {
		joined = fmt.Errorf("the consoles of both replicas, %q and %q, do not join: %w", tail(consoles[0]), consoles[1], joined)
	}
	return v, errors.Join(joined, sameTxns(p.Images[0], p.Images[1], min(backup.Txns, uint64(len(Txns(consoles[0]))))))
}

// Join makes one console of what the old primary printed before, and the new one after a takeover,
// from byte from on. What both printed must be equal; it is returned as repeated.
func Join(before, after []byte, from uint64) (all, repeated []byte, err error) {
	if from > uint64(len(before)) {
		return nil, nil, fmt.Errorf("lost: the new primary printed from byte %d on, but the old one only up to byte %d", from, len(before))
	}
	repeated = before[from:]
	if n := min(len(repeated), len(after)); !bytes.Equal(repeated[:n], after[:n]) {
		return nil, nil, fmt.Errorf("taken back: from byte %d on the old primary printed %q, the new one %q", from, repeated, after[:n])
	} else if n < len(repeated) {
		return before, repeated[:n], nil
	}
	return append(bytes.Clone(before[:from]), after...), repeated, nil
}

// consoleLine is what the ledger prints, with what we type.
var consoleLine = regexp.MustCompile(`^(|ledger: [0-9]+ of [0-9]+ txns on disk, chain verified.*|txn [0-9]+ [0-9a-f]{16}|` +
	`sum txns=[0-9]+ last=[0-9a-f]{16} time=[0-9]+\.[0-9]{9}|sum|stop)$`)

// wholeConsole checks that nothing is missing within the lines.
func wholeConsole(console []byte) error {
	for line := range strings.Lines(string(console)) {
		if text, whole := strings.CutSuffix(line, "\n"); whole && !consoleLine.MatchString(strings.TrimRight(text, "\r")) {
			return fmt.Errorf("the console shows %q, which the guest never prints", line)
		}
	}
	return nil
}

// numbered checks that transactions are numbered from 1 on.
func numbered(txns []Txn) error {
	for i, t := range txns {
		if t.Seq != uint64(i+1) {
			return fmt.Errorf("the console shows transaction %d where %d is next", t.Seq, i+1)
		}
	}
	return nil
}

// sound checks the survivor's ledger, which has n transactions, and that of the dead, of which it returns
// the number of transactions.
func (l *Lab) sound(ctx context.Context, image, dead string, n int) (uint64, error) {
	s, err := l.Verify(ctx, image)
	if err != nil {
		return 0, err
	}
	if s.Txns != uint64(n) || s.Torn {
		return 0, fmt.Errorf("the survivor's disk has %d transactions (torn: %t), its console showed %d", s.Txns, s.Torn, n)
	}
	d, err := l.Verify(ctx, dead)
	return d.Txns, err
}

// firstAfter is when a console showed the first transaction that is not among those seen.
func firstAfter(s *Stream, seen []Txn) time.Time {
	for _, line := range s.Lines(0) {
		if seq, _, ok := ledger.ParseTxn(line.Text); ok && (len(seen) == 0 || seq > seen[len(seen)-1].Seq) {
			return line.At
		}
	}
	return time.Time{}
}

// onDisk checks that each transaction is on an image, with its hash.
func onDisk(image string, txns []Txn) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	for _, t := range txns {
		switch got, err := ledger.Read(f, t.Seq); {
		case err != nil:
			errs = append(errs, fmt.Errorf("lost: transaction %d was printed: %s: %w", t.Seq, image, err))
		case got.Hash() != t.Hash:
			errs = append(errs, fmt.Errorf("taken back: transaction %d was printed with hash %s; %s has %s", t.Seq, t.Hash, image, got.Hash()))
		}
	}
	return errors.Join(errs...)
}

// sameTxns checks that the first n transactions of two images are the same bytes.
func sameTxns(a, b string, n uint64) error {
	var data [2][]byte
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		data[i] = make([]byte, n*ledger.BlockSize)
		_, err = f.ReadAt(data[i], 0)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	for i := range n {
		block := func(image int) []byte { return data[image][i*ledger.BlockSize:][:ledger.BlockSize] }
		if !bytes.Equal(block(0), block(1)) {
			return fmt.Errorf("transaction %d is not the same on %s and %s", i+1, a, b)
		}
	}
	return nil
}

// SameImage checks that two images hold the same bytes.
func SameImage(a, b string) (err error) {
	var files [2]*os.File
	for i, path := range []string{a, b} {
		if files[i], err = os.Open(path); err != nil {
			return err
		}
		defer files[i].Close()
	}
	var parts [2][1 << 20]byte
	for at := int64(0); ; {
		var n [2]int
		for i, f := range files {
			if n[i], err = f.ReadAt(parts[i][:], at); err != nil && err != io.EOF {
				return err
			}
		}
		if !bytes.Equal(parts[0][:n[0]], parts[1][:n[1]]) {
			return fmt.Errorf("images %s and %s differ in the MiB at byte %d", a, b, at)
		}
		if n[0] < len(parts[0]) {
			return nil
		}
		at += int64(n[0])
	}
}

// tail is the end of a console, for a message.
func tail(console []byte) []byte { return console[max(0, len(console)-200):] }
