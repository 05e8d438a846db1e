/*
 * The kernel: what runs in ring 0, below the ledger program.
 *
 * Ring 0 is where time goes on a host whose KVM is software: such a KVM runs ring 3
 * natively and emulates ring 0 at about a thousandth of the speed, with no SSE, POPCNT,
 * RDTSCP, XGETBV, CMPXCHG16B or INT3 at all. So the kernel does as little as it can, in as
 * few instructions and exits as it can: devices work on the program's own buffers, and
 * hashing, verifying and putting text together is done in ring 3. It executes no RDTSC, RDRAND or CPUID, whose answers would differ
 * between replicas.
 *
 * Interrupts are off in the kernel but in halt(): elsewhere it is one thread.
 */
#ifndef KERNEL_H
#define KERNEL_H

#define KERNEL_CS  0x08
#define KERNEL_DS  0x10
#define PROGRAM_CS 0x1b
#define PROGRAM_DS 0x23
#define TSS_SEL    0x28

#define VECTOR_IRQ 0x20 /* 16 of them */

/* #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC and #SX. */
#define EXCEPTIONS_WITH_CODE 0x60227d00

#ifndef __ASSEMBLER__

#include "abi.h"

static inline void outb(u16 port, u8 v) { asm volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outw(u16 port, u16 v) { asm volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { asm volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }

static inline u8 inb(u16 port)
{
	u8 v;
	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline u32 inl(u16 port)
{
	u32 v;
	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/* Wait for an interrupt and take it. STI takes effect after HLT has begun, so none is
 * missed in between. */
static inline void halt(void) { asm volatile("sti; hlt; cli" : : : "memory"); }

/* boot.S */
extern char interrupt_entries[], exception_entries[], enter_syscall[];
extern char kernel_stack_end[];
extern u64 gdt[];
_Noreturn void start_program(u64 cs, u64 ss);
_Noreturn void crash(void);

/* kernel.c */
_Noreturn void die(const char *what); /* says so and leaves with EXIT_PLATFORM */

/* platform.c */
void pic_init(void);
void pic_enable(unsigned irq);
void pic_enable_level(unsigned irq);
void pit_init(void);
u64 rtc_time(void); /* ns since 1970-01-01 UTC */
void uart_init(void);
void uart_write(const char *text, u64 bytes);
void uart_receive(void);
_Noreturn void power_off(unsigned code);

enum { IRQ_TIMER = 0, IRQ_CASCADE = 2, IRQ_UART = 4 };

/* virtio.c */
void virtio_init(void);
void virtio_interrupt(unsigned irq);
u64 disk_transfer(u64 op, u64 sector, u64 buffer, u64 bytes);
u64 entropy_read(u64 buffer, u64 bytes);

#endif
#endif
