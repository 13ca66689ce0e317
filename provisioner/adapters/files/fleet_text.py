"""A proposed fleet as the text of a fleet file, with a comment wherever a person has to know or decide something.

Names come from outside. Those that stand as values are quoted by YAML's own
rules unless they are plain beyond doubt; those in comments are kept on their
line. Offers are comments that become entries when their sign is taken away, so
the file loads as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from provisioner.domain.conventions import conventional_address, conventional_vmid
from provisioner.domain.discovery import by_next_step
from provisioner.domain.fleet import SecretReference, SecretSource, TlsTrust
from provisioner.domain.names import NodeName
from provisioner.domain.proposal import Choice, FleetProposal, GpuSlot, HypervisorProposal, NodeProposal
from provisioner.domain.quantities import size_text

_WIDTH = 116
# Plain in every YAML there is: what 1.1 or 1.2 reads as a number or a date begins with no letter, has fewer than three
# dots and no unit behind it; truth values are words.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*|\d+(\.\d+){3}(/\d+)?|\d+[MGT]iB")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})

_HEAD = """\
The fleet, as `provisioner init` found it. Change it as you like; every command checks it before it touches anything.
Commented entries are offers: take the sign away to make one real.
"""
_ENGINE_HELP = """\
What the nodes run is yours to say: an engine's archive and a model, each pinned by its SHA-256 (sha256sum FILE). A
source is a URL that the guest fetches, or a file on this machine. Then take the signs away here and at the nodes below.
"""
_NODE_HELP = """\
The nodes to have. What a line leaves out comes from defaults, then from the name: llm-gpu-01 is VM 5001. Addresses are
proposals: check that nothing else has them and that they are outside the DHCP range of your router.
"""


def fleet_text(proposal: FleetProposal) -> str:
    """Return the whole file."""
    parts = (
        _header(proposal),
        _clusters(proposal),
        _hypervisors(proposal),
        _defaults(proposal),
        _engines(),
        _nodes(proposal),
    )
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def scalar(value: object) -> str:
    """Return a value as YAML reads it back: the same text, never a number or a truth value made of it."""
    text = str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return text
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # What UTF-8 cannot carry would break the file; nothing that passed our name rules holds any of it.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 20).strip()


def one_line(text: str) -> str:
    """Return words from outside as they may stand in a comment: one line, nothing that steers a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _comment(text: str, indent: int = 0) -> Iterator[str]:
    """Yield a comment, wrapped."""
    sign = " " * indent + "# "
    line = ""
    for word in one_line(text.replace("\n", " ")).split(" "):
        if line and len(sign) + len(line) + 1 + len(word) > _WIDTH:
            yield sign + line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield (sign + line).rstrip()


def _entry(**values: object) -> str:
    """Return a mapping on one line; lists stand as lists, None is left out."""
    parts = (f"{key}: {_value(value)}" for key, value in values.items() if value is not None)
    return "{" + ", ".join(parts) + "}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(scalar(each) for each in value) + "]"
    return scalar(value)


def _header(proposal: FleetProposal) -> list[str]:
    discovery = proposal.discovery
    lines = list(_comment(_HEAD))
    lines += _comment(f"Seen: Proxmox VE {discovery.version} at {discovery.api_url}.")
    for note in proposal.notes:
        lines += ["#", *_comment(f"Note: {note}")]
    if proposal.unseen:
        lines += ["#", *_comment("Not seen, so not in here:")]
        for step, unseen in by_next_step(proposal.unseen).items():
            for each in unseen:
                lines += _comment(f"- {each.what}: {each.why}")
            lines += _comment(f"  To see {'it' if len(unseen) == 1 else 'them'}: {step}.")
    return lines


def _clusters(proposal: FleetProposal) -> list[str]:
    storage = _entry(disks=proposal.disks.name, images=proposal.images.name, iso=proposal.iso.name)
    lines = ["clusters:", f"  {scalar(proposal.cluster)}:", f"    api: {scalar(proposal.discovery.api_url)}"]
    token = _entry(id=proposal.token.token_id, secret=_secret(proposal.token.secret))
    lines += [f"    token: {token}", f"    tls: {_tls(proposal.tls)}" if _tls(proposal.tls) else ""]
    for role, choice in (("disks", proposal.disks), ("images", proposal.images), ("iso", proposal.iso)):
        lines += _choice_comment(role, choice)
    lines += [f"    storage: {storage}", *_choice_comment("bridge", proposal.bridge)]
    lines += [f"    bridge: {scalar(proposal.bridge.name)}"]
    return [line for line in lines if line]


def _secret(secret: SecretReference) -> str:
    if secret.source is SecretSource.FILE:
        # A relative path in the file counts from the file's folder, one on the command line from the current one.
        path = Path(secret.name)
        return str(secret) if secret.name.startswith("~") else f"file:{path.absolute()}"
    return str(secret)


def _tls(tls: TlsTrust) -> str:
    if tls.fingerprint is not None:
        return _entry(fingerprint=tls.fingerprint)
    return _entry(ca_file=tls.ca_file.absolute()) if tls.ca_file is not None else ""


