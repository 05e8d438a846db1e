package soft

import (
	"ftvm/vmm/soft/amd64"
	"ftvm/vmm/soft/x86"
)

// vectorOps are the instructions on XMM registers that the host has as well and that compute with integers, or only move things
// about, so that their results follow from their operands alone. The first operand is read and written, or only
// written; there is an immediate where the instruction has one. (SDM vol. 2A and 2B.)
var vectorOps = [x86.NumOps]amd64.Vector{
	x86.PUNPCKLBW: 0x66_00_60, x86.PUNPCKLWD: 0x66_00_61, x86.PUNPCKLDQ: 0x66_00_62, x86.PUNPCKLQDQ: 0x66_00_6c,
	x86.PUNPCKHBW: 0x66_00_68, x86.PUNPCKHWD: 0x66_00_69, x86.PUNPCKHDQ: 0x66_00_6a, x86.PUNPCKHQDQ: 0x66_00_6d,
	x86.UNPCKLPS: 0x14, x86.UNPCKLPD: 0x66_00_14, x86.UNPCKHPS: 0x15, x86.UNPCKHPD: 0x66_00_15,
	x86.PACKSSWB: 0x66_00_63, x86.PACKSSDW: 0x66_00_6b, x86.PACKUSWB: 0x66_00_67, x86.PACKUSDW: 0x66_38_2b,

	x86.PXOR: 0x66_00_ef, x86.POR: 0x66_00_eb, x86.PAND: 0x66_00_db, x86.PANDN: 0x66_00_df,
	x86.XORPS: 0x57, x86.ORPS: 0x56, x86.ANDPS: 0x54, x86.ANDNPS: 0x55,
	x86.XORPD: 0x66_00_57, x86.ORPD: 0x66_00_56, x86.ANDPD: 0x66_00_54, x86.ANDNPD: 0x66_00_55,

	x86.PADDB: 0x66_00_fc, x86.PADDW: 0x66_00_fd, x86.PADDD: 0x66_00_fe, x86.PADDQ: 0x66_00_d4,
	x86.PSUBB: 0x66_00_f8, x86.PSUBW: 0x66_00_f9, x86.PSUBD: 0x66_00_fa, x86.PSUBQ: 0x66_00_fb,
	x86.PADDSB: 0x66_00_ec, x86.PADDSW: 0x66_00_ed, x86.PADDUSB: 0x66_00_dc, x86.PADDUSW: 0x66_00_dd,
	x86.PSUBSB: 0x66_00_e8, x86.PSUBSW: 0x66_00_e9, x86.PSUBUSB: 0x66_00_d8, x86.PSUBUSW: 0x66_00_d9,
	x86.PAVGB: 0x66_00_e0, x86.PAVGW: 0x66_00_e3,
	x86.PCMPEQB: 0x66_00_74, x86.PCMPEQW: 0x66_00_75, x86.PCMPEQD: 0x66_00_76, x86.PCMPEQQ: 0x66_38_29,
	x86.PCMPGTB: 0x66_00_64, x86.PCMPGTW: 0x66_00_65, x86.PCMPGTD: 0x66_00_66,
	x86.PMINUB: 0x66_00_da, x86.PMINUW: 0x66_38_3a, x86.PMINUD: 0x66_38_3b,
	x86.PMINSB: 0x66_38_38, x86.PMINSW: 0x66_00_ea, x86.PMINSD: 0x66_38_39,
	x86.PMAXUB: 0x66_00_de, x86.PMAXUW: 0x66_38_3e, x86.PMAXUD: 0x66_38_3f,
	x86.PMAXSB: 0x66_38_3c, x86.PMAXSW: 0x66_00_ee, x86.PMAXSD: 0x66_38_3d,
	x86.PABSB: 0x66_38_1c, x86.PABSW: 0x66_38_1d, x86.PABSD: 0x66_38_1e,
	x86.PSIGNB: 0x66_38_08, x86.PSIGNW: 0x66_38_09, x86.PSIGND: 0x66_38_0a,
	x86.PMULLW: 0x66_00_d5, x86.PMULHW: 0x66_00_e5, x86.PMULHUW: 0x66_00_e4, x86.PMULHRSW: 0x66_38_0b,
	x86.PMULLD: 0x66_38_40, x86.PMULUDQ: 0x66_00_f4, x86.PMULDQ: 0x66_38_28,
	x86.PMADDWD: 0x66_00_f5, x86.PMADDUBSW: 0x66_38_04, x86.PSADBW: 0x66_00_f6,

	x86.PHADDW: 0x66_38_01, x86.PHADDD: 0x66_38_02, x86.PHADDSW: 0x66_38_03,
	x86.PHSUBW: 0x66_38_05, x86.PHSUBD: 0x66_38_06, x86.PHSUBSW: 0x66_38_07,
	x86.PSHUFB: 0x66_38_00, x86.PSHUFD: 0x66_00_70, x86.PSHUFLW: 0xf2_00_70, x86.PSHUFHW: 0xf3_00_70,
	x86.SHUFPS: 0xc6, x86.SHUFPD: 0x66_00_c6, x86.PALIGNR: 0x66_3a_0f, x86.PBLENDW: 0x66_3a_0e,
	x86.PMOVSXBW: 0x66_38_20, x86.PMOVSXBD: 0x66_38_21, x86.PMOVSXBQ: 0x66_38_22,
	x86.PMOVSXWD: 0x66_38_23, x86.PMOVSXWQ: 0x66_38_24, x86.PMOVSXDQ: 0x66_38_25,
	x86.PMOVZXBW: 0x66_38_30, x86.PMOVZXBD: 0x66_38_31, x86.PMOVZXBQ: 0x66_38_32,
	x86.PMOVZXWD: 0x66_38_33, x86.PMOVZXWQ: 0x66_38_34, x86.PMOVZXDQ: 0x66_38_35,

	x86.PSLLW: 0x66_00_f1, x86.PSLLD: 0x66_00_f2, x86.PSLLQ: 0x66_00_f3,
	x86.PSRLW: 0x66_00_d1, x86.PSRLD: 0x66_00_d2, x86.PSRLQ: 0x66_00_d3,
	x86.PSRAW: 0x66_00_e1, x86.PSRAD: 0x66_00_e2,
}

