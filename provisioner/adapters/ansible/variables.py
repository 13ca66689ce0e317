"""A playbook's variables as YAML that means what it says: what looks like a template in a value is no template."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from provisioner.domain.fleet import SecretReference, SecretSource

_TEMPLATE = re.compile(r"\{[{%#]")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """Write everything out where it stands."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Without the tag Ansible would fill in a chat template as if it were its own.
    tag = "!unsafe" if _TEMPLATE.search(text) else "tag:yaml.org,2002:str"
    return dumper.represent_scalar(tag, text)


def _lookup(dumper: yaml.SafeDumper, reference: SecretReference) -> yaml.ScalarNode:
    kind = "env" if reference.source is SecretSource.ENV else "file"
    words = reference.name.replace("\\", "\\\\").replace("'", "\\'")
    text = f"{{{{ lookup('ansible.builtin.{kind}', '{words}') | trim }}}}"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(str, _text)
_Dumper.add_multi_representer(str, _text)
_Dumper.add_representer(SecretReference, _lookup)


def variables_text(variables: Mapping[str, object]) -> str:
    """Return variables as YAML; of a secret that is still a reference, the lookup that reads it when they are used."""
    text: str = yaml.dump(_plain(variables), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return text


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
