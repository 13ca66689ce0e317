"""The shape of ``fleet.yml`` on the wire: what may stand where, nothing more.

Rules that span several entries are in `provisioner.domain.cross_checks`; lines
and wording of errors are in `fleet_file`. ``provisioner schema`` prints this
shape as JSON Schema, so the descriptions here are what an editor shows.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from provisioner.domain import name_rules
from provisioner.domain.awake import (
    DAYS_HELP,
    DAYS_PATTERN,
    TIME_OF_DAY_HELP,
    TIME_PATTERN,
    parse_days,
    parse_time_of_day,
)
from provisioner.domain.gpu_driver import DRIVER_HELP, DRIVER_PATTERN
from provisioner.domain.quantities import GIB, MIB, POWER_HELP, parse_duration, parse_power, parse_size
from provisioner.domain.savings import PRICE_HELP, Price, parse_price
from provisioner.domain.service import ListenAddress, read_listen_address


def _size(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("a size with its unit, such as 512MiB, 48GiB or 2TiB")
    size = parse_size(value)
    if size % MIB:
        raise ValueError("a size in whole MiB, such as 512MiB, 48GiB or 2TiB")
    return size


def _disk_size(value: object) -> int:
    if (size := _size(value)) % GIB:
        raise ValueError("a size in whole GiB, such as 500GiB or 2TiB")
    return size


def _duration(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError("a time with its unit, such as 90s, 20m, 2h or 1d")
    return parse_duration(value)


def _some_time(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("a time above zero, such as 5s")
    return seconds


def _power(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(POWER_HELP)
    return parse_power(value)


def _price(value: object) -> Price:
    if not isinstance(value, str):
        raise ValueError(PRICE_HELP)
    return parse_price(value)


def _time_of_day(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(TIME_OF_DAY_HELP)
    parse_time_of_day(value)
    return value


def _days(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(DAYS_HELP)
    parse_days(value)
    return value


def _zone(value: object) -> str:
    # Costs some of the time that `status` may take, and few files name a zone.
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(str(value)).key
    except (ValueError, KeyError, OSError) as error:
        raise ValueError("a time zone that this machine knows, such as Europe/Berlin or UTC") from error


def _long_enough(seconds: float) -> float:
    if seconds < LEAST_SELF_OFF_SECONDS:
        raise ValueError("10m or more: the guest itself looks every few minutes only")
    return seconds


def _listen(value: object) -> ListenAddress:
    if not isinstance(value, str):
        raise ValueError("an address and a port, such as 127.0.0.1:8700 or [::1]:8700")
    return read_listen_address(value)


def _secret(value: object) -> str:
    # The text is never repeated: a person may have pasted the secret itself.
    if not isinstance(value, str) or not value.startswith(("env:", "file:")) or value in ("env:", "file:"):
        raise ValueError("env:NAME or file:PATH; a secret never stands in this file")
    return value


def _address(value: object) -> IPv4Interface:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError("an IPv4 address with its prefix length, such as 10.10.90.1/16")
    return IPv4Interface(value)


def _network(value: object) -> IPv4Network:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError("an IPv4 network with its prefix length, such as 10.10.0.0/16")
    return IPv4Network(value)


def _ip(value: object) -> IPv4Address:
    if not isinstance(value, str):
        raise ValueError("an IPv4 address, such as 10.10.0.1")
    return IPv4Address(value)


def _sha256(value: str) -> str:
    digits = value.removeprefix("sha256:").lower()
    if len(digits) != 64 or any(digit not in "0123456789abcdef" for digit in digits):
        raise ValueError("a SHA-256 checksum: 64 hexadecimal digits")
    return digits


def _text_schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


Size = Annotated[int, BeforeValidator(_size), _text_schema(r"^\d+(\.\d+)?\s?(KiB|MiB|GiB|TiB)$", "48GiB")]
# Proxmox takes the size of a new disk in GiB.
DiskSize = Annotated[int, BeforeValidator(_disk_size), _text_schema(r"^\d+(\.\d+)?\s?(GiB|TiB)$", "500GiB")]
DURATION = r"^\d+(\.\d+)?\s?[smhd]$"
Duration = Annotated[float, BeforeValidator(_duration), _text_schema(DURATION, "20m")]
Watts = Annotated[float, BeforeValidator(_power), _text_schema(r"^\d+(\.\d+)?\s?W$", "45W")]
PerKwh = Annotated[Price, BeforeValidator(_price), _text_schema(r"^\d+(\.\d+)?\s?[A-Z]{3}\s?/\s?kWh$", "0.30 EUR/kWh")]
Secret = Annotated[str, BeforeValidator(_secret), _text_schema(r"^(env|file):.+$", "env:PROXMOX_TOKEN_SECRET")]
Address = Annotated[IPv4Interface, BeforeValidator(_address), _text_schema(r"^[0-9.]+/\d+$", "10.10.90.1/16")]
Ip = Annotated[IPv4Address, BeforeValidator(_ip), _text_schema(r"^[0-9.]+$", "10.10.0.1")]
Fingerprint = Annotated[str, AfterValidator(name_rules.normal_fingerprint)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Label = Annotated[str, StringConstraints(pattern=name_rules.LABEL)]
Word = Annotated[str, StringConstraints(pattern=name_rules.WORD)]
ConfigId = Annotated[str, StringConstraints(pattern=name_rules.CONFIG_ID)]
StorageId = Annotated[str, StringConstraints(pattern=name_rules.STORAGE_ID)]
HypervisorKey = Annotated[str, StringConstraints(pattern=name_rules.HYPERVISOR)]
HttpsUrl = Annotated[str, StringConstraints(pattern=name_rules.API_URL)]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
BASE_URL = r"^https?://[^\s/?#@'\"`{}\\]+(/[^\s?#@'\"`{}\\]*)?$"
BaseUrl = Annotated[str, StringConstraints(pattern=BASE_URL)]
TokenId = Annotated[str, StringConstraints(pattern=name_rules.TOKEN_ID)]


Driver = Annotated[str, StringConstraints(pattern=DRIVER_PATTERN)]
# NVIDIA's own names of its toolkit: cuda-toolkit-12-9 and so on.
CudaToolkit = Annotated[str, StringConstraints(pattern=r"^\d{2}-\d$")]
Network = Annotated[IPv4Network, BeforeValidator(_network), _text_schema(r"^[0-9.]+/\d+$", "10.10.0.0/16")]
Networks = Annotated[list[Network], Field(min_length=1)]

LEAST_SELF_OFF_SECONDS = 600.0
TimeOfDay = Annotated[str, BeforeValidator(_time_of_day), _text_schema(TIME_PATTERN, "08:00")]
Days = Annotated[str, BeforeValidator(_days), _text_schema(DAYS_PATTERN, "Mon-Fri")]
TimeZone = Annotated[str, BeforeValidator(_zone), _text_schema(r"^[A-Za-z0-9_+/-]+$", "Europe/Berlin")]
SelfOff = Annotated[
    float, BeforeValidator(_duration), AfterValidator(_long_enough), _text_schema(r"^\d+(\.\d+)?\s?[smhd]$", "6h")
]

ExtraUserData = Annotated[
    Annotated[str, StringConstraints(min_length=1)] | None,
    Field(description="Path of a cloud-config that is merged into ours; in force from a node's first boot on."),
]


Clone = Literal["auto", "never", "always"]
# Proxmox accepts capitals and stores small letters.
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_][a-z0-9_\-+.]*$", max_length=124)]


VERSION = r"^[0-9A-Za-z][0-9A-Za-z.+_-]*$"
IMAGE = r"^[a-z0-9][a-z0-9./:_-]*@sha256:[0-9a-f]{64}$"
FLAG = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
Flag = Annotated[str, StringConstraints(pattern=FLAG)]
Argument = bool | int | float | str | list[str | int | float] | dict[str, Any]


class Shape(BaseModel):
    """Base of all entries: strict, closed, frozen."""

    # The fleet's shape has the others inside: building each by itself first would take half as long as `status` may.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class TokenShape(Shape):
    """An API token."""

    id: TokenId = Field(description="USER@REALM!TOKENID", examples=["provisioner@pve!fleet"])
    secret: Secret = Field(description="Where the token's secret is: env:NAME or file:PATH.")


class TlsShape(Shape):
    """How the certificate is trusted; leave it out for the system's trust store."""

    fingerprint: Fingerprint | None = Field(None, description="SHA-256 fingerprint of the server's certificate.")
    ca_file: str | None = Field(None, description="A CA certificate in PEM form.")

    @model_validator(mode="after")
    def _one_of(self) -> TlsShape:
        if (self.fingerprint is None) == (self.ca_file is None):
            raise ValueError("exactly one of fingerprint, ca_file")
        return self


