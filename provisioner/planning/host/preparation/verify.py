"""Has it worked? Checks right after a preparation, and after the reboot that it asked for; pure."""

from __future__ import annotations

from provisioner.domain.host import BootLoader, HostFacts
from provisioner.domain.host_files import HostState, sha256
from provisioner.domain.host_preparation import Preparation
from provisioner.planning.host.steps import boot_loader_of, ok
from provisioner.planning.host.verdict import iommu_state
from provisioner.planning.readiness import Check, CheckStatus


def checks_before_reboot(facts: HostFacts, state: HostState, done: Preparation) -> tuple[Check, ...]:
    """Return what can be verified at once: the files, the refresh, and GRUB's menu."""
    checks = [_files(state, done), _refresh(state)]
    if boot_loader_of(facts) is BootLoader.GRUB and state.boot_menu and done.words:
        checks.append(_menu(state.boot_menu, done.words))
    return tuple(checks)


def _files(state: HostState, done: Preparation) -> Check:
    id_, why = "files", "what is not there cannot come into force"
    wrong = [
        change.path
        for change in done.files
        if state.sum(change.path) != (None if change.after is None else sha256(change.after))
    ]
    if wrong:
        found = f"{', '.join(wrong)} is not as it was written"
        return Check(id_, CheckStatus.FAIL, found, why, "somebody else changes it; see who, then prepare again")
    return ok(id_, f"{len(done.files)} as shown", why)


def _refresh(state: HostState) -> Check:
    id_, why = "refresh", "the next boot reads what is made from these files, not the files"
    if state.refresh_needed:
        found = f"not done: {', '.join(each.value for each in state.refresh_needed)}"
        return Check(id_, CheckStatus.FAIL, found, why, "do not reboot; prepare again")
    return ok(id_, "done", why)


def _menu(menu: tuple[str, ...], words: tuple[str, ...]) -> Check:
    id_, why = "boot_menu", "the kernel gets the words that stand in GRUB's generated menu"
    missing = [word for word in words if not any(word in line.split() for line in menu)]
    if missing:
        found = f"/boot/grub/grub.cfg has no entry with {' '.join(missing)}"
        step = "look for GRUB_CMDLINE_LINUX in /etc/default/grub.d and /etc/grub.d, then run update-grub there"
        return Check(id_, CheckStatus.FAIL, found, why, step)
    return ok(id_, f"has {' '.join(words)}", why)


def checks_after_reboot(
    facts: HostFacts, state: HostState, done: Preparation | None, *, boot_id: str, booted_from: str
) -> tuple[Check, ...]:
    """Return whether the reboot brought what it was for.

    Args:
        facts: as the host is now.
        state: likewise.
        done: what was prepared; None when everything was taken back, and nothing is to be found.
        boot_id: of the boot before.
        booted_from: what the firmware says of where it booted from, in a sentence; may be empty.
    """
    if done is None:
        return (_rebooted(state, boot_id),)
    return (
        _rebooted(state, boot_id),
        _command_line(facts, done, booted_from),
        _iommu(facts),
        *(_bound(facts, address) for address in done.bound),
    )


def _rebooted(state: HostState, boot_id: str) -> Check:
    id_, why = "rebooted", "only a new boot reads the new configuration"
    if state.boot_id == boot_id:
        return Check(id_, CheckStatus.FAIL, "it is still the same boot", why, "reboot it")
    return ok(id_, "this is another boot", why)


def _command_line(facts: HostFacts, done: Preparation, booted_from: str) -> Check:
    id_, why = "command_line", "a command line in a place that nothing boots from is ignored without a word"
    running = (facts.command_line or "").split()
    missing = [word for word in done.words if word not in running]
    if missing:
        loader = boot_loader_of(facts)
        tool = (
            "see in proxmox-boot-tool status which EFI partitions are kept; make the one that it boots from one of "
            "them with proxmox-boot-tool init PARTITION, or let the firmware boot one that is kept (efibootmgr -v)"
            if loader is BootLoader.SYSTEMD_BOOT
            else "see with efibootmgr -v which disk it boots from, and run update-grub (on EFI partitions that "
            "proxmox-boot-tool keeps: proxmox-boot-tool refresh)"
        )
        found = f"/proc/cmdline lacks {' '.join(missing)}, so it booted from something older"
        found += f": {booted_from}" if booted_from else ""
        return Check(id_, CheckStatus.FAIL, found, why, f"{tool}; then reboot")
    return ok(id_, f"has {' '.join(done.words) or 'all that it needs'}", why)


def _iommu(facts: HostFacts) -> Check:
    id_, why = "iommu", "without IOMMU groups no card can be given to a VM"
    is_on, evidence = iommu_state(facts)
    if is_on:
        return ok(id_, f"on: {evidence}", why)
    step = "turn VT-d (Intel) or IOMMU/AMD-Vi (AMD) on in the firmware setup, then look with provisioner doctor"
    return Check(id_, CheckStatus.FAIL if is_on is False else CheckStatus.UNKNOWN, evidence, why, step)


def _bound(facts: HostFacts, address: str) -> Check:
    id_, why = f"driver_{address}", "what a driver of the host holds has to be taken from it when the VM starts"
    seen = next((each for each in (facts.functions or {}).values() if each.address == address), None)
    if seen is None:
        return Check(
            id_, CheckStatus.FAIL, f"{address} is gone", why, "look whether the card moved to another slot: lspci -nn"
        )
    if seen.is_bound_to_vfio is None:
        return Check(id_, CheckStatus.UNKNOWN, f"nothing shows who drives {address}", why, f"lspci -nnk -s {address}")
    if seen.driver is not None and not seen.is_bound_to_vfio:
        step = "prepare again: a driver that was faster gets blacklisted, unless the host needs it"
        return Check(id_, CheckStatus.WARN, f"{seen.driver} has {address}", why, step)
    return ok(id_, f"{'vfio-pci' if seen.is_bound_to_vfio else 'no driver'} has {address}", why)
