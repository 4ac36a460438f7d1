"""What a disk may hold after the power went: the states that one cut leads to.

For each cut: nothing unsynced, all of it, content without names, names without content (empty, or
zeros), the last write torn, and choices by file and by name. All subsets where few things are
unsynced; beyond that each thing alone, and all but each. A state is named by its content, so that
the same one is never tried twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, combinations, product
from typing import TYPE_CHECKING, Final

from tests.crash.memory_disk import applied
from tests.crash.operations import DIRECTORY, Write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.memory_disk import File, MemoryDisk, Names
    from tests.crash.operations import Operation

FEW: Final = 4
"""Up to so many unsynced things all their subsets are tried."""
SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content; compared by its digest."""

    data: bytes | None
    """None for a directory."""
    digest: bytes


_FOLDER: Final = Content(None, b"directory")


@dataclass(frozen=True, slots=True)
class CrashState:
    """The files after a crash."""

    files: dict[str, Content]
    digest: bytes


class Crashes:
    """Enumerates the states of one disk; knows what it built before.

    Where it need not be thorough, only some of many unsynced things are taken singly, and a write
    is torn at its first and last boundary alone.
    """

    def __init__(self, disk: MemoryDisk, *, thorough: bool) -> None:
        self._disk = disk
        self._thorough = thorough
        self._built: dict[int, tuple[int, list[Content]]] = {}

    def states(self, last: Operation | None) -> Iterator[CrashState]:
        """Yield the states of a cut now, after an operation; some may come twice."""
        disk = self._disk
        variants = {inode: self._variants(inode, file) for inode, file in disk.files.items()}
        none = {inode: found[0] for inode, found in variants.items()}
        whole = {inode: found[1 % len(found)] for inode, found in variants.items()}
        zeros = {inode: found[2 % len(found)] for inode, found in variants.items()}
        every = tuple(range(len(disk.loose_names)))
        for kept in self._subsets(len(every)):
            names = disk.named(kept)
            for contents in (none, whole, zeros):
                yield _state(names, contents)
        torn = self._torn(last)
        for kept in {(), every}:
            names = disk.named(kept)
            yield from self._mixed(names, variants, none, whole)
            for (inode, content), others in product(torn, (none, whole)):
                yield _state(names, others | {inode: content})

    def extremes(self) -> Iterator[CrashState]:
        """Yield what a kill leaves, which is all, and the least that a power cut does."""
        disk = self._disk
        variants = {inode: self._variants(inode, file) for inode, file in disk.files.items()}
        every = tuple(range(len(disk.loose_names)))
        yield _state(disk.named(every), {i: found[1 % len(found)] for i, found in variants.items()})
        yield _state(disk.named(()), {i: found[0] for i, found in variants.items()})

    def _mixed(
        self,
        names: Names,
        variants: dict[int, list[Content]],
        none: dict[int, Content],
        whole: dict[int, Content],
    ) -> Iterator[CrashState]:
        """Yield the choices by file: any of each with all or nothing of the others."""
        unsynced = [inode for inode in set(names.values()) if len(variants.get(inode, ())) > 1]
        for inode in unsynced:
            for content, others in product(variants[inode], (none, whole)):
                yield _state(names, others | {inode: content})
        if 2 < len(unsynced) <= FEW:
            for choice in product(*([none[inode], whole[inode]] for inode in unsynced)):
                yield _state(names, none | dict(zip(unsynced, choice, strict=True)))

    def _variants(self, inode: int, file: File) -> list[Content]:
        """Return nothing unsynced, all of it, its length alone, then subsets."""
        built = self._built.get(inode)
        if built is not None and built[0] == file.version:
            return built[1]

        loose = file.loose()
        none = file.content(())
        found = [none]
        if loose:
            whole = file.content(loose)
            length = none[: len(whole)] + bytes(max(0, len(whole) - len(none)))
            found += [whole, length]
            found += [
                file.content([loose[place] for place in kept]) for kept in self._subsets(len(loose))
            ]
        contents = [Content(data, _digest(data)) for data in dict.fromkeys(found[3:])]
        contents = [Content(data, _digest(data)) for data in found[:3]] + contents
        self._built[inode] = (file.version, contents)
        return contents

    def _subsets(self, count: int) -> Iterator[tuple[int, ...]]:
        """Yield choices out of things: all of few; of many none, all, one, all but one."""
        things = range(count)
        if count <= (FEW if self._thorough else FEW - 1):
            yield from chain.from_iterable(combinations(things, size) for size in range(count + 1))
            return

        yield ()
        yield tuple(things)
        for one in things if self._thorough else (0, count - 1):
            yield (one,)
            yield tuple(other for other in things if other != one)

    def _torn(self, last: Operation | None) -> list[tuple[int, Content]]:
        """Return the states of a file whose last write is on the disk in part."""
        if not isinstance(last, Write):
            return []

        file, end = self._disk.files[last.inode], last.offset + len(last.data)
        cuts = list(range((last.offset // SECTOR + 1) * SECTOR, end, SECTOR))
        if not self._thorough:
            cuts = cuts[:1] + cuts[1:][-1:]
        before = file.content(file.loose()[:-1])
        torn = []
        for cut in cuts:
            piece = Write(last.inode, last.offset, last.data[: cut - last.offset])
            data = applied(before, [piece])
            torn.append((last.inode, Content(data, _digest(data))))
        return torn


def _state(names: Names, contents: dict[int, Content]) -> CrashState:
    files = {
        name: _FOLDER if inode == DIRECTORY else contents[inode]
        for name, inode in sorted(names.items())
    }
    digest = blake2b(digest_size=16)
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + content.digest)
    return CrashState(files, digest.digest())


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
