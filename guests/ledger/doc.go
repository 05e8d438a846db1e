// Package ledger holds the guest that is built into ftvm, and knows what it writes.
//
// The guest is bare metal, in C and assembly under src: a small kernel in ring 0 and
// the ledger program in ring 3. The program appends transactions to the disk, each
// with the digest of the one before it, and prints "txn N HASH" once transaction N is on
// disk; so whoever saw the line can ask the disk later whether it is still true.
// On boot it verifies the chain that it finds and goes on from its end.
//
// ledger.elf is built by `make -C guests/ledger` and committed, so that a Go toolchain alone
// builds ftvm. It is entered by the Linux 64-bit boot protocol, needs 4 MiB of RAM, a
// virtio-blk and a virtio-rng device (modern, on PCI bus 0), and a PC's 8259, 8254, RTC
// and 16550.
//
// Words of the command line:
//
//	txns=N     power off after N more transactions (default 0: never)
//	work=N     rounds of computing in each transaction, about 10 us each (500)
//	period=N   ticks of 10 ms from one transaction to the next at least; 0 is as fast
//	           as possible (3)
//	flush=0    print a transaction when it is written, without flushing it (1); after a
//	           power cut transactions may then be missing, in the middle too
//	report=N   print only each Nth transaction; the line then stands for those before
//	           it as well (1)
//	ring3=0    run the program in ring 0 too, for clocks that see only ring 0
//
// Lines typed at the console: sum prints where the ledger stands, stop ends after the
// current transaction, crash makes a triple fault, help lists these.
//
// It ends by power-off after txns, stop, or when the disk is full; otherwise by isa-debug-exit:
// 1 (the process exits with 3) after an exception of the CPU, 2 (5) when a device is
// missing or fails, 3 (7) when the disk holds something else than a sound ledger, which it
// then leaves as it is.
//
// Read src/program/ledger.h for the disk format, then src/program/ledger.c and src/kernel/kernel.h.
package ledger
