package soft

import (
	"encoding/binary"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// The interface of KVM to its guests, as far as it tells the time (Linux, Documentation/virt/kvm/x86: cpuid.rst,
// msr.rst, hypercalls.rst). The RTC tells it to the second only; the time stamp counter, in which all time after
// the boot is measured, begins nowhere in particular.
const (
	hypervisor = "KVMKVMKVM\x00\x00\x00"

	msrWallClock  = 0x4b56_4d00 // MSR_KVM_WALL_CLOCK_NEW
	msrSystemTime = 0x4b56_4d01 // MSR_KVM_SYSTEM_TIME_NEW

	featureClock       = 1 << 3  // KVM_FEATURE_CLOCKSOURCE2: these two registers
	featureStableClock = 1 << 24 // KVM_FEATURE_CLOCKSOURCE_STABLE_BIT: clockStable has a meaning

	clockEnabled = 1 << 0 // in msrSystemTime, beside the address
	clockStable  = 1 << 0 // in the flags: time never differs between CPUs

	noSuchHypercall = -1000 // KVM_ENOSYS
	notPermitted    = -1    // KVM_EPERM
)

// writeWallClock is WRMSR of msrWallClock: where to store, once, the wall time at which system time was 0. System time may
// begin anywhere, and is guest time; so that is 0 as well. It is as good as a kick: whoever asks for the wall time should get
// that of now. Linux asks once, before it has a clock: what guest time jumps right after, its wall clock lacks for good.
func (c *CPU) writeWallClock(v uint64) bool {
	var p [12]byte // struct pvclock_wall_clock
	if !c.storeClock(v, p[:]) {
		return false
	}
	c.wallClock = v
	c.kicked.Store(true)
	return true
}

// writeSystemTime is WRMSR of msrSystemTime: where to keep how system time follows from the time stamp counter.
func (c *CPU) writeSystemTime(u *uop, v uint64) bool {
	if v&clockEnabled != 0 && !c.storeSystemTime(u, v, c.tscAdjust) {
		return false
	}
	c.systemTime = v
	return true
}

// writeTSCAdjust sets what the time stamp counter is ahead of guest time, and tells the guest's clock.
func (c *CPU) writeTSCAdjust(u *uop, v uint64) bool {
	if c.systemTime&clockEnabled != 0 && !c.storeSystemTime(u, c.systemTime, v) {
		return false
	}
	c.tscAdjust = v
	return true
}

// storeSystemTime stores struct pvclock_vcpu_time_info: one tick of the counter is 2^31<<1>>32 ns.
func (c *CPU) storeSystemTime(u *uop, to, adjust uint64) bool {
	const multiplier, shift = 1 << 31, 1
	now := uint64(c.now(u))
	var p [32]byte
	binary.LittleEndian.PutUint64(p[8:], now+adjust)
	binary.LittleEndian.PutUint64(p[16:], now)
	binary.LittleEndian.PutUint32(p[24:], multiplier)
	p[28], p[29] = shift, clockStable
	return c.storeClock(to&^clockEnabled, p[:])
}

// storeClock stores a structure that begins with its version: even, and different each time. An address that is
// not a multiple of 4, or not in RAM, is a #GP. If it returns false, nothing was stored.
func (c *CPU) storeClock(to uint64, p []byte) bool {
	if !c.isAlone() {
		c.stop = stopRedo
		return false
	}
	version, ok := c.ram.U32(vmm.GPA(to))
	if to%4 != 0 || !ok {
		return c.faultCode(excGP, 0)
	}
	binary.LittleEndian.PutUint32(p, (version|1)+1)
	return c.ram.Write(vmm.GPA(to), p) || c.faultCode(excGP, 0)
}

// hypercall is VMCALL and VMMCALL. There are no hypercalls, which is what a guest is told, as by KVM.
func (c *CPU) hypercall(_ *uop, _ *x86.Inst) bool {
	result := int64(noSuchHypercall)
	if c.cpl != 0 {
		result = notPermitted
	}
	c.r[vmm.RAX] = uint64(result)
	if c.mode != x86.Mode64 {
		c.r[vmm.RAX] &= 0xffff_ffff
	}
	return true
}
