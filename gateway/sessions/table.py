"""The committed entries in memory, as the bytes they are written with, and the prune index.

One thread, the database's writer, changes the table; any thread reads it without a lock, because
every step below is one operation of the interpreter. Entries are decoded when they are asked for;
those that were changed lately stay decoded.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from gateway.model import SessionKey
from gateway.sessions.entry import (
    HOUR_CHARS,
    NOT_SUSPENDED,
    UPDATED_AT,
    decode_member,
    updated_hour,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.sessions.entry import SessionEntry

SHARDS: Final = 1024
"""Dictionaries the entries are spread over: growing one of them is never felt."""
LIVE_ENTRIES: Final = 2048
"""Decoded entries kept, those kept longest leaving first; a full garbage collection looks at them
all, which takes 0.4 ms for each thousand and several times that where memory is cold."""


class EntryTable:
    """Entries by key, and keys by the hour of their `updated_at`."""

    def __init__(self) -> None:
        """Start empty."""
        self._shards: list[dict[str, bytes]] = [{} for _ in range(SHARDS)]
        self._hours: dict[bytes, set[SessionKey]] = {}
        self._paused: dict[bytes, set[SessionKey]] = {}
        """As `_hours`, of the entries that may be suspended, so that a prune need not look."""
        self._live: dict[str, tuple[bytes, SessionEntry]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._count

    def get(self, key: str) -> SessionEntry | None:
        """Return an entry, decoded.

        Raises:
            EntryError: the stored bytes are no entry.
        """
        member = self.member(key)
        return None if member is None else self.decoded(key, member)

    def decoded(self, key: str, member: bytes) -> SessionEntry:
        """Return the entry of some bytes, which need not be the committed ones."""
        live = self._live.get(key)
        if live is not None and live[0] is member:
            return live[1]

        return decode_member(key, member)

    def keep_decoded(self, key: str, member: bytes, entry: SessionEntry) -> None:
        """Spare the next readers of some bytes the decoding."""
        live = self._live
        if key not in live and len(live) >= LIVE_ENTRIES:
            live.pop(next(iter(live)), None)
        live[key] = (member, entry)

    def member(self, key: str) -> bytes | None:
        """Return an entry's bytes, `"<key>":{...}`."""
        # Called several times for every change, so it calls nothing of its own.
        return self._shards[zlib.crc32(key.encode()) % SHARDS].get(key)

    def members_of(self, keys: Iterable[SessionKey]) -> list[tuple[SessionKey, bytes]]:
        """Return keys with their entries' bytes, those that have none left out."""
        shards = self._shards
        return [
            (key, member)
            for key in keys
            if (member := shards[zlib.crc32(key.encode()) % SHARDS].get(key)) is not None
        ]

    def load(self, lines: Iterable[bytes], crc: int) -> tuple[bytes, int]:
        """Add the members of a snapshot, one a line, to an empty table, until a line that is none.

        Args:
            lines: As they stand in the file, with comma and line break.
            crc: The check sum of what came before.

        Returns that line, empty at the end of all lines, and the check sum of those before it.
        """
        # One loop without calls of its own: a million entries are to be there in seconds.
        shards, hours, crc32 = self._shards, self._hours, zlib.crc32
        quote, field, line = b'"', UPDATED_AT, b""
        mark = NOT_SUSPENDED
        try:
            for line in lines:
                if line[:1] != quote:
                    return line, crc
                end = line.index(quote, 1)
                hour = line.index(field, end) + len(field)
                name = line[1:end]
                key = SessionKey(name.decode())
                member = line[:-2] if line[-2:] == b",\n" else line[:-1]
                shards[crc32(name) % SHARDS][key] = member
                crc = crc32(line, crc)
                index = hours if mark in line else self._paused
                try:
                    index[line[hour : hour + HOUR_CHARS]].add(key)
                except KeyError:
                    index[line[hour : hour + HOUR_CHARS]] = {key}
        except ValueError:  # a line without these fields, or not of UTF-8
            return line, crc
        finally:
            self._count = sum(map(len, shards))
        return b"", crc

    def put(self, key: SessionKey, member: bytes) -> None:
        """Set an entry's bytes."""
        shard = self._shards[zlib.crc32(key.encode()) % SHARDS]
        old = shard.get(key)
        start = member.index(UPDATED_AT) + len(UPDATED_AT)
        hour = member[start : start + HOUR_CHARS]
        index = self._hours if NOT_SUSPENDED in member else self._paused
        if old is None:
            self._count += 1
        elif key in index.get(hour, ()):
            shard[key] = member
            return
        else:
            self._leave(old, key)
        index.setdefault(hour, set()).add(key)
        shard[key] = member

    def drop(self, key: SessionKey) -> None:
        """Forget an entry; one that is not there is no error."""
        self._live.pop(key, None)
        old = self._shard(key).pop(key, None)
        if old is not None:
            self._count -= 1
            self._leave(old, key)

    def members(self, shard: int) -> list[bytes]:
        """Return the bytes of all entries of a shard, as they are at this instant."""
        return list(self._shards[shard].values())

    def keys_after(self, after: str, limit: int) -> list[str]:
        """Return up to `limit` keys that follow a key in the table's own fixed order.

        The order is by shard, then by key; it stays the same while entries come and go. An empty
        `after` starts at the beginning.
        """
        found: list[str] = []
        shard = _number(after) if after else 0
        while len(found) < limit and shard < SHARDS:
            found += sorted(key for key in list(self._shards[shard]) if key > after)
            shard, after = shard + 1, ""
        return found[:limit]

    def oldest_first(
        self, before: bytes | None = None
    ) -> Iterator[tuple[bytes, list[SessionKey], list[SessionKey]]]:
        """Yield each hour with the keys last updated in it, oldest hour first.

        Args:
            before: An RFC 3339 instant in UTC; the hour it lies in is the last one. None: all.

        Yields the hour, the keys whose entries are surely not suspended, and those that may be.
        """
        end = None if before is None else before[:HOUR_CHARS]
        for hour in sorted(self._hours.keys() | self._paused.keys()):
            if end is not None and hour > end:
                return
            yield hour, list(self._hours.get(hour, ())), list(self._paused.get(hour, ()))

    def _shard(self, key: str) -> dict[str, bytes]:
        return self._shards[_number(key)]

    def _leave(self, old: bytes, key: SessionKey) -> None:
        """Take a key out of the index, where its old bytes have put it."""
        index = self._hours if NOT_SUSPENDED in old else self._paused
        hour = updated_hour(old)
        keys = index[hour]
        keys.discard(key)
        if not keys:
            del index[hour]


def _number(key: str) -> int:
    return zlib.crc32(key.encode()) % SHARDS
