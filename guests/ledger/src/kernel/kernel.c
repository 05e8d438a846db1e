/* Tables of the CPU, exceptions, interrupts, system calls. */
#include "kernel.h"
#include "option.h"

/* SDM vol. 3A, 8.7, of which only RSP0 is used; and the I/O permission bitmap (vol. 1, 19.5.2)
 * up to PORT_YIELD, where a 0 permits, and the byte of ones that ends it. */
static struct {
	u32 reserved;
	u64 rsp[3];
	u64 reserved1, ist[7], reserved2;
	u16 reserved3, io_map;
	u8 io[PORT_YIELD / 8 + 2];
} __attribute__((packed)) tss;

static struct gate {
	u16 offset_low, selector, attributes, offset_middle;
	u32 offset_high, reserved;
} idt[VECTOR_IRQ + 16];

enum { INTERRUPT_GATE = 0x8e00, FROM_RING3 = 0x6000 };

static void set_gate(unsigned vector, const char *entry, u16 attributes)
{
	u64 p = (u64)entry;
	idt[vector] = (struct gate){ p, KERNEL_CS, attributes, p >> 16, p >> 32, 0 };
}

static void cpu_init(void)
{
	struct {
		u16 limit;
		void *base;
	} __attribute__((packed)) idtr = { sizeof idt - 1, idt };
	u64 base = (u64)&tss, limit = sizeof tss - 1;

	tss.rsp[0] = (u64)kernel_stack_end;
	tss.io_map = (u64)tss.io - base;
	for (unsigned i = 0; i < sizeof tss.io; i++)
		tss.io[i] = 0xff;
	tss.io[PORT_YIELD / 8] &= ~(1 << PORT_YIELD % 8);
	/* SDM vol. 3A, 8.2.3: present, 64-bit TSS. */
	gdt[TSS_SEL / 8] = limit | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24) << 56;
	gdt[TSS_SEL / 8 + 1] = base >> 32;
	asm volatile("ltr %w0" : : "r"(TSS_SEL));

	for (unsigned i = 0; i < 32; i++)
		set_gate(i, exception_entries + 16 * i, INTERRUPT_GATE);
	for (unsigned i = 0; i < 16; i++)
		set_gate(VECTOR_IRQ + i, interrupt_entries + 16 * i, INTERRUPT_GATE);
	set_gate(VECTOR_SYSCALL, enter_syscall, INTERRUPT_GATE | FROM_RING3);
	asm volatile("lidt %0" : : "m"(idtr));
}

static void print(const char *s)
{
	u64 n = 0;
	while (s[n])
		n++;
	uart_write(s, n);
}

static void print_hex(const char *name, u64 v)
{
	char digits[16];
	for (int i = 15; i >= 0; i--, v >>= 4)
		digits[i] = "0123456789abcdef"[v & 15];
	print(name);
	uart_write(digits, sizeof digits);
}

_Noreturn void die(const char *what)
{
	print("ledger: ");
	print(what);
	print("\n");
	power_off(EXIT_PLATFORM);
}

struct exception_frame {
	u64 vector, code, rip, cs, rflags, rsp, ss;
};

_Noreturn void exception(const struct exception_frame *f)
{
	u64 cr2;
	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	print_hex("\nledger: exception ", f->vector);
	print_hex(" rip ", f->rip);
	print_hex(" error ", f->code);
	print_hex(" cs ", f->cs);
	print_hex(" rsp ", f->rsp);
	print_hex(" cr2 ", cr2);
	print("\n");
	power_off(EXIT_EXCEPTION);
}

void interrupt(unsigned irq)
{
	if (irq == IRQ_TIMER)
		kernel_page.ticks++;
	else if (irq == IRQ_UART)
		uart_receive();
	else
		virtio_interrupt(irq);
	kernel_page.events++;
}

/* A pointer from the program must point into the program. */
static void check(u64 buffer, u64 bytes)
{
	if (buffer < PROGRAM_START || buffer > PROGRAM_END || bytes > PROGRAM_END - buffer)
		die("the program passed a bad pointer");
}

static u64 sys_exit(u64 code, u64, u64, u64)
{
	power_off(code);
}

static u64 sys_write(u64 text, u64 bytes, u64, u64)
{
	check(text, bytes);
	uart_write((const char *)text, bytes);
	return 0;
}

static u64 sys_wait(u64 events, u64, u64, u64)
{
	while (kernel_page.events == events)
		halt();
	return 0;
}

static u64 sys_disk(u64 op, u64 sector, u64 buffer, u64 bytes)
{
	check(buffer, bytes);
	return disk_transfer(op, sector, buffer, bytes);
}

static u64 sys_entropy(u64 buffer, u64 bytes, u64, u64)
{
	check(buffer, bytes);
	return entropy_read(buffer, bytes);
}

static u64 sys_crash(u64, u64, u64, u64)
{
	crash();
}

syscall_function *const syscalls[SYSCALLS] = {
	[SYS_EXIT] = sys_exit, [SYS_WRITE] = sys_write,	    [SYS_WAIT] = sys_wait,
	[SYS_DISK] = sys_disk, [SYS_ENTROPY] = sys_entropy, [SYS_CRASH] = sys_crash,
};

static void read_cmdline(const char *from)
{
	for (u64 i = 0; from[i] && i < sizeof kernel_page.cmdline - 1; i++)
		kernel_page.cmdline[i] = from[i];
	if (!option(kernel_page.cmdline, "ring3", 1))
		kernel_page.ring0 = syscalls;
}

_Noreturn void kernel_main(const u8 *boot_params)
{
	const u32 *hdr_cmd_line_ptr = (const u32 *)(boot_params + 0x228);

	cpu_init();
	pic_init();
	uart_init();
	read_cmdline((const char *)(u64)*hdr_cmd_line_ptr);
	virtio_init();
	kernel_page.boot_time = rtc_time();
	pit_init();
	if (kernel_page.ring0)
		start_program(KERNEL_CS, KERNEL_DS);
	start_program(PROGRAM_CS, PROGRAM_DS);
}
