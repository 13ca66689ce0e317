"""A server before anybody logs in: which certificate it shows, and whether a Proxmox VE is behind it.

Nothing secret is sent from here. The certificate is read first without trusting
it; `knock` then holds every byte against what was decided to be trusted.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from provisioner.domain.discovery import CertificateSeen
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import HypervisorError, InputError, UnreachableError, UntrustedError

# A server on the local network answers in milliseconds; a wrong address should not cost a minute.
_CONNECT_SECONDS = 10.0
_LONGEST_ANSWER = 1 << 20


def certificate(api_url: str, ca_file: Path | None = None) -> CertificateSeen:
    """Return the certificate that a server shows. See `ClusterDoor.certificate`."""
    try:
        shown = _shown(api_url, _authorities(ca_file))
    except ssl.SSLCertVerificationError as error:
        # Not trusted, so it has to be looked at again without asking whom to trust.
        return CertificateSeen(_shown(api_url, _nobody()), error.verify_message or str(error))
    return CertificateSeen(shown, None)


def knock(address: ClusterAddress) -> None:
    """Make sure that a Proxmox VE answers, without logging in. See `ClusterDoor.knock`."""
    parts = urlsplit(address.api_url)
    pinned = address.tls.fingerprint
    context = _nobody() if pinned else _authorities(address.tls.ca_file)
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=_CONNECT_SECONDS, context=context
    )
    try:
        connection.connect()
        if pinned is not None and (shown := _fingerprint(connection.sock)) != pinned:
            raise UntrustedError(
                f"cannot trust the server: its certificate is {shown}, not {pinned}",
                subject=address.api_url,
                next_step="compare with what `pvenode cert info` shows on the server; somebody may stand in between",
            )
        # The list of realms is what the login page shows to everybody.
        connection.request("GET", "/api2/json/access/domains", headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(_LONGEST_ANSWER)
    except ssl.SSLCertVerificationError as error:
        raise UntrustedError(
            f"cannot trust the server's certificate: {error.verify_message or error}",
            subject=address.api_url,
            next_step="give its fingerprint with --fingerprint, or the authority that signed it with --ca-file",
        ) from error
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        raise _unreachable(address.api_url, error) from error
    finally:
        connection.close()
    if answer.status != 200 or "pve" not in _realms(body):
        raise HypervisorError(
            f"cannot find a Proxmox VE: what answers there is something else (HTTP {answer.status})",
            subject=address.api_url,
            next_step="give the address of the web interface of a Proxmox VE server, such as https://10.10.0.2:8006",
        )


def _realms(body: bytes) -> set[str]:
    """Read the names of realms; every Proxmox VE has "pve", no other product of theirs does."""
    try:
        rows = json.loads(body)["data"]
        return {str(row["realm"]) for row in rows}
    except (ValueError, KeyError, TypeError):
        return set()


def _authorities(ca_file: Path | None) -> ssl.SSLContext:
    try:
        # Those that the session will go by.
        return ssl.create_default_context(cafile=str(ca_file or DEFAULT_CA_BUNDLE_PATH))
    except OSError as error:
        raise InputError(
            f"cannot use the CA file: {error.strerror or error}",
            subject=str(ca_file),
            next_step="give a file with a certificate in PEM form",
        ) from error


def _nobody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _shown(api_url: str, context: ssl.SSLContext) -> str:
    parts = urlsplit(api_url)
    place = (parts.hostname or "", parts.port or 443)
    try:
        with (
            socket.create_connection(place, timeout=_CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as secured,
        ):
            return _fingerprint(secured)
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError as error:
        raise HypervisorError(
            f"cannot speak TLS with what answers there: {error.reason or error}",
            subject=api_url,
            next_step="give the address of the web interface of a Proxmox VE server, such as https://10.10.0.2:8006",
        ) from error
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is none
        raise _unreachable(api_url, error) from error


def _fingerprint(secured: object) -> str:
    der = secured.getpeercert(binary_form=True) if isinstance(secured, ssl.SSLSocket) else None
    digest = hashlib.sha256(der or b"").hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _unreachable(api_url: str, error: Exception) -> UnreachableError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UnreachableError(
        f"cannot reach Proxmox: {reason}",
        subject=api_url,
        next_step="check the address and port (8006 unless you changed it), and that the server is up",
        retryable=True,
    )
