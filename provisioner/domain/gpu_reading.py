"""What a guest's graphics cards and their drivers say of themselves.

Every fact is optional and None means that nobody told: never fine, never
broken. Sizes are bytes, power is watts, temperature is degrees Celsius,
utilisation is a share of 0 to 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

NVIDIA, AMD = "10de", "1002"
"""PCI vendor ids, as sysfs and mappings write them."""


class ModuleFlavour(Enum):
    """Which of the two kernel modules of one driver version is loaded."""

    OPEN = "open"
    PROPRIETARY = "proprietary"


class Health(Enum):
    """What somebody has to do about a card."""

    GOOD = "good"
    APPLICATION = "application"
    """A program crashed; the card is fine once that program starts anew."""
    RESET = "reset"
    """The card works again after it was reset."""
    RESTART = "restart"
    """The VM must be stopped and started; perhaps its hypervisor must, too."""
    REPAIR = "repair"
    """A person must look at power, cabling or the card."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One look at one card.

    `bus_id` is written as sysfs writes it, ``0000:01:00.0``. `utilization_percent`
    is the share of the last sample in which anything ran at all, so one zero
    proves no idleness. `recovery_action` is the driver's own word for what the
    card needs (newer drivers only). `unreadable` holds the fields that answered
    with an error, in the driver's words; a field that the card merely lacks is
    in neither place.
    """

    index: int | None = None
    uuid: str | None = None
    name: str | None = None
    bus_id: str | None = None
    driver_version: str | None = None
    compute_capability: str | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    utilization_percent: float | None = None
    memory_utilization_percent: float | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    power_max_limit_watts: float | None = None
    fan_percent: float | None = None
    performance_state: str | None = None
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    persists: bool | None = None
    is_split: bool | None = None
    """MIG is on: the card shows itself as several."""
    uncorrected_errors: int | None = None
    """ECC errors since the driver was loaded that could not be corrected."""
    remapping_pending: bool | None = None
    remapping_failed: bool | None = None
    recovery_action: str | None = None
    is_slowed_by_heat: bool | None = None
    is_slowed_by_power: bool | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The card, in the words of every message."""
        number = "?" if self.index is None else str(self.index)
        return f"GPU {number} ({self.name or 'unnamed'} at {self.bus_id or 'an unknown address'})"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A program that computes on a card."""

    pid: int
    name: str
    memory_bytes: int | None
    gpu_uuid: str | None


@dataclass(frozen=True, slots=True)
class Xid:
    """A numbered event of NVIDIA's driver, from the kernel log; `text` is the driver's own explanation."""

    code: int
    bus_id: str | None
    text: str
    health: Health

    @property
    def is_grave(self) -> bool:
        """It is the card, not the program."""
        return self.health not in (Health.GOOD, Health.APPLICATION)


@dataclass(frozen=True, slots=True)
class GuestCard:
    """A graphics card on the guest's PCI bus, whatever drives it.

    `is_gone` says that its configuration space answers with nothing but ones:
    the guest remembers a card that does not answer any more.
    """

    bus_id: str
    vendor_id: str
    device_id: str
    driver: str | None
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class DriverVersions:
    """The same version should stand in every place; the package's name proves nothing.

    `loaded` is the module in the kernel, `on_disk` the one that the running
    kernel would load now, `library` what programs link against, `reported`
    what nvidia-smi says. `cuda` is the newest CUDA that the driver can run.
    """

    loaded: str | None = None
    flavour: ModuleFlavour | None = None
    on_disk: str | None = None
    library: str | None = None
    reported: str | None = None
    cuda: str | None = None

    @property
    def distinct(self) -> frozenset[str]:
        """The versions that somebody named."""
        return frozenset(each for each in (self.loaded, self.library, self.reported) if each)


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What nvidia-smi, or the tool of AMD, answered. Exit code 124 means that it never did."""

    exit_code: int
    text: str

    @property
    def is_missing(self) -> bool:
        """There is no such program."""
        return self.exit_code == 127

    @property
    def is_hanging(self) -> bool:
        """It did not answer in its time."""
        return self.exit_code == 124


@dataclass(frozen=True, slots=True)
class HeldPackage:
    """An installed package of the driver, and whether an upgrade passes it by."""

    name: str
    version: str
    is_held: bool


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """Everything learnt in one look at a guest.

    `answer` is that of the query for readings; None where nobody asked, because
    no card of that maker is there. `strays` are lines of it that are no
    readings. `devices` names what exists of the device files that programs need.
    `log` holds the messages of graphics drivers since boot; None when the log
    could not be read. `processes` are the programs that compute; None where
    nobody lists them. `toolkits` are the versions of CUDA to build with, as NVIDIA
    names them, ``12-9``. `drift` is what the check at boot left behind.
    """

    kernel: str | None = None
    cards: tuple[GuestCard, ...] | None = None
    modules: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    versions: DriverVersions = DriverVersions()
    readings: tuple[GpuReading, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    answer: ToolAnswer | None = None
    strays: tuple[str, ...] = ()
    xids: tuple[Xid, ...] = ()
    log: tuple[str, ...] | None = None
    packages: tuple[HeldPackage, ...] = ()
    dkms: tuple[str, ...] = ()
    toolkits: frozenset[str] = frozenset()
    is_secure_boot: bool | None = None
    drift: str | None = None

    def cards_of(self, vendor: str) -> tuple[GuestCard, ...]:
        """Return the cards of one maker."""
        return tuple(card for card in self.cards or () if card.vendor_id == vendor)
