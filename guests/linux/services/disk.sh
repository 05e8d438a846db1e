# Makes out/services.img: a disk with a Debian system that boots by itself, with PostgreSQL, Redis and a place to copy
# files to. A part of `build`, in its shell.
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || die "packages are configured in a chroot: be root"
need mmdebstrap sfdisk mke2fs unshare

image=$out/services.img
inputs=$(cd "$linux/services" && find . -type f -print0 | sort -z | xargs -0 sha256sum)
if [ -f "$image" ] && [ "$(cat "$out/services.inputs" 2>/dev/null)" = "$inputs" ]; then
	echo "$image is up to date"
	return
fi

# How large the disk is, and where its only partition begins, in MiB.
size=1536 start=1
uuid=00000000-0000-4000-8000-000000000003

tree=$out/services
rm -rf "$tree" "$out/services.inputs"
mkdir -p "$out"
# In a namespace of its own, what is mounted meanwhile ends with it. What nobody reads there is left
# out, and PostgreSQL's compiler of queries, which can be left out.
unshare --mount mmdebstrap --quiet --variant=apt --include="$(grep -v '^#' "$linux/services/packages" | tr '\n' ' ')" \
	--dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/doc/* \
	--dpkgopt=path-exclude=/usr/share/locale/* --dpkgopt=path-exclude=/usr/share/info/* \
	--dpkgopt=path-exclude=/usr/lib/*/libLLVM* --dpkgopt=path-exclude=/usr/lib/*/libz3* \
	--dpkgopt=path-exclude=/usr/lib/postgresql/*/lib/llvmjit* --dpkgopt=path-exclude=/usr/lib/postgresql/*/lib/bitcode/* \
	--aptopt='Apt::Install-Recommends false' \
	--essential-hook="cp -r '$linux/services/files/.' \"\$1\"" \
	--customize-hook="cp '$linux/services/configure' \"\$1/configure\"" \
	--customize-hook="chroot \"\$1\" sh /configure $uuid" \
	--customize-hook='rm "$1/configure"' \
	bookworm "$tree" "$linux/services/apt.sources"
chroot "$tree" dpkg-query -W >"$out/services.versions"

rm -f "$image.new"
truncate -s ${size}M "$image.new"
printf 'label: dos\nlabel-id: 0x6674766d\nstart=%d, type=83, bootable\n' $((start * 2048)) | sfdisk -q "$image.new"
mke2fs -q -t ext4 -U $uuid -L services -d "$tree" -E offset=$((start << 20)) "$image.new" $((size - start))M
mv "$image.new" "$image"
rm -rf "$tree"
echo "$inputs" >"$out/services.inputs"
ls -l "$image"
