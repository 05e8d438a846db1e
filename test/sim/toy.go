package sim

import (
	"errors"
	"fmt"
	"strconv"

	"ftvm/vmm"
)

const (
	blocks      = 8
	sectorBytes = 8
	blockBytes  = 2 * sectorBytes // two sectors, so that a write can be half done
	maxFlight   = 4
	maxTyped    = 32
	maxArrived  = 3
	poolBytes   = 16
	disks       = 2 // the replica's own, and one that is shared in some worlds
)

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// sharedDisk is the number of the disk that all hosts reach.
const sharedDisk = 1

// op is what the toy guest does in one position.
type op uint8

const (
	opCompute op = iota
	opPrint
	opWrite
	opRead
	opFlush
	opAwait // halt until no request is in flight
	opSleep // halt until a time
	opTime
	opEntropy
	opInput  // take what was typed, or halt until somebody types, for some time
	opSend   // send a frame
	opAnswer // answer a frame, or halt until one comes, for some time
	opKinds
)

// guest says what the toy guest is. It is the same on all replicas.
type guest struct {
	salt    uint64
	txns    uint32 // it ends after so many transactions
	crash   bool   // with a crash
	opsEach uint32 // operations of a transaction
	menu    [32]op // an operation is drawn from here
	sleep   uint64 // longest sleep, ns
	shared  bool   // it has a shared disk
}

// toy is a deterministic machine that is driven by a hash of all it has seen: whatever is
// different in what enters it, or in the position at which it enters, is different in
// all that it does later. It implements epoch.Machine.
type toy struct {
	guest *guest

	pos, basePos vmm.Position
	base         vmm.Time
	rate         vmm.Rate
	acc          uint64    // hash of all that it has seen
	ram          [4]uint64 // only digests of memory see it
	ops, txn     uint32
	waits        op       // what it halted for, or opCompute
	alarm        vmm.Time // when it wakes, for opSleep and opInput
	typed        [maxTyped]byte
	typedLen     int
	pool         [poolBytes]byte
	poolLen      int
	arrived      [maxArrived]uint64 // hashes of frames
	arrivedLen   int
	printed      uint64
	sent         uint64
	requests     [disks]uint64
	flight       [maxFlight]toyRequest
	flightLen    int
	end          vmm.End
	ended        bool

	outs []vmm.Output
}

type toyRequest struct {
	device uint32
	id     uint64
	op     vmm.DiskOp
	block  uint64
}

func newToy(g *guest) *toy { return &toy{guest: g, acc: g.salt} }

func (m *toy) Position() vmm.Position { return m.pos }
func (m *toy) Time() vmm.Time {
	return m.base + vmm.Time(uint64(m.pos-m.basePos)*uint64(m.rate)/vmm.RateUnit)
}
func (m *toy) End() (vmm.End, bool) { return m.end, m.ended }

// Deadline is the time at which the guest wakes by itself.
func (m *toy) Deadline() (vmm.Time, bool) {
	return m.alarm, m.waits == opSleep || m.waits == opInput || m.waits == opAnswer
}

// FrameRoom is as in vmm.Machine.
func (m *toy) FrameRoom(_ uint32, frames [][]byte) int {
	return min(len(frames), maxArrived-m.arrivedLen)
}

// EntropyWanted is as in vmm.Machine.
func (m *toy) EntropyWanted() int {
	if m.poolLen < poolBytes/2 {
		return poolBytes - m.poolLen
	}
	return 0
}

// Outputs is as in vmm.Machine.
func (m *toy) Outputs(dst []vmm.Output) []vmm.Output {
	dst = append(dst, m.outs...)
	m.outs = m.outs[:0]
	return dst
}

// Run is as in vmm.Machine: what wakes the guest is seen before the position is.
func (m *toy) Run(until vmm.Position, pause func() bool) (vmm.StopReason, error) {
	for {
		switch {
		case m.ended:
			return vmm.StopEnded, nil
		case m.halted():
			return vmm.StopHalted, nil
		case m.pos >= until:
			return vmm.StopPosition, nil
		case pause != nil && pause():
			return vmm.StopPaused, nil
		}
		m.step()
		m.pos++
	}
}

