// Package kvm is the engine on Linux's /dev/kvm: one vCPU without an in-kernel interrupt
// controller. It is the only package that talks to KVM, and with package boot the only importer
// of gokvm, whose types and set-up calls it uses; calls on the run path are its own, because
// gokvm's hide EINTR, drop counts or pass the wrong argument.
//
// Invariants:
//
//   - After Run, unless Exit.Mid is set, no instruction is half done: KVM finishes an access
//     only on the next KVM_RUN, so the engine makes one with immediate_exit set, and serves what
//     comes back (the next element of a string, the other half of a split access).
//   - Interrupts are injected at stops only, when KVM says that the guest would take them. The
//     interrupt window exit is never asked for: on some hosts it is late by hundreds of
//     instructions.
//   - Nothing of the vCPU that the guest can write is outside vmm.CPUState: other
//     model-specific registers raise #GP, and CPUID shows a fixed list of features
//     (see guestMSRs and leaves). A host may show and do more than that; Probe tells.
//   - The run path allocates no memory. Package unsafe is used in files named *_unsafe.go only.
//     What is passed to gokvm by address is on the heap: it loses sight of the address, and a
//     growing stack would move it.
//
// # Clocks
//
// On the clock "exits" a position is an exit that the guest made: an access to a port or to
// memory outside RAM, or HLT. It is counted when its instruction is complete. REP strings
// count where KVM comes up for air: at least once, and between two iterations. The guest's end
// (shutdown, an instruction that KVM cannot execute) counts as well.
//
// On the clock "step" a position is one single step of KVM_SET_GUEST_DEBUG, or an exit as above.
// Where the host does not step through everything, a stretch that runs free counts as one
// position, up to its next exit, and the clock has another name, for replicas to compare:
//
//   - "step-cpl0": CPL3, and the kernel that it enters on the way, run free.
//   - "-nohandlers" is added if handlers of interrupts and exceptions run free.
//
// Only "step" itself is exact; on the others Run may return ExitKick with Mid set. A REP string
// may be one step or several, and MOV SS is stepped together with its successor on some CPUs.
// KVM steps by way of RFLAGS.TF, so that copies of RFLAGS that the guest makes (PUSHF,
// SYSCALL, frames of interrupts) may have it set; the guest's own use of TF and of breakpoint
// registers does not work on these clocks.
//
// # Calling
//
// One goroutine, locked to its thread, calls an Engine; Kick may come from any, but not after
// Close. Probe may be called from any goroutine.
//
// Read run.go first, then state.go and step.go.
package kvm
