"""How much memory a graphics card has, as far as its PCI ids tell; pure.

Proxmox shows ids and names, no sizes. Where the name says the size, the name is
believed; otherwise only ids stand here under which one size was ever sold, by
two public lists that agree on the model. A card that is missing is simply not
known, and the fleet file says so.
"""

from __future__ import annotations

import re

from provisioner.domain.quantities import GIB

_NVIDIA, _AMD = "10de", "1002"

# "GA100 [A100 PCIe 40GB]", "GP106 [GeForce GTX 1060 6GB]": names of the PCI ID list (pciutils/pciids).
_SIZE_IN_NAME = re.compile(r"\b(\d{1,3}) ?GB\b")

# Model and size: akash-network/provider-configs, devices/pcie/gpus.json at 2d04f4fe; those marked * dstackai/gpuhunt,
# constraints.py at 0ae939f7, by the model's name; a size that stands in the name is the PCI ID list's own, for servers
# that show no names. Id and model: pciutils/pciids, pci.ids at c1c12547 (2026-08-22).
# Left out on purpose, for one id stands for several sizes or the lists disagree: 2487, 2503, 2504 (RTX 3060: 8 or 12),
# 2803 (RTX 4060 Ti), 1e30, 1e78 (Quadro RTX 6000 or 8000), 66a1 (Radeon Pro VII or Instinct MI50), everything mobile.
_GIB = {
    _NVIDIA: {
        "13f1": 8,  # Quadro M4000
        "15f7": 12,  # Tesla P100 PCIe 12GB
        "15f8": 16,  # Tesla P100 PCIe 16GB
        "17c8": 6,  # GTX 980 Ti
        "1b06": 11,  # GTX 1080 Ti
        "1b30": 24,  # Quadro P6000
        "1b38": 24,  # Tesla P40
        "1b80": 8,  # GTX 1080
        "1b81": 8,  # GTX 1070
        "1b82": 8,  # GTX 1070 Ti
        "1bb0": 16,  # Quadro P5000
        "1bb1": 8,  # Quadro P4000
        "1bb3": 8,  # Tesla P4
        "1c03": 6,  # GTX 1060 6GB
        "1db1": 16,  # Tesla V100 SXM2 16GB
        "1db4": 16,  # Tesla V100 PCIe 16GB
        "1db5": 32,  # Tesla V100 SXM2 32GB
        "1db6": 32,  # Tesla V100 PCIe 32GB
        "1db8": 32,  # Tesla V100 SXM3 32GB
        "1e04": 11,  # RTX 2080 Ti
        "1e07": 11,  # RTX 2080 Ti
        "1e81": 8,  # RTX 2080 SUPER
        "1e84": 8,  # RTX 2070 SUPER
        "1e87": 8,  # RTX 2080
        "1e89": 6,  # RTX 2060
        "1eb1": 8,  # Quadro RTX 4000
        "1eb8": 16,  # Tesla T4
        "1f02": 8,  # RTX 2070
        "1f06": 8,  # RTX 2060 SUPER
        "20b0": 40,  # A100 SXM4 40GB
        "20b1": 40,  # A100 PCIe 40GB
        "20b2": 80,  # A100 SXM4 80GB
        "20b5": 80,  # A100 PCIe 80GB
        "20f1": 40,  # A100 PCIe 40GB
        "2182": 6,  # GTX 1660 Ti
        "2184": 6,  # GTX 1660
        "2203": 24,  # RTX 3090 Ti
        "2204": 24,  # RTX 3090
        "2206": 10,  # RTX 3080 *
        "2208": 12,  # RTX 3080 Ti *
        "220a": 12,  # RTX 3080 12GB
        "2216": 10,  # RTX 3080
        "2230": 48,  # RTX A6000
        "2231": 24,  # RTX A5000
        "2232": 20,  # RTX A4500 *
        "2235": 48,  # A40
        "2236": 24,  # A10 *
        "2237": 24,  # A10G *
        "2321": 94,  # H100L 94GB
        "2330": 80,  # H100 SXM5 80GB
        "2331": 80,  # H100 PCIe
        "2335": 141,  # H200 SXM 141GB
        "233b": 141,  # H200 NVL
        "2482": 8,  # RTX 3070 Ti *
        "2484": 8,  # RTX 3070
        "2486": 8,  # RTX 3060 Ti
        "2488": 8,  # RTX 3070
        "2489": 8,  # RTX 3060 Ti
        "24b0": 16,  # RTX A4000 *
        "2531": 6,  # RTX A2000
        "2684": 24,  # RTX 4090
        "26b1": 48,  # RTX 6000 Ada Generation *
        "26b5": 48,  # L40 *
        "26b9": 48,  # L40S *
        "2702": 16,  # RTX 4080 SUPER
        "2704": 16,  # RTX 4080
        "2782": 12,  # RTX 4070 Ti
        "2783": 12,  # RTX 4070 SUPER
        "2786": 12,  # RTX 4070
        "27b0": 20,  # RTX 4000 SFF Ada Generation
        "27b2": 20,  # RTX 4000 Ada Generation
        "27b8": 24,  # L4 *
        "2805": 16,  # RTX 4060 Ti 16GB
        "2882": 8,  # RTX 4060
        "28b0": 16,  # RTX 2000 Ada Generation
        "2b85": 32,  # RTX 5090
        "2bb1": 96,  # RTX PRO 6000 Blackwell Workstation Edition
        "2bb4": 96,  # RTX PRO 6000 Blackwell Max-Q Workstation Edition
        "2bb5": 96,  # RTX PRO 6000 Blackwell Server Edition
        "2c02": 16,  # RTX 5080
        "2f04": 12,  # RTX 5070
    },
    _AMD: {"738c": 32},  # Instinct MI100
}


def graphics_memory_bytes(vendor_id: str | None, device_id: str | None, name: str) -> int | None:
    """Return a card's memory in bytes, or None where its ids and name do not settle it.

    Args:
        vendor_id: four hexadecimal digits, as in ``10de``.
        device_id: four hexadecimal digits.
        name: what the PCI ID list calls the device.
    """
    if vendor_id == _NVIDIA and (named := _SIZE_IN_NAME.search(name)):
        return int(named[1]) * GIB or None
    size = _GIB.get(vendor_id or "", {}).get(device_id or "")
    return None if size is None else size * GIB