class StorageShape(Shape):
    """Which storage holds what."""

    disks: StorageId = Field(description="Holds VM disks (content type images).")
    images: StorageId = Field(description="Holds cloud images (content type import).")
    iso: StorageId = Field(description="Holds seed ISOs (content type iso).")


class ClusterShape(Shape):
    """A Proxmox cluster or a single server."""

    api: HttpsUrl = Field(description="https://ADDRESS:8006", examples=["https://10.10.0.2:8006"])
    token: TokenShape
    tls: TlsShape | None = None
    storage: StorageShape
    bridge: Word = Field("vmbr0", description="The bridge of the nodes' network card.")
    guests: Literal["real", "simulated"] = Field(
        "real", description="simulated: only for the embedded lab, whose simulated guests run no software."
    )
    # The proxy in front of Proxmox gives up after 30 s; with queueing in front of it, twice that is an answer.
    answer_within: Duration = Field(60.0, description="How long Proxmox may take for one answer.")
    # An API that restarts is back in seconds, and Proxmox itself waits 10 s for a VM's lock.
    retry_for: Duration = Field(
        10.0, description="How long a request that got no answer, or met a short lock, is tried again; 0s for never."
    )
    # Far beyond any download or start; a task that hangs longer needs a person.
    task_within: Duration = Field(4 * 3600.0, description="How long one task of Proxmox may take.")