// hasImmediate are those of vectorOps and floatOps that have an immediate.
var hasImmediate = [x86.NumOps]bool{x86.PSHUFD: true, x86.PSHUFLW: true, x86.PSHUFHW: true, x86.SHUFPS: true, x86.SHUFPD: true,
	x86.PALIGNR: true, x86.PBLENDW: true, x86.CMPPS: true, x86.CMPPD: true, x86.CMPSS: true, x86.CMPSD: true,
	x86.ROUNDPS: true, x86.ROUNDPD: true, x86.ROUNDSS: true, x86.ROUNDSD: true}

// vectorShifts are the shifts by an immediate: the opcode, and the extension in ModRM.
var vectorShifts = [x86.NumOps]struct {
	op        amd64.Vector
	extension amd64.Reg
}{
	x86.PSRLW: {0x66_00_71, 2}, x86.PSRAW: {0x66_00_71, 4}, x86.PSLLW: {0x66_00_71, 6},
	x86.PSRLD: {0x66_00_72, 2}, x86.PSRAD: {0x66_00_72, 4}, x86.PSLLD: {0x66_00_72, 6},
	x86.PSRLQ: {0x66_00_73, 2}, x86.PSRLDQ: {0x66_00_73, 3},
	x86.PSLLQ: {0x66_00_73, 6}, x86.PSLLDQ: {0x66_00_73, 7},
}

const (
	xmm0 amd64.Reg = 0
	xmm1 amd64.Reg = 1
)

// vectorSlot is slot i of the vector file, or with half 8, the upper half of it.
func vectorSlot(i uint8, half int32) amd64.Operand {
	return field(atVectors + 16*int32(i&31) + half)
}

