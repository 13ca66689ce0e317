"""A whole life with the cloud-init drive that Proxmox makes, on the embedded Proxmox of both versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from provisioner.domain.notes import read_notes
from provisioner.errors import NotReadyError, PermissionMissingError, ProvisionerError
from provisioner.fleet import Fleet
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.planning.access import needed_rights, rights_by_path
from provisioner.planning.access.calls import CALLS, Verb
from tests.contract.pve_schema import SOURCES, complaints, official_api
from tests.lab.drifting import FLAVOURS, both_values, config, drift, drift_in_effect, names, step
from tests.lab.support import NODE, Site, site_for
from tests.lab.test_least_privileges import FREE, grant_only, one_card, template

AGENT = "/nodes/pve1/qemu/5001/agent"
PUBLIC_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"


@pytest.fixture(params=FLAVOURS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", pve=request.param) as lab:
        yield native(site_for(lab, tmp_path, images))


def native(site: Site) -> Site:
    """Have Proxmox make the drives of a site's nodes."""
    site.fleet(
        lambda text: text.replace("  idle_after:", "  cloud_init: proxmox\n  nameservers: [10.10.0.1]\n  idle_after:")
    )
    return site


def key_in_guest(site: Site) -> str:
    return " ".join(site.lab.call("GET", f"{AGENT}/file-read", file=PUBLIC_KEY)["content"].split()[:2])


def noted_key(site: Site) -> str | None:
    return read_notes(str(config(site)["description"])).host_key


def test_a_whole_life_without_a_seed(site: Site) -> None:
    fleet = site.fleet()
    changed = fleet.up(NODE).changed
    assert changed == ("image", "create", "grow disk", "start", "host key", "guest", "seal seed", "configure")
    assert noted_key(site) == key_in_guest(site)
    made = config(site)
    assert str(made["ide2"]).startswith("local-lvm:vm-5001-cloudinit,media=cdrom")
    assert unquote(str(made["sshkeys"])).startswith("ssh-ed25519 ")
    assert str(made["ciupgrade"]) == "0"
    assert fleet.up(NODE).changed == ()
    fleet.sleep(NODE)
    before = noted_key(site)
    fleet.wake(NODE)
    assert fleet.up(NODE).changed == ()
    assert noted_key(site) == before == key_in_guest(site)
    assert fleet.destroy(NODE) == ("vm 5001 and its disks",)
    uploads = [each for each in site.lab.requests() if str(each["path"]).endswith("/upload")]
    assert uploads == []


def test_what_proxmox_writes_on_the_drive_has_no_secret(site: Site) -> None:
    site.fleet().up(NODE)
    drive = [
        str(site.lab.call("GET", "/nodes/pve1/qemu/5001/cloudinit/dump", type=kind))
        for kind in ("user", "network", "meta")
    ]
    assert "PRIVATE" not in repr(drive)
    assert "package_upgrade" not in drive[0]
    assert "provisioner" in drive[0]
    assert "10.10.0.1" in drive[1]
    assert "internal" in drive[1]


