package x86

import "strings"

// Op is an instruction, by its mnemonic. One Op stands for all operand sizes and forms of a
// mnemonic; where the manual has several mnemonics for the sizes of one opcode (PUSHFQ, STOSD), it is the shortest.
type Op uint16

const (
	// Invalid is the Op of what is no instruction.
	Invalid Op = iota

	// Integer arithmetic. The first eight are in the order of opcode bits 5:3 and of group 1.
	ADD
	OR
	ADC
	SBB
	AND
	SUB
	XOR
	CMP
	TEST
	NOT
	NEG
	INC
	DEC
	MUL
	IMUL
	DIV
	IDIV
	DAA
	DAS
	AAA
	AAS
	AAM
	AAD

	// Shifts.
	ROL
	ROR
	RCL
	RCR
	SHL
	SHR
	SAR
	SHLD
	SHRD

	// Bits.
	BT
	BTS
	BTR
	BTC
	BSF
	BSR
	POPCNT
	CRC32

	// Moves. CBW is also CWDE and CDQE, and CWD is CDQ and CQO: OpSize tells.
	MOV
	MOVZX
	MOVSX
	MOVSXD
	MOVNTI
	LEA
	XCHG
	BSWAP
	XLAT
	CBW
	CWD
	XADD
	CMPXCHG
	CMPXCHG8B
	CMPXCHG16B

	// The stack.
	PUSH
	POP
	PUSHA
	POPA
	PUSHF
	POPF
	ENTER
	LEAVE

	// Flags. SALC sets AL from CF (SDM vol. 3B, 24.15).
	CLC
	STC
	CMC
	CLD
	STD
	CLI
	STI
	LAHF
	SAHF
	SALC

	// By condition: the number of the condition is the distance from the first of each run.
	SETO
	SETNO
	SETB
	SETAE
	SETE
	SETNE
	SETBE
	SETA
	SETS
	SETNS
	SETP
	SETNP
	SETL
	SETGE
	SETLE
	SETG
	CMOVO
	CMOVNO
	CMOVB
	CMOVAE
	CMOVE
	CMOVNE
	CMOVBE
	CMOVA
	CMOVS
	CMOVNS
	CMOVP
	CMOVNP
	CMOVL
	CMOVGE
	CMOVLE
	CMOVG
	JO
	JNO
	JB
	JAE
	JE
	JNE
	JBE
	JA
	JS
	JNS
	JP
	JNP
	JL
	JGE
	JLE
	JG

	// Other branches. The far ones have names of their own here. JRCXZ is also JCXZ and JECXZ: AddrSize tells.
	LOOPNE
	LOOPE
	LOOP
	JRCXZ
	JMP
	CALL
	RET
	JMPF
	CALLF
	RETF
	INT1
	INT3
	INT
	INTO
	IRET
	BOUND
	UD0
	UD1
	UD2

	// Strings and ports. The size of an element is OpSize.
	MOVS
	CMPS
	STOS
	LODS
	SCAS
	INS
	OUTS
	IN
	OUT

	// Hints, caches and order.
	NOP
	PAUSE
	PREFETCHNTA
	PREFETCHT0
	PREFETCHT1
	PREFETCHT2
	PREFETCHW
	CLFLUSH
	LFENCE
	MFENCE
	SFENCE

	// System.
	SYSCALL
	SYSRET
	SYSENTER
	SYSEXIT
	SWAPGS
	HLT
	CLTS
	CPUID
	RDTSC
	RDTSCP
	RDPMC
	RDMSR
	WRMSR
	SGDT
	SIDT
	LGDT
	LIDT
	SLDT
	STR
	LLDT
	LTR
	SMSW
	LMSW
	VERR
	VERW
	LAR
	LSL
	ARPL
	LES
	LDS
	LSS
	LFS
	LGS
	INVD
	WBINVD
	INVLPG
	RSM

	// x87. The first two runs of eight are in the order of opcode bits 5:3.
	FADD
	FMUL
	FCOM
	FCOMP
	FSUB
	FSUBR
	FDIV
	FDIVR
	FIADD
	FIMUL
	FICOM
	FICOMP
	FISUB
	FISUBR
	FIDIV
	FIDIVR
	FADDP
	FMULP
	FCOMPP
	FSUBP
	FSUBRP
	FDIVP
	FDIVRP
	FUCOM
	FUCOMP
	FUCOMPP
	FCOMI
	FCOMIP
	FUCOMI
	FUCOMIP
	FTST
	FXAM
	FLD
	FST
	FSTP
	FILD
	FIST
	FISTP
	FISTTP
	FBLD
	FBSTP
	FXCH
	FFREE
	FFREEP
	FCMOVB
	FCMOVE
	FCMOVBE
	FCMOVU
	FCMOVNB
	FCMOVNE
	FCMOVNBE
	FCMOVNU
	FLD1
	FLDL2T
	FLDL2E
	FLDPI
	FLDLG2
	FLDLN2
	FLDZ
	FCHS
	FABS
	FSQRT
	FRNDINT
	FSCALE
	FXTRACT
	FPREM
	FPREM1
	F2XM1
	FYL2X
	FYL2XP1
	FPTAN
	FPATAN
	FSIN
	FCOS
	FSINCOS
	FINCSTP
	FDECSTP
	FNOP
	FWAIT
	FNCLEX
	FNINIT
	FNENI
	FNDISI
	FNSETPM
	FLDCW
	FNSTCW
	FNSTSW
	FLDENV
	FNSTENV
	FRSTOR
	FNSAVE

	// FXSAVE and FXRSTOR with OpSize 8 are FXSAVE64 and FXRSTOR64.
	FXSAVE
	FXRSTOR
	LDMXCSR
	STMXCSR

	// Moves of MMX and XMM registers.
	EMMS
	MOVD
	MOVQ
	MOVDQA
	MOVDQU
	LDDQU
	MOVQ2DQ
	MOVDQ2Q
	MOVUPS
	MOVUPD
	MOVSS
	MOVSD
	MOVAPS
	MOVAPD
	MOVLPS
	MOVLPD
	MOVHLPS
	MOVHPS
	MOVHPD
	MOVLHPS
	MOVDDUP
	MOVSLDUP
	MOVSHDUP
	MOVNTPS
	MOVNTPD
	MOVNTQ
	MOVNTDQ
	MOVNTDQA
	MASKMOVQ
	MASKMOVDQU
	MOVMSKPS
	MOVMSKPD
	PMOVMSKB

	// Floating-point arithmetic: packed single, packed double, scalar single, scalar double.
	ADDPS
	ADDPD
	ADDSS
	ADDSD
	MULPS
	MULPD
	MULSS
	MULSD
	SUBPS
	SUBPD
	SUBSS
	SUBSD
	MINPS
	MINPD
	MINSS
	MINSD
	DIVPS
	DIVPD
	DIVSS
	DIVSD
	MAXPS
	MAXPD
	MAXSS
	MAXSD
	SQRTPS
	SQRTPD
	SQRTSS
	SQRTSD
	CMPPS
	CMPPD
	CMPSS
	CMPSD
	ROUNDPS
	ROUNDPD
	ROUNDSS
	ROUNDSD
	RSQRTPS
	RSQRTSS
	RCPPS
	RCPSS
	UCOMISS
	UCOMISD
	COMISS
	COMISD
	ADDSUBPS
	ADDSUBPD
	HADDPS
	HADDPD
	HSUBPS
	HSUBPD
	DPPS
	DPPD
	ANDPS
	ANDPD
	ANDNPS
	ANDNPD
	ORPS
	ORPD
	XORPS
	XORPD

	// Conversions.
	CVTPI2PS
	CVTPI2PD
	CVTSI2SS
	CVTSI2SD
	CVTTPS2PI
	CVTTPD2PI
	CVTTSS2SI
	CVTTSD2SI
	CVTPS2PI
	CVTPD2PI
	CVTSS2SI
	CVTSD2SI
	CVTPS2PD
	CVTPD2PS
	CVTSS2SD
	CVTSD2SS
	CVTDQ2PS
	CVTPS2DQ
	CVTTPS2DQ
	CVTDQ2PD
	CVTPD2DQ
	CVTTPD2DQ

	// Shuffles of floating-point elements.
	UNPCKLPS
	UNPCKLPD
	UNPCKHPS
	UNPCKHPD
	SHUFPS
	SHUFPD
	BLENDPS
	BLENDPD
	BLENDVPS
	BLENDVPD
	INSERTPS
	EXTRACTPS

	// Integer elements: arithmetic.
	PADDB
	PADDW
	PADDD
	PADDQ
	PADDSB
	PADDSW
	PADDUSB
	PADDUSW
	PSUBB
	PSUBW
	PSUBD
	PSUBQ
	PSUBSB
	PSUBSW
	PSUBUSB
	PSUBUSW
	PHADDW
	PHADDD
	PHADDSW
	PHSUBW
	PHSUBD
	PHSUBSW
	PMULLW
	PMULLD
	PMULHW
	PMULHUW
	PMULHRSW
	PMULUDQ
	PMULDQ
	PMADDWD
	PMADDUBSW
	PAVGB
	PAVGW
	PSADBW
	MPSADBW
	PHMINPOSUW
	PABSB
	PABSW
	PABSD
	PSIGNB
	PSIGNW
	PSIGND
	PMINSB
	PMINSW
	PMINSD
	PMINUB
	PMINUW
	PMINUD
	PMAXSB
	PMAXSW
	PMAXSD
	PMAXUB
	PMAXUW
	PMAXUD

	// Integer elements: comparison, logic, shifts.
	PCMPEQB
	PCMPEQW
	PCMPEQD
	PCMPEQQ
	PCMPGTB
	PCMPGTW
	PCMPGTD
	PCMPGTQ
	PCMPESTRM
	PCMPESTRI
	PCMPISTRM
	PCMPISTRI
	PAND
	PANDN
	POR
	PXOR
	PTEST
	PSRLW
	PSRLD
	PSRLQ
	PSRLDQ
	PSRAW
	PSRAD
	PSLLW
	PSLLD
	PSLLQ
	PSLLDQ

	// Integer elements: shuffles, extensions.
	PUNPCKLBW
	PUNPCKLWD
	PUNPCKLDQ
	PUNPCKLQDQ
	PUNPCKHBW
	PUNPCKHWD
	PUNPCKHDQ
	PUNPCKHQDQ
	PACKSSWB
	PACKSSDW
	PACKUSWB
	PACKUSDW
	PSHUFB
	PSHUFW
	PSHUFD
	PSHUFHW
	PSHUFLW
	PALIGNR
	PBLENDW
	PBLENDVB
	PINSRB
	PINSRW
	PINSRD
	PINSRQ
	PEXTRB
	PEXTRW
	PEXTRD
	PEXTRQ
	PMOVSXBW
	PMOVSXBD
	PMOVSXBQ
	PMOVSXWD
	PMOVSXWQ
	PMOVSXDQ
	PMOVZXBW
	PMOVZXBD
	PMOVZXBQ
	PMOVZXWD
	PMOVZXWQ
	PMOVZXDQ

	// Beyond x86-64-v2: decoded so that they can be named.
	MOVBE
	ADCX
	ADOX
	RDRAND
	RDSEED
	RDPID
	RDFSBASE
	RDGSBASE
	WRFSBASE
	WRGSBASE
	XSAVE
	XSAVEOPT
	XSAVEC
	XSAVES
	XRSTOR
	XRSTORS
	XGETBV
	XSETBV
	AESENC
	AESENCLAST
	AESDEC
	AESDECLAST
	AESIMC
	AESKEYGENASSIST
	PCLMULQDQ
	SHA1RNDS4
	SHA1NEXTE
	SHA1MSG1
	SHA1MSG2
	SHA256RNDS2
	SHA256MSG1
	SHA256MSG2
	GF2P8MULB
	GF2P8AFFINEQB
	GF2P8AFFINEINVQB
	CLFLUSHOPT
	CLWB
	CLAC
	STAC
	INVPCID
	RDPKRU
	WRPKRU
	SERIALIZE
	MONITOR
	MWAIT
	UMONITOR
	UMWAIT
	TPAUSE
	PTWRITE
	MOVDIRI
	MOVDIR64B
	XBEGIN
	XEND
	XABORT
	XTEST
	ENCLS
	ENCLU
	ENCLV
	GETSEC
	VMCALL
	VMLAUNCH
	VMRESUME
	VMXOFF
	VMFUNC
	VMPTRLD
	VMPTRST
	VMCLEAR
	VMXON
	VMREAD
	VMWRITE
	INVEPT
	INVVPID
	VMRUN
	VMMCALL
	VMLOAD
	VMSAVE
	STGI
	CLGI
	SKINIT
	INVLPGA

	// One for all of 3DNow!, and one for each of the prefixes of later vector extensions.
	FEMMS
	NOW3D
	VEX
	EVEX

	// NumOps is one more than the last Op.
	NumOps
)

