"""The way to a cluster that no fleet file names yet."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from provisioner.domain.discovery import CertificateSeen, Discovery
from provisioner.domain.fleet import ClusterAddress
from provisioner.ports.access import AccessDoor


class ClusterDoor(Protocol):
    """Looks at a server from outside, then inside.

    `certificate` and `knock` come before any secret is read or sent; `discover`
    logs in and changes nothing; `access` goes on with that login.
    """

    def certificate(self, api_url: str, ca_file: Path | None = None) -> CertificateSeen:
        """Return the certificate that the server shows, judged by a CA file or by the system's trust store.

        Raises:
            UnreachableError: nothing answers there.
            HypervisorError: what answers speaks no TLS.
            InputError: the CA file cannot be read.
        """
        ...

    def knock(self, address: ClusterAddress) -> None:
        """Make sure, without logging in, that a Proxmox VE answers and shows the trusted certificate.

        Raises:
            UntrustedError: it is not the certificate that is trusted.
            HypervisorError: something else answers.
        """
        ...

    def discover(self, address: ClusterAddress) -> Discovery:
        """Log in and look at everything. What may not be seen is noted, not raised.

        Raises:
            HypervisorError: the login is refused, or the server went away.
        """
        ...

    def access(self, address: ClusterAddress) -> AccessDoor:
        """Return the way to the cluster's users and rights for who logged in. Asks nothing yet."""
        ...