// halted wakes the guest if there is a reason to.
func (m *toy) halted() bool {
	awake := true
	switch m.waits {
	case opAwait:
		awake = m.flightLen == 0
	case opSleep:
		awake = m.Time() >= m.alarm
	case opInput:
		awake = m.typedLen > 0 || m.Time() >= m.alarm
	case opAnswer:
		awake = m.arrivedLen > 0 || m.Time() >= m.alarm
	}
	if awake {
		m.waits = opCompute
	}
	return !awake
}

// step executes one operation.
func (m *toy) step() {
	m.acc = mix(m.acc)
	r := m.acc >> 8
	if m.ops++; m.ops >= m.guest.opsEach {
		m.transaction()
		return
	}
	switch m.guest.menu[m.acc%uint64(len(m.guest.menu))] {
	case opCompute:
		m.ram[r%4] ^= m.acc
	case opPrint:
		p := make([]byte, 1+r%5)
		for i := range p {
			p[i] = 'a' + byte(m.acc>>(8*i)%26)
		}
		m.print(p)
	case opWrite:
		if d, b := m.disk(r), r%blocks; m.free(d, b, vmm.DiskRead) {
			data := make([]byte, blockBytes)
			le.PutUint64(data, mix(m.acc^1))
			le.PutUint64(data[sectorBytes:], mix(m.acc^2))
			m.request(vmm.Output{Device: d, Op: vmm.DiskWrite, Offset: b * blockBytes, Length: blockBytes, Data: data})
		}
	case opRead:
		if d, b := m.disk(r), r%blocks; m.free(d, b, vmm.DiskWrite) {
			m.request(vmm.Output{Device: d, Op: vmm.DiskRead, Offset: b * blockBytes, Length: blockBytes})
		}
	case opFlush:
		if m.flightLen < maxFlight {
			m.request(vmm.Output{Device: m.disk(r), Op: vmm.DiskFlush})
		}
	case opAwait:
		m.waits = opAwait
	case opSleep:
		m.waits, m.alarm = opSleep, m.Time()+vmm.Time(r%m.guest.sleep)
	case opTime:
		m.acc ^= uint64(m.Time())
	case opEntropy:
		if m.poolLen > 0 {
			m.poolLen--
			m.acc ^= uint64(m.pool[m.poolLen]) << 16
		}
	case opInput:
		if m.typedLen > 0 {
			m.print(append([]byte(nil), m.typed[:m.typedLen]...))
			m.typedLen = 0
		} else {
			m.waits, m.alarm = opInput, m.Time()+vmm.Time(r%m.guest.sleep)
		}
	case opSend:
		m.send(m.acc)
	case opAnswer:
		if m.arrivedLen > 0 {
			m.arrivedLen--
			m.send(m.arrived[m.arrivedLen] ^ m.acc)
		} else {
			m.waits, m.alarm = opAnswer, m.Time()+vmm.Time(r%m.guest.sleep)
		}
	}
}

// disk draws a disk.
func (m *toy) disk(r uint64) uint32 {
	if m.guest.shared {
		return uint32(r / blocks % disks)
	}
	return 0
}

func (m *toy) send(x uint64) {
	m.outs = append(m.outs, vmm.Output{Kind: vmm.OutputFrame, Seq: m.sent, Data: le.AppendUint64(nil, mix(x))})
	m.sent++
}

// transaction ends one, once all of it is on the disk.
func (m *toy) transaction() {
	if m.flightLen > 0 {
		m.waits = opAwait
		return
	}
	m.ops = 0
	m.txn++
	p := append(strconv.AppendUint([]byte("txn "), uint64(m.txn), 10), ' ')
	m.print(append(strconv.AppendUint(p, m.acc>>32, 16), '\n'))
	if m.txn == m.guest.txns {
		m.ended = true
		m.end.Kind = vmm.EndPowerOff
		if m.guest.crash {
			m.end.Kind = vmm.EndCrash
		}
	}
}

func (m *toy) print(p []byte) {
	m.outs = append(m.outs, vmm.Output{Kind: vmm.OutputConsole, Seq: m.printed, Data: p})
	m.printed += uint64(len(p))
}

