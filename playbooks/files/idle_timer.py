#!/usr/bin/env python3
"""Shuts an idle guest down by itself: for the day on which whoever manages it is gone.

    idle_timer.py SECONDS USER [URL...]

Run once a minute. The guest goes off when for SECONDS nobody used it and nobody
of ours looked: as long as idle passes come, the decision is theirs, and a hold
or awake hours are known to them alone. USER is whose sessions without a
terminal are ours. The URLs are where engines tell their own numbers; a port that
refuses has no engine, and one that asks for a key gets the one that its unit was
given. Whatever does not answer in time counts as use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from glob import glob
from pathlib import Path

STATE = Path(os.environ.get("PROVISIONER_RUN", "/run/provisioner"))
GROUPS = Path(os.environ.get("PROVISIONER_CGROUPS", "/sys/fs/cgroup/system.slice"))
LOCKS = Path(os.environ.get("PROVISIONER_LOCKS", "/proc/locks"))
SECRETS = Path(os.environ.get("PROVISIONER_SECRETS", "/etc/llm"))
# The variables by which engines are told what clients must send.
KEYS = frozenset({"LLAMA_API_KEY", "VLLM_API_KEY", "API_KEY"})
# Where models are fetched to, and what a download under way is called there.
DOWNLOADS = (
    "/var/lib/llm",
    "/usr/share/ollama/.ollama",
    "/root/.ollama",
    "/root/.cache/huggingface",
    "/home/*/.ollama",
    "/home/*/.cache/huggingface",
)
PARTS = ("*-partial", "*-partial-*", "*.incomplete")
PACKAGE_LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
# Engines' own counters. Averages between two readings move though nothing is done, so they are left out.
NUMBERS = re.compile(r"^(?:vllm:|llamacpp:|tgi_)\S*(?: |\{)")
AVERAGES = re.compile(r"_seconds [0-9]|_per_decode|_usage_perc")
IN_USE_NOW = re.compile(
    r"^(?:vllm:num_requests_(?:running|waiting)|llamacpp:requests_(?:processing|deferred)"
    r"|tgi_(?:batch_current_size|queue_size))(?:\{[^}]*\})? ([0-9.e+]+)",
    re.MULTILINE,
)
LEAST_PERCENT = 5.0
ASK_SECONDS = 20.0
# Its engines are on this machine, whatever proxy the machine has for others.
WEB = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Unknown(Exception):
    """Somebody did not answer, or not as expected; that counts as use."""


def main(arguments: Sequence[str]) -> int:
    """Look once; shut down when it is time."""
    seconds, user, *urls = arguments
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    quiet = quiet_seconds(now, user, urls)
    if quiet is None or quiet < float(seconds):
        return 0
    print(f"nobody has used this machine or looked at it for {quiet:.0f} s, allowed are {seconds} s: it goes off")
    sys.stdout.flush()
    return subprocess.run(["systemctl", "poweroff"], check=False).returncode


def quiet_seconds(now: float, user: str, urls: Sequence[str]) -> float | None:
    """Return for how long nothing has moved, None while something does; `now` is seconds since the boot."""
    file = STATE / "idle-timer.json"
    try:
        uses, marks = looked(user, urls)
    except (Unknown, OSError, ValueError) as reason:
        uses, marks = [f"unknown: {reason}"], ""
    digest = hashlib.sha256(marks.encode()).hexdigest()
    before = read(file)
    if uses:
        print("in use:", "; ".join(uses))
        write(file, {"digest": digest, "since": None})
        return None
    since = before.get("since")
    if before.get("digest") != digest or since is None or since > now:
        since = now
    write(file, {"digest": digest, "since": since})
    return now - float(since)


def looked(user: str, urls: Sequence[str]) -> tuple[list[str], str]:
    """Return what uses the guest now, and marks that any use since the last look has changed."""
    uses: list[str] = []
    marks = [mark(STATE / "looked-at"), mark(Path("/var/log/wtmp"))]
    for url in urls:
        found, numbers = engine(url)
        uses += found
        marks.append(numbers)
    ours = sorted(pids_of_engines())
    marks.append(repr(ours))
    uses += list(sessions(user))
    uses += list(package_work())
    uses += list(jobs())
    uses += list(downloads())
    uses += list(cards(set(ours)))
    return uses, "\n".join(marks)


def engine(url: str) -> tuple[list[str], str]:
    """Return what an engine is busy with, and its numbers."""
    try:
        text = told(url)
    except OSError as error:
        if "refused" in str(error):
            return [], ""
        raise Unknown(f"{url}: {error}") from error
    if text.lstrip().startswith("{"):
        return documents(text)
    busy = sum(float(number) for number in IN_USE_NOW.findall(text))
    lines = [line for line in text.splitlines() if NUMBERS.match(line) and not AVERAGES.search(line)]
    return ([f"{busy:g} requests with the engine"] if busy else []), "\n".join(lines)


def told(url: str) -> str:
    """Return what a URL answers; one that asks for a key is asked again with ours."""
    status = 0
    for key in ["", *keys()]:
        request = urllib.request.Request(url)
        if key:
            # For this machine only: it goes along to nobody to whom an answer may point.
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        try:
            with WEB.open(request, timeout=ASK_SECONDS) as answer:
                return str(answer.read(4_000_000).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            error.close()
            status = error.code
            if status not in (401, 403):
                break
    raise Unknown(f"{url} answers {status}")


def keys() -> Iterator[str]:
    """Yield the keys that engines here were given, each once; only root can read them."""
    found: set[str] = set()
    for file in sorted(SECRETS.glob("*.env")):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            if name in KEYS:
                found.add(str(json.loads(value)))
    yield from sorted(found)


def documents(text: str) -> tuple[list[str], str]:
    """Read the state of an engine that keeps no counters: exo's tasks, or Ollama's loaded models.

    Of the latter one past its time is in use, and a use moves that time.
    """
    document = json.loads(text)
    tasks = document.get("tasks")
    if isinstance(tasks, dict):
        works = re.search(r'"(?:Running|Pending)"', json.dumps(tasks))
        return (["tasks with the engine"] if works else []), repr(sorted(tasks))
    if "models" not in document:
        raise Unknown(f"what an engine says of itself: {text[:80]}")
    models = document["models"] or []
    now = datetime.now(UTC).timestamp()
    times = {str(each.get("name")): str(each.get("expires_at", "")) for each in models}
    past = [name for name, at in times.items() if moment(at) <= now]
    return [f"{name} is in use" for name in past], json.dumps(times, sort_keys=True)


def moment(text: str) -> float:
    """Return UNIX seconds; a moment too far away to be one is never."""
    head, dot, rest = text.partition(".")
    zone = rest.lstrip("0123456789") if dot else ""
    try:
        return datetime.fromisoformat((head + zone).replace("Z", "+00:00")).timestamp()
    except OverflowError:
        return float("inf")


def sessions(user: str) -> Iterator[str]:
    """Yield who is logged in; our own connections have no terminal."""
    for line in ask("ps", "-eo", "args=").splitlines():
        connection = re.match(r"sshd(?:-session)?: ([^ @]+)@(\S+)", line)
        if connection and (connection[1] != user or connection[2] != "notty"):
            yield f"{connection[1]} is logged in"
    for line in ask("loginctl", "list-sessions", "--no-legend", "--no-pager").splitlines():
        number = line.split()[0]
        told = ask("loginctl", "show-session", number, "-p", "Name", "-p", "Class", "-p", "State", "-p", "TTY")
        facts = dict(each.split("=", 1) for each in told.splitlines() if "=" in each)
        if not facts.get("Class", "user").startswith("user") or facts.get("State") == "closing":
            continue
        if facts.get("TTY") or facts.get("Name") != user:
            yield f"{facts.get('Name')} is logged in"


def package_work() -> Iterator[str]:
    """Yield which package databases somebody holds."""
    held = LOCKS.read_text(encoding="utf-8") if LOCKS.exists() else ""
    for name in PACKAGE_LOCKS:
        if Path(name).exists() and f":{Path(name).stat().st_ino} " in held:
            yield f"{name} is held"


def jobs() -> Iterator[str]:
    """Yield downloads and installations of ours."""
    units = ask(
        "systemctl", "list-units", "--plain", "--no-legend", "--no-pager", "--state=active,activating", "llm-job-*"
    )
    yield from (line.split()[0] for line in units.splitlines() if line.strip())


def downloads() -> Iterator[str]:
    """Yield files that grew lately and are not whole yet: engines fetch models by themselves too."""
    folders = [folder for pattern in DOWNLOADS for folder in glob(pattern)]
    if not folders:
        return
    names = [word for part in PARTS for word in ("-o", "-name", part)][1:]
    yield from ask("find", *folders, "-maxdepth", "7", "-type", "f", "(", *names, ")", "-mmin", "-3").splitlines()


def cards(ours: set[int]) -> Iterator[str]:
    """Yield graphics cards that compute, and programs on them that are no engine of ours."""
    try:
        loads = ask("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
        programs = ask("nvidia-smi", "--query-compute-apps=pid,process_name", "--format=csv,noheader,nounits")
    except FileNotFoundError:
        return
    for line in loads.splitlines():
        if line.strip().isdigit() and float(line) >= LEAST_PERCENT:
            yield f"a card computes ({line.strip()} %)"
    for line in programs.splitlines():
        pid, _, name = line.partition(",")
        if pid.strip().isdigit() and int(pid) not in ours:
            yield f"{name.strip()} is on a card"


def pids_of_engines() -> set[int]:
    """Return the processes of our engines' units."""
    found: set[int] = set()
    listed = [file.read_text(encoding="utf-8") for file in GROUPS.glob("llm-*.service/cgroup.procs")]
    # One that runs in a container has only Docker's client in its own unit. Not told of, it is a stranger on the card.
    # Where its cgroup is depends on who makes it, Docker or systemd; Docker knows.
    with suppress(Unknown, FileNotFoundError):
        numbers = ask("docker", "ps", "--quiet", "--filter", "name=^llm-").split()
        listed.extend(ask("docker", "top", number, "-eo", "pid") for number in numbers)
    for text in listed:
        found.update(int(word) for word in text.split() if word.isdigit())
    return found


def ask(*words: str) -> str:
    """Return what a program prints. A hung driver keeps its reader for good, so nobody waits for that one's end."""
    program = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        said, _ = program.communicate(timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()
        if program.stdout is not None:
            program.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            program.wait(1)
        raise Unknown(f"{words[0]} does not answer") from None
    if program.returncode != 0:
        raise Unknown(f"{words[0]} ended with {program.returncode}")
    return said


def mark(file: Path) -> str:
    """Return when a file was last written; empty where there is none."""
    return str(file.stat().st_mtime_ns) if file.exists() else ""


def read(file: Path) -> dict[str, float | str | None]:
    """Return what the last run left; nothing where that cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(file: Path, state: dict[str, float | str | None]) -> None:
    """Leave word for the next run, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".new").write_text(json.dumps(state), encoding="utf-8")
    file.with_suffix(".new").rename(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