def _choice_comment(role: str, choice: Choice) -> Iterator[str]:
    others = f"; also possible: {', '.join(choice.others)}" if choice.others else ""
    found = f" ({choice.found})" if choice.found else ""
    if found or others:
        yield from _comment(f"{role}: {choice.name}{found}{others}", 4)
    for note in choice.notes:
        yield from _comment(f"{role}: {note}", 4)


def _hypervisors(proposal: FleetProposal) -> list[str]:
    lines = ["hypervisors:"]
    for hypervisor in proposal.hypervisors:
        lines += _hypervisor(hypervisor, proposal.cluster)
    return lines


def _hypervisor(hypervisor: HypervisorProposal, cluster: str) -> Iterator[str]:
    yield f"  {scalar(hypervisor.name)}:"
    for note in hypervisor.notes:
        yield from _comment(note, 4)
    yield f"    cluster: {scalar(cluster)}"
    address = hypervisor.address
    if address is not None and not address.is_loopback:
        yield f"    # ssh: {_entry(address=str(address), user='root')}  # only doctor and prepare log in there"
    offered = [gpu for gpu in hypervisor.gpus if not gpu.is_integrated]
    if offered:
        yield "    gpus:"
    for gpu in (*offered, *(gpu for gpu in hypervisor.gpus if gpu.is_integrated)):
        yield from _gpu(gpu)


def _gpu(gpu: GpuSlot) -> Iterator[str]:
    group = "no IOMMU group" if gpu.iommu_group is None else f"IOMMU group {gpu.iommu_group}"
    yield from _comment(f"{gpu.address} {gpu.title or 'unnamed device'} ({gpu.ids}), {group}", 6)
    notes = list(gpu.notes)
    if gpu.used_by:
        others = ", ".join(map(str, gpu.used_by))
        how = f"VM {others} takes a card of this pool too" if gpu.is_pooled else f"also named by VM {others}"
        notes.append(f"{how}: one of them can run at a time")
    if gpu.vram_bytes is None:
        notes.append("vram: its ids do not tell; add it, such as vram: 12GiB")
    entry = f"{scalar(gpu.name)}: " + _entry(
        mapping=gpu.mapping,
        vram=size_text(gpu.vram_bytes) if gpu.vram_bytes else None,
        pool=True if gpu.is_pooled else None,
    )
    if gpu.is_integrated:
        yield from _comment("part of the processor or chipset, where the server's own screen is: not offered", 6)
        yield f"      # {entry}"
        return
    for note in notes:
        yield from _comment(note, 6)
    yield f"      {entry}"


def _defaults(proposal: FleetProposal) -> list[str]:
    sizes = proposal.sizes
    lines = [
        "defaults:",
        "  image: ubuntu-24.04",
        f"  cores: {sizes.cores}",
        *_comment("a passed-through GPU pins all of its VM's memory: it must be free when the node starts", 2),
        f"  memory: {size_text(sizes.memory_bytes)}",
        f"  disk: {size_text(sizes.disk_bytes)}",
        "  idle_after: 20m",
    ]
    if proposal.gateway is not None:
        lines.append(f"  gateway: {scalar(proposal.gateway)}")
    else:
        lines += _comment("gateway: ADDRESS of the router, for guests that need the internet", 2)
    servers: Sequence[IPv4Address] = proposal.nameservers
    if servers:
        lines.append(f"  nameservers: {_value(servers)}")
    else:
        lines += _comment("nameservers: [ADDRESS]", 2)
    return lines


def _engines() -> list[str]:
    return [
        *_comment(_ENGINE_HELP),
        "# engines:",
        '#   llama.cpp: {source: "https://example.org/llama-bin-ubuntu-x64.tar.gz", sha256: "64 DIGITS"}',
        "# models:",
        '#   model.gguf: {source: "/srv/models/model.gguf", sha256: "64 DIGITS"}',
        "# modes:",
        "#   small: {engine: llama.cpp, model: model.gguf, context: 8192}",
    ]


def _nodes(proposal: FleetProposal) -> list[str]:
    lines = [*_comment(_NODE_HELP), "# nodes:"]
    for node in proposal.nodes:
        for note in node.notes:
            lines += _note_in_offer(note)
        lines.append(f"#   {node_line(node)}")
    return lines


def _note_in_offer(note: str) -> Iterable[str]:
    """Return a comment that is still one when the sign before it is taken away."""
    return (f"#   {line}" for line in _comment(note))


def node_line(node: NodeProposal) -> str:
    """Return a node as the line of a fleet file; what its name implies is left out."""
    name = NodeName(node.name)
    vmid = None if node.vmid == conventional_vmid(name) else node.vmid
    is_implied = node.address is not None and node.address == conventional_address(name)
    address = None if is_implied else node.address.with_prefixlen if node.address else "ADDRESS/PREFIX"
    entry = _entry(
        vmid=vmid,
        hypervisor=node.hypervisor,
        gpus=node.gpus or None,
        address=address,
        modes=("small",),
        adopt=True if node.is_adopted else None,
    )
    return f"{scalar(node.name)}: {entry}"
