#!/bin/sh
# renew-driver.sh MODULES PACKAGES prebuilt|built: upgrades kernel and driver of a branch together, though they are held.
#
# The kernel moves only to one that the branch has a module for. Says `renewed=PACKAGE VERSION` for what it upgraded,
# `kept=WHY` when the kernel stays behind, and `reboot=KERNEL` when another one is to boot. Killed at any moment, the
# next run goes on.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
modules=$1 packages=$2 way=$3

installed() {
	dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | sed -n 's/ installed$//p'
}
version() {
	dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true
}
candidate() {
	apt-cache policy "$1" | sed -n 's/^  Candidate: //p' | grep -vx '(none)' || true
}
# The package that brings the module for a kernel.
module_for() {
	if [ "$way" = built ]; then echo "linux-headers-$1"; else echo "linux-modules-nvidia-$modules-$1"; fi
}

# A guest without the driver gets the newest of everything in any case.
[ -n "$(installed "nvidia-utils-$packages")" ] || exit 0
apt-get -q update >/dev/null
driver="nvidia-headless-no-dkms-$modules nvidia-utils-$packages nvidia-compute-utils-$packages libnvidia-compute-$packages"
wanted=$(installed $driver "linux-modules-nvidia-$modules-*" "nvidia-dkms-$modules")

# What follows the kernels of its line: the metapackage, whose newest version names a kernel.
for line in $(installed 'linux-image-generic*' 'linux-image-virtual*'); do
	newest=$(candidate "$line")
	[ -n "$newest" ] && [ "$newest" != "$(version "$line")" ] || continue
	kernel=$(apt-cache show "$line=$newest" | sed -n 's/^Depends: //p' | grep -o 'linux-image-[0-9][^ ,|]*' | head -n 1)
	kernel=${kernel#linux-image-}
	module=$(module_for "$kernel")
	if [ -z "$kernel" ] || [ -z "$(candidate "$module")" ]; then
		echo "kept=there is no $module yet, so $line stays at $(version "$line")"
		continue
	fi
	# Those of one line name each other's exact versions.
	flavour=${line#linux-image-}
	wanted="$wanted $module $line $(installed "linux-$flavour" "linux-headers-$flavour")"
done

before=$(for package in $wanted; do echo "$package $(version "$package")"; done)
apt-get -qy --no-install-recommends --allow-change-held-packages install $wanted >&2
for package in $wanted; do
	printf '%s\n' "$before" | grep -qxF "$package $(version "$package")" || echo "renewed=$package $(version "$package")"
done

newest=$(ls -v /boot/vmlinuz-* 2>/dev/null | tail -n 1)
newest=${newest#/boot/vmlinuz-}
if [ -n "$newest" ] && [ "$newest" != "$(uname -r)" ] && [ -n "$(installed "$(module_for "$newest")")" ]; then
	echo "reboot=$newest"
fi