// vector emits what an instruction computes with slots of the vector file.
func (k *compiler) vector(u *uop) {
	op := x86.Op(u.op - uVector)
	shift := vectorShifts[op]
	switch {
	case u.dst >= xR || u.src >= xR: // MMX
		k.inGo()
	case u.src == xNone && shift.op != 0:
		n := uint8(u.imm)
		switch op {
		case x86.PSRAW, x86.PSRAD, x86.PSLLDQ, x86.PSRLDQ:
		default: // these have a mask of the bits that stay in their lanes
			if n = u.shift; u.imm == 0 {
				n = 64
			}
		}
		k.LoadVector(xmm0, vectorSlot(u.dst, 0))
		k.Vector(shift.op, shift.extension, amd64.R(xmm0))
		k.Imm8(n)
		k.StoreVector(vectorSlot(u.dst, 0), xmm0)
	case vectorOps[op] != 0:
		k.LoadVector(xmm0, vectorSlot(u.dst, 0))
		k.LoadVector(xmm1, vectorSlot(u.src, 0))
		if k.Vector(vectorOps[op], xmm0, amd64.R(xmm1)); hasImmediate[op] {
			k.Imm8(uint8(u.imm))
		}
		k.StoreVector(vectorSlot(u.dst, 0), xmm0)
	case floatOps[op].op != 0:
		k.float(u, op)
	case op == x86.PMOVMSKB:
		k.LoadVector(xmm0, vectorSlot(u.src, 0))
		k.Vector(0x66_00_d7, rdx, amd64.R(xmm0))
		k.Store(8, slot(u.dst), rdx)
	case op == x86.MOVSD, op == x86.MOVLPS, op == x86.MOVLPD:
		k.copyHalf(u.dst, 0, u.src, 0)
	case op == x86.MOVHPS, op == x86.MOVHPD, op == x86.MOVLHPS:
		k.copyHalf(u.dst, 8, u.src, 0)
	case op == x86.MOVHLPS:
		k.copyHalf(u.dst, 0, u.src, 8)
	case op == x86.MOVSS:
		k.Load(4, rdx, vectorSlot(u.src, 0))
		k.Store(4, vectorSlot(u.dst, 0), rdx)
	default:
		k.inGo()
	}
}

// floatKind is which operands a floating-point instruction has.
type floatKind uint8

const (
	floatPacked    floatKind = iota // all of both slots
	floatLow64                      // the low 8 bytes of both; the destination keeps the rest
	floatLow32                      // the low 4 bytes
	floatWiden                      // 4 bytes of the source, 8 of the destination
	floatNarrow                     // 8 bytes of the source, 4 of the destination
	floatCompare                    // the low numbers of both, for the flags
	floatFromInt64                  // floatLow64, with an integer of imm bytes in the source
	floatFromInt32                  // floatLow32, with one
	floatToInt                      // a general register of imm bytes, and the source's low number
)

// floatOps are the instructions that compute with floating point, and are compiled for where native.float is set: then results and flags
// are the host's, which IEEE 754 and the manuals leave no choice.
var floatOps = [x86.NumOps]struct {
	op   amd64.Vector
	kind floatKind
}{
	x86.ADDPS: {0x58, floatPacked}, x86.ADDPD: {0x66_00_58, floatPacked}, x86.ADDSS: {0xf3_00_58, floatLow32}, x86.ADDSD: {0xf2_00_58, floatLow64},
	x86.MULPS: {0x59, floatPacked}, x86.MULPD: {0x66_00_59, floatPacked}, x86.MULSS: {0xf3_00_59, floatLow32}, x86.MULSD: {0xf2_00_59, floatLow64},
	x86.SUBPS: {0x5c, floatPacked}, x86.SUBPD: {0x66_00_5c, floatPacked}, x86.SUBSS: {0xf3_00_5c, floatLow32}, x86.SUBSD: {0xf2_00_5c, floatLow64},
	x86.DIVPS: {0x5e, floatPacked}, x86.DIVPD: {0x66_00_5e, floatPacked}, x86.DIVSS: {0xf3_00_5e, floatLow32}, x86.DIVSD: {0xf2_00_5e, floatLow64},
	x86.MINPS: {0x5d, floatPacked}, x86.MINPD: {0x66_00_5d, floatPacked}, x86.MINSS: {0xf3_00_5d, floatLow32}, x86.MINSD: {0xf2_00_5d, floatLow64},
	x86.MAXPS: {0x5f, floatPacked}, x86.MAXPD: {0x66_00_5f, floatPacked}, x86.MAXSS: {0xf3_00_5f, floatLow32}, x86.MAXSD: {0xf2_00_5f, floatLow64},
	x86.SQRTPS: {0x51, floatPacked}, x86.SQRTPD: {0x66_00_51, floatPacked}, x86.SQRTSS: {0xf3_00_51, floatLow32}, x86.SQRTSD: {0xf2_00_51, floatLow64},
	x86.ADDSUBPS: {0xf2_00_d0, floatPacked}, x86.ADDSUBPD: {0x66_00_d0, floatPacked},
	x86.HADDPS: {0xf2_00_7c, floatPacked}, x86.HADDPD: {0x66_00_7c, floatPacked}, x86.HSUBPS: {0xf2_00_7d, floatPacked}, x86.HSUBPD: {0x66_00_7d, floatPacked},
	x86.CMPPS: {0xc2, floatPacked}, x86.CMPPD: {0x66_00_c2, floatPacked}, x86.CMPSS: {0xf3_00_c2, floatLow32}, x86.CMPSD: {0xf2_00_c2, floatLow64},
	x86.ROUNDPS: {0x66_3a_08, floatPacked}, x86.ROUNDPD: {0x66_3a_09, floatPacked}, x86.ROUNDSS: {0x66_3a_0a, floatLow32}, x86.ROUNDSD: {0x66_3a_0b, floatLow64},
	x86.COMISS: {0x2f, floatCompare}, x86.COMISD: {0x66_00_2f, floatCompare}, x86.UCOMISS: {0x2e, floatCompare}, x86.UCOMISD: {0x66_00_2e, floatCompare},

	x86.CVTPS2PD: {0x5a, floatPacked}, x86.CVTPD2PS: {0x66_00_5a, floatPacked}, x86.CVTSS2SD: {0xf3_00_5a, floatWiden}, x86.CVTSD2SS: {0xf2_00_5a, floatNarrow},
	x86.CVTDQ2PS: {0x5b, floatPacked}, x86.CVTPS2DQ: {0x66_00_5b, floatPacked}, x86.CVTTPS2DQ: {0xf3_00_5b, floatPacked},
	x86.CVTDQ2PD: {0xf3_00_e6, floatPacked}, x86.CVTPD2DQ: {0xf2_00_e6, floatPacked}, x86.CVTTPD2DQ: {0x66_00_e6, floatPacked},
	x86.CVTSI2SS: {0xf3_00_2a, floatFromInt32}, x86.CVTSI2SD: {0xf2_00_2a, floatFromInt64},
	x86.CVTSS2SI: {0xf3_00_2d, floatToInt}, x86.CVTSD2SI: {0xf2_00_2d, floatToInt}, x86.CVTTSS2SI: {0xf3_00_2c, floatToInt}, x86.CVTTSD2SI: {0xf2_00_2c, floatToInt},
}

