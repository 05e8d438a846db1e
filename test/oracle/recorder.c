//go:build ignore

/*
 * recorder executes single instructions on the CPU it runs on and reports what they did.
 *
 * A case is loaded into a signal frame: registers, flags, FXSAVE image. Returning from the handler
 * starts it, and what ends it enters the handler again: one signal for a case. The handler reports the
 * outcome, loads the next case and returns. It is a program without a C library, because a case needs
 * FS and GS for itself and may leave no trace that the next one could see.
 *
 * A case ends by the fault that it raises; by the trap after one instruction, if it is stepped (TF);
 * or else by the fault of what is behind it: the code area is filled with an instruction that faults.
 * Stepping is for instructions that may not go on to the next one. It costs several times more where
 * a hypervisor intercepts #DB.
 *
 * recorder.go has the other end of the pipes, compiles this file, and passes the layout:
 *   CODE, CODE_PAGES   linear address of the code area; R-X; no page behind it
 *   DATA, DATA_PAGES   linear address of the data area; RW; no page before and behind it
 *   DATA_READONLY      the page of the data area that is read-only
 *   FILL               what fills the code area: an instruction of one byte that raises #GP
 *   FS_BASE, GS_BASE   bases of the two segments that have one
 *   GS_LIMIT           limit of GS; the other segments have none
 *   FX_SIZE            how much of the FXSAVE image a case has
 */
#include <linux/types.h>
#include <linux/signal.h>
#include <linux/mman.h>
#include <linux/unistd.h>
#include <asm/ldt.h>
#include <asm/sigcontext.h>
#include <asm/ucontext.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

enum {
	PAGE = 4096,
	CODE_SIZE = CODE_PAGES * PAGE,
	DATA_SIZE = DATA_PAGES * PAGE,
	TF = 1 << 8,
	RF = 1 << 16, /* set in what a fault pushes */
	NO_VECTOR = 0xff,
	IN_SIZE = 1 << 18,
	OUT_SIZE = 1 << 18,
	MAX_OUTCOME = 3 * DATA_SIZE, /* every other byte changed, and the registers */
};

/* What a case and an outcome begin with; size counts all of it, what follows included. A case is
 * followed by its code and its patches, an outcome by patches that say what changed in the data area. */
struct state {
	u64 gpr[16]; /* by their encoding */
	u64 rip, flags;
	u8 fx[FX_SIZE];
} __attribute__((packed));

struct incoming {
	u32 size;
	u16 cs;
	u8 codes;
	u8 patches;
	u32 step;
	struct state s;
} __attribute__((packed));

struct outgoing {
	u32 size;
	u16 cs;
	u8 vector;
	u8 unused;
	u32 error;
	u64 cr2;
	struct state s;
} __attribute__((packed));

struct patch {
	u16 offset, size;
} __attribute__((packed));

static u8 *code, *data;     /* the areas, mapped for us to write to */
static u8 pristine[DATA_SIZE]; /* the data area between cases */
static u8 before[DATA_SIZE] __attribute__((aligned(64))); /* the data area when the case began */
static struct incoming *now; /* the case being executed */
static u8 in[IN_SIZE], out[OUT_SIZE];
static u32 in_at, in_end, out_end;
static u8 handler_stack[1 << 16] __attribute__((aligned(64)));

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

