"""A VM that somebody made by hand joins the fleet: power only, on both flavours of the embedded Proxmox."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.errors import RefusedError
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.planning.idle import IdleVerdict
from provisioner.services.fleet_view import NodeState
from tests.lab.support import NODE, site_for


@pytest.mark.parametrize("pve", ["8.4", "9.1"])
def test_an_adopted_vm_is_woken_slept_and_watched_and_nothing_else(tmp_path: Path, pve: str) -> None:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", pve=pve) as lab:
        site = site_for(lab, tmp_path, images)
        site.fleet().up(NODE)
        # From here on it is somebody else's.
        lab.call("PUT", "/nodes/pve1/qemu/5001/config", name="my-llm", tags="family", description="Ada's machine")
        with pytest.raises(RefusedError, match="not ours"):
            site.fleet().sleep(NODE)
        fleet = site.fleet(
            lambda text: (
                text.replace("modes: [small], ", "modes: [small], adopt: true, ")
                .replace("idle_after: 20m", "idle_after: 0s")
                .replace("min_uptime: 2m", "min_uptime: 0s")
            )
        )
        before = lab.call("GET", "/nodes/pve1/qemu/5001/config")
        lab.forget_requests()
        assert fleet.up(NODE).changed == ()
        assert fleet.status()[0].state is NodeState.SERVING
        fleet.sleep(NODE)
        assert fleet.up(NODE).changed == ("start",)
        assert [decision.verdict for decision in fleet.idle()] == [IdleVerdict.SLEEP]
        assert fleet.wake_report(NODE).started
        with pytest.raises(RefusedError, match="adopted"):
            fleet.destroy(NODE)
        with pytest.raises(RefusedError, match="log in"):
            fleet.ssh(NODE)
        written = {str(request["path"]) for request in lab.requests() if request["method"] != "GET"}
        assert written == {f"/nodes/pve1/qemu/5001/status/{act}" for act in ("start", "shutdown")}
        assert lab.call("GET", "/nodes/pve1/qemu/5001/config") == before
