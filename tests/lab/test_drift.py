"""A VM that somebody changed by hand: seen with both values, put right, and nothing else touched; on both flavours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import ConfigChangedError, RefusedError
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.lab.initial import PROVISIONER, PROVISIONER_TOKEN
from tests.lab.drifting import CONFIG, FLAVOURS, both_values, config, drift, drift_in_effect, names, step
from tests.lab.support import BLOCK, NODE, Site, site_for


@pytest.fixture(params=FLAVOURS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", pve=request.param) as lab:
        yield site_for(lab, tmp_path, images)


def requests_running(site: Site, count: int) -> None:
    """Let the node's engine say that it works on so many requests."""
    site.lab.lab.backend._running[5001].engine._processing = count  # type: ignore[attr-defined]


def test_a_new_vm_has_drifted_nowhere(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    for _ in ("running", "off"):
        plan = fleet.plan(NODE)
        assert "change" not in names(plan), str(plan)
        assert "restart" not in names(plan), str(plan)
        site.lab.finish(site.lab.call("POST", "/nodes/pve1/qemu/5001/status/stop"))


def test_one_value_written_another_way_is_no_drift(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    site.lab.finish(site.lab.call("POST", "/nodes/pve1/qemu/5001/status/stop"))
    drift(
        site,
        cpu="cputype=host,flags=+aes",
        memory="current=1024",
        machine="pc-q35-9.0",
        agent="1,fstrim_cloned_disks=1",
        hostpci0="pcie=on,rombar=0,mapping=rtx3090",
        net0="bridge=vmbr0,model=virtio,macaddr=BC:24:11:00:13:89,firewall=1,tag=7",
        tags="Zoo,provisioner ml",
        vga="type=serial0",
        scsi1="local-lvm:1",
        net1="virtio,bridge=vmbr0",
        boot="order=scsi0;net0",
        description="Ask Ada before touching.\n" + str(config(site)["description"]) + "\n",
    )
    before = config(site)
    assert "change" not in names(fleet.plan(NODE)), str(fleet.plan(NODE))
    fleet.up(NODE)
    assert {**config(site), "digest": ""} == {**before, "digest": ""}


def test_what_waits_by_mistake_is_put_right_without_a_restart(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    drift(site, cores="1", name="other")
    plan = fleet.plan(NODE)
    assert both_values(plan) == {"name": ("other", NODE), "cores": ("1", "2")}
    assert not step(plan, "change").needs_cold_start
    assert fleet.apply(plan).changed == ("change",)
    assert not fleet.plan(NODE).has_changes


def test_a_vm_that_is_off_is_changed_and_started(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    fleet.sleep(NODE)
    drift(site, cores="1", delete="tags")
    # Without our tag it is nobody's to change.
    with pytest.raises(RefusedError, match="does not carry the tag"):
        fleet.up(NODE)
    drift(site, tags="provisioner")
    plan = fleet.plan(NODE)
    assert not step(plan, "change").needs_cold_start
    assert fleet.apply(plan).changed == ("change", "start")
    assert config(site)["cores"] == 2


def test_tags_of_ours_are_put_back_and_those_of_others_stay(site: Site) -> None:
    fleet = site.fleet(lambda text: text.replace("modes: [small], ", "modes: [small], tags: [gpu, llm], "))
    fleet.up(NODE)
    assert config(site)["tags"] == "gpu;llm;provisioner"
    drift(site, tags="provisioner;ada")
    assert both_values(fleet.plan(NODE)) == {"tags": ("ada, provisioner", "ada, gpu, llm, provisioner")}
    fleet.up(NODE)
    assert config(site)["tags"] == "ada;gpu;llm;provisioner"


def test_a_changed_wish_is_a_change_of_the_vm(site: Site) -> None:
    site.fleet().up(NODE)
    fleet = site.fleet(
        lambda text: (
            text.replace("cores: 2", "cores: 1")
            .replace("memory: 1GiB", "memory: 2GiB")
            .replace("disk: 3GiB", "disk: 5GiB\n  numa: true\n  secure_boot: true\n  protection: true")
        )
    )
    plan = fleet.plan(NODE)
    assert names(plan)[:3] == ["change", "grow disk", "restart"]
    assert both_values(plan) == {
        "cores": ("2", "1"),
        "memory": ("1GiB", "2GiB"),
        "numa": ("no", "yes"),
        "secure boot": ("no", "yes"),
        "protection": ("no", "yes"),
    }
    fleet.apply(plan)
    after = config(site)
    assert (after["cores"], after["numa"], after["protection"]) == (1, 1, 1)
    assert "size=5G" in str(after["scsi0"])
    assert "pre-enrolled-keys=1" in str(after["efidisk0"])
    assert fleet.up(NODE).changed == ()
    with pytest.raises(RefusedError, match="protected"):
        fleet.destroy(NODE)
    assert site.lab.call("GET", "/nodes/pve1/qemu/5001/status/current")["status"] == "running"
    fleet = site.fleet(lambda text: text.replace("protection: true", "protection: false"))
    fleet.up(NODE)
    assert fleet.destroy(NODE)


def test_another_gpu_slot_is_a_change(site: Site) -> None:
    site.fleet().up(NODE)
    fleet = site.fleet(lambda text: text.replace("gpus: [rtx3090]", "gpus: [rtx3060]"))
    assert both_values(fleet.plan(NODE)) == {"gpus": ("rtx3090", "rtx3060")}
    assert "restart" in fleet.up(NODE).changed
    assert config(site)["hostpci0"] == "mapping=rtx3060,pcie=1"
    site.fleet(lambda text: text.replace("gpus: [rtx3060], ", "")).up(NODE)
    assert "hostpci0" not in config(site)


def test_a_renamed_node_keeps_its_vm_and_its_seed(site: Site) -> None:
    site.fleet().up(NODE)
    drive = config(site)["ide2"]
    fleet = site.fleet(lambda text: text.replace(f"  {NODE}: {{", "  chat: {vmid: 5001, "))
    drifts = both_values(fleet.plan("chat"))
    assert drifts["name"] == (NODE, "chat")
    assert set(drifts) == {"name", "notes"}
    assert fleet.up("chat").changed == ("change",)
    assert (config(site)["name"], config(site)["ide2"]) == ("chat", drive)
    assert "node chat, made from lab" in str(config(site)["description"])
    assert fleet.up("chat").changed == ()
    fleet.sleep("chat")
    fleet.wake("chat")
    assert fleet.destroy("chat") == ("vm 5001 and its disks", f"seed {str(drive).partition(',')[0]}")


def test_another_nodes_vm_is_not_taken_for_a_renamed_one(site: Site) -> None:
    site.fleet().up(NODE)
    renamed, moved = f"10.{BLOCK}.1/16", f"10.{BLOCK}.9/16"
    fleet = site.fleet(lambda text: text.replace(f"  {NODE}: {{", "  chat: {vmid: 5001, ").replace(renamed, moved))
    with pytest.raises(RefusedError, match="made for another node"):
        fleet.up("chat")
    assert config(site)["name"] == NODE


REFUSED = [
    ("disk: 3GiB", "disk: 2GiB", "the disk has 3GiB, wanted are 2GiB: disks only grow", "provisioner destroy"),
    ("image: lab", "image: ubuntu-24.04", 'made from image "lab", wanted is "ubuntu-24.04"', "provisioner destroy"),
    ("disk: 3GiB", "disk: 3GiB\n  numa: true\n  hugepages: 1GiB", "only root@pam's own login", "--hugepages 1024"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words", "step"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_cannot_be_made_of_a_vm_is_refused_with_the_way_out(
    site: Site, old: str, new: str, words: str, step: str
) -> None:
    site.fleet().up(NODE)
    before = config(site)
    fleet = site.fleet(lambda text: text.replace(old, new))
    plan = fleet.plan(NODE)
    assert plan.refusal is not None
    assert words in plan.refusal.reason
    assert step in plan.refusal.next_step
    with pytest.raises(RefusedError):
        fleet.apply(plan)
    assert config(site) == before


def test_hugepages_are_left_to_root_and_then_lived_with(site: Site) -> None:
    wish = lambda text: text.replace("disk: 3GiB", "disk: 3GiB\n  numa: true\n  hugepages: 1GiB")  # noqa: E731
    plain = site.fleet_file.read_text()
    with pytest.raises(RefusedError, match="cannot be part of a new VM"):
        site.fleet(wish).up(NODE)
    site.fleet_file.write_text(plain)
    site.fleet().up(NODE)
    site.lab.finish(site.lab.call("POST", "/nodes/pve1/qemu/5001/status/stop"))
    drift(site, hugepages="1024", numa="1")
    assert site.fleet(wish).up(NODE).reply


def test_a_card_passed_by_its_address_is_named_with_the_way_out(site: Site) -> None:
    site.fleet().up(NODE)
    drift(site, hostpci0="0000:01:00,pcie=1")
    plan = site.fleet().plan(NODE)
    assert plan.refusal is not None
    assert "hostpci0 (0000:01:00)" in plan.refusal.reason
    assert "qm set 5001 --delete hostpci0" in plan.refusal.next_step


def test_devices_of_others_stay_where_they_are(site: Site) -> None:
    entry = "id=10de:2504,iommugroup=16,node=pve1,path=0000:02:00,subsystem-id=10de:2504"
    site.lab.call("POST", "/cluster/mapping/pci", id="capture", map=[entry])
    for kind, who in (("users", PROVISIONER), ("tokens", PROVISIONER_TOKEN)):
        site.lab.call("PUT", "/access/acl", path="/mapping/pci/capture", roles="ProvisionerGpu", **{kind: who})
    site.fleet().up(NODE)
    site.fleet().sleep(NODE)
    drift(site, hostpci0="mapping=capture,pcie=1")
    plan = site.fleet().plan(NODE)
    assert both_values(plan) == {"gpus": ("none", "rtx3090")}
    site.fleet().apply(plan)
    after = config(site)
    assert (after["hostpci0"], after["hostpci1"]) == ("mapping=capture,pcie=1", "mapping=rtx3090,pcie=1")


def test_several_slots_of_one_pool_get_a_card_each(site: Site) -> None:
    cards = [
        f"id=10de:{device},iommugroup={group},node=pve1,path=0000:{bus:02}:00,subsystem-id=10de:{subsystem}"
        for bus, device, subsystem, group in ((1, "2204", "3095", 15), (2, "2504", "2504", 16))
    ]
    site.lab.call("POST", "/cluster/mapping/pci", id="cards", map=cards)
    for kind, who in (("users", PROVISIONER), ("tokens", PROVISIONER_TOKEN)):
        site.lab.call("PUT", "/access/acl", path="/mapping/pci/cards", roles="ProvisionerGpu", **{kind: who})
    slot = "{mapping: cards, pool: true}"
    fleet = site.fleet(
        lambda text: re.sub(r"      rtx3090: \{.*\}\n", f"      left: {slot}\n      right: {slot}\n", text).replace(
            "gpus: [rtx3090]", "gpus: [left, right]"
        )
    )
    fleet.up(NODE)
    assert [config(site)[f"hostpci{index}"] for index in (0, 1)] == ["mapping=cards,pcie=1"] * 2
    assert len(site.lab.lab.cluster.guests["5001"].run["pci"]) == 4  # type: ignore[index,arg-type]
    assert not fleet.plan(NODE).has_changes
    site.lab.call("PUT", "/cluster/mapping/pci/cards", map=cards[:1])
    fleet.sleep(NODE)
    with pytest.raises(RefusedError, match='wants 2 cards of mapping "cards", which names 1 on pve1'):
        fleet.up(NODE)


class TestBusy:
    """A node in use is not restarted: what needs a cold start waits for its next one."""

    def test_the_change_waits_and_everything_says_so(self, site: Site) -> None:
        fleet = site.fleet()
        fleet.up(NODE)
        drift_in_effect(site, cores="1")
        requests_running(site, 1)
        report = fleet.up(NODE)
        assert "1 requests running" in report.left_for_next_start
        assert "restart" not in report.changed
        assert site.lab.call("GET", CONFIG, current="1")["cores"] == 1
        plan = fleet.plan(NODE)
        assert "change" not in names(plan)
        assert step(plan, "restart").drifts[0].seen == "1"
        assert plan.has_changes
        requests_running(site, 0)
        assert fleet.up(NODE).changed == ("restart",)
        assert site.lab.call("GET", CONFIG, current="1")["cores"] == 2
        assert not fleet.plan(NODE).has_changes

    def test_a_sleep_and_a_wake_bring_it_too(self, site: Site) -> None:
        fleet = site.fleet()
        fleet.up(NODE)
        drift_in_effect(site, cores="1")
        requests_running(site, 1)
        fleet.up(NODE)
        requests_running(site, 0)
        fleet.sleep(NODE)
        fleet.wake(NODE)
        assert not fleet.plan(NODE).has_changes


class TestOutdated:
    """What was shown is done, or nothing."""

    def test_a_plan_for_another_state_of_the_vm_is_refused_with_both(self, site: Site) -> None:
        fleet = site.fleet()
        fleet.up(NODE)
        drift_in_effect(site, cores="1")
        plan = fleet.plan(NODE)
        drift(site, memory="2048")
        with pytest.raises(RefusedError) as caught:
            fleet.apply(plan)
        assert "memory 1GiB → 2GiB" in caught.value.summary
        assert f"digest {plan.digest} then, {fleet.plan(NODE).digest} now" in caught.value.summary
        assert config(site)["cores"] == 1
        fleet.apply(fleet.plan(NODE))
        assert not fleet.plan(NODE).has_changes

    def test_so_is_one_after_a_change_that_is_not_our_business(self, site: Site) -> None:
        fleet = site.fleet()
        fleet.up(NODE)
        drift_in_effect(site, cores="1")
        plan = fleet.plan(NODE)
        drift(site, scsi2="local-lvm:1")
        with pytest.raises(RefusedError, match="something that we do not manage"):
            fleet.apply(plan)

    def test_a_change_in_the_last_moment_is_noticed_by_its_digest(self, site: Site) -> None:
        fleet = site.fleet()
        fleet.up(NODE)
        drift_in_effect(site, cores="1")
        with pytest.raises(ConfigChangedError) as caught:
            fleet.up(NODE, lambda event: drift(site, memory="2048") if event.step == "change" else None)
        assert "memory 1GiB → 2GiB" in caught.value.summary
        assert config(site)["cores"] == 1
        assert "change" in fleet.up(NODE).changed

    def test_what_is_left_of_a_plan_may_be_carried_out(self, site: Site) -> None:
        fleet = site.fleet()
        fleet.up(NODE)
        drift_in_effect(site, cores="1")
        plan = fleet.plan(NODE)
        fleet.apply(plan)
        assert fleet.apply(plan).changed == ()


def test_a_node_is_not_shut_down_for_a_restart_that_its_mapping_forbids(site: Site) -> None:
    """It runs with a card whose group has moved meanwhile: once off, it could not be started again."""
    site.fleet().up(NODE)
    gone = "id=10de:2204,iommugroup=99,node=pve1,path=0000:01:00,subsystem-id=10de:3095"
    site.lab.call("PUT", "/cluster/mapping/pci/rtx3090", map=[gone])
    assert site.fleet().plan(NODE).refusal is None
    larger = site.fleet(lambda text: text.replace("memory: 1GiB", "memory: 2GiB"))
    refusal = larger.plan(NODE).refusal
    assert refusal is not None
    assert "does not fit pve1" in refusal.reason
    assert site.lab.call("GET", "/nodes/pve1/qemu/5001/status/current")["status"] == "running"