static void copy(void *to, const void *from, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void fill(void *to, u8 value, u64 n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
}

static void leave(int status)
{
	for (;;)
		call(__NR_exit_group, status, 0, 0, 0, 0, 0);
}

/* fail ends the recorder with a reason for its parent to show. */
static void fail(const char *why)
{
	u32 n = 0;
	while (why[n])
		n++;
	call(__NR_write, 2, (long)why, n, 0, 0, 0);
	leave(1);
}

static void flush(void)
{
	for (u32 at = 0; at < out_end;) {
		long n = call(__NR_write, 1, (long)(out + at), out_end - at, 0, 0, 0);
		if (n <= 0)
			fail("cannot write outcomes");
		at += n;
	}
	out_end = 0;
}

/* need reads until n bytes are there at in_at. Before it waits, everything known is sent. */
static void need(u32 n)
{
	if (n > IN_SIZE)
		fail("a case is too large");
	if (in_end - in_at >= n)
		return;
	copy(in, in + in_at, in_end - in_at);
	in_end -= in_at;
	in_at = 0;
	flush();
	while (in_end < n) {
		long got = call(__NR_read, 0, (long)(in + in_end), IN_SIZE - in_end, 0, 0, 0);
		if (got == 0 && in_end == 0)
			leave(0);
		if (got <= 0)
			fail("cannot read cases");
		in_end += got;
	}
}

/* General registers in the signal frame, by their encoding. */
static u64 *gpr(struct sigcontext *sc, int i)
{
	switch (i) {
	case 0: return &sc->rax;
	case 1: return &sc->rcx;
	case 2: return &sc->rdx;
	case 3: return &sc->rbx;
	case 4: return &sc->rsp;
	case 5: return &sc->rbp;
	case 6: return &sc->rsi;
	case 7: return &sc->rdi;
	default: return &sc->r8 + (i - 8);
	}
}

/* put_changes appends what the case changed in the data area, and undoes it. */
static u8 *put_changes(u8 *to)
{
	for (u32 line = 0; line < DATA_SIZE; line += 64) {
		const u64 *a = (u64 *)(data + line), *b = (u64 *)(before + line);
		u64 differ = 0;
		for (int i = 0; i < 8; i++)
			differ |= a[i] ^ b[i];
		if (!differ)
			continue;
		for (u32 i = line; i < line + 64;) {
			u32 end = i;
			while (end < line + 64 && data[end] != before[end])
				end++;
			if (end == i) {
				i++;
				continue;
			}
			struct patch p = { i, end - i };
			copy(to, &p, sizeof p);
			copy(to + sizeof p, data + i, end - i);
			to += sizeof p + end - i;
			i = end;
		}
		copy(data + line, before + line, 64);
	}
	return to;
}

static void report(struct sigcontext *sc)
{
	if (out_end + sizeof(struct outgoing) + MAX_OUTCOME > OUT_SIZE)
		flush();
	struct outgoing *o = (struct outgoing *)(out + out_end);
	o->cs = sc->cs;
	o->unused = 0;
	o->vector = NO_VECTOR;
	o->error = 0;
	o->cr2 = 0;
	if (now->step ? sc->trapno != 1 : sc->rip == now->s.rip) {
		o->vector = sc->trapno;
		o->error = sc->err;
		if (sc->trapno == 14)
			o->cr2 = sc->cr2;
	}
	for (int i = 0; i < 16; i++)
		o->s.gpr[i] = *gpr(sc, i);
	o->s.rip = sc->rip;
	o->s.flags = sc->eflags & ~(u64)(TF | RF);
	copy(o->s.fx, (void *)sc->fpstate, FX_SIZE);
	u8 *end = put_changes((u8 *)(o + 1));
	o->size = end - (u8 *)o;
	out_end += o->size;
}

/* patch_all puts the patches of the case into the data area, or takes them back. */
static void patch_all(int in_force)
{
	u8 *at = (u8 *)(now + 1) + now->codes;
	for (int i = 0; i < now->patches; i++) {
		struct patch *p = (struct patch *)at;
		if (p->offset + p->size > DATA_SIZE)
			fail("a patch outside the data area");
		const u8 *from = in_force ? at + sizeof *p : pristine + p->offset;
		copy(data + p->offset, from, p->size);
		copy(before + p->offset, from, p->size);
		at += sizeof *p + p->size;
	}
}

/* put_code writes the instruction, as far as the code area goes, or what fills the area without it. */
static void put_code(int in_force)
{
	u64 offset = now->s.rip - CODE;
	if (offset >= CODE_SIZE)
		fail("RIP outside the code area");
	u64 n = now->codes;
	if (n > CODE_SIZE - offset)
		n = CODE_SIZE - offset;
	if (in_force)
		copy(code + offset, now + 1, n);
	else
		fill(code + offset, FILL, n);
}

static void load(struct sigcontext *sc)
{
	need(sizeof(u32));
	need(*(u32 *)(in + in_at));
	now = (struct incoming *)(in + in_at);
	in_at += now->size;

	for (int i = 0; i < 16; i++)
		*gpr(sc, i) = now->s.gpr[i];
	sc->rip = now->s.rip;
	sc->eflags = now->step ? now->s.flags | TF : now->s.flags;
	sc->cs = now->cs;

	/* The legacy region of the frame is an FXSAVE image; XSTATE_BV says that it is to be loaded. */
	struct _xstate *x = (struct _xstate *)sc->fpstate;
	copy(x, now->s.fx, FX_SIZE);
	x->xstate_hdr.xfeatures |= 3;

	put_code(1);
	patch_all(1);
}

__attribute__((used)) static void handle(int signal, void *info, struct ucontext *uc)
{
	(void)signal;
	(void)info;
	struct sigcontext *sc = (struct sigcontext *)&uc->uc_mcontext;
	if (now) {
		report(sc);
		put_code(0);
		patch_all(0);
	}
	load(sc);
}

/* The kernel passes on the flags that it does not clear, and handle itself must not be checked for
 * alignment (AC), nor should NT and ID reach the next case: sigreturn does not set them. */
void entry(void);
void restorer(void);
__asm__("entry:\n"
	"	pushq $0x202\n"
	"	popfq\n"
	"	jmp handle\n"
	"restorer:\n"
	"	mov $15, %eax\n" /* rt_sigreturn */
	"	syscall\n");

/* map makes an area of a file in memory: at its address for the cases, and writable for us. */
static u8 *map(u64 at, u64 size, int prot)
{
	long fd = call(__NR_memfd_create, (long)"oracle", 0, 0, 0, 0, 0);
	if (fd < 0 || call(__NR_ftruncate, fd, size, 0, 0, 0, 0) < 0)
		fail("cannot make a file in memory");
	if (call(__NR_mmap, at, size, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) != (long)at)
		fail("cannot map an area");
	long alias = call(__NR_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (alias < 0 && alias > -PAGE)
		fail("cannot map an area for writing");
	return (u8 *)alias;
}

/* segment makes entry n of the local descriptor table a data segment, and returns its selector. */
static u16 segment(u32 n, u32 base, u32 limit)
{
	struct user_desc d = { .entry_number = n, .base_addr = base, .limit = limit >> 12,
			       .seg_32bit = 1, .limit_in_pages = 1, .useable = 1 };
	if (call(__NR_modify_ldt, 1, (long)&d, sizeof d, 0, 0, 0) != 0)
		fail("cannot make a segment");
	return n << 3 | 7;
}

__attribute__((used)) static void start(void)
{
	code = map(CODE, CODE_SIZE, PROT_READ | PROT_EXEC);
	fill(code, FILL, CODE_SIZE);
	data = map(DATA, DATA_SIZE, PROT_READ | PROT_WRITE);
	if (call(__NR_mprotect, DATA + DATA_READONLY * PAGE, PAGE, PROT_READ, 0, 0, 0) < 0)
		fail("cannot protect a page");
	need(DATA_SIZE);
	copy(pristine, in + in_at, DATA_SIZE);
	in_at += DATA_SIZE;
	copy(data, pristine, DATA_SIZE);
	copy(before, pristine, DATA_SIZE);

	u16 fs = segment(0, FS_BASE, -1), gs = segment(1, GS_BASE, GS_LIMIT), ds = 0x2b;
	__asm__ volatile("mov %0, %%fs; mov %1, %%gs; mov %2, %%ds; mov %2, %%es" : : "r"(fs), "r"(gs), "r"(ds));

	stack_t stack = { .ss_sp = handler_stack, .ss_size = sizeof handler_stack };
	if (call(__NR_sigaltstack, (long)&stack, 0, 0, 0, 0, 0) < 0)
		fail("cannot set the signal stack");
	static const u8 signals[] = { SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
	for (u32 i = 0; i < sizeof signals; i++) {
		struct sigaction a = { .sa_handler = (__sighandler_t)entry, .sa_restorer = restorer,
				       .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTORER };
		if (call(__NR_rt_sigaction, signals[i], (long)&a, 0, sizeof a.sa_mask, 0, 0) < 0)
			fail("cannot handle a signal");
	}
	__asm__ volatile("int3");
	__builtin_unreachable();
}

void _start(void);
__asm__(".globl _start\n"
	"_start:\n"
	"	and $-16, %rsp\n"
	"	call start\n");
