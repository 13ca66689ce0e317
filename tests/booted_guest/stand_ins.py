"""Small programs in the place of engines that cannot be had here: same files, same words, same answers where it counts.

Each is laid down exactly as the real one would be (an archive, packages, an
image, a source tree), and tells on its port what it was started with, so that
a test can see what reached it through playbook, unit and sandbox.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import textwrap
import zipfile
from pathlib import Path

SERVER = '''\
#!/usr/bin/python3
"""Answers as an engine would; / tells what it was started with."""
import http.server, json, os, pathlib, re, sys, time

MODELS = pathlib.Path(os.environ.get("OLLAMA_MODELS", "/nonexistent"))


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def reply(self, document, status=200):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            with open("/proc/self/status") as status:
                groups = status.read()
            self.reply({"argv": sys.argv, "environment": dict(os.environ), "uid": os.getuid(), "gid": os.getgid(),
                        "cwd": os.getcwd(), "pid": os.getpid(), "status": groups})
        elif self.path == "/api/version":
            self.reply({"version": "0.0"})
        elif self.path in ("/health", "/ready", "/node_id"):
            self.reply({"status": True})
        else:
            self.reply({"data": [{"id": "m"}], "models": []})

    def do_POST(self):
        """Ollama's pull: lines of progress, a part at a time, going on with what is there."""
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()

        def say(**event):
            self.wfile.write(json.dumps(event).encode() + b"\\n")
            self.wfile.flush()

        say(status="pulling manifest")
        name, _, tag = wanted.partition(":")
        if name == "missing":
            return say(error="pull model manifest: file does not exist")
        total = 10**15 if name == "huge" else 4 * 2**20
        blob = MODELS / "blobs" / ("sha256-" + name)
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(blob.name + "-partial")
        done = part.stat().st_size if part.exists() else 0
        say(status="pulling " + name, digest="sha256:" + name, total=total, completed=done)
        while done < total:
            with part.open("ab") as out:
                out.write(b"x" * 2**18)
            done += 2**18
            say(status="pulling " + name, digest="sha256:" + name, total=total, completed=done)
            # A test that cuts the power in the middle needs a middle.
            time.sleep(0.25 if name == "slow" else 0)
            if name == "stuck" and done > 2**20:
                time.sleep(600)
        part.rename(blob)
        manifest = MODELS / "manifests/registry.ollama.ai/library" / name / (tag or "latest")
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text("{}")
        say(status="success")


def main():
    words = " ".join(sys.argv[1:])
    port = re.search(r"--port[ =](\\d+)", words) or re.search(r":(\\d+)$", os.environ.get("OLLAMA_HOST", ""))
    http.server.ThreadingHTTPServer(("0.0.0.0", int(port[1]) if port else 52415), Handler).serve_forever()


if __name__ == "__main__":
    main()
'''

DOCKER = '''\
#!/usr/bin/python3
"""Docker's client as far as the playbook for TGI needs it; a container is a unit with the asked-for account.

As with the real one, the daemon starts what the client asks for: it is none of the client's own processes.
"""
import json, os, pathlib, subprocess, sys

STORE = pathlib.Path("/var/lib/docker/stand-in.json")
images = json.loads(STORE.read_text()) if STORE.exists() else []
words = sys.argv[1:]


def systemctl(*words):
    return subprocess.run(["systemctl", *words], capture_output=True, text=True).stdout


if words[:2] == ["image", "inspect"]:
    sys.exit(0 if words[2] in images else 1)
elif words[0] == "pull":
    if "@sha256:" not in words[-1] or "absent" in words[-1]:
        sys.exit("Error response from daemon: manifest unknown")
    STORE.parent.mkdir(exist_ok=True)
    STORE.write_text(json.dumps(images + [words[-1]]))
elif words[0] in ("rm", "stop"):
    systemctl("stop", "docker-" + words[-1])
