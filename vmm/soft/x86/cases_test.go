package x86

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
)

const usualRounds = 20

var (
	rounds = flag.Int("rounds", usualRounds, "how often each opcode is tried with random prefixes and operands")
	seed   = flag.Uint64("seed", 1, "seed of the random cases")
)

// sample is a case and what Decode says about it.
type sample struct {
	code []byte // MaxLen bytes
	inst Inst
	err  error
	text string // format, or why there is none
}

// samples are every opcode with all mandatory prefixes and ModRM.reg, and each with random prefixes
// and operands.
func samples(t *testing.T, mode Mode) []sample {
	t.Logf("to repeat: go test ./vmm/soft/x86 -run '%s' -seed %d -rounds %d", t.Name(), *seed, *rounds)
	r := rand.New(rand.NewPCG(*seed, 0))
	var all []sample
	add := func(prefixes []byte, opMap int, tail ...byte) {
		code := slices.Concat(prefixes, [numMaps][]byte{{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}}[opMap], tail)
		for len(code) < MaxLen {
			code = append(code, byte(r.Uint32()))
		}
		s := sample{code: code[:MaxLen]}
		s.err = Decode(s.code, mode, &s.inst)
		switch s.err {
		case nil:
			s.text = format(&s.inst, mode, uint64(len(all)*slot)+uint64(s.inst.Len))
		case ErrUndefined:
			s.text = "(bad)"
		case ErrTooLong:
			s.text = "(too long)"
		default:
			t.Fatalf("%x: %v", code, s.err)
		}
		all = append(all, s)
	}
	legacy := []byte{0x66, 0x66, 0xf3, 0xf2, 0x67, 0xf0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}
	for opMap := range numMaps {
		for op := range 256 {
			if opMap == map1 && (prefixKind[op] != noPrefix || op == 0x0f) {
				continue
			}
			regs := 16
			if opMap >= map0F38 {
				regs = 2 // ModRM.reg is an operand
			}
			for _, prefix := range [][]byte{{}, {0x66}, {0xf3}, {0xf2}} {
				for i := range regs {
					mod := byte(r.IntN(3)) << 6
					if i >= regs/2 {
						mod = 3 << 6
					}
					add(prefix, opMap, byte(op), mod|byte(i&7)<<3|byte(r.IntN(8)))
				}
			}
			if opMap == map1 && op >= 0xd8 && op <= 0xdf || opMap == map0F && (op == 0x01 || op == 0xae) {
				for modRM := 0xc0; modRM <= 0xff; modRM++ { // all of ModRM is part of the opcode
					add(nil, opMap, byte(op), byte(modRM))
				}
			}
			if mode == Mode64 {
				for reg := range byte(8) {
					add([]byte{0x48}, opMap, byte(op), reg<<3)
					add([]byte{0x66, 0x48}, opMap, byte(op), reg<<3)
				}
			}
			for range *rounds {
				var prefixes []byte
				for r.IntN(2) == 0 && len(prefixes) < MaxLen-4 {
					prefixes = append(prefixes, legacy[r.IntN(len(legacy))])
				}
				if r.IntN(2) == 0 {
					prefixes = append(prefixes, byte(0x40|r.IntN(16)))
				}
				if r.IntN(50) == 0 {
					prefixes = append(prefixes, legacy[r.IntN(len(legacy))])
				}
				add(prefixes, opMap, byte(op))
			}
		}
	}
	return all
}

// split takes code apart: the prefixes that are no REX, the opcode map, the opcode, and what follows.
func split(code []byte, mode Mode) (prefixes []byte, opMap int, op byte, rest []byte) {
	for len(code) > 0 && prefixKind[code[0]] != noPrefix && (mode == Mode64 || prefixKind[code[0]] != prefixREX) {
		if prefixKind[code[0]] != prefixREX {
			prefixes = append(prefixes, code[0])
		}
		code = code[1:]
	}
	code = append(slices.Clone(code), make([]byte, 4)...)
	switch {
	case code[0] != 0x0f:
		return prefixes, map1, code[0], code[1:]
	case code[1] == 0x38:
		return prefixes, map0F38, code[2], code[3:]
	case code[1] == 0x3a:
		return prefixes, map0F3A, code[2], code[3:]
	}
	return prefixes, map0F, code[1], code[2:]
}
