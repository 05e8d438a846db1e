package main

import (
	"math"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, c := range []struct {
		values  []float64
		q, want float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{3, 1, 2}, 0, 1},
		{[]float64{3, 1, 2}, 1, 3},
		{[]float64{3, 1, 2}, 0.99, 3},
		{hundred, 0.99, 99},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v, want NaN", got)
	}
}

func TestOthers(t *testing.T) {
	from := usage{there: 10 * time.Second, used: 4 * time.Second, own: time.Second}
	for _, c := range []struct {
		to   usage
		want float64
	}{
		{usage{there: 14 * time.Second, used: 6 * time.Second, own: 2 * time.Second}, 0.25},
		{usage{there: 14 * time.Second, used: 5 * time.Second, own: 3 * time.Second}, 0}, // the kernel's clocks differ
		{from, 0},
	} {
		if got := others(from, c.to); got != c.want {
			t.Errorf("others(%+v, %+v) = %v, want %v", from, c.to, got, c.want)
		}
	}
}
