"""Things pinned by checksum that every fleet knows without naming them.

A fleet file adds to these under the same keys, or replaces one by its name.
"""

from __future__ import annotations

from provisioner.domain.fleet import ImageSpec
from provisioner.domain.mode import EngineSpec
from provisioner.domain.names import EngineName, ImageName

IMAGES = {
    # Ubuntu 24.04 LTS server cloud image, dated release of 2026-09-11. The sum is the publisher's
    # (SHA256SUMS of that release); a dated folder never changes, "current" does.
    ImageName("ubuntu-24.04"): ImageSpec(
        name=ImageName("ubuntu-24.04"),
        url="https://cloud-images.ubuntu.com/releases/noble/release-20260911/ubuntu-24.04-server-cloudimg-amd64.img",
        sha256="612b2c0cc1bc413a6cb8c38fd611794caf0f2b436c50013d8b3794db12ad7354",
    ),
}

ENGINES = {
    # The newest release whose flags, metrics and code for GPUs were read from its own wheel. Of the others no
    # publisher's checksum was at hand, and a default without one would be none.
    EngineName("vllm"): EngineSpec(EngineName("vllm"), version="0.33.0"),
}
