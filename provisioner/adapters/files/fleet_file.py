"""Reads ``fleet.yml`` into a `FleetSpec`, or says on which lines it is wrong.

All problems are reported at once, each with file, line, what was found and
what is allowed. Nothing outside the file is touched; secrets are not read.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from provisioner.adapters.files.fleet_hours import awake_plan, hours_problems
from provisioner.adapters.files.fleet_orchestrators import orchestrator_problems, orchestrator_specs
from provisioner.adapters.files.fleet_schema import (
    BASE_URL,
    FLAG,
    IMAGE,
    VERSION,
    ArtifactShape,
    ClusterShape,
    DefaultsShape,
    EngineShape,
    FleetShape,
    HypervisorShape,
    HypervisorSshShape,
    ModeShape,
    NodeShape,
    WebUiShape,
)
from provisioner.adapters.files.fleet_service import service_spec
from provisioner.adapters.files.positions import Document, YamlBroken, read_document
from provisioner.domain import name_rules
from provisioner.domain.catalogue import ENGINES, IMAGES
from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.conventions import conventional_address, conventional_vmid
from provisioner.domain.cross_checks import Place, Problem, cross_checks
from provisioner.domain.fleet import (
    Artifact,
    ClusterSpec,
    ConnectSpec,
    EngineSpec,
    FleetSpec,
    GpuRelease,
    GpuSpec,
    GuestKind,
    HypervisorSpec,
    HypervisorSsh,
    ImageSpec,
    ModeSpec,
    NodeSpec,
    Patience,
    SecretReference,
    SecretSource,
    SshAccess,
    StorageRoles,
    TlsTrust,
    VmOptions,
    WebUiSpec,
)
from provisioner.domain.gpu_driver import DRIVER_HELP, DRIVER_PATTERN
from provisioner.domain.guest_software import GuestSoftware
from provisioner.domain.mode import EngineTraits, Pull
from provisioner.domain.model_keeping import ModelKeeping
from provisioner.domain.names import (
    ClusterName,
    EngineName,
    GpuName,
    HypervisorName,
    ImageName,
    MappingId,
    ModeName,
    NodeName,
    StorageName,
    Vmid,
)
from provisioner.domain.routing_policy import Away, RoutingPolicy
from provisioner.domain.templates import CloneChoice
from provisioner.errors import InputError

_SECRET_KEYS = {"secret", "api_key", "webhook_key", "password", "huggingface_token"}
_LONGEST_FOUND = 120
_PCI_ADDRESS = re.compile(r"([0-9a-fA-F]{4,}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(\.[0-7])?")
_MAPPING_NOT_ADDRESS = (
    "a Proxmox id, that of a PCI resource mapping: raw addresses take root@pam's own password, never a token, and "
    "nobody notices when another card moves there; map the card (Datacenter > Resource Mappings)"
)
# What shapes a VM or its guest: on an adopted node it would have no effect, and a word without effect misleads.
_OF_OUR_MAKING = (
    frozenset(("image", "cores", "memory", "disk", "gateway", "nameservers", "extra_user_data", "numa", "hugepages"))
    | {"secure_boot", "protection", "tags", "cloud_init", "clone", "web_ui", "off_by_itself_after"}
    | {"model_disk", "model_storage", "model_budget"}
)


class FleetFileError(InputError):
    """The fleet file is wrong; `problems` lists every place."""

    def __init__(self, path: Path, problems: Iterable[tuple[int, Problem]]) -> None:
        self.problems = tuple(sorted(problems, key=lambda each: each[0]))
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "".join(
            f"\n  {path}:{line}: {_dotted(problem.place)}: found {problem.found}; allowed: {problem.allowed}"
            for line, problem in self.problems
        )
        super().__init__(
            f"cannot load the fleet file: {count}{lines}",
            subject=f"fleet file {path}",
            next_step="mend the lines named; `provisioner schema` prints what an editor needs to complete the file",
        )
        self.path = path

    def as_dict(self) -> dict[str, object]:
        """Return the error with one entry per problem."""
        return super().as_dict() | {
            "problems": [
                {
                    "file": str(self.path),
                    "line": line,
                    "place": _dotted(problem.place),
                    "found": problem.found,
                    "allowed": problem.allowed,
                }
                for line, problem in self.problems
            ]
        }


def load_fleet(path: Path, *, engines: Mapping[EngineName, EngineTraits]) -> FleetSpec:
    """Read and check a fleet file.

    Args:
        path: the file; relative paths inside it are taken from its folder.
        engines: the engines that are known, with what each can be told.

    Raises:
        FleetFileError: with every problem found, each with its line.
        InputError: when the file cannot be read at all.
    """
    document = _read(path)
    if document.doubles:
        _refuse(path, document, document.doubles)
    if not isinstance(document.value, dict):
        _refuse(path, document, [Problem((), "no entries", "the sections clusters, hypervisors, modes and nodes")])
    try:
        shape = FleetShape.model_validate(document.value)
    except ValidationError as error:
        _refuse(path, document, (_problem(details, document) for details in error.errors(include_url=False)))
    missing = [
        Problem(("nodes", name), f"no {key}", f"a {key}; only names like llm-gpu-01 and llm-cpu-01 imply one")
        for name, node in shape.nodes.items()
        for key, implied in (("vmid", conventional_vmid), ("address", conventional_address))
        if getattr(node, key) is None and implied(NodeName(name)) is None
    ]
    if missing:
        _refuse(path, document, missing)
    pointless = [
        Problem(
            ("nodes", name, key), f"{key} on an adopted node", "nothing: an adopted VM is never made or changed by us"
        )
        for name, node in shape.nodes.items()
        if node.adopt
        for key in sorted(node.model_fields_set & _OF_OUR_MAKING)
    ]
    pointless += hours_problems(shape)
    pointless += orchestrator_problems(shape)
    if pointless:
        _refuse(path, document, pointless)
    fleet = _fleet(path, shape)
    problems = (*cross_checks(fleet, engines=engines), *_keys_without_a_lock(shape, fleet, engines))
    if problems:
        _refuse(path, document, problems)
    return fleet


def _keys_without_a_lock(
    shape: FleetShape, fleet: FleetSpec, engines: Mapping[EngineName, EngineTraits]
) -> Iterable[Problem]:
    """Return the nodes that name a key of their own for engines none of which asks for one; a default may be idle."""
    for name, entry in shape.nodes.items():
        used = dict.fromkeys(mode.engine for mode in fleet.modes_of(fleet.nodes[NodeName(name)]))
        if entry.api_key is not None and used and not any(engines[each].takes_key for each in used if each in engines):
            yield Problem(
                ("nodes", name, "api_key"),
                f"api_key of a node that runs {', '.join(used)}, which asks nobody for a key",
                "nothing, and allowed_networks to say who may reach it; a key is asked for by: "
                + ", ".join(sorted(each for each, traits in engines.items() if traits.takes_key)),
            )


def _read(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            "cannot find the fleet file",
            subject=str(path),
            next_step="give its path with --fleet FILE, or write one (README, section 'The fleet file')",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the fleet file: {error}", subject=str(path), next_step="make it a readable UTF-8 text file"
        ) from error
    try:
        return read_document(text)
    except YamlBroken as broken:
        raise FleetFileError(path, [(broken.line, Problem((), f"broken YAML: {broken.words}", "YAML"))]) from broken


def _refuse(path: Path, document: Document, problems: Iterable[Problem]) -> NoReturn:
    raise FleetFileError(path, [(document.line_of(problem.place), problem) for problem in problems])


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place) or "the file"


def _problem(details: ErrorDetails, document: Document) -> Problem:
    """Say a pydantic error in our words: place, found, allowed."""
    # pydantic marks a bad mapping key with the part "[key]" behind it.
    place = tuple(part for part in details["loc"] if part != "[key]")
    kind = details["type"]
    if kind == "extra_forbidden":
        return Problem(place, f'unknown key "{place[-1]}"', f"the keys {', '.join(_keys_at(place[:-1]))}")
    if kind == "missing":
        return Problem(place, "nothing", f"a value for {place[-1]}; it is required")
    # Somebody who writes `n8n: TOKEN` below tokens has written the secret itself.
    secret = any(part in _SECRET_KEYS for part in place) or (place[:2] == ("service", "tokens") and len(place) == 3)
    found = "a literal value (not repeated here)" if secret else _shown(details["input"])
    if place[-1:] == ("mapping",) and _PCI_ADDRESS.fullmatch(str(details["input"])):
        return Problem(place, found, _MAPPING_NOT_ADDRESS)
    return Problem(place, found, _allowed(details))


def _shown(value: object) -> str:
    text = "nothing" if value is None else f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_FOUND else text[:_LONGEST_FOUND] + "..."


_PATTERN_WORDS = {
    name_rules.LABEL: "a name of small letters, digits and inner hyphens, at most 63 long",
    name_rules.WORD: "a name of letters, digits, dots, hyphens and underscores",
    name_rules.CONFIG_ID: "a Proxmox id: a letter, then letters, digits, hyphens, underscores; at least 2",
    name_rules.STORAGE_ID: "a storage id: a letter, then letters, digits, dots, hyphens, underscores; at least 2",
    name_rules.HYPERVISOR: "a server's name as Proxmox shows it: letters, digits and inner hyphens, at most 63 long",
    name_rules.API_URL: "an https URL without a path, such as https://10.10.0.2:8006",
    r"^[^\s@/-][^\s@/]*$": "a host name or address",
    r"^(SHA256:[A-Za-z0-9+/]{43}=?|(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+=*( .*)?)$": (
        "a public host key (ssh-ed25519 AAAA...) or its fingerprint (SHA256:...)"
    ),
    r"^https?://\S+$": "an http or https URL",
    BASE_URL: "an http or https URL without user, query or fragment, such as http://10.10.40.12:5678",
    r"^[a-z0-9_][a-z0-9_\-+.]*$": "a tag of small letters, digits and _ - + .",
    DRIVER_PATTERN: DRIVER_HELP,
    r"^\d{2}-\d$": "a version in NVIDIA's own words, such as 12-9",
    VERSION: "a version such as 0.33.0 or b10884, in quotes where it would be a number",
    IMAGE: "an image pinned by its digest: NAME:TAG@sha256:... (docker buildx imagetools inspect NAME:TAG shows it)",
    FLAG: "a flag's name without its dashes, such as max-num-seqs",
    name_rules.TOKEN_ID: "USER@REALM!TOKENID, such as provisioner@pve!fleet",
}


def _allowed(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] == "string_pattern_mismatch":
        return _PATTERN_WORDS.get(context["pattern"], f"text like {context['pattern']}")
    if details["type"] in ("value_error", "assertion_error"):
        return str(context["error"])
    words = details["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return words[0].lower() + words[1:]


def _keys_at(place: Place) -> list[str]:
    """Return the keys allowed at a place, found by walking the shapes' annotations."""
    here: Any = FleetShape
    for part in place:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(part)].annotation
        else:
            here = typing.get_args(here)[-1]
        here = _bare(here)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _bare(annotation: Any) -> Any:
    """Strip Annotated and Optional."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(arm for arm in typing.get_args(annotation) if arm is not type(None))
        else:
            return annotation


def _fleet(path: Path, shape: FleetShape) -> FleetSpec:
    folder = path.parent
    key = shape.ssh.private_key
    return FleetSpec(
        path=path,
        clusters={ClusterName(name): _cluster(name, entry, folder) for name, entry in shape.clusters.items()},
        hypervisors={
            HypervisorName(name): _hypervisor(name, entry, folder) for name, entry in shape.hypervisors.items()
        },
        images=IMAGES
        | {ImageName(n): ImageSpec(ImageName(n), entry.url, entry.sha256) for n, entry in shape.images.items()},
        engines=ENGINES | {EngineName(name): _engine(name, entry, folder) for name, entry in shape.engines.items()},
        models={name: _artifact(name, entry, folder) for name, entry in shape.models.items()},
        modes={
            ModeName(name): _mode(ModeName(name), entry)
            for name, entry in shape.modes.items()
            if entry.release_gpu_to is None
        },
        releases={
            ModeName(name): GpuRelease(ModeName(name), Vmid(entry.release_gpu_to), entry.may_shut_down, entry.priority)
            for name, entry in shape.modes.items()
            if entry.release_gpu_to is not None
        },
        nodes={
            NodeName(name): _node(NodeName(name), entry, shape.defaults, folder) for name, entry in shape.nodes.items()
        },
        ssh=SshAccess(shape.ssh.user, _path(key, folder) if key else None),
        huggingface_token=_secret(shape.huggingface_token, folder) if shape.huggingface_token else None,
        service=service_spec(shape.service, lambda text: _secret(text, folder), lambda text: _path(text, folder)),
        electricity=shape.electricity.price if shape.electricity else None,
        orchestrators=orchestrator_specs(shape, lambda text: _secret(text, folder), lambda text: _path(text, folder)),
    )


def _path(text: str, folder: Path) -> Path:
    return folder / Path(text).expanduser()


def _secret(text: str, folder: Path) -> SecretReference:
    source, _, where = text.partition(":")
    if source == SecretSource.FILE.value:
        where = str(_path(where, folder))
    return SecretReference(SecretSource(source), where)


def _mode(name: ModeName, entry: ModeShape) -> ModeSpec:
    models = entry.models or [entry.model or ""]
    return ModeSpec(
        name=name,
        engine=EngineName(entry.engine or ""),
        model=models[0],
        more_models=tuple(models[1:]),
        tokenizer=entry.tokenizer,
        context=entry.context,
        parallel=entry.parallel,
        threads=entry.threads,
        gpu_layers=entry.gpu_layers,
        arguments=entry.arguments,
        pinned=tuple(entry.pinned),
        memory_limit_bytes=entry.memory_limit,
        cpu_limit=entry.cpu_limit,
        pull=Pull(entry.pull),
        priority=entry.priority,
        routing=RoutingPolicy(tuple(entry.aliases), Away(entry.away), entry.prefer_gpu),
        nodes=tuple(NodeName(each) for each in entry.nodes or ()),
        with_ray=entry.ray,
    )


def _engine(name: str, entry: EngineShape, folder: Path) -> EngineSpec:
    first = [ArtifactShape(source=entry.source, sha256=entry.sha256)] if entry.source and entry.sha256 else []
    return EngineSpec(
        name=EngineName(name),
        version=entry.version or "",
        archives=tuple(_artifact(name, each, folder) for each in (*first, *entry.more_archives)),
        requirements=_path(entry.requirements, folder) if entry.requirements else None,
        image=entry.image or "",
        ray=entry.ray or "",
    )


def _web_ui(entry: WebUiShape, folder: Path) -> WebUiSpec:
    return WebUiSpec(entry.version, entry.port, _path(entry.requirements, folder) if entry.requirements else None)


def _cluster(name: str, entry: ClusterShape, folder: Path) -> ClusterSpec:
    tls = entry.tls
    return ClusterSpec(
        name=ClusterName(name),
        api_url=entry.api.rstrip("/"),
        token_id=entry.token.id,
        token_secret=_secret(entry.token.secret, folder),
        tls=TlsTrust(tls.fingerprint, _path(tls.ca_file, folder) if tls.ca_file else None) if tls else TlsTrust(),
        storage=StorageRoles(
            StorageName(entry.storage.disks), StorageName(entry.storage.images), StorageName(entry.storage.iso)
        ),
        bridge=entry.bridge,
        guests=GuestKind(entry.guests),
        answer_seconds=entry.answer_within,
        retry_seconds=entry.retry_for,
        task_seconds=entry.task_within,
    )


def _hypervisor(name: str, entry: HypervisorShape, folder: Path) -> HypervisorSpec:
    return HypervisorSpec(
        name=HypervisorName(name),
        cluster=ClusterName(entry.cluster),
        gpus={
            GpuName(gpu): GpuSpec(
                GpuName(gpu), MappingId(each.mapping), each.vram, each.survives_stop, each.pool, each.driver
            )
            for gpu, each in entry.gpus.items()
        },
        ssh=_hypervisor_ssh(entry.ssh, folder) if entry.ssh else None,
    )


def _hypervisor_ssh(entry: HypervisorSshShape, folder: Path) -> HypervisorSsh:
    key = _path(entry.private_key, folder) if entry.private_key else None
    return HypervisorSsh(entry.address, entry.user, entry.port, entry.host_key, key)


def _artifact(name: str, entry: ArtifactShape, folder: Path) -> Artifact:
    remote = entry.source.startswith(("http://", "https://"))
    return Artifact(name, entry.source if remote else str(_path(entry.source, folder)), entry.sha256)


def _node(name: NodeName, entry: NodeShape, defaults: DefaultsShape, folder: Path) -> NodeSpec:
    def chosen(key: str) -> Any:
        own = getattr(entry, key)
        return getattr(defaults, key) if own is None else own

    model_disk = chosen("model_disk")
    # A default storage of model disks says nothing of a node without one.
    model_storage = entry.model_storage or (defaults.model_storage if model_disk else None)

    vmid = Vmid(entry.vmid) if entry.vmid is not None else conventional_vmid(name)
    address = entry.address or conventional_address(name)
    assert vmid is not None  # noqa: S101 - the loader has refused the file otherwise
    assert address is not None  # noqa: S101
    return NodeSpec(
        name=name,
        vmid=vmid,
        hypervisor=HypervisorName(entry.hypervisor),
        address=address,
        gateway=chosen("gateway"),
        nameservers=tuple(chosen("nameservers")),
        gpus=tuple(GpuName(gpu) for gpu in entry.gpus),
        modes=tuple(ModeName(mode) for mode in entry.modes),
        image=ImageName(chosen("image")),
        cores=chosen("cores"),
        memory_bytes=chosen("memory"),
        disk_bytes=chosen("disk"),
        idle_after_seconds=chosen("idle_after"),
        rest_after_seconds=chosen("rest_after"),
        awake=awake_plan(chosen("awake"), chosen("time_zone"), chosen("pre_wake")),
        may_cut_power=chosen("may_cut_power"),
        min_uptime_seconds=chosen("min_uptime"),
        priority=chosen("priority"),
        min_residence_seconds=chosen("min_residence"),
        gpu_wait_seconds=chosen("gpu_wait"),
        patience=Patience(chosen("boot_within"), chosen("engine_within"), chosen("shutdown_within")),
        connect=ConnectSpec(entry.connect.address, entry.connect.ssh_port) if entry.connect else None,
        extra_user_data=_path(extra, folder) if (extra := chosen("extra_user_data")) else None,
        web_ui=_web_ui(entry.web_ui, folder) if entry.web_ui else None,
        adopt=entry.adopt,
        cloud_init=CloudInit(chosen("cloud_init")),
        software=GuestSoftware(
            allowed_networks=tuple(chosen("allowed_networks") or (address.network,)),
            upgrades_itself=chosen("unattended_upgrades"),
            cuda_toolkit=chosen("cuda_toolkit"),
            off_by_itself_seconds=chosen("off_by_itself_after"),
        ),
        options=VmOptions(
            numa=chosen("numa"),
            hugepages=chosen("hugepages"),
            secure_boot=chosen("secure_boot"),
            protection=chosen("protection"),
            tags=frozenset(chosen("tags")),
        ),
        clone=CloneChoice(chosen("clone")),
        api_key=_secret(key, folder) if (key := chosen("api_key")) else None,
        models=ModelKeeping(model_disk, StorageName(model_storage) if model_storage else None, chosen("model_budget")),
        stands_in=entry.role == "fallback",
        idle_watts=chosen("idle_power"),
        asleep_watts=chosen("asleep_power"),
    )
