"""The port `ClusterDoor` over Proxmox: look at the certificate, knock, log in and look around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from provisioner.adapters.proxmox import certificate, discovery
from provisioner.adapters.proxmox.access import entered_as
from provisioner.adapters.proxmox.session import PasswordLogin, ProxmoxSession, TokenLogin
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.discovery import CertificateSeen, Discovery
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import LoginRefusedError
from provisioner.ports.access import AccessDoor
from provisioner.ports.clock import Clock


class ProxmoxDoor:
    """One server. `login` is called once, when the server is trusted: no secret is read before."""

    def __init__(self, login: Callable[[], TokenLogin | PasswordLogin], clock: Clock | None = None) -> None:
        self._read_login = login
        self._clock = clock or SystemClock()
        self._entered: tuple[ProxmoxSession, TokenLogin | PasswordLogin] | None = None

    def certificate(self, api_url: str, ca_file: Path | None = None) -> CertificateSeen:
        """Return the certificate that the server shows."""
        return certificate.certificate(api_url, ca_file)

    def knock(self, address: ClusterAddress) -> None:
        """Make sure that a Proxmox VE answers, without logging in."""
        certificate.knock(address)

    def discover(self, address: ClusterAddress) -> Discovery:
        """Log in and look at everything."""
        session, login = self._session(address)
        try:
            return discovery.discover(session, address.api_url)
        except LoginRefusedError as error:
            if isinstance(login, TokenLogin):
                # The session's advice is for those who have a fleet file.
                raise LoginRefusedError(
                    error.summary,
                    subject=address.api_url,
                    next_step="check --token-id (USER@REALM!TOKENID) and what --token-secret names",
                ) from error
            raise

    def access(self, address: ClusterAddress) -> AccessDoor:
        """Return the way to users and rights."""
        session, login = self._session(address)
        return entered_as(session, login.words, self._clock)

    def _session(self, address: ClusterAddress) -> tuple[ProxmoxSession, TokenLogin | PasswordLogin]:
        if self._entered is None:
            login = self._read_login()
            self._entered = ProxmoxSession(address, login, clock=self._clock), login
        return self._entered
