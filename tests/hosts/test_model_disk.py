"""The disk for models in a guest: formatted once, never when it holds something, and what stood there moves to it.

One guest with its own systemd lives through the module, in the order of the tests; its disks are loop devices.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.domain.model_keeping import MODEL_DISK_SERIAL, MODEL_FOLDER
from provisioner.planning.guest_software import MODEL_MOUNT
from tests.booted_guest import BootedGuest, why_not


def no_loops() -> str | None:
    """Return why there are no loop devices here, or None."""
    if why_not() is not None:
        return why_not()
    if shutil.which("mkfs.ext4") is None or shutil.which("losetup") is None:
        return "mkfs.ext4 or losetup is not installed"
    found = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    return None if found.returncode == 0 else f"no loop devices: {found.stderr.strip()}"


pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(no_loops() is not None, reason=str(no_loops()))]

# A loop device has no serial number of its own; for the rest lsblk says what there is. Nothing makes links by label,
# for the guest has no udev.
LSBLK = """#!/bin/sh
for last; do :; done
case "$*" in
*SERIAL*) [ -b "$last" ] && [ "$last" = "$(cat /etc/its-disk)" ] && echo llm-models; exit 0;;
*--nodeps*) cat /etc/its-disk; exit 0;;
esac
exec /usr/bin/lsblk "$@"
"""
UDEVADM = """#!/bin/sh
mkdir -p /dev/disk/by-label
ln -sf "$(cat /etc/its-disk)" /dev/disk/by-label/llm-models
"""
# A partition table with one entry: of Linux, from sector 2048 on, 4096 sectors long.
TABLE = (
    r"printf '\203\0\0\0\0\010\0\0\0\020\0\0' | dd of=$DISK bs=1 seek=450 conv=notrunc; "
    r"printf '\125\252' | dd of=$DISK bs=1 seek=510 conv=notrunc"
)


@dataclass
class Scene:
    """A guest, and disks that can be put into it."""

    guest: BootedGuest
    folder: Path
    loops: list[str]

    def put_in(self, name: str, prepare: str = "true") -> str:
        """Give the guest a disk of 128 MiB, prepared by a shell command, as the one with our serial number."""
        file = self.folder / name
        with file.open("wb") as disk:
            disk.truncate(128 << 20)
        loop = subprocess.run(
            ["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True
        ).stdout.strip()
        self.loops.append(loop)
        subprocess.run(["sh", "-c", prepare], env={**os.environ, "DISK": loop}, check=True, capture_output=True)
        number = os.stat(loop).st_rdev
        self.guest.run(
            f"[ -b {loop} ] || mknod {loop} b {os.major(number)} {os.minor(number)}; echo {loop} >/etc/its-disk"
        )
        return loop

    def script(self, act: str = "mount") -> subprocess.CompletedProcess[str]:
        text = (shipped_folder("playbooks") / "files" / "mount-model-disk.sh").read_text()
        return self.guest.run(f"sh -s {act} {MODEL_DISK_SERIAL} <<'END OF SCRIPT'\n{text}\nEND OF SCRIPT", check=False)

    def kind(self, loop: str) -> str:
        words = ["blkid", "--probe", "--match-tag", "UUID", "--output", "value", loop]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def lay_down_mkfs(tree: Path) -> None:
    """Give the guest this machine's mkfs.ext4, which every Ubuntu has and the lab's lean image lacks."""
    own = tree / "opt/mkfs"
    own.mkdir(parents=True)
    program = shutil.which("mkfs.ext4")
    assert program is not None
    used = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", used)
    for path in (*libraries, program):
        shutil.copy(path, own)
    shutil.copy("/etc/mke2fs.conf", tree / "etc/mke2fs.conf")
    loader = next(Path(path).name for path in libraries if "ld-linux" in path)
    command = tree / "usr/local/sbin/mkfs.ext4"
    run = f"/opt/mkfs/{loader} --library-path /opt/mkfs /opt/mkfs/mkfs.ext4"
    command.write_text(f'#!/bin/sh\nexec {run} -t ext4 "$@"\n')
    command.chmod(0o755)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("disks")
    guest = BootedGuest(tmp_path_factory.mktemp("guest"))
    loops: list[str] = []
    try:
        with guest:
            for name, text in (("lsblk", LSBLK), ("udevadm", UDEVADM)):
                program = guest.tree / "usr/local/sbin" / name
                program.write_text(text)
                program.chmod(0o755)
            lay_down_mkfs(guest.tree)
            unit = (shipped_folder("playbooks") / "templates" / "model-disk.mount.j2").read_text()
            (guest.tree / f"etc/systemd/system/{MODEL_MOUNT}").write_text(unit)
            yield Scene(guest, folder, loops)
    finally:
        for loop in loops:
            subprocess.run(["losetup", "--detach", loop], check=False)


def test_a_disk_that_holds_something_is_never_formatted(scene: Scene) -> None:
    for name, prepare, words in (
        ("xfs-like", "mkfs.ext4 -q -L photos $DISK", "TYPE=ext4"),
        ("table", TABLE, "PTTYPE=dos"),
    ):
        loop = scene.put_in(name, prepare)
        before = (scene.folder / name).read_bytes()
        done = scene.script()
        assert done.returncode == 1, done
        assert f"{loop} is not empty" in done.stderr
        assert words in done.stderr
        assert (scene.folder / name).read_bytes() == before


def test_a_missing_disk_is_told(scene: Scene) -> None:
    scene.guest.run("echo /dev/none >/etc/its-disk")
    done = scene.script()
    assert done.returncode == 1
    assert "no disk has the serial number llm-models" in done.stderr


def test_an_empty_disk_is_formatted_once_and_what_stood_there_moves_to_it(scene: Scene) -> None:
    loop = scene.put_in("empty")
    scene.guest.run(f"mkdir -p {MODEL_FOLDER}/models && echo weights >{MODEL_FOLDER}/models/a.gguf")
    looked = scene.script("look")
    assert looked.returncode == 0, looked
    assert f"changed=formatted {loop}" in looked.stdout
    assert scene.kind(loop) == "", "looking formats nothing"
    done = scene.script()
    assert done.returncode == 0, done
    assert f"changed=formatted {loop}" in done.stdout
    assert scene.guest.run(f"findmnt -n -o SOURCE --mountpoint {MODEL_FOLDER}").stdout.strip() == loop
    assert scene.guest.run(f"cat {MODEL_FOLDER}/models/a.gguf").stdout == "weights\n"
    # What the disk covers is gone: it would take room that nobody sees.
    assert list((scene.guest.tree / MODEL_FOLDER.lstrip("/")).iterdir()) == []
    made = scene.kind(loop)
    again = scene.script()
    assert (again.returncode, again.stdout) == (0, "")
    assert scene.kind(loop) == made


def test_it_is_there_again_after_a_boot_with_what_it_held(scene: Scene) -> None:
    made = scene.kind(scene.loops[-1])
    scene.guest.run(f"systemctl stop {MODEL_MOUNT}")
    done = scene.script()
    assert done.stdout == f"changed=mounted {scene.loops[-1]} at {MODEL_FOLDER}\n"
    assert scene.guest.run(f"systemctl is-enabled {MODEL_MOUNT}").stdout == "enabled\n"
    assert scene.guest.run(f"cat {MODEL_FOLDER}/models/a.gguf").stdout == "weights\n"
    assert scene.kind(scene.loops[-1]) == made


def test_a_move_that_was_cut_short_goes_on(scene: Scene) -> None:
    # Killed after the copy was whole and before the disk covered the folder: the copy in the folder is the older one.
    scene.guest.run(f"systemctl disable --now {MODEL_MOUNT}")
    scene.guest.run(f"mkdir -p {MODEL_FOLDER}/models /var/lib/provisioner && echo old >{MODEL_FOLDER}/models/a.gguf")
    scene.guest.run("touch /var/lib/provisioner/models-are-on-their-disk")
    assert scene.script().returncode == 0
    assert scene.guest.run(f"cat {MODEL_FOLDER}/models/a.gguf").stdout == "weights\n"
    assert list((scene.guest.tree / MODEL_FOLDER.lstrip("/")).iterdir()) == []
    assert scene.guest.run("ls /var/lib/provisioner/").stdout == ""


def test_when_a_model_was_read_can_be_told(scene: Scene) -> None:
    path = f"{MODEL_FOLDER}/models/a.gguf"
    scene.guest.run(f"touch -a -d '2 hours ago' {path} && cat {path}")
    assert int(scene.guest.run(f"echo $(( $(date +%s) - $(stat -c %X {path}) ))").stdout) < 3600


def test_the_base_playbook_mounts_it_and_a_second_run_changes_nothing(scene: Scene) -> None:
    guest = scene.guest
    guest.run(f"systemctl disable --now {MODEL_MOUNT}; rm /etc/systemd/system/{MODEL_MOUNT}; systemctl daemon-reload")
    # Ubuntu has it; this image has only the program, from above.
    known = guest.tree / "usr/local/sbin/dpkg-query"
    known.write_text('#!/bin/sh\n[ "$3" = e2fsprogs ] && echo installed || exec /usr/bin/dpkg-query "$@"\n')
    known.chmod(0o755)
    (guest.tree / "usr/local/bin/dpkg-query").symlink_to("/usr/local/sbin/dpkg-query")
    variables = {
        "guest_base_allowed_networks": ["0.0.0.0/0"],
        "guest_base_ports": [8080],
        "guest_base_upgrades": False,
        "guest_base_model_disk": MODEL_DISK_SERIAL,
        "recipe": "first",
    }
    foretold = guest.play("configure-guest-base", variables, "--check")
    assert foretold.changed > 0
    assert guest.run(f"mountpoint -q {MODEL_FOLDER}", check=False).returncode != 0, "a check moves nothing"
    guest.play("configure-guest-base", variables)
    assert guest.run(f"cat {MODEL_FOLDER}/models/a.gguf").stdout == "weights\n"
    assert guest.play("configure-guest-base", variables).changed == 0
    assert MODEL_MOUNT in guest.run("cat /var/lib/provisioner/recipes/configure-guest-base").stdout
