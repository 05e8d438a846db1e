/*
 * Entry, tables of the CPU, and the ways into the kernel: exceptions, interrupts
 * and system calls. These paths are short on purpose; see kernel.h.
 */
#include "abi.h"
#include "kernel.h"

/*
 * Entry by the Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst): 64-bit
 * mode, identity-mapped, interrupts off, RSI = boot_params. Nothing of the loader's
 * tables and stack is used any further.
 */
	.section .text.start, "ax"
	.globl	_start
_start:
	cli
	cld
	mov	$pml4, %eax
	mov	%rax, %cr3
	lgdt	gdtr
	mov	$kernel_stack_end, %esp
	mov	$KERNEL_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	pushq	$KERNEL_CS
	pushq	$1f
	lretq
1:	mov	%rsi, %rdi
	xor	%ebp, %ebp
	call	kernel_main	/* does not return */

/*
 * start_program(cs, ss): IRET to the program with interrupts on. It never comes
 * back; the kernel's stack starts anew with each interrupt from ring 3.
 */
	.text
	.globl	start_program
start_program:
	push	%rsi
	pushq	$program_stack_end
	pushq	$0x202		/* RFLAGS: IF and the bit that is always 1 */
	push	%rdi
	pushq	$program_main
	iretq

/* System calls. The stack is not aligned to 16 bytes in the C functions below: nothing
 * here uses registers that would need it. */
	.globl	enter_syscall
enter_syscall:
	cmp	$SYSCALLS, %rax
	jae	1f
	cld
	call	*syscalls(, %rax, 8)
	iretq
1:	ud2

/* Each of the 16 interrupts of the 8259 pair. */
	.altmacro
	.macro	interrupt_entry n
	.balign	16
	pushq	$\n
	jmp	enter_interrupt
	.endm

	.balign	16
	.globl	interrupt_entries
interrupt_entries:
	.set	n, 0
	.rept	16
	interrupt_entry %n
	.set	n, n + 1
	.endr

enter_interrupt:
	cld
	push	%rax
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	mov	72(%rsp), %rdi
	call	interrupt
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$8, %rsp
	iretq

/* Exceptions. Some push an error code (SDM vol. 3A, 6.15); for the others 0 is pushed,
 * so that struct exception_frame fits all. */
	.macro	exception_entry n
	.balign	16
	.if	!((EXCEPTIONS_WITH_CODE >> \n) & 1)
	pushq	$0
	.endif
	pushq	$\n
	jmp	enter_exception
	.endm

	.balign	16
	.globl	exception_entries
exception_entries:
	.set	n, 0
	.rept	32
	exception_entry %n
	.set	n, n + 1
	.endr

enter_exception:
	cld
	mov	%rsp, %rdi
	call	exception	/* does not return */

/* crash(): with no IDT, the exception of UD2 becomes a triple fault. */
	.globl	crash
crash:
	lidt	no_idt
	ud2

	.section .rodata
no_idt:	.word	0
	.quad	0

	.data
	.balign	8
	.globl	gdt
gdt:	.quad	0
	.quad	0x00209b0000000000	/* KERNEL_CS: 64-bit code */
	.quad	0x0000930000000000	/* KERNEL_DS */
	.quad	0x0020fb0000000000	/* PROGRAM_CS */
	.quad	0x0000f30000000000	/* PROGRAM_DS */
	.quad	0, 0			/* TSS: kernel_main fills it in */
gdt_end:
gdtr:	.word	gdt_end - gdt - 1
	.quad	gdt

/*
 * Page tables: the first 4 GiB, identity-mapped by 2 MiB pages; one page of them is
 * the program's, the last GiB (device windows) is uncached. They are data, not code that
 * fills them in, because 2048 entries are many instructions in ring 0. Accessed and
 * Dirty are set from the start, so that no CPU has a reason to write to them.
 */
	.set	PRESENT, 1
	.set	WRITE, 2
	.set	USER, 4
	.set	UNCACHED, 0x18	/* PWT, PCD */
	.set	USED, 0x60	/* A, D */
	.set	LARGE, 0x80
	.set	TABLE, PRESENT | WRITE | USER | USED
	.set	PAGE, PRESENT | WRITE | USED | LARGE
	.set	PAGE_SIZE, 0x200000

	.macro	pages from, to, flags
	.set	addr, \from
	.rept	(\to - \from) / PAGE_SIZE
	.quad	addr + \flags
	.set	addr, addr + PAGE_SIZE
	.endr
	.endm

	.balign	4096
pml4:	.quad	pdpt + TABLE
	.fill	511, 8, 0
pdpt:	.quad	pd + TABLE, pd + 0x1000 + TABLE, pd + 0x2000 + TABLE, pd + 0x3000 + TABLE
	.fill	508, 8, 0
pd:	pages	0, PROGRAM_START, PAGE
	pages	PROGRAM_START, PROGRAM_END, PAGE + USER
	pages	PROGRAM_END, 0xc0000000, PAGE
	pages	0xc0000000, 0x100000000, PAGE + UNCACHED

	.bss
	.balign	16
	.skip	8192
	.globl	kernel_stack_end
kernel_stack_end:

	.section .note.GNU-stack, "", @progbits