class GpuShape(Shape):
    """A GPU slot."""

    mapping: ConfigId = Field(description="The PCI resource mapping (Datacenter > Resource Mappings).")
    vram: Size | None = None
    pool: bool = Field(False, description="The mapping names several such cards; other slots may name it too.")
    survives_stop: bool = Field(True, description="false: the card does not come back after a VM stop.")
    driver: Driver = Field("auto", description=f"Of the guest: {DRIVER_HELP}.")


HostKey = Annotated[
    str,
    StringConstraints(pattern=r"^(SHA256:[A-Za-z0-9+/]{43}=?|(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+=*( .*)?)$"),
]


class HypervisorSshShape(Shape):
    """How an admin logs in to the server; only doctor and prepare do."""

    address: Annotated[str, StringConstraints(pattern=r"^[^\s@/-][^\s@/]*$")] = Field(examples=["10.10.0.2"])
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    host_key: HostKey | None = Field(
        None, description="`ssh-ed25519 AAAA...` or SHA256:...; without it your own known_hosts decides."
    )
    private_key: str | None = Field(None, description="Path; without it your agent and your own keys are tried.")


class HypervisorShape(Shape):
    """A server running Proxmox VE; its key is the name Proxmox knows it by."""

    cluster: Word
    ssh: HypervisorSshShape | None = None
    gpus: dict[Word, GpuShape] = Field(default_factory=dict)


class ImageShape(Shape):
    """A cloud image."""

    url: HttpUrl
    sha256: Sha256


class ArtifactShape(Shape):
    """A file pinned by checksum: a URL that the guest fetches, or a file beside the fleet file that we copy in."""

    source: Annotated[str, StringConstraints(min_length=1)]
    sha256: Sha256


class EngineShape(Shape):
    """An engine's software, pinned. Which of these an engine needs, an error says."""

    version: Annotated[str, StringConstraints(pattern=VERSION)] | None = Field(
        None, description="Such as 0.33.0 or b10884; what its flags are checked against."
    )
    source: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None, description="The release archive: a URL that the guest fetches, or a file that we copy in."
    )
    sha256: Sha256 | None = None
    more_archives: list[ArtifactShape] = Field(
        default_factory=list, description="Unpacked over the first one, such as CUDA libraries or ROCm."
    )
    requirements: str | None = Field(
        None, description="A pip requirements file with hashes, for engines that are Python packages."
    )
    image: Annotated[str, StringConstraints(pattern=IMAGE)] | None = Field(
        None, description="A container image pinned by digest: NAME:TAG@sha256:..."
    )
    ray: Annotated[str, StringConstraints(pattern=VERSION)] | None = Field(
        None, description="Ray's version, for modes with ray: true; vLLM 0.18 and later do not bring it."
    )

    @model_validator(mode="after")
    def _source_with_sum(self) -> EngineShape:
        if (self.source is None) != (self.sha256 is None):
            raise ValueError("source and sha256 together")
        return self


