# Prints what a Proxmox VE host tells about GPU passthrough, section by section. Reads only; changes nothing.
#
# A section starts with a line "=== NAME" and holds what one command prints. What cannot be learnt (a command that is
# missing, fails or hangs, a file that may not be read) has no section: absent means unknown, empty means none.
# Every command has its time and its size. Not asked: `proxmox-boot-tool status`, for it mounts file systems.

LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH

longest=1000000 # bytes of a section
patience=8      # seconds for a command

# within COMMAND...: its output, cut to size; its last line is "!failed" if it failed.
within() {
	{ timeout -k 2 "$patience" "$@" 2>/dev/null || echo '!failed'; } | head -c "$longest"
}

# show NAME TEXT: one section. Lines of others that look like a section's start are indented.
show() {
	printf '=== %s\n' "$1"
	[ -z "$2" ] || printf '%s\n' "$2" | sed 's/^===/ ===/'
}

# section NAME COMMAND...: what it prints, if it succeeds.
section() {
	name=$1
	shift
	text=$(within "$@")
	case $text in
	*'!failed') ;;
	*) show "$name" "$text" ;;
	esac
}

# filled NAME TEXT: a section that cannot be empty on a machine that tells it.
filled() {
	[ -z "$2" ] || show "$1" "$2"
}

# with_files FILE...: the lines of those that are there, each with its file before it.
with_files() {
	for file in "$@"; do
		[ ! -f "$file" ] || awk 'NF { print FILENAME ": " $0 }' "$file" || echo '!failed'
	done | head -c "$longest"
}

filled cmdline "$(cat /proc/cmdline 2>/dev/null)"
section uname uname -r
section pveversion pveversion

# What the cluster calls this server.
[ ! -L /etc/pve/local ] || filled x-node "$(basename "$(readlink /etc/pve/local)")"

filled cpu "$(awk -F '[ \t]*: ' '
	/^vendor_id/ && !vendor { vendor = 1; print "vendor_id: " $2 }
	/^model name/ && !model { model = 1; print "model name: " $2 }
	vendor && model { exit }
' /proc/cpuinfo 2>/dev/null)"

# The kernel makes this folder whether or not it uses an IOMMU, so without it nothing is known.
[ ! -d /sys/kernel/iommu_groups ] || section iommu_groups find /sys/kernel/iommu_groups -type l

# A device about which lspci has nothing to say gets the line that lspci leaves out for one without subsystem ids:
# a bare line would mean that the listing was made without drivers.
text=$(within lspci -Dnnk)
case $text in
*'!failed' | '') ;;
*) show lspci "$(printf '%s\n' "$text" | awk '
	function close_device(file, vendor) {
		if (!address || details) return
		file = "/sys/bus/pci/devices/" address "/subsystem_vendor"
		if ((getline vendor < file) > 0) print "\tSubsystem: Device [" substr(vendor, 3) ":0000]"
		close(file)
	}
	/^[0-9a-f]/ { close_device(); address = $1; details = 0 }
	/^[ \t]/ { details = 1 }
	{ print }
	END { close_device() }
')" ;;
esac

section lsmod lsmod

