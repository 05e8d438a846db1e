package soft

import (
	"fmt"

	"ftvm/vmm"
	"ftvm/vmm/soft/x86"
)

// TickNs is guest time per instruction. It is small enough that no host executes instructions faster than
// guest time passes, so that guest time does not outrun the host's.
const TickNs = 2

// Model names what this engine does. Its number grows whenever a guest could tell the difference, so that
// replicas of different builds do not meet.
const Model = brand + ", revision 2"

// New makes a CPU for a guest's memory. Its state is to be set before anything else.
func New(ram *vmm.RAM, o Options) *CPU {
	c := &CPU{ram: ram}
	c.native.init(o)
	c.tlb.reset()
	c.code.longest = maxBlock
	c.code.limit = maxUops
	pages := (ram.Size() + pageMask) / pageSize
	c.code.pages = make([]*codePage, pages)
	c.code.lines = make([]uint64, pages)
	c.code.nowhere.mem = new([pageSize]byte)
	for i := range c.code.nowhere.mem {
		c.code.nowhere.mem[i] = 0xff
	}
	ram.Watch(func(a vmm.GPA, n uint64) {
		for end := uint64(a) + n; uint64(a) < end; {
			k := min(end-uint64(a), pageSize-uint64(a)&pageMask)
			c.modified(uint64(a), k)
			a += vmm.GPA(k)
		}
	})
	return c
}

// Undefined tells how often instructions that exist, but not on this CPU, raised #UD, by their names.
func (c *CPU) Undefined() map[string]uint64 {
	counts := map[string]uint64{}
	for op, n := range c.undefined {
		if n != 0 {
			counts[x86.Op(op).String()] = n
		}
	}
	return counts
}

// Clock is vmm.Engine's.
func (c *CPU) Clock() vmm.Clock {
	return vmm.Clock{Name: "instructions", Exact: true, TickNs: TickNs}
}

// Position is vmm.Engine's.
func (c *CPU) Position() vmm.Position { return c.pos }

// Kick is vmm.Engine's.
func (c *CPU) Kick() { c.kicked.Store(true) }

// Close is vmm.Engine's.
func (c *CPU) Close() error {
	c.ram.Watch(nil)
	return nil
}

// Interruptible is vmm.Engine's.
func (c *CPU) Interruptible() (bool, error) { return c.interruptible(), nil }

func (c *CPU) interruptible() bool {
	return c.flags&flagIF != 0 && c.events.Shadow == 0 && !c.events.HasException && !c.dead
}

// Interrupt is vmm.Engine's. The interrupt is delivered here and now.
func (c *CPU) Interrupt(v vmm.Vector) error {
	if !c.interruptible() {
		return fmt.Errorf("soft: interrupt %#x at position %d, where the CPU takes none", v, c.pos)
	}
	c.interrupt(uint8(v))
	return nil
}
