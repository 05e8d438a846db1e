package float

// Env is the part of MXCSR, or of the x87 control and status words, that arithmetic uses. The zero
// Env rounds to nearest, and masks nothing.
type Env struct {
	Round Rounding
	// Prec is the x87's precision control; SSE does not use it.
	Prec Precision
	// Flags and Mask hold exceptions. A bit set in Mask masks the exception, as in the registers.
	Flags, Mask uint8
	// C1 tells, after an x87 operation, that its result was rounded away from zero (SDM vol. 1, 8.1.3.3).
	C1 bool
	// DAZ reads denormal operands as zeros; FTZ flushes tiny results to zero while UE is masked (SDM
	// vol. 1, 10.2.3.3 and 10.2.3.4). They are SSE's; for x87 both are to be false.
	DAZ, FTZ bool
}

// Rounding is a rounding mode as RC in MXCSR and FCW has it (SDM vol. 1, 4.8.4).
type Rounding uint8

// The rounding modes.
const (
	Nearest Rounding = iota // to nearest, ties to even
	Down                    // towards minus infinity
	Up                      // towards plus infinity
	Zero                    // towards zero
)

// Precision is PC of the x87 control word: the precision of results of Add80, Sub80, Mul80,
// Div80 and Sqrt80 (SDM vol. 1, 8.1.5.2).
type Precision uint8

// Values of Precision; the reserved 1 does what Extended does.
const (
	Single   Precision = 0
	Double   Precision = 2
	Extended Precision = 3
)

// The exceptions, as bits of Flags and Mask (SDM vol. 1, 4.9.1).
const (
	IE = 1 << iota // invalid operation
	DE             // denormal operand
	ZE             // division by zero
	OE             // overflow
	UE             // underflow
	PE             // precision: the result is inexact

	All = IE | DE | ZE | OE | UE | PE
	// Pre are the exceptions that are detected before the operation.
	Pre = IE | DE | ZE
)

// Relation is the outcome of a comparison.
type Relation uint8

// The relations.
const (
	Less Relation = iota
	Equal
	Greater
	Unordered // at least one operand is a NaN
)

// raise adds flags, and tells whether the operation ends there.
func (e *Env) raise(flags uint8) bool {
	e.Flags |= flags
	return flags&^e.Mask != 0
}
