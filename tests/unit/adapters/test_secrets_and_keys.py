"""Secrets stay secret; keys are made once."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from provisioner.adapters.secrets import SecretText, read_secret
from provisioner.adapters.ssh.login_key import LoginKey
from provisioner.domain.fleet import SecretReference, SecretSource
from provisioner.errors import InputError


def test_a_secret_does_not_show_itself() -> None:
    secret = SecretText("hunter2")
    assert "hunter2" not in f"{secret} {secret!r}"
    assert secret.reveal() == "hunter2"


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(InputError, match="env:TOKEN: the environment variable is not set") as caught:
        read_secret(SecretReference(SecretSource.ENV, "TOKEN"), subject="cluster homelab", environment={})
    assert "export TOKEN=" in caught.value.next_step


def private_file(folder: Path, content: bytes, mode: int) -> SecretReference:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return SecretReference(SecretSource.FILE, str(path))


def test_a_password_may_hold_spaces_and_any_sign(tmp_path: Path) -> None:
    chosen = private_file(tmp_path, " correct horse ü \r\n".encode(), 0o600)
    assert read_secret(chosen, subject="x", is_password=True).reveal() == " correct horse ü "


def test_a_private_file_is_read(tmp_path: Path) -> None:
    assert read_secret(private_file(tmp_path, b"s3cret\n", 0o600), subject="x").reveal() == "s3cret"


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"s3cret", 0o644, "others may read"),
        (b"value\ns3cret", 0o600, "more than one word"),
        ("│ s3cret │".encode(), 0o600, "more than one word"),
        (b" \n", 0o600, "empty"),
        (b"\xff\xfe", 0o600, "not text"),
    ],
)
def test_an_unfit_file_is_refused_without_its_content(tmp_path: Path, content: bytes, mode: int, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_secret(private_file(tmp_path, content, mode), subject="x")
    assert "s3cret" not in str(caught.value)


def test_a_login_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(LoginKey(None, tmp_path).public_line())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert stat.S_IMODE((tmp_path / "ssh" / "id_ed25519").stat().st_mode) == 0o600


@pytest.mark.parametrize(("content", "words"), [(None, "no such file"), (b"garbage", "no private key")])
def test_an_unusable_login_key_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        LoginKey(path, tmp_path).key()


def test_a_login_key_with_a_passphrase_is_called_one(tmp_path: Path) -> None:
    text = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"open sesame")
    )
    path = tmp_path / "key"
    path.write_bytes(text)
    with pytest.raises(InputError, match="it is protected by a passphrase"):
        LoginKey(path, tmp_path).key()