if [ -r /etc/modules ] || [ -d /etc/modules-load.d ]; then
	text=$(with_files /etc/modules /etc/modules-load.d/*.conf /etc/initramfs-tools/modules 2>/dev/null)
	case $text in *'!failed'*) ;; *) show modules "$text" ;; esac
fi
if [ -d /etc/modprobe.d ]; then
	text=$(with_files /etc/modprobe.d/*.conf 2>/dev/null)
	case $text in *'!failed'*) ;; *) show modprobe "$text" ;; esac
fi

# The lines that matter of the kernel's log since boot. Its ring is small: when the first line is gone, the journal
# may still have them all.
matter='iommu|dmar|amd-vi|ivrs|vfio|remapping|acs override|command line:|linux version|bar [0-9]|reg 0x|vgaarb'
matter="$matter|efifb|vesafb|bootfb|simplefb|simple-framebuffer|simpledrm"
lines_that_matter() {
	{ timeout -k 2 "$patience" "$@" 2>/dev/null || echo '!failed: iommu'; } |
		grep -aiE "$matter" | cut -c 1-4096 | head -n 5000 | head -c "$longest"
}
log=$(lines_that_matter dmesg)
case $log in
*'Linux version'*) ;;
*)
	journal=$(lines_that_matter journalctl -k -b --no-pager -o cat)
	case $journal in *'!failed: iommu') ;; *'Linux version'*) log=$journal ;; esac
	;;
esac
case $log in *'!failed: iommu') ;; *) filled dmesg "$log" ;; esac

# Without the right to see addresses the kernel shows zeros, which say nothing.
ranges=$(grep -iE 'PCI Bus|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|fb$|simple' /proc/iomem 2>/dev/null |
	head -c "$longest")
if printf '%s\n' "$ranges" | grep -qE '^ *[0-9a-f]*[1-9a-f][0-9a-f]*-'; then
	show iomem "$ranges"
fi

# Who boots: GRUB and systemd-boot's entries by Proxmox each leave a word on the command line; else what the firmware
# says of the entry it took.
running=$(cat /proc/cmdline 2>/dev/null)
loader=
case $running in
*BOOT_IMAGE=*) loader=grub ;;
*initrd=\\[Ee][Ff][Ii]\\*) loader=systemd-boot ;;
esac
if [ -z "$loader" ] && [ -d /sys/firmware/efi ]; then
	entry=$(within efibootmgr -v | awk '
		/^BootCurrent: / { current = $2 }
		current && index($0, "Boot" current) == 1 { print tolower($0) }
	')
	case $entry in
	*systemd-boot*) loader=systemd-boot ;;
	*grub* | *shim*) loader=grub ;;
	esac
fi
filled bootloader "$loader"

# Both loaders' files where both are there: the one that nobody reads explains changes without effect.
files=$(
	grep -hE '^[[:space:]]*(export[[:space:]]+)?GRUB_CMDLINE_LINUX' /etc/default/grub /etc/default/grub.d/*.cfg 2>/dev/null
	[ ! -r /etc/kernel/cmdline ] || awk 'NF { print; exit }' /etc/kernel/cmdline
)
filled kernel_cmdline_file "$(printf '%s' "$files" | head -c "$longest")"

if [ -d /sys/firmware/efi ]; then
	text=$(within mokutil --sb-state)
	case $text in
	*SecureBoot*) show secureboot "${text%!failed}" ;;
	*)
		# Four bytes of attributes, then the state.
		state=$(od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null)
		case $state in
		*1*) show secureboot "SecureBoot enabled" ;;
		*0*) show secureboot "SecureBoot disabled" ;;
		esac
		;;
	esac
elif [ -d /sys/class ]; then
	show secureboot "EFI variables are not supported on this system"
fi

filled hugepages "$(grep -i '^huge' /proc/meminfo 2>/dev/null)"

# What a dump has no place for.
filled x-meminfo "$(grep -E '^Mem(Total|Available):' /proc/meminfo 2>/dev/null)"
filled x-cpuflags "$(awk -F ': ' '/^flags/ { print $2; exit }' /proc/cpuinfo 2>/dev/null)"
if [ -d /sys/bus/pci/devices ]; then
	show x-displays "$(
		for device in /sys/bus/pci/devices/*; do
			read -r class 2>/dev/null <"$device/class" || continue
			case $class in 0x03*) ;; *) continue ;; esac
			printf '%s' "${device##*/}"
			for fact in boot_vga numa_node; do
				value=
				! read -r value 2>/dev/null <"$device/$fact" || printf ' %s=%s' "$fact" "$value"
			done
			value=
			[ ! -e "$device/reset" ] || value=unnamed
			[ ! -r "$device/reset_method" ] || value=$(tr ' ' ',' <"$device/reset_method" 2>/dev/null)
			printf ' reset=%s\n' "$value"
		done
	)"
fi
echo '=== x-end'