// String returns the mnemonic as in the manual, in lower case.
func (o Op) String() string {
	if o >= NumOps {
		return opNames[Invalid]
	}
	return opNames[o]
}

// opNames are the names of the Ops, in their order.
var opNames = [NumOps]string(strings.Fields(`(invalid)
add or adc sbb and sub xor cmp
test not neg inc dec mul imul div idiv
daa das aaa aas aam aad
rol ror rcl rcr shl shr sar
shld shrd
bt bts btr btc bsf bsr popcnt crc32
mov movzx movsx movsxd movnti lea xchg bswap xlat cbw cwd
xadd cmpxchg cmpxchg8b cmpxchg16b
push pop pusha popa pushf popf enter leave
clc stc cmc cld std cli sti lahf sahf salc
seto setno setb setae sete setne setbe seta sets setns setp setnp setl setge setle setg
cmovo cmovno cmovb cmovae cmove cmovne cmovbe cmova cmovs cmovns cmovp cmovnp cmovl cmovge cmovle cmovg
jo jno jb jae je jne jbe ja js jns jp jnp jl jge jle jg
loopne loope loop jrcxz jmp call ret jmpf callf retf
int1 int3 int into iret bound ud0 ud1 ud2
movs cmps stos lods scas ins outs in out
nop pause prefetchnta prefetcht0 prefetcht1 prefetcht2 prefetchw
clflush lfence mfence sfence
syscall sysret sysenter sysexit swapgs hlt clts
cpuid rdtsc rdtscp rdpmc rdmsr wrmsr
sgdt sidt lgdt lidt sldt str lldt ltr smsw lmsw
verr verw lar lsl arpl les lds lss lfs lgs
invd wbinvd invlpg rsm
fadd fmul fcom fcomp fsub fsubr fdiv fdivr
fiadd fimul ficom ficomp fisub fisubr fidiv fidivr
faddp fmulp fcompp fsubp fsubrp fdivp fdivrp
fucom fucomp fucompp fcomi fcomip fucomi fucomip ftst fxam
fld fst fstp fild fist fistp fisttp fbld fbstp fxch ffree ffreep
fcmovb fcmove fcmovbe fcmovu fcmovnb fcmovne fcmovnbe fcmovnu
fld1 fldl2t fldl2e fldpi fldlg2 fldln2 fldz
fchs fabs fsqrt frndint fscale fxtract fprem fprem1
f2xm1 fyl2x fyl2xp1 fptan fpatan fsin fcos fsincos
fincstp fdecstp fnop fwait fnclex fninit fneni fndisi fnsetpm
fldcw fnstcw fnstsw fldenv fnstenv frstor fnsave
fxsave fxrstor ldmxcsr stmxcsr
emms movd movq movdqa movdqu lddqu movq2dq movdq2q
movups movupd movss movsd movaps movapd
movlps movlpd movhlps movhps movhpd movlhps movddup movsldup movshdup
movntps movntpd movntq movntdq movntdqa maskmovq maskmovdqu
movmskps movmskpd pmovmskb
addps addpd addss addsd
mulps mulpd mulss mulsd
subps subpd subss subsd
minps minpd minss minsd
divps divpd divss divsd
maxps maxpd maxss maxsd
sqrtps sqrtpd sqrtss sqrtsd
cmpps cmppd cmpss cmpsd
roundps roundpd roundss roundsd
rsqrtps rsqrtss rcpps rcpss
ucomiss ucomisd comiss comisd
addsubps addsubpd haddps haddpd hsubps hsubpd dpps dppd
andps andpd andnps andnpd orps orpd xorps xorpd
cvtpi2ps cvtpi2pd cvtsi2ss cvtsi2sd
cvttps2pi cvttpd2pi cvttss2si cvttsd2si cvtps2pi cvtpd2pi cvtss2si cvtsd2si
cvtps2pd cvtpd2ps cvtss2sd cvtsd2ss cvtdq2ps cvtps2dq cvttps2dq cvtdq2pd cvtpd2dq cvttpd2dq
unpcklps unpcklpd unpckhps unpckhpd shufps shufpd
blendps blendpd blendvps blendvpd insertps extractps
paddb paddw paddd paddq paddsb paddsw paddusb paddusw
psubb psubw psubd psubq psubsb psubsw psubusb psubusw
phaddw phaddd phaddsw phsubw phsubd phsubsw
pmullw pmulld pmulhw pmulhuw pmulhrsw pmuludq pmuldq pmaddwd pmaddubsw
pavgb pavgw psadbw mpsadbw phminposuw
pabsb pabsw pabsd psignb psignw psignd
pminsb pminsw pminsd pminub pminuw pminud
pmaxsb pmaxsw pmaxsd pmaxub pmaxuw pmaxud
pcmpeqb pcmpeqw pcmpeqd pcmpeqq pcmpgtb pcmpgtw pcmpgtd pcmpgtq
pcmpestrm pcmpestri pcmpistrm pcmpistri
pand pandn por pxor ptest
psrlw psrld psrlq psrldq psraw psrad psllw pslld psllq pslldq
punpcklbw punpcklwd punpckldq punpcklqdq punpckhbw punpckhwd punpckhdq punpckhqdq
packsswb packssdw packuswb packusdw
pshufb pshufw pshufd pshufhw pshuflw palignr pblendw pblendvb
pinsrb pinsrw pinsrd pinsrq pextrb pextrw pextrd pextrq
pmovsxbw pmovsxbd pmovsxbq pmovsxwd pmovsxwq pmovsxdq
pmovzxbw pmovzxbd pmovzxbq pmovzxwd pmovzxwq pmovzxdq
movbe adcx adox rdrand rdseed rdpid
rdfsbase rdgsbase wrfsbase wrgsbase
xsave xsaveopt xsavec xsaves xrstor xrstors xgetbv xsetbv
aesenc aesenclast aesdec aesdeclast aesimc aeskeygenassist pclmulqdq
sha1rnds4 sha1nexte sha1msg1 sha1msg2 sha256rnds2 sha256msg1 sha256msg2
gf2p8mulb gf2p8affineqb gf2p8affineinvqb
clflushopt clwb clac stac invpcid rdpkru wrpkru serialize
monitor mwait umonitor umwait tpause ptwrite movdiri movdir64b
xbegin xend xabort xtest
encls enclu enclv getsec
vmcall vmlaunch vmresume vmxoff vmfunc vmptrld vmptrst vmclear vmxon vmread vmwrite invept invvpid
vmrun vmmcall vmload vmsave stgi clgi skinit invlpga
femms 3dnow vex evex`))
