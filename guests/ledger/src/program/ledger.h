/*
 * The ledger on disk, little-endian; Verify in ../../ledger.go knows it as well.
 *
 * Transaction N, from 1 on, is the 4 KiB block number N-1 of the disk; there is nothing
 * else on it, and what lies behind the last transaction is zero. A block that is all zero
 * ends the chain.
 *
 * A block whose digest is wrong is a torn write if nothing but zeros follows, and if it
 * begins with the magic number or, on a disk that has transactions already, with a
 * sector of zeros: then it is the one write that was under way when the power went.
 * Every other deviation is damage, or the disk is somebody else's.
 */
#ifndef LEDGER_H
#define LEDGER_H

#include "abi.h"

#define BLOCK  4096
#define DIGEST 32

struct txn {
	u64 magic;
	u64 seq;  /* N */
	u64 time; /* guest time, ns since 1970-01-01 UTC; never less than that of N-1 */
	u64 work; /* rounds of work in it */
	u8 entropy[DIGEST]; /* from virtio-rng */
	u8 prev[DIGEST];    /* digest of transaction N-1; zero for the first */
	/* [0] is SHA-256 applied ROUND * work + 1 times to the entropy, [i] is SHA-256 of [i-1]. */
	u8 payload[124][DIGEST];
	u8 digest[DIGEST]; /* SHA-256 of all the bytes before it */
};

_Static_assert(sizeof(struct txn) == BLOCK, "a transaction is a block");

#define MAGIC 0x312f72656764656cul /* "ledger/1" */
#define ROUND 32		   /* SHA-256 compressions, about 10 us */

#endif
