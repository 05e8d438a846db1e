/* io: loads of /dev/vda, whose contents are lost, and then a server; each between two lines on the
 * console, as those of bench.c. */
#include "guest.h"

enum {
	SYS_read = 0,
	SYS_open = 2,
	SYS_close = 3,
	SYS_pread64 = 17,
	SYS_pwrite64 = 18,
	SYS_socket = 41,
	SYS_accept = 43,
	SYS_sendto = 44,
	SYS_bind = 49,
	SYS_listen = 50,
	SYS_fdatasync = 75,
};

#define O_RDWR 02
#define O_DIRECT 040000
#define MSG_NOSIGNAL 0x4000

#define KIB 1024ul
#define MIB (KIB * KIB)
#define SIZE (128 * MIB) /* of what is used of the disk */

static u64 buffer[64 * KIB / sizeof(u64)] __attribute__((aligned(4096)));

/* check ends the program if a system call failed. */
static u64 check(const char *what, long result)
{
	if (result < 0) {
		print("io: "), print(what), print(": error "), print_number((u64)-result), print("\n");
		quit(1);
	}
	return (u64)result;
}

static u64 disk;

/* whole is check, for a transfer that must not be short. */
static void whole(const char *what, long result, u64 n)
{
	if (check(what, result) != n) {
		print("io: "), print(what), print(": short\n");
		quit(1);
	}
}

static void fill(u64 seed)
{
	for (u64 i = 0; i < sizeof buffer / sizeof *buffer; i++)
		buffer[i] = seed += 0x9E3779B97F4A7C15;
}

/* write: 512 MiB to 128 MiB of the disk, past the guest's cache, 64 KiB at a time. */
static u64 run_write(void)
{
	for (u64 at = 0; at < 512 * MIB; at += sizeof buffer) {
		fill(at);
		whole("write", syscall(SYS_pwrite64, disk, (u64)buffer, sizeof buffer, at % SIZE, 0, 0), sizeof buffer);
	}
	return buffer[0];
}

/* write-flushed: 2000 blocks of 4 KiB here and there, each made stable before the next. */
static u64 run_flushed(void)
{
	for (u64 i = 0; i < 2000; i++) {
		fill(i);
		whole("write", syscall(SYS_pwrite64, disk, (u64)buffer, 4 * KIB, i * 7919 * 4 * KIB % SIZE, 0, 0), 4 * KIB);
		check("fdatasync", syscall3(SYS_fdatasync, disk, 0, 0));
	}
	return buffer[0];
}

static u64 read_all(u64 size, u64 times, u64 stride)
{
	u64 sum = 0;

	for (u64 i = 0; i < times; i++) {
		whole("read", syscall(SYS_pread64, disk, (u64)buffer, size, i * stride % SIZE, 0, 0), size);
		sum = (sum ^ buffer[size / sizeof *buffer - 1]) * 31;
	}
	return sum;
}

/* read: 512 MiB past the guest's cache, 64 KiB at a time. read-small: 10000 blocks of 4 KiB here and there. */
static u64 run_read(void) { return read_all(64 * KIB, 8192, 64 * KIB); }
static u64 run_read_small(void) { return read_all(4 * KIB, 10000, 7919 * 4 * KIB); }

/* receive is 0 at the end of the connection, and if the client broke it. */
static u64 receive(u64 client)
{
	long n = syscall3(SYS_read, client, (u64)buffer, sizeof buffer);

	return n < 0 ? 0 : (u64)n;
}

/* send is 0 if the client is gone. The connection is to be closed then. */
static int send(u64 client, u64 n)
{
	for (const u8 *p = (const u8 *)buffer; n > 0;) {
		long sent = syscall(SYS_sendto, client, (u64)p, n, MSG_NOSIGNAL, 0, 0);

		if (sent <= 0)
			return 0;
		p += sent, n -= (u64)sent;
	}
	return 1;
}

/* serve: a server at port 7, for one connection after the other. The first byte says what it is for. */
static u64 run_serve(void)
{
	/* struct sockaddr_in: AF_INET, the port in network order, any address. */
	static const u8 address[16] = {2, 0, 0, 7};
	const u64 inet = 2, stream = 1;
	u64 server = check("socket", syscall3(SYS_socket, inet, stream, 0));

	check("bind", syscall3(SYS_bind, server, (u64)address, sizeof address));
	check("listen", syscall3(SYS_listen, server, 8, 0));
	print("io: listening\n");
	for (u64 connections = 0;; connections++) {
		u64 client = check("accept", syscall3(SYS_accept, server, 0, 0));
		u8 purpose = 0;

		syscall3(SYS_read, client, (u64)&purpose, 1);
		switch (purpose) {
		case 'e': /* echo */
			for (u64 n; (n = receive(client)) > 0 && send(client, n);)
				;
			break;
		case 's': /* send 64 MiB */
			for (u64 n = 64 * MIB; n > 0 && send(client, sizeof buffer); n -= sizeof buffer)
				;
			break;
		case 'r': /* receive 64 MiB, and tell when they are here */
			for (u64 n = 0, more; n < 64 * MIB && (more = receive(client)) > 0; n += more)
				;
			send(client, 1);
			break;
		case 'q': /* quit */
			return connections;
		}
		syscall3(SYS_close, client, 0, 0);
	}
}

static const struct load {
	const char *name;
	u64 (*run)(void);
} loads[] = {
	{"write", run_write},
	{"write-flushed", run_flushed},
	{"read", run_read},
	{"read-small", run_read_small},
	{"serve", run_serve},
};

int main(int argc, char **argv)
{
	(void)argc, (void)argv;
	disk = check("/dev/vda", syscall3(SYS_open, (u64)"/dev/vda", O_RDWR | O_DIRECT, 0));
	for (u64 i = 0; i < sizeof loads / sizeof *loads; i++) {
		u64 start = now(), result;

		print("bench "), print(loads[i].name), print(": begin\n");
		result = loads[i].run();
		start = now() - start;
		print("bench "), print(loads[i].name), print(": end, "), print_number(start), print(" ns, result ");
		print_number(result), print("\n");
	}
	return 0;
}
