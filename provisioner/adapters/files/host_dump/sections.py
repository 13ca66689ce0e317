"""The dump format itself: `=== NAME`, then the output of one command, until the next such line.

Reading forgives what happens to text on its way through terminals, chats and
editors: line ends of all kinds, byte order marks, UTF-16, control characters.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from provisioner.errors import InputError

SECTIONS = (
    "cmdline", "uname", "pveversion", "cpu", "iommu_groups", "lspci", "lsmod", "modules", "modprobe",
    "dmesg", "iomem", "bootloader", "kernel_cmdline_file", "secureboot", "hugepages",
)  # fmt: skip

# A dump of the largest servers is under 2 MB; what lies beyond these is not one, or not worth the wait. The limits
# of a section are what keeps 30 MB of anything within a second or two and 150 MB of memory.
MAX_BYTES = 64 * 1024 * 1024
MAX_LINES = 100_000
MAX_LINES_READ = 500_000
MAX_SECTION_CHARACTERS = 4 * 1024 * 1024
MAX_LINE_LENGTH = 8192  # twice the longest command line a kernel takes
_PIECE = 256 * 1024

Shortener = Callable[[str], str | None]
"""Says what to keep of a section's next line; None drops it."""

_HEADER = re.compile(r"=== *([A-Za-z][\w .-]*?)[ =:]*$")
# Text of strangers ends up on terminals, which obey control and direction characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
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
    return data.decode(encoding_of(data), errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def encoding_of(head: bytes) -> str:
    """Return the encoding of a file, of which these are the first bytes."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")


def lines_of(text: TextIO, subject: str) -> Iterator[str]:
    """Yield a file's lines as `str.split` does: the last one is empty unless the file was cut inside a line.

    A piece of the file is held at a time, and of a very long line only its beginning.

    Raises:
        InputError: the file is too large to be a dump.
        OSError: it cannot be read.
    """
    count = 0
    begun = ""
    while piece := text.read(_PIECE):
        count += len(piece)
        require_size(count, subject)
        first, *lines = piece.split("\n")
        begun = begun if len(begun) > MAX_LINE_LENGTH else begun + first
        if lines:
            yield begun
            begun = lines.pop()
            yield from lines
    yield begun


def require_size(size: int, subject: str) -> None:
    """Refuse what is too large to be a dump. Raises InputError."""
    if size > MAX_BYTES:
        raise InputError(
            f"cannot read the dump: it is larger than {MAX_BYTES >> 20} MiB, and a dump is under 2 MiB",
            subject=subject,
            next_step="shorten the section that is too long, most likely dmesg, to the lines on IOMMU and vfio",
        )


@dataclass(slots=True)
class _Section:
    """A section as it is read."""

    shorten: Shortener | None
    lines: list[str] = field(default_factory=list)
    characters: int = 0
    is_cut: bool = False

    def add(self, line: str) -> None:
        if self.is_cut:
            return
        kept = self.shorten(line) if self.shorten is not None else line
        if kept is None or (self.shorten is None and not kept.strip()):
            return
        self.characters += len(kept)
        self.is_cut = len(self.lines) == MAX_LINES or self.characters > MAX_SECTION_CHARACTERS
        if not self.is_cut:
            self.lines.append(_clean(kept))


def split_dump(text: str, subject: str) -> Dump:
    """Cut the text of a dump, as `decode` returns it, into its sections. Raises InputError when it has none."""
    return split_lines(text.split("\n"), subject, {})


def split_lines(lines: Iterable[str], subject: str, shorten: Mapping[str, Callable[[], Shortener]]) -> Dump:
    """Cut a dump into its sections.

    Args:
        lines: from `lines_of`.
        subject: what an error is about.
        shorten: section -> makes what picks the lines worth keeping; without one, all that are not blank are kept.

    Raises:
        InputError: no line of it begins a section.
    """
    sections: dict[str, _Section] = {}
    current: _Section | None = None
    last: str | None = None
    line = ""
    for count, line in enumerate(lines):
        if count == MAX_LINES_READ:
            # Whatever sections follow are missing, hence unknown.
            if current is not None:
                current.is_cut = True
            line = ""
            break
        header = _HEADER.match(line) if line.startswith("===") else None
        if header is None:
            if current is not None:
                current.add(line)
            continue
        last = _section_name(header[1])
        if last in SECTIONS and last not in sections:
            sections[last] = _Section(shorten[last]() if last in shorten else None)
        current = sections.get(last)  # None: a newer writer's section, or a stranger's
    if last is None:
        raise InputError(
            "cannot read the dump: no line of it begins a section (=== NAME)",
            subject=subject,
            next_step="give a file whose sections start with lines such as `=== lspci`, each with one command's output",
        )
    return Dump(
        {name: tuple(section.lines) for name, section in sections.items()},
        last=last,
        is_last_line_whole=not line,
        cut=tuple(sorted(name for name, section in sections.items() if section.is_cut)),
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
