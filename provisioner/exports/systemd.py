"""Units for systemd: the control service, hardened; and an idle pass on a timer for those who run no service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

# After the drain: the last words to the journal, and a process that ends.
_AFTER_DRAIN_SECONDS = 15
# An idle pass asks each guest with a deadline of seconds, and shuts down side by side.
_IDLE_SECONDS = 900

_HARDENED = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
"""


@dataclass(frozen=True, slots=True)
class UnitWishes:
    """What the units need to know.

    `command` is how this program is started, `fleet_file` absolute. `secrets` is a file of lines NAME=VALUE, which
    systemd reads before it gives up its rights; it need not exist. `writes` are the folders, beside the state, that
    orchestrators' files are written to.
    """

    command: tuple[str, ...]
    fleet_file: Path
    drain_seconds: float
    idle_seconds: float
    user: str = "provisioner"
    secrets: Path = Path("/etc/provisioner/secrets.env")
    writes: tuple[Path, ...] = ()


def units(wishes: UnitWishes) -> Mapping[str, str]:
    """Return unit name -> content."""
    return {
        "provisioner.service": _service(wishes),
        "provisioner-idle.service": _idle(wishes),
        "provisioner-idle.timer": _timer(wishes),
    }


def _service(wishes: UnitWishes) -> str:
    return f"""\
[Unit]
Description=provisioner: LLM nodes that sleep until a request wakes them
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart={_line(wishes.command, "serve")}
{_surroundings(wishes)}
# SIGTERM drains: requests that are under way end. What is left then is continued by the next start.
TimeoutStopSec={ceil(wishes.drain_seconds) + _AFTER_DRAIN_SECONDS}
Restart=always
RestartSec=1
LimitNOFILE=65536

{_HARDENED}
[Install]
WantedBy=multi-user.target
"""


def _idle(wishes: UnitWishes) -> str:
    return f"""\
[Unit]
Description=provisioner: one idle pass
Documentation=man:systemd.timer(5)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={_line(wishes.command, "idle")}
{_surroundings(wishes)}
TimeoutStartSec={_IDLE_SECONDS}

{_HARDENED}"""


def _timer(wishes: UnitWishes) -> str:
    return f"""\
[Unit]
Description=provisioner: idle passes; not needed where provisioner.service runs, which makes its own

[Timer]
OnBootSec={ceil(wishes.idle_seconds)}
OnUnitActiveSec={ceil(wishes.idle_seconds)}
AccuracySec=1

[Install]
WantedBy=timers.target
"""


def _surroundings(wishes: UnitWishes) -> str:
    return f"""\
User={wishes.user}
Group={wishes.user}
StateDirectory=provisioner
StateDirectoryMode=0700
Environment={_quoted(f"PROVISIONER_FLEET={wishes.fleet_file}")}
Environment=PROVISIONER_STATE=%S/provisioner
EnvironmentFile=-{_escaped(str(wishes.secrets))}{"".join(map(_writable, wishes.writes))}"""


def _writable(folder: Path) -> str:
    return "\nReadWritePaths=" + _quoted(f"-{folder}")


def _line(command: tuple[str, ...], *words: str) -> str:
    return " ".join(_quoted(word) for word in (*command, *words))


def _quoted(text: str) -> str:
    """Return one word as systemd reads it: quoted where need be, its own signs doubled."""
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if any(sign in escaped for sign in " \t'\"\\;") else escaped


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
