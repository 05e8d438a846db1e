package soft

import (
	"sync/atomic"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// Slots of the register file CPU.r. Slots 0 to 15 are the general registers by their encoding.
// It has 256 so that an index of type uint8 needs no check.
const (
	rIP   = 16 + iota // RIP of the first instruction of the block being executed
	rZero             // always 0
	rES               // rES+n: base of segment n for memory operands; 0 for ES, CS, SS and DS in 64-bit mode
	_
	_
	_
	rFS
	rGS
	t0 // temporaries within one instruction
	t1
	t2
	t3
	tEA   // linear address, where a memory operand needs more than one addition
	rPage // linear address of the page being executed, in compiled code only
)

// CPU is one x86-64 CPU.
type CPU struct {
	r [256]uint64

	// Arithmetic flags, not yet put together; see flags.go.
	fr, fc uint64
	fs     uint8

	// cpl is the current privilege level.
	cpl uint8
	// mode is how code is decoded.
	mode x86.Mode

	// rip is the instruction pointer between blocks.
	rip uint64

	// cur is the block being executed. left counts down the instructions that may still be executed before
	// Run looks up; those of cur are taken off when it is entered. rest is what remains to be executed
	// after these.
	cur        *block
	left, rest uint64
	// way is which of its ends the block left by: 1 if a conditional branch was taken.
	way uint8

	// stop says why a handler returned false.
	stop stop
	// exc is the exception to be delivered with stopFault.
	exc exception
	// exit is what Run returns with stopExit.
	exit vmm.Exit

	// stepping is set while one instruction is executed alone; then it may reach for the bus. delivering is
	// set while an exception or interrupt is delivered.
	stepping, delivering bool
	// touched is set once it did.
	touched bool
	// trap is set if #DB follows the instruction because of RFLAGS.TF. hit has the bits for DR6 of the
	// breakpoints that its accesses hit.
	trap bool
	hit  uint64

	// rd, wr and ex are the TLBs that the current privilege level uses.
	rd, wr *[tlbSize]tlbEntry
	ex     *[tlbSize]codeEntry
	// aligned is set while alignment is checked; watched if that, or data breakpoints, make each access to
	// memory take the slow path.
	aligned, watched bool

	// flags holds RFLAGS without the arithmetic flags and RF; flagsFixed is always set.
	flags uint64
	// resume is RFLAGS.RF. It is kept only while instruction breakpoints are enabled.
	resume bool

	fpu fpu

	// until is where Run is to stop. pos is the position, brought up to date by sync and when Run returns.
	until vmm.Position
	pos   vmm.Position
	// window is set if Run is to stop where an interrupt can be taken.
	window bool

	ram *vmm.RAM
	bus vmm.Bus
	// io holds what goes to and comes from the bus.
	io [8]byte

	seg            [6]vmm.Segment
	ldt, tr        vmm.Segment
	gdt, idt       vmm.Table
	cr0, cr2, cr3  uint64
	cr4, cr8, efer uint64
	dr             [4]uint64
	dr6, dr7       uint64
	msr            [len(vmm.MSRs)]uint64
	apicBase, xcr0 uint64
	// tscAdjust is added to guest time, in ns, to give the time stamp counter.
	tscAdjust uint64
	// wallClock and systemTime are the registers msrWallClock and msrSystemTime.
	wallClock, systemTime uint64
	events                vmm.Events
	// dead is set once the CPU has shut down (triple fault).
	dead bool

	tlb    tlb
	code   codeCache
	native native
	kicked atomic.Bool

	// undefined counts instructions of x86-64 that raised #UD because they are not implemented.
	undefined [x86.NumOps]uint64
}

// stop says why execution of a block ended before its end, or should not go on to the next one.
type stop uint8

const (
	// stopFault: the instruction raises CPU.exc; it has changed nothing.
	stopFault stop = 1 + iota
	// stopRedo: the instruction must be executed alone; it has changed nothing.
	stopRedo
	// stopNext: the instruction, the last of its block, is complete and may have changed how instructions
	// are executed. CPU.rip is set.
	stopNext
	// stopExit: like stopNext, and Run is to return CPU.exit.
	stopExit
)

// fault makes the current instruction raise an exception without error code. It returns false, for
// handlers to return.
func (c *CPU) fault(vector uint8) bool {
	c.exc = exception{vector: vector}
	c.stop = stopFault
	return false
}

// faultCode is fault, with an error code.
func (c *CPU) faultCode(vector uint8, code uint32) bool {
	c.exc = exception{vector: vector, code: code, hasCode: true}
	c.stop = stopFault
	return false
}

// next ends a block after a complete instruction that changed how instructions are executed. CPU.rip is
// already that of the next one.
func (c *CPU) next() bool {
	c.stop = stopNext
	return false
}

// leave is next, and makes Run return.
func (c *CPU) leave(reason vmm.ExitReason) bool {
	c.exit = vmm.Exit{Reason: reason}
	c.stop = stopExit
	return false
}

// sync makes Position tell where u's instruction begins, for the Bus.
func (c *CPU) sync(u *uop) {
	c.pos = c.until - vmm.Position(c.rest+c.left+uint64(c.cur.n-u.n))
}
