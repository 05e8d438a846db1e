// Package house holds the rules of the house that a compiler does not: which package may
// import which, what may be used inside the door, where unsafe may be, and what every
// package owes its readers.
//
// It has tests only, over the packages that `go list` finds; nothing imports it. A new
// package needs a line in the table of arrows. Read house_test.go, which has the tables
// first.
package house