Priority = Annotated[int, Field(ge=-100, le=100)]


class ModeShape(Shape):
    """A named purpose: engine, model, arguments; or release_gpu_to alone."""

    engine: str | None = None
    model: Annotated[str, StringConstraints(min_length=1)] | None = None
    models: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)] | None = Field(
        None, description="Several models; the first is asked for a proof."
    )
    tokenizer: Annotated[str, StringConstraints(min_length=1)] | None = None
    context: Annotated[int, Field(ge=128)] | None = Field(None, description="Context length in tokens.")
    parallel: Annotated[int, Field(ge=1, le=256)] | None = Field(None, description="Requests served at once.")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="CPU threads of the engine.")
    gpu_layers: Annotated[int, Field(ge=0)] | Literal["all", "auto"] | None = Field(
        None, description="Layers on the GPU; all of them by default."
    )
    arguments: dict[Flag, Argument] = Field(
        default_factory=dict,
        description="The engine's own flags without dashes, or its variables; true for a bare flag.",
    )
    memory_limit: Size | None = Field(None, description="The most memory the engine may use.")
    cpu_limit: Annotated[float, Field(gt=0, le=1024)] | None = Field(
        None, strict=False, description="The most cores the engine may use."
    )
    pinned: list[str] = Field(default_factory=list, description="Models that stay loaded.")
    pull: Literal["up", "demand"] = Field("up", description="When models are fetched: at up, or when first wanted.")
    release_gpu_to: Annotated[int, Field(ge=100, le=999_999_999)] | None = Field(
        None, description="The node is off, and the VM with this VMID may run with its GPUs."
    )
    may_shut_down: bool = Field(
        False, description="true: that VM is shut down cleanly when the node wants its GPUs back."
    )
    priority: Priority | None = Field(None, description="Instead of its node's, while the node is in this mode.")
    aliases: list[Annotated[str, StringConstraints(min_length=1, max_length=256)]] = Field(
        default_factory=list, description="Further names under which clients of the gateway may ask for its model."
    )
    away: Literal["wait", "fallback", "fallback-and-wake"] = Field(
        "wait", description="What a request does while none of its nodes is ready; a fallback is a node of that role."
    )
    prefer_gpu: bool = Field(
        False, description="true: a GPU is woken though a node without one that serves the same is up."
    )
    nodes: Annotated[list[Label], Field(min_length=2, max_length=64)] | None = Field(
        None, description="The nodes that serve it together, as one; clients speak to the first. vllm and exo can."
    )
    ray: bool = Field(False, description="true: those nodes find each other through Ray; vLLM before 0.12 needs it.")

    @model_validator(mode="after")
    def _one_purpose(self) -> ModeShape:
        if self.release_gpu_to is not None:
            beside = sorted(self.model_fields_set - {"release_gpu_to", "may_shut_down", "priority"})
            if beside:
                raise ValueError(f"release_gpu_to without {', '.join(beside)}: the node is off in such a mode")
            return self
        if self.engine is None or (self.model is None) == (self.models is None):
            raise ValueError("engine with either model or models; or release_gpu_to alone")
        if self.may_shut_down:
            raise ValueError("may_shut_down beside release_gpu_to only")
        if self.ray and self.nodes is None:
            raise ValueError("ray beside nodes only: on one node no Ray is needed")
        return self


class WebUiShape(Shape):
    """Open WebUI, a page to chat with, beside the node's engines."""

    version: Annotated[str, StringConstraints(pattern=VERSION)] = Field(examples=["0.12.4"])
    port: Annotated[int, Field(ge=1024, le=65535)] = 3080
    requirements: str | None = Field(None, description="A pip requirements file with hashes.")


