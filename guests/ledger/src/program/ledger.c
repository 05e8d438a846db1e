/* The ledger: finds the chain on the disk, goes on from its end, answers the console. */
#include "ledger.h"
#include "option.h"
#include "program.h"

/* A millisecond of computing, in rounds, and in digests of a block (64 compressions). In
 * ring 0 everything may be slow, so there each one yields. */
#define ROUNDS_PER_YIELD 100
#define BLOCKS_PER_YIELD 50

/* How far behind the chain's end the disk must be zero. */
#define LOOKAHEAD 64

struct kernel_page kernel_page __attribute__((section(".kernel_page")));

/* The end of the chain. */
static struct {
	u64 seq; /* number of the last transaction, which is how many there are */
	u64 time;
	u8 digest[DIGEST];
} last;

static u64 txns, work, period, flush, report; /* the options; see ../../doc.go */

static u64 blocks;     /* size of the disk */
static u64 clock_base; /* guest time at boot */
static int stop;       /* end after this transaction */
static struct line input; /* what was typed of a line that has not ended; it is on the screen */

static void write(const struct line *l)
{
	syscall(SYS_WRITE, (u64)l->text, l->length, 0, 0);
}

/* Prints a line, and keeps apart from it a line that is being typed. */
static void print(const struct line *l)
{
	struct line out = { .length = 0 };
	if (input.length)
		put(&out, "\n", 1);
	put(&out, l->text, l->length);
	put(&out, "\n", 1);
	put(&out, input.text, input.length);
	write(&out);
}

static _Noreturn void leave(u64 code)
{
	syscall(SYS_EXIT, code, 0, 0, 0);
	__builtin_unreachable();
}

static _Noreturn void fail(u64 code, const char *what, u64 block)
{
	struct line l = { .length = 0 };
	put_text(&l, "ledger: block ");
	put_decimal(&l, block, 1);
	put_text(&l, ": ");
	put_text(&l, what);
	print(&l);
	leave(code);
}

static u64 now(void)
{
	return clock_base + kernel_page.ticks * TICK_NS;
}

static void print_sum(void)
{
	struct line l = { .length = 0 };
	put_text(&l, "sum txns=");
	put_decimal(&l, last.seq, 1);
	put_text(&l, " last=");
	put_hex(&l, last.digest, 8);
	put_text(&l, " time=");
	put_decimal(&l, now() / 1000000000, 1);
	put_text(&l, ".");
	put_decimal(&l, now() % 1000000000, 9);
	print(&l);
}

static void command(const char *s)
{
	struct line l = { .length = 0 };
	if (text_equal(s, "sum")) {
		print_sum();
	} else if (text_equal(s, "stop")) {
		stop = 1;
	} else if (text_equal(s, "crash")) {
		syscall(SYS_CRASH, 0, 0, 0, 0);
	} else if (text_equal(s, "help")) {
		put_text(&l, "sum: where the ledger stands; stop: end; crash: triple fault");
		print(&l);
	} else if (*s) {
		put_text(&l, "unknown command '");
		put_text(&l, s);
		put_text(&l, "'; try help");
		print(&l);
	}
}

/* Takes what was typed since the last call: echoes it, edits the line, obeys it. */
static void poll_console(void)
{
	enum { BACKSPACE = 8, DELETE = 127, WIDTH = 80 };
	static u64 taken;

	if (kernel_page.received - taken > CONSOLE_RING)
		taken = kernel_page.received - CONSOLE_RING;
	while (taken != kernel_page.received) {
		char c = kernel_page.console[taken++ % CONSOLE_RING];
		struct line echo = { .length = 0 };
		if (c == '\r' || c == '\n') {
			struct line typed = input;
			put(&typed, "", 1);
			if (input.length) {
				put(&echo, "\n", 1);
				write(&echo);
			}
			input.length = 0;
			command(typed.text);
			continue;
		}
		if ((c == BACKSPACE || c == DELETE) && input.length) {
			input.length--;
			put_text(&echo, "\b \b");
		} else if (c >= ' ' && c < DELETE && input.length < WIDTH) {
			put(&input, &c, 1);
			put(&echo, &c, 1);
		}
		write(&echo);
	}
}

static void disk(enum disk_op op, u64 block, const void *buffer, u64 bytes)
{
	if (syscall(SYS_DISK, op, block * (BLOCK / SECTOR), (u64)buffer, bytes))
		fail(EXIT_PLATFORM, "the disk reports an error", block);
}

/* The block, read together with those around it. It is valid until the next call. */
static const struct txn *read_block(u64 block)
{
	enum { CHUNK = 64 };
	static struct txn chunk[CHUNK] __attribute__((aligned(BLOCK)));
	static u64 first = ~0ul;

	if (block / CHUNK * CHUNK != first) {
		first = block / CHUNK * CHUNK;
		u64 n = blocks - first < CHUNK ? blocks - first : CHUNK;
		disk(DISK_READ, first, chunk, n * BLOCK);
	}
	return &chunk[block - first];
}

