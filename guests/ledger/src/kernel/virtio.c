/*
 * Modern virtio devices on PCI (virtio 1.2, 4.1): a disk and a source of entropy. Each
 * has one split virtqueue and one request at a time, always made of the descriptors from
 * 0 on; so all but the request's own fields is set up once.
 */
#include "kernel.h"

enum { VENDOR_VIRTIO = 0x1af4, DEVICE_BLK = 0x1042, DEVICE_RNG = 0x1044 };

/* PCI configuration space (PCI Local Bus 3.0, 6.1), by configuration mechanism 1. */
enum {
	PCI_ADDRESS = 0xcf8,
	PCI_DATA = 0xcfc,
	PCI_ID = 0x00,
	PCI_COMMAND = 0x04,
	PCI_BAR0 = 0x10,
	PCI_CAPABILITIES = 0x34,
	PCI_INTERRUPT = 0x3c,
	COMMAND_MEMORY_MASTER = 0x0006,
	COMMAND_INTX_DISABLE = 0x0400,
	STATUS_CAPABILITIES = 0x0010 << 16,
	CAPABILITY_VENDOR = 0x09,
};

/* Types of the structures that virtio's capabilities locate (virtio 1.2, 4.1.4). */
enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, CFG_TYPES };

/* virtio 1.2, 4.1.4.3; 64-bit fields are accessed by halves (4.1.3.1). */
struct common {
	u32 device_feature_select, device_feature, driver_feature_select, driver_feature;
	u16 msix_config, num_queues;
	u8 device_status, config_generation;
	u16 queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
	u32 queue_desc[2], queue_driver[2], queue_device[2];
};

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

enum {
	F_BLK_RO = 1u << 5,
	F_BLK_FLUSH = 1u << 9,
	F_VERSION_1_HIGH = 1u << 0, /* feature 32 */
};

/* virtio 1.2, 2.7. */
enum { QUEUE_SIZE = 4, DESC_NEXT = 1, DESC_WRITE = 2 };

struct device {
	struct {
		u64 addr;
		u32 len;
		u16 flags, next;
	} __attribute__((aligned(16))) desc[QUEUE_SIZE];
	struct {
		volatile u16 flags, idx;
		u16 ring[QUEUE_SIZE]; /* all 0: each request starts at descriptor 0 */
	} avail;
	struct {
		volatile u16 flags, idx;
		volatile struct {
			u32 id, len;
		} ring[QUEUE_SIZE];
	} __attribute__((aligned(4))) used;

	volatile struct common *common;
	volatile u16 *notify;
	volatile u8 *isr;
	volatile u32 *config; /* null for a type that has none */
	unsigned irq;
};

static struct device disk, rng;

/* The disk's request (virtio 1.2, 5.2.6). */
static struct {
	u32 type, reserved;
	u64 sector;
} header;
static volatile u8 status;
enum { DESC_HEADER, DESC_DATA, DESC_STATUS };

static u32 pci_read(unsigned slot, unsigned reg)
{
	outl(PCI_ADDRESS, 0x80000000 | slot << 11 | (reg & ~3u));
	return inl(PCI_DATA);
}

static void pci_write(unsigned slot, unsigned reg, u32 v)
{
	outl(PCI_ADDRESS, 0x80000000 | slot << 11 | (reg & ~3u));
	outl(PCI_DATA, v);
}

/* Where a memory BAR points to; whoever set up the machine has chosen that. */
static u64 pci_bar(unsigned slot, unsigned bar)
{
	if (bar > 5)
		return 0;
	u32 low = pci_read(slot, PCI_BAR0 + 4 * bar);
	if ((low & 7) == 4 && (bar == 5 || pci_read(slot, PCI_BAR0 + 4 * (bar + 1))))
		die("a virtio device lies above 4 GiB");
	return low & 1 ? 0 : low & ~15u;
}

/* Resets the device, finds its registers, agrees on features (those in `wanted` that it
 * offers, and VERSION_1) and sets up its queue. Returns what it offers of features 0 to 31. */
