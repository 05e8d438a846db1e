package ledger

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ELF is the guest's kernel image.
//
//go:embed ledger.elf
var ELF []byte

// BlockSize is the size of a transaction on disk, in bytes. Transaction N, from 1 on, lies
// at offset (N-1)*BlockSize.
const BlockSize = 4096

// Layout of a transaction, as struct txn in src/program/ledger.h has it.
const (
	magic = "ledger/1"

	offSeq     = 8
	offTime    = 16
	offWork    = 24
	offEntropy = 32
	offPrev    = 64
	offDigest  = BlockSize - sha256.Size

	sector = 512
)

// Txn is one transaction.
type Txn struct {
	Seq     uint64 `json:"seq"`     // its number, from 1 on
	Time    uint64 `json:"time_ns"` // guest time, ns since 1970-01-01 UTC
	Work    uint64 `json:"work"`    // rounds of computing in it
	Entropy Hex    `json:"entropy"`
	Prev    Hex    `json:"prev"`   // Digest of the one before; zero for the first
	Digest  Hex    `json:"digest"` // SHA-256 of the block up to here
}

// Hex is 32 bytes that people and programs read as hexadecimal digits.
type Hex [sha256.Size]byte

// MarshalText writes 64 hexadecimal digits.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err == nil && len(b) != len(h) {
		err = fmt.Errorf("%d bytes, want %d", len(b), len(h))
	}
	copy(h[:], b)
	return err
}

// Hash is the part of the digest that the guest prints: 16 hexadecimal digits.
func (t *Txn) Hash() string { return hex.EncodeToString(t.Digest[:8]) }

// Summary is what a sound ledger amounts to.
type Summary struct {
	// Txns is the number of transactions, and of the last one.
	Txns uint64 `json:"txns"`
	// Last is the last transaction; zero if there is none.
	Last Txn `json:"last"`
	// Torn is set if a torn write follows the last transaction. It was never printed, and the
	// guest writes it again when it boots.
	Torn bool `json:"torn"`
}

func (s Summary) String() string {
	text := "no transactions"
	if s.Txns > 0 {
		text = fmt.Sprintf("%d transactions, chain verified, the last is %s", s.Txns, s.Last.Hash())
	}
	if s.Torn {
		text += ", followed by a write that was torn and never printed"
	}
	return text
}

// What is wrong with a block, wrapped by a *BlockError.
var (
	// ErrForeign: it does not begin as a transaction does: the disk is not a ledger's.
	ErrForeign = errors.New("not a ledger's block")
	// ErrDigest: it is not what was written, and it is not a torn last write either.
	ErrDigest = errors.New("damaged: its digest is wrong")
	// ErrNumber: it holds a sound transaction with another number than its place says.
	ErrNumber = errors.New("wrong transaction number")
	// ErrChain: its Prev is not the digest of the transaction before.
	ErrChain = errors.New("does not follow from the transaction before it")
	// ErrTime: its time is before that of the transaction before.
	ErrTime = errors.New("guest time goes back")
	// ErrGap: it is not empty, though it lies behind the end of the chain.
	ErrGap = errors.New("not empty, behind the end of the chain")
)

// BlockError says which block of the disk is wrong, and how.
type BlockError struct {
	Block  uint64 // from 0 on; transaction Block+1 belongs here
	Err    error  // one of this package's
	Detail string // what was found, or empty
}

func (e *BlockError) Error() string {
	s := fmt.Sprintf("block %d (transaction %d): %v", e.Block, e.Block+1, e.Err)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func (e *BlockError) Unwrap() error { return e.Err }

// Verify checks a whole ledger: that the transactions are numbered from 1 on without
// gaps or duplicates, undamaged and chained, that their time does not go back, and that
// nothing lies behind them but zeros, or one torn write and zeros. The disk has size
// bytes. A *BlockError tells what is wrong with it, any other error that it cannot be read.
// The summary covers what was found sound before the error.
func Verify(r io.ReaderAt, size int64) (Summary, error) {
	var s Summary
	ended := false // by an empty block or a torn one
	var torn uint64
	in := io.NewSectionReader(r, 0, size)
	b := make([]byte, BlockSize)
	for block := uint64(0); block < uint64(size)/BlockSize; block++ {
		if _, err := io.ReadFull(in, b); err != nil {
			return s, fmt.Errorf("reading block %d of the ledger: %w", block, err)
		}
		wrong := func(err error, format string, args ...any) (Summary, error) {
			return s, &BlockError{block, err, fmt.Sprintf(format, args...)}
		}
		switch {
		case zero(b):
			ended = true
			continue
		case s.Torn:
			return s, &BlockError{torn, ErrDigest, fmt.Sprintf("and block %d behind it is not empty", block)}
		case ended:
			return wrong(ErrGap, "the chain ends with transaction %d", s.Txns)
		}
		t, sound := decode(b)
		switch {
		case !hasMagic(b) && !(s.Txns > 0 && zero(b[:sector])):
			return wrong(ErrForeign, "it begins with %q", b[:len(magic)])
		case !sound:
			s.Torn, ended, torn = true, true, block
		case t.Seq != block+1:
			return wrong(ErrNumber, "it is %d", t.Seq)
		case t.Prev != s.Last.Digest:
			return wrong(ErrChain, "")
		case t.Time < s.Last.Time:
			return wrong(ErrTime, "from %d to %d ns", s.Last.Time, t.Time)
		default:
			s.Txns, s.Last = t.Seq, t
		}
	}
	return s, nil
}

// Read returns transaction seq. It checks the transaction by itself, not the chain before it; a
// *BlockError tells what is wrong with it.
func Read(r io.ReaderAt, seq uint64) (Txn, error) {
	block := seq - 1
	b := make([]byte, BlockSize)
	if _, err := r.ReadAt(b, int64(block)*BlockSize); err != nil {
		return Txn{}, fmt.Errorf("reading transaction %d of the ledger: %w", seq, err)
	}
	t, sound := decode(b)
	switch {
	case !hasMagic(b):
		return Txn{}, &BlockError{Block: block, Err: ErrForeign}
	case !sound:
		return Txn{}, &BlockError{Block: block, Err: ErrDigest}
	case t.Seq != seq:
		return Txn{}, &BlockError{block, ErrNumber, fmt.Sprintf("it is %d", t.Seq)}
	}
	return t, nil
}

// decode takes a block apart; sound is false if it is not a transaction as it was written.
func decode(b []byte) (t Txn, sound bool) {
	t.Seq = binary.LittleEndian.Uint64(b[offSeq:])
	t.Time = binary.LittleEndian.Uint64(b[offTime:])
	t.Work = binary.LittleEndian.Uint64(b[offWork:])
	copy(t.Entropy[:], b[offEntropy:])
	copy(t.Prev[:], b[offPrev:])
	copy(t.Digest[:], b[offDigest:])
	return t, hasMagic(b) && t.Digest == Hex(sha256.Sum256(b[:offDigest]))
}

func hasMagic(b []byte) bool { return bytes.HasPrefix(b, []byte(magic)) }

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// ParseTxn takes a line of the guest's console apart, with or without its line end. ok is false
// if it is not the report of a transaction.
func ParseTxn(line string) (seq uint64, hash string, ok bool) {
	f := strings.Split(strings.TrimRight(line, "\r\n"), " ")
	if len(f) != 3 || f[0] != "txn" || len(f[2]) != 16 {
		return 0, "", false
	}
	seq, err := strconv.ParseUint(f[1], 10, 64)
	if _, bad := hex.DecodeString(f[2]); err != nil || bad != nil {
		return 0, "", false
	}
	return seq, f[2], true
}
