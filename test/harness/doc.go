// Package harness runs the real ftvm command as real processes on this machine, for tests,
// benchmarks and the demonstration: it starts them, listens to them, kills them and looks
// at what they left behind. It knows ftvm only from the outside, as its users do.
//
// What must hold:
//
//   - No process outlives the Lab that started it, nor the process that uses this package.
//   - Nothing waits by the clock for something that can be seen to happen: callers await lines,
//     writes and exits, each with a context that bounds the wait.
//   - What was read from a process carries the time at which it came.
//
// Every method may be called from any goroutine. Read lab.go first.
package harness
