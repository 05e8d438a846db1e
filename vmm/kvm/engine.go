package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// Options chooses how an Engine counts.
type Options struct {
	// Clock is "exits" (also if empty) or "step"; see the package documentation.
	Clock string
}

// Engine is one vCPU of the host's KVM. It implements vmm.Engine.
type Engine struct {
	dev, vm, vcpu int
	mem           []byte   // the area shared with the kernel: run page, port data
	run           *runPage // its beginning
	ram           *vmm.RAM // kept alive for the kernel, which knows its address

	clock    vmm.Clock
	position vmm.Position
	// ready is whether an interrupt would be taken now.
	ready bool
	// mid is set while the CPU has left the last nameable stop behind and has not reached
	// the next.
	mid bool

	// kicked is a kick that no Run has returned yet; tid is the thread in Run, or 0.
	kicked atomic.Bool
	tid    atomic.Int32

	// step says how the clock "step" gets along with this host; nil on the clock "exits".
	step *stepping
	// setsXCR0 is whether the guest can execute XSETBV.
	setsXCR0 bool

	arg arguments
}

// arguments are those of the ioctls made while the guest lives, allocated once.
type arguments struct {
	vector      uint32
	debugRegs   gokvm.DebugRegs
	xcrs        gokvm.XCRS
	msrs        msrList
	xsave       xsaveArea
	guestDebug  guestDebug
	translation gokvm.Translation
}

var _ vmm.Engine = (*Engine)(nil)

// apiVersion is the one version of the KVM API that ever was stable.
const apiVersion = 12

// needed are the capabilities without which the engine cannot keep its contract.
var needed = []struct {
	cap  gokvm.Capability
	name string
}{
	{gokvm.CapUserMemory, "KVM_CAP_USER_MEMORY"},
	{gokvm.CapImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"},
	{gokvm.CapSyncRegs, "KVM_CAP_SYNC_REGS"},
	{gokvm.CapVCPUEvents, "KVM_CAP_VCPU_EVENTS"},
	{gokvm.CapDebugRegs, "KVM_CAP_DEBUGREGS"},
	{gokvm.CapXSave, "KVM_CAP_XSAVE"},
	{gokvm.CapXCRS, "KVM_CAP_XCRS"},
	{gokvm.CapExceptionPayload, "KVM_CAP_EXCEPTION_PAYLOAD"},
	{gokvm.CapX86MSRFilter, "KVM_CAP_X86_MSR_FILTER"},
}

// New makes a virtual machine with ram and one vCPU. The memory behind ram must not move
// while the engine lives. The calling goroutine must be locked to its OS thread.
func New(ram *vmm.RAM, opt Options) (*Engine, error) {
	e := &Engine{dev: -1, vm: -1, vcpu: -1, ram: ram}
	if err := e.open(opt); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) open(opt Options) error {
	var err error
	if e.dev, err = openDevice(); err != nil {
		return err
	}
	vm, err := gokvm.CreateVM(uintptr(e.dev))
	if err != nil {
		return fmt.Errorf("kvm: KVM_CREATE_VM: %w", err)
	}
	e.vm = int(vm)
	// Three pages that Intel CPUs without unrestricted guest need (KVM API, 4.37), above
	// the identity map's default place and, like it, in the hole.
	if err := gokvm.SetTSSAddr(vm, 0xfffb_d000); err != nil {
		return fmt.Errorf("kvm: KVM_SET_TSS_ADDR: %w", err)
	}
	if _, err := call(e.vm, &reqEnableCap, &enableCap{cap: uint32(gokvm.CapExceptionPayload), args: [4]uint64{1}}); err != nil {
		return err
	}
	if err := e.filterMSRs(); err != nil {
		return err
	}
	if err := e.addMemory(); err != nil {
		return err
	}
	vcpu, err := gokvm.CreateVCPU(vm, 0)
	if err != nil {
		return fmt.Errorf("kvm: KVM_CREATE_VCPU: %w", err)
	}
	e.vcpu = int(vcpu)
	size, err := gokvm.GetVCPUMMmapSize(uintptr(e.dev))
	if err != nil {
		return fmt.Errorf("kvm: KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	if e.mem, e.run, err = mapRun(e.vcpu, size); err != nil {
		return err
	}
	if err := e.setCPUID(); err != nil {
		return err
	}
	e.arg.msrs.n = uint32(nMSRs)
	for i, msr := range vmm.MSRs {
		e.arg.msrs.entries[i].Index = msr
	}
	if _, err := call(e.vcpu, &reqGetXCRs, &e.arg.xcrs); err != nil {
		return err
	}
	return e.setClock(opt.Clock)
}

// openDevice opens /dev/kvm and checks that this KVM has what the engine needs.
func openDevice() (int, error) {
	dev, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return -1, fmt.Errorf("kvm: open /dev/kvm: %w: load the kernel module kvm_intel or kvm_amd, and switch on virtualization in the firmware (in a virtual machine: nested virtualization on its host); or give --engine soft, which needs no KVM", err)
	case errors.Is(err, fs.ErrPermission):
		return -1, fmt.Errorf("kvm: open /dev/kvm: %w: run as root or as a member of the group that owns it (usually kvm), or give --engine soft, which needs no KVM", err)
	case err != nil:
		return -1, fmt.Errorf("kvm: open /dev/kvm: %w", err)
	}
	if err := checkDevice(uintptr(dev)); err != nil {
		return -1, errors.Join(err, unix.Close(dev))
	}
	return dev, nil
}

func checkDevice(dev uintptr) error {
	if v, err := gokvm.GetAPIVersion(dev); err != nil {
		return fmt.Errorf("kvm: KVM_GET_API_VERSION: %w: /dev/kvm is something else", err)
	} else if v != apiVersion {
		return fmt.Errorf("kvm: /dev/kvm speaks API version %d, want %d: use a kernel from 2007 or later", v, apiVersion)
	}
	for _, c := range needed {
		if v, err := gokvm.CheckExtension(dev, c.cap); err != nil {
			return fmt.Errorf("kvm: KVM_CHECK_EXTENSION(%s): %w", c.name, err)
		} else if v == 0 {
			return fmt.Errorf("kvm: this kernel's KVM lacks %s: use Linux 5.10 or later", c.name)
		}
	}
	return nil
}

func (e *Engine) addMemory() error {
	var err error
	slot := uint32(0)
	e.ram.Regions(func(start vmm.GPA, mem []byte) {
		if err != nil {
			return
		}
		region := &gokvm.UserspaceMemoryRegion{Slot: slot, GuestPhysAddr: uint64(start),
			MemorySize: uint64(len(mem)), UserspaceAddr: hostAddress(mem)}
		if _, err = call(e.vm, &reqSetMemory, region); err != nil {
			err = fmt.Errorf("%w, for %d bytes at %#x", err, len(mem), start)
		}
		slot++
	})
	return err
}

// Clock tells what positions count.
func (e *Engine) Clock() vmm.Clock { return e.clock }

// Position is the count at the last nameable stop.
func (e *Engine) Position() vmm.Position { return e.position }

// Close frees the vCPU and the virtual machine.
func (e *Engine) Close() error {
	var errs []error
	if e.mem != nil {
		errs = append(errs, unix.Munmap(e.mem))
	}
	for _, fd := range []int{e.vcpu, e.vm, e.dev} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
