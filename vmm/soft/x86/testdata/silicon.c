// Asks the CPU how long instructions are, and which are undefined.
//
// An instruction is put in front of a page that cannot be executed, first one byte of it, then more. While it goes on behind
// the page boundary, its fetch faults there; otherwise it is executed, or raises what it raises. It runs in ring 3, in
// single step, with all registers pointing to memory.
//
// In: records of 16 bytes: 15 of code, and one that has bit 7 set for 32-bit mode, and in the other bits a guess of the
// length, which saves time where it is right. No code may enter the kernel or wait. Out: for each record two bytes:
// the length, and the vector of the exception: 1, of the single step, if there was no other.

#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, RECORD = 16, MAX_LEN = 15, MODE32 = 1 << 7 };
enum { CODE = 0x50000000, DATA = 0x40000000, DATA_SIZE = 1 << 20 };
enum { VECTOR_PF = 14, PF_FETCH = 1 << 4 };
enum { TF = 1 << 8, FIXED = 1 << 1 };
enum { MXCSR = 24, MXCSR_INIT = 0x1f80 };
enum { CS64 = 0x33, CS32 = 0x23, DS = 0x2b };

static const uint8_t *in;
static uint8_t *out;
static size_t count, at;
static unsigned len;   // bytes that are there
static unsigned least; // what len began with
static uint64_t fs_base;

static uint8_t *start(void) { return (uint8_t *)(uintptr_t)(CODE + PAGE - len); }

// place makes the context begin the first len bytes of the record.
static void place(ucontext_t *u)
{
	greg_t *g = u->uc_mcontext.gregs;
	for (int i = REG_R8; i <= REG_RSP; i++)
		g[i] = DATA + DATA_SIZE / 2;
	g[REG_RIP] = (greg_t)start();
	g[REG_EFL] = TF | FIXED;
	g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffL) | (in[at * RECORD + MAX_LEN] & MODE32 ? CS32 : CS64);
	memcpy((uint8_t *)u->uc_mcontext.fpregs + MXCSR, &(uint32_t){MXCSR_INIT}, 4);
	memcpy(start(), in + at * RECORD, len);
}

// load_segments undoes what the instruction may have loaded. 32-bit mode needs DS and ES.
static void load_segments(void)
{
	syscall(SYS_arch_prctl, ARCH_SET_FS, fs_base);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(DS));
}

static void done(void)
{
	fwrite(out, 2, count, stdout);
	fflush(stdout);
	_exit(0);
}

// begin makes the context begin the record with one byte less than it should need.
static void begin(ucontext_t *u)
{
	unsigned guess = in[at * RECORD + MAX_LEN] & ~MODE32;
	least = len = guess > 1 && guess <= MAX_LEN ? guess - 1 : 1;
	place(u);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)info;
	ucontext_t *u = context;
	greg_t *g = u->uc_mcontext.gregs;
	if (sig == SIGUSR1) {
		begin(u);
		return;
	}
	load_segments();
	int fetch = g[REG_TRAPNO] == VECTOR_PF && (g[REG_ERR] & PF_FETCH) && g[REG_RIP] == (greg_t)start() &&
		    g[REG_CR2] == CODE + PAGE;
	if (fetch && len < MAX_LEN) {
		len++;
		place(u);
	} else if (!fetch && len == least && least > 1) {
		least = len = 1; // the guess was too long
		place(u);
	} else {
		out[2 * at] = fetch ? 0 : len;
		out[2 * at + 1] = g[REG_TRAPNO];
		if (++at == count)
			done();
		begin(u);
	}
}

static void *map(uintptr_t addr, size_t size, int prot)
{
	void *p = mmap((void *)addr, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | (addr ? MAP_FIXED : 0), -1, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

int main(void)
{
	size_t size = 0, room = 1 << 20;
	uint8_t *records = malloc(room);
	for (size_t n; (n = fread(records + size, 1, room - size, stdin)) > 0;) {
		size += n;
		if (size == room)
			records = realloc(records, room *= 2);
	}
	in = records;
	count = size / RECORD;
	out = calloc(count + 1, 2);
	if (count == 0)
		return 0;
	syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base);
	map(CODE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	map(CODE + PAGE, PAGE, PROT_NONE);
	map(DATA, DATA_SIZE, PROT_READ | PROT_WRITE);
	size_t stack = 1 << 17;
	sigaltstack(&(stack_t){.ss_sp = map(0, stack, PROT_READ | PROT_WRITE), .ss_size = stack}, 0);
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	for (const int *s = (int[]){SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGUSR1, 0}; *s; s++)
		sigaction(*s, &action, 0);
	load_segments();
	raise(SIGUSR1);
	return 1;
}