def test_settings_that_only_wait_are_put_back_without_a_restart(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    old = noted_key(site)
    drift(site, nameserver="9.9.9.9")
    assert "NEW SSH host keys" not in str(fleet.plan(NODE))
    assert fleet.up(NODE).changed == ("change",)
    assert noted_key(site) == key_in_guest(site) == old


def test_settings_changed_by_hand_are_put_back_and_the_key_read_anew(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    old = noted_key(site)
    drift_in_effect(site, nameserver="9.9.9.9", ciuser="ada")
    plan = fleet.plan(NODE)
    assert both_values(plan) == {
        "cloud-init user": ("ada", "provisioner"),
        "cloud-init nameservers": ("9.9.9.9, searching internal", "10.10.0.1, searching internal"),
    }
    assert "NEW SSH host keys" in str(step(plan, "change"))
    assert step(plan, "change").needs_cold_start
    assert names(plan)[:3] == ["change", "restart", "host key"]
    assert fleet.apply(plan).changed[:3] == ("change", "restart", "host key")
    assert noted_key(site) == key_in_guest(site) != old
    assert not fleet.plan(NODE).has_changes


def test_drift_of_the_address(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    fleet.sleep(NODE)
    was = str(config(site)["ipconfig0"])
    drift(site, ipconfig0="ip=10.99.99.9/16")
    plan = fleet.plan(NODE)
    seen, wanted = both_values(plan)["cloud-init address"]
    assert seen == "10.99.99.9/16"
    assert " via " in wanted
    assert names(plan)[:3] == ["change", "start", "host key"]
    fleet.apply(plan)
    assert config(site)["ipconfig0"] == was
    assert not fleet.plan(NODE).has_changes


def test_new_nameservers_in_the_fleet_file_are_a_new_first_boot(site: Site) -> None:
    site.fleet().up(NODE)
    old = noted_key(site)
    fleet = site.fleet(lambda text: text.replace("[10.10.0.1]", "[10.10.0.1, 10.10.0.2]"))
    assert fleet.up(NODE).changed[:3] == ("change", "restart", "host key")
    assert noted_key(site) == key_in_guest(site) != old
    assert fleet.up(NODE).changed == ()


def test_a_drive_that_was_taken_out_is_put_back(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    fleet.sleep(NODE)
    drift(site, delete="ide2")
    assert both_values(fleet.plan(NODE)) == {"cloud-init drive": ("none", "Proxmox's own")}
    fleet.up(NODE)
    assert "cloudinit" in str(config(site)["ide2"])
    assert not fleet.plan(NODE).has_changes


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_image_without_an_agent_is_refused_with_a_way_out(tmp_path: Path, flavour: str) -> None:
    faults = [{"vmid": 5001, "guest": "agent_silent"}]
    with (
        served_folder(tmp_path) as images,
        RunningLab(tmp_path / "lab", pve=flavour, faults=faults) as lab,
    ):
        site = native(site_for(lab, tmp_path, images))
        fleet = site.fleet(lambda text: text.replace("boot_within: 10m", "boot_within: 1s"))
        with pytest.raises(NotReadyError, match="would trust whoever answers") as caught:
            fleet.up(NODE)
        assert "cloud_init: seed" in caught.value.next_step
        assert noted_key(site) is None
        assert step(fleet.plan(NODE), "host key").reason


def rights(site: Site, fleet: Fleet) -> dict[str, list[str]]:
    cluster = next(iter(fleet.spec.clusters.values()))
    major = int(str(site.lab.call("GET", "/version")["version"]).partition(".")[0])
    needed = [
        right
        for right in needed_rights(fleet.spec, cluster, major)
        if not right.optional and not right.is_for_doctor_only
    ]
    return {path: list(privileges) for path, privileges in rights_by_path(needed).items()}


def live(site: Site, fleet: Fleet) -> None:
    fleet.up(NODE)
    fleet.sleep(NODE)
    drift(site, delete="ide2")
    fleet.up(NODE)
    fleet.destroy(NODE)


def test_the_rights_of_the_table_are_enough(site: Site) -> None:
    fleet = one_card(site)
    grant_only(site, rights(site, fleet))
    live(site, fleet)


@pytest.mark.parametrize("taken", ["VM.Config.CDROM", "VM.Config.Cloudinit"])
def test_each_right_of_the_drive_is_needed(site: Site, taken: str) -> None:
    fleet = one_card(site)
    held = rights(site, fleet)
    assert taken in held["/vms"]
    held["/vms"] = [each for each in held["/vms"] if each != taken]
    grant_only(site, held)
    with pytest.raises(ProvisionerError, match=taken):
        live(site, fleet)


def test_reading_the_key_takes_its_own_right(site: Site) -> None:
    fleet = one_card(site)
    held = rights(site, fleet)
    # In version 9 the lab's other uses of the agent include it; in 8 there is but one right.
    agents = [each for each in held["/vms"] if each.startswith(("VM.GuestAgent", "VM.Monitor"))]
    assert agents in (["VM.GuestAgent.FileRead", "VM.GuestAgent.Unrestricted"], ["VM.Monitor"])
    held["/vms"] = [each for each in held["/vms"] if each not in agents]
    grant_only(site, held)
    with pytest.raises(PermissionMissingError):
        fleet.up(NODE)


def test_every_request_is_in_the_table_and_in_the_description(site: Site) -> None:
    fleet = site.fleet()
    acts: dict[Verb, Callable[[], object]] = {
        Verb.UP: lambda: fleet.up(NODE),
        Verb.SLEEP: lambda: fleet.sleep(NODE),
        Verb.WAKE: lambda: fleet.wake(NODE),
        Verb.DESTROY: lambda: fleet.destroy(NODE),
    }
    found: list[str] = []
    for verb, act in acts.items():
        site.lab.forget_requests()
        act()
        sent = list(site.lab.requests())
        known = {call.request for call in CALLS if verb in call.verbs}
        assert {template(str(each["method"]), str(each["path"])) for each in sent} - FREE <= known, verb
        for source in SOURCES:
            api = official_api(source)
            for each in sent:
                parameters = dict(each["params"])  # type: ignore[call-overload]
                found += complaints(api, str(each["method"]), str(each["path"]), parameters)
    assert found == []
