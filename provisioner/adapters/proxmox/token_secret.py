"""Whether the token's secret is on this machine, and whether Proxmox accepts it. Reads, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from provisioner.adapters.secrets import SecretText, read_secret
from provisioner.domain.access import AccessWanted, SecretSeen, SecretState
from provisioner.domain.fleet import SecretReference, SecretSource
from provisioner.errors import InputError


def look_at_secret(
    wanted: AccessWanted,
    accepts: Callable[[SecretText], bool] | None,
    environment: Mapping[str, str] = os.environ,
) -> SecretSeen:
    """Return where the secret is and what is known of it.

    Args:
        wanted: names the fleet's place for it, and perhaps another for a new one.
        accepts: tries a secret; None when there is no token to try it with.
        environment: where ``env:`` references are looked up.

    Raises:
        InputError: two places are named for one secret.
        HypervisorError: a secret could not be tried.
    """
    reference = wanted.cluster.token_secret
    if reference.source is SecretSource.FILE:
        file = Path(reference.name)
        if wanted.secret_file not in (None, file):
            raise InputError(
                f"cannot tell where the token's secret goes: the fleet file says {reference}, you say "
                f"{wanted.secret_file}",
                subject=f"cluster {wanted.cluster.name}",
                next_step="leave --secret-file out: it is for a fleet file that takes the secret from the environment",
            )
        return _of_file(reference, file, accepts)
    if environment.get(reference.name):
        state = _state(read_secret(reference, subject=_subject(wanted), environment=environment), accepts)
        if state is SecretState.ACCEPTED or (wanted.secret_file is None and accepts is not None):
            return SecretSeen(state, str(reference))
    if wanted.secret_file is None:
        return SecretSeen(SecretState.NOWHERE, str(reference))
    target = SecretReference(SecretSource.FILE, str(wanted.secret_file))
    return _of_file(target, wanted.secret_file, accepts)


def _of_file(reference: SecretReference, file: Path, accepts: Callable[[SecretText], bool] | None) -> SecretSeen:
    place = str(reference)
    try:
        if not file.exists():
            return SecretSeen(SecretState.ABSENT, place, file)
        if file.is_file() and file.stat().st_size == 0:
            return SecretSeen(SecretState.EMPTY, place, file)
        secret = read_secret(reference, subject=place)
    except OSError as error:
        return SecretSeen(SecretState.UNUSABLE, place, file, error.strerror or type(error).__name__)
    except InputError as error:
        return SecretSeen(SecretState.UNUSABLE, place, file, f"{error.summary}; {error.next_step}")
    return SecretSeen(_state(secret, accepts), place, file)


def _state(secret: SecretText, accepts: Callable[[SecretText], bool] | None) -> SecretState:
    if accepts is None:
        return SecretState.SAVED
    return SecretState.ACCEPTED if accepts(secret) else SecretState.REFUSED


def _subject(wanted: AccessWanted) -> str:
    return f"cluster {wanted.cluster.name}"
