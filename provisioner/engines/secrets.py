"""The secrets that an engine is started with: named by the variable that takes each, never among its arguments."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.fleet import SecretReference
from provisioner.engines.base import Setting


def secrets_of(setting: Setting, key_variable: str, *, fetches: bool = True) -> Mapping[str, SecretReference]:
    """Return where an engine's secrets are.

    Args:
        setting: the mode on its node.
        key_variable: what takes the key that clients must send; empty for an engine that asks nobody.
        fetches: whether it fetches models from Hugging Face by itself.
    """
    found: dict[str, SecretReference] = {}
    if fetches and setting.huggingface_token is not None:
        found["HF_TOKEN"] = setting.huggingface_token
    if key_variable and setting.node.api_key is not None:
        found[key_variable] = setting.node.api_key
    return found


def unlocked(title: str, port: int) -> str:
    """Return what a plan says of an engine that asks nobody for the key that its node has."""
    return f"{title} takes no API key: whoever reaches port {port} may use it, and allowed_networks says who does"
