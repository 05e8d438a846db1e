// Package oracle makes tests for a software CPU out of a real one: it generates instruction cases,
// records what the CPU of this host does with each, and compares an engine with that.
//
// A [Case] is one instruction, the whole state of CPL 3 before it and what is in memory; an [Outcome] is the
// state after it, or the fault that it raised. Cases are a function of a seed ([Generator]); outcomes come from a
// [Recorder], a child process that runs each case natively (recorder.c), or from the [Corpus] in testdata, for
// hosts that cannot record. [Check] compares an engine's outcomes with them, except for what [Undefined] says.
//
// # The machine of a case
//
// 64-bit mode or 32-bit compatibility mode, CPL 3, paging on, CR0.AM, CR0.NE, CR0.WP, CR4.OSFXSR and CR4.OSXMMEXCPT
// set, CR4.TSD and IOPL clear, IF set. Memory is that of layout.go, everything else is not present. Segments are those of Segments.
// No instruction of the environment (CPUID, RDTSC, XGETBV...) occurs; nor does any beyond x86-64-v2.
//
// # One step
//
// A case ends after one instruction. For a string instruction with a REP prefix that is one iteration, or
// none if the count is zero: RIP is still that of the instruction if another iteration is due. A fault leaves RIP
// at the instruction; INT3 and INTO leave it behind. RFLAGS.TF and RF are never set, neither before nor after,
// nor are they in what PUSHF stores.
//
// # What differs between CPUs
//
// Not compared, because the manual leaves it open or AMD and Intel differ: see mask.go, which names each with
// its reason. Never generated, for the same reasons:
//
//   - near branches with an operand-size prefix in 64-bit mode: Intel ignores it, AMD truncates RIP;
//   - LZCNT and TZCNT (F3 with BSR and BSF), which a CPU of x86-64-v2 executes as BSR and BSF;
//   - LOOPE and LOOPNE with F2 or F3, which AMD's CPUs take for the condition instead of the opcode;
//   - UD1 of which not all is there, or that is too long: Intel takes a ModRM byte for a part of it, AMD does not;
//   - MOVSXD from memory with an operand of 16 bits: Intel reads 16 bits, AMD 32;
//   - images of the x87 environment that wrap around the end of a 32-bit segment: AMD has executed FLDENV and
//     FRSTOR in part when a later word raises #GP;
//   - LOCK with MOV to and from control registers, AMD's encoding of CR8, and bit 17 of MXCSR, which only AMD has;
//   - loads of segment registers, far transfers, and SYSCALL, SYSENTER and INT 80h, which the host's kernel would answer;
//   - SGDT, SIDT, SLDT, STR, SMSW, which the host's kernel answers when UMIP is set.
//
// Recorder and Generator are for one goroutine each. Read case.go first, then generate.go; forms.go has the
// table of instructions, recorder.c the trick.
package oracle
