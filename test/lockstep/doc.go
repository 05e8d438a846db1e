// Package lockstep shows on real machines what everything rests on: a guest that is run again
// from the same records is the same at every boundary. It has tests only; start with
// lockstep_test.go.
package lockstep
