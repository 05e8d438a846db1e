package soft

import "ftvm/vmm"

// slice is how many instructions are executed, but for the last block's, before Run looks whether it was kicked.
const slice = 1 << 14

// maxDeliveries bounds how many exceptions in a row are delivered without one instruction retired. A real CPU
// would go on for ever.
const maxDeliveries = 1 << 16

// Run is vmm.Engine's.
func (c *CPU) Run(until vmm.Position, window bool, bus vmm.Bus) (vmm.Exit, error) {
	c.bus, c.until, c.window = bus, until, window
	c.rest, c.left = uint64(until-c.pos), 0
	x := c.run()
	c.bus = nil
	c.pos = until - vmm.Position(c.rest+c.left)
	return x, nil
}

func (c *CPU) run() vmm.Exit {
	for {
		if c.left < maxBlock { // which may be too few for the next block
			more := min(c.rest, slice)
			c.left += more
			c.rest -= more
		}
		if c.left == 0 {
			return vmm.Exit{Reason: vmm.ExitPosition}
		}
		if c.dead {
			c.left--
			return vmm.Exit{Reason: vmm.ExitShutdown}
		}
		if c.window && c.interruptible() {
			return vmm.Exit{Reason: vmm.ExitWindow}
		}
		if c.kicked.Load() {
			c.kicked.Store(false)
			return vmm.Exit{Reason: vmm.ExitKick}
		}
		if x := c.advance(); x.Reason != 0 {
			return x
		}
	}
}

// advance executes instructions, delivering the exceptions that they raise, up to a position where run has
// something to look at.
func (c *CPU) advance() vmm.Exit {
	for deliveries := 0; ; {
		before := c.left
		c.stop = 0
		if c.events.HasException {
			c.exc, c.stop = c.pendingException(), stopFault
		} else if c.oneByOne() {
			c.one()
		} else {
			// Whether an interrupt can be taken after the next instruction is asked by nobody.
			c.events.Shadow = 0
			c.blocks()
		}
		if c.stop == stopRedo {
			c.stop = 0
			c.one()
		}
		switch c.stop {
		case stopExit:
			return c.exit
		case stopFault:
		default:
			return vmm.Exit{}
		}
		if c.left != before {
			deliveries = 0
		}
		if deliveries++; deliveries > maxDeliveries {
			c.left--
			return vmm.Exit{Reason: vmm.ExitUnsupported,
				Detail: "the guest raises exceptions for ever without executing an instruction"}
		}
		if c.raise(c.exc); c.dead {
			c.left--
			return vmm.Exit{Reason: vmm.ExitShutdown}
		}
	}
}

// blocks executes blocks until left is used up or stop is set.
func (c *CPU) blocks() {
	b := c.lookup()
	for b != nil {
		n := uint64(b.n)
		if c.left < n {
			if c.rest == 0 { // else it need not end here
				c.part(b)
			}
			return
		}
		if b.code != 0 || c.hot(b) {
			b = c.compiled(b)
			continue
		}
		c.left -= n
		c.cur = b
		c.r[rIP] = c.rip
		ops := b.ops
		for i := range ops {
			if u := &ops[i]; !u.do(c) {
				c.stopped(u)
				return
			}
		}
		if c.left == 0 {
			return
		}
		b = c.follow(b)
	}
}

// follow finds or makes the block that execution goes on with after b. It returns nil after a fault, with stop set.
func (c *CPU) follow(b *block) *block {
	way := c.way & 1
	next := b.link[way]
	if next == nil {
		next = c.lookup()
		if b.near[way] && next != &c.code.alone {
			b.link[way] = next
		}
	}
	return next
}

// stopped puts rip and left right after micro-operation u of the current block returned false.
func (c *CPU) stopped(u *uop) {
	if c.stop <= stopRedo {
		c.left += uint64(c.cur.n - u.n)
		c.rip = c.r[rIP] + uint64(u.off)
	}
}

// part executes the first left instructions of b, which has more.
func (c *CPU) part(b *block) {
	k := uint8(c.left)
	if b.fused && k == b.n-1 {
		k--
	}
	c.left -= uint64(b.n)
	c.cur = b
	c.r[rIP] = c.rip
	i := 0
	for ; b.ops[i].n < k; i++ {
		if u := &b.ops[i]; !c.loud(u) {
			c.stopped(u)
			return
		}
	}
	c.left += uint64(b.n - k)
	c.rip = c.r[rIP] + uint64(b.ops[i].off)
	if c.left != 0 {
		c.one()
	}
}

// one executes one instruction alone, with all that can happen around an instruction: accesses to the
// bus, breakpoints, single-stepping and the end of an interrupt shadow.
func (c *CPU) one() {
	if c.breakpoint() {
		return
	}
	lin, ok := c.fetchAddr()
	if !ok {
		return
	}
	b := c.alone(lin)
	if b == nil {
		return
	}
	c.events.Shadow, c.resume = 0, false
	c.trap, c.hit = c.flags&flagTF != 0, 0
	c.pos = c.until - vmm.Position(c.rest+c.left)
	c.left -= uint64(b.n)
	c.cur = b
	c.r[rIP] = c.rip
	c.stepping, c.touched = true, false
	for i := range b.ops {
		if u := &b.ops[i]; !u.do(c) {
			c.stopped(u)
			break
		}
	}
	c.stepping = false
	if c.stop == stopFault {
		return
	}
	c.traps()
	if c.stop != stopExit {
		c.stop = stopNext
		if c.touched {
			c.leave(vmm.ExitAccess)
		}
	}
}
