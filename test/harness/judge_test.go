package harness

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ftvm/guests/ledger"
)

func TestJoin(t *testing.T) {
	for _, row := range []struct {
		name, before, after string
		from                uint64
		all, repeated       string
		err                 string
	}{
		{name: "nothing repeated", before: "abc", after: "def", from: 3, all: "abcdef"},
		{name: "some repeated", before: "abc", after: "bcd", from: 1, all: "abcd", repeated: "bc"},
		{name: "all repeated", before: "abc", after: "abcd", from: 0, all: "abcd", repeated: "abc"},
		{name: "the new one died early", before: "abc", after: "b", from: 1, all: "abc", repeated: "b"},
		{name: "the old one printed nothing", after: "abc", all: "abc"},
		{name: "a gap", before: "abc", after: "e", from: 4, err: "lost"},
		{name: "another text", before: "abc", after: "bd", from: 1, err: "taken back"},
	} {
		t.Run(row.name, func(t *testing.T) {
			all, repeated, err := Join([]byte(row.before), []byte(row.after), row.from)
			if !told(err, row.err) {
				t.Fatalf("got error %v, want %q", err, row.err)
			}
			if string(all) != row.all || string(repeated) != row.repeated {
				t.Errorf("got %q, repeated %q, want %q, repeated %q", all, repeated, row.all, row.repeated)
			}
		})
	}
}

// told reports whether err says want, or is none if want is empty.
func told(err error, want string) bool {
	if want == "" || err == nil {
		return want == "" && err == nil
	}
	return strings.Contains(err.Error(), want)
}

func TestConsole(t *testing.T) {
	const (
		boot = "ledger: 0 of 1024 txns on disk, chain verified\r\n"
		one  = "txn 1 00112233445566aa\r\n"
		two  = "txn 2 00112233445566bb\r\n"
	)
	for _, row := range []struct{ name, console, err string }{
		{"sound", boot + one + two + "txn 3 0011", ""},
		{"a gap within a line", boot + "txn 1 0011\r\n" + two, "never prints"},
		{"two lines in one", boot + "txn 1 0011" + two, "never prints"},
		{"a line is missing", boot + two, "transaction 2 where 1 is next"},
		{"a line is there twice", boot + one + one, "transaction 1 where 2 is next"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := errors.Join(wholeConsole([]byte(row.console)), numbered(Txns([]byte(row.console))))
			if !told(err, row.err) {
				t.Errorf("got error %v, want %q", err, row.err)
			}
		})
	}
}

// writeLedger makes an image with n transactions that differ from those of other salts. It
// returns their lines.
func writeLedger(t *testing.T, n int, salt byte) (path string, txns []Txn) {
	t.Helper()
	var data []byte
	for seq := range n {
		b := make([]byte, ledger.BlockSize)
		copy(b, "ledger/1")
		binary.LittleEndian.PutUint64(b[8:], uint64(seq+1))
		b[100] = salt
		digest := sha256.Sum256(b[:len(b)-sha256.Size])
		copy(b[len(b)-sha256.Size:], digest[:])
		data = append(data, b...)
	}
	path = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for seq := range n {
		txn, err := ledger.Read(strings.NewReader(string(data)), uint64(seq+1))
		if err != nil {
			t.Fatal(err)
		}
		txns = append(txns, Txn{txn.Seq, txn.Hash()})
	}
	return path, txns
}

func TestOnDisk(t *testing.T) {
	path, txns := writeLedger(t, 3, 0)
	other, others := writeLedger(t, 3, 1)
	for _, row := range []struct {
		name string
		txns []Txn
		err  string
	}{
		{"all there", txns, ""},
		{"one more was printed", append(txns[:3:3], Txn{4, "00112233445566aa"}), "lost: transaction 4"},
		{"another one was printed", append(txns[:2:2], others[2]), "taken back: transaction 3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := onDisk(path, row.txns); !told(err, row.err) {
				t.Errorf("got error %v, want %q", err, row.err)
			}
		})
	}
	if err := sameTxns(path, other, 3); !told(err, "transaction 1 is not the same") {
		t.Errorf("images that differ: got error %v", err)
	}
	if err := sameTxns(path, path, 3); err != nil {
		t.Errorf("an image and itself: %v", err)
	}
}

func TestStream(t *testing.T) {
	r, w := io.Pipe()
	s := newStream()
	go s.fill(r)
	go func() {
		io.WriteString(w, "one\r\ntw")
		io.WriteString(w, "o\nthr")
		w.Close()
	}()
	ctx := context.Background()
	l, err := s.AwaitText(ctx, "two")
	if err != nil || l.Text != "two" || l.Start != 5 || l.End != 9 || l.At.IsZero() {
		t.Errorf("got line %+v, error %v", l, err)
	}
	if l, err := s.Next(ctx, l.End); !errors.Is(err, io.EOF) {
		t.Errorf("after the last whole line: got line %+v, error %v, want %v", l, err, io.EOF)
	}
	if got := s.Lines(0); len(got) != 2 || got[0].Text != "one" {
		t.Errorf("got lines %+v", got)
	}
	if got := s.String(); got != "one\r\ntwo\nthr" {
		t.Errorf("got %q", got)
	}
}
