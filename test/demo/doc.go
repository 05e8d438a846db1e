// Command demo shows ftvm at work in a few seconds: it starts a primary and a backup, kills the
// primary in the middle of a disk write, lets the guest run on at the backup, and then checks
// from the outside whether anything was lost. The last line says so, and so does the exit code.
//
//	go run ./test/demo
//
// Read main.go first.
package main
