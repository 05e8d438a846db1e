/*
 * What the kernel and the program agree on.
 *
 * The program calls the kernel by INT: number in RAX, arguments in RDI, RSI, RDX and
 * RCX, result in RAX; the other registers that a C function may change are lost. The
 * vector is that of INTO, one of the two that operating systems leave open to ring 3: where
 * KVM is software, neither the other vectors nor SYSCALL reach the guest's kernel. With
 * ring3=0 the program runs in ring 0, where such a KVM knows no INT at all, and calls
 * the kernel's functions itself.
 *
 * What the program only wants to know it reads from the kernel page: a system call
 * costs instructions in ring 0, and those are the slow ones where KVM is software.
 */
#ifndef ABI_H
#define ABI_H

#define VECTOR_SYSCALL 4

#define SYS_EXIT    0 /* (code): power off if code is 0, else leave by isa-debug-exit */
#define SYS_WRITE   1 /* (text, bytes): to the console */
#define SYS_WAIT    2 /* (events): return once kernel_page.events is another number */
#define SYS_DISK    3 /* (op, sector, buffer, bytes): 0 if it is done, else virtio's status */
#define SYS_ENTROPY 4 /* (buffer, bytes): how many bytes the device gave, 1 or more */
#define SYS_CRASH   5 /* (): triple fault */
#define SYSCALLS    6

/* The one port that the program may write to. No device is behind it. */
#define PORT_YIELD 0x80

/* What isa-debug-exit reports, as (code << 1) | 1. */
#define EXIT_EXCEPTION 1 /* the CPU took an exception */
#define EXIT_PLATFORM  2 /* a device is missing, refuses or fails */
#define EXIT_LEDGER    3 /* the disk holds something else than a sound ledger */

/* Everything the program owns lies here; the rest of memory is the kernel's. */
#define PROGRAM_START 0x200000
#define PROGRAM_END   0x400000

#ifndef __ASSEMBLER__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define SECTOR 512

typedef u64 syscall_function(u64, u64, u64, u64);

/* Operations of SYS_DISK, with virtio-blk's numbers (virtio 1.2, 5.2.6). */
enum disk_op { DISK_READ = 0, DISK_WRITE = 1, DISK_FLUSH = 4 };

/* The console's input is a ring that the kernel never waits for: byte i is at
 * [i % CONSOLE_RING] until it is overwritten. */
#define CONSOLE_RING 1024

/* Written by the kernel, read by the program. */
extern struct kernel_page {
	volatile u64 ticks;    /* of the 8254 since boot, TICK_NS each */
	volatile u64 events;   /* counts interrupts */
	volatile u64 received; /* bytes from the console since boot */
	volatile u8 console[CONSOLE_RING];
	u64 boot_time; /* from the RTC: ns since 1970-01-01 UTC, a whole second */
	u64 sectors;   /* size of the disk */
	syscall_function *const *ring0; /* by number, if the program runs in ring 0, else null */
	char cmdline[1024];
} kernel_page;

/* The 8254 counts at 1.193182 MHz; this divisor is the nearest to 100 Hz. */
#define PIT_HZ      1193182ul
#define PIT_DIVISOR 11932ul
#define TICK_NS     (PIT_DIVISOR * 1000000000 / PIT_HZ)

#endif
#endif
