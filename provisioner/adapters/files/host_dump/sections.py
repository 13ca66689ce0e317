"""The dump format itself: `=== NAME`, then the output of one command, until the next such line.

Reading forgives what happens to text on its way through terminals, chats and
editors: line ends of all kinds, byte order marks, UTF-16, control characters.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.errors import InputError

SECTIONS = (
    "cmdline", "uname", "pveversion", "cpu", "iommu_groups", "lspci", "lsmod", "modules", "modprobe",
    "dmesg", "iomem", "bootloader", "kernel_cmdline_file", "secureboot", "hugepages",
)  # fmt: skip

# A dump of the largest servers is under 2 MB; what lies beyond these is not one, or not worth the wait.
MAX_BYTES = 64 * 1024 * 1024
MAX_LINES = 100_000
MAX_LOG_LINES = 500_000
MAX_LINE_LENGTH = 8192  # twice the longest command line a kernel takes

_HEADER = re.compile(r"^=== *([A-Za-z][\w .-]*?)[ =:]*$", re.MULTILINE)
# Text of strangers ends up on terminals, which obey control and direction characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True)
class Dump:
    """The sections of a dump, as lines; `last` ended the file and may be cut, `cut` were too long to keep whole."""

    sections: Mapping[str, tuple[str, ...]]
    last: str | None = None
    is_last_line_whole: bool = True
    cut: tuple[str, ...] = ()

    def lines(self, name: str) -> tuple[str, ...] | None:
        """Return a section's lines, or None when the dump does not have it.

        A header with nothing after it at the end of the file is where a copy
        broke off as often as an empty answer, so it counts as missing.
        """
        lines = self.sections.get(name)
        return None if lines == () and name == self.last else lines


def decode(data: bytes) -> str:
    """Return the text of a dump, whatever editor or shell wrote it."""
    encoding = "utf-8"
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    return data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def split_dump(text: str, subject: str) -> Dump:
    """Cut the text of a dump into its sections.

    Args:
        text: as `decode` returns it.
        subject: what an error is about.

    Raises:
        InputError: no line of it begins a section.
    """
    headers = list(_HEADER.finditer(text))
    if not headers:
        raise InputError(
            "cannot read the dump: no line of it begins a section (=== NAME)",
            subject=subject,
            next_step="give a file whose sections start with lines such as `=== lspci`, each with one command's output",
        )
    parts: dict[str, list[str]] = {}
    cut = set()
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        name = _section_name(header[1])
        if name not in SECTIONS:
            continue  # a newer writer's section, or a stranger's
        limit = MAX_LOG_LINES if name == "dmesg" else MAX_LINES
        kept = parts.setdefault(name, [])
        # split's own limit leaves the rest in one piece, which is then dropped.
        lines = text[header.end() : end].split("\n", limit + 1)
        if len(lines) > limit + 1 or len(kept) + len(lines) > limit + 1:
            cut.add(name)
        room = max(0, limit - len(kept))
        kept.extend([_clean(line) for line in lines[: limit + 1] if line and not line.isspace()][:room])
    return Dump(
        {name: tuple(lines) for name, lines in parts.items()},
        last=_section_name(headers[-1][1]),
        is_last_line_whole=text.endswith("\n"),
        cut=tuple(sorted(cut)),
    )


def render_dump(sections: Mapping[str, str]) -> str:
    """Return the text of a dump; a section that is absent stays absent, an empty one is written as empty."""
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        raise InputError(
            f"cannot write the dump: unknown section {', '.join(unknown)}",
            subject="host dump",
            next_step=f"use: {', '.join(SECTIONS)}",
        )
    return "".join(f"=== {name}\n{_body(sections[name])}" for name in SECTIONS if name in sections)


def _clean(line: str) -> str:
    line = line[:MAX_LINE_LENGTH].rstrip()
    return line if line.isascii() and line.replace("\t", "").isprintable() else _UNPRINTABLE.sub("�", line)


def _section_name(text: str) -> str:
    return re.sub(r"[ .-]+", "_", text.strip().lower())


def _body(text: str) -> str:
    lines = [_clean(line) for line in decode(text.encode("utf-8", errors="replace")).split("\n")]
    # A line that looks like a header would end the section; a blank before it takes that power away.
    kept = [f" {line}" if line.startswith("===") else line for line in lines if line]
    return "".join(f"{line}\n" for line in kept)