// The moves of the low 8 and 4 bytes of an XMM register.
const (
	load64  amd64.Vector = 0xf2_00_10
	store64 amd64.Vector = 0xf2_00_11
	load32  amd64.Vector = 0xf3_00_10
	store32 amd64.Vector = 0xf3_00_11
)

// float emits an instruction of floatOps.
func (k *compiler) float(u *uop, op x86.Op) {
	k.ArithImm(amd64.CMP, 1, field(atFloat), 0)
	k.slowIf(amd64.E)
	k.live, k.b.floats = false, true
	f := floatOps[op]
	dst, src := vectorSlot(u.dst, 0), vectorSlot(u.src, 0)
	compute := func(rm amd64.Operand) {
		if k.Vector(f.op, xmm0, rm); hasImmediate[op] {
			k.Imm8(uint8(u.imm))
		}
	}
	switch f.kind {
	case floatPacked:
		k.LoadVector(xmm0, dst)
		k.LoadVector(xmm1, src)
		compute(amd64.R(xmm1))
		k.StoreVector(dst, xmm0)
	case floatLow64, floatWiden:
		k.Vector(load64, xmm0, dst)
		compute(src)
		k.Vector(store64, xmm0, dst)
	case floatLow32, floatNarrow:
		k.Vector(load32, xmm0, dst)
		compute(src)
		k.Vector(store32, xmm0, dst)
	case floatCompare:
		k.Vector(load64, xmm0, dst)
		compute(src)
		k.saveFlags(false)
	case floatFromInt64:
		k.Vector(load64, xmm0, dst)
		k.VectorInt(uint8(u.imm), f.op, xmm0, src)
		k.Vector(store64, xmm0, dst)
	case floatFromInt32:
		k.Vector(load32, xmm0, dst)
		k.VectorInt(uint8(u.imm), f.op, xmm0, src)
		k.Vector(store32, xmm0, dst)
	case floatToInt:
		k.result(u.dst, rdx, func(r amd64.Reg) { k.VectorInt(uint8(u.imm), f.op, r, src) })
	}
}

// copyHalf copies half of one slot to half of another.
func (k *compiler) copyHalf(dst uint8, to int32, src uint8, from int32) {
	k.Load(8, rdx, vectorSlot(src, from))
	k.Store(8, vectorSlot(dst, to), rdx)
}

// extendTo makes slot i the number of size bytes at src, extended with zeros. (One store, so that what reads all of the
// slot need not wait for two.)
func (k *compiler) extendTo(i, size uint8, src amd64.Operand) {
	k.VectorInt(size, 0x66_00_6e, xmm0, src)
	k.StoreVector(vectorSlot(i, 0), xmm0)
}

