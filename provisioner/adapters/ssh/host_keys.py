"""Our half of logging in to a hypervisor: which private keys are tried, and why none was right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko

from provisioner.adapters.ssh.login_key import LoginKey, load_key
from provisioner.domain.fleet import HypervisorSsh
from provisioner.errors import InputError, LoginRefusedError

# The names that ssh-keygen gives, in the order in which the OpenSSH client tries them.
_DEFAULT_NAMES = ("id_rsa", "id_ecdsa", "id_ed25519")
_PASSWORDS = frozenset({"password", "keyboard-interactive"})


class KeyLogin:
    """Logs in with keys alone; handed to Paramiko, which calls `authenticate` once the host key is accepted."""

    def __init__(self, ssh: HypervisorSsh, subject: str) -> None:
        self._ssh = ssh
        self._subject = subject
        self._locked: list[Path] = []
        self._tried: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in, or raise LoginRefusedError or InputError that says what would let us in."""
        offered = self._offered(transport)
        if transport.is_authenticated():
            return
        if "publickey" not in offered:
            raise self._refused("the server takes no keys, only " + " or ".join(sorted(offered)))
        for name, key in self._candidates():
            self._tried.append(name)
            try:
                rest = transport.auth_publickey(self._ssh.user, key)
            except paramiko.BadAuthenticationType as error:
                raise self._refused(f"the server takes no keys, only {' or '.join(error.allowed_types)}") from error
            except paramiko.AuthenticationException:
                continue
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise self._refused(f"the server closed after {len(self._tried)} of our keys ({error})") from error
            if not rest:
                return
            raise self._refused(f"the server takes our key, and then wants {' or '.join(rest)}")
        raise self._refused(self._why_no_key(offered))

    def _offered(self, transport: paramiko.Transport) -> set[str]:
        """Return the ways in that the server offers."""
        try:
            transport.auth_none(self._ssh.user)
        except paramiko.BadAuthenticationType as error:
            return set(error.allowed_types)
        except paramiko.AuthenticationException:
            pass
        return {"publickey"}  # it keeps its ways to itself; keys are all that we have anyway

    def _candidates(self) -> Iterator[tuple[str, Any]]:
        agent = paramiko.Agent()
        try:
            if self._ssh.private_key is not None:
                yield str(self._ssh.private_key), self._named_key(agent, self._ssh.private_key)
                return
            for key in agent.get_keys():
                yield f"{key.comment or key.get_name()} of the agent", key
            for name in _DEFAULT_NAMES:
                path = Path.home() / ".ssh" / name
                try:
                    yield str(path), load_key(path)
                except paramiko.PasswordRequiredException:
                    self._locked.append(path)
                except (OSError, ValueError, paramiko.SSHException):
                    continue  # a person's own file, which may be of a kind that only OpenSSH reads
        finally:
            agent.close()

    def _named_key(self, agent: paramiko.Agent, path: Path) -> Any:
        """Return the key that the fleet file names; one with a passphrase may be in the agent."""
        try:
            return load_key(path)
        except paramiko.PasswordRequiredException as error:
            public = path.with_name(path.name + ".pub")
            wanted = public.read_text(encoding="utf-8").split()[1:2] if public.is_file() else []
            for key in agent.get_keys():
                if [key.get_base64()] == wanted:
                    return key
            raise InputError(
                "cannot use the login key: it is protected by a passphrase, and no agent holds it",
                subject=str(path),
                next_step=f"run `ssh-add {path}`, or name a key without a passphrase under ssh.private_key",
            ) from error
        except (OSError, ValueError, paramiko.SSHException):
            return LoginKey(path, path.parent).key()  # which says what is wrong with it

    def _why_no_key(self, offered: set[str]) -> str:
        if self._tried:
            count = "our key" if len(self._tried) == 1 else f"all {len(self._tried)} of our keys"
            reason = f"the server turns down {count} ({', '.join(self._tried)})"
        else:
            reason = "there is no key to log in with: no agent, and none of " + ", ".join(
                f"~/.ssh/{name}" for name in _DEFAULT_NAMES
            )
        if self._locked:
            reason += f"; not tried, for it has a passphrase: {', '.join(map(str, self._locked))}"
        if offered & _PASSWORDS:
            reason += "; it would take a password, which this tool never asks for"
        return reason

    def _refused(self, reason: str) -> LoginRefusedError:
        target = f"{self._ssh.user}@{self._ssh.address}"
        where = f"-p {self._ssh.port} {target}" if self._ssh.port != 22 else target
        named = self._ssh.private_key
        step = f"put your public key there: ssh-copy-id {f'-i {named} ' if named else ''}{where}"
        if self._locked:
            step = f"let the agent hold it: ssh-add {self._locked[0]}; or {step}"
        elif not self._tried and named is None:
            step = f"make a key with ssh-keygen -t ed25519, then {step}"
        return LoginRefusedError(f"cannot log in: {reason}", subject=self._subject, next_step=step)
