"""Ids that must not be mixed up."""

from __future__ import annotations

from typing import NewType

NodeName = NewType("NodeName", str)
HypervisorName = NewType("HypervisorName", str)
ClusterName = NewType("ClusterName", str)
ModeName = NewType("ModeName", str)
GpuName = NewType("GpuName", str)
ImageName = NewType("ImageName", str)
EngineName = NewType("EngineName", str)
StorageName = NewType("StorageName", str)
MappingId = NewType("MappingId", str)
Vmid = NewType("Vmid", int)
