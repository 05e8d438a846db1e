/* bench NAME...: loads, one after the other (without a name: all), each between two lines on
 * the console:
 *
 *	bench NAME: begin
 *	bench NAME: end, N ns, result R
 *
 * N is guest time. R is the same on every machine and in every run. */
#include "guest.h"

static u64 seed;

/* draw is Marsaglia's xorshift, for branches and addresses that nobody foresees. */
static u64 draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

/* area is n bytes of fresh memory. */
static void *area(u64 n)
{
	const u64 read_write = 3, private_anonymous = 0x22;
	long p = syscall(SYS_mmap, 0, n, read_write, private_anonymous, ~0ul, 0);

	if (p < 0 && p > -4096) {
		print("bench: out of memory: give the guest more\n");
		quit(1);
	}
	return (void *)p;
}

static void nothing(void) {}

/* getpid: 10^6 system calls that do next to nothing. */
static u64 run_getpid(void)
{
	long first = syscall3(SYS_getpid, 0, 0, 0);
	u64 same = 0;

	for (int i = 0; i < 1000000; i++)
		same += syscall3(SYS_getpid, 0, 0, 0) == first;
	return same;
}

/* fork: 500 children, one after the other, that execute this program anew. */
static u64 run_fork(void)
{
	const char *argv[] = {"/proc/self/exe", "child", 0};
	u64 done = 0;

	for (int i = 0; i < 500; i++) {
		int status = 0;
		long pid = syscall3(SYS_fork, 0, 0, 0);

		if (pid == 0) {
			syscall3(SYS_execve, (u64)argv[0], (u64)argv, (u64)(argv + 2));
			quit(1);
		}
		done += syscall3(SYS_wait4, (u64)pid, (u64)&status, 0) == pid && status == 0;
	}
	return done;
}

static u64 __attribute__((noinline)) rotate(u64 a, u64 b) { return a << (b & 63) | a >> (-b & 63); }
static u64 __attribute__((noinline)) multiply(u64 a, u64 b) { return a * (b | 1) + 0x9E3779B97F4A7C15; }
static u64 __attribute__((noinline)) divide(u64 a, u64 b) { return (a / (b >> 40 | 1)) ^ b; }
static u64 __attribute__((noinline)) scale(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64) + a; }

static union {
	u64 words[1024];
	u32 halves[2048];
	u8 bytes[8192];
} table;

static void fill_table(void)
{
	for (int i = 0; i < 1024; i++)
		table.words[i] = draw();
}

/* int: arithmetic, loads and stores of 1 to 8 bytes, calls by pointer, loops of unforeseen length. */
static u64 run_int(void)
{
	static u64 (*const volatile operations[])(u64, u64) = {rotate, multiply, divide, scale};
	u64 sum = 0;

	for (int i = 0; i < 5000000; i++) {
		u64 r = draw(), at = r & 1023;

		sum += operations[r >> 20 & 3](table.words[at], sum);
		if (r >> 32 & 1)
			table.words[at] ^= sum;
		else
			table.bytes[r >> 33 & 8191] += (u8)(sum >> 8);
		for (u64 n = r >> 60; n > 0; n--)
			sum = (sum >> 1) + (table.halves[(sum + n) & 2047] ^ n);
	}
	return sum;
}

/* SHA-256 (FIPS 180-4). */
static u32 round_constants[64], initial_hash[8];
static u8 message[1 << 16];

/* root_fraction is the first 32 bits of the fraction of prime's square or cube root: where the
 * constants come from (4.2.2, 5.3.3). x is the root times 2^32, rounded down. */
static u32 root_fraction(u32 prime, int cube)
{
	u64 x = 0;

	for (u64 bit = 1ul << 36; bit > 0; bit >>= 1) {
		unsigned __int128 y = x | bit, square = y * y;

		if (cube ? square * y <= (unsigned __int128)prime << 96
			 : square <= (unsigned __int128)prime << 64)
			x |= bit;
	}
	return (u32)x;
}

static void prepare_sha(void)
{
	u32 primes = 0;

	for (u32 p = 2; primes < 64; p++) {
		u32 divisor = 2;

		while (p % divisor != 0)
			divisor++;
		if (divisor != p)
			continue;
		if (primes < 8)
			initial_hash[primes] = root_fraction(p, 0);
		round_constants[primes++] = root_fraction(p, 1);
	}
	for (u64 i = 0; i < sizeof message; i++)
		message[i] = (u8)draw();
}

