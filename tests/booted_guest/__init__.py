"""The lab's guest booted in namespaces of this machine: real systemd, sshd, sudo and Python at full speed.

    from tests.booted_guest import BootedGuest, why_not

    with BootedGuest(tmp_path) as guest:
        guest.run("systemctl is-active ssh")        # as root, beside systemd
        guest.play("deploy-ollama", variables)      # Ansible over SSH, as the account `ops` with sudo
        guest.cut_the_power(); guest.boot()         # what was written stays, what ran is gone

What is real: the lab image's whole user land, systemd as process 1 with its sandboxing of units, OpenSSH on the way
in. What is not: the kernel is this machine's, there is no network but loopback, no device but /dev/null and its
like, and no resource limits (systemd has no controllers here, so MemoryMax= is written and not enforced). Whoever
needs those boots the same image with QEMU, which takes about fifteen times as long.
"""

from tests.booted_guest.guest import BootedGuest, Play, why_not

__all__ = ["BootedGuest", "Play", "why_not"]
