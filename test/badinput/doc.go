// Package badinput gives the real ftvm command what it must refuse or survive: disk images, flags
// and hosts that do not fit, peers that speak something else, and peers that speak ftvm's
// protocol and lie. It has only tests. Each is a row of a table: what is done, how the process must
// end, and what it must say; and where there is another replica, that it goes on unharmed.
//
// With -v every row shows what ftvm said, to be read as a user would.
//
// Read command_test.go first, then stranger_test.go, relay_test.go and liar_test.go.
package badinput
