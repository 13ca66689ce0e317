#!/usr/bin/env python3
"""Long work in a guest that outlives the connection: fetches files, models, packages and images.

    guest_job.py start NAME STALL_SECONDS KIND ARGUMENT...
    guest_job.py size MODELS

Starts the job as a transient unit ``llm-job-NAME``, or joins it where it is under
way. In ``/run/llm-jobs/NAME`` stand its ``progress`` (one line) and, once it has
ended, its ``result`` (empty when all is well, else what went wrong). A job that
moves no byte for STALL_SECONDS is ended; how long one takes in all is its own
business. Whatever was fetched stays, and the next start goes on from there.

    fetch URL SHA256 FILE                      a file, checked against its sum
    packages FOLDER MARK REQUIREMENTS|- NAME...  a virtual environment
    build FOLDER MARK ACCOUNT HOME PATH COMMAND  software from its source
    image IMAGE MARK                           a container image
    ollama BINARY FOLDER ACCOUNT PORT MODEL    a model, by Ollama's own API
    huggingface FOLDER ACCOUNT CACHE ENV MODEL a model, NAME[@REVISION], into the Hugging Face cache; all but its
                                               weights with #tokenizer behind it
    weights IMAGE IDS CACHE ENV MARK MODEL     the same, by the program in a TGI image

``size`` prints how many bytes such jobs have still to bring. MODELS is a JSON list:

    ["file", URL or bytes, PART, FILE]         PART is what has come of FILE so far
    ["repository", CACHE, ENV, MARK, MODEL]    there once MARK is
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

JOBS = Path(os.environ.get("LLM_JOBS", "/run/llm-jobs"))
# What is left free beside a download: a full disk also stops the journal and whoever wants to log in.
SPARE_BYTES = 256 * 1024**2
CHUNK = 1024**2
# An own server pulls models while another engine has the GPU; nothing else listens there.
PULL_PORT = 11499
# The same weights once more, in a format that no engine reads where safetensors lie beside them.
DOUBLES = ("pytorch_model*.bin", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot")
# As first published, before they were brought into the shape in which they lie beside it.
ORIGINAL = "original/*"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", *DOUBLES)


class Failed(Exception):
    """The job cannot go on; the text says why, and on what."""


class Progress:
    """Bytes so far. Every growth restarts the clock; a clock that runs out ends the process."""

    def __init__(self, folder: Path, stall_seconds: float) -> None:
        self._folder = folder
        self._stall_seconds = stall_seconds
        self._grew_at = time.monotonic()
        self._most = -1
        self._last_write = 0.0
        self._text = "begins"

    def at(self, done: int, total: int | None = None, what: str = "") -> None:
        """Note how far the work is; `done` of one piece of work only ever grows."""
        if done > self._most:
            self._most, self._grew_at = done, time.monotonic()
        if time.monotonic() - self._last_write > 0.5:
            of = f" of {size(total)}" if total else ""
            self.say(f"{what + ': ' if what else ''}{size(done)}{of}")

    def say(self, text: str) -> None:
        """Show a line."""
        self._last_write = time.monotonic()
        self._text = text
        write(self._folder / "progress", text)

    def begin(self, text: str) -> None:
        """Begin another piece of work, whose bytes are counted anew."""
        self._most, self._grew_at = -1, time.monotonic()
        self.say(text)

    def stalled(self) -> str:
        """Return why this is no progress any more, or nothing."""
        if time.monotonic() - self._grew_at < self._stall_seconds:
            return ""
        return f"nothing has moved for {self._stall_seconds:g} s; last: {self._text}"


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, bytes_in_it in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= bytes_in_it:
            return f"{count / bytes_in_it:.1f} {unit}"
    return f"{count} bytes"


def write(path: Path, text: str) -> None:
    """Write a small file in one step: a reader sees the old or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)


