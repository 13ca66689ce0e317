"""What must be done to a guest for its cards to have their driver: facts in, reasons and playbooks out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.domain.actions import InstallDriver
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.gpu_driver import DriverChoice, DriverKind
from provisioner.domain.gpu_reading import GpuFacts, ModuleFlavour
from provisioner.domain.refusal import Refusal
from provisioner.planning.gpu.driver import choose_driver

_HOLDS = ("linux-modules-nvidia-", "nvidia-dkms-", "nvidia-utils-", "nvidia-headless-", "libnvidia-compute-")


@dataclass(frozen=True, slots=True)
class DriverWork:
    """The driver of a node, and why its playbook has to run; without a reason everything is in place."""

    choice: DriverChoice
    reasons: tuple[str, ...]
    needs_toolkit: bool = False


def driver_work(wanted: InstallDriver, facts: GpuFacts, node: NodeSpec) -> DriverWork | Refusal:
    """Return what is to be done, or why no driver serves the cards."""
    seen = tuple((card.vendor_id, card.device_id) for card in facts.cards or ())
    secure_boot = facts.is_secure_boot if facts.is_secure_boot is not None else node.options.secure_boot
    # What the guest shows counts; a card that has left its bus is known by its mapping only.
    choice = choose_driver(wanted.wish, (*seen, *wanted.ids), secure_boot=secure_boot, node=node.name)
    if isinstance(choice, Refusal):
        return choice
    if choice.kind is DriverKind.ROCM:
        return DriverWork(choice, _rocm_reasons(facts))
    if choice.kind is DriverKind.NONE:
        return DriverWork(choice, ())
    needs_toolkit = wanted.cuda_toolkit is not None and wanted.cuda_toolkit not in facts.toolkits
    reasons = _nvidia_reasons(choice, facts)
    if wanted.renew:
        reasons = ("kernel and driver are to be renewed", *reasons)
    if needs_toolkit:
        reasons = (*reasons, f"CUDA toolkit {wanted.cuda_toolkit} is not there")
    return DriverWork(choice, reasons, needs_toolkit)


def driver_playbooks(work: DriverWork, wanted: InstallDriver) -> tuple[tuple[str, dict[str, object]], ...]:
    """Return the playbooks to run, in order, each with the variables that its header lists."""
    if not work.reasons:
        return ()
    if work.choice.kind is DriverKind.ROCM:
        return (("install-rocm", {}),)
    driver: dict[str, object] = {
        "nvidia_driver_packages": work.choice.packages,
        "nvidia_driver_modules": work.choice.modules,
        "nvidia_driver_dkms": work.choice.is_dkms,
        **({"nvidia_driver_renew": True} if wanted.renew else {}),
    }
    books: list[tuple[str, dict[str, object]]] = [("install-nvidia-driver", driver)]
    if work.needs_toolkit:
        books.append(("install-cuda-toolkit", {"cuda_toolkit": wanted.cuda_toolkit}))
    return tuple(books)


def _rocm_reasons(facts: GpuFacts) -> tuple[str, ...]:
    lacking = []
    if "amdgpu" not in facts.modules:
        lacking.append("the kernel driver amdgpu is not loaded")
    elif "kfd" not in facts.devices:
        lacking.append("/dev/kfd is missing")
    if facts.answer is None or facts.answer.is_missing:
        lacking.append("AMD's tools are not there")
    return tuple(lacking)


def _nvidia_reasons(choice: DriverChoice, facts: GpuFacts) -> tuple[str, ...]:
    versions = facts.versions
    installed = {package.name: package for package in facts.packages}
    reasons = []
    if f"nvidia-utils-{choice.packages}" not in installed:
        reasons.append(f"the tools of {choice.packages} are not installed")
    prefix = f"nvidia-dkms-{choice.modules}" if choice.is_dkms else f"linux-modules-nvidia-{choice.modules}-"
    if not any(name.startswith(prefix) for name in installed):
        reasons.append(f"the kernel modules of {choice.modules} are not installed")
    elif versions.on_disk is None:
        reasons.append(f"there is no driver module for kernel {facts.kernel or '?'}")
    if "nouveau" in facts.modules:
        reasons.append("nouveau has the card")
    if len({each for each in (versions.loaded, versions.on_disk, versions.library) if each}) > 1:
        reasons.append(
            f"versions differ: loaded {versions.loaded}, on disk {versions.on_disk}, library {versions.library}"
        )
    if "nvidia" not in facts.modules:
        reasons.append("the module is not loaded")
    elif "nvidia_uvm" not in facts.modules:
        reasons.append("the module nvidia_uvm is not loaded")
    flavour = ModuleFlavour.OPEN if choice.is_open else ModuleFlavour.PROPRIETARY
    if versions.flavour not in (None, flavour):
        reasons.append(f"the {versions.flavour.value if versions.flavour else '?'} module is loaded")
    loose = [name for name, package in installed.items() if name.startswith(_HOLDS) and not package.is_held]
    if loose:
        reasons.append(f"not held against upgrades: {', '.join(sorted(loose)[:3])}")
    if any(reading.persists is False for reading in facts.readings):
        reasons.append("persistence mode is off")
    if facts.drift:
        reasons.append(facts.drift)
    return tuple(reasons)
