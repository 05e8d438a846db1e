/* switchoff [STATUS]: switches the machine off and tells it how the guest fared. Without ACPI, which
 * this machine has not, the kernel itself can only halt.
 *
 * STATUS 0, or none: power off by QEMU's and ftvm's PM1a control register; ftvm exits with 0.
 * Others: isa-debug-exit, by which ftvm and QEMU exit with STATUS*2+1, so that STATUS 1 is 3. */
#include "guest.h"

#define PORT_PM1A 0x604
#define SLP_EN 0x2000 /* with SLP_TYP 0 */
#define PORT_DEBUG_EXIT 0xF4
#define TCSBRK 0x5409

static int allow(u64 port, u64 ports) { return syscall3(SYS_ioperm, port, ports, 1) == 0; }

int main(int argc, char **argv)
{
	u8 status = 0;

	for (const char *p = argc > 1 ? argv[1] : ""; *p >= '0' && *p <= '9'; p++)
		status = (u8)(status * 10 + *p - '0');
	syscall3(SYS_sync, 0, 0, 0);
	syscall3(SYS_ioctl, 1, TCSBRK, 1); /* wait until the console has sent everything */
	if (!allow(PORT_PM1A, 2) || !allow(PORT_DEBUG_EXIT, 4)) {
		print("switchoff: no access to the ports: are you root?\n");
		return 1;
	}
	if (status != 0)
		__asm__ volatile("outl %0, %w1" : : "a"((u32)status), "Nd"(PORT_DEBUG_EXIT));
	else
		__asm__ volatile("outw %w0, %w1" : : "a"(SLP_EN), "d"(PORT_PM1A));
	print("switchoff: this machine has neither port 0x604 nor isa-debug-exit\n");
	return 1;
}
