// Package linux runs Debian's kernel, unmodified, on engine soft: alone, and on a primary and a backup. The
// guest is what `make guest-linux` and `make guest-linux-debian` build; tests whose guest is not built skip.
//
// That a backup follows to the end means equal digests at every boundary; these tests have them cover all of
// memory often.
package linux
