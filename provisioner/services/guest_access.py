"""Getting into a guest that boots, and letting its first boot finish."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.fleet import NodeSpec
from provisioner.errors import GuestError, NotReadyError
from provisioner.ports.clock import Clock
from provisioner.ports.guest_shell import CommandResult, GuestAway, GuestRefuses, GuestShell, GuestShells
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# sshd can be up a moment before cloud-init has written the authorized keys.
_REFUSAL_GRACE_SECONDS = 20.0
# OpenSSH 9.8 and later shut out an address for a while when failed logins come faster than one in 5 s.
_REFUSAL_PAUSE_SECONDS = 10.0
_LOGIN_PACE = Pace(first=0.1, growth=1.3, longest=1.0)
_SWITCHED_OFF = "/etc/cloud/cloud-init.disabled"
_SMALL_ACT_SECONDS = 30.0


class GuestAccess:
    """Opens shells into guests, with patience."""

    def __init__(self, shells: GuestShells, clock: Clock) -> None:
        self._shells = shells
        self._clock = clock

    @contextmanager
    def shell(
        self,
        node: NodeSpec,
        host_key: str,
        *,
        seconds: float,
        still_worth_it: Callable[[], None] | None = None,
        on_change: Callable[[str], None] | None = None,
    ) -> Iterator[GuestShell]:
        """Log in, waiting for the guest to come up.

        Raises:
            NotReadyError: nobody answered in time.
            GuestError: our key is refused, or the host key is not the guest's.
        """
        first_refusal: float | None = None
        next_try = 0.0

        def look() -> GuestShell | NotYet:
            nonlocal first_refusal, next_try
            now = self._clock.monotonic()
            if now < next_try:
                return NotYet("our key is refused, trying again")
            try:
                return self._shells.open(node, host_key)
            except GuestAway as reason:
                if still_worth_it is not None:
                    still_worth_it()
                return NotYet(str(reason))
            except GuestRefuses as reason:
                first_refusal = now if first_refusal is None else first_refusal
                if now - first_refusal >= _REFUSAL_GRACE_SECONDS:
                    raise _key_refused(node, str(reason)) from reason
                next_try = now + _REFUSAL_PAUSE_SECONDS
                return NotYet(str(reason))

        try:
            opened = wait_until(look, clock=self._clock, seconds=seconds, pace=_LOGIN_PACE, on_change=on_change)
        except WaitedInVain as waited:
            raise NotReadyError(
                f"cannot log in to the guest within {seconds:g} s; last: {waited.last_seen}",
                subject=node.subject,
                next_step=f"look at its console (Proxmox > VM {node.vmid} > Console), then: provisioner up {node.name}",
                retryable=True,
            ) from waited
        with opened as shell:
            yield shell

    def await_first_boot(self, shell: GuestShell, node: NodeSpec, *, seconds: float) -> bool:
        """Let cloud-init finish its only run; return whether this was the first time it was seen finished.

        Once it has, it is switched off in the guest: host key, network and
        accounts stay as they are, and wakes are shorter by its start. It stays
        on where Proxmox makes its drive: a change there is to take effect.

        Raises:
            NotReadyError: it did not finish in time, or the guest went away.
            GuestError: it finished with errors.
        """
        try:
            if self._is_switched_off(shell):
                return False
            result = shell.run(["cloud-init", "status", "--wait", "--format", "json"], seconds=seconds)
            status, errors = _cloud_init_verdict(result)
            if status == "disabled" and self._is_switched_off(shell):
                # Another run, on another machine, has seen it finished while we waited.
                return False
        except GuestAway as gone:
            raise NotReadyError(
                f"cannot see cloud-init finish within {seconds:g} s: {gone}",
                subject=node.subject,
                next_step=f"provisioner up {node.name} continues where this run ended",
                retryable=True,
            ) from gone
        if status != "done" or errors:
            raise GuestError(
                f"cannot use the guest: cloud-init ended as {status}: {'; '.join(errors) or result.err.strip()}",
                subject=node.subject,
                next_step=(
                    f"read why (provisioner ssh {node.name} -- sudo cat /var/log/cloud-init-output.log), mend it, have "
                    f"the first boot run again (provisioner ssh {node.name} -- sudo cloud-init clean --reboot), "
                    f"then: provisioner up {node.name}"
                ),
            )
        if node.cloud_init is CloudInit.SEED:
            self._switch_off(shell, node)
        return True

    @staticmethod
    def _is_switched_off(shell: GuestShell) -> bool:
        return shell.run(["test", "-e", _SWITCHED_OFF], seconds=_SMALL_ACT_SECONDS).exit_code == 0

    @staticmethod
    def _switch_off(shell: GuestShell, node: NodeSpec) -> None:
        try:
            result = shell.run(["touch", _SWITCHED_OFF], seconds=_SMALL_ACT_SECONDS, privileged=True)
        except GuestAway as gone:
            raise NotReadyError(
                f"cannot switch cloud-init off in the guest: {gone}",
                subject=node.subject,
                next_step=f"provisioner up {node.name} continues where this run ended",
                retryable=True,
            ) from gone
        if result.exit_code != 0:
            raise GuestError(
                f"cannot switch cloud-init off in the guest: {result.err.strip()}",
                subject=node.subject,
                next_step=f"provisioner ssh {node.name} -- sudo touch {_SWITCHED_OFF}",
            )


def _cloud_init_verdict(result: CommandResult) -> tuple[str, list[str]]:
    """Read ``cloud-init status``. Exit code 2 means "done, with a deprecation notice": only `errors` decide."""
    # --wait prints progress dots before the document.
    start = result.out.find("{")
    try:
        document = json.loads(result.out[start:]) if start >= 0 else {}
    except ValueError:
        document = {}
    errors = [str(each) for each in document.get("errors", [])]
    return str(document.get("status", f"unreadable (exit code {result.exit_code})")), errors


def _key_refused(node: NodeSpec, reason: str) -> GuestError:
    return GuestError(
        f"cannot log in to the guest: it refuses our SSH key ({reason})",
        subject=node.subject,
        next_step=(
            f"the key or user under `ssh:` in the fleet file is not the one that made {node.name}: put that one back, "
            f"or add the public key to ~/.ssh/authorized_keys in the guest (Proxmox > VM {node.vmid} > Console)"
        ),
    )