static u32 right(u32 x, int n) { return x >> n | x << (32 - n); }

static void compress(u32 *hash, const u8 *block)
{
	u32 w[64], s[8];

	for (int i = 0; i < 16; i++, block += 4)
		w[i] = (u32)block[0] << 24 | (u32)block[1] << 16 | (u32)block[2] << 8 | block[3];
	for (int i = 16; i < 64; i++) {
		u32 a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + (right(a, 7) ^ right(a, 18) ^ a >> 3) + w[i - 7] +
		       (right(b, 17) ^ right(b, 19) ^ b >> 10);
	}
	for (int i = 0; i < 8; i++)
		s[i] = hash[i];
	for (int i = 0; i < 64; i++) {
		u32 e = s[4], a = s[0];
		u32 t = s[7] + (right(e, 6) ^ right(e, 11) ^ right(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
			round_constants[i] + w[i];
		u32 u = (right(a, 2) ^ right(a, 13) ^ right(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));

		s[7] = s[6], s[6] = s[5], s[5] = e, s[4] = s[3] + t;
		s[3] = s[2], s[2] = s[1], s[1] = a, s[0] = t + u;
	}
	for (int i = 0; i < 8; i++)
		hash[i] += s[i];
}

/* sha: 16 MiB. The result is the beginning of the hash, without the padding that FIPS 180-4 ends
 * a message with. */
static u64 run_sha(void)
{
	u32 hash[8];

	for (int i = 0; i < 8; i++)
		hash[i] = initial_hash[i];
	for (int i = 0; i < 256; i++)
		for (u64 at = 0; at < sizeof message; at += 64)
			compress(hash, message + at);
	return (u64)hash[0] << 32 | hash[1];
}

/* A ring of nodes in random order (Sattolo's shuffle), each in a cache line of its own. */
struct node {
	struct node *next;
	u64 value, unused[6];
};

static struct node *ring;

static void make_ring(u64 n)
{
	ring = area(n * sizeof *ring);
	for (u64 i = 0; i < n; i++)
		ring[i].next = &ring[i], ring[i].value = i;
	for (u64 i = n - 1; i > 0; i--) {
		u64 j = draw() % i;
		struct node *t = ring[i].next;

		ring[i].next = ring[j].next, ring[j].next = t;
	}
}

static u64 chase(int steps)
{
	const struct node *p = ring;
	u64 sum = 0;

	while (steps-- > 0)
		sum += p->value, p = p->next;
	return sum;
}

/* chase-cached: 32 KiB. chase-memory: 64 MiB, more than caches and TLBs hold. */
static void make_cached(void) { make_ring(1 << 9); }
static void make_memory(void) { make_ring(1 << 20); }
static u64 run_cached(void) { return chase(50000000); }
static u64 run_memory(void) { return chase(5000000); }

static const struct load {
	const char *name;
	void (*prepare)(void);
	u64 (*run)(void);
} loads[] = {
	{"getpid", nothing, run_getpid},
	{"fork", nothing, run_fork},
	{"int", fill_table, run_int},
	{"sha", prepare_sha, run_sha},
	{"chase-cached", make_cached, run_cached},
	{"chase-memory", make_memory, run_memory},
};

#define LOADS ((int)(sizeof loads / sizeof loads[0]))

static void run(const struct load *l)
{
	u64 start, result;

	seed = 88172645463325252;
	l->prepare();
	print("bench "), print(l->name), print(": begin\n");
	start = now();
	result = l->run();
	start = now() - start;
	print("bench "), print(l->name), print(": end, "), print_number(start), print(" ns, result ");
	print_number(result), print("\n");
}

int main(int argc, char **argv)
{
	if (argc == 2 && equal(argv[1], "child"))
		return 0;
	for (int i = 0; argc < 2 && i < LOADS; i++)
		run(&loads[i]);
	for (int arg = 1; arg < argc; arg++) {
		int i = 0;

		while (i < LOADS && !equal(argv[arg], loads[i].name))
			i++;
		if (i == LOADS) {
			print("bench: there is no load named "), print(argv[arg]), print("\n");
			return 2;
		}
		run(&loads[i]);
	}
	return 0;
}
