# boot.sh TREE: makes a machine of a tree and becomes its process 1. Runs in namespaces of its own.
set -eu
tree=$1
mount --make-rprivate /
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount -t sysfs -o ro sysfs "$tree/sys"
mount -t cgroup2 cgroup2 "$tree/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
for device in null zero full random urandom tty; do
  : > "$tree/dev/$device"
  mount --bind "/dev/$device" "$tree/dev/$device"
done
mkdir "$tree/dev/pts" "$tree/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$tree/dev/pts"
ln -s pts/ptmx "$tree/dev/ptmx"
mount -t tmpfs tmpfs "$tree/dev/shm"
ln -s /proc/self/fd "$tree/dev/fd"
for stream in 0/stdin 1/stdout 2/stderr; do ln -s "fd/${stream%/*}" "$tree/dev/${stream#*/}"; done
mount -t tmpfs tmpfs "$tree/run"
# Of the machine there is one boot; of what runs in it there are many, and whoever waits for one compares this.
cat /proc/sys/kernel/random/uuid > "$tree/run/boot_id"
mount --bind "$tree/run/boot_id" "$tree/proc/sys/kernel/random/boot_id"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
ip link set lo up
hostname guest
cd "$tree"
pivot_root . mnt
umount -l /mnt
exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /usr/lib/systemd/systemd --system --log-target=console --log-level=warning
