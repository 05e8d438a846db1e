// Command ftvm keeps a virtual machine alive when its host dies. It is the only place
// that reads flags or exits the process. guest.go puts a machine together, run.go runs it.
package main