class ConnectShape(Shape):
    """Where the node is reached from here, when that is not its own address."""

    address: Annotated[str, StringConstraints(min_length=1)]
    ssh_port: Annotated[int, Field(ge=1, le=65535)] = 22


class SshShape(Shape):
    """How we log in to guests. Without a key one is made and kept in our state folder."""

    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "provisioner"
    private_key: str | None = Field(default=None, description="Path of an unencrypted OpenSSH private key.")


class AwakeShape(Shape):
    """Hours of the week in which a node stays awake though nobody asks."""

    days: Days = Field("daily", description="Days on which the hours begin: Mon-Fri, Sat,Sun, daily.")
    begins: TimeOfDay = Field(alias="from", description="On the clock of time_zone.")
    ends: TimeOfDay = Field(alias="to", description="Not after `from`: on the next day.")

    @model_validator(mode="after")
    def _has_a_length(self) -> AwakeShape:
        if self.begins == self.ends:
            raise ValueError('from and to that differ; for all day, from: "00:00" and to: "24:00"')
        return self


class DefaultsShape(Shape):
    """What a node gets when it says nothing."""

    image: Word = "ubuntu-24.04"
    cores: Annotated[int, Field(ge=1, le=1024)] = 4
    memory: Size = 16 * 1024 * MIB
    disk: Size = 64 * 1024 * MIB
    model_disk: DiskSize | None = None
    model_storage: StorageId | None = None
    model_budget: Size | None = None
    idle_after: Duration = 1200.0
    rest_after: Duration | None = None
    min_uptime: Duration | None = None
    awake: list[AwakeShape] = Field(default_factory=list)
    time_zone: TimeZone | None = None
    pre_wake: Duration | None = None
    may_cut_power: bool = False
    off_by_itself_after: SelfOff | None = None
    boot_within: Duration = 900.0
    engine_within: Duration = 900.0
    shutdown_within: Duration = 120.0
    gateway: Ip | None = None
    nameservers: list[Ip] = Field(default_factory=list)
    extra_user_data: ExtraUserData = None
    cloud_init: Literal["seed", "proxmox"] = "seed"
    numa: bool = False
    hugepages: Literal["2MiB", "1GiB", "any"] | None = None
    secure_boot: bool = False
    protection: bool = False
    tags: list[Tag] = Field(default_factory=list)
    allowed_networks: Networks | None = None
    unattended_upgrades: bool = True
    cuda_toolkit: CudaToolkit | None = None
    clone: Clone = "auto"
    api_key: Secret | None = None
    priority: Priority = 0
    min_residence: Duration = 300.0
    gpu_wait: Duration = 900.0
    idle_power: Watts | None = None
    asleep_power: Watts | None = None


