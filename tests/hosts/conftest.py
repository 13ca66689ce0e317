"""Stand-in hosts for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pve_host import why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without namespaces of our own or sshd there is no stand-in host."""
    reason = why_not()
    if reason is None:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
