# Makes out/debian.img: Debian's user space as packages have it, unpacked and never configured, /selfcheck and
# what that printed on this host. A part of `build`, in its shell.
PATH=$PATH:/usr/sbin:/sbin
need apt-get dpkg-deb tar chroot mke2fs
[ "$(id -u)" = 0 ] || die "the self-check runs in a chroot here: be root"

packages="dash coreutils diffutils findutils grep sed mawk tar gzip bzip2 xz-utils zstd bc openssl sqlite3 perl-base
	python3 $(apt-cache depends python3 | sed -n 's/^ *Depends: \(python3\.[0-9]*\)$/lib\1-testsuite/p')"

# With an empty list of what is installed apt finds all that the packages need.
if [ ! -f "$out/debian-debs/complete" ]; then
	rm -rf "$out/debian-debs"
	mkdir -p "$out/debian-debs/partial"
	: >"$out/debian-debs/status"
	apt-get install -qq -y --no-install-recommends --download-only -o APT::Sandbox::User=root \
		-o Dir::State::status="$out/debian-debs/status" -o Dir::Cache::archives="$out/debian-debs" $packages ||
		die "apt-get cannot download Debian's packages: is the network up and apt-get update run?"
	touch "$out/debian-debs/complete"
fi

tree=$out/debian
rm -rf "$tree"
mkdir -p "$tree/proc" "$tree/dev" "$tree/tmp" "$tree/etc"
for dir in bin sbin lib lib64; do
	mkdir -p "$tree/usr/$dir"
	ln -s "usr/$dir" "$tree/$dir"
done
for deb in "$out"/debian-debs/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$tree"
done
rm -rf "$tree/usr/share/doc" "$tree/usr/share/man" "$tree/usr/share/locale"
for deb in "$out"/debian-debs/*.deb; do
	dpkg-deb -W "$deb"
done >"$tree/etc/versions"
mknod -m 666 "$tree/dev/null" c 1 3
ln -sf mawk "$tree/usr/bin/awk" # what update-alternatives would do

cp "$linux/debian/selfcheck" "$linux/debian/selfcheck.py" "$tree/"
# What Python compiles for the first run is kept for the guest, if its sources get no other time later.
find "$tree" -exec touch -h -d @0 {} +
for length in quick long; do
	expect "$out/expected-$length" chroot "$tree" /bin/sh /selfcheck $length
	cp "$out/expected-$length" "$tree/"
done
find "$tree" -exec touch -h -d @0 {} +
rm -f "$out/debian.img"
E2FSPROGS_FAKE_TIME=1 mke2fs -q -t ext4 -O ^has_journal -U 00000000-0000-4000-8000-000000000001 \
	-E hash_seed=00000000-0000-4000-8000-000000000002,root_owner=0:0 -d "$tree" "$out/debian.img" 256M
ls -l "$out/debian.img"
