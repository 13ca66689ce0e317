"""The port `ClusterDoor` over Proxmox: look at the certificate, knock, log in and look around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from provisioner.adapters.proxmox import certificate, discovery
from provisioner.adapters.proxmox.session import PasswordLogin, ProxmoxSession, TokenLogin
from provisioner.domain.discovery import CertificateSeen, Discovery
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import LoginRefusedError


class ProxmoxDoor:
    """One server. `login` is called once the server is trusted: no secret is read before."""

    def __init__(self, login: Callable[[], TokenLogin | PasswordLogin]) -> None:
        self._login = login

    def certificate(self, api_url: str, ca_file: Path | None = None) -> CertificateSeen:
        """Return the certificate that the server shows."""
        return certificate.certificate(api_url, ca_file)

    def knock(self, address: ClusterAddress) -> None:
        """Make sure that a Proxmox VE answers, without logging in."""
        certificate.knock(address)

    def discover(self, address: ClusterAddress) -> Discovery:
        """Log in and look at everything."""
        login = self._login()
        try:
            return discovery.discover(ProxmoxSession(address, login), address.api_url)
        except LoginRefusedError as error:
            if isinstance(login, TokenLogin):
                # The session's advice is for those who have a fleet file.
                raise LoginRefusedError(
                    error.summary,
                    subject=address.api_url,
                    next_step="check --token-id (USER@REALM!TOKENID) and what --token-secret names",
                ) from error
            raise
