// Package services kills hosts under a Debian guest that runs PostgreSQL and Redis and takes in files, and looks at it
// with the eyes of a client far away: nothing that was acknowledged may be lost or done twice, no connection may break, and
// how long the client waited is measured. It has only tests.
//
//	go test ./test/services -v -run TestKills -kills=50 -seed=1 -timeout 0
//
// Two hosts, a switch between them and a client are network namespaces. These have no names, so
// all of it ends with the process, however that ends:
//
//	host 0              switch             host 1
//	ftvm primary                           ftvm backup
//	  └─ tap ─ bridge ──── bridge ──── bridge ─ tap ─┘
//	                         │
//	                       client
//
// Each kill is drawn from a seed of its own; a failure prints the command that repeats it. The moment is the
// same then, to the accuracy of this host's scheduling. It takes root, and the guest of `make guest-linux-services`.
//
// Read kills_test.go first, then world_test.go and load_test.go.
package services
