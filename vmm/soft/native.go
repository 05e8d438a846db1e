package soft

// Options are what New needs besides a guest's memory.
type Options struct {
	// Code is memory that the process may write and execute, at least MinCode bytes, for blocks compiled to the host's
	// machine code. It is the CPU's until Close. If it is nil, or the host is of a kind that there is no compiler for,
	// everything is interpreted: slower, and otherwise the same.
	Code []byte
	// Threshold is how often a block is interpreted before it is compiled; 0 is the default.
	Threshold int
}

// MinCode is how much memory for code is enough to use it, in bytes: that for some of the longest blocks.
const MinCode = 1 << 18

// defaultThreshold is where booting Linux takes least; from 4 to 100 it takes at most a tenth longer.
const defaultThreshold = 16

// never is a threshold that no block reaches.
const never = 1<<16 - 1

// A target is where code for the block at a physical address begins.
type target struct {
	phys uint64
	code uintptr
}

// Branches to other pages find their targets through a table, after the TLB for fetches has told the physical address.
const targets = 1 << 14

// noTarget is no physical address.
const noTarget = ^uint64(0)

// targetIndex is the place of a physical address in the table; compiler.find computes the same.
func targetIndex(phys uint64) uint64 { return (phys ^ phys>>targetFold) % targets }

const targetFold = 9

// native is the compiled code and what it shares with Go. Compiled code is entered by nativeRun and returns when a micro-operation
// has to be executed in Go, when it gets to a block that has no code or is not known, and when CPU.left does not suffice
// for the next block. It makes no change that Go has not been told of when it returns: what is not simple is left to the
// micro-operation's function, with everything as it was before.
type native struct {
	// flags are the arithmetic flags while compiled code runs: see hostFlags.
	flags uint32
	// exit says why it returned; block is the number of the block in blocks.
	exit, block uint32
	// resume is the address to go on at after an instruction that was executed in Go.
	resume uintptr
	// to and page hold where a call leads while its return address is stored.
	to, page uint64
	// float is set if compiled code may compute with floating point, because the guest's MXCSR differs from
	// its value after a reset, which plain holds, by the flags at most. mxcsr is the host's at the exit; its flags are the guest's.
	float        bool
	plain, mxcsr uint32
	// targets is the table of blocks by physical address.
	targets *[targets]target

	// mem is the memory for code, and base its address, 0 if there is no compiler.
	mem  []byte
	base uintptr
	// threshold is how often a block is interpreted before it is compiled.
	threshold uint16
	// blocks are those that have code, and some that had.
	blocks []*block
	compiler
}

// Why compiled code returned: exit>>exitKind. The rest of exit is
const (
	exitUop  = iota // the number of the micro-operation to be executed in Go
	exitNear        // way<<exitWay | offset in the page of the block that follows, which has no code yet
	exitLeft        // nothing: CPU.left does not suffice for this block

	exitKind = 24
	exitWay  = 16
)

// Flags in compiled code are the host's, as LAHF and SETO give them: SF, ZF, AF, PF and CF in bits 15 to 8, and
// in the low byte 0, 1 if OF is set, or flagsNoAF if both OF and, whatever bit 12 says, AF are clear. The
// latter spares clearing AF after logical operations, which a host may leave as it likes.
const flagsNoAF = 0x80

// hostFlags puts the flags together for compiled code.
func (c *CPU) hostFlags() uint32 {
	f := uint32(c.arith())
	return f&0xff<<8 | f/flagOF&1
}

// setHostFlags is the reverse.
func (c *CPU) setHostFlags(v uint32) {
	f := uint64(v)
	of := f & 1
	f = f >> 8 &^ (f & flagsNoAF / flagsNoAF * flagAF)
	cf := f & flagCF
	c.fr = ^f / flagZF & 1
	c.fc = cf<<63 | (cf^of)<<62 | f/flagAF&1<<3 | f/flagSF&1<<1 | f/flagPF&1
	c.fs = fsExplicit
}

// hot counts an execution of b, and compiles it if it is time. It tells whether there is code.
func (c *CPU) hot(b *block) bool {
	if b.heat++; b.heat < c.native.threshold {
		return false
	}
	b.heat = 0
	return c.compile(b)
}

// compiled executes b and the blocks after it by their code. It returns the block where that ends, or nil if
// stop is set or left is used up.
func (c *CPU) compiled(b *block) *block {
	n := &c.native
	at := n.enter(b)
	c.r[rPage] = c.rip &^ pageMask
	n.flags = c.hostFlags()
	n.float = b.floats && c.fpu.plain()
	for {
		nativeRun(c, n.base, at)
		b = n.blocks[n.block]
		start := c.r[rPage] + b.phys&pageMask
		c.setHostFlags(n.flags)
		if n.float {
			c.fpu.sse.Flags |= uint8(n.mxcsr & fpFlags)
		}
		why, arg := n.exit>>exitKind, n.exit&(1<<exitKind-1)
		switch why {
		case exitLeft:
			c.rip = start
			if c.left == 0 {
				return nil
			}
			return b
		case exitNear:
			c.rip, c.way = c.r[rPage]+uint64(arg&pageMask), uint8(arg>>exitWay)
		case exitUop:
			c.cur, c.rip, c.r[rIP] = b, start, start
			fr, fc, fs := c.fr, c.fc, c.fs
			u := &b.ops[arg]
			if !u.do(c) {
				c.stopped(u)
				return nil
			}
			if c.fr != fr || c.fc != fc || c.fs != fs {
				n.flags = c.hostFlags()
			}
			if n.float || u.op >= uVector { // where there is one such instruction, there are more
				n.float = c.fpu.plain()
			}
			if int(arg) != len(b.ops)-1 {
				at = n.resume
				continue
			}
		}
		if c.left == 0 {
			return nil
		}
		next := c.follow(b)
		if next == nil || next.code == 0 {
			return next
		}
		if why == exitNear && b.code != 0 {
			n.link(b, next)
		}
		at = n.enter(next)
		c.r[rPage] = c.rip &^ pageMask
	}
}

// enter is the address of b's code, to go there from Go. Other pages find it from now on.
func (n *native) enter(b *block) uintptr {
	at := n.base + uintptr(b.code)
	n.targets[targetIndex(b.phys)] = target{b.phys, at}
	return at
}

// forget makes b a block without code.
func (n *native) forget(b *block) {
	if b.code != 0 {
		b.code = 0
		if t := &n.targets[targetIndex(b.phys)]; t.phys == b.phys {
			t.phys = noTarget
		}
	}
}
