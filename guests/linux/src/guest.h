/* What a program without a C library needs: its start, system calls, a line of output. So what a
 * program executes is what is written here: no dynamic loader, no choice of routines by CPUID. */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

/* Numbers of x86-64 Linux (arch/x86/entry/syscalls/syscall_64.tbl). */
enum {
	SYS_write = 1,
	SYS_mmap = 9,
	SYS_ioctl = 16,
	SYS_getpid = 39,
	SYS_fork = 57,
	SYS_execve = 59,
	SYS_exit = 60,
	SYS_wait4 = 61,
	SYS_sync = 162,
	SYS_ioperm = 173,
	SYS_clock_gettime = 228,
};

static inline long syscall(long n, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* syscall3 is a system call with at most three arguments. */
static inline long syscall3(long n, u64 a, u64 b, u64 c) { return syscall(n, a, b, c, 0, 0, 0); }

static inline void __attribute__((noreturn)) quit(int status)
{
	for (;;)
		syscall3(SYS_exit, (u64)status, 0, 0);
}

static inline int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static inline void print(const char *s)
{
	u64 n = 0;

	while (s[n])
		n++;
	syscall3(SYS_write, 1, (u64)s, n);
}

static inline void print_number(u64 v)
{
	char digits[21], *p = digits + 20;

	for (*p = 0; *--p = (char)('0' + v % 10), v /= 10;)
		;
	print(p);
}

/* now is CLOCK_MONOTONIC in ns. */
static inline u64 now(void)
{
	struct { u64 s, ns; } t = {0, 0};

	syscall3(SYS_clock_gettime, 1, (u64)&t, 0);
	return t.s * 1000000000 + t.ns;
}

int main(int argc, char **argv);

/* The kernel enters a program with argc and argv on the stack (System V ABI, 3.4.1). */
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");

__attribute__((used, noreturn)) static void start(u64 *stack) { quit(main((int)stack[0], (char **)(stack + 1))); }

#endif
