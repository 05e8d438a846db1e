package ledger

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

//go:embed Makefile src
var sources embed.FS

// TestELFIsBuiltFromSources recomputes the digest that the Makefile put into the ELF.
func TestELFIsBuiltFromSources(t *testing.T) {
	var names []string
	err := fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	listing := sha256.New()
	for _, name := range names {
		data, err := sources.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(listing, "%x  %s\n", sha256.Sum256(data), name)
	}

	f, err := elf.NewFile(bytes.NewReader(ELF))
	if err != nil {
		t.Fatal(err)
	}
	note, err := f.Section(".note.sources").Data()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := note[len(note)-sha256.Size:], listing.Sum(nil); !bytes.Equal(got, want) {
		t.Errorf("ledger.elf was built from sources %x, these are %x: run make -C guests/ledger", got, want)
	}
}

// image makes disks, from the description in src/program/ledger.h and not from this
// package's code.
type image []byte

func newImage(blocks, txns int) image {
	m := make(image, blocks*4096)
	for i := range txns {
		m.put(i, uint64(i+1))
	}
	return m
}

// put makes block i transaction seq, chained to what is in the block before.
func (m image) put(i int, seq uint64) {
	b := m.block(i)
	clear(b)
	copy(b, "ledger/1")
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], 1_700_000_000_000_000_000+seq/2)
	binary.LittleEndian.PutUint64(b[24:], 7)
	for j := 32; j < 64; j++ {
		b[j] = byte(i + j)
	}
	if i > 0 {
		copy(b[64:96], m.block(i - 1)[4064:])
	}
	for j := 96; j < 4064; j++ {
		b[j] = byte(i*j) ^ byte(j>>3)
	}
	m.sign(i)
}

func (m image) sign(i int) {
	b := m.block(i)
	sum := sha256.Sum256(b[:4064])
	copy(b[4064:], sum[:])
}

func (m image) block(i int) []byte { return m[i*4096:][:4096] }

func TestVerify(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(m image) // 8 blocks with 5 transactions
		txns  uint64
		torn  bool
		err   error
		block uint64 // of the error
	}{
		{name: "sound", spoil: func(m image) {}, txns: 5},
		{name: "empty", spoil: func(m image) { clear(m) }},
		{name: "full", spoil: func(m image) { copy(m, newImage(8, 8)) }, txns: 8},
		{name: "last torn", spoil: func(m image) { clear(m.block(4)[1024:]) }, txns: 4, torn: true},
		{name: "last torn without its front", spoil: func(m image) { clear(m.block(4)[:2048]) }, txns: 4, torn: true},
		{name: "first torn", spoil: func(m image) { clear(m[2048:]) }, torn: true},
		{name: "torn on a full disk", spoil: func(m image) { copy(m, newImage(8, 8)); clear(m.block(7)[512:]) }, txns: 7, torn: true},

		{name: "one bit", spoil: func(m image) { m.block(2)[3000] ^= 4 }, txns: 2, err: ErrDigest, block: 2},
		{name: "damaged in the middle, zeros behind it", spoil: func(m image) { m.block(2)[3000] ^= 4; clear(m.block(3)) },
			txns: 2, err: ErrDigest, block: 2},
		{name: "other file system", spoil: func(m image) { copy(m, "\xebfat") }, err: ErrForeign, block: 0},
		{name: "data behind an empty first sector", spoil: func(m image) { clear(m[:512]) }, err: ErrForeign, block: 0},
		{name: "overwritten end", spoil: func(m image) { copy(m.block(4), "text") }, txns: 4, err: ErrForeign, block: 4},
		{name: "gap", spoil: func(m image) { clear(m.block(3)) }, txns: 3, err: ErrGap, block: 4},
		{name: "far behind the end", spoil: func(m image) { m[len(m)-1] = 1 }, txns: 5, err: ErrGap, block: 7},
		{name: "duplicate", spoil: func(m image) { m.put(3, 3) }, txns: 3, err: ErrNumber, block: 3},
		{name: "skipped", spoil: func(m image) { m.put(4, 6) }, txns: 4, err: ErrNumber, block: 4},
		{name: "begins late", spoil: func(m image) { copy(m, m[4096:]) }, err: ErrNumber, block: 0},
		{name: "other chain", spoil: func(m image) { m.block(3)[70] ^= 1; m.sign(3) }, txns: 3, err: ErrChain, block: 3},
		{name: "first not the first", spoil: func(m image) { m.block(0)[70] ^= 1; m.sign(0) }, err: ErrChain, block: 0},
		{name: "time", spoil: func(m image) { m.block(4)[22] = 0; m.sign(4) }, txns: 4, err: ErrTime, block: 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newImage(8, 5)
			tt.spoil(m)
			got, err := Verify(bytes.NewReader(m), int64(len(m)))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			var be *BlockError
			if errors.As(err, &be) && be.Block != tt.block {
				t.Errorf("error in block %d, want %d: %v", be.Block, tt.block, err)
			}
			if err == nil && got.Torn != tt.torn || got.Txns != tt.txns || got.Last.Seq != tt.txns {
				t.Errorf("%d transactions, last %d, torn %v; want %d, torn %v", got.Txns, got.Last.Seq, got.Torn, tt.txns, tt.torn)
			}
			if n := int(tt.txns); n > 0 && !bytes.Equal(got.Last.Digest[:], m.block(n - 1)[4064:]) {
				t.Errorf("last digest %x, want %x", got.Last.Digest, m.block(n - 1)[4064:])
			}
		})
	}
}

