package oracle

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// A corpus is a zstd stream of: magic; the CPU that it was recorded on; the names of the forms; and for each
// case the case, told as what differs from Base, and the outcome, as what differs from the case. Strings and
// lists have their length before them; numbers are varints.
const magic = "ftvm oracle corpus 1\n"

//go:generate go run ./record -seed 1 -n 24708 -o testdata/corpus.zst

//go:embed testdata/corpus.zst
var corpus []byte

// Corpus returns the recorded cases of this repository, and the CPU that they were recorded on.
func Corpus() (cpu string, records iter.Seq2[*Case, *Outcome], err error) {
	return ReadCorpus(corpus)
}

// ReadCorpus reads what WriteCorpus wrote.
func ReadCorpus(data []byte) (cpu string, records iter.Seq2[*Case, *Outcome], err error) {
	z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return "", nil, err
	}
	defer z.Close()
	plain, err := io.ReadAll(z)
	if err != nil {
		return "", nil, fmt.Errorf("unpack the corpus: %w", err)
	}
	r := corpusReader{data: plain}
	if string(r.bytes(len(magic))) != magic {
		return "", nil, errors.New("this is no corpus of this version")
	}
	cpu = string(r.list())
	forms := make([]*Form, r.uint())
	for i := range forms {
		name := string(r.list())
		if forms[i] = formByName[name]; forms[i] == nil {
			return "", nil, fmt.Errorf("the corpus has cases of %q, which is no form now: record it anew", name)
		}
	}
	// Decoded once for the sake of errors, and again by each who asks for the records.
	var c Case
	var o Outcome
	start := r
	for len(r.data) > 0 && !r.short {
		r.record(&c, &o, forms)
	}
	if r.short {
		return "", nil, errors.New("the corpus is damaged")
	}
	return cpu, func(yield func(*Case, *Outcome) bool) {
		for r := start; len(r.data) > 0; {
			c, o := new(Case), new(Outcome)
			r.record(c, o, forms)
			if !yield(c, o) {
				return
			}
		}
	}, nil
}

// WriteCorpus writes cases and their outcomes, recorded on cpu.
func WriteCorpus(w io.Writer, cpu string, cases []Case, outcomes []Outcome) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	b := bufio.NewWriter(z)
	var buf []byte
	buf = append(buf, magic...)
	buf = appendList(buf, []byte(cpu))
	var forms []*Form
	for i := range cases {
		if !slices.Contains(forms, cases[i].Form) {
			forms = append(forms, cases[i].Form)
		}
	}
	buf = binary.AppendUvarint(buf, uint64(len(forms)))
	for _, f := range forms {
		buf = appendList(buf, []byte(f.Name))
	}
	for i := range cases {
		buf = appendRecord(buf, &cases[i], &outcomes[i], slices.Index(forms, cases[i].Form))
		b.Write(buf)
		buf = buf[:0]
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return z.Close()
}

func appendList(b, data []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(data))), data...)
}

func appendRecord(b []byte, c *Case, o *Outcome, form int) []byte {
	base := Base(c.Mode)
	b = binary.AppendUvarint(b, uint64(form))
	b = append(b, byte(c.Mode), c.Size, c.Reg, c.RM)
	b = binary.AppendVarint(b, c.Imm)
	b = binary.AppendUvarint(b, c.Addr)
	b = binary.AppendUvarint(b, uint64(c.Bytes))
	b = binary.AppendUvarint(b, c.Seed)
	b = binary.AppendUvarint(b, c.Index)
	b = appendList(b, c.Code)
	b = appendState(b, &base, &c.State)
	b = appendPatches(b, c.Memory)
	b = binary.AppendUvarint(b, uint64(o.CS))
	b = append(b, o.Vector)
	b = binary.AppendUvarint(b, uint64(o.Error))
	b = binary.AppendUvarint(b, o.CR2)
	b = appendState(b, &c.State, &o.State)
	return appendPatches(b, o.Memory)
}

func appendPatches(b []byte, patches []Patch) []byte {
	b = binary.AppendUvarint(b, uint64(len(patches)))
	for _, p := range patches {
		b = binary.AppendUvarint(b, uint64(p.Offset))
		b = appendList(b, p.Data)
	}
	return b
}

// words lists what of a state is told as numbers; the rest is FX.
func (s *State) words() [18]*uint64 {
	w := [18]*uint64{16: &s.RIP, 17: &s.Flags}
	for i := range s.GPR {
		w[i] = &s.GPR[i]
	}
	return w
}

// appendState tells what differs in s from old.
func appendState(b []byte, old, s *State) []byte {
	var changed uint64
	before, after := old.words(), s.words()
	for i := range after {
		if *after[i] != *before[i] {
			changed |= 1 << i
		}
	}
	b = binary.AppendUvarint(b, changed)
	for i := range after {
		if changed>>i&1 != 0 {
			b = binary.AppendVarint(b, int64(*after[i]-*before[i]))
		}
	}
	return appendPatches(b, Changes(old.FX[:], s.FX[:]))
}

// corpusReader takes a corpus apart.
type corpusReader struct {
	data  []byte
	short bool // there was less than expected
}

func (r *corpusReader) bytes(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.short, r.data = true, nil
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *corpusReader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *corpusReader) uint() uint64 {
	v, n := binary.Uvarint(r.data)
	r.skip(n)
	return v
}

func (r *corpusReader) int() int64 {
	v, n := binary.Varint(r.data)
	r.skip(n)
	return v
}

// skip goes past a number of n bytes; none if it is not all there.
func (r *corpusReader) skip(n int) {
	if n <= 0 {
		n = -1
	}
	r.bytes(n)
}

func (r *corpusReader) list() []byte { return r.bytes(int(r.uint())) }

func (r *corpusReader) record(c *Case, o *Outcome, forms []*Form) {
	form := r.uint()
	if form >= uint64(len(forms)) {
		r.short, r.data = true, nil
		return
	}
	*c = Case{Form: forms[form], Mode: Mode(r.byte() & 1)}
	c.Size, c.Reg, c.RM = r.byte(), r.byte(), r.byte()
	c.Imm = r.int()
	c.Addr = r.uint()
	c.Operands.Bytes = uint16(r.uint())
	c.Seed, c.Index = r.uint(), r.uint()
	c.Code = r.list()
	c.State = Base(c.Mode)
	r.state(&c.State)
	c.Memory = r.patches(DataSize)
	*o = Outcome{CS: uint16(r.uint()), State: c.State, Vector: r.byte()}
	o.Error = uint32(r.uint())
	o.CR2 = r.uint()
	r.state(&o.State)
	o.Memory = r.patches(DataSize)
}

// state applies what appendState told.
func (r *corpusReader) state(s *State) {
	changed := r.uint()
	for i, w := range s.words() {
		if changed>>i&1 != 0 {
			*w += uint64(r.int())
		}
	}
	for _, p := range r.patches(FXSize) {
		copy(s.FX[p.Offset:], p.Data)
	}
}

// patches reads patches within size bytes.
func (r *corpusReader) patches(size int) []Patch {
	n := r.uint()
	var patches []Patch
	for range n {
		offset := r.uint()
		data := r.list()
		if r.short || offset+uint64(len(data)) > uint64(size) {
			r.short, r.data = true, nil
			return nil
		}
		patches = append(patches, Patch{uint16(offset), data})
	}
	return patches
}
