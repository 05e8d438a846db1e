package kvm

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// runPage is struct kvm_run (KVM API, section 5), the page shared with the kernel.
// gokvm.RunData ends before the synchronised registers, and a kick needs an atomic
// access to immediate_exit.
type runPage struct {
	control    atomic.Uint32 // request_interrupt_window, immediate_exit, padding
	_          uint32
	exitReason uint32
	ready      uint8 // ready_for_interrupt_injection
	ifFlag     uint8
	flags      uint16
	cr8        uint64
	apicBase   uint64
	data       [256]byte // depends on exitReason
	validRegs  uint64
	dirtyRegs  uint64
	sync       syncRegs
}

// syncRegs is struct kvm_sync_regs.
type syncRegs struct {
	regs   gokvm.Regs
	sregs  gokvm.Sregs
	events gokvm.VCPUEvents
}

// runPage.control: request_interrupt_window is its first byte, immediate_exit its second.
const (
	windowExit    = 1 << 0
	immediateExit = 1 << 8
)

// syncAll has the kernel write all of runPage.sync whenever KVM_RUN returns (KVM API, 6.74):
// three ioctls less, and on some hosts each costs microseconds.
const syncAll = 1<<0 | 1<<1 | 1<<2

// mapRun maps the shared area of a vCPU: the run page and behind it the buffer for
// port data.
func mapRun(vcpu int, size uintptr) ([]byte, *runPage, error) {
	if size < unsafe.Sizeof(runPage{}) {
		return nil, nil, fmt.Errorf("kvm: the area shared with the kernel has %d bytes, want at least %d", size, unsafe.Sizeof(runPage{}))
	}
	mem, err := unix.Mmap(vcpu, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("kvm: mmap of the vCPU: %w", err)
	}
	return mem, (*runPage)(unsafe.Pointer(&mem[0])), nil
}

// hostAddress is where mem lies in this process.
func hostAddress(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&mem[0]))) }

// request is an ioctl number of KVM (KVM API, section 4).
type request struct {
	name string
	code uintptr
}

// call makes an ioctl that does not block. That the address is taken in the call itself keeps
// arg in place until the kernel has written to it (package unsafe, rule 4).
func call[T any](fd int, r *request, arg *T) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), r.code, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return 0, fmt.Errorf("kvm: %s: %w", r.name, errno)
	}
	return int(n), nil
}

// enter is KVM_RUN. It may take as long as the guest computes, and yet the Go scheduler is not
// told of a system call: it would take the processor (its P) away from this thread after
// 20 us, look again every 20 us to do so, and make each return wait for one. It still gets
// the processor when it asks, as from a goroutine that computes: its signal makes KVM_RUN
// return EINTR, and Run yields then.
func enter(vcpu int) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(vcpu), kvmRun, 0)
	return errno
}

// Arguments that gokvm has no type for, as the KVM API lays them out.
type (
	// enableCap is struct kvm_enable_cap.
	enableCap struct {
		cap, _ uint32
		args   [4]uint64
		_      [64]byte
	}
	// msrList is struct kvm_msrs with room for n entries.
	msrList struct {
		n, _    uint32
		entries [nMSRs]gokvm.MSREntry
	}
	// guestDebug is struct kvm_guest_debug.
	guestDebug struct {
		control, _ uint32
		dr         [8]uint64
	}
	// msrFilter is struct kvm_msr_filter.
	msrFilter struct {
		flags, _ uint32
		ranges   [16]msrFilterRange
	}
	// msrFilterRange is struct kvm_msr_filter_range.
	msrFilterRange struct {
		flags, count, base, _ uint32
		bitmap                *byte
	}
	// xsaveArea is struct kvm_xsave.
	xsaveArea [4096]byte
)

// The ioctls made here, not by gokvm.
var (
	reqSetMemory    = write[gokvm.UserspaceMemoryRegion]("KVM_SET_USER_MEMORY_REGION", 0x46)
	reqInterrupt    = write[uint32]("KVM_INTERRUPT", 0x86)
	reqSetRegs      = write[gokvm.Regs]("KVM_SET_REGS", 0x82)
	reqSetSregs     = write[gokvm.Sregs]("KVM_SET_SREGS", 0x84)
	reqGetMSRs      = readWrite("KVM_GET_MSRS", 0x88, 8)
	reqSetMSRs      = request{"KVM_SET_MSRS", gokvm.IIOW(0x89, 8)}
	reqGuestDebug   = write[guestDebug]("KVM_SET_GUEST_DEBUG", 0x9b)
	reqSetEvents    = write[gokvm.VCPUEvents]("KVM_SET_VCPU_EVENTS", 0xa0)
	reqGetDebugRegs = read[gokvm.DebugRegs]("KVM_GET_DEBUGREGS", 0xa1)
	reqSetDebugRegs = write[gokvm.DebugRegs]("KVM_SET_DEBUGREGS", 0xa2)
	reqEnableCap    = write[enableCap]("KVM_ENABLE_CAP", 0xa3)
	reqGetXsave     = read[xsaveArea]("KVM_GET_XSAVE", 0xa4)
	reqSetXsave     = write[xsaveArea]("KVM_SET_XSAVE", 0xa5)
	reqGetXCRs      = read[gokvm.XCRS]("KVM_GET_XCRS", 0xa6)
	reqSetXCRs      = write[gokvm.XCRS]("KVM_SET_XCRS", 0xa7)
	reqMSRFilter    = write[msrFilter]("KVM_X86_SET_MSR_FILTER", 0xc6)
)

const kvmRun = gokvm.KVMIO<<8 | 0x80

func read[T any](name string, nr uintptr) request {
	return request{name, gokvm.IIOR(nr, unsafe.Sizeof(*new(T)))}
}

func write[T any](name string, nr uintptr) request {
	return request{name, gokvm.IIOW(nr, unsafe.Sizeof(*new(T)))}
}

func readWrite(name string, nr, size uintptr) request {
	return request{name, gokvm.IIOWR(nr, size)}
}

// perfAttrSize is the size of struct perf_event_attr, as perf_event_open wants it.
const perfAttrSize = uint32(unsafe.Sizeof(unix.PerfEventAttr{}))
