"""The cluster's API through ``pvesh`` on one of its servers, for those who have a root shell there and no password.

``pvesh`` acts as root@pam. Parameters stand on its command line, which others
on the server may see: nothing secret may be among them. What comes back is not
logged.
"""

from __future__ import annotations

import json
import re
from typing import Any

from proxmoxer.core import ResourceException

from provisioner.adapters.proxmox.answers import Words, refusal
from provisioner.domain.access_plan import Parameter, pvesh_command
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import HypervisorError, PermissionMissingError
from provisioner.ports.guest_shell import CommandResult
from provisioner.ports.hosts import HostShell

_SECONDS = 60.0
"""``pvesh`` starts in a second or two, and then asks what the API may take half a minute for."""

_STATUS = re.compile(r"(?P<status>[1-5]\d\d) (?P<text>.*)")
_NOT_FOUND = 127


class PveshCaller:
    """Sends requests through a shell; answers and errors are those of `ProxmoxSession`."""

    def __init__(self, cluster: ClusterAddress, shell: HostShell) -> None:
        self._cluster = cluster
        self._shell = shell

    @property
    def subject(self) -> str:
        """The cluster, and how it is reached, in the words of messages."""
        return f"{self._words('').subject}, by pvesh"

    def call(self, method: str, path: str, /, **parameters: Any) -> Any:
        """Send one request and return its data.

        Args:
            method: GET, POST, PUT or DELETE.
            path: below ``/api2/json``.
            parameters: none of them secret.

        Raises:
            HypervisorError: as Proxmox said it, with a branch for what the caller can act on.
        """
        wire: dict[str, Parameter] = {
            name: tuple(map(str, value)) if isinstance(value, list | tuple) else value
            for name, value in parameters.items()
        }
        command = pvesh_command(method, f"/{path.strip('/')}", {**wire, "output-format": "json"})
        # In a locale that the server does not have, Perl would warn at length before it says anything else.
        result = self._shell.run(f"LC_ALL=C {command}", seconds=_SECONDS)
        if result.exit_code:
            raise self._refusal(result, f"{method} {path}", path)
        text = result.out.strip()
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise HypervisorError(
                f"cannot {method} {path}: cannot understand what pvesh printed",
                subject=self.subject,
                next_step="run pvesh get /version there and see what it says",
            ) from error

    def _refusal(self, result: CommandResult, what: str, path: str) -> Exception:
        said = [line.strip() for line in result.err.splitlines() if line.strip()] or [f"exit code {result.exit_code}"]
        if result.exit_code == _NOT_FOUND:
            return HypervisorError(
                f"cannot {what}: there is no pvesh on that machine",
                subject=self.subject,
                next_step="log in to a server of the Proxmox VE cluster",
            )
        if said[0] == "please run as root":
            return PermissionMissingError(
                f"cannot {what}: pvesh asks for root",
                subject=self.subject,
                next_step="log in as root, or as a user who may use sudo",
            )
        status, text = 500, said[0]
        if (match := _STATUS.fullmatch(said[0])) is not None:
            status, text = int(match["status"]), match["text"]
        # The last line of a complaint about parameters is how to use the command.
        pairs = (line.partition(": ") for line in said[1:] if not line.startswith("pvesh "))
        errors = {name: reason for name, colon, reason in pairs if colon}
        return refusal(ResourceException(status, "", text, errors or None), self._words(what, path))

    def _words(self, what: str, path: str = "") -> Words:
        return Words(self._cluster, "user root@pam", what, path)
