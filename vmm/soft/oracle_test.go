package soft_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"iter"
	"reflect"
	"regexp"
	"testing"

	"ftvm/test/oracle"
	"ftvm/vmm"
	"ftvm/vmm/soft"
)

var (
	siliconCases = flag.Uint64("cases", 20_000, "how many cases TestSilicon records")
	siliconSeed  = flag.Uint64("seed", 1, "seed of TestSilicon's cases")
	siliconForms = flag.String("forms", "", "only cases whose form this regular expression matches, such as '^SH[LR] '")
)

// TestSilicon executes generated cases here and on this host's CPU. More of them:
//
//	go test ./vmm/soft -run TestSilicon -cases 1000000 -seed 2 -forms '^(MUL|DIV) '
func TestSilicon(t *testing.T) {
	match := formFilter(t)
	var forms []*oracle.Form
	for _, f := range oracle.Forms {
		if match(f) {
			forms = append(forms, f)
		}
	}
	r := oracle.Start(t)
	g := oracle.NewGenerator(*siliconSeed, forms...)
	oracle.Check(t, twice(t), oracle.Live(t, r, g, 0, *siliconCases))
}

// TestCorpus executes the recorded cases.
func TestCorpus(t *testing.T) {
	match := formFilter(t)
	cpu, records, err := oracle.Corpus()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("recorded on %s", cpu)
	var matching iter.Seq2[*oracle.Case, *oracle.Outcome] = func(yield func(*oracle.Case, *oracle.Outcome) bool) {
		for c, o := range records {
			if match(c.Form) && !yield(c, o) {
				return
			}
		}
	}
	oracle.Check(t, twice(t), matching)
}

// formFilter is what -forms says.
func formFilter(t *testing.T) func(*oracle.Form) bool {
	re, err := regexp.Compile(*siliconForms)
	if err != nil {
		t.Fatalf("-forms: %v", err)
	}
	return func(f *oracle.Form) bool { return re.MatchString(f.Name) }
}

// Where the pages of the oracle's layout and the kernel that catches exceptions lie in memory.
const (
	oracleCode   = 0x2_0000
	oracleData   = 0x3_0000
	oracleKernel = 0x4_0000 // physical; what follows are offsets from there
	kernelLinear = 0xffff_8000_0000_0000

	kernelIDT   = 0x0000
	kernelGDT   = 0x1000
	kernelLDT   = 0x1100
	kernelTSS   = 0x1200
	kernelStack = 0x2000 // the page that ends at 0x3000
	kernelCode  = 0x3000 // a HLT for each vector
	kernelPages = 4
)

// oracleMachine executes cases of the oracle, each alone.
type oracleMachine struct {
	*machine
	mem    []byte
	data   []byte // the data area
	before []byte // as it was before the case
	start  *vmm.CPUState
	state  vmm.CPUState
}

func newOracleMachine(o soft.Options) *oracleMachine {
	m := &oracleMachine{mem: make([]byte, 1<<20), before: make([]byte, oracle.DataSize)}
	ram := vmm.NewRAM(m.mem)
	m.machine = &machine{CPU: soft.New(ram, o), ram: ram, tables: tablesAddr + vmm.PageSize}
	m.data = m.mem[oracleData:][:oracle.DataSize]
	m.mapPages(oracle.CodeBase, oracleCode, oracle.CodePages, pageP|pageU)
	m.mapPages(oracle.DataBase, oracleData, oracle.DataPages, pageP|pageU|pageW|pageNX)
	m.mapPages(oracle.DataBase+oracle.DataReadOnly*oracle.PageSize,
		oracleData+oracle.DataReadOnly*oracle.PageSize, 1, pageP|pageU|pageNX)
	m.mapPages(kernelLinear, oracleKernel, kernelPages, pageP|pageW)

	for v := range uint64(256) {
		dpl := uint64(0)
		if v == 3 || v == 4 { // INT3, INTO
			dpl = 3
		}
		handler := kernelLinear + kernelCode + v
		m.write64(vmm.GPA(oracleKernel+kernelIDT+16*v),
			handler&0xffff|0x10<<16|0x8e00<<32|dpl<<45|handler>>16&0xffff<<48)
		m.write64(vmm.GPA(oracleKernel+kernelIDT+16*v+8), handler>>32)
		m.mem[oracleKernel+kernelCode+v] = 0xf4
	}
	m.start = longMode()
	s := m.start
	s.GDT = vmm.Table{Base: kernelLinear + kernelGDT, Limit: 0x7f}
	s.IDT = vmm.Table{Base: kernelLinear + kernelIDT, Limit: 256*16 - 1}
	s.TR = vmm.Segment{Selector: 0x40, Base: kernelLinear + kernelTSS, Limit: 0x67, Access: 0xb | vmm.SegP}
	m.write64(oracleKernel+kernelTSS+4, kernelLinear+kernelStack+vmm.PageSize)
	m.write64(oracleKernel+kernelTSS+0x60, 0x68<<48) // no I/O permission bitmap
	for i, d := range []uint64{0x10: 0x00af_9b00_0000_ffff, 0x18: 0x00cf_9300_0000_ffff,
		0x20: 0x00cf_fb00_0000_ffff, 0x28: 0x00cf_f300_0000_ffff, 0x30: 0x00af_fb00_0000_ffff} {
		if d != 0 {
			m.write64(vmm.GPA(oracleKernel+kernelGDT+i), d)
		}
	}
	for i, g := range oracle.Segments {
		if i != vmm.CS {
			s.Seg[i].Selector, s.Seg[i].Base, s.Seg[i].Limit = g.Selector, uint64(g.Base), g.Limit
		}
	}
	return m
}

