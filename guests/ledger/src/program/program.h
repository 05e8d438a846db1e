/*
 * The program: the ledger itself, in ring 3. It has the kernel page to read and the
 * system calls of abi.h; nothing else.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "abi.h"

/* sha256.c */
void sha256(u8 digest[32], const void *data, u64 bytes); /* digest may be in data */

/* text.c: memory (the compiler expects the first three to exist) and text */
void *memcpy(void *to, const void *from, u64 bytes);
void *memset(void *to, int value, u64 bytes);
int memcmp(const void *a, const void *b, u64 bytes);
int all_zero(const void *p, u64 bytes); /* both are multiples of 8 */
int text_equal(const char *a, const char *b);

/* A line under construction; what does not fit is dropped. */
struct line {
	u64 length;
	char text[248];
};
void put(struct line *l, const char *text, u64 bytes);
void put_text(struct line *l, const char *s);
void put_decimal(struct line *l, u64 v, unsigned digits); /* at least that many */
void put_hex(struct line *l, const u8 *p, u64 bytes);

/* A system call; see abi.h. */
static inline u64 syscall(u64 number, u64 a, u64 b, u64 c, u64 d)
{
	u64 result;
	if (kernel_page.ring0) {
		asm volatile("cli" : : : "memory");
		result = kernel_page.ring0[number](a, b, c, d);
		asm volatile("sti" : : : "memory");
		return result;
	}
	asm volatile("int %5"
		     : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+c"(d)
		     : "i"(VECTOR_SYSCALL), "a"(number)
		     : "r8", "r9", "r10", "r11", "memory", "cc");
	return result;
}

/* An exit with interrupts on, so that a hypervisor that injects interrupts at exits only can
 * do so. Whatever computes for longer than a millisecond calls it now and then. */
static inline void yield(void)
{
	asm volatile("outb %%al, %0" : : "i"(PORT_YIELD) : "memory");
}

#endif
