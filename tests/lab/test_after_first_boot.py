"""What only the making of a node needs may be gone once it is made; and who reads along may go while it is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.errors import InputError, RefusedError
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.support import NODE, Site, site_for


def test_a_nodes_own_user_data_is_read_only_for_a_seed(site: Site) -> None:
    extra = site.folder / "extra.yml"
    extra.write_text("#cloud-config\nruncmd:\n  - [touch, /etc/mine]\n")
    fleet = site.fleet(lambda text: text.replace(f"  {NODE}: {{", f"  {NODE}: {{extra_user_data: {extra}, "))
    fleet.up(NODE)
    extra.unlink()
    assert not fleet.plan(NODE).has_changes
    assert fleet.up(NODE).changed == ()
    fleet.destroy(NODE)
    for act in (fleet.plan, fleet.up):
        with pytest.raises(InputError, match=r"extra\.yml"):
            act(NODE)


def test_storages_for_images_and_seeds_are_checked_only_for_a_node_that_is_to_be_made(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    site.lab.call("PUT", "/storage/local", content="vztmpl")
    assert fleet.up(NODE).changed == ()
    fleet.destroy(NODE)
    with pytest.raises(RefusedError, match="not import"):
        fleet.up(NODE)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away_stops_no_work(tmp_path: Path, options: tuple[str, ...]) -> None:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", boot_seconds=1.0) as lab:
        site = site_for(lab, tmp_path, images)
        with subprocess.Popen(
            [sys.executable, "-m", "provisioner", "up", NODE, *options],
            env=site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            assert client.stdout is not None
            assert client.stderr is not None
            assert client.stdout.readline()
            client.stdout.close()
            said = client.stderr.read()
        assert (client.returncode, said) == (0, "nobody reads the output any more; the work goes on\n")
        assert site.fleet().up(NODE).changed == ()