func TestVerifyUnreadable(t *testing.T) {
	m := newImage(4, 4)
	got, err := Verify(bytes.NewReader(m[:9000]), int64(len(m)))
	if err == nil || errors.As(err, new(*BlockError)) || !strings.Contains(err.Error(), "block 2") {
		t.Errorf("error %v, want one about reading block 2", err)
	}
	if got.Txns != 2 {
		t.Errorf("%d transactions, want the 2 that could be read", got.Txns)
	}
}

func TestRead(t *testing.T) {
	m := newImage(4, 3)
	txn, err := Read(bytes.NewReader(m), 2)
	if err != nil {
		t.Fatal(err)
	}
	want := Txn{Seq: 2, Time: 1_700_000_000_000_000_001, Work: 7,
		Entropy: [32]byte(m.block(1)[32:]), Prev: [32]byte(m.block(0)[4064:]), Digest: [32]byte(m.block(1)[4064:])}
	if txn != want {
		t.Errorf("got %+v, want %+v", txn, want)
	}
	if got, want := txn.Hash(), fmt.Sprintf("%x", m.block(1)[4064:4072]); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	if _, err := Read(bytes.NewReader(m), 4); !errors.Is(err, ErrForeign) {
		t.Errorf("empty block: error %v, want %v", err, ErrForeign)
	}
	m.put(2, 2)
	if _, err := Read(bytes.NewReader(m), 3); !errors.Is(err, ErrNumber) {
		t.Errorf("other number: error %v, want %v", err, ErrNumber)
	}
	m.block(0)[100]++
	if _, err := Read(bytes.NewReader(m), 1); !errors.Is(err, ErrDigest) {
		t.Errorf("damaged block: error %v, want %v", err, ErrDigest)
	}
	for _, seq := range []uint64{0, 5} {
		if _, err := Read(bytes.NewReader(m), seq); err == nil {
			t.Errorf("transaction %d of 4 blocks: no error", seq)
		}
	}
}

func TestParseTxn(t *testing.T) {
	tests := []struct {
		line string
		seq  uint64
		hash string
		ok   bool
	}{
		{"txn 1 0123456789abcdef", 1, "0123456789abcdef", true},
		{"txn 16384 0123456789abcdef\r\n", 16384, "0123456789abcdef", true},
		{"txn 1 0123456789abcde", 0, "", false},
		{"txn 1 0123456789abcdeg", 0, "", false},
		{"txn x 0123456789abcdef", 0, "", false},
		{"txn -1 0123456789abcdef", 0, "", false},
		{" txn 1 0123456789abcdef", 0, "", false},
		{"sum txns=1", 0, "", false},
		{"", 0, "", false},
	}
	for _, tt := range tests {
		if seq, hash, ok := ParseTxn(tt.line); seq != tt.seq || hash != tt.hash || ok != tt.ok {
			t.Errorf("%q: got %d %q %v, want %d %q %v", tt.line, seq, hash, ok, tt.seq, tt.hash, tt.ok)
		}
	}
}
