"""The CPU models that a VM's ``cpu`` option may name."""

from __future__ import annotations

from provisioner.lab.schema.problem import FormatProblem

NAMES = frozenset(
    """
    host max kvm32 kvm64 qemu32 qemu64 486 pentium pentium2 pentium3 coreduo core2duo
    athlon phenom x86-64-v2 x86-64-v2-AES x86-64-v3 x86-64-v4
    Conroe Penryn Nehalem Nehalem-IBRS Westmere Westmere-IBRS SandyBridge SandyBridge-IBRS
    IvyBridge IvyBridge-IBRS Haswell Haswell-IBRS Haswell-noTSX Haswell-noTSX-IBRS
    Broadwell Broadwell-IBRS Broadwell-noTSX Broadwell-noTSX-IBRS
    Skylake-Client Skylake-Client-IBRS Skylake-Client-noTSX-IBRS Skylake-Client-v4
    Skylake-Server Skylake-Server-IBRS Skylake-Server-noTSX-IBRS Skylake-Server-v4 Skylake-Server-v5
    Cascadelake-Server Cascadelake-Server-noTSX Cascadelake-Server-v2 Cascadelake-Server-v4 Cascadelake-Server-v5
    Cooperlake Cooperlake-v2 KnightsMill Icelake-Client Icelake-Client-noTSX
    Icelake-Server Icelake-Server-noTSX Icelake-Server-v3 Icelake-Server-v4 Icelake-Server-v5 Icelake-Server-v6
    SapphireRapids SapphireRapids-v2 GraniteRapids
    Opteron_G1 Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5
    EPYC EPYC-IBPB EPYC-v3 EPYC-v4 EPYC-Rome EPYC-Rome-v2 EPYC-Rome-v3 EPYC-Rome-v4
    EPYC-Milan EPYC-Milan-v2 EPYC-Genoa
    """.split()  # noqa: SIM905 - a list this long is read as a paragraph
)

_FLAGS = (
    "pcid spec-ctrl ibpb ssbd virt-ssbd amd-ssbd amd-no-ssb pdpe1gb md-clear hv-tlbflush hv-evmcs aes".split()  # noqa: SIM905
)
"""CPU flags that a VM may add or take away without a custom model."""


def check_flags(flags: str, major: int) -> None:
    """Raise FormatProblem for flags beyond those a VM may touch."""
    allowed = [*_FLAGS, "nested-virt"] if major >= 9 else _FLAGS
    if any(flag[1:] not in allowed for flag in flags.split(";") if flag):
        raise FormatProblem(f"VM-specific CPU flags must be a subset of: {', '.join(allowed)}")
