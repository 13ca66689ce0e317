"""One hypervisor's facts from two sources."""

from __future__ import annotations

from dataclasses import replace

from provisioner.domain.host import HostFacts, HostMemory, PciAddress, PciFunction, Release, Source
from provisioner.domain.host_extras import HostExtras
from provisioner.domain.quantities import GIB, KIB
from provisioner.planning.host.merge import merged, with_extras
from tests.fakes.host_facts import GPU, SOUND, ready_host

SSH = HostFacts(
    functions={
        GPU: PciFunction(GPU, "0300", "GA102", "10de", "2204", "vfio-pci", True),
        SOUND: PciFunction(SOUND, "0403", "", "10de", "1aef", None, True),
    },
    groups={GPU: 21},
    kernel=Release(6, 8, "6.8.12-4-pve"),
    command_line="BOOT_IMAGE=x",
    sources=(Source.SSH,),
)


def test_the_first_is_believed_where_both_know() -> None:
    both = merged(SSH, ready_host())
    assert both.kernel == SSH.kernel
    assert both.groups == {GPU: 21}  # two numberings must not mix
    assert both.functions is not None
    assert both.functions[GPU].name == "GA102"


def test_the_second_fills_the_gaps() -> None:
    both = merged(SSH, ready_host())
    assert both.pve == ready_host().pve
    assert both.memory == ready_host().memory
    assert both.functions is not None
    assert (both.functions[GPU].driver, both.functions[GPU].subsystem_id) == ("vfio-pci", "10de:3095")
    assert (both.functions[SOUND].is_driver_known, both.functions[SOUND].name) == (True, "NVIDIA GA102 HD Audio")
    assert PciAddress("0000:00:01.1") in both.functions
    assert both.sources == (Source.API, Source.SSH)


def test_unknown_stays_unknown_and_known_to_be_none_stays_that() -> None:
    neither = merged(HostFacts(sources=(Source.SSH,)), HostFacts(sources=(Source.API,)))
    assert neither.functions is None
    assert neither.groups is None
    assert merged(replace(SSH, groups={}), ready_host()).groups == {}


def test_what_the_api_withheld_matters_no_more_once_somebody_looked() -> None:
    withheld = replace(ready_host(), withheld={"dmesg": "Sys.Syslog on /nodes/pve1"})
    assert merged(SSH, withheld).withheld == {}
    assert merged(withheld, HostFacts(sources=())).withheld == withheld.withheld


def test_a_driver_known_to_one_alone_is_taken_from_that_one() -> None:
    both = merged(ready_host(), SSH)
    assert both.functions is not None
    assert both.functions[GPU].is_bound_to_vfio is True
    assert both.groups == ready_host().groups


def test_a_live_look_adds_what_a_dump_has_no_place_for() -> None:
    facts = with_extras(SSH, HostExtras(64 << 20, 32 << 20, frozenset({"vmx"}), {GPU: ()}, frozenset({GPU})))
    assert facts.memory == HostMemory(64 * GIB, None, 32 * GIB)
    assert facts.memory.total == (64 << 20) * KIB
    assert facts.cpu_flags == {"vmx"}
    assert facts.reset_methods == {GPU: ()}
    assert with_extras(SSH, HostExtras()).memory is None
