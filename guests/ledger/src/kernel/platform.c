/* The devices of the PC: 8259, 8254, RTC, 16550, and the ways to switch off. */
#include "kernel.h"

enum {
	PIC1 = 0x20, /* command; data is the next port */
	PIC2 = 0xa0,
	PIT_CHANNEL0 = 0x40,
	PIT_CONTROL = 0x43,
	RTC_INDEX = 0x70,
	RTC_DATA = 0x71,
	DEBUG_EXIT = 0xf4, /* QEMU's isa-debug-exit */
	UART = 0x3f8,
	ELCR = 0x4d0, /* edge/level control, 8 lines each port */
	PM1_CONTROL = 0x604, /* where QEMU's PC has it: 0x2000 is SLP_EN with type 0 (S5) */
};

static u16 pic_mask = 0xffff & ~(1 << IRQ_CASCADE);

static void pic_write_mask(void)
{
	outb(PIC1 + 1, pic_mask);
	outb(PIC2 + 1, pic_mask >> 8);
}

/*
 * 8259A data sheet, initialization command words: edge-triggered, cascaded, vectors from 0x20
 * and 0x28, 8086 mode. With automatic end of interrupt nothing is ever in service, so that
 * no interrupt needs an access to end it, and a spurious one needs no care. Nothing nests in
 * exchange: handlers run to their end with interrupts off.
 */
void pic_init(void)
{
	enum { ICW1 = 0x11, ICW4_8086_AEOI = 0x03 };
	outb(PIC1, ICW1);
	outb(PIC1 + 1, VECTOR_IRQ);
	outb(PIC1 + 1, 1 << IRQ_CASCADE);
	outb(PIC1 + 1, ICW4_8086_AEOI);
	outb(PIC2, ICW1);
	outb(PIC2 + 1, VECTOR_IRQ + 8);
	outb(PIC2 + 1, IRQ_CASCADE);
	outb(PIC2 + 1, ICW4_8086_AEOI);
	pic_write_mask();
}

void pic_enable(unsigned irq)
{
	pic_mask &= ~(1 << irq);
	pic_write_mask();
}

/* PCI interrupts are level-triggered. */
void pic_enable_level(unsigned irq)
{
	u16 port = ELCR + irq / 8;
	outb(port, inb(port) | 1 << irq % 8);
	pic_enable(irq);
}

void pit_init(void)
{
	outb(PIT_CONTROL, 0x34); /* channel 0, low byte then high byte, mode 2 */
	outb(PIT_CHANNEL0, PIT_DIVISOR & 0xff);
	outb(PIT_CHANNEL0, PIT_DIVISOR >> 8);
	pic_enable(IRQ_TIMER);
}

static u8 rtc_read(u8 reg)
{
	outb(RTC_INDEX, reg);
	return inb(RTC_DATA);
}

/* MC146818A data sheet. */
u64 rtc_time(void)
{
	enum { SECOND, MINUTE, HOUR, DAY, MONTH, YEAR, FIELDS };
	static const u8 regs[FIELDS] = { 0, 2, 4, 7, 8, 9 };
	enum { REG_A = 10, REG_B = 11, UIP = 0x80, H24 = 2, BINARY = 4, PM = 0x80 };
	u64 f[FIELDS];
	u8 mode = rtc_read(REG_B), pm = 0;

	do {
		while (rtc_read(REG_A) & UIP)
			;
		for (unsigned i = 0; i < FIELDS; i++)
			f[i] = rtc_read(regs[i]);
	} while (rtc_read(regs[SECOND]) != f[SECOND]);

	if (!(mode & H24)) {
		pm = f[HOUR] & PM;
		f[HOUR] &= ~PM;
	}
	if (!(mode & BINARY))
		for (unsigned i = 0; i < FIELDS; i++)
			f[i] = (f[i] >> 4) * 10 + (f[i] & 15);
	if (!(mode & H24))
		f[HOUR] = f[HOUR] % 12 + (pm ? 12 : 0);

	/* Days since 1970-01-01: the year begins in March, so that the leap day is its last.
	 * From 2000 to 2099 every fourth year is a leap year. */
	u64 y = f[YEAR] + 2000, m = f[MONTH];
	if (m <= 2)
		y--, m += 12;
	u64 days = 365 * (y - 1970) + y / 4 - 434 + (153 * (m - 3) + 2) / 5 + f[DAY];
	return (((days * 24 + f[HOUR]) * 60 + f[MINUTE]) * 60 + f[SECOND]) * 1000000000;
}

/* 16550D data sheet: registers of the UART. */
enum { RBR = UART, THR = UART, IER, FCR, LCR, MCR, LSR };
enum { FIFO = 16, LSR_DR = 0x01, LSR_THRE = 0x20 };

void uart_init(void)
{
	outb(LCR, 0x80); /* DLAB: divisor 1, 115200 baud */
	outb(THR, 1);
	outb(IER, 0);
	outb(LCR, 0x03); /* 8N1 */
	outb(FCR, 0x07); /* FIFOs on and empty, interrupt from 1 byte on */
	outb(MCR, 0x0b); /* DTR, RTS, OUT2 (which lets the interrupt through) */
	outb(IER, 0x01); /* interrupt on received data */
	pic_enable(IRQ_UART);
}

/* An empty transmitter takes a whole FIFO without being asked again. */
void uart_write(const char *text, u64 bytes)
{
	while (bytes) {
		u64 n = bytes < FIFO ? bytes : FIFO;
		bytes -= n;
		while (!(inb(LSR) & LSR_THRE))
			;
		asm volatile("rep outsb" : "+S"(text), "+c"(n) : "d"(THR) : "memory");
	}
}

void uart_receive(void)
{
	while (inb(LSR) & LSR_DR) {
		kernel_page.console[kernel_page.received % CONSOLE_RING] = inb(RBR);
		kernel_page.received++;
	}
}

_Noreturn void power_off(unsigned code)
{
	if (code)
		outb(DEBUG_EXIT, code);
	outw(PM1_CONTROL, 0x2000);
	for (;;)
		asm volatile("cli; hlt");
}