class NodeShape(Shape):
    """One serving node. Anything left out comes from `defaults`, then from the node's name."""

    hypervisor: Word
    modes: Annotated[list[Word], Field(min_length=1)] = Field(
        description="What it may serve; the first is the default."
    )
    vmid: Annotated[int, Field(ge=100, le=999_999_999)] | None = None
    address: Address | None = None
    gateway: Ip | None = None
    nameservers: list[Ip] | None = None
    gpus: list[Word] = Field(default_factory=list)
    image: Word | None = None
    cores: Annotated[int, Field(ge=1, le=1024)] | None = None
    memory: Size | None = None
    disk: Size | None = None
    model_disk: DiskSize | None = Field(None, description="A disk for models alone, which grows and never shrinks.")
    model_storage: StorageId | None = Field(
        None, description="The storage of the model disk; by default that of the boot disks."
    )
    model_budget: Size | None = Field(
        None, description="The most that models may take: the least recently used that no mode keeps make room."
    )
    idle_after: Duration | None = None
    rest_after: Duration | None = Field(
        None,
        description="Quiet for so long, its model leaves the GPU's memory; before idle_after, where the engine can.",
    )
    min_uptime: Duration | None = Field(
        None, description="How long it stays up at least; by default twice what waking it usually takes."
    )
    awake: list[AwakeShape] | None = Field(None, description="Hours in which it stays awake though nobody asks.")
    time_zone: TimeZone | None = Field(None, description="The zone of the hours under awake.")
    pre_wake: Duration | None = Field(
        None, description="Wake it so long before its hours begin; without this nothing wakes it but a request."
    )
    may_cut_power: bool | None = Field(
        None, description="true: idle cuts the power of a guest that will not shut down; its unsaved data is lost."
    )
    off_by_itself_after: SelfOff | None = Field(
        None,
        description="The guest shuts itself down when nobody has used it or looked at it for so long; not where "
        "one of its GPUs has survives_stop: false.",
    )
    boot_within: Duration | None = None
    engine_within: Duration | None = None
    shutdown_within: Duration | None = None
    extra_user_data: ExtraUserData = None
    cloud_init: Literal["seed", "proxmox"] | None = Field(
        None, description="Who makes the cloud-init drive; proxmox needs an image with qemu-guest-agent."
    )
    numa: bool | None = Field(None, description="Show the guest which memory is close to its cores.")
    hugepages: Literal["2MiB", "1GiB", "any"] | None = Field(
        None, description="Memory in large pages; needs numa, and only root@pam itself may set it in Proxmox."
    )
    secure_boot: bool | None = Field(None, description="true: enrolled keys; drivers built in the guest do not load.")
    protection: bool | None = Field(None, description="true: neither Proxmox nor destroy deletes the VM or its disks.")
    tags: list[Tag] | None = Field(None, description="Tags of the VM in Proxmox, beside ours.")
    allowed_networks: Networks | None = Field(
        None, description="Who may reach SSH and engines; by default the node's own network."
    )
    unattended_upgrades: bool | None = Field(
        None, description="true: the guest mends its packages itself, never kernel and driver."
    )
    cuda_toolkit: CudaToolkit | None = Field(
        None, description="NVIDIA's toolkit, such as 12-9; only for building software in the guest."
    )
    clone: Clone | None = Field(
        None, description="auto: a linked clone of a template where several nodes share image and storage."
    )
    api_key: Secret | None = Field(
        None, description="What clients of its engine must send: env:NAME or file:PATH. Ollama and exo take none."
    )
    priority: Priority | None = Field(
        None, description="Who gets a GPU that several nodes want; a higher one need not wait until the other is quiet."
    )
    min_residence: Duration | None = Field(
        None, description="How long it keeps its GPUs at least before it gives way to another VM."
    )
    gpu_wait: Duration | None = Field(
        None, description="How long it waits for its GPUs; after half of it, it goes before those that came later."
    )
    idle_power: Watts | None = Field(
        None, description="What it draws awake with nothing to do, from a meter; for what sleeping saves."
    )
    asleep_power: Watts | None = Field(None, description="What it still draws while its VM is off, from a meter.")
    web_ui: WebUiShape | None = None
    connect: ConnectShape | None = None
    adopt: bool = Field(False, description="true: a VM that exists; woken, slept and watched, never reconfigured.")
    role: Literal["fallback"] | None = Field(
        None, description="fallback: it answers with its own model for those whose nodes are away."
    )

    @model_validator(mode="after")
    def _only_with_gpus(self) -> NodeShape:
        idle_words = [key for key in ("priority", "min_residence", "gpu_wait") if getattr(self, key) is not None]
        if idle_words and not self.gpus:
            raise ValueError(f"{', '.join(idle_words)} for a node with gpus only: it shares nothing")
        return self


class ServiceTokenShape(Shape):
    """Who may ask the control service for what."""

    secret: Secret = Field(description="Where the token is: env:NAME or file:PATH; at least 16 characters.")
    may: Annotated[list[Literal["read", "route", "wake", "admin"]], Field(min_length=1)] = Field(
        description="read: see; route: ask for models; wake: wake, hold and put to sleep; admin: everything."
    )


class ServiceTlsShape(Shape):
    """A certificate of its own; without it a reverse proxy is the place for TLS."""

    certificate: Annotated[str, StringConstraints(min_length=1)] = Field(description="Path, PEM, the whole chain.")
    key: Annotated[str, StringConstraints(min_length=1)] = Field(description="Path of its private key, PEM.")


