package vmm

// Time is guest time: nanoseconds since 1970-01-01 00:00 UTC. It never goes back.
type Time uint64

// Input is one thing that enters the machine at an epoch boundary.
type Input struct {
	Kind InputKind
	// Device is the disk's index, for InputDisk.
	Device uint32
	// ID names the request that is complete, for InputDisk: Output.Seq of it.
	ID uint64
	// Status is how the request ended, for InputDisk.
	Status DiskStatus
	// Data is what was typed, the entropy, or what a disk read returned.
	Data []byte
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
)

// DiskStatus is the outcome of a disk request, with virtio-blk's values
// (virtio 1.2, 5.2.6).
type DiskStatus uint8

const (
	DiskOK    DiskStatus = 0
	DiskError DiskStatus = 1
)

// Output is one thing that the machine wants to send through the door.
// Outputs of one machine come in one order; each channel (console, each disk)
// numbers its own.
type Output struct {
	Kind OutputKind
	// Device is the disk's index, for OutputDisk.
	Device uint32
	// Seq counts within the channel: for the console the number of bytes that came
	// before Data[0], for a disk the number of requests before this one.
	Seq uint64
	// Op, Offset, Length and Data describe a disk request; console bytes are in
	// Data. Data is not changed after it was handed out.
	Op     DiskOp
	Offset uint64 // bytes from the start of the disk
	Length uint64 // bytes to read; len(Data) for a write
	Data   []byte
}

// OutputKind says what an Output is.
type OutputKind uint8

const (
	// OutputConsole is bytes for the console.
	OutputConsole OutputKind = 1 + iota
	// OutputDisk is a disk request.
	OutputDisk
)

// DiskOp is the operation of a disk request.
type DiskOp uint8

const (
	DiskRead DiskOp = 1 + iota
	DiskWrite
	DiskFlush
)
