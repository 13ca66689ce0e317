"""What Proxmox's own cloud-init drive makes different in a plan. Pure.

Its instance-id is a checksum of what stands on it. So a change of it is, at the
next cold start, a new first boot to cloud-init: the guest makes new SSH host
keys, and the one in the notes is worth nothing. The notes say that this lies
ahead from the moment of the change until the new key has been read; whoever is
killed in between, the next run goes on there.
"""

from __future__ import annotations

from dataclasses import replace

from provisioner.domain.actions import ConcludeFirstBoot, ReadHostKey, Refusal, RestartVm, Step, StepKind
from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.notes import read_notes, write_notes
from provisioner.domain.snapshot import VmConfig
from provisioner.domain.vm_traits import NATIVE_DRIVE, OF_FIRST_BOOT, Drift, Trait

NEW_KEYS = (
    "Proxmox writes its cloud-init drive anew at the next cold start, with another instance-id: that is a new first "
    "boot of the guest, with NEW SSH host keys, and the new one is read through the guest agent"
)


def is_native(node: NodeSpec) -> bool:
    """Say whether Proxmox makes the node's cloud-init drive."""
    return node.cloud_init is CloudInit.PROXMOX


def made_otherwise(node: NodeSpec, config: VmConfig | None) -> Refusal | None:
    """Refuse a VM that got its first boot the other way; a guest whose drive somebody took out is left in peace."""
    if config is None or node.adopt:
        return None
    has = config.traits.get(Trait.CLOUD_INIT) == NATIVE_DRIVE
    if is_native(node) and config.seed is not None:
        found, said = "its VM was made with a seed ISO", CloudInit.SEED
    elif not is_native(node) and has:
        found, said = "its VM was made with Proxmox's own cloud-init drive", CloudInit.PROXMOX
    else:
        return None
    return Refusal(
        f"{found}, and the fleet file says cloud_init: {node.cloud_init.value}",
        f"write cloud_init: {said.value} for this node, or have it made anew: provisioner destroy {node.name}, "
        f"then provisioner up {node.name}",
    )


def makes_new_instance(node: NodeSpec, config: VmConfig, drift: tuple[Drift, ...]) -> bool:
    """Say whether putting these right makes Proxmox's drive another than the one that the guest last booted with.

    What was written by mistake and still waits has reached no drive yet. What
    does not wait may have: whether the VM was started with it is nowhere to be seen.
    """
    unborn = {(each.trait, each.seen) for each in config.waiting}
    return is_native(node) and any(
        each.trait in OF_FIRST_BOOT
        and (each.trait, each.wanted) not in unborn
        and (each.trait is not Trait.NETWORK or _card(each.seen) != _card(each.wanted))
        for each in drift
    )


def noted_as_anew(node: NodeSpec, text: str) -> str:
    """Return notes that say that a new first boot lies ahead."""
    return write_notes(text, node.name, replace(read_notes(text), boots_anew=True, seed_is_sealed=False))


def anew_step(node: NodeSpec) -> Step:
    """Return the cold start that a changed drive takes effect with."""
    return Step(
        "restart",
        StepKind.CHANGE,
        RestartVm(node.vmid),
        f"what cloud-init is told was changed. {NEW_KEYS}. The node is shut down cleanly and started, unless it is "
        "busy",
    )


def key_steps(node: NodeSpec, config: VmConfig | None, *, renewed: bool) -> tuple[Step, ...]:
    """Return the step that learns the guest's host key, where it is not known or about to be another one."""
    notes = read_notes(config.notes) if config is not None else None
    if not is_native(node) or (notes is not None and notes.host_key and not notes.boots_anew and not renewed):
        return ()
    why = (
        "the guest makes its own SSH host key: it is read through the guest agent before the first login, "
        "which Proxmox vouches for"
    )
    return (Step("host key", StepKind.CHANGE, ReadHostKey(node.patience.boot_seconds), why),)


def conclusion() -> Step:
    """Return the step that stands where a seed is sealed."""
    return Step(
        "seal seed",
        StepKind.CHANGE,
        ConcludeFirstBoot(),
        "nothing to seal, Proxmox's cloud-init drive holds public keys only; the notes say that the first boot is over",
    )


def _card(value: str) -> str:
    return value.partition(" on ")[0]
