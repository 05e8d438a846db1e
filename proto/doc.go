// Package proto holds the wire and log formats. Read ftvm.proto; the Go code is generated from
// it by `make proto`.
package proto
