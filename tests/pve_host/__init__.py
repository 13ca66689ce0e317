"""A stand-in for a Proxmox VE host: a real OpenSSH server over a made-up machine, in namespaces of its own.

    from tests.pve_host import PveHost, why_not

    pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

    def test_something(tmp_path):
        with PveHost.typical(tmp_path / "pve1", cpu="intel", boot_loader="grub", kernel="old") as host:
            spec = host.spec()                      # HypervisorSpec with address, port, user, host_key, private_key
            ...                                     # log in and change something: ssh, Fabric, Ansible
            host.reboot()                           # or inside `with host.reboots():` if the tested code does it
            assert "intel_iommu=on" in host.running_command_line
            assert host.driver_of("0000:01:00.0") == "vfio-pci"
            assert host.commands("update-grub")     # every call of a stand-in command, as lists of words
            assert "intel_iommu" in host.read("/etc/default/grub")

`PveHost(folder, dump)` makes one of any host dump; what the dump does not have cannot be learnt from that host.

What is real: sshd, its authentication, sessions and host keys; sudo (user="admin"); sh, coreutils and Python, all of
the machine's own /usr, which nobody can change from inside. Root is root, but sees no file of the real machine
outside /usr and /dev. What is made up: /proc/{cmdline,iomem,cpuinfo,meminfo} and the boot id, /sys, /etc, /boot, and
the commands in `tests/pve_host/commands`. They do what passthrough needs of the real ones and refuse the rest:

- `update-grub` compiles /etc/default/grub and grub.d (read by sh) into /boot/grub/grub.cfg.
- `proxmox-boot-tool refresh` copies the first line of /etc/kernel/cmdline and the initrds to the system partition, if
  /etc/kernel/proxmox-boot-uuids names one; without `root=` in it, it refuses.
- `update-initramfs -u` packs /etc/modprobe.d, /etc/initramfs-tools/modules and executable scripts into the newest
  kernel's initrd (`-k all`: all), and refreshes the system partition.
- `reboot`, `shutdown -r now`, `systemctl reboot` end every session, and after `downtime` the host boots what its boot
  loader had compiled: editing the other loader's file, or forgetting to compile, changes nothing. An entry without
  `root=` does not come back (event `does-not-boot`), nor does a host after `stay_down()`.
- At boot vfio-pci gets the devices whose ids the initrd (or the command line) gives it, if it is loaded before their
  driver (softdep, initramfs module, blacklisted driver), and refuses them without an IOMMU group. Intel's IOMMU needs
  `intel_iommu=on` before kernel 6.8; without VT-d in the firmware (`has_vtd=False`) there is none.
- `pvesh get|create|set|delete PATH --key value --output-format json` asks the embedded Proxmox given as `lab` as
  root@pam.

Wrong turns: `hang("lspci")`, `fail("update-initramfs", "words", 1)`, `remove_command("mokutil")`, `lock_etc()`,
`replace_host_keys()`, `cut_sessions()`, `flood()`, `stay_down()`.

Ansible's own kernel facts come from the real kernel (uname(2)); read `uname -r` instead.
"""

from tests.pve_host.access import PASSWORD
from tests.pve_host.host import PveHost, sections_of, why_not

__all__ = ["PASSWORD", "PveHost", "sections_of", "why_not"]
