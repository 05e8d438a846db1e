package soft

import (
	"ftvm/vmm"
	"ftvm/vmm/soft/amd64"
)

// nativeRun executes compiled code: entry, which is the beginning of native.mem, makes the guest's registers
// the host's and goes to at. Compiled code comes back after at most CPU.left instructions, so that the goroutine can be preempted.
//
//go:noescape
func nativeRun(c *CPU, entry, at uintptr)

// cpuid is ECX of a leaf of CPUID.
func cpuid(leaf uint32) (ecx uint32)

// suits tells whether this host has the instructions that are emitted: SSE to SSE4.1, and LAHF and SAHF in 64-bit mode (SDM
// vol. 2A, CPUID). Only its first CPUs have not.
func suits() bool {
	const ssse3, sse41, lahf = 1 << 9, 1 << 19, 1 << 0
	return cpuid(1)&(ssse3|sse41) == ssse3|sse41 && cpuid(0x8000_0001)&lahf != 0
}

// maxCode is the most code that displacements reach across, in bytes.
const maxCode = 1 << 30

func (n *native) init(o Options) {
	n.threshold = never
	if len(o.Code) < MinCode || !suits() {
		return
	}
	n.mem = o.Code[:min(len(o.Code), maxCode)]
	n.base = address(n.mem)
	n.threshold = defaultThreshold
	if o.Threshold > 0 {
		n.threshold = uint16(min(o.Threshold, never))
	}
	n.targets = new([targets]target)
	n.plain = mxcsrInit
	n.drop()
}

// drop drops all code.
func (n *native) drop() {
	if n.base == 0 {
		return
	}
	for _, b := range n.blocks {
		b.code = 0
	}
	n.blocks = n.blocks[:0]
	for i := range n.targets {
		n.targets[i].phys = noTarget
	}
	n.Reset(n.mem)
	n.frame()
}

// regs points regsBias bytes behind the beginning of CPU.r, to the middle of the slots that are in use, so that their
// displacements have one byte.
const (
	regs     = amd64.R15
	regsBias = 128
)

// field is a field of CPU at an offset.
func field(offset int32) amd64.Operand { return amd64.M(regs, offset-atRegs-regsBias) }

// homes are the host's registers that hold those of the guest, by the latter's numbers; the others stay in CPU.r. RAX holds the
// flags (see native); RCX, RDX and RDI are free within a micro-operation.
var homes = [16]amd64.Reg{
	vmm.RAX: amd64.RBX, vmm.RCX: amd64.RSI, vmm.RDX: amd64.R8, vmm.RBX: amd64.R9, vmm.RSP: amd64.RBP, vmm.RBP: amd64.R10,
	vmm.RSI: amd64.R11, vmm.RDI: amd64.R12, 8: amd64.R13, 12: amd64.R14,
}

// slot is where slot i of CPU.r is.
func slot(i uint8) amd64.Operand {
	if i < 16 && homes[i] != 0 {
		return amd64.R(homes[i])
	}
	return field(atRegs + 8*int32(i))
}

// frame emits what all code shares: the entry from Go, at offset 0, and behind it the way back.
func (n *native) frame() {
	n.Lea(8, regs, amd64.M(regs, atRegs+regsBias))
	eachHome(func(r amd64.Reg, at amd64.Operand) { n.Load(8, r, at) })
	n.ifFloat(func() { n.LoadMXCSR(field(atPlain)) })
	n.Load(4, amd64.RAX, field(atFlags))
	n.restoreFlags()
	n.JmpTo(amd64.R(amd64.RCX))
	n.back = n.At()
	n.Store(4, field(atExit), amd64.RCX)
	n.Store(4, field(atBlock), amd64.RDI)
	n.Store(8, field(atResume), amd64.RDX)
	n.Store(4, field(atFlags), amd64.RAX)
	n.ifFloat(func() { n.StoreMXCSR(field(atMXCSR)) })
	eachHome(func(r amd64.Reg, at amd64.Operand) { n.Store(8, at, r) })
	n.Ret()
}

// ifFloat emits what f emits to be executed if native.float is set.
func (n *native) ifFloat(f func()) {
	n.ArithImm(amd64.CMP, 1, field(atFloat), 0)
	not := n.Skip(amd64.E)
	f()
	n.Land(not)
}

// eachHome calls f with each home and the guest's register that it is for.
func eachHome(f func(r amd64.Reg, at amd64.Operand)) {
	for i, r := range homes {
		if r != 0 {
			f(r, field(atRegs+8*int32(i)))
		}
	}
}
