// Package need is what a test needs and this machine may lack: programs, and guests that take time to build. Where it is
// missing the test skips and says so.
//
// Read need.go.
package need
