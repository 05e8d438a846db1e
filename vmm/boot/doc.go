// Package boot puts a guest's kernel into memory and says how the CPU starts.
//
// [Load] is a function from bytes to guest memory and a CPU state: it reads no file,
// clock or random source, so that every replica that is given the same image starts from the
// same state. What it is given is not trusted: a damaged or hostile image is an
// error that names what is wrong; it never panics, and takes no more time and
// memory than the guest's RAM and the image's length account for (and up to 128 MiB of
// history while unpacking).
//
// The CPU is entered as the image asks:
//
//	image                                  entered by
//	bzImage                                Linux 64-bit boot protocol, at the entry of the vmlinux inside
//	ELF64 with a note of the owner Linux   the same
//	ELF with note XEN_ELFNOTE_PHYS32_ENTRY PVH, at the address in the note
//	Multiboot 1 header (ELF or not)        Multiboot
//	any other ELF64                        Linux 64-bit boot protocol
//
// The first line that fits counts. A vmlinux often carries the PVH note as well; the 64-bit
// entry is preferred because it skips the 32-bit code and is the one that takes an RNG seed.
// The vmlinux inside a bzImage is unpacked here and put where it was linked to run,
// so the guest neither decompresses nor relocates itself (no KASLR).
//
// What Load itself needs lies below 1 MiB, and kernels are refused there:
//
//	address          content
//	0x01000          GDT: code at selector 0x10, data at 0x18, TSS at 0x20
//	0x02000          boot_params, hvm_start_info or Multiboot information
//	0x03000          setup_data with the RNG seed (Linux)
//	0x04000-0x0FFFF  command line, ended by NUL
//	0x10000-0x9EFFF  page tables (64-bit entry): the first 4 GiB and all RAM
//	                 above, mapped one to one in 2 MiB pages
//	0xE0000-0xFFFFF  ACPI tables
//
// The initrd lies on whole pages as high as the kernel can reach in RAM below 4 GiB.
//
// Sources: Linux Documentation/arch/x86/boot.rst ("boot.rst") and zero-page.rst; Xen
// docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h; Multiboot Specification 0.6.96; ACPI 6.5;
// System V ABI, ELF; Intel SDM.
//
// Read boot.go first.
package boot
