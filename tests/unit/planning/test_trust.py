"""Whom to trust before any secret is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.discovery import CertificateSeen
from provisioner.domain.fleet import TlsTrust
from provisioner.domain.name_rules import normal_fingerprint
from provisioner.errors import UntrustedError
from provisioner.planning.trust import nobody_to_ask, trust_in

ONE, OTHER = ":".join(["AB"] * 32), ":".join(["CD"] * 32)
KNOWN, SELF_SIGNED = CertificateSeen(ONE, None), CertificateSeen(ONE, "self-signed certificate")
PINNED, BY_FILE, BY_SYSTEM = TlsTrust(fingerprint=ONE), TlsTrust(ca_file=Path("ca.pem")), TlsTrust()


@pytest.mark.parametrize(
    ("seen", "wanted", "trust"),
    [
        (KNOWN, BY_SYSTEM, BY_SYSTEM),
        (KNOWN, BY_FILE, BY_FILE),
        # What was pinned stays pinned, whoever else vouches for it.
        (KNOWN, PINNED, PINNED),
        (SELF_SIGNED, PINNED, PINNED),
        (SELF_SIGNED, BY_SYSTEM, None),
    ],
)
def test_trust_is_what_was_wanted_or_a_persons_to_give(
    seen: CertificateSeen, wanted: TlsTrust, trust: TlsTrust | None
) -> None:
    assert trust_in(seen, wanted, subject="x") == trust


def test_another_fingerprint_is_refused_even_if_an_authority_vouches_for_it() -> None:
    with pytest.raises(UntrustedError) as caught:
        trust_in(KNOWN, TlsTrust(fingerprint=OTHER), subject="x")
    assert ONE in caught.value.summary
    assert OTHER in caught.value.summary


def test_an_authority_that_did_not_sign_it_is_no_reason_to_ask() -> None:
    with pytest.raises(UntrustedError, match="self-signed"):
        trust_in(SELF_SIGNED, BY_FILE, subject="x")


def test_a_script_is_told_what_to_add() -> None:
    assert f"--accept-fingerprint {ONE}" in nobody_to_ask(SELF_SIGNED, subject="x").next_step


@pytest.mark.parametrize("text", ["ab" * 32, ONE, ONE.lower(), f" {ONE} "])
def test_a_fingerprint_is_read_in_every_form(text: str) -> None:
    assert normal_fingerprint(text) == ONE


@pytest.mark.parametrize("text", ["", "AB:CD", "AB" * 31, "XY" * 32, "AB" * 20])
def test_what_is_no_sha256_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 digits"):
        normal_fingerprint(text)
