// Package bootdisk finds what a disk image says about how its system is started: kernel, initial RAM disk and
// command line. It is what a boot loader would do, without running one, and without mounting anything.
//
// [Find] looks at the file systems on the disk, in the order of the partitions; one that fills the whole disk will do as
// well. The first of these that there is decides:
//
//	on each file system, in turn
//	  GRUB's grub.cfg in /boot/grub, /grub, /boot/grub2 or /grub2: the default entry
//	  Boot Loader Specification, type 1, in /boot/loader or /loader: the default or the newest entry
//	  extlinux.conf or syslinux.cfg in /boot/extlinux, /extlinux, /boot/syslinux, /syslinux, /boot or /: the default label
//	then on all of them
//	  /vmlinuz and /initrd.img, or the same in /boot, with a root= that names the file system with /sbin/init
//
// Of grub.cfg only the menu is understood: "set", "menuentry", "submenu", "linux" and "initrd", with quotes and variables.
// Conditions are not evaluated: of several assignments the last one that has a value holds, and of several "linux" lines
// of an entry the first. That is what the files of grub-mkconfig mean on their first boot.
//
// An image is not trusted. Whatever it holds, it costs no more memory than the files that are asked for, none of which
// may be larger than its file system or [MaxFile], and no more work than reading them. Variables in one of them stand for
// at most as much as it may be long.
//
// Sources: Linux Documentation/filesystems/ext4 ("ext4 docs"); UEFI 2.10, 5.3 (GPT); GNU GRUB manual 2.06;
// UAPI.1 Boot Loader Specification; SYSLINUX configuration.
//
// Read find.go first.
package bootdisk
