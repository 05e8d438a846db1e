package vmm

// Time is guest time: nanoseconds since 1970-01-01 00:00 UTC. It never goes back.
type Time uint64

// Rate is how fast guest time passes within an epoch: nanoseconds in RateUnit positions.
type Rate uint64

// RateUnit is how many positions a Rate is about.
const RateUnit = 1 << rateShift

const rateShift = 16

// Input is one thing that enters the machine at an epoch boundary.
type Input struct {
	Kind InputKind
	// Device is the index of the disk, for InputDisk, or of the network interface, for InputFrame.
	Device uint32
	// ID names the request that is complete, for InputDisk: Output.Seq of it.
	ID uint64
	// Status is how the request ended, for InputDisk.
	Status DiskStatus
	// Data is what was typed, the entropy, the frame (see FrameHeader), or what a disk read returned.
	Data []byte
	// Local is set if Data does not travel with a record, for InputDisk: every replica has it on an image of its own.
	Local bool
}

// InputKind says what an Input is.
type InputKind uint8

const (
	// InputConsole is bytes typed at the console.
	InputConsole InputKind = 1 + iota
	// InputDisk is the completion of a disk request.
	InputDisk
	// InputEntropy is a refill of the entropy pool.
	InputEntropy
	// InputFrame is a frame from the network. The guest may have no buffer for it; then it is lost.
	InputFrame
)

// FrameHeader is how many bytes come before the Ethernet frame in an input or output: struct virtio_net_hdr with
// num_buffers (virtio 1.2, 5.1.6), as a tap with IFF_VNET_HDR takes and gives it.
const FrameHeader = 12

// MaxFrame is the most bytes in a frame with its header: a TCP segment of 64 KiB that somebody else will cut up.
const MaxFrame = FrameHeader + 14 + 4 + 65535

// DiskStatus is the outcome of a disk request, with virtio-blk's values
// (virtio 1.2, 5.2.6).
type DiskStatus uint8

const (
	DiskOK    DiskStatus = 0
	DiskError DiskStatus = 1
)

// Output is one thing that the machine wants to send through the door.
// Outputs of one machine come in one order; each channel (console, network, each disk)
// numbers its own.
type Output struct {
	Kind OutputKind
	// Device is the index of the disk, for OutputDisk, or of the network interface, for OutputFrame.
	Device uint32
	// Seq counts within the channel: for the console the number of bytes that came
	// before Data[0], for a disk the number of requests before this one, for the network the number of
	// frames of all interfaces before this one.
	Seq uint64
	// Op, Offset, Length and Data describe a disk request; console bytes and frames are in
	// Data, which is not changed after it was handed out. That of a disk request is lent until the completion enters; for a
	// read it is where to put the data, unless it is nil.
	Op     DiskOp
	Offset uint64 // bytes from the start of the disk
	Length uint64 // bytes that the request is about; len(Data) for a write
	Data   []byte
	// Shared is set for a request to a disk that all hosts reach. Such a disk is part of the outside world.
	Shared bool
}

// OutputKind says what an Output is.
type OutputKind uint8

const (
	// OutputConsole is bytes for the console.
	OutputConsole OutputKind = 1 + iota
	// OutputDisk is a disk request.
	OutputDisk
	// OutputFrame is a frame for the network (see FrameHeader).
	OutputFrame
)

// SectorSize is the unit of a disk's size and of its requests, in bytes (virtio 1.2, 5.2.4).
const SectorSize = 512

// DiskOp is the operation of a disk request.
type DiskOp uint8

const (
	DiskRead DiskOp = 1 + iota
	DiskWrite
	DiskFlush
	// DiskDiscard tells that the guest does not need these bytes any more. They read as zeros from then on: replicas
	// must not differ.
	DiskDiscard
	// DiskWriteZeroes makes these bytes zero, and may give back the room that they took.
	DiskWriteZeroes
)
