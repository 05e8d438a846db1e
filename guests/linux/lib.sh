# Parts of `build`, which test/stockkvm uses as well. POSIX sh; $linux is the directory of this file.
out=$linux/out
umask 022
export LC_ALL=C

die() {
	echo "$0: $*" >&2
	exit 1
}

need() {
	for tool; do
		command -v "$tool" >/dev/null || die "$tool is missing: install it"
	done
}

# download DIR PACKAGE... gets packages by apt, as the distribution signed them, and installs nothing.
download() {
	mkdir -p "$1"
	(cd "$1" && shift && apt-get download -q -o APT::Sandbox::User=root "$@") ||
		die "apt-get download failed: is this Debian, with the network up and apt-get update run?"
}

# fetch makes $out/pkg, the unpacked kernel and busybox, and $out/vmlinuz and $out/versions. What is there
# already stays: `make clean` is how to get newer packages.
fetch() {
	[ -f "$out/versions" ] && return
	need apt-get apt-cache dpkg-deb xz
	rm -rf "$out/pkg" "$out/debs"
	kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$kernel" ] || die "apt knows no linux-image-cloud-amd64: run apt-get update"
	download "$out/debs" "$kernel" busybox-static
	for deb in "$out"/debs/*.deb; do
		dpkg-deb -x "$deb" "$out/pkg"
	done
	cp "$out"/pkg/boot/vmlinuz-* "$out/vmlinuz"
	[ -d "$out/pkg/lib/modules" ] || ln -s usr/lib "$out/pkg/lib" # newer packages have it merged
	busybox=$(find "$out/pkg" -type f -name busybox -perm -100)
	ln -f "$busybox" "$out/busybox"
	find "$out/pkg/lib/modules/" -name '*.ko.xz' -exec xz -d {} +
	"$out/busybox" depmod -b "$out/pkg" "$(release)"
	for deb in "$out"/debs/*.deb; do
		dpkg-deb -W "$deb"
	done >"$out/versions"
}

# release is the kernel's version as `uname -r` says it.
release() { ls "$out/pkg/lib/modules"; }

# add_modules ROOT MODULE... puts modules, and those that they depend on, where modprobe finds them.
add_modules() {
	root=$1 from=$out/pkg/lib/modules/$(release) to=$1/lib/modules/$(release)
	shift
	mkdir -p "$to"
	for module; do
		line=$(grep -E "(^|/)$(echo "$module" | sed 's/[-_]/[-_]/g')\.ko:" "$from/modules.dep") ||
			die "the kernel package has no module $module"
		for file in $(echo "$line" | tr -d :); do
			mkdir -p "$to/$(dirname "$file")"
			cp "$from/$file" "$to/$file"
		done
	done
	cp "$from/modules.builtin" "$from/modules.order" "$to/"
	"$out/busybox" depmod -b "$root" "$(release)"
}

# add_busybox ROOT puts busybox and a name for each of its commands into /bin.
add_busybox() {
	mkdir -p "$1/bin"
	cp "$out/busybox" "$1/bin/busybox"
	for name in $("$out/busybox" --list); do
		[ "$name" = busybox ] || ln -s busybox "$1/bin/$name"
	done
}

# compile ROOT NAME... builds our programs into /bin.
compile() {
	need gcc
	root=$1
	shift
	for name; do
		rm -f "$root/bin/$name"
		gcc -O2 -std=gnu11 -Wall -Wextra -Werror -ffreestanding -nostdlib -static -fno-pic -no-pie \
			-fcf-protection=none -fno-stack-protector -fno-asynchronous-unwind-tables \
			-fno-tree-loop-distribute-patterns -Wl,--build-id=none,-z,noexecstack \
			-o "$root/bin/$name" "$linux/src/$name.c" || exit 1
	done
}

# skeleton ROOT makes the directories that /init mounts things at.
skeleton() {
	rm -rf "$1"
	mkdir -p "$1/bin" "$1/dev" "$1/proc" "$1/sys" "$1/tmp" "$1/root" "$1/mnt" "$1/lib"
	ln -s bin "$1/sbin" # where the kernel looks for modprobe
}

# pack ROOT FILE makes an initrd. The same files make the same bytes.
pack() {
	find "$1" -exec touch -h -d @0 {} +
	(cd "$1" && find . | sort | "$out/busybox" cpio -o -H newc -R 0:0 --ignore-devno --renumber-inodes 2>/dev/null) |
		gzip -9n >"$2.new"
	mv "$2.new" "$2"
}
