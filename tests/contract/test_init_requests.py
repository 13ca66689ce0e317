"""Every request of `init` is one that the official API description accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.lab.harness import RunningLab
from tests.contract.pve_schema import SOURCES, complaints, official_api
from tests.lab.init_support import SEVERAL, as_root, run_init


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder: Path = tmp_path_factory.mktemp("init")
    with RunningLab(folder / "lab", state=SEVERAL) as lab:
        assert run_init(*as_root(lab, folder), "--output", folder / "fleet.yml").error is None
        return list(lab.requests())


@pytest.mark.parametrize("source", SOURCES)
def test_every_request_is_accepted_by_the_official_description(requests: list[dict[str, object]], source: str) -> None:
    api = official_api(source)
    paths = {str(request["path"]) for request in requests}
    for word in (
        "/access/domains",
        "/access/permissions",
        "/cluster/status",
        "/hardware/pci",
        "/dns",
        "/lxc/300/config",
    ):
        assert any(word in path for path in paths), word
    for request in requests:
        # The journal hides secrets, and "***" is a fine password.
        found = complaints(api, str(request["method"]), str(request["path"]), dict(request["params"]))  # type: ignore[call-overload]
        assert not found, f"{request['method']} {request['path']}: {found}"