// twice makes a function that executes cases interpreted and compiled, and returns what comes out if that is the same.
func twice(t *testing.T) func(*oracle.Case, *oracle.Outcome) error {
	interpreted, compiled := newOracleMachine(soft.Options{}), newOracleMachine(soft.Compiled(t))
	compiled.OneByOne()
	return func(c *oracle.Case, o *oracle.Outcome) error {
		var other oracle.Outcome
		if err := compiled.run(c, &other); err != nil {
			return fmt.Errorf("compiled: %w", err)
		}
		if err := interpreted.run(c, o); err != nil {
			return err
		}
		if !reflect.DeepEqual(&other, o) {
			return fmt.Errorf("compiled: %+v, interpreted: %+v", other, *o)
		}
		return nil
	}
}

// run executes a case.
func (m *oracleMachine) run(c *oracle.Case, o *oracle.Outcome) error {
	area := make([]byte, oracle.CodeSize)
	for i := range area {
		area[i] = oracle.CodeFill
	}
	copy(area[c.RIP-oracle.CodeBase:], c.Code)
	m.ram.Write(oracleCode, area)
	copy(m.data, oracle.Pristine())
	c.Apply(m.data)
	copy(m.before, m.data)

	s := *m.start
	s.GPR, s.RIP, s.RFLAGS = c.GPR, c.RIP, c.Flags
	copy(s.FX[:], c.FX[:])
	s.FX[28], s.FX[29] = 0xff, 0xff
	cs := &s.Seg[vmm.CS]
	if cs.Selector = c.Mode.CS(); c.Mode == oracle.Mode32 {
		cs.Access = cs.Access&^vmm.SegL | vmm.SegDB
	}
	if err := m.SetState(&s); err != nil {
		return err
	}
	x, err := m.Run(1, false, noBus{})
	if err != nil {
		return err
	}
	after := &m.state
	if err := m.State(after); err != nil {
		return err
	}
	*o = oracle.Outcome{Vector: oracle.NoVector, CS: after.Seg[vmm.CS].Selector,
		State: oracle.State{GPR: after.GPR, RIP: after.RIP, Flags: after.RFLAGS}}
	copy(o.FX[:], after.FX[:])
	switch {
	case x.Reason == vmm.ExitHalt: // in the handler of a fault
		after.RIP--
		err = m.caught(after, o)
	case x.Reason != vmm.ExitPosition:
		err = fmt.Errorf("exit %+v", x)
	case after.Seg[vmm.CS].Selector&3 == 0: // about to enter the handler of a trap
		err = m.caught(after, o)
	}
	if err != nil {
		return err
	}
	o.Memory = oracle.Changes(m.before, m.data)
	return nil
}

// caught finds out what the exception was whose handler begins in state s.
func (m *oracleMachine) caught(s *vmm.CPUState, o *oracle.Outcome) error {
	vector := s.RIP - (kernelLinear + kernelCode)
	if vector > 255 {
		return fmt.Errorf("in the kernel at %#x", s.RIP)
	}
	frame := m.mem[oracleKernel+s.GPR[vmm.RSP]-kernelLinear:]
	word := func() uint64 {
		v := binary.LittleEndian.Uint64(frame)
		frame = frame[8:]
		return v
	}
	o.Vector = uint8(vector)
	switch vector {
	case 8, 10, 11, 12, 13, 14, 17:
		o.Error = uint32(word())
	}
	o.RIP = word()
	o.CS = uint16(word())
	o.Flags = word() &^ vmm.FlagRF
	o.GPR[vmm.RSP] = word()
	if vector == 14 {
		o.CR2 = s.CR2
	}
	if o.CS&3 != 3 {
		return errors.New("an exception in the kernel")
	}
	return nil
}
