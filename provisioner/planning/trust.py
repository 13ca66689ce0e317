"""Whether a certificate is trusted, before any secret is sent to whoever showed it; pure."""

from __future__ import annotations

from provisioner.domain.discovery import CertificateSeen
from provisioner.domain.fleet import TlsTrust
from provisioner.errors import UntrustedError

_COMPARE = "compare with what `pvenode cert info` shows on the server (or its page System > Certificates)"


def trust_in(seen: CertificateSeen, wanted: TlsTrust, *, subject: str) -> TlsTrust | None:
    """Return how the server will be trusted, or None where only a person can say.

    Args:
        seen: the certificate that the server showed, judged by `wanted`'s CA file if it has one.
        wanted: what the person said to trust; empty for the system's trust store.
        subject: the server, in the words of messages.

    Raises:
        UntrustedError: the certificate is not the one that the person named, or not signed by their authority.
    """
    if wanted.fingerprint is not None:
        if seen.fingerprint != wanted.fingerprint:
            raise UntrustedError(
                f"cannot trust the server: its certificate is {seen.fingerprint}, you gave {wanted.fingerprint}",
                subject=subject,
                next_step=f"{_COMPARE}; nothing secret was sent",
            )
        return wanted
    if wanted.ca_file is not None:
        if not seen.is_trusted:
            raise UntrustedError(
                f"cannot trust the server's certificate: {seen.doubt}",
                subject=subject,
                next_step=f"check that {wanted.ca_file} signed it for this address, or give --fingerprint instead "
                f"({seen.fingerprint}): {_COMPARE}",
            )
        return wanted
    return TlsTrust() if seen.is_trusted else None


def nobody_to_ask(seen: CertificateSeen, *, subject: str) -> UntrustedError:
    """Return the refusal for a certificate that nobody vouches for where there is no person to ask."""
    return UntrustedError(
        f"cannot trust the server's certificate ({seen.doubt}); its SHA-256 fingerprint is {seen.fingerprint}",
        subject=subject,
        next_step=f"{_COMPARE}; if they agree, add --accept-fingerprint {seen.fingerprint}",
    )
