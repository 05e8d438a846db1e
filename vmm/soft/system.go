package soft

import (
	"math"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// Bits of CR0, CR4 and EFER (SDM vol. 3A, 2.5 and 2.2.1); fpu.go has those that floating point heeds.
const (
	cr0PE = 1 << 0
	cr0ET = 1 << 4
	cr0NE = 1 << 5
	cr0WP = 1 << 16
	cr0AM = 1 << 18
	cr0NW = 1 << 29
	cr0CD = 1 << 30
	cr0PG = 1 << 31
	// Writes to the other bits of the lower half are ignored.
	cr0Known = cr0PE | cr0MP | cr0EM | cr0TS | cr0ET | cr0NE | cr0WP | cr0AM | cr0NW | cr0CD | cr0PG

	cr4TSD   = 1 << 2
	cr4DE    = 1 << 3
	cr4PSE   = 1 << 4
	cr4PAE   = 1 << 5
	cr4PGE   = 1 << 7
	cr4PCE   = 1 << 8
	cr4Known = cr4TSD | cr4DE | cr4PSE | cr4PAE | cr4PGE | cr4PCE | cr4OSFXSR | cr4OSXMMEXCPT

	eferSCE   = 1 << 0
	eferLME   = 1 << 8
	eferLMA   = 1 << 10
	eferNXE   = 1 << 11
	eferKnown = eferSCE | eferLME | eferLMA | eferNXE
)

// systemLowering is how system instructions are lowered.
var systemLowering = []lowerEntry{
	{x86.JMPF, instEnd((*CPU).jumpFar)},
	{x86.CALLF, instEnd((*CPU).callFar)},
	{x86.RETF, instEnd((*CPU).returnFar)},
	{x86.IRET, instEnd((*CPU).interruptReturn)},
	{x86.INT, instEnd(func(c *CPU, _ *uop, in *x86.Inst) bool { return c.softwareInterrupt(uint8(in.Imm), true) })},
	{x86.INT1, instEnd(func(c *CPU, _ *uop, _ *x86.Inst) bool { return c.softwareInterrupt(excDB, false) })},
	{x86.INT3, instEnd(func(c *CPU, _ *uop, _ *x86.Inst) bool { return c.softwareInterrupt(excBP, true) })},
	{x86.INTO, instEnd((*CPU).intOverflow)},
	{x86.SYSCALL, instEnd((*CPU).sysCall)},
	{x86.SYSRET, privileged(instEnd((*CPU).sysReturn))},
	{x86.SYSENTER, instEnd((*CPU).sysEnter)},
	{x86.SYSEXIT, privileged(instEnd((*CPU).sysExit))},

	{x86.PUSHF, inst((*CPU).pushFlags)},
	{x86.POPF, instEnd((*CPU).popFlagsInst)},
	{x86.STI, instEnd((*CPU).setInterrupts)},
	{x86.CLI, inst((*CPU).clearInterrupts)},
	{x86.HLT, privileged(instEnd(func(c *CPU, _ *uop, _ *x86.Inst) bool { return c.leave(vmm.ExitHalt) }))},
	{x86.IN, instEnd((*CPU).portIn)},
	{x86.OUT, instEnd((*CPU).portOut)},

	{x86.LES, instEnd(loadFar(vmm.ES))},
	{x86.LSS, instEnd(loadFar(vmm.SS))},
	{x86.LDS, instEnd(loadFar(vmm.DS))},
	{x86.LFS, instEnd(loadFar(vmm.FS))},
	{x86.LGS, instEnd(loadFar(vmm.GS))},
	{x86.SWAPGS, privileged(inst((*CPU).swapGS))},

	{x86.SGDT, inst(func(c *CPU, u *uop, _ *x86.Inst) bool { return c.storeTable(u, &c.gdt) })},
	{x86.SIDT, inst(func(c *CPU, u *uop, _ *x86.Inst) bool { return c.storeTable(u, &c.idt) })},
	{x86.LGDT, privileged(reads(func(c *CPU, u *uop, in *x86.Inst) bool { return c.loadTable(u, in, &c.gdt) }))},
	{x86.LIDT, privileged(reads(func(c *CPU, u *uop, in *x86.Inst) bool { return c.loadTable(u, in, &c.idt) }))},
	{x86.SLDT, inst(func(c *CPU, u *uop, in *x86.Inst) bool { return c.storeWord(u, in, uint64(c.ldt.Selector)) })},
	{x86.STR, inst(func(c *CPU, u *uop, in *x86.Inst) bool { return c.storeWord(u, in, uint64(c.tr.Selector)) })},
	{x86.SMSW, inst(func(c *CPU, u *uop, in *x86.Inst) bool { return c.storeWord(u, in, c.cr0) })},
	{x86.LLDT, privileged(reads((*CPU).loadLDT))},
	{x86.LTR, privileged(reads((*CPU).loadTask))},
	{x86.LMSW, privileged(instEnd((*CPU).loadMSW))},
	{x86.VERR, reads((*CPU).verify)},
	{x86.VERW, reads((*CPU).verify)},
	{x86.LAR, reads((*CPU).loadAccess)},
	{x86.LSL, reads((*CPU).loadLimit)},
	{x86.ARPL, reads((*CPU).adjustRPL)},

	{x86.CLTS, privileged(instEnd((*CPU).clearTS))},
	{x86.INVLPG, privileged(instEnd(func(c *CPU, u *uop, _ *x86.Inst) bool {
		c.tlb.drop(c.ea(u))
		return true
	}))},
	{x86.INVD, privileged(inst(nothing))},
	{x86.WBINVD, privileged(inst(nothing))},
	{x86.RDMSR, privileged(inst((*CPU).readMSRInst))},
	{x86.WRMSR, privileged(instEnd((*CPU).writeMSRInst))},
	{x86.RDTSC, inst((*CPU).readTSC)},
	{x86.RDTSCP, inst((*CPU).readTSC)},
	{x86.RDPMC, inst(func(c *CPU, _ *uop, _ *x86.Inst) bool { return c.faultCode(excGP, 0) })},
	{x86.CPUID, inst((*CPU).cpuid)},
	{x86.VMCALL, inst((*CPU).hypercall)},
	{x86.VMMCALL, inst((*CPU).hypercall)},
}

// lowerMovSystem lowers MOV of segment, control and debug registers.
func lowerMovSystem(l *lowerer) {
	switch d, s := l.in.Arg[0].Kind, l.in.Arg[1].Kind; {
	case d == x86.SReg:
		l.wholeEnd((*CPU).moveToSegment)
	case s == x86.SReg:
		l.whole((*CPU).moveFromSegment)
	case d == x86.CReg:
		l.privileged()
		l.wholeEnd((*CPU).moveToControl)
	case s == x86.CReg:
		l.privileged()
		l.whole((*CPU).moveFromControl)
	case d == x86.DReg:
		l.privileged()
		l.wholeEnd((*CPU).moveToDebug)
	default:
		l.privileged()
		l.whole((*CPU).moveFromDebug)
	}
}

// lowerPopSegment lowers POP of a segment register.
func lowerPopSegment(l *lowerer) { l.wholeEnd((*CPU).popSegment) }

// privileged is a lowerFunc for an instruction that raises #GP(0) but at CPL 0, before it looks at its operands.
func privileged(fn lowerFunc) lowerFunc {
	return func(l *lowerer) {
		l.privileged()
		fn(l)
	}
}

func (l *lowerer) privileged() { l.emit(uop{op: uPrivileged}) }

// opPrivileged raises #GP(0) but at CPL 0.
func (c *CPU) opPrivileged(*uop) bool { return c.cpl == 0 || c.faultCode(excGP, 0) }

func nothing(*CPU, *uop, *x86.Inst) bool { return true }

// unsupported ends the guest, which wants what this engine does not have.
func (c *CPU) unsupported(what string) bool {
	c.exit = vmm.Exit{Reason: vmm.ExitUnsupported, Detail: "the guest uses " + what + ", which engine soft does not have"}
	c.stop = stopExit
	return false
}

// resumed ends an instruction that replaced RFLAGS, which were old: if that opened a window for interrupts or
// began single-stepping, execution must look up.
func (c *CPU) resumed(old uint64) bool {
	if c.flags&^old&(flagIF|flagTF) != 0 {
		return c.next()
	}
	return true
}

// word is the value of a general register or memory operand of size bytes.
func (c *CPU) word(u *uop, a *x86.Arg, size uint8) (uint64, bool) {
	if a.Kind == x86.MemOp {
		return c.load(c.ea(u), size)
	}
	return c.r[a.Reg] & sizeMask(size), true
}

// setGPR sets the low size bytes of a general register as instructions do: 4 bytes clear the upper half.
func (c *CPU) setGPR(reg uint8, v uint64, size uint8) {
	if size < 4 {
		mask := sizeMask(size)
		v = c.r[reg]&^mask | v&mask
	}
	if size == 4 {
		v &= math.MaxUint32
	}
	c.r[reg] = v
}

// storeWord is the end of SLDT, STR and SMSW: memory takes 16 bits, a register the operand size.
func (c *CPU) storeWord(u *uop, in *x86.Inst, v uint64) bool {
	if in.Arg[0].Kind == x86.MemOp {
		return c.store16(c.ea(u), uint16(v))
	}
	c.setGPR(in.Arg[0].Reg, v, in.OpSize)
	return true
}

func (c *CPU) intOverflow(*uop, *x86.Inst) bool {
	if !c.of() {
		return true
	}
	return c.softwareInterrupt(excOF, true)
}

// flat is the segment that SYSCALL and the like load: all of the address space.
func flat(sel uint16, access uint32) vmm.Segment {
	const accessed = 1
	return vmm.Segment{Selector: sel, Limit: math.MaxUint32,
		Access: access | accessed | vmm.SegS | vmm.SegP | vmm.SegG | uint32(sel&3)<<vmm.SegDPLShift}
}

// Types of segments, for flat.
const (
	flatCode64 = 0xa | vmm.SegL
	flatCode32 = 0xa | vmm.SegDB
	flatData   = 0x2 | vmm.SegDB
)

func (c *CPU) sysCall(*uop, *x86.Inst) bool {
	if c.mode != x86.Mode64 || c.efer&eferSCE == 0 {
		return c.fault(excUD)
	}
	c.r[vmm.RCX] = c.rip
	c.r[11] = c.rflags()
	c.rip = c.msr[msrLSTAR]
	c.setFlags(c.rflags() &^ c.msr[msrFMASK])
	sel := uint16(c.msr[msrSTAR]>>32) &^ 3
	c.seg[vmm.SS] = flat(sel+8, flatData)
	c.setCS(flat(sel, flatCode64))
	c.trap = c.flags&flagTF != 0
	return true
}

func (c *CPU) sysReturn(_ *uop, in *x86.Inst) bool {
	if c.mode != x86.Mode64 || c.efer&eferSCE == 0 {
		return c.fault(excUD)
	}
	if in.OpSize == 8 && !canonical(c.r[vmm.RCX]) {
		return c.faultCode(excGP, 0)
	}
	old := c.flags
	c.setFlags(c.r[11] & 0x3c7fd7)
	sel := uint16(c.msr[msrSTAR]>>48) | 3
	c.seg[vmm.SS] = flat(sel+8|3, flatData)
	if in.OpSize == 8 {
		c.rip = c.r[vmm.RCX]
		c.setCS(flat(sel+16|3, flatCode64))
	} else {
		c.rip = c.r[vmm.RCX] & math.MaxUint32
		c.setCS(flat(sel, flatCode32))
	}
	c.trap = c.flags&flagTF != 0
	return c.resumed(old)
}

func (c *CPU) sysEnter(*uop, *x86.Inst) bool {
	sel := uint16(c.msr[msrSysenterCS]) &^ 3
	if sel == 0 {
		return c.faultCode(excGP, 0)
	}
	c.flags &^= flagIF | flagVM
	c.seg[vmm.SS] = flat(sel+8, flatData)
	if c.efer&eferLMA != 0 {
		c.r[vmm.RSP], c.rip = c.msr[msrSysenterESP], c.msr[msrSysenterEIP]
		c.setCS(flat(sel, flatCode64))
	} else {
		c.r[vmm.RSP], c.rip = c.msr[msrSysenterESP]&math.MaxUint32, c.msr[msrSysenterEIP]&math.MaxUint32
		c.setCS(flat(sel, flatCode32))
	}
	return true
}

func (c *CPU) sysExit(_ *uop, in *x86.Inst) bool {
	sel := uint16(c.msr[msrSysenterCS]) &^ 3
	rip, rsp := c.r[vmm.RDX], c.r[vmm.RCX]
	if sel == 0 || in.OpSize == 8 && (!canonical(rip) || !canonical(rsp)) {
		return c.faultCode(excGP, 0)
	}
	if in.OpSize == 8 {
		c.rip, c.r[vmm.RSP] = rip, rsp
		c.seg[vmm.SS] = flat(sel+40|3, flatData)
		c.setCS(flat(sel+32|3, flatCode64))
	} else {
		c.rip, c.r[vmm.RSP] = rip&math.MaxUint32, rsp&math.MaxUint32
		c.seg[vmm.SS] = flat(sel+24|3, flatData)
		c.setCS(flat(sel+16|3, flatCode32))
	}
	return true
}

func (c *CPU) pushFlags(_ *uop, in *x86.Inst) bool {
	return c.push(c.rflags()&^flagVM, in.OpSize)
}

func (c *CPU) popFlagsInst(_ *uop, in *x86.Inst) bool {
	v, ok := c.peek(0, in.OpSize)
	if !ok {
		return false
	}
	old := c.flags
	c.addSP(uint64(in.OpSize))
	c.popFlags(v, in.OpSize)
	if (c.flags^old)&flagAC != 0 {
		c.selectTLB()
	}
	return c.resumed(old)
}

func (c *CPU) setInterrupts(*uop, *x86.Inst) bool {
	if c.iopl() < c.cpl {
		return c.faultCode(excGP, 0)
	}
	if c.flags&flagIF != 0 {
		return true
	}
	c.flags |= flagIF
	c.events.Shadow = shadowSTI
	return c.next()
}

func (c *CPU) clearInterrupts(*uop, *x86.Inst) bool {
	if c.iopl() < c.cpl {
		return c.faultCode(excGP, 0)
	}
	c.flags &^= flagIF
	return true
}

// portAllowed checks that size ports from port on may be accessed (SDM vol. 1, 19.5). If not, stop is set.
func (c *CPU) portAllowed(port uint16, size uint8) bool {
	if c.cpl > c.iopl() {
		if c.tr.Access&(sys32|vmm.SegUnusable) != sys32 || c.tr.Limit < tssIOMap+1 {
			return c.faultCode(excGP, 0)
		}
		at, ok := c.loadSystem(c.tr.Base+tssIOMap, 2)
		if !ok {
			return false
		}
		if at += uint64(port) / 8; at+1 > uint64(c.tr.Limit) {
			return c.faultCode(excGP, 0)
		}
		bits, ok := c.loadSystem(c.tr.Base+at, 2)
		if !ok {
			return false
		}
		if bits>>(port%8)&(1<<size-1) != 0 {
			return c.faultCode(excGP, 0)
		}
	}
	c.watchPort(port, size)
	return true
}

// port is the port that an operand of IN and OUT names.
func (c *CPU) port(in *x86.Inst, a *x86.Arg) uint16 {
	if a.Kind == x86.Imm {
		return uint16(uint8(in.Imm))
	}
	return uint16(c.r[vmm.RDX])
}

func (c *CPU) portIn(u *uop, in *x86.Inst) bool {
	port, size := c.port(in, &in.Arg[1]), in.Arg[0].Size
	if !c.portAllowed(port, size) {
		return false
	}
	c.sync(u)
	c.io = [8]byte{}
	c.bus.PortIn(port, c.io[:size])
	v := uint64(0)
	for i, b := range c.io {
		v |= uint64(b) << (8 * i)
	}
	c.setGPR(vmm.RAX, v, size)
	return c.leave(vmm.ExitAccess)
}

func (c *CPU) portOut(u *uop, in *x86.Inst) bool {
	port, size := c.port(in, &in.Arg[0]), in.Arg[1].Size
	if !c.portAllowed(port, size) {
		return false
	}
	c.sync(u)
	for i := range c.io {
		c.io[i] = byte(c.r[vmm.RAX] >> (8 * i))
	}
	c.bus.PortOut(port, c.io[:size])
	return c.leave(vmm.ExitAccess)
}

// segmentLoaded ends an instruction that loaded a segment register other than CS.
func (c *CPU) segmentLoaded(reg uint8, s vmm.Segment) bool {
	c.setSegment(reg, s)
	if reg != vmm.SS {
		return true
	}
	c.events.Shadow = shadowMovSS
	return c.next()
}

func (c *CPU) moveToSegment(u *uop, in *x86.Inst) bool {
	reg := in.Arg[0].Reg
	if reg == vmm.CS || reg > vmm.GS {
		return c.fault(excUD)
	}
	sel, ok := c.word(u, &in.Arg[1], 2)
	if !ok {
		return false
	}
	s, ok := c.dataSegment(reg, uint16(sel))
	return ok && c.segmentLoaded(reg, s)
}

func (c *CPU) moveFromSegment(u *uop, in *x86.Inst) bool {
	if in.Arg[1].Reg > vmm.GS {
		return c.fault(excUD)
	}
	return c.storeWord(u, in, uint64(c.seg[in.Arg[1].Reg].Selector))
}

func (c *CPU) pushSegment(_ *uop, in *x86.Inst) bool {
	return c.push(uint64(c.seg[in.Arg[0].Reg%6].Selector), in.OpSize)
}

func (c *CPU) popSegment(_ *uop, in *x86.Inst) bool {
	sel, ok := c.peek(0, in.OpSize)
	if !ok {
		return false
	}
	reg := in.Arg[0].Reg
	s, ok := c.dataSegment(reg, uint16(sel))
	if !ok {
		return false
	}
	c.addSP(uint64(in.OpSize))
	return c.segmentLoaded(reg, s)
}

// loadFar is LES, LSS and the like: a far pointer goes into a segment register and a general one. They begin no
// interrupt shadow.
func loadFar(reg uint8) execFunc {
	return func(c *CPU, u *uop, in *x86.Inst) bool {
		sel, v, ok := c.farPointer(u, in)
		if !ok {
			return false
		}
		s, ok := c.dataSegment(reg, sel)
		if !ok {
			return false
		}
		c.setSegment(reg, s)
		c.setGPR(in.Arg[0].Reg, v, in.OpSize)
		return true
	}
}

func (c *CPU) swapGS(*uop, *x86.Inst) bool {
	g := &c.seg[vmm.GS].Base
	*g, c.msr[msrKernelGSBase] = c.msr[msrKernelGSBase], *g
	c.r[rGS] = *g
	return true
}

func (c *CPU) storeTable(u *uop, t *vmm.Table) bool {
	p := [10]byte{byte(t.Limit), byte(t.Limit >> 8)}
	for i := range 8 {
		p[2+i] = byte(t.Base >> (8 * i))
	}
	n := 10
	if c.mode != x86.Mode64 {
		n = 6
	}
	return c.storeBlock(c.ea(u), p[:n])
}

func (c *CPU) loadTable(u *uop, in *x86.Inst, t *vmm.Table) bool {
	var p [10]byte
	n := 10
	if c.mode != x86.Mode64 {
		n = 6
	}
	if !c.loadBlock(c.ea(u), p[:n]) {
		return false
	}
	base := uint64(0)
	for i := range 8 {
		base |= uint64(p[2+i]) << (8 * i)
	}
	if in.OpSize == 2 && c.mode != x86.Mode64 {
		base &= 0xff_ffff
	}
	if !canonical(base) {
		return c.faultCode(excGP, 0)
	}
	*t = vmm.Table{Base: base, Limit: uint16(p[0]) | uint16(p[1])<<8}
	return true
}

// systemSegment reads and checks the descriptor of an LDT or a TSS, which is of one of the kinds that kinds has
// a bit for. It must be in the GDT.
func (c *CPU) systemSegment(sel uint16, kinds uint32) (s vmm.Segment, d descriptor, at uint64, ok bool) {
	if sel&4 != 0 {
		return s, 0, 0, c.faultCode(excGP, uint32(sel&^3))
	}
	if d, at, ok = c.descriptor(sel, excGP, 0); !ok {
		return s, 0, 0, false
	}
	if kinds>>d.kind()&1 == 0 {
		return s, 0, 0, c.faultCode(excGP, uint32(sel&^3))
	}
	if !d.present() {
		return s, 0, 0, c.faultCode(excNP, uint32(sel&^3))
	}
	s = d.segment(sel)
	if c.efer&eferLMA != 0 {
		hi, ok := c.upperHalf(sel, at, excGP)
		if !ok {
			return s, 0, 0, false
		}
		s.Base |= hi << 32
		if hi>>40&0x1f != 0 || !canonical(s.Base) {
			return s, 0, 0, c.faultCode(excGP, uint32(sel&^3))
		}
	}
	return s, d, at, true
}

func (c *CPU) loadLDT(u *uop, in *x86.Inst) bool {
	sel, ok := c.word(u, &in.Arg[0], 2)
	if !ok {
		return false
	}
	if sel&^3 == 0 {
		c.ldt = nullSegment(uint16(sel))
		return true
	}
	s, _, _, ok := c.systemSegment(uint16(sel), 1<<sysLDT)
	if ok {
		c.ldt = s
	}
	return ok
}

func (c *CPU) loadTask(u *uop, in *x86.Inst) bool {
	sel, ok := c.word(u, &in.Arg[0], 2)
	if !ok {
		return false
	}
	if sel&^3 == 0 {
		return c.faultCode(excGP, 0)
	}
	kinds := uint32(1 << (sysTSS | sys32))
	if c.efer&eferLMA == 0 {
		kinds |= 1 << sysTSS
	}
	s, d, at, ok := c.systemSegment(uint16(sel), kinds)
	if !ok || !c.storeSystem(at+5, uint64(d>>40&0xff|sysBusy), 1) {
		return false
	}
	s.Access |= sysBusy
	c.tr = s
	return true
}

// reachable reads the descriptor of sel for LAR, LSL, VERR and VERW: ok tells whether the program may know it.
// If it returns false, stop is set.
func (c *CPU) reachable(sel uint16) (d descriptor, ok, access bool) {
	if sel&^3 == 0 {
		return 0, false, true
	}
	d, _, access = c.descriptor(sel, excGP, 0)
	if !access {
		if c.stop == stopFault && c.exc.vector == excGP {
			// It is beyond the table, which these instructions only report.
			c.stop = 0
			return 0, false, true
		}
		return 0, false, false
	}
	open := d.code() && d.conforming() || d.dpl() >= c.cpl && d.dpl() >= uint8(sel&3)
	return d, open, true
}

func (c *CPU) verify(u *uop, in *x86.Inst) bool {
	sel, ok := c.word(u, &in.Arg[0], 2)
	if !ok {
		return false
	}
	d, ok, access := c.reachable(uint16(sel))
	if !access {
		return false
	}
	if in.Op == x86.VERR {
		ok = ok && d.readable()
	} else {
		ok = ok && d.writable()
	}
	c.setZF(ok)
	return true
}

// System descriptors that LAR and LSL know, in long mode and outside it; LAR knows gates as well (SDM vol. 2A, LAR
// and LSL).
const (
	segmentsLong = 1<<sysLDT | 1<<(sysTSS|sys32) | 1<<(sysTSS|sysBusy|sys32)
	segments     = segmentsLong | 1<<sysTSS | 1<<(sysTSS|sysBusy)
	gatesLong    = 1 << (sysCallGate | sys32)
	gates        = gatesLong | 1<<sysCallGate | 1<<sysTaskGate
)

// loadAccess is LAR.
func (c *CPU) loadAccess(u *uop, in *x86.Inst) bool {
	return c.inspect(u, in, segmentsLong|gatesLong, segments|gates,
		func(d descriptor) uint64 { return uint64(d >> 32 & 0xff_ff00) })
}

// loadLimit is LSL.
func (c *CPU) loadLimit(u *uop, in *x86.Inst) bool {
	return c.inspect(u, in, segmentsLong, segments,
		func(d descriptor) uint64 { return uint64(d.segment(0).Limit) })
}

// inspect puts a part of a descriptor into a register, if the descriptor is within reach and of code, data or a
// kind of system descriptor that is in a set: long in long mode, else legacy. ZF tells whether it is.
func (c *CPU) inspect(u *uop, in *x86.Inst, long, legacy uint32, part func(descriptor) uint64) bool {
	sel, ok := c.word(u, &in.Arg[1], 2)
	if !ok {
		return false
	}
	d, ok, access := c.reachable(uint16(sel))
	if !access {
		return false
	}
	kinds := legacy
	if c.efer&eferLMA != 0 {
		kinds = long
	}
	if ok = ok && (d.kind()&0x10 != 0 || kinds>>d.kind()&1 != 0); ok {
		c.setGPR(in.Arg[0].Reg, part(d), in.OpSize)
	}
	c.setZF(ok)
	return true
}

// adjustRPL is ARPL. Its operand must be writable only if it changes, as on AMD's Zen 5.
func (c *CPU) adjustRPL(u *uop, in *x86.Inst) bool {
	dst, ok := c.word(u, &in.Arg[0], 2)
	if !ok {
		return false
	}
	rpl := c.r[in.Arg[1].Reg] & 3
	lower := dst&3 < rpl
	if lower {
		dst = dst&^3 | rpl
		if in.Arg[0].Kind != x86.MemOp {
			c.setGPR(in.Arg[0].Reg, dst, 2)
		} else if a, ok := c.linearAt(in, in.Mem.Seg, c.offset(u, in), 2, true); !ok || !c.store16(a, uint16(dst)) {
			return false
		}
	}
	c.setZF(lower)
	return true
}

func (c *CPU) clearTS(*uop, *x86.Inst) bool {
	c.cr0 &^= cr0TS
	return true
}

func (c *CPU) loadMSW(u *uop, in *x86.Inst) bool {
	v, ok := c.word(u, &in.Arg[0], 2)
	if !ok {
		return false
	}
	const low = cr0PE | cr0MP | cr0EM | cr0TS
	return c.setCR0(c.cr0&^(low&^cr0PE) | v&low)
}

// systemSize is the operand size of MOV to and from control and debug registers.
func (c *CPU) systemSize() uint8 {
	if c.mode == x86.Mode64 {
		return 8
	}
	return 4
}

func (c *CPU) moveFromControl(_ *uop, in *x86.Inst) bool {
	v := uint64(0)
	switch in.Arg[1].Reg {
	case 0:
		v = c.cr0
	case 2:
		v = c.cr2
	case 3:
		v = c.cr3
	case 4:
		v = c.cr4
	case 8:
		v = c.cr8
	default:
		return c.fault(excUD)
	}
	c.setGPR(in.Arg[0].Reg, v, c.systemSize())
	return true
}

func (c *CPU) moveToControl(_ *uop, in *x86.Inst) bool {
	v := c.r[in.Arg[1].Reg] & sizeMask(c.systemSize())
	switch in.Arg[0].Reg {
	case 0:
		return c.setCR0(v)
	case 2:
		c.cr2 = v
		return true
	case 3:
		return c.setCR3(v)
	case 4:
		return c.setCR4(v)
	case 8:
		if v > 0xf {
			return c.faultCode(excGP, 0)
		}
		c.cr8 = v
		return true
	}
	return c.fault(excUD)
}

// setCR0 is MOV to CR0 (SDM vol. 3A, 2.5 and 9.8.5).
func (c *CPU) setCR0(v uint64) bool {
	if v>>32 != 0 || v&cr0PG != 0 && v&cr0PE == 0 || v&cr0NW != 0 && v&cr0CD == 0 {
		return c.faultCode(excGP, 0)
	}
	v = v&cr0Known | cr0ET
	if v&cr0PE == 0 {
		return c.unsupported("real mode (CR0.PE cleared)")
	}
	changed, efer := v^c.cr0, c.efer
	switch {
	case changed&cr0PG == 0:
	case v&cr0PG == 0:
		if c.mode == x86.Mode64 {
			return c.faultCode(excGP, 0)
		}
		efer &^= eferLMA
	case efer&eferLME != 0:
		if c.cr4&cr4PAE == 0 || c.seg[vmm.CS].Access&vmm.SegL != 0 || c.tr.Access&sys32 == 0 {
			return c.faultCode(excGP, 0)
		}
		efer |= eferLMA
	}
	if v&cr0PG != 0 && efer&eferLMA == 0 && c.cr4&cr4PAE != 0 && changed&(cr0PG|cr0CD|cr0NW) != 0 && !c.goodPDPTEs(c.cr3) {
		return false
	}
	c.cr0, c.efer = v, efer
	if changed&(cr0PG|cr0WP) != 0 {
		c.tlb.flush(true)
	}
	c.setMode()
	return c.next()
}

// goodPDPTEs raises #GP(0) if the four entries that PAE paging loads when CR3 is set have reserved bits set.
func (c *CPU) goodPDPTEs(cr3 uint64) bool {
	for i := range uint64(4) {
		e := c.readPhys(cr3&0xffff_ffe0+8*i, 8)
		if e&pteP != 0 && e&pdpteReserved != 0 {
			return c.faultCode(excGP, 0)
		}
	}
	return true
}

func (c *CPU) setCR3(v uint64) bool {
	if c.efer&eferLMA != 0 {
		if v&^physMask != 0 {
			return c.faultCode(excGP, 0)
		}
	} else if c.cr0&cr0PG != 0 && c.cr4&cr4PAE != 0 && !c.goodPDPTEs(v) {
		return false
	}
	c.cr3 = v
	c.tlb.flush(false)
	return true
}

func (c *CPU) setCR4(v uint64) bool {
	if v&^cr4Known != 0 || c.efer&eferLMA != 0 && v&cr4PAE == 0 {
		return c.faultCode(excGP, 0)
	}
	changed := v ^ c.cr4
	if c.cr0&cr0PG != 0 && c.efer&eferLMA == 0 && v&cr4PAE != 0 && changed&(cr4PAE|cr4PGE|cr4PSE) != 0 && !c.goodPDPTEs(c.cr3) {
		return false
	}
	c.cr4 = v
	if changed&(cr4PAE|cr4PGE|cr4PSE) != 0 {
		c.tlb.flush(true)
	}
	return c.next()
}

// debugRegister is the number of the debug register that an operand names. If it returns false, stop is set.
func (c *CPU) debugRegister(reg uint8) (uint8, bool) {
	if reg > 7 || reg>>1 == 2 && c.cr4&cr4DE != 0 {
		return 0, c.fault(excUD)
	}
	if c.dr7&dr7GD != 0 {
		c.exc = exception{vector: excDB, addr: dr6BD}
		c.stop = stopFault
		return 0, false
	}
	if reg>>1 == 2 { // DR4 and DR5 are other names of DR6 and DR7
		reg += 2
	}
	return reg, true
}

func (c *CPU) moveFromDebug(_ *uop, in *x86.Inst) bool {
	reg, ok := c.debugRegister(in.Arg[1].Reg)
	if !ok {
		return false
	}
	v := c.dr[reg&3]
	switch reg {
	case 6:
		v = c.dr6
	case 7:
		v = c.dr7
	}
	c.setGPR(in.Arg[0].Reg, v, c.systemSize())
	return true
}

func (c *CPU) moveToDebug(_ *uop, in *x86.Inst) bool {
	reg, ok := c.debugRegister(in.Arg[0].Reg)
	if !ok {
		return false
	}
	v := c.r[in.Arg[1].Reg] & sizeMask(c.systemSize())
	switch {
	case reg < 4:
		c.dr[reg] = v
		return true
	case v>>32 != 0:
		return c.faultCode(excGP, 0)
	case reg == 6:
		c.dr6 = v&dr6Keep | dr6Fixed
		return true
	}
	c.dr7 = v&dr7Keep | dr7Fixed
	c.selectTLB()
	return c.next()
}
