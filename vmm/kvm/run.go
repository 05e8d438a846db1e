package kvm

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"ftvm/vmm"
)

// Run runs the guest. See vmm.Engine.
func (e *Engine) Run(until vmm.Position, window bool, bus vmm.Bus) (vmm.Exit, error) {
	e.tid.Store(int32(unix.Gettid()))
	defer e.tid.Store(0)
	for {
		// The order of these two is what keeps a kick from being lost; see Kick. On an exact
		// clock the next nameable stop is one instruction away, and the kick waits for it.
		e.run.control.Store(0)
		if !(e.mid && e.clock.Exact) && e.kicked.CompareAndSwap(true, false) {
			return vmm.Exit{Reason: vmm.ExitKick, Mid: e.mid}, nil
		}
		if !e.mid {
			if e.position >= until {
				return vmm.Exit{Reason: vmm.ExitPosition}, nil
			}
			if window && e.step != nil && e.ready {
				return vmm.Exit{Reason: vmm.ExitWindow}, nil
			}
			if err := e.arm(); err != nil {
				return vmm.Exit{}, err
			}
		}
		switch errno := enter(e.vcpu); errno {
		case 0:
			if x, err := e.exit(bus); err != nil || x.Reason != 0 {
				return x, err
			}
		case unix.EINTR:
			// A kick, which the loop sees, or a signal that is none of the guest's business, such
			// as that by which Go's scheduler asks for this processor. There is no place in
			// this loop where it could take it by force, so it is given.
			e.mid = true
			runtime.Gosched()
		default:
			return vmm.Exit{}, fmt.Errorf("kvm: KVM_RUN: %w", errno)
		}
	}
}

// exit serves the exit that KVM_RUN returned with, up to the end of the guest's instruction.
// The end of a step leaves Exit.Reason 0.
func (e *Engine) exit(bus vmm.Bus) (vmm.Exit, error) {
	var x vmm.Exit
	for {
		switch gokvm.ExitType(e.run.exitReason) {
		case gokvm.EXITIO:
			e.servePort(bus)
		case gokvm.EXITMMIO:
			e.serveMemory(bus)
		case gokvm.EXITDEBUG:
			e.advance()
			return x, nil
		case gokvm.EXITHLT:
			e.advance()
			return vmm.Exit{Reason: vmm.ExitHalt}, nil
		case gokvm.EXITSHUTDOWN:
			e.advance()
			return vmm.Exit{Reason: vmm.ExitShutdown}, nil
		case gokvm.EXITINTERNALERROR:
			e.advance()
			return e.unsupported()
		default:
			return vmm.Exit{}, fmt.Errorf("kvm: KVM_RUN returned with %s, which the engine does not know", exitName(gokvm.ExitType(e.run.exitReason)))
		}
		// The kernel puts the data into the guest's register or memory, and ends the
		// instruction, when it is entered again. A string instruction, or an access that
		// crosses a page, comes back with its next part instead; a step may come to its end.
		x.Reason = vmm.ExitAccess
		e.run.control.Store(immediateExit)
		switch errno := enter(e.vcpu); errno {
		case 0:
		case unix.EINTR:
			e.advance()
			return x, nil
		default:
			return vmm.Exit{}, fmt.Errorf("kvm: KVM_RUN, completing an access: %w", errno)
		}
	}
}

// advance notes that the CPU has reached the next nameable stop.
func (e *Engine) advance() {
	e.position++
	e.mid = false
	e.ready = e.run.ready != 0
}

// refresh enters the kernel, but not the guest, to learn the registers in e.run.sync and
// whether an interrupt would be taken.
func (e *Engine) refresh() error {
	valid := e.run.validRegs
	e.run.validRegs = syncAll
	e.run.control.Store(immediateExit)
	errno := enter(e.vcpu)
	e.run.validRegs = valid
	if errno != unix.EINTR {
		return fmt.Errorf("kvm: KVM_RUN with immediate_exit returned %d, want EINTR", errno)
	}
	e.ready = e.run.ready != 0
	return nil
}

