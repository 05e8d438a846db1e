package main

import (
	"fmt"
	"math"
	"slices"
)

// spread is what several measurements of one thing amount to.
type spread struct {
	Median  float64 `json:"median"`
	Lowest  float64 `json:"lowest"`
	Highest float64 `json:"highest"`
}

func spreadOf(values []float64) spread {
	return spread{quantile(values, 0.5), quantile(values, 0), quantile(values, 1)}
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s to %s)", digits(s.Median), digits(s.Lowest), digits(s.Highest))
}

// digits shows as many decimals as mean something.
func digits(v float64) string {
	if v >= 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// quantile is the smallest value that at least the fraction q of all values do not exceed
// (nearest rank); the median of an even number of values is the mean of the middle two.
func quantile(values []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n == 0 {
		return math.NaN()
	}
	if q == 0.5 && n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[max(0, int(math.Ceil(q*float64(n)))-1)]
}

// each collects one figure of every element.
func each[T any](all []T, f func(T) float64) []float64 {
	values := make([]float64, len(all))
	for i, x := range all {
		values[i] = f(x)
	}
	return values
}
