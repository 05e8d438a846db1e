// Package devices is the platform of the machine: a PC without BIOS whose disks, network
// interfaces and entropy source are modern virtio devices on PCI. [Board] joins the models
// and is what package vmm sees.
//
// Invariants:
//
//   - Inside the door: every model is a function of the guest's accesses, of guest
//     time and of the delivered inputs. Nothing here reads a clock, file, socket or
//     random source, starts a goroutine or ranges over a map.
//   - What the guest writes, to registers or to its memory, never panics, never makes
//     unbounded work, and has an outcome that is the same on every replica.
//   - Everything that decides what a model does next is visited by its State method.
//     Outputs that were produced but not yet collected are not state: whoever saves
//     collects them first. Data of disk writes in flight is not state either: it left
//     with its output. Frames are never kept.
//
// One goroutine at a time may use a Board. Read board.go first, then pci.go,
// virtiopci.go, virtqueue.go and virtioblk.go for the way of a disk request, virtionet.go for
// that of a frame.
package devices