elif words[0] == "ps":
    for line in systemctl("list-units", "--plain", "--no-legend", "docker-llm-*").splitlines():
        print(line.split()[0].removeprefix("docker-").removesuffix(".service"))
elif words[0] == "top":
    group = systemctl("show", "--value", "--property=ControlGroup", "docker-" + words[1]).strip()
    if not group:
        sys.exit("Error response from daemon: No such container: " + words[1])
    print("PID")
    print(pathlib.Path("/sys/fs/cgroup" + group, "cgroup.procs").read_text(), end="")
elif words[0] == "run":
    valued = {"--name", "--pull", "--network", "--user", "--cap-drop", "--security-opt", "--tmpfs", "--volume", "--env",
              "--shm-size", "--ipc", "--ulimit", "--gpus", "--memory", "--cpus", "--entrypoint"}
    given, rest = [], words[1:]
    while rest[0].startswith("-"):
        given.append((rest[0], rest[1] if rest[0] in valued else ""))
        rest = rest[2 if rest[0] in valued else 1:]
    if rest[0] not in images:
        sys.exit("docker: Error response from daemon: No such image: " + rest[0])
    uid, gid = map(int, dict(given)["--user"].split(":"))
    environment = {"PATH": os.environ["PATH"], "STAND_IN": json.dumps(given)}
    for option, value in given:
        if option == "--env":
            name, _, said = value.partition("=")
            environment[name] = said if "=" in value else os.environ.get(name, "")
    entry = dict(given).get("--entrypoint")
    if entry:
        cache = pathlib.Path(environment["HF_HOME"], "hub", "models--" + rest[-1].replace("/", "--"), "blobs")
        command = ["mkdir", "-p", str(cache)]
    else:
        command = ["/opt/stand-in/server", *rest[1:]]
        unit = ["--wait", "--collect", "--quiet", "--unit", "docker-" + dict(given)["--name"]]
        unit += ["--uid", str(uid), "--gid", str(gid)]
        unit += ["--setenv=" + name + "=" + said for name, said in environment.items()]
        os.execvp("systemd-run", ["systemd-run", *unit, "--", *command])
    sys.exit(subprocess.run(command, env=environment, user=uid, group=gid).returncode)
'''


def archive(path: Path, files: dict[str, str], top: str = "") -> dict[str, str]:
    """Pack files into a tar.gz and return it as an entry of engine_archives."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{top}/{name}" if top else name)
            member.mode, member.size = 0o755, len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return pinned(path)


def pinned(path: Path) -> dict[str, str]:
    """Return a file with its sum."""
    return {"source": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def wheel(folder: Path, name: str, version: str, modules: dict[str, str], scripts: dict[str, str]) -> Path:
    """Write a wheel: modules by file name, scripts as name and `module:function`."""
    module_name = name.replace("-", "_")
    info = f"{module_name}-{version}.dist-info"
    files = dict(modules)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = "[console_scripts]\n" + "".join(f"{k} = {v}\n" for k, v in scripts.items())
    record = "".join(f"{each},,\n" for each in (*files, f"{info}/RECORD"))
    path = folder / f"{module_name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as out:
        for file, text in (*files.items(), (f"{info}/RECORD", record)):
            out.writestr(file, text)
    return path


HUB = textwrap.dedent('''\
    """Hugging Face's client as far as a pull needs it."""
    import os, pathlib, sys

    def main():
        name, files = sys.argv[2], [word for word in sys.argv[3:] if not word.startswith("-")]
        if name.startswith("gated/") and os.environ.get("HF_TOKEN") != "hf_right":
            sys.exit("401 Client Error. Cannot access gated repo for url")
        kept = pathlib.Path(os.environ["HF_HOME"], "hub", "models--" + name.replace("/", "--"), "blobs")
        kept.mkdir(parents=True, exist_ok=True)
        for file in files or ["weights"]:
            (kept / file.replace("/", "--")).write_bytes(b"x" * 3 * 2**20)
''')
