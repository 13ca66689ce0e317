# Prints what a guest tells of its graphics cards and their driver, section by section. Reads only.
#
# Arguments: `live` for numbers only, `all` for everything; then the fields to ask nvidia-smi for, with commas between
# them, and those of its list of processes.
# A section starts with a line "=== NAME EXIT-CODE" and holds what was printed. What cannot be learnt has no section.
# nvidia-smi can hang for good on a sick card, out of reach even of SIGKILL, so it is never waited for: it runs beside
# us and writes into a folder of memory, and who does not answer in time has exit code 124.

LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/rocm/bin
export LC_ALL PATH

how=$1
fields=$2
process_fields=$3
patience=${GATHER_PATIENCE:-15} # seconds; without persistence a driver takes some to wake several cards
longest=1000000

scratch=$(mktemp -d /dev/shm/gpu-facts.XXXXXX 2>/dev/null || mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

# show NAME EXIT-CODE: one section from standard input. Lines of others that look like a section's start are indented.
show() {
	printf '=== %s %s\n' "$1" "$2"
	head -c "$longest" | sed 's/^===/ ===/'
	echo
}

# answer COMMAND...: runs it beside us; leaves its output in $scratch/out and its exit code in $code.
answer() {
	rm -f "$scratch/code"
	(
		"$@" >"$scratch/out" 2>&1 </dev/null
		echo $? >"$scratch/code.new"
		mv "$scratch/code.new" "$scratch/code"
	) >/dev/null 2>&1 </dev/null &
	waited=0
	while [ ! -e "$scratch/code" ]; do
		if [ "$waited" -ge $((patience * 10)) ]; then
			kill -9 $! 2>/dev/null
			code=124
			return
		fi
		sleep 0.1
		waited=$((waited + 1))
	done
	code=$(cat "$scratch/code")
}

[ "$how" = live ] || uname -r | show kernel 0

for device in /sys/bus/pci/devices/*; do
	read -r class 2>/dev/null <"$device/class" || continue
	case $class in 0x03*) ;; *) continue ;; esac
	read -r vendor <"$device/vendor"
	read -r id <"$device/device"
	driver=-
	[ ! -e "$device/driver" ] || driver=$(basename "$(readlink "$device/driver")")
	# A card that fell off the bus answers every read with ones, while sysfs still shows the ids it once had.
	case $(od -An -tx1 -N2 "$device/config" 2>/dev/null) in *'ff ff'*) driver="$driver gone" ;; esac
	echo "${device##*/} ${vendor#0x} ${id#0x} $driver"
done >"$scratch/cards"
show cards 0 <"$scratch/cards"
nvidia= amd=
if grep -q ' 10de ' "$scratch/cards" || command -v nvidia-smi >/dev/null 2>&1; then nvidia=yes; fi
if grep -q ' 1002 ' "$scratch/cards"; then amd=yes; fi

for module in nvidia nvidia_uvm nouveau amdgpu; do
	[ ! -d "/sys/module/$module" ] || echo "$module"
done | show modules 0

if [ "$nvidia" ]; then
	# The name of a field that this driver does not know stands in the answer: leave it out and ask again.
	while :; do
		answer nvidia-smi "--query-gpu=$fields" --format=csv,noheader,nounits
		unknown=$(sed -n 's/.*Field "\([^"]*\)" is not a valid field to query.*/\1/p' "$scratch/out" | head -n 1)
		[ "$unknown" ] || break
		left=$(printf '%s\n' "$fields" | tr ',' '\n' | grep -vxF -e "$unknown" | paste -sd , -)
		if [ "$left" = "$fields" ] || [ -z "$left" ]; then break; fi
		fields=$left
	done
	echo "$fields" | show smi-fields 0
	show smi-query "$code" <"$scratch/out"
	if [ "$code" != 124 ] && [ "$code" != 127 ]; then
		answer nvidia-smi "--query-compute-apps=$process_fields" --format=csv,noheader,nounits
		show smi-processes "$code" <"$scratch/out"
	fi
fi
if [ "$amd" ]; then
	answer amd-smi metric --json
	[ "$code" = 127 ] || show amd-smi "$code" <"$scratch/out"
	answer rocm-smi --showproductname --showuse --showmeminfo vram --showpower --showtemp --showbus --json
	show rocm-smi "$code" <"$scratch/out"
fi

if [ "$how" = live ]; then
	echo '=== end 0'
	exit 0
fi

for node in nvidiactl nvidia0 nvidia-uvm kfd dri/renderD128; do
	[ ! -e "/dev/$node" ] || echo "$node"
done | show devices 0

if [ "$nvidia" ]; then
	answer nvidia-smi --version
	[ "$code" = 127 ] || show smi-version "$code" <"$scratch/out"
	[ ! -r /sys/module/nvidia/version ] || show loaded 0 </sys/module/nvidia/version
	[ ! -r /proc/driver/nvidia/version ] || show proc-version 0 </proc/driver/nvidia/version
	if text=$(modinfo -F version nvidia 2>/dev/null); then echo "$text" | show on-disk 0; fi
	for library in /usr/lib/*-linux-gnu/libnvidia-ml.so.1 /usr/lib64/libnvidia-ml.so.1; do
		[ ! -e "$library" ] || basename "$(readlink -f "$library")"
	done | show library 0
	if command -v dpkg-query >/dev/null 2>&1; then
		# shellcheck disable=SC2016 # dpkg-query fills these in, not the shell
		dpkg-query -W -f='${Package} ${Version} ${db:Status-Want} ${db:Status-Status}\n' \
			'linux-modules-nvidia-*' 'linux-objects-nvidia-*' 'linux-signatures-nvidia-*' 'nvidia-*' 'libnvidia-*' \
			'cuda-drivers*' 2>/dev/null | show packages 0
	fi
	for folder in /usr/local/cuda-[0-9]*.[0-9]*; do
		[ ! -x "$folder/bin/nvcc" ] || echo "${folder#/usr/local/cuda-}" | tr . -
	done | show toolkits 0
	if command -v dkms >/dev/null 2>&1; then
		answer dkms status
		show dkms "$code" <"$scratch/out"
	fi
fi

if [ -d /sys/firmware/efi ]; then
	# Four bytes of attributes, then the state.
	od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null |
		show secure-boot 0
else
	echo 0 | show secure-boot 0
fi

if [ "$nvidia" ] || [ "$amd" ]; then
	matter='NVRM|nvidia|nouveau|amdgpu|Loading of .*module.* is rejected|module verification failed'
	log=$(dmesg 2>/dev/null | grep -v 'Command line:')
	case $log in
	*'Linux version'*) ;;
	*)
		# Its ring is small; the journal may still have what was written first.
		journal=$(timeout -k 2 "$patience" journalctl -k -b --no-pager -o cat 2>/dev/null)
		[ ! "$journal" ] || log=$journal
		;;
	esac
	[ ! "$log" ] || printf '%s\n' "$log" | grep -aE "$matter" | cut -c 1-1024 | tail -n 2000 | show log 0
fi

[ ! -r /run/provisioner/gpu-drift ] || show drift 0 </run/provisioner/gpu-drift
echo '=== end 0'