// free reports whether a request for a block can be made now. A read and a write of the same
// block are never in flight together: what the read returns would be open.
func (m *toy) free(device uint32, block uint64, other vmm.DiskOp) bool {
	for _, r := range m.flight[:m.flightLen] {
		if r.op == other && r.device == device && r.block == block {
			return false
		}
	}
	return m.flightLen < maxFlight
}

func (m *toy) request(o vmm.Output) {
	o.Kind, o.Seq, o.Shared = vmm.OutputDisk, m.requests[o.Device], o.Device == sharedDisk
	m.flight[m.flightLen] = toyRequest{o.Device, o.Seq, o.Op, o.Offset / blockBytes}
	m.flightLen++
	m.requests[o.Device]++
	m.outs = append(m.outs, o)
}

// Apply is as in vmm.Machine.
func (m *toy) Apply(t vmm.Time, rate vmm.Rate, inputs []vmm.Input) error {
	if now := m.Time(); t < now {
		return fmt.Errorf("toy: time would go back from %d to %d", now, t)
	}
	m.base, m.basePos, m.rate = t, m.pos, rate
	m.acc = mix(m.acc ^ uint64(t) ^ uint64(rate)<<32) // the guest looks at the clock in every epoch
	for i := range inputs {
		if err := m.Deliver(inputs[i]); err != nil {
			return fmt.Errorf("toy: input %d: %w", i, err)
		}
	}
	return nil
}

// Deliver takes an input as an interrupt handler would: at once, whatever the guest does.
func (m *toy) Deliver(in vmm.Input) error {
	m.acc = mix(m.acc ^ uint64(in.Kind) ^ uint64(in.Status)<<4 ^ in.ID<<8)
	for _, b := range in.Data {
		m.acc = m.acc*31 + uint64(b)
	}
	switch in.Kind {
	case vmm.InputConsole:
		m.typedLen += copy(m.typed[m.typedLen:], in.Data)
	case vmm.InputEntropy:
		if len(in.Data) > poolBytes-m.poolLen {
			return fmt.Errorf("entropy of %d bytes, with room for %d", len(in.Data), poolBytes-m.poolLen)
		}
		m.poolLen += copy(m.pool[m.poolLen:], in.Data)
	case vmm.InputFrame:
		if m.arrivedLen == maxArrived {
			return errors.New("a frame, without room for it")
		}
		m.arrived[m.arrivedLen] = m.acc
		m.arrivedLen++
	case vmm.InputDisk:
		for i, r := range m.flight[:m.flightLen] {
			if r.device == in.Device && r.id == in.ID {
				if r.op == vmm.DiskRead && in.Status == vmm.DiskOK && len(in.Data) != blockBytes {
					return fmt.Errorf("a read returned %d bytes", len(in.Data))
				}
				copy(m.flight[i:], m.flight[i+1:m.flightLen])
				m.flightLen--
				return nil
			}
		}
		return fmt.Errorf("completion of request %d, which is not in flight", in.ID)
	}
	return nil
}

// Digest is as in vmm.Machine.
func (m *toy) Digest(memory bool) (uint64, error) {
	h := m.acc
	for _, v := range [...]uint64{uint64(m.pos), uint64(m.base), uint64(m.basePos), uint64(m.ops), uint64(m.txn), uint64(m.waits),
		uint64(m.alarm), uint64(m.typedLen), uint64(m.poolLen), m.printed, m.requests[0], m.requests[1], m.sent, uint64(m.arrivedLen), uint64(m.rate),
		uint64(m.flightLen), uint64(m.end.Kind)} {
		h = mix(h ^ v)
	}
	for _, r := range m.flight[:m.flightLen] {
		h = mix(h ^ r.id ^ uint64(r.device)<<32)
	}
	if memory {
		for _, v := range m.ram {
			h = mix(h ^ v)
		}
	}
	return h, nil
}

// Report names what differs most often.
func (m *toy) Report() (*vmm.Archive, error) {
	a := vmm.NewNamingSaver()
	a.Section("toy")
	a.U64("acc", &m.acc)
	a.U32("txn", &m.txn)
	return a, nil
}
