# Prints who uses a guest: login sessions, package work, downloads, and which processes belong to our engines. Reads
# only, but for the one mark that somebody of ours has looked, which the guest's own idle timer waits for.
# Sections as in gather-gpu-facts.sh, which runs after this in the same shell. Root, so that others' work is seen.

LC_ALL=C
export LC_ALL
slow=5 # seconds for whatever asks another program or walks a folder

mkdir -p /run/provisioner 2>/dev/null && touch /run/provisioner/looked-at 2>/dev/null

# Every connection by SSH with what runs in it, but for ours: that of this shell, and programs that only look, with all
# that they start. Processes tell even where no session is registered.
if command -v ps >/dev/null 2>&1; then
	echo '=== connections 0'
	ps -eo pid=,ppid=,tty=,args= | awk -v self=$$ '
		{
			words = $0; sub(/^ *[0-9]+ +[0-9]+ +[^ ]+ +/, "", words)
			pids[NR] = $1; parent[$1] = $2; tty[$1] = $3; args[$1] = substr(words, 1, 300)
			if (words ~ /^sshd(-session)?: [^ ]+@/) { sub(/^[^:]*: /, "", words); root[$1] = words }
		}
		function root_of(pid) {
			while (pid > 1 && !(pid in root)) {
				if (args[pid] ~ /gather-gpu-facts|journalctl/) return 0
				pid = parent[pid]
			}
			return pid > 1 ? pid : 0
		}
		END {
			own = parent[self]
			while (own > 1 && !(own in root)) own = parent[own]
			for (pid in root) {
				if (pid == own) continue
				split(root[pid], who, "@")
				print "session " pid "\nName=" who[1] (who[2] ~ /^(notty|$)/ ? "" : "\nTTY=" who[2])
				for (i = 1; i <= NR; i++)
					if (!(pids[i] in root) && root_of(pids[i]) == pid) print "program " tty[pids[i]] " " args[pids[i]]
			}
		}'
fi
if command -v loginctl >/dev/null 2>&1 && ids=$(timeout "$slow" loginctl list-sessions --no-legend --no-pager 2>/dev/null); then
	echo '=== sessions 0'
	printf '%s\n' "$ids" | while read -r id _; do
		[ "$id" ] || continue
		told=$(timeout "$slow" loginctl show-session "$id" -p Name -p Class -p State -p TTY -p Service 2>/dev/null) || continue
		printf 'session %s\n%s\n' "$id" "$told"
	done
elif command -v who >/dev/null 2>&1; then
	echo '=== terminals 0'
	who
fi
[ ! -e /var/log/wtmp ] || { echo '=== logins 0'; stat -c %Y /var/log/wtmp; }

echo '=== locks 0'
for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock; do
	inode=$(stat -c %i "$lock" 2>/dev/null) || continue
	sed -n "s/^[0-9]*: [A-Z]* *[A-Z]* *WRITE *\([0-9]*\) [0-9a-f:]*:$inode .*/\1/p" /proc/locks 2>/dev/null | while read -r pid; do
		echo "$(cat "/proc/$pid/comm" 2>/dev/null || echo somebody)"
	done
done | sort -u

if command -v systemctl >/dev/null 2>&1; then
	jobs=$(timeout "$slow" systemctl list-units --plain --no-legend --no-pager --state=active,activating 'llm-job-*' 2>/dev/null)
	echo "=== jobs $?"
	printf '%s\n' "$jobs" | cut -d ' ' -f 1
fi

found=$(timeout "$slow" find /var/lib/llm /usr/share/ollama/.ollama /root/.ollama /root/.cache/huggingface \
	/home/*/.ollama /home/*/.cache/huggingface -maxdepth 7 -type f \
	\( -name '*-partial' -o -name '*-partial-*' -o -name '*.incomplete' \) -mmin -3 2>/dev/null)
# What is not there makes find complain; only its being cut off says that nobody knows.
[ $? = 124 ] && code=124 || code=0
echo "=== downloads $code"
printf '%s\n' "$found"

echo '=== engines 0'
cat /sys/fs/cgroup/system.slice/llm-*.service/cgroup.procs 2>/dev/null
if command -v docker >/dev/null 2>&1; then
	# Where their cgroups are depends on who makes them, Docker or systemd; Docker knows.
	for id in $(timeout "$slow" docker ps --quiet --filter name=^llm- 2>/dev/null); do
		timeout "$slow" docker top "$id" -eo pid 2>/dev/null | tr -dc '0-9\n'
	done
fi