class RecordShape(Shape):
    """Where the record of each request goes: InfluxDB 1 (database), 2 and 3 (bucket), VictoriaMetrics (either)."""

    url: HttpUrl = Field(examples=["http://127.0.0.1:8086"])
    database: Word | None = None
    user: Word | None = Field(None, description="With database: whoever writes there, if the server asks.")
    organization: Annotated[str, StringConstraints(min_length=1)] | None = None
    bucket: Annotated[str, StringConstraints(min_length=1)] | None = None
    secret: Secret | None = Field(None, description="The user's password, or the bucket's token.")

    @model_validator(mode="after")
    def _one_place(self) -> RecordShape:
        if (self.database is None) == (self.bucket is None):
            raise ValueError("exactly one of database, bucket")
        if self.bucket is not None and self.user is not None:
            raise ValueError("user with database only; a bucket has a token (secret)")
        if self.database is not None and (self.user is None) != (self.secret is None):
            raise ValueError("user and secret together, with database")
        if self.database is not None and self.organization is not None:
            raise ValueError("organization with bucket only")
        return self


Listen = Annotated[ListenAddress, BeforeValidator(_listen), _text_schema(r"^\S+:\d{1,5}$", "127.0.0.1:8700")]
Seconds = Annotated[float, BeforeValidator(_duration), AfterValidator(_some_time), _text_schema(DURATION, "5s")]


class ServiceShape(Shape):
    """The control service: `provisioner serve`."""

    listen: Listen = Field(
        default_factory=lambda: read_listen_address("127.0.0.1:8700"),
        description="Where it listens; another address than loopback needs tokens.",
    )
    tokens: dict[Word, ServiceTokenShape] = Field(default_factory=dict)
    tls: ServiceTlsShape | None = None
    url: BaseUrl | None = Field(
        default=None, description="How others reach it, such as http://10.10.0.5:8700; by default where it listens."
    )
    look_every: Seconds = Field(default=5.0, description="From one look at the clusters to the next.")
    idle_every: Seconds = Field(default=60.0, description="From one idle pass to the next.")
    figures_every: Seconds = Field(
        default=15.0, description="From one reading of the figures of guests that are awake to the next."
    )
    drain_within: Duration = Field(default=30.0, description="How long a stop waits for requests that are under way.")
    keep_events: Seconds = Field(default=30 * 86400.0, description="How long the journal keeps what happened.")
    record: RecordShape | None = None


class ElectricityShape(Shape):
    """What electricity costs."""

    price: PerKwh = Field(description="For the money that sleeping saves.")


OneWord = Annotated[str, StringConstraints(min_length=1)]


class OrchestratorShape(Shape):
    """Who is told of the nodes. Which keys an orchestrator needs, an error says."""

    url: BaseUrl | None = Field(None, description="Where it answers.", examples=["http://10.10.40.12:5678"])
    api_key: Secret | None = Field(None, description="What lets us in: env:NAME or file:PATH.")
    token: Word | None = Field(
        None, description="Which of the service's tokens it is given; by default the one of the orchestrator's name."
    )
    webhook_key: Secret | None = Field(
        None, description="What callers of its webhook must send; by default what its token is."
    )
    targets_file: OneWord | None = Field(None, description="Which Prometheus reads its targets from (file_sd).")
    config_file: OneWord | None = Field(None, description="Which LiteLLM includes in its configuration.")


class FleetShape(Shape):
    """inventory/fleet.yml."""

    clusters: Annotated[dict[Word, ClusterShape], Field(min_length=1)]
    hypervisors: Annotated[dict[HypervisorKey, HypervisorShape], Field(min_length=1)]
    defaults: DefaultsShape = DefaultsShape()
    ssh: SshShape = SshShape()
    images: dict[Word, ImageShape] = Field(default_factory=dict)
    engines: dict[str, EngineShape] = Field(default_factory=dict)
    huggingface_token: Secret | None = Field(
        None, description="For gated models. Where the token is: env:NAME or file:PATH."
    )
    models: dict[str, ArtifactShape] = Field(default_factory=dict)
    modes: dict[Word, ModeShape] = Field(default_factory=dict)
    nodes: dict[Label, NodeShape] = Field(default_factory=dict)
    service: ServiceShape = ServiceShape()
    electricity: ElectricityShape | None = None

    orchestrators: dict[Word, OrchestratorShape] = Field(
        default_factory=dict, description="Who is told of the nodes: n8n and others, by name."
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the fleet file."""
    schema = FleetShape.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "provisioner fleet file", **schema}