def need_room(folder: Path, more_bytes: int, what: str) -> None:
    """Raise Failed unless so much more fits."""
    free = shutil.disk_usage(folder).free
    if more_bytes + SPARE_BYTES > free:
        raise Failed(
            f"no room for {what}: it needs {size(more_bytes)} more and {size(SPARE_BYTES)} to spare, "
            f"{size(free)} are free in {folder}"
        )


def fetch(progress: Progress, url: str, sha256: str, file: str) -> None:
    """Fetch a file, going on where an earlier try ended."""
    target = Path(file)
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            fetch_rest(progress, url, part)
            break
        except (OSError, EOFError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise Failed(f"{url} answers {error.code} {error.reason}") from error
            if error.errno == 28 if isinstance(error, OSError) else False:
                raise Failed(f"the disk is full: {part}") from error
            # A broken connection that had brought something is worth as many more tries as it takes.
            grown = (part.stat().st_size if part.exists() else 0) > before
            tries = 0 if grown else tries + 1
            if tries >= 5:
                raise Failed(f"cannot fetch {url}: {error}") from error
            time.sleep(min(2.0**tries, 10.0))
    progress.begin("comparing checksums")
    found = sha256_of(part, progress)
    if found != sha256:
        part.unlink()
        raise Failed(f"wrong checksum: {url} has {found}, pinned is {sha256}")
    part.chmod(0o644)
    part.replace(target)


def fetch_rest(progress: Progress, url: str, part: Path) -> None:
    """Append what is missing. Raises OSError, EOFError."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            # Nothing lies behind what we have: it is whole, or of another file; the checksum will tell.
            return
        raise
    with answer:
        if have and answer.status != 206:
            have = 0
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left else None
        need_room(part.parent, int(left or 0), url)
        with part.open("ab" if have else "wb") as out:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                have += len(chunk)
                progress.at(have, total)
        if total is not None and have < total:
            raise EOFError(f"the connection ended after {size(have)} of {size(total)}")


def sha256_of(path: Path, progress: Progress) -> str:
    """Return a file's sum."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress.at(done, what="comparing checksums")
    return digest.hexdigest()


def packages(progress: Progress, folder: str, mark: str, requirements: str, *names: str) -> None:
    """Make a virtual environment; a half-made one is made anew, from what pip has cached."""
    home = Path(folder)
    progress.say("making the virtual environment")
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    need_room(home.parent, 0, "packages")
    run(progress, ["python3", "-m", "venv", folder], watched=home)
    what = list(names) if requirements == "-" else ["--require-hashes", "--no-deps", "-r", requirements]
    pip = [f"{folder}/bin/pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    run(progress, [*pip, "--cache-dir", "/var/cache/llm-pip", *what], watched=home, what="installing packages")
    (home / mark).touch()


def build(progress: Progress, folder: str, mark: str, account: str, home: str, path: str, command: str) -> None:
    """Build software in its folder under its account; afterwards it may read it and no more."""
    environment = {"HOME": home, "PATH": f"{path}:{home}/.cargo/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    need_room(Path(folder), 0, "the build")
    run(progress, ["chown", "-R", f"{account}:llm", folder])
    shell = [*as_account(account), "sh", "-ec", f"cd {shlex.quote(folder)} && {command}"]
    run(progress, shell, environment, watched=Path(folder), what="building")
    run(progress, ["chown", "-R", "root:root", folder])
    (Path(folder) / mark).touch()


def image(progress: Progress, name: str, mark: str) -> None:
    """Pull a container image; its name ends in its digest, which Docker verifies."""
    root = Path("/var/lib/docker")
    root = root if root.is_dir() else Path("/")
    need_room(root, 0, name)
    if subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode != 0:
        run(progress, ["docker", "pull", "--quiet", name], watched=root, what="pulling")
    Path(mark).parent.mkdir(parents=True, exist_ok=True)
    Path(mark).touch()


def weights(progress: Progress, name: str, ids: str, cache: str, secrets: str, mark: str, model: str) -> None:
    """Fetch a repository with the program that serves it; the token stays in the environment."""
    repository, revision, _ = parts_of(model)
    share(cache)
    environment = {**os.environ, **read_env(Path(secrets))}
    kept = blobs_of(cache, repository)
    total = sum(wanted_files(repository, revision, environment).values())
    need_room(Path(cache), max(total - tree_bytes(kept), 0), repository)
    command = ["docker", "run", "--rm", "--pull", "never", "--network", "host", "--user", ids, "--cap-drop", "ALL"]
    command += ["--volume", f"{cache}:{cache}", "--env", f"HF_HOME={cache}", "--env", "HF_TOKEN", "--env", "HOME=/tmp"]
    command += ["--entrypoint", "text-generation-server", name, "download-weights", repository]
    command += ["--revision", revision] if revision else []
    run(progress, command, environment, watched=kept, by_files=True, total=total or None, what=repository)
    Path(mark).parent.mkdir(parents=True, exist_ok=True)
    Path(mark).touch()


def as_account(account: str) -> list[str]:
    """Return the words that run a command under an engine's account."""
    return ["setpriv", f"--reuid={account}", "--regid=llm", "--init-groups"]


def huggingface(progress: Progress, folder: str, account: str, cache: str, secrets: str, model: str) -> None:
    """Fetch a repository into the cache that the engine reads."""
    repository, revision, part = parts_of(model)
    share(cache)
    environment = {**os.environ, "HF_HOME": cache, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **read_env(Path(secrets))}
    environment.pop("HF_HUB_OFFLINE", None)
    progress.say("asking for its size")
    files = wanted_files(repository, revision, environment, part)
    total = sum(files.values())
    kept = blobs_of(cache, repository)
    need_room(Path(cache), max(total - tree_bytes(kept), 0), repository)
    # Whoever could not be asked is asked again by the client, whose words tell why.
    command = [*as_account(account), f"{folder}/bin/hf", "download", repository, *files]
    command += ["--revision", revision] if revision else []
    run(progress, command, environment, watched=kept, by_files=True, total=total or None, what=repository)
    mark = Path(cache) / "pulled" / model.replace("/", "--")
    mark.parent.mkdir(exist_ok=True)
    mark.touch()


def parts_of(model: str) -> tuple[str, str, str]:
    """Return repository, revision and the part that is wanted, of NAME[@REVISION][#PART]."""
    name, _, part = model.partition("#")
    repository, _, revision = name.partition("@")
    return repository, revision, part


def blobs_of(cache: str, repository: str) -> Path:
    """Return where the cache keeps the bytes of a repository."""
    return Path(cache) / "hub" / ("models--" + repository.replace("/", "--")) / "blobs"


def wanted_files(repository: str, revision: str, environment: Mapping[str, str], part: str = "") -> dict[str, int]:
    """Return the files of a repository that engines read, with their sizes; none where nobody tells.

    Raises Failed where nobody tells of what only a part is wanted: the client would fetch all of it.
    """
    place = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    at = urllib.parse.quote(revision or "main", safe="")
    headers = {"Authorization": f"Bearer {environment['HF_TOKEN']}"} if environment.get("HF_TOKEN") else {}
    url = f"{place}/api/models/{repository}/revision/{at}?blobs=true"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            files = {str(each["rfilename"]): int(each.get("size") or 0) for each in json.load(answer)["siblings"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if part:
            # The words of Hugging Face's own client: also what is private is not found.
            is_absent = isinstance(error, urllib.error.HTTPError) and error.code in (401, 404)
            said = f"Repository Not Found for url: {url}" if is_absent else f"{url}: {error}"
            raise Failed(f"cannot fetch the {part} of {repository}: {said}") from error
        return {}
    return {name: files[name] for name in read_by_engines(files, part)}


def read_by_engines(names: Iterable[str], part: str = "") -> list[str]:
    """Return those of a repository's files that an engine reads: of weights in several formats, the safetensors.

    Of a part, all but the weights.
    """
    names = list(names)
    if part:
        return [name for name in names if not any(fnmatch(name, pattern) for pattern in (ORIGINAL, *WEIGHTS))]
    with_safetensors = {name.rpartition("/")[0] for name in names if name.endswith(".safetensors")}

    def is_double(name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if "" in with_safetensors and fnmatch(name, ORIGINAL):
            return True
        return folder in with_safetensors and any(fnmatch(file, pattern) for pattern in DOUBLES)

    return [name for name in names if not is_double(name)]


def share(cache: str) -> None:
    """Let every engine's account write to the cache: whoever made a folder in it has shut the others out."""
    os.umask(0o002)
    subprocess.run(["chmod", "-R", "g+rwX", cache], check=True)


def read_env(path: Path) -> dict[str, str]:
    """Read a unit's private file, as it was written by the playbook."""
    pairs = (line.partition("=") for line in path.read_text().splitlines()) if path.exists() else ()
    return {name: json.loads(value) for name, _, value in pairs if name}


def ollama(progress: Progress, binary: str, folder: str, account: str, port: str, model: str) -> None:
    """Have Ollama pull a model: the server that runs, else one of our own that touches no GPU."""
    address = f"http://127.0.0.1:{port}"
    if answers(address):
        ollama_pull(progress, address, folder, model)
        return
    address = f"http://127.0.0.1:{PULL_PORT}"
    environment = {
        **os.environ,
        "HOME": folder,
        "OLLAMA_HOST": f"127.0.0.1:{PULL_PORT}",
        "OLLAMA_MODELS": folder,
        "OLLAMA_NOPRUNE": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    with subprocess.Popen([*as_account(account), binary, "serve"], env=environment, stdin=subprocess.DEVNULL) as server:
        try:
            progress.say("starting a server for the pull")
            while not answers(address):
                # Its end is noticed at once; that it listens, by asking again.
                with suppress(subprocess.TimeoutExpired):
                    raise Failed(f"Ollama ended with status {server.wait(0.3)} as it started for the pull")
            ollama_pull(progress, address, folder, model)
        finally:
            server.terminate()


def answers(address: str) -> bool:
    """Tell whether an Ollama listens there."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=5) as answer:
            return "version" in json.load(answer)
    except (OSError, ValueError):
        return False


def ollama_pull(progress: Progress, address: str, folder: str, model: str) -> None:
    """Follow a pull. An error after the first line comes inside an answer of 200; only ``success`` is the end."""
    body = json.dumps({"model": model, "stream": True}).encode()
    request = urllib.request.Request(f"{address}/api/pull", body, {"Content-Type": "application/json"})
    done: dict[str, int] = {}
    totals: dict[str, int] = {}
    status = ""
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                event = json.loads(line)
                if "error" in event:
                    raise Failed(f"Ollama cannot pull {model}: {event['error']}")
                status = str(event.get("status", ""))
                digest, total, completed = event.get("digest"), event.get("total"), event.get("completed") or 0
                if digest and total:
                    if digest not in totals:
                        need_room(Path(folder), total - completed, f"{model} ({digest[:19]})")
                    totals[digest], done[digest] = total, max(completed, done.get(digest, 0))
                    progress.at(sum(done.values()), sum(totals.values()), model)
    except urllib.error.HTTPError as error:
        raise Failed(f"Ollama cannot pull {model}: {error.read().decode(errors='replace')[:300]}") from error
    if status != "success":
        raise Failed(f"Ollama's pull of {model} broke off at: {status or 'nothing'}")


def tree_bytes(folder: Path) -> int:
    """Return what the files directly in a folder hold, unfinished ones too."""
    found = 0
    with suppress(OSError):
        for each in os.scandir(folder):
            with suppress(OSError):
                found += each.stat().st_size
    return found


def run(
    progress: Progress,
    command: list[str],
    environment: dict[str, str] | None = None,
    *,
    watched: Path | None = None,
    by_files: bool = False,
    total: int | None = None,
    what: str = "",
) -> str:
    """Run a program to its end and return what it wrote; its last words are the reason when it fails.

    Progress is what the disk of `watched` has taken, or with `by_files` the size of the files in it.
    """
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        words: list[str] = []
        readers = [threading.Thread(target=lambda s=s: words.extend(s), daemon=True) for s in (process.stderr,)]
        for reader in readers:
            reader.start()
        at_first = used_bytes(watched) if watched and not by_files else 0
        out: list[str] = []
        collect = threading.Thread(target=lambda: out.extend(process.stdout or ()), daemon=True)
        collect.start()
        while True:
            try:
                process.wait(1.0)
                break
            except subprocess.TimeoutExpired:
                if watched is not None:
                    progress.at(
                        tree_bytes(watched) if by_files else max(used_bytes(watched) - at_first, 0), total, what
                    )
        for reader in (*readers, collect):
            reader.join(5)
    if process.returncode != 0:
        said = "".join(words).strip().splitlines() or "".join(out).strip().splitlines()
        raise Failed(f"{Path(command[0]).name} failed ({process.returncode}): " + " | ".join(said[-6:])[-1200:])
    return "".join(out)


def used_bytes(folder: Path) -> int:
    """Return what the disk below a folder, or below the nearest one that exists, has in use."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).used


KINDS: dict[str, Callable[..., None]] = {
    "fetch": fetch,
    "packages": packages,
    "build": build,
    "image": image,
    "ollama": ollama,
    "huggingface": huggingface,
    "weights": weights,
}


def work(name: str, stall_seconds: str, kind: str, *arguments: str) -> int:
    """Do the work in this process, and leave a result whatever happens."""
    folder = JOBS / name
    progress = Progress(folder, float(stall_seconds))

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if reason := progress.stalled():
                write(folder / "result", reason)
                # The unit's other processes go with this one.
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    result = ""
    try:
        KINDS[kind](progress, *arguments)
    except Failed as reason:
        result = str(reason)
    except OSError as error:
        result = "the disk is full" if error.errno == 28 else f"{kind}: {error}"
    except Exception as error:
        result = f"{kind}: {type(error).__name__}: {error}"
        raise
    finally:
        ended.set()
        watcher.join()
        write(folder / "result", result)
    return 1 if result else 0


def size_of_file(source: str, part: str, file: str) -> int:
    """Return how many bytes of a file are still to come."""
    if Path(file).exists():
        return 0
    return bytes_at(source) if not Path(part).exists() else max(bytes_at(source) - Path(part).stat().st_size, 0)


def bytes_at(source: str) -> int:
    """Return the size of what a URL leads to; a number is the size itself. Raises OSError, TypeError."""
    if source.isdigit():
        return int(source)
    # The question that the fetch itself asks: not everybody who serves files answers HEAD.
    with urllib.request.urlopen(source, timeout=60) as answer:
        return int(answer.headers.get("Content-Length"))


def size_of_repository(cache: str, secrets: str, mark: str, model: str) -> int:
    """Return how many bytes of a repository are still to come. Raises Failed where nobody tells."""
    if Path(mark).exists():
        return 0
    repository, revision, part = parts_of(model)
    files = wanted_files(repository, revision, {**os.environ, **read_env(Path(secrets))}, part)
    if not files:
        raise Failed(f"nobody tells the size of {repository}")
    return max(sum(files.values()) - tree_bytes(blobs_of(cache, repository)), 0)


def tell_size(models: str) -> int:
    """Print how many bytes are still to come."""
    told = {"file": size_of_file, "repository": size_of_repository}
    try:
        print(sum(told[kind](*words) for kind, *words in json.loads(models)))
    except (Failed, OSError, TypeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def start(name: str, *arguments: str) -> int:
    """Start the job, or join it."""
    folder, unit = JOBS / name, f"llm-job-{name}"
    if subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0:
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o755)
    shutil.copy(__file__, folder / "program.py")
    write(folder / "progress", "begins")
    command = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", "--nice=10", "--property=UMask=0022"]
    command += ["/usr/bin/python3", str(folder / "program.py"), "work", name, *arguments]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit({"start": start, "size": tell_size, "work": work}[sys.argv[1]](*sys.argv[2:]))