// alignedMask keeps the page of an address and the bits that are 0 if it is aligned to 16 bytes.
const alignedMask = ^int32(pageMask &^ 15)

func init() {
	for _, r := range []row[emitter]{
		{uCheckSSE, func(k *compiler, u *uop) {
			k.ArithImm(amd64.TEST, 4, field(atCR0), cr0EM|cr0TS)
			k.slowIf(amd64.NE)
			k.ArithImm(amd64.TEST, 4, field(atCR4), cr4OSFXSR)
			k.slowIf(amd64.E)
			k.live = false
		}},
		{uCheckX87, func(k *compiler, u *uop) {
			k.ArithImm(amd64.TEST, 4, field(atCR0), cr0EM|cr0TS)
			k.slowIf(amd64.NE)
			k.live = false
		}},
		{uCheckWaiting, func(k *compiler, u *uop) {
			k.ArithImm(amd64.TEST, 4, field(atCR0), cr0EM|cr0TS)
			k.slowIf(amd64.NE)
			k.Load(4, rdx, field(atCW))
			k.Unary(amd64.NOT, 4, amd64.R(rdx))
			k.ArithImm(amd64.AND, 4, amd64.R(rdx), fpFlags)
			k.ArithLoad(amd64.TEST, 1, rdx, field(atSW))
			k.slowIf(amd64.NE)
			k.live = false
		}},
		{uLoadVector, func(k *compiler, u *uop) { k.loadVector(u, 15, ^int32(pageMask)) }},
		{uLoadAligned, func(k *compiler, u *uop) { k.loadVector(u, 0, alignedMask) }},
		{uStoreVector, func(k *compiler, u *uop) { k.storeVector(u, 15, ^int32(pageMask)) }},
		{uStoreAligned, func(k *compiler, u *uop) { k.storeVector(u, 0, alignedMask) }},
		{uLoad64V, func(k *compiler, u *uop) { k.extendTo(u.dst, 8, k.memory(u, 8, atRD)) }},
		{uLoad32V, func(k *compiler, u *uop) { k.extendTo(u.dst, 4, k.memory(u, 4, atRD)) }},
		{uStore64V, func(k *compiler, u *uop) {
			m := k.memory(u, 8, atWR)
			k.Load(8, rdi, vectorSlot(u.src, 0))
			k.Store(8, m, rdi)
		}},
		{uStore32V, func(k *compiler, u *uop) {
			m := k.memory(u, 4, atWR)
			k.Load(4, rdi, vectorSlot(u.src, 0))
			k.Store(4, m, rdi)
		}},
		{uMoveV, func(k *compiler, u *uop) {
			k.LoadVector(xmm0, vectorSlot(u.src, 0))
			k.StoreVector(vectorSlot(u.dst, 0), xmm0)
		}},
		{uMoveQ, func(k *compiler, u *uop) { k.extendTo(u.dst, 8, vectorSlot(u.src, 0)) }},
		{uHighToLow, func(k *compiler, u *uop) { k.copyHalf(u.dst, 0, u.src, 8) }},
		{uToGPR64, func(k *compiler, u *uop) {
			k.result(u.dst, rdx, func(r amd64.Reg) { k.Load(8, r, vectorSlot(u.src, 0)) })
		}},
		{uToGPR32, func(k *compiler, u *uop) {
			k.result(u.dst, rdx, func(r amd64.Reg) { k.Load(4, r, vectorSlot(u.src, 0)) })
		}},
		{uFromGPR64, func(k *compiler, u *uop) { k.extendTo(u.dst, 8, slot(u.src)) }},
		{uFromGPR32, func(k *compiler, u *uop) { k.extendTo(u.dst, 4, slot(u.src)) }},
	} {
		emitters[r.op] = r.host
	}
}

// loadVector and storeVector access 16 bytes; for last and mask see translate.

func (k *compiler) loadVector(u *uop, last, mask int32) {
	k.address(rcx, u, 8)
	k.LoadVector(xmm0, k.translate(last, mask, atRD))
	k.StoreVector(vectorSlot(u.dst, 0), xmm0)
}

func (k *compiler) storeVector(u *uop, last, mask int32) {
	k.address(rcx, u, 8)
	m := k.translate(last, mask, atWR)
	k.LoadVector(xmm0, vectorSlot(u.src, 0))
	k.StoreVector(m, xmm0)
}
