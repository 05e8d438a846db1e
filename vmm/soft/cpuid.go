package soft

import (
	"encoding/binary"
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// The CPU that CPUID describes (SDM vol. 2A, CPUID) is an Atom of the first generation in vendor, family and model, which
// executes in order and without speculation: kernels need no work against attacks on that. It has all of
// x86-64-v2 and nothing beyond, so that what it tells is what there is.
const (
	vendor = "GenuineIntel"
	brand  = "ftvm soft, exact x86-64"

	family, model, stepping = 6, 0x1c, 10

	signature = model>>4<<16 | family<<8 | model&0xf<<4 | stepping

	// tscHz is the frequency of the time stamp counter: its ticks are nanoseconds of guest time.
	tscHz     = 1_000_000_000
	crystalHz = 25_000_000
)

// Features in leaf 1.
const (
	ecxSSE3       = 1 << 0
	ecxSSSE3      = 1 << 9
	ecxCX16       = 1 << 13
	ecxSSE41      = 1 << 19
	ecxSSE42      = 1 << 20
	ecxPOPCNT     = 1 << 23
	ecxHypervisor = 1 << 31

	edxFPU   = 1 << 0
	edxDE    = 1 << 2
	edxPSE   = 1 << 3
	edxTSC   = 1 << 4
	edxMSR   = 1 << 5
	edxPAE   = 1 << 6
	edxCX8   = 1 << 8
	edxSEP   = 1 << 11
	edxPGE   = 1 << 13
	edxCMOV  = 1 << 15
	edxPAT   = 1 << 16
	edxPSE36 = 1 << 17
	edxCLFSH = 1 << 19
	edxMMX   = 1 << 23
	edxFXSR  = 1 << 24
	edxSSE   = 1 << 25
	edxSSE2  = 1 << 26
)

// Features in other leaves: leaf 7, 8000_0001h, and 8000_0007h.
const (
	ebxTSCAdjust = 1 << 1
	ebxERMS      = 1 << 9
	ebxNoFPUSegs = 1 << 13 // FPU CS and FPU DS are not kept

	ecxLAHF      = 1 << 0
	ecxPrefetchW = 1 << 8

	edxSYSCALL = 1 << 11
	edxNX      = 1 << 20
	edxPage1G  = 1 << 26
	edxRDTSCP  = 1 << 27
	edxLM      = 1 << 29

	edxInvariantTSC = 1 << 8
)

// cpuidRow is what CPUID answers for a leaf, and for all of its subleaves but where another row has the subleaf.
type cpuidRow struct {
	leaf, subleaf      uint32
	eax, ebx, ecx, edx uint32
}

const anySubleaf = math.MaxUint32

// cpuidRows has the leaves that are not all 0, each subleaf before anySubleaf.
var cpuidRows = []cpuidRow{
	named(0, 0x16, vendor, [3]int{1, 3, 2}),
	{leaf: 1, subleaf: anySubleaf, eax: signature,
		ebx: 64 / 8 << 8, // the line of CLFLUSH
		ecx: ecxSSE3 | ecxSSSE3 | ecxCX16 | ecxSSE41 | ecxSSE42 | ecxPOPCNT | ecxHypervisor,
		edx: edxFPU | edxDE | edxPSE | edxTSC | edxMSR | edxPAE | edxCX8 | edxSEP | edxPGE | edxCMOV | edxPAT |
			edxPSE36 | edxCLFSH | edxMMX | edxFXSR | edxSSE | edxSSE2},
	{leaf: 2, subleaf: anySubleaf, eax: 0xff01}, // see leaf 4
	cacheRow(0, 1, 1, 64, 8),                    // data, 32 KiB
	cacheRow(1, 2, 1, 64, 8),                    // code, 32 KiB
	cacheRow(2, 3, 2, 1024, 16),                 // both, 1 MiB
	{leaf: 7, subleaf: 0, ebx: ebxTSCAdjust | ebxERMS | ebxNoFPUSegs},
	{leaf: 0x15, subleaf: anySubleaf, eax: 1, ebx: tscHz / crystalHz, ecx: crystalHz},
	{leaf: 0x16, subleaf: anySubleaf, eax: tscHz / 1_000_000, ebx: tscHz / 1_000_000, ecx: 100},
	named(0x4000_0000, 0x4000_0001, hypervisor, [3]int{1, 2, 3}),
	{leaf: 0x4000_0001, subleaf: anySubleaf, eax: featureClock | featureStableClock},
	{leaf: 0x8000_0000, subleaf: anySubleaf, eax: 0x8000_0008},
	{leaf: 0x8000_0001, subleaf: anySubleaf, ecx: ecxLAHF | ecxPrefetchW,
		edx: edxSYSCALL | edxNX | edxPage1G | edxRDTSCP | edxLM},
	brandRow(0), brandRow(1), brandRow(2),
	{leaf: 0x8000_0006, subleaf: anySubleaf, ecx: 1024<<16 | 8<<12 | 64}, // the cache of level 2: 16 ways
	{leaf: 0x8000_0007, subleaf: anySubleaf, edx: edxInvariantTSC},
	{leaf: 0x8000_0008, subleaf: anySubleaf, eax: 48<<8 | physBits},
}

// named is a leaf with the highest leaf of its range and a name of 12 characters, in the registers with the given
// numbers: EBX is 1, ECX 2 and EDX 3.
func named(leaf, highest uint32, name string, registers [3]int) cpuidRow {
	var r [4]uint32
	for i, n := range registers {
		r[n] = binary.LittleEndian.Uint32([]byte(name[4*i:]))
	}
	return cpuidRow{leaf, anySubleaf, highest, r[1], r[2], r[3]}
}

// brandRow is the n-th third of the brand string, 16 of 48 characters, filled up with zeros.
func brandRow(n uint32) cpuidRow {
	var b [48]byte
	copy(b[:], brand)
	word := func(i uint32) uint32 { return binary.LittleEndian.Uint32(b[16*n+4*i:]) }
	return cpuidRow{0x8000_0002 + n, anySubleaf, word(0), word(1), word(2), word(3)}
}

// cacheRow describes a cache with lines of 64 bytes in leaf 4. Kind is 1 for data, 2 for code, 3 for both.
func cacheRow(subleaf, kind, level, sets, ways uint32) cpuidRow {
	const selfInitialising = 1 << 8
	return cpuidRow{leaf: 4, subleaf: subleaf, eax: kind | level<<5 | selfInitialising,
		ebx: (ways-1)<<22 | (64 - 1), ecx: sets - 1}
}

// leaves are all leaves that there are but for those of the hypervisor: a basic leaf beyond is answered like the
// last one, as Intel's CPUs do.
const (
	lastBasic    = 0x16
	lastExtended = 0x8000_0008
)

func (c *CPU) cpuid(_ *uop, _ *x86.Inst) bool {
	leaf, subleaf := uint32(c.r[vmm.RAX]), uint32(c.r[vmm.RCX])
	hypervisorLeaf := leaf>>16 == 0x4000
	if !hypervisorLeaf && (leaf > lastBasic && leaf < 0x8000_0000 || leaf > lastExtended) {
		leaf = lastBasic
	}
	var row cpuidRow
	for _, r := range cpuidRows {
		if r.leaf == leaf && (r.subleaf == subleaf || r.subleaf == anySubleaf) {
			row = r
			break
		}
	}
	c.r[vmm.RAX], c.r[vmm.RBX] = uint64(row.eax), uint64(row.ebx)
	c.r[vmm.RCX], c.r[vmm.RDX] = uint64(row.ecx), uint64(row.edx)
	return true
}
