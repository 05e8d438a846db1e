package kvm

import (
	"fmt"
	"os"
	"strings"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
)

// leaf is what the guest sees of one CPUID leaf (SDM vol. 2A, CPUID; APM vol. 3,
// appendix E): the host's bits under these masks. All other leaves read as zero.
type leaf struct {
	function, index    uint32
	eax, ebx, ecx, edx uint32
}

const all = 0xffff_ffff

// leaves keeps, of what KVM supports, the features whose instructions depend on the
// guest's state alone. It lists what stays rather than what goes, so that a feature of a
// CPU yet to come is hidden until somebody has thought about it. Hidden are:
//
//   - time: TSC, TSC_ADJUST, TSC deadline, RDTSCP, RDPID (its TSC_AUX is state, but the
//     host may run RDPID natively with its own), invariant TSC, WAITPKG
//   - entropy: RDRAND, RDSEED
//   - XSAVE and all that rests on it (AVX, FMA, F16C, PKU, MPX, AMX): which components
//     are in use moves for reasons that the guest does not cause
//   - what depends on which core the host runs us on: APIC identifiers, topology, HTT
//   - APIC, x2APIC: there is no local APIC here
//   - TLB state the guest could tell: PCID, INVPCID
//   - transactions, which abort for the host's reasons: HLE, RTM
//   - what its MSRs are not part of vmm.CPUState: MTRR, MCE, MCA, SPEC_CTRL and relatives,
//     performance counters, debug store, CET
//   - MONITOR/MWAIT, MWAITX, VMX, SVM, KVM's paravirtual leaves
var leaves = []leaf{
	{function: 0, eax: all, ebx: all, ecx: all, edx: all}, // EAX is clipped to maxBasic
	{function: 1, eax: all,
		ebx: 0xff << 8, // CLFLUSH line size
		// SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES HYPERVISOR
		ecx: 1<<0 | 1<<1 | 1<<9 | 1<<13 | 1<<19 | 1<<20 | 1<<22 | 1<<23 | 1<<25 | 1<<31,
		// FPU DE PSE MSR PAE CX8 SEP PGE CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
		edx: 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<8 | 1<<11 | 1<<13 | 1<<15 | 1<<16 | 1<<17 |
			1<<19 | 1<<23 | 1<<24 | 1<<25 | 1<<26},
	{function: 7,
		// FSGSBASE BMI1 SMEP BMI2 ERMS ADX SMAP CLFLUSHOPT CLWB SHA
		ebx: 1<<0 | 1<<3 | 1<<7 | 1<<8 | 1<<9 | 1<<19 | 1<<20 | 1<<23 | 1<<24 | 1<<29,
		ecx: 1 << 2,  // UMIP
		edx: 1 << 4}, // FSRM
	{function: 0x8000_0000, eax: all, ebx: all, ecx: all, edx: all}, // EAX is clipped to maxExtended
	{function: 0x8000_0001, eax: all,
		// LAHF LZCNT SSE4A MISALIGNSSE PREFETCHW
		ecx: 1<<0 | 1<<5 | 1<<6 | 1<<7 | 1<<8,
		// FPU DE PSE MSR PAE CX8 SYSCALL PGE CMOV PAT PSE36 NX MMXEXT MMX FXSR PDPE1GB LM
		edx: 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<8 | 1<<11 | 1<<13 | 1<<15 | 1<<16 | 1<<17 |
			1<<20 | 1<<22 | 1<<23 | 1<<24 | 1<<26 | 1<<29},
	{function: 0x8000_0002, eax: all, ebx: all, ecx: all, edx: all}, // brand string
	{function: 0x8000_0003, eax: all, ebx: all, ecx: all, edx: all},
	{function: 0x8000_0004, eax: all, ebx: all, ecx: all, edx: all},
	{function: 0x8000_0008, eax: 0xffff}, // physical and linear address bits
}

// The highest leaves the guest is told of.
const (
	maxBasic    = 7
	maxExtended = 0x8000_0008
)

// guestCPUID is what the guest's CPUID shows, out of what KVM supports.
func guestCPUID(supported []gokvm.CPUIDEntry2) []gokvm.CPUIDEntry2 {
	var out []gokvm.CPUIDEntry2
	for _, l := range leaves {
		for _, s := range supported {
			if s.Function != l.function || s.Index != l.index {
				continue
			}
			s.Eax &= l.eax
			s.Ebx &= l.ebx
			s.Ecx &= l.ecx
			s.Edx &= l.edx
			switch s.Function {
			case 0:
				s.Eax = min(s.Eax, maxBasic)
			case 0x8000_0000:
				s.Eax = min(s.Eax, maxExtended)
			}
			out = append(out, s)
		}
	}
	return out
}

// setCPUID gives the vCPU the guest's CPUID.
func (e *Engine) setCPUID() error {
	const room = 256
	supported := &gokvm.CPUID{Nent: room, Entries: make([]gokvm.CPUIDEntry2, room)}
	if err := gokvm.GetSupportedCPUID(uintptr(e.dev), supported); err != nil {
		return fmt.Errorf("kvm: KVM_GET_SUPPORTED_CPUID: %w", err)
	}
	entries := guestCPUID(supported.Entries)
	if err := gokvm.SetCPUID2(uintptr(e.vcpu), &gokvm.CPUID{Nent: uint32(len(entries)), Entries: entries}); err != nil {
		return fmt.Errorf("kvm: KVM_SET_CPUID2: %w", err)
	}
	// Some hosts accept the list and show the guest more.
	shown := &gokvm.CPUID{Nent: room, Entries: make([]gokvm.CPUIDEntry2, room)}
	if err := gokvm.GetCPUID2(uintptr(e.vcpu), shown); err != nil {
		return fmt.Errorf("kvm: KVM_GET_CPUID2: %w", err)
	}
	const xsave = 1 << 26
	for _, s := range shown.Entries {
		e.setsXCR0 = e.setsXCR0 || s.Function == 1 && s.Ecx&xsave != 0
	}
	return nil
}

// CPUModel names the host's CPU as far as guest code can tell one from another: undefined
// flags, approximations and FPU pointers differ between models. Replicas must agree.
func CPUModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(info), "\n\n")
	fields := map[string]string{}
	for _, line := range strings.Split(first, "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return fmt.Sprintf("%s family %s model %s stepping %s microcode %s", fields["vendor_id"],
		fields["cpu family"], fields["model"], fields["stepping"], fields["microcode"])
}
