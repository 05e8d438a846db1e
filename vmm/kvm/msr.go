package kvm

import "ftvm/vmm"

const nMSRs = len(vmm.MSRs)

// guestMSRs are the model-specific registers that guest code may read and write:
// those that vmm.CPUState carries. Access to any other raises #GP, whatever this
// host's KVM implements: a register that is not saved could not be the same on another
// replica, and the time stamp counter least of all.
func guestMSRs() []uint32 {
	return append(vmm.MSRs[:len(vmm.MSRs):len(vmm.MSRs)],
		0x1B,       // IA32_APIC_BASE
		0xC0000080, // EFER
		0xC0000100, // FS_BASE
		0xC0000101, // GS_BASE
	)
}

// filterMSRs makes KVM refuse all other MSRs (KVM API, 4.97 KVM_X86_SET_MSR_FILTER).
func (e *Engine) filterMSRs() error {
	const (
		defaultDeny = 1 << 0
		readWrite   = 1<<0 | 1<<1
	)
	// Two stretches of numbers hold all of them.
	bitmaps := [...]struct {
		base uint32
		bits [0x400 / 8]byte
	}{{base: 0}, {base: 0xC0000000}}
	for _, msr := range guestMSRs() {
		for i := range bitmaps {
			b := &bitmaps[i]
			if n := msr - b.base; msr >= b.base && n < uint32(len(b.bits)*8) {
				b.bits[n/8] |= 1 << (n % 8)
			}
		}
	}
	f := &msrFilter{flags: defaultDeny}
	for i := range bitmaps {
		b := &bitmaps[i]
		f.ranges[i] = msrFilterRange{flags: readWrite, count: uint32(len(b.bits) * 8), base: b.base, bitmap: &b.bits[0]}
	}
	_, err := call(e.vm, &reqMSRFilter, f)
	return err
}
