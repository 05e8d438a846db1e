package soft

import (
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// Indices in CPU.msr, which is in the order of vmm.MSRs.
const (
	msrSysenterCS = iota
	msrSysenterESP
	msrSysenterEIP
	msrPAT
	msrSTAR
	msrLSTAR
	msrCSTAR
	msrFMASK
	msrKernelGSBase
	msrTSCAux
)

// Numbers of the other model-specific registers (SDM vol. 4, table 2-2).
const (
	ia32TSC         = 0x10
	ia32PlatformID  = 0x17
	ia32APICBase    = 0x1b
	ia32TSCAdjust   = 0x3b
	ia32Microcode   = 0x8b
	ia32MiscEnable  = 0x1a0
	ia32EFER        = 0xc000_0080
	ia32FSBase      = 0xc000_0100
	ia32GSBase      = 0xc000_0101
	microcodeUpdate = 0x218 // what an Atom of our stepping has at least
)

// msrKind is which values one of vmm.MSRs takes.
type msrKind uint8

const (
	msrAny       msrKind = iota
	msrAddress           // canonical
	msrLow               // 32 bits
	msrPageTypes         // eight memory types
)

var msrKinds = [len(vmm.MSRs)]msrKind{
	msrSysenterCS: msrLow, msrSysenterESP: msrAddress, msrSysenterEIP: msrAddress, msrPAT: msrPageTypes,
	msrLSTAR: msrAddress, msrCSTAR: msrAddress, msrKernelGSBase: msrAddress, msrTSCAux: msrLow,
}

// takes tells whether v is a value for a register of this kind.
func (k msrKind) takes(v uint64) bool {
	switch k {
	case msrAddress:
		return canonical(v)
	case msrLow:
		return v <= math.MaxUint32
	case msrPageTypes:
		// Memory types 0, 1, 4, 5, 6 and 7 (SDM vol. 3A, 12.12.2).
		for ; v != 0; v >>= 8 {
			if t := v & 0xff; t > 7 || t>>1 == 1 {
				return false
			}
		}
	}
	return true
}

// msrIndex is the index of a register in vmm.MSRs.
func msrIndex(number uint32) (int, bool) {
	for i, n := range vmm.MSRs {
		if n == number {
			return i, true
		}
	}
	return 0, false
}

// tsc is the time stamp counter: 1 GHz of guest time, as CPUID says.
func (c *CPU) tsc(u *uop) uint64 { return uint64(c.now(u)) + c.tscAdjust }

// now is guest time where u's instruction begins.
func (c *CPU) now(u *uop) vmm.Time {
	c.sync(u)
	return c.bus.Now()
}

func (c *CPU) readTSC(u *uop, in *x86.Inst) bool {
	if c.cr4&cr4TSD != 0 && c.cpl != 0 {
		return c.faultCode(excGP, 0)
	}
	c.setPair(c.tsc(u))
	if in.Op == x86.RDTSCP {
		c.r[vmm.RCX] = c.msr[msrTSCAux]
	}
	return true
}

// setPair puts v into EDX:EAX.
func (c *CPU) setPair(v uint64) {
	c.r[vmm.RAX], c.r[vmm.RDX] = v&math.MaxUint32, v>>32
}

// readMSRInst is RDMSR. The registers that are not part of the state are those that kernels read on a CPU such as
// CPUID describes without being prepared for a fault.
func (c *CPU) readMSRInst(u *uop, _ *x86.Inst) bool {
	v := uint64(0)
	switch number := uint32(c.r[vmm.RCX]); number {
	case ia32TSC:
		v = c.tsc(u)
	case ia32TSCAdjust:
		v = c.tscAdjust
	case msrWallClock:
		v = c.wallClock
	case msrSystemTime:
		v = c.systemTime
	case ia32APICBase:
		v = c.apicBase
	case ia32Microcode:
		v = microcodeUpdate << 32
	case ia32MiscEnable:
		v = 1 // fast strings
	case ia32PlatformID:
	case ia32EFER:
		v = c.efer
	case ia32FSBase:
		v = c.seg[vmm.FS].Base
	case ia32GSBase:
		v = c.seg[vmm.GS].Base
	default:
		i, ok := msrIndex(number)
		if !ok {
			return c.faultCode(excGP, 0)
		}
		v = c.msr[i]
	}
	c.setPair(v)
	return true
}

func (c *CPU) writeMSRInst(u *uop, _ *x86.Inst) bool {
	v := c.r[vmm.RDX]<<32 | c.r[vmm.RAX]&math.MaxUint32
	switch number := uint32(c.r[vmm.RCX]); number {
	case ia32TSC:
		return c.writeTSCAdjust(u, c.tscAdjust+v-c.tsc(u))
	case ia32TSCAdjust:
		return c.writeTSCAdjust(u, v)
	case msrWallClock:
		return c.writeWallClock(v)
	case msrSystemTime:
		return c.writeSystemTime(u, v)
	case ia32Microcode: // written before it is read, to no effect
	case ia32EFER:
		return c.setEFER(v)
	case ia32FSBase, ia32GSBase:
		if !canonical(v) {
			return c.faultCode(excGP, 0)
		}
		i := vmm.FS + int(number-ia32FSBase)
		c.seg[i].Base = v
		c.r[rES+i] = v
	default:
		i, ok := msrIndex(number)
		if !ok || !msrKinds[i].takes(v) {
			return c.faultCode(excGP, 0)
		}
		c.msr[i] = v
	}
	return true
}

func (c *CPU) setEFER(v uint64) bool {
	changed := v ^ c.efer
	if v&^eferKnown != 0 || changed&eferLME != 0 && c.cr0&cr0PG != 0 {
		return c.faultCode(excGP, 0)
	}
	c.efer = v&^eferLMA | c.efer&eferLMA
	if changed&eferNXE != 0 {
		c.tlb.flush(true)
	}
	return true
}
