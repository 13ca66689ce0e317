"""The journal as server-sent events: first what was missed, then what happens, until the service ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from provisioner.domain.events import Entry
from provisioner.services.journaling import Journal

# Commands that run beside the service write into the same journal; nobody tells us of those.
_LOOK_SECONDS = 1.0
# Proxies in between give a silent connection up after a minute or so.
_HEARTBEAT_SECONDS = 15.0
_PORTION = 500


async def events(
    journal: Journal, after: int | None, node: str | None, is_ending: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Yield events.

    Args:
        journal: what is told.
        after: the number to go on after; None begins with what happens next.
        node: tell of this node only.
        is_ending: the service is being stopped.
    """
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def tell() -> None:
        # The loop may be gone already while the last steps of work in threads are kept.
        if not loop.is_closed():
            loop.call_soon_threadsafe(news.set)

    stop = journal.listen(tell)
    try:
        number = after if after is not None else await asyncio.to_thread(journal.last_number)
        # Also tells the client at once that it is connected, and from where on it hears everything.
        yield f": after {number}\n\n".encode()
        silent_since = loop.time()
        while True:
            # What was told before the end is still told.
            ends = is_ending()
            news.clear()
            entries = await asyncio.to_thread(journal.after, number, limit=_PORTION)
            for entry in entries:
                number = entry.number
                if node is None or entry.node == node:
                    yield _event(entry)
                    silent_since = loop.time()
            if len(entries) == _PORTION:
                continue
            if ends:
                return
            if loop.time() - silent_since >= _HEARTBEAT_SECONDS:
                yield b": still here\n\n"
                silent_since = loop.time()
            try:
                await asyncio.wait_for(news.wait(), _LOOK_SECONDS)
            except TimeoutError:
                continue
    finally:
        stop()


def _event(entry: Entry) -> bytes:
    data = json.dumps(entry.as_dict(), ensure_ascii=False, separators=(",", ":"))
    return f"id: {entry.number}\nevent: {entry.kind.value}\ndata: {data}\n\n".encode(errors="replace")
