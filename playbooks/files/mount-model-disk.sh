# mount-model-disk.sh look|mount SERIAL: has the disk of that serial number at the models' folder, formatted once.
#
# What holds anything that anybody can name, a file system, a partition table, a part of an array, is never formatted.
# What stood in the folder before moves to the disk: it is copied whole before the disk covers it, and removed after
# that. Killed at any moment, the next run goes on. Says `changed=WHAT` for what it did, or would do when it only looks.
set -eu
act=$1
serial=$2
label=llm-models
unit=var-lib-llm.mount
folder=/var/lib/llm
aside=/run/provisioner-model-disk
# Here once all that the folder held is on the disk, until it is removed from where it was.
copied=/var/lib/provisioner/models-are-on-their-disk

fail() {
	echo "$*" >&2
	exit 1
}

# Proxmox may give the disk an id besides, by which udev names it then; its serial number is in a page of its own.
serial_of() {
	lsblk --nodeps --noheadings --output SERIAL "$1" 2>/dev/null | grep . && return
	tail -c +5 "/sys/class/block/${1##*/}/device/vpd_pg80" 2>/dev/null | tr -d '\0'
}

disk=
for device in $(lsblk --nodeps --noheadings --paths --output NAME); do
	[ "$(serial_of "$device" | tr -d ' ')" = "$serial" ] || continue
	[ -z "$disk" ] || fail "two disks have the serial number $serial: $disk and $device"
	disk=$device
done
[ -n "$disk" ] || fail "no disk has the serial number $serial: the VM has been given it and the guest does not see it;" \
	"a cold start shows it: provisioner sleep, then provisioner wake"

changed() {
	echo "changed=$1"
	[ "$act" = mount ]
}

found=$(blkid --probe --output export "$disk" 2>/dev/null) || true
parts=$(lsblk --noheadings --output NAME "$disk" | wc -l)
if ! printf '%s\n' "$found" | grep -qx "LABEL=$label"; then
	[ "$parts" = 1 ] || fail "$disk has partitions, so it is not formatted; take them off, or give the node another disk"
	rc=0
	blkid --probe "$disk" >/dev/null 2>&1 || rc=$?
	# 2: nothing on it that has a name; 8: more than one thing.
	[ "$rc" = 2 ] || fail "$disk is not empty ($(printf '%s\n' "$found" | grep -E '^(PT)?TYPE=' | tr '\n' ' ')), so it is" \
		"not formatted; wipefs --all $disk empties it, if nobody misses what it holds"
	if changed "formatted $disk"; then
		# Few large files, and nobody but engines writes to it: no room is set aside for many inodes, or for root.
		mkfs.ext4 -q -T largefile -m 0 -L "$label" "$disk" </dev/null >/dev/null || fail "mkfs.ext4 fails on $disk"
		udevadm settle --timeout=30 2>/dev/null || true
	fi
fi

holds() {
	[ -d "$1" ] && [ -n "$(find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found -print -quit)" ]
}

if ! mountpoint -q "$folder"; then
	if holds "$folder" && [ ! -e "$copied" ] && changed "moved what $folder held"; then
		# Whoever writes there meanwhile would write to what is about to be covered.
		systemctl stop 'llm-*.service'
		mkdir -p "$aside"
		mountpoint -q "$aside" || mount -t ext4 "$disk" "$aside"
		cp -a "$folder/." "$aside/" || fail "cannot copy $folder to $disk"
		sync -f "$aside"
		mkdir -p "${copied%/*}"
		touch "$copied"
	fi
	if [ "$act" = mount ] && mountpoint -q "$aside"; then umount "$aside"; fi
	if changed "mounted $disk at $folder"; then
		mkdir -p "$folder"
		systemctl daemon-reload
		systemctl enable --quiet --now "$unit" || fail "$(systemctl status --no-pager "$unit" 2>&1 | tail -n 5)"
	fi
elif [ "$(findmnt --noheadings --output SOURCE --mountpoint "$folder")" != "$disk" ]; then
	fail "at $folder is $(findmnt --noheadings --output SOURCE --mountpoint "$folder") already, not $disk"
elif ! systemctl is-enabled --quiet "$unit" && changed "mounted at every boot"; then
	systemctl daemon-reload
	systemctl enable --quiet "$unit"
fi

if [ -e "$copied" ] && [ "$act" = mount ] && mountpoint -q "$folder"; then
	# Below the disk, where nothing else can look.
	mkdir -p "$aside"
	mount --bind / "$aside"
	find "$aside$folder" -mindepth 1 -delete
	umount "$aside"
	rm "$copied"
fi
