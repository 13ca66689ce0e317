"""The steps that make user and token, and see to it that the token's secret is kept; pure.

Proxmox shows a secret once, when it makes the token. So the file comes first,
empty; a token of ours whose file is still empty was made by a run that was
killed in between, and only a new token helps.
"""

from __future__ import annotations

from pathlib import Path

from provisioner.domain.access import MARK, AccessSeen, AccessWanted, SecretState, TokenSeen
from provisioner.domain.access_plan import AccessStep, Obstacle, Secret

_OVER_USERS = ("/access/groups", "User.Modify")

Found = tuple[tuple[AccessStep, ...], tuple[Obstacle, ...]]


def identity_steps(seen: AccessSeen, wanted: AccessWanted) -> Found:
    """Return the steps for user and token, and what is in their way."""
    user = seen.users.get(wanted.user)
    if user is None:
        steps, obstacles = _token_steps(seen, wanted, None)
        return (_user_step(wanted), *steps), obstacles
    steps, obstacles = _token_steps(seen, wanted, user.tokens.get(wanted.token))
    if not user.is_enabled:
        asleep = Obstacle(
            f"user {wanted.user} is disabled or has expired, and its tokens with it",
            f"enable it (Datacenter > Permissions > Users), or: pvesh set /access/users/{wanted.user} --enable 1",
        )
        return steps, (*obstacles, asleep)
    return steps, obstacles


def makes_token(steps: tuple[AccessStep, ...]) -> bool:
    """Say whether the token will be a new one, to which no rule applies yet."""
    return any(step.secret is Secret.KEEP for step in steps)


def token_path(wanted: AccessWanted) -> str:
    """Return the API's path of the token."""
    return f"/access/users/{wanted.user}/token/{wanted.token}"


def _user_step(wanted: AccessWanted) -> AccessStep:
    realm = wanted.user.rpartition("@")[2]
    return AccessStep(
        name=f"create user {wanted.user}",
        sentence=f"create the user {wanted.user}; it has no password, so nobody logs in as it",
        method="POST",
        path="/access/users",
        parameters={"userid": wanted.user, "comment": MARK},
        needs=((f"/access/realm/{realm}", "Realm.AllocateUser"), _OVER_USERS),
    )


def _token_steps(seen: AccessSeen, wanted: AccessWanted, token: TokenSeen | None) -> Found:
    secret, name = seen.secret, wanted.cluster.token_id
    saved = (SecretState.SAVED, SecretState.ACCEPTED, SecretState.REFUSED)
    if secret.state is SecretState.UNUSABLE:
        return (), (Obstacle(f"the token's secret at {secret.place}: {secret.reason}", "mend that first", True),)
    if token is None:
        if secret.state in saved:
            return (), (
                Obstacle(
                    f"{secret.place} holds a secret already, but the cluster has no token {name}",
                    "it is an old one or another cluster's, and is never written over: move it away, then run the "
                    "same command again",
                    is_blocking=True,
                ),
            )
        if secret.file is None:
            return (), (_no_place(wanted),)
        return (_create_step(wanted, secret.file),), ()
    if secret.state is SecretState.ACCEPTED:
        if token.is_ours and not token.is_separated:
            return (_separate_step(wanted),), ()
        return (), ()
    if secret.state is SecretState.REFUSED:
        again = "run the same command again for a new one" if token.is_ours else "put the token's secret there"
        return (), (
            Obstacle(
                f"Proxmox does not accept the secret at {secret.place} for the token {name}",
                f"move it away, then {again}",
            ),
        )
    if not token.is_ours:
        return (), (
            Obstacle(
                f"the token {name} exists, is not of our making, and {secret.place} does not hold its secret",
                "put it there, or name another token in the fleet file: one that does not exist is made",
            ),
        )
    if secret.file is None:
        return (), (_no_place(wanted),)
    return (_delete_step(wanted), _create_step(wanted, secret.file)), ()


def _no_place(wanted: AccessWanted) -> Obstacle:
    return Obstacle(
        f"the fleet file takes the token's secret from {wanted.cluster.token_secret}, where a new one cannot be kept",
        "say where to: --secret-file PATH, or file:PATH in the fleet file",
        is_blocking=True,
    )


def _create_step(wanted: AccessWanted, file: Path) -> AccessStep:
    return AccessStep(
        name=f"create token {wanted.cluster.token_id}",
        sentence=f"create the API token {wanted.cluster.token_id}, with no more rights than it is given itself, "
        f"and keep its secret in {file} (mode 600)",
        method="POST",
        path=token_path(wanted),
        parameters={"privsep": 1, "expire": 0, "comment": MARK},
        needs=(_OVER_USERS,),
        secret=Secret.KEEP,
        file=file,
    )


def _delete_step(wanted: AccessWanted) -> AccessStep:
    name = wanted.cluster.token_id
    return AccessStep(
        name=f"delete token {name}",
        sentence=f"delete the token {name}: its secret was never saved, and Proxmox shows it only once",
        method="DELETE",
        path=token_path(wanted),
        needs=(_OVER_USERS,),
        changes=f"the token {name} -> a new one of that name, with another secret",
    )


def _separate_step(wanted: AccessWanted) -> AccessStep:
    name = wanted.cluster.token_id
    return AccessStep(
        name=f"separate token {name}",
        sentence=f"let the token {name} have no more rights than it is given itself",
        method="PUT",
        path=token_path(wanted),
        parameters={"privsep": 1},
        needs=(_OVER_USERS,),
        changes=f"every right of {wanted.user} -> those that the token is given itself",
    )
