"""What the lab must remember, written through to one SQLite file.

Every object is a row of kind, id and JSON. A change is on its way to the disk
before the call that made it answers, so the lab may be killed at any moment.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Store:
    """Rows of kind, id and JSON."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # WAL without fsync survives the death of this process, which is all that is promised; a power cut is not ours.
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS objects (kind TEXT, id TEXT, body TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID"
        )

    def put(self, kind: str, key: str, body: object) -> None:
        """Write one object."""
        self._database.execute("REPLACE INTO objects VALUES (?, ?, ?)", (kind, key, json.dumps(body)))

    def remove(self, kind: str, key: str) -> None:
        """Forget one object; it need not exist."""
        self._database.execute("DELETE FROM objects WHERE kind = ? AND id = ?", (kind, key))

    def all(self, kind: str) -> Iterator[tuple[str, object]]:
        """Yield every object of a kind in the order of their ids."""
        for key, body in self._database.execute("SELECT id, body FROM objects WHERE kind = ? ORDER BY id", (kind,)):
            yield key, json.loads(body)

    def dump(self) -> list[tuple[str, str, str]]:
        """Return everything, for comparing two moments."""
        return self._database.execute("SELECT kind, id, body FROM objects ORDER BY kind, id").fetchall()

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class Table(Generic[T]):
    """The objects of one kind, in memory and in the store."""

    def __init__(self, store: Store, kind: str, load: Callable[..., T]) -> None:
        self._store = store
        self._kind = kind
        self._objects: dict[str, T] = {key: load(**body) for key, body in store.all(kind) if isinstance(body, dict)}

    def get(self, key: str) -> T | None:
        """Return an object, or None."""
        return self._objects.get(key)

    def __getitem__(self, key: str) -> T:
        return self._objects[key]

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._objects))

    def __len__(self) -> int:
        return len(self._objects)

    def values(self) -> tuple[T, ...]:
        """Return every object."""
        return tuple(self._objects.values())

    def items(self) -> tuple[tuple[str, T], ...]:
        """Return every object with its id."""
        return tuple(self._objects.items())

    def save(self, key: str, value: T) -> None:
        """Keep an object, new or changed."""
        self._objects[key] = value
        self._store.put(self._kind, key, vars(value))

    def remove(self, key: str) -> None:
        """Forget an object; it need not exist."""
        if self._objects.pop(key, None) is not None:
            self._store.remove(self._kind, key)
