// silicon executes single SSE and x87 instructions for silicon_test.go. It reads batches from standard
// input: a count (u32), and as many records; it answers each batch with as many outcomes. The instructions
// are in ops.h, which the test writes, one line each:
//
//     SSE(number, "instruction")   xmm1 and xmm2 hold a and b, rax holds a, rdi points to mem (b)
//     X87(number, "instruction")   st0 and st1 hold a and b, rdi points to mem (b)
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

struct record {
	uint32_t op, control; // MXCSR, or the x87 control word
	uint64_t a[2], b[2];
};

struct outcome {
	uint64_t result[2], mem[2];      // xmm1 or st0; what rdi points to
	uint64_t rax, st1[2];
	uint32_t status;                 // MXCSR, or the x87 status word
	uint32_t unused;
};

// Where an unmasked SSE exception continues: behind the instruction.
void *resume __attribute__((used));

static void on_fpe(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uc->uc_mcontext.fpregs->mxcsr |= 0x1f80;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)resume;
	(void)sig, (void)info;
}

static const uint32_t calm = 0x1f80;

#define SSE(number, insn)                                                       \
	case number:                                                            \
		__asm__ volatile("lea 1f(%%rip), %%rdx\n\t"                     \
				 "mov %%rdx, resume(%%rip)\n\t"                 \
				 "movups %[a], %%xmm1\n\t"                      \
				 "movups %[b], %%xmm2\n\t"                      \
				 "ldmxcsr %[control]\n\t" insn "\n"             \
				 "1:\tstmxcsr %[status]\n\t"                    \
				 "ldmxcsr %[calm]\n\t"                          \
				 "movups %%xmm1, %[result]\n\t"                 \
				 : "=&a"(o->rax), [result] "=m"(o->result),     \
				   [status] "=m"(o->status), "+m"(o->mem)       \
				 : "0"(r->a[0]), "D"(o->mem), [a] "m"(r->a),    \
				   [b] "m"(r->b), [control] "m"(r->control),    \
				   [calm] "m"(calm)                             \
				 : "rdx", "xmm1", "xmm2", "cc");                \
		break;

#define X87(number, insn)                                                       \
	case number:                                                            \
		__asm__ volatile("fninit\n\tfldt %[b]\n\tfldt %[a]\n\t"         \
				 "fldcw %[control]\n\t" insn "\n\t"             \
				 "fnsave %[image]"                              \
				 : [image] "=m"(image), "+m"(o->mem)            \
				 : "D"(o->mem), [a] "m"(r->a), [b] "m"(r->b),   \
				   [control] "m"(r->control)                    \
				 : "rax", "memory");                            \
		o->status = *(uint16_t *)(image + 4);                           \
		memcpy(o->result, image + 28, 10);                              \
		memcpy(o->st1, image + 38, 10);                                 \
		break;

static void execute(const struct record *r, struct outcome *o)
{
	uint8_t image[108] __attribute__((unused));
	memset(o, 0, sizeof *o);
	memcpy(o->mem, r->b, sizeof o->mem);
	switch (r->op) {
#include "ops.h"
	default:
		abort();
	}
}

static int whole(ssize_t (*move)(int, void *, size_t), int fd, void *p, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t k = move(fd, (char *)p + done, n - done);
		if (k <= 0)
			return 0;
		done += k;
	}
	return 1;
}

int main(void)
{
	struct sigaction sa = {.sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO | SA_NODEFER};
	sigaction(SIGFPE, &sa, 0);
	uint32_t n;
	while (whole(read, 0, &n, sizeof n)) {
		struct record *r = malloc(n * sizeof *r);
		struct outcome *o = malloc(n * sizeof *o);
		if (!r || !o || !whole(read, 0, r, n * sizeof *r))
			return 1;
		for (uint32_t i = 0; i < n; i++)
			execute(r + i, o + i);
		if (!whole((ssize_t (*)(int, void *, size_t))write, 1, o, n * sizeof *o))
			return 1;
		free(r);
		free(o);
	}
	return 0;
}
