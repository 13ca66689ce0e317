"""What a failed task said in, a named cause out."""

from __future__ import annotations

import pytest

from provisioner.planning.playbook_diagnosis import failed_task

# As the guest's jobs, apt, pip, Docker and Hugging Face's client write them.
SAID = (
    ("wrong_checksum", "wrong checksum: https://example.org/a.tar.gz has 12ab, pinned is 34cd"),
    ("wrong_checksum", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."),
    (
        "disk_full",
        "no room for llama3.1:8b (sha256:12ab): it needs 4.3 GiB more and 256.0 MiB to spare, 1.0 GiB are free",
    ),
    ("disk_full", "the disk is full: /var/lib/llm/models/a.part"),
    ("disk_full", "E: You don't have enough free space in /var/cache/apt/archives/."),
    (
        "no_network",
        "cannot fetch https://example.org/a: <urlopen error [Errno -3] Temporary failure in name resolution>",
    ),
    ("no_network", "Failed to fetch http://archive.ubuntu.com/x Could not connect to archive.ubuntu.com:80"),
    ("no_network", "cannot fetch http://10.0.0.9/a: <urlopen error [Errno 113] No route to host>"),
    ("no_network", "docker failed (1): dial tcp: lookup ghcr.io on 10.10.0.1:53: no such host"),
    ("model_gated", "python failed (1): 401 Client Error. Cannot access gated repo for url https://huggingface.co/x"),
    ("model_missing", "Ollama cannot pull missing:1b: pull model manifest: file does not exist"),
    ("file_missing", "https://example.org/a.tar.gz answers 404 Not Found"),
    ("package_missing", "No package matching 'cuda-toolkit-99-9' is available"),
    ("package_missing", "no available installation candidate for nvidia-container-toolkit=9.0-1"),
    ("package_missing", "pip failed (1): ERROR: No matching distribution found for vllm==99.0"),
    ("download_stalled", "nothing has moved for 300 s; last: llama3.1:8b: 1.2 GiB of 4.6 GiB"),
    (
        "packages_locked",
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr)",
    ),
)


@pytest.mark.parametrize(("cause", "said"), SAID, ids=[said[:40] for _, said in SAID])
def test_what_a_task_said_has_a_name_and_a_next_step(cause: str, said: str) -> None:
    found = failed_task(said, "llm-gpu-01")
    assert found is not None
    assert found.cause == cause
    assert found.next_step.endswith("; then provisioner up llm-gpu-01, which continues")
    assert "{" not in found.next_step


@pytest.mark.parametrize("said", ["", "non-zero return code", "Job for llm-ml.service failed"])
def test_what_says_nothing_is_not_guessed_at(said: str) -> None:
    assert failed_task(said, "llm-gpu-01") is None
