"""Commands beside a service: through it, or alone where there is none; never beside one that is merely slow."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from provisioner.adapters.web.private_socket import SOCKET, PrivateService, ServiceGone


def test_a_socket_that_was_left_by_a_killed_service_has_nobody_behind_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET))
    with pytest.raises(ServiceGone) as gone:
        PrivateService(tmp_path).ask("GET", "/api/service")
    assert not gone.value.was_there


def test_a_service_that_does_not_answer_in_time_is_there_all_the_same(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / SOCKET))
        busy.listen(1)
        with pytest.raises(ServiceGone) as gone:
            PrivateService(tmp_path).ask("GET", "/api/service", seconds=0.05)
    assert gone.value.was_there
