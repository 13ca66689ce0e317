"""Looks at the models on a guest's disk, and takes one off it: what no engine tells, least of all one that is off.

When a model was last used is when its files were last read; on a disk of their own to the second, else, as most
systems are mounted, to the day.
"""

from __future__ import annotations

import json

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.model_keeping import MODEL_FOLDER, ModelsSeen, ModelStore, StoredFiles
from provisioner.errors import GuestError
from provisioner.ports.guest_shell import GuestShell

_SECONDS = 60.0
# Of a model that is being deleted: many files on a slow disk.
_DELETE_SECONDS = 300.0
# Arguments: `look` FOLDER, `note` FOLDER WORDS, or `delete` FOLDER STORE NAME WORDS. It reads no file of a model, which
# would count as use.
_SCRIPT = r"""
import json, os, shutil, subprocess, sys
act, top = sys.argv[1:3]
join = os.path.join

def files(folder):
    for here, _, names in os.walk(folder):
        for name in names:
            path = join(here, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path

def taken(path):
    # A file that is being fetched may have its whole length already, and holes where nothing has come.
    return os.stat(path).st_blocks * 512

def opened():
    # Mapped counts: engines close a model's file once it is mapped into memory.
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps", errors="replace") as maps:
                found |= {line.split(None, 5)[-1].rstrip() for line in maps if top in line}
            for number in os.listdir(f"/proc/{pid}/fd"):
                found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            continue
    return found

def single():
    for path in files(join(top, "models")):
        yield "models", os.path.relpath(path, join(top, "models")), [path]

def repositories():
    hub = join(top, "huggingface", "hub")
    for name in sorted(os.listdir(hub)) if os.path.isdir(hub) else ():
        if name.startswith("models--"):
            yield "huggingface", name[8:].replace("--", "/"), list(files(join(hub, name)))

def ollama():
    own, owners = join(top, "ollama"), {}
    models = []
    for path in files(join(own, "manifests")):
        try:
            with open(path) as manifest:
                told = json.load(manifest)
            digests = [each["digest"] for each in [told["config"], *told["layers"]]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        *parts, name, tag = os.path.relpath(path, join(own, "manifests")).split(os.sep)
        parts = [] if parts == ["registry.ollama.ai", "library"] else parts
        parts = parts[1:] if parts[:1] == ["registry.ollama.ai"] else parts
        blobs = [join(own, "blobs", digest.replace(":", "-")) for digest in digests]
        models.append(("/".join([*parts, name]) + ":" + tag, [each for each in blobs if os.path.isfile(each)]))
        for blob in set(blobs):
            owners[blob] = owners.get(blob, 0) + 1
    for name, blobs in models:
        yield "ollama", name, blobs, [each for each in blobs if owners[each] == 1]

def everything():
    busy = opened()
    for store, name, paths, *own in [*single(), *repositories(), *ollama()]:
        stats = [os.stat(path) for path in paths]
        yield {
            "store": store, "name": name, "bytes": sum(map(taken, own[0] if own else paths)),
            "used_at": max((max(each.st_atime, each.st_mtime) for each in stats), default=0),
            "in_use": bool(busy & set(paths)),
        }

def note(words):
    subprocess.run(["logger", "--tag", "provisioner", words], check=False)

if act == "look":
    disk = os.statvfs(top if os.path.isdir(top) else "/")
    stores = [join(top, "models"), join(top, "huggingface"), join(top, "ollama")]
    used = sum(taken(path) for store in stores for path in files(store))
    print(json.dumps({"models": list(everything()), "used": used, "free": disk.f_bavail * disk.f_frsize}))
elif act == "note":
    note(sys.argv[3])
else:
    store, name, words = sys.argv[3:6]
    found = next((each for each in everything() if (each["store"], each["name"]) == (store, name)), None)
    if found is None:
        sys.exit(0)
    if found["in_use"]:
        sys.exit("it is in use by now")
    note(words)
    if store == "models":
        os.remove(join(top, "models", name))
    else:
        flat = name.replace("/", "--")
        for account in os.listdir(top):
            # Whoever fetched it noted that it is there; behind its name may stand a revision, and a part.
            marks = join(top, account, "pulled")
            for mark in os.listdir(marks) if os.path.isdir(marks) else ():
                if mark.partition("#")[0].partition("@")[0] == flat:
                    os.remove(join(marks, mark))
        shutil.rmtree(join(top, "huggingface", "hub", "models--" + flat))
"""


def stored_models(shell: GuestShell, node: NodeSpec) -> ModelsSeen:
    """Look at the models on a guest's disk. Raises GuestError, GuestAway."""
    words = ("python3", "-c", _SCRIPT, "look", MODEL_FOLDER)
    result = shell.run(words, seconds=_SECONDS, privileged=True)
    try:
        told = json.loads(result.out)
        return ModelsSeen(
            tuple(
                StoredFiles(
                    ModelStore(each["store"]), str(each["name"]), int(each["bytes"]), float(each["used_at"]),
                    bool(each["in_use"]),
                )
                for each in told["models"]
            ),
            int(told["used"]),
            int(told["free"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        said = (result.err or result.out).strip()[-300:]
        raise _failure(node, f"cannot look at its models: {said or 'no answer'}") from error


def delete_model(shell: GuestShell, node: NodeSpec, model: StoredFiles, words: str) -> None:
    """Take files off the disk, unless they have come into use since; their engine is not asked. Raises GuestError."""
    command = ("python3", "-c", _SCRIPT, "delete", MODEL_FOLDER, model.store.value, model.name, words)
    result = shell.run(command, seconds=_DELETE_SECONDS, privileged=True)
    if result.exit_code != 0:
        raise _failure(node, f'cannot take model "{model.name}" off its disk: {result.err.strip()[-300:]}')


def note_in_guest(shell: GuestShell, words: str) -> None:
    """Write a line to the guest's journal."""
    shell.run(("python3", "-c", _SCRIPT, "note", MODEL_FOLDER, words), seconds=_SECONDS, privileged=True)


def _failure(node: NodeSpec, summary: str) -> GuestError:
    return GuestError(
        summary,
        subject=node.subject,
        next_step=f"provisioner ssh {node.name} -- sudo du -sh {MODEL_FOLDER}/*; then: provisioner up {node.name}",
        retryable=True,
    )