static u32 device_init(struct device *d, unsigned slot, u32 wanted)
{
	u64 at[CFG_TYPES] = { 0 };
	u32 multiplier = 0;
	u32 command = pci_read(slot, PCI_COMMAND);
	u8 cap = command & STATUS_CAPABILITIES ? pci_read(slot, PCI_CAPABILITIES) : 0;

	/* The first structure of each type is the preferred one. The list cannot be longer than
	 * the configuration space. */
	for (unsigned n = 0; cap && n < 64; n++) {
		u32 v = pci_read(slot, cap);
		unsigned type = v >> 24;
		if ((v & 0xff) == CAPABILITY_VENDOR && type < CFG_TYPES && !at[type]) {
			u64 bar = pci_bar(slot, pci_read(slot, cap + 4) & 0xff);
			at[type] = bar ? bar + pci_read(slot, cap + 8) : 0;
			if (type == CFG_NOTIFY)
				multiplier = pci_read(slot, cap + 16);
		}
		cap = v >> 8;
	}
	if (!at[CFG_COMMON] || !at[CFG_NOTIFY] || !at[CFG_ISR])
		die("a virtio device lacks a structure of virtio 1.2, 4.1.4, in memory");

	pci_write(slot, PCI_COMMAND,
		  ((command | COMMAND_MEMORY_MASTER) & ~COMMAND_INTX_DISABLE) & 0xffff);
	volatile struct common *c = (void *)at[CFG_COMMON];
	d->common = c;
	d->isr = (void *)at[CFG_ISR];
	d->config = (void *)at[CFG_DEVICE];
	d->irq = pci_read(slot, PCI_INTERRUPT) & 0xff;
	if (d->irq > 15)
		die("a virtio device has no interrupt line");

	c->device_status = 0;
	while (c->device_status)
		;
	c->device_status = ACKNOWLEDGE;
	c->device_status = ACKNOWLEDGE | DRIVER;
	c->device_feature_select = 0;
	u32 offered = c->device_feature;
	c->driver_feature_select = 0;
	c->driver_feature = offered & wanted;
	c->driver_feature_select = 1;
	c->driver_feature = F_VERSION_1_HIGH;
	c->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
	if (!(c->device_status & FEATURES_OK))
		die("a virtio device refuses its features");

	c->queue_select = 0;
	if (c->queue_size < QUEUE_SIZE)
		die("a virtio device's queue is too small");
	c->queue_size = QUEUE_SIZE;
	c->queue_desc[0] = (u64)d->desc;
	c->queue_desc[1] = 0;
	c->queue_driver[0] = (u64)&d->avail;
	c->queue_driver[1] = 0;
	c->queue_device[0] = (u64)&d->used;
	c->queue_device[1] = 0;
	d->notify = (void *)(at[CFG_NOTIFY] + c->queue_notify_off * multiplier);
	c->queue_enable = 1;
	c->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
	pic_enable_level(d->irq);
	return offered;
}

void virtio_init(void)
{
	for (unsigned slot = 0; slot < 32; slot++) {
		u32 id = pci_read(slot, PCI_ID);
		if (id == (DEVICE_BLK << 16 | VENDOR_VIRTIO) && !disk.common) {
			u32 offered = device_init(&disk, slot, F_BLK_FLUSH);
			if (offered & F_BLK_RO)
				die("the disk is read-only");
			if (!(offered & F_BLK_FLUSH))
				die("the disk cannot flush");
		} else if (id == (DEVICE_RNG << 16 | VENDOR_VIRTIO) && !rng.common) {
			device_init(&rng, slot, 0);
		}
	}
	if (!disk.common || !disk.config)
		die("there is no modern virtio-blk device on PCI bus 0");
	if (!rng.common)
		die("there is no modern virtio-rng device on PCI bus 0");

	kernel_page.sectors = disk.config[0] | (u64)disk.config[1] << 32;
	disk.desc[DESC_HEADER].addr = (u64)&header;
	disk.desc[DESC_HEADER].len = sizeof header;
	disk.desc[DESC_HEADER].flags = DESC_NEXT;
	disk.desc[DESC_DATA].next = DESC_STATUS;
	disk.desc[DESC_STATUS].addr = (u64)&status;
	disk.desc[DESC_STATUS].len = 1;
	disk.desc[DESC_STATUS].flags = DESC_WRITE;
	rng.desc[0].flags = DESC_WRITE;
}

/* INTx is shared: each device on the line is asked, and reading its ISR status takes its
 * request away (virtio 1.2, 4.1.4.5). */
void virtio_interrupt(unsigned irq)
{
	if (irq == disk.irq)
		(void)*disk.isr;
	if (irq == rng.irq)
		(void)*rng.isr;
}

/* Offers the request that the descriptors hold, and waits until it is done. Returns how
 * many bytes the device wrote. */
static u32 device_run(struct device *d)
{
	u16 last = d->avail.idx;
	asm volatile("" : : : "memory"); /* the request is in memory before it is offered */
	d->avail.idx = last + 1;
	*d->notify = 0;
	while (d->used.idx == last)
		halt();
	return d->used.ring[last % QUEUE_SIZE].len;
}

u64 disk_transfer(u64 op, u64 sector, u64 buffer, u64 bytes)
{
	header.type = op;
	header.sector = sector;
	disk.desc[DESC_HEADER].next = bytes ? DESC_DATA : DESC_STATUS;
	disk.desc[DESC_DATA].addr = buffer;
	disk.desc[DESC_DATA].len = bytes;
	disk.desc[DESC_DATA].flags = op == DISK_READ ? DESC_NEXT | DESC_WRITE : DESC_NEXT;
	device_run(&disk);
	return status;
}

u64 entropy_read(u64 buffer, u64 bytes)
{
	u32 n;
	rng.desc[0].addr = buffer;
	rng.desc[0].len = bytes;
	do
		n = device_run(&rng);
	while (n == 0);
	return n;
}
