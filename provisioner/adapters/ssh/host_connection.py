"""Opens an SSH connection to a hypervisor: its host key verified, whatever else; every failure in words."""

from __future__ import annotations

import errno
import logging
import socket

import fabric
import paramiko
from paramiko.ssh_exception import IncompatiblePeer, NoValidConnectionsError

from provisioner.adapters.ssh.host_keys import KeyLogin
from provisioner.adapters.ssh.host_trust import HostTrust, fingerprint_of, trust_for
from provisioner.domain.fleet import HypervisorSpec, HypervisorSsh
from provisioner.errors import InputError, ProvisionerError, UnreachableError, UntrustedError

# Its transport thread logs a traceback for every connection that a rebooting host drops.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

# A server across the world answers within a second; one that boots drops packets, and the caller asks again.
_CONNECT_SECONDS = 10.0
# sshd looks up its client's name first, which takes a while where name service is broken.
_BANNER_SECONDS = 30.0
# OpenSSH has three kinds of host keys switched on, and a card kind each.
_MOST_KINDS = 6
_SAME_KEY = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")}


class _WrongKey(Exception):
    """The host showed a key that is not trusted."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _Judge(paramiko.MissingHostKeyPolicy):
    """Asked for every host, since Paramiko is given no key to know it by."""

    def __init__(self, trust: HostTrust) -> None:
        self._trust = trust

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        shown = f"{key.get_name()} {key.get_base64()}"
        if not self._trust.accepts(shown):
            raise _WrongKey(shown)


def subject_of(hypervisor: HypervisorSpec) -> str:
    """Return the hypervisor in the words of every message: `hypervisor pve1 (root@10.10.0.2)`."""
    ssh = hypervisor.ssh
    if ssh is None:
        return f"hypervisor {hypervisor.name}"
    return f"hypervisor {hypervisor.name} ({ssh.user}@{ssh.address}{f':{ssh.port}' if ssh.port != 22 else ''})"


def ssh_of(hypervisor: HypervisorSpec) -> HypervisorSsh:
    """Return how to log in. Raises InputError when the fleet file does not say."""
    if hypervisor.ssh is None:
        raise InputError(
            "cannot log in: the fleet file does not say where",
            subject=subject_of(hypervisor),
            next_step=f"add under hypervisors.{hypervisor.name}: ssh: {{address: ITS-ADDRESS, user: root}}",
        )
    return hypervisor.ssh


def connect(hypervisor: HypervisorSpec) -> fabric.Connection:
    """Log in once. Raises what the port `Hosts.open` names."""
    ssh = ssh_of(hypervisor)
    trust = trust_for(ssh)
    shown: list[str] = []
    # A host has several keys, and shows one: ask for the kinds that can be right, then for those not yet seen.
    wanted: tuple[str, ...] | None = trust.kinds or None
    for _ in range(_MOST_KINDS):
        try:
            return _attempt(hypervisor, ssh, trust, only=wanted, but=[key.split()[0] for key in shown])
        except _WrongKey as wrong:
            shown.append(wrong.key)
            if trust.fingerprint is None:
                break
        except IncompatiblePeer as error:
            if wanted is None and not shown:
                raise _unreachable(hypervisor, ssh, error) from error
            if wanted is None:
                break
            wanted = None  # it has no key of the known kind: see what it has instead
    raise _untrusted(hypervisor, ssh, trust, shown)


def _attempt(
    hypervisor: HypervisorSpec, ssh: HypervisorSsh, trust: HostTrust, *, only: tuple[str, ...] | None, but: list[str]
) -> fabric.Connection:
    connection = fabric.Connection(
        ssh.address,
        user=ssh.user,
        port=ssh.port,
        config=fabric.Config(overrides={"load_ssh_configs": False}, lazy=True),
        connect_timeout=_CONNECT_SECONDS,
        connect_kwargs={
            "auth_strategy": KeyLogin(ssh, subject_of(hypervisor)),
            "banner_timeout": _BANNER_SECONDS,
            "auth_timeout": _BANNER_SECONDS,
            "disabled_algorithms": {"keys": _unwanted(only, but)},
        },
    )
    connection.client.set_missing_host_key_policy(_Judge(trust))
    try:
        connection.open()
    except BaseException as error:
        connection.close()
        if isinstance(error, (_WrongKey, IncompatiblePeer, ProvisionerError)):
            raise
        if isinstance(error, (OSError, EOFError, UnicodeError, paramiko.SSHException)):
            raise _unreachable(hypervisor, ssh, error) from error
        raise
    return connection


def _unwanted(only: tuple[str, ...] | None, but: list[str]) -> list[str]:
    """Return the kinds of host keys that are not to be agreed upon."""
    known = paramiko.Transport._preferred_keys  # type: ignore[attr-defined]
    right = {name for kind in only or () for name in _SAME_KEY.get(kind, (kind,))}
    seen = {name for kind in but for name in _SAME_KEY.get(kind, (kind,))}
    return [name for name in known if name in seen or (only is not None and name not in right)]


def _untrusted(hypervisor: HypervisorSpec, ssh: HypervisorSsh, trust: HostTrust, shown: list[str]) -> UntrustedError:
    key = shown[0]
    kind = key.split()[0]
    file = {"ssh-rsa": "rsa", "ssh-ed25519": "ed25519"}.get(kind, "ecdsa")
    compare = f"compare on its own console: ssh-keygen -lf /etc/ssh/ssh_host_{file}_key.pub"
    line = f"host_key: {key}"
    place = f"hypervisors.{hypervisor.name}.ssh"
    found = ", ".join(f"{one.split()[0]} {fingerprint_of(one)}" for one in shown)
    if any(one in trust.revoked for one in shown):
        summary = f"cannot log in: it shows host key {found}, which {trust.source} marks as revoked"
        step = f"do not go on before you know why somebody revoked it; {compare}"
    elif trust.is_empty:
        summary = f"cannot log in: nobody has vouched for its host key {found}"
        step = f"{compare}; if it is the same, put this under {place} in the fleet file: {line}"
    else:
        expected = ", ".join(trust.fingerprints)
        summary = f"cannot log in: it shows host key {found}, {trust.source} knows it by {expected}"
        mend = f"put this under {place}: {line}"
        if trust.source != "the fleet file":
            mend = f"run `ssh-keygen -R {_place(ssh)}` and {mend}"
        step = f"another machine has this address, or it was installed anew: {compare}; if it is the same, {mend}"
    return UntrustedError(summary, subject=subject_of(hypervisor), next_step=step)


def _place(ssh: HypervisorSsh) -> str:
    return ssh.address if ssh.port == 22 else f"[{ssh.address}]:{ssh.port}"


def _unreachable(hypervisor: HypervisorSpec, ssh: HypervisorSsh, error: BaseException) -> UnreachableError:
    reason, step = _explained(ssh, error)
    return UnreachableError(
        f"cannot log in: {reason}",
        subject=subject_of(hypervisor),
        next_step=step,
        retryable=not isinstance(error, (socket.gaierror, UnicodeError, IncompatiblePeer)),
    )


def _explained(ssh: HypervisorSsh, error: BaseException) -> tuple[str, str]:
    """Return what happened and what to do about it."""
    place = f"{ssh.address} port {ssh.port}"
    address = "check ssh.address and ssh.port in the fleet file"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f'no address is known for the name "{ssh.address}"', "check ssh.address in the fleet file, and your DNS"
    if isinstance(error, NoValidConnectionsError):
        codes = {getattr(one, "errno", None) for one in error.errors.values()}
        if codes == {errno.ECONNREFUSED}:
            step = f"see on its console that sshd runs (systemctl status ssh), and {address}"
            return f"{place} refuses connections", step
        return f"there is no way to {place}", f"see that the server is on, and {address}"
    if isinstance(error, TimeoutError):
        return f"{place} does not answer within {_CONNECT_SECONDS:g} s", f"see that the server is on, and {address}"
    if isinstance(error, IncompatiblePeer):
        return f"{place} speaks no SSH that we accept ({error})", "bring OpenSSH up to date there"
    if isinstance(error, paramiko.SSHException) and "banner" in str(error).lower():
        return f"what answers at {place} is no SSH server, or busy ({error})", address
    if isinstance(error, (EOFError, ConnectionResetError, paramiko.SSHException)):
        words = str(error) or "no reason given"
        return f"{place} closed the connection ({words})", "look at journalctl -u ssh there, and try again"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"there is no way to {place}", f"check your network, and {address}"
    return f"{place}: {getattr(error, 'strerror', None) or error or type(error).__name__}", address
