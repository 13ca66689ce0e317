"""Fetches a distribution's cloud image for machines with a network and hardware acceleration.

Such an image brings its own boot loader, so there is no kernel beside it and QEMU
boots it by firmware. What arrived is kept under its checksum; a broken transfer
goes on where it stopped.
"""

from __future__ import annotations

import re
import time
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests

from provisioner.errors import InputError, OutsideError
from provisioner.lab.images import store
from provisioner.lab.images.store import Artifact, Progress

FETCH_SECONDS = 3600.0
ATTEMPTS = 4

_CONNECT_SECONDS = 15.0
_SILENCE_SECONDS = 60.0
_CHUNK = 1 << 16
"""What a broken connection costs at most: a block that was not complete is not handed over."""

_TELL_EVERY_SECONDS = 5.0


def fetch_cloud_image(
    url: str, sha256: str, cache_dir: Path | None = None, on_progress: Progress = lambda _line: None
) -> Artifact:
    """Return the image with this checksum, downloading it when the cache has none.

    Raises InputError when the address or checksum is malformed, or the file there
    is another; OutsideError when it cannot be fetched.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if urlsplit(url).scheme not in ("http", "https") or not name:
        raise InputError(
            f"cannot fetch {url}: not the http(s) address of a file",
            subject="the cloud image",
            next_step="give the full address of the image file",
        )
    if re.fullmatch(r"[0-9a-f]{64}", sha256) is None:
        raise InputError(
            f"cannot check {name}: {sha256!r} is no SHA-256 checksum (64 digits, a to f in lower case)",
            subject="the cloud image",
            next_step="copy the checksum from the SHA256SUMS file beside the image",
        )
    cache = cache_dir or store.default_cache_dir()
    part = cache / f".download-{sha256}.part"

    def build(folder: Path) -> None:
        _download(url, sha256, part, on_progress)
        part.rename(folder / name)

    folder = store.obtain(cache, "cloud", sha256, build, on_progress)
    # The same file may be asked for under another name; its content is what was promised.
    return Artifact(path=next(path for path in folder.iterdir() if path.is_file()), sha256=sha256, version=name)


def _download(url: str, sha256: str, part: Path, tell: Progress) -> None:
    deadline = time.monotonic() + FETCH_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _continue(url, part, deadline, tell)
        except requests.RequestException as error:
            if attempt == ATTEMPTS or not _is_worth_another_try(error):
                raise OutsideError(
                    f"cannot fetch {url}: {error}",
                    subject="the cloud image",
                    next_step="check the address and the network, then try again; what arrived is kept",
                    retryable=True,
                ) from error
            tell(f"transfer broke ({type(error).__name__}); going on, attempt {attempt + 1} of {ATTEMPTS}")
            continue
        found = store.sha256_of(part)
        if found == sha256:
            return
        part.unlink()
        if not resumed:
            raise InputError(
                f"cannot use {url}: its SHA-256 is {found}, not {sha256}",
                subject="the cloud image",
                next_step="the file was replaced or the checksum is of another; take both from the same listing",
            )
        # The server may have changed the file between the two halves.
        tell("the two halves do not fit together; fetching the whole file again")
    raise OutsideError(
        f"cannot fetch {url}: the file changed during {ATTEMPTS} attempts",
        subject="the cloud image",
        next_step="use the address of a dated release instead of one that moves",
        retryable=True,
    )


def _continue(url: str, part: Path, deadline: float, tell: Progress) -> None:
    """Fetch what is missing of the file at `url`, appending to `part`."""
    have = part.stat().st_size if part.exists() else 0
    # As it lies on the server: a transfer encoding would make byte ranges mean something else.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeouts = (_CONNECT_SECONDS, _SILENCE_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=timeouts) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing; the checksum decides
        answer.raise_for_status()
        resumes = answer.status_code == requests.codes.partial_content
        total = int(answer.headers.get("Content-Length", 0)) + (have if resumes else 0)
        told_at = time.monotonic()
        with part.open("ab" if resumes else "wb") as file:
            for block in answer.iter_content(_CHUNK):
                file.write(block)
                now = time.monotonic()
                if now > deadline:
                    raise requests.Timeout(f"not complete after {FETCH_SECONDS:.0f} s")
                if now - told_at >= _TELL_EVERY_SECONDS:
                    tell(f"fetched {file.tell() >> 20} of {total >> 20 or '?'} MiB")
                    told_at = now
            if file.tell() < total:
                raise requests.ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")


def _is_worth_another_try(error: requests.RequestException) -> bool:
    answer = error.response
    return answer is None or answer.status_code >= requests.codes.internal_server_error
