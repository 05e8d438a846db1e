package ledger

import (
	"fmt"
	"io"
)

// Check looks at the beginning of a disk and fails if it is neither empty nor a ledger's, so
// that a disk with something else on it is turned down before a guest starts.
func Check(r io.ReaderAt, size int64) error {
	b := make([]byte, BlockSize)
	if size < BlockSize {
		return fmt.Errorf("%d bytes are too few for a ledger: one transaction takes %d", size, BlockSize)
	}
	if _, err := r.ReadAt(b, 0); err != nil {
		return err
	}
	if !zero(b) && !hasMagic(b) {
		return fmt.Errorf("%w: there is something else on it; the ledger guest wants an empty disk (ftvm disk create IMG) or one of its own", ErrForeign)
	}
	return nil
}
