"""Rights granted by pvesh over a real login: the same plan, the same cluster afterwards, and the same refusals."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provisioner.adapters.proxmox.access import ProxmoxAccess, entered_through
from provisioner.adapters.ssh.hosts import SshHosts
from provisioner.adapters.system_clock import SystemClock
from provisioner.errors import HypervisorError, LoginRefusedError, PermissionMissingError
from provisioner.fleet import Fleet
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.services.granting import Granting
from tests.lab.preparing import bare_fleet, door_of, everything, live, secret_file, wish
from tests.lab.support import Site, site_for
from tests.pve_host import PveHost


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A lab of the newer version."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        yield site_for(lab, tmp_path, images)


@pytest.fixture
def older_site(tmp_path: Path) -> Iterator[Site]:
    """A lab of the older version."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", pve="8.4") as lab:
        yield site_for(lab, tmp_path, images)


@contextmanager
def logged_in(host: PveHost, fleet: Fleet) -> Iterator[ProxmoxAccess]:
    cluster = next(iter(fleet.spec.clusters.values()))
    with host, SshHosts().open(host.spec()) as shell:
        yield entered_through(cluster.address, shell, SystemClock())


@pytest.mark.parametrize(("version", "user"), [("older_site", "root"), ("site", "admin")], ids=["8.4", "9.1"])
def test_pvesh_does_what_a_password_does(
    request: pytest.FixtureRequest, tmp_path: Path, version: str, user: str
) -> None:
    site: Site = request.getfixturevalue(version)
    fleet = bare_fleet(site)
    bare = everything(site)
    by_password = Granting(door_of(site)).preview(wish(fleet))
    host = PveHost.typical(tmp_path / "pve1", lab=site.lab, user=user)
    with logged_in(host, fleet) as door:
        granting = Granting(door)
        plan = granting.preview(wish(fleet))
        assert plan == by_password
        report = granting.apply(plan)
        assert report.missing == ()
        assert granting.preview(wish(fleet)).is_empty
        secret = site.lab.token()
        assert secret_file(site).read_text().strip() == secret
        live(fleet)
        # What was printed is what was run.
        run = [words[:-2] for words in host.commands("pvesh") if words[1] != "get"]
        assert run == [shlex.split(step.command) for step in plan.steps]
        granting.apply(granting.preview_undo(wish(fleet)))
        assert everything(site) == bare
        # Whoever is on that server may read command lines.
        assert not any(secret in " ".join(words) for words in host.commands("pvesh"))


def test_a_user_without_sudo_is_told_so(site: Site, tmp_path: Path) -> None:
    fleet = bare_fleet(site)
    host = PveHost.typical(tmp_path / "pve1", lab=site.lab, user="admin", sudo=None)
    with pytest.raises((PermissionMissingError, LoginRefusedError)), logged_in(host, fleet) as door:
        Granting(door).preview(wish(fleet))


def test_a_machine_that_is_no_proxmox_is_found_out(site: Site, tmp_path: Path) -> None:
    fleet = bare_fleet(site)
    host = PveHost.typical(tmp_path / "pve1", lab=site.lab)
    host.remove_command("pvesh")
    with pytest.raises(HypervisorError, match="there is no pvesh on that machine"), logged_in(host, fleet) as door:
        Granting(door).preview(wish(fleet))


def test_proxmox_own_words_come_through(site: Site, tmp_path: Path) -> None:
    fleet = bare_fleet(site)
    host = PveHost.typical(tmp_path / "pve1", lab=site.lab)
    with logged_in(host, fleet) as door:
        with pytest.raises(HypervisorError, match="create role failed: role 'PVEAdmin' already exists"):
            door._call("POST", "access/roles", roleid="PVEAdmin")
        with pytest.raises(
            HypervisorError, match=r"Parameter verification failed\. roleid: invalid format - role name 'a b'"
        ):
            door._call("POST", "access/roles", roleid="a b")
