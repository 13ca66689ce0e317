# Turns a freshly bootstrapped Debian tree into the lab's guest. Runs inside the
# tree (chroot), once, as the last step of the build. Everything here is about
# boot time under software emulation, where each started program costs 50-300 ms;
# what a node needs (cloud-init, sshd, guest agent, systemd) stays as Debian ships it.
set -eu

mask_unit() { for unit in "$@"; do ln -sf /dev/null "/etc/systemd/system/$unit"; done; }

# --- cloud-init -------------------------------------------------------------
# One data source, one renderer, and only the modules that a seed of ours or of
# Proxmox uses. `packages:` is left out on purpose: the guest has no way out, and
# apt would wait for its mirrors.
cat > /etc/cloud/cloud.cfg.d/99-lab.cfg <<'CFG'
datasource_list: [NoCloud, None]
system_info:
  network: {renderers: [networkd], activators: [networkd]}
ssh_genkeytypes: [ed25519]
no_ssh_fingerprints: true
ssh: {emit_keys_to_console: false}
package_update: false
package_upgrade: false
manual_cache_clean: false
cloud_init_modules: [bootcmd, write-files, set_hostname, update_hostname, update_etc_hosts, users-groups, ssh]
cloud_config_modules: [set-passwords, runcmd]
cloud_final_modules: [write-files-deferred, scripts-per-boot, scripts-user, final-message]
CFG
# The generator only decides whether cloud-init.target is wanted; linked by hand it
# always is, and the units still honour /etc/cloud/cloud-init.disabled themselves.
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sf /usr/lib/systemd/system/cloud-init.target /etc/systemd/system/multi-user.target.wants/cloud-init.target
mask_unit cloud-init-hotplugd.socket cloud-init-hotplugd.service

# --- generators: only fstab's is wanted --------------------------------------
mkdir -p /etc/systemd/system-generators
for generator in /usr/lib/systemd/system-generators/*; do
  name=${generator##*/}
  [ "$name" = systemd-fstab-generator ] || ln -sf /dev/null "/etc/systemd/system-generators/$name"
done

# --- units that do nothing for a guest that lives for minutes ---------------
mask_unit systemd-networkd-wait-online.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
  modprobe@.service sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
  sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount systemd-journal-catalog-update.service \
  systemd-journal-flush.service ldconfig.service systemd-sysusers.service systemd-update-done.service \
  systemd-hwdb-update.service systemd-random-seed.service systemd-tpm2-setup.service \
  systemd-tpm2-setup-early.service systemd-pcrphase.service systemd-pcrphase-sysinit.service \
  systemd-pcrmachine.service systemd-pcrextend.socket systemd-pcrlock.socket systemd-hibernate-clear.service \
  systemd-udev-load-credentials.service systemd-network-generator.service kmod-static-nodes.service \
  systemd-networkd-persistent-storage.service systemd-firstboot.service systemd-pstore.service systemd-timesyncd.service sshd-keygen.service \
  getty.target getty-static.service getty@.service serial-getty@.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer systemd-tmpfiles-clean.timer
systemctl enable systemd-networkd.service >/dev/null 2>&1

# --- udev: replay only the devices a guest of ours has (not the rest of the PCI bus,
# whose drivers it never uses), through only the rules they need
mkdir -p /etc/systemd/system/systemd-udev-trigger.service.d /etc/udev/rules.d
cat > /etc/systemd/system/systemd-udev-trigger.service.d/lab.conf <<'CFG'
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=virtio --subsystem-match=virtio-ports --subsystem-match=acpi --subsystem-match=input
CFG
# 60-input-id and 70-power-switch make the power button reach logind; without
# them an ACPI shutdown is silently ignored.
kept=" 50-udev-default 60-block 60-persistent-storage 60-qemu-guest-agent 60-input-id 70-power-switch 80-drivers 80-net-setup-link 99-systemd "
for rules in /usr/lib/udev/rules.d/*.rules; do
  name=${rules##*/}
  case "$kept" in *" ${name%.rules} "*) ;; *) ln -sf /dev/null "/etc/udev/rules.d/$name" ;; esac
done

# --- journal in memory ---------------------------------------------------------
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\n' > /etc/systemd/journald.conf.d/lab.conf

# --- root file system: grows into a resized disk at each boot (no resize2fs needed)
printf '/dev/disk/by-label/root / ext4 defaults,x-systemd.growfs 0 0\n' > /etc/fstab

# --- no way out, so nobody to ask: names fail at once instead of after a timeout,
# and `apt-get update` has nothing to fetch instead of failing.
rm -f /etc/resolv.conf
: > /etc/resolv.conf
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*

# --- nothing that must be unique travels in an image ---------------------------
rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
rm -f /etc/hostname /var/lib/dbus/machine-id
rm -rf /var/lib/cloud/* /var/log/*.log /var/log/apt /var/cache/apt/*.bin /boot/initrd.img*

# An interpreted start costs five compiled ones.
python3 -m compileall -q /usr/lib/python3 /usr/lib/python3.* >/dev/null 2>&1 || true

# Last, so that /usr is not newer than these and systemd sees no update to apply.
touch /etc/.updated /var/.updated
