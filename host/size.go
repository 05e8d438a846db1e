package host

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeUnits are the suffixes of sizes; each counts 1024 of the one before.
var sizeUnits = [...]string{"", "K", "M", "G", "T"}

// ParseSize reads a number of bytes such as "4096", "64M" or "1GiB". Units are
// powers of 1024, in either case; "MB" and its like, which mean different things to
// different people, are refused.
func ParseSize(s string) (uint64, error) {
	digits := s
	if i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = s[:i]
	}
	unit := strings.ToUpper(s[len(digits):])
	if len(unit) == len("KIB") {
		unit = strings.TrimSuffix(unit, "IB")
	}
	for i, u := range sizeUnits {
		if u != unit {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			break
		}
		if n > math.MaxUint64>>(10*i) {
			return 0, fmt.Errorf("size %q is more than 64 bits can count", s)
		}
		return n << (10 * i), nil
	}
	return 0, fmt.Errorf("size %q: want a number of bytes, or one with K, M, G or T (powers of 1024), such as 64M or 1GiB", s)
}

// FormatSize writes n with the largest unit that leaves a whole number; ParseSize
// reads it back.
func FormatSize(n uint64) string {
	i := 0
	for n != 0 && n%1024 == 0 && i < len(sizeUnits)-1 {
		n, i = n/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d", n)
	}
	return fmt.Sprintf("%d%siB", n, sizeUnits[i])
}