// servePort serves KVM_EXIT_IO: direction, size, port, count, and where the data is.
func (e *Engine) servePort(bus vmm.Bus) {
	d := &e.run.data
	out, size := d[0] == gokvm.EXITIOOUT, uint64(d[1])
	port := binary.LittleEndian.Uint16(d[2:])
	count := uint64(binary.LittleEndian.Uint32(d[4:]))
	data := e.mem[binary.LittleEndian.Uint64(d[8:]):][:size*count]
	for ; len(data) > 0; data = data[size:] {
		if out {
			bus.PortOut(port, data[:size:size])
		} else {
			bus.PortIn(port, data[:size:size])
		}
	}
}

// serveMemory serves KVM_EXIT_MMIO: physical address, data, length, direction.
func (e *Engine) serveMemory(bus vmm.Bus) {
	d := &e.run.data
	addr := vmm.GPA(binary.LittleEndian.Uint64(d[0:]))
	size := binary.LittleEndian.Uint32(d[16:])
	if write := d[20] != 0; write {
		bus.MemOut(addr, d[8:][:size:8])
	} else {
		bus.MemIn(addr, d[8:][:size:8])
	}
}

// unsupported describes KVM_EXIT_INTERNAL_ERROR: an instruction that KVM had to emulate and
// cannot.
func (e *Engine) unsupported() (vmm.Exit, error) {
	const emulation, hasBytes = 1, 1 << 0
	d := &e.run.data
	suberror, what := binary.LittleEndian.Uint32(d[0:]), ""
	if flags := binary.LittleEndian.Uint64(d[8:]); suberror == emulation && flags&hasBytes != 0 {
		what = fmt.Sprintf(", instruction % x", d[17:][:min(d[16], 15)])
	}
	if err := e.refresh(); err != nil {
		return vmm.Exit{}, err
	}
	return vmm.Exit{Reason: vmm.ExitUnsupported, Detail: fmt.Sprintf(
		"this host's KVM cannot execute the guest's code at rip %#x (KVM_EXIT_INTERNAL_ERROR, suberror %d%s)",
		e.run.sync.regs.RIP, suberror, what)}, nil
}

// exitName is the name of an exit reason in the KVM API.
func exitName(x gokvm.ExitType) string {
	return "KVM_EXIT_" + strings.TrimPrefix(x.String(), "EXIT")
}

// Interruptible reports whether an interrupt would be taken now.
func (e *Engine) Interruptible() (bool, error) { return e.ready, nil }

// Interrupt queues external interrupt v; KVM delivers it before the next instruction. KVM
// does not look at RFLAGS.IF here, so the caller must have asked Interruptible.
func (e *Engine) Interrupt(v vmm.Vector) error {
	e.arg.vector = uint32(v)
	if _, err := call(e.vcpu, &reqInterrupt, &e.arg.vector); err != nil {
		return err
	}
	e.ready = false
	return nil
}

// Kick makes Run return ExitKick. It sets kicked, then immediate_exit, then sends a signal;
// Run clears immediate_exit, then looks at kicked, then enters the kernel. So:
//
//   - If Run's look at kicked comes after Kick set it, Run sees it.
//   - Else Run's clearing came before Kick's setting of immediate_exit, which stays set, and
//     KVM_RUN looks at it on entry.
//   - If it is set only after that look, the signal is sent later still, to a thread that
//     is inside KVM_RUN: it is pending there, and KVM_RUN returns EINTR.
//
// While tid is 0 no thread is in Run, and the next one will look at kicked. The signal is
// SIGURG: Go's runtime handles it on every thread and ignores one that it did not send
// (it uses it for preemption, so KVM_RUN may also return EINTR without a kick).
func (e *Engine) Kick() {
	e.kicked.Store(true)
	e.run.control.Store(immediateExit)
	if tid := int(e.tid.Load()); tid != 0 {
		// The thread may have left Run meanwhile, or ended: then there is nobody to interrupt.
		_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
	}
}
