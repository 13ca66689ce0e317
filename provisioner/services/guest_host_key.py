"""Learns the SSH host key that a guest has made for itself, from Proxmox and not from the network.

Nobody but the guest itself knows that key. A first login that believes what it
is shown would trust whoever answers at the address; the guest agent answers
over the hypervisor's own channel into the VM and the authenticated API.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from provisioner.domain.fleet import NodeSpec
from provisioner.errors import GuestError, NotReadyError
from provisioner.ports.clock import Clock
from provisioner.ports.guest_shell import GuestAway
from provisioner.ports.hypervisors import Hypervisors
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# cloud-init's last act of a boot, on a file system that does not outlive it: from then on the key stays as it is.
FINISHED = "/run/cloud-init/result.json"
PUBLIC_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
_KEY = re.compile(r"^(ssh-ed25519 [A-Za-z0-9+/]+={0,3})(?:\s.*)?$", re.MULTILINE)
_PACE = Pace(first=0.2, growth=1.5, longest=3.0)


def read_host_key(
    hypervisors: Hypervisors,
    node: NodeSpec,
    clock: Clock,
    *,
    seconds: float,
    still_worth_it: Callable[[], None],
    say: Callable[[str], None],
) -> str:
    """Return the guest's public host key (type and base64).

    Raises:
        NotReadyError: the agent did not answer, or cloud-init did not finish, in time.
        GuestError: the guest has no such key.
        HypervisorError: the agent refuses, or the token may not ask it.
    """
    has_answered = False

    def look() -> bool | NotYet:
        nonlocal has_answered
        still_worth_it()
        try:
            finished = hypervisors.read_guest_file(node.hypervisor, node.vmid, FINISHED)
        except GuestAway as away:
            return NotYet(f"the guest agent does not answer ({away})")
        has_answered = True
        return True if finished is not None else NotYet("cloud-init is at work")

    try:
        wait_until(look, clock=clock, seconds=seconds, pace=_PACE, on_change=say)
        text = hypervisors.read_guest_file(node.hypervisor, node.vmid, PUBLIC_KEY)
    except WaitedInVain as waited:
        raise _unread(node, seconds, waited.last_seen, has_answered=has_answered) from waited
    except GuestAway as away:
        raise _unread(node, seconds, str(away), has_answered=True) from away
    key = _KEY.search(text or "")
    if key is None:
        raise GuestError(
            f"cannot log in to the guest: it has no SSH host key in {PUBLIC_KEY}",
            subject=node.subject,
            next_step="take an image whose cloud-init makes an ed25519 host key, as it does unless told otherwise",
        )
    return key[1]


def _unread(node: NodeSpec, seconds: float, last: str, *, has_answered: bool) -> NotReadyError:
    if has_answered:
        step = f"see what cloud-init does (Proxmox > VM {node.vmid} > Console), then: provisioner up {node.name}"
    else:
        step = (
            "cloud_init: proxmox needs an image with qemu-guest-agent in it, which stock Ubuntu cloud images are not: "
            f"provisioner destroy {node.name}, name such an image or write cloud_init: seed, then: "
            f"provisioner up {node.name}"
        )
    return NotReadyError(
        f"cannot learn the guest's SSH host key within {seconds:g} s, and logging in without it would trust whoever "
        f"answers; last: {last}",
        subject=node.subject,
        next_step=step,
        retryable=True,
    )
