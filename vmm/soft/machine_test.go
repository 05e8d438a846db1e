package soft_test

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"ftvm/vmm"
	"ftvm/vmm/soft"
)

// machine is a CPU and its memory, without devices.
type machine struct {
	*soft.CPU
	ram     *vmm.RAM
	options soft.Options
	// tables is where the next paging structure goes.
	tables uint64
}

const (
	pageP, pageW, pageU = 1 << 0, 1 << 1, 1 << 2
	pageNX              = 1 << 63

	tablesAddr = 0x1000 // of the top-level paging structure; the others follow it
)

func newMachine(size int, o soft.Options) *machine {
	ram := vmm.NewRAM(make([]byte, size))
	return &machine{CPU: soft.New(ram, o), ram: ram, options: o, tables: tablesAddr + vmm.PageSize}
}

// mapPages maps n pages at linear address lin to those at phys, in a 4-level structure.
func (m *machine) mapPages(lin uint64, phys vmm.GPA, n int, flags uint64) {
	for i := range uint64(n) {
		a, table := lin+i*vmm.PageSize, uint64(tablesAddr)
		for shift := 39; ; shift -= 9 {
			at := vmm.GPA(table + a>>shift&511*8)
			if shift == 12 {
				m.write64(at, uint64(phys)+i*vmm.PageSize|flags)
				break
			}
			e, _ := m.ram.U64(at)
			if e == 0 {
				e = m.tables | pageP | pageW | pageU
				m.tables += vmm.PageSize
				m.write64(at, e)
			}
			table = e &^ 0xfff
		}
	}
}

func (m *machine) write64(a vmm.GPA, v uint64) {
	var p [8]byte
	binary.LittleEndian.PutUint64(p[:], v)
	m.ram.Write(a, p[:])
}

// longMode is a state at CPL 3 in 64-bit mode, with paging on.
func longMode() *vmm.CPUState {
	data := vmm.Segment{Selector: 0x2b, Limit: 0xffff_ffff, Access: 0x3 | vmm.SegS | 3<<vmm.SegDPLShift | vmm.SegP | vmm.SegDB | vmm.SegG}
	text := vmm.Segment{Selector: 0x33, Limit: 0xffff_ffff, Access: 0xb | vmm.SegS | 3<<vmm.SegDPLShift | vmm.SegP | vmm.SegL | vmm.SegG}
	s := &vmm.CPUState{
		RFLAGS: 1<<1 | 1<<9,
		Seg:    [6]vmm.Segment{data, text, data, data, data, data},
		LDT:    vmm.Segment{Access: vmm.SegUnusable},
		TR:     vmm.Segment{Selector: 0x40, Limit: 0x67, Access: 0xb | vmm.SegP},
		CR0:    0x8005_0033, // PG AM WP NE ET MP PE
		CR3:    tablesAddr,
		CR4:    0x6a0, // OSXMMEXCPT OSFXSR PGE PAE
		EFER:   0xd01, // NXE LMA LME SCE
		XCR0:   1,
		DR6:    0xffff_0ff0,
		DR7:    0x400,
	}
	binary.LittleEndian.PutUint16(s.FX[0:], 0x37f)
	binary.LittleEndian.PutUint32(s.FX[24:], 0x1f80)
	return s
}

// code is machine code from its bytes in hex.
func code(lines ...string) []byte {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "").Replace(strings.Join(lines, "")))
	if err != nil {
		panic(err)
	}
	return b
}

// Where programs and their data lie.
const (
	codeAddr  = 0x40_0000
	dataAddr  = 0x60_0000
	dataPages = 64
)

// program makes a machine that is about to execute code at CPL 3; RSI and RDI point into 64 pages of data,
// RSP to the end of another.
func program(tb testing.TB, code []byte, o soft.Options) *machine {
	tb.Helper()
	m := newMachine(4<<20, o)
	m.mapPages(codeAddr, 0x10_0000, 4, pageP|pageU)
	m.mapPages(dataAddr, 0x20_0000, dataPages, pageP|pageW|pageU)
	m.ram.Write(0x10_0000, code)
	s := longMode()
	s.RIP = codeAddr
	s.GPR[vmm.RSI] = dataAddr
	s.GPR[vmm.RDI] = dataAddr + dataPages/2*vmm.PageSize
	s.GPR[vmm.RSP] = dataAddr + dataPages*vmm.PageSize - 8
	if err := m.SetState(s); err != nil {
		tb.Fatal(err)
	}
	return m
}

// runFor executes n instructions.
func (m *machine) runFor(tb testing.TB, n uint64) {
	x, err := m.Run(m.Position()+vmm.Position(n), false, noBus{})
	if err != nil || x.Reason != vmm.ExitPosition {
		tb.Fatalf("Run: %+v, %v", x, err)
	}
}

func (m *machine) state(tb testing.TB) *vmm.CPUState {
	var s vmm.CPUState
	if err := m.State(&s); err != nil {
		tb.Fatal(err)
	}
	return &s
}

// noBus is a bus without devices.
type noBus struct{}

func (noBus) PortIn(_ uint16, p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}

func (noBus) PortOut(uint16, []byte)      {}
func (b noBus) MemIn(_ vmm.GPA, p []byte) { b.PortIn(0, p) }
func (noBus) MemOut(vmm.GPA, []byte)      {}
func (noBus) Now() vmm.Time               { return 0 }
