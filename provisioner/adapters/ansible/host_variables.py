"""A Preparation as the variables of `prepare-hypervisor.yml`: plain YAML that a person can read before it is used."""

from __future__ import annotations

import yaml

from provisioner.adapters.ssh.host_files import render_record
from provisioner.domain.host_files import HostState, sha256
from provisioner.domain.host_preparation import Preparation

_ABSENT = "absent"


class _Text(str):
    """Text of a file: never a template, shown line by line where YAML can."""


class _Dumper(yaml.SafeDumper):
    pass


def _represent(dumper: yaml.SafeDumper, text: _Text) -> yaml.ScalarNode:
    # Without the tag Ansible would take {{ in a file for a template.
    return dumper.represent_scalar("!unsafe", str(text), style="|" if "\n" in text else '"')


_Dumper.add_representer(_Text, _represent)


def host_variables(preparation: Preparation, state: HostState) -> str:
    """Return the variables as YAML.

    Args:
        preparation: what was decided, with nothing refused.
        state: what it was decided from.
    """
    kept = {each.path: each for each in preparation.record.files}
    files = []
    for change in preparation.files:
        before = _sum(change.before)
        copy = kept[change.path].copy
        files.append(
            {
                "path": change.path,
                "before": before,
                "after": _sum(change.after),
                # The original of an earlier run is kept already, and what is there now is our own work.
                "original": copy if copy is not None and kept[change.path].before == before else "",
                "mode": change.mode,
                "owner": change.owner,
                "group": change.group,
                "content": _Text(change.after or ""),
            }
        )
    variables = {
        "prepared_files": files,
        "prepared_record": _Text(render_record(preparation.record)),
        "prepared_record_before": state.record_sum or _ABSENT,
        "prepared_refresh": [command.line for command in preparation.commands],
    }
    text: str = yaml.dump(variables, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return text


def _sum(text: str | None) -> str:
    return _ABSENT if text is None else sha256(text)
