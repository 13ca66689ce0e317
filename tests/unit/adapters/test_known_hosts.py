"""known_hosts files are read as OpenSSH reads them."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.ssh.known_hosts import KnownKeys, known_keys

A = "ssh-ed25519 " + base64.b64encode(b"key a").decode()
B = "ssh-rsa " + base64.b64encode(b"key b").decode()


def hashed(name: str, salt: bytes = b"0123456789abcdef0123") -> str:
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("address", "port", "text", "trusted"),
    [
        ("10.10.0.2", 22, f"10.10.0.2 {A}", [A]),
        ("10.10.0.2", 22, f"10.10.0.2 {A} root@pve1", [A]),
        ("10.10.0.2", 22, f"pve1,10.10.0.2 {A}\n10.10.0.2 {B}", [A, B]),
        ("10.10.0.2", 22, f"10.10.0.2 {A}\n10.10.0.2 {A}", [A]),
        ("PVE1.example.org", 22, f"pve1.EXAMPLE.org {A}", [A]),
        ("pve1.example.org", 22, f"*.example.org {A}", [A]),
        ("pve1.example.org", 22, f"*.example.org,!pve1.* {A}", []),
        ("pve1.example.org", 22, f"!pve1.*,*.example.org {A}", []),
        ("pve1", 22, f"pve? {A}", [A]),
        ("pve12", 22, f"pve? {A}", []),
        ("10.10.0.2", 22, f"10.10.0.22 {A}\n110.10.0.2 {A}\n10.10.0 {A}", []),
        ("10.10.0.2", 22, f"{hashed('10.10.0.2')} {A}", [A]),
        ("10.10.0.2", 22, f"{hashed('10.10.0.3')} {A}", []),
        ("10.10.0.2", 2222, f"[10.10.0.2]:2222 {A}\n10.10.0.2 {B}", [A]),
        ("10.10.0.2", 2222, f"{hashed('[10.10.0.2]:2222')} {A}", [A]),
        ("10.10.0.2", 2222, f"10.10.0.2 {A}", [A]),
        ("10.10.0.2", 2222, f"[10.10.0.2]:2223 {A}", []),
        ("10.10.0.2", 22, f"[10.10.0.2]:2222 {A}", []),
        ("10.10.0.2", 22, f"@cert-authority 10.10.0.2 {A}", []),
        ("10.10.0.2", 22, f"# 10.10.0.2 {A}\n\n   \n10.10.0.2\n10.10.0.2 ssh-ed25519\n10.10.0.2 ssh-rsa !!!", []),
        ("10.10.0.2", 22, f"|1|bad {A}\n|2|{'A' * 8}|{'A' * 8} {A}\n|1|!|! {A}", []),
        ("10.10.0.2", 22, "", []),
    ],
)
def test_names_are_matched_as_openssh_matches_them(address: str, port: int, text: str, trusted: list[str]) -> None:
    assert known_keys(address, port, [text]) == KnownKeys(tuple(trusted))


def test_a_revoked_key_is_never_trusted_whatever_the_order() -> None:
    for text in (f"pve1 {A}\n@revoked * {A}", f"@revoked pve1 {A}\npve1 {A}"):
        assert known_keys("pve1", 22, [text]) == KnownKeys((), (A,))
    assert known_keys("pve1", 22, [f"@revoked pve1 {A}", f"pve1 {B}"]) == KnownKeys((B,), (A,))


@given(st.text(), st.text(alphabet="abc.*?![]|1,:0"), st.integers(min_value=1, max_value=65535))
def test_no_file_breaks_it(text: str, name: str, port: int) -> None:
    known_keys("10.10.0.2", port, [text, f"{name} {A}", f"{name}"])
