"""Puts secrets in the place of references to them, right before a playbook is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioner.domain.fleet import SecretReference


def with_secrets(variables: Mapping[str, object], read: Callable[[SecretReference], str]) -> dict[str, object]:
    """Return variables with every reference, however deep, replaced by its secret. Raises InputError."""

    def filled(value: object) -> object:
        if isinstance(value, SecretReference):
            return read(value)
        if isinstance(value, Mapping):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return value

    return {name: filled(value) for name, value in variables.items()}