/* Verifies the chain that the disk holds and makes `last` its end. */
static void open_ledger(void)
{
	struct line l = { .length = 0 };
	u64 block;
	int torn = 0;

	for (block = 0; block < blocks; block++) {
		const struct txn *t = read_block(block);
		u8 digest[DIGEST];
		if (all_zero(t, BLOCK))
			break;
		sha256(digest, t, BLOCK - DIGEST);
		if (t->magic != MAGIC || memcmp(digest, t->digest, DIGEST)) {
			if (t->magic != MAGIC && !(block && all_zero(t, SECTOR)))
				fail(EXIT_LEDGER, "this is not a ledger's; the disk is left as it is",
				     block);
			torn = 1;
			break;
		}
		if (t->seq != block + 1)
			fail(EXIT_LEDGER, "a transaction with another number", block);
		if (memcmp(t->prev, last.digest, DIGEST))
			fail(EXIT_LEDGER, "the chain is broken before it", block);
		if (t->time < last.time)
			fail(EXIT_LEDGER, "its time is before that of the last", block);
		last.seq = t->seq;
		last.time = t->time;
		memcpy(last.digest, digest, DIGEST);
		if (kernel_page.ring0 || block % BLOCKS_PER_YIELD == 0)
			yield();
	}
	for (u64 b = block + 1; b < blocks && b - block < LOOKAHEAD; b++)
		if (!all_zero(read_block(b), BLOCK))
			fail(EXIT_LEDGER, torn ? "damaged, and the blocks behind it are not empty" :
						 "empty, and the blocks behind it are not",
			     block);

	put_text(&l, "ledger: ");
	put_decimal(&l, last.seq, 1);
	put_text(&l, " of ");
	put_decimal(&l, blocks, 1);
	put_text(&l, " txns on disk, chain verified");
	if (torn)
		put_text(&l, "; the next one is torn and will be written again");
	print(&l);
}

static void take_entropy(u8 entropy[DIGEST])
{
	static u8 pool[16 * DIGEST];
	static u64 have;

	for (u64 i = 0; i < DIGEST; i++) {
		if (have == 0)
			have = syscall(SYS_ENTROPY, (u64)pool, sizeof pool, 0, 0);
		entropy[i] = pool[--have];
	}
}

/* Makes one transaction, and prints it once it is on disk. */
static void transact(void)
{
	static struct txn t __attribute__((aligned(BLOCK)));
	struct line l = { .length = 0 };
	u64 block = last.seq;

	if (block == blocks) {
		put_text(&l, "ledger full");
		print(&l);
		stop = 1;
		return;
	}
	t.magic = MAGIC;
	t.seq = last.seq + 1;
	t.work = work;
	memcpy(t.prev, last.digest, DIGEST);
	take_entropy(t.entropy);
	sha256(t.payload[0], t.entropy, DIGEST);
	for (u64 round = 1; round <= work; round++) {
		for (unsigned i = 0; i < ROUND; i++)
			sha256(t.payload[0], t.payload[0], DIGEST);
		if (kernel_page.ring0 || round % ROUNDS_PER_YIELD == 0) {
			yield();
			poll_console();
		}
	}
	for (unsigned i = 1; i < sizeof t.payload / DIGEST; i++)
		sha256(t.payload[i], t.payload[i - 1], DIGEST);
	t.time = now();
	sha256(t.digest, &t, BLOCK - DIGEST);

	disk(DISK_WRITE, block, &t, BLOCK);
	if (flush)
		disk(DISK_FLUSH, block, &t, 0);
	last.seq = t.seq;
	last.time = t.time;
	memcpy(last.digest, t.digest, DIGEST);
	if (t.seq % report == 0) {
		put_text(&l, "txn ");
		put_decimal(&l, t.seq, 1);
		put_text(&l, " ");
		put_hex(&l, t.digest, 8);
		print(&l);
	}
}

static u64 read_option(const char *name, u64 otherwise)
{
	return option(kernel_page.cmdline, name, otherwise);
}

_Noreturn void program_main(void)
{
	txns = read_option("txns", 0);
	work = read_option("work", 500);
	period = read_option("period", 3);
	flush = read_option("flush", 1);
	report = read_option("report", 1);
	if (report == 0)
		report = 1;
	blocks = kernel_page.sectors / (BLOCK / SECTOR);
	open_ledger();
	clock_base = kernel_page.boot_time > last.time ? kernel_page.boot_time : last.time;

	u64 first = last.seq, due = 0;
	for (;;) {
		u64 events = kernel_page.events;
		poll_console();
		if (stop || (txns && last.seq - first == txns))
			break;
		if (kernel_page.ticks < due) {
			syscall(SYS_WAIT, events, 0, 0, 0);
			continue;
		}
		due = kernel_page.ticks + period;
		transact();
	}
	print_sum();
	leave(0);
}
