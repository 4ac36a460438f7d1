"""SQLite's own VFS, recorded: the database, its WAL and its journal.

The shared memory beside a WAL is not recorded, for nothing of it is needed after power loss. SQLite
syncs the directory itself, where this cannot see it, with the first sync of a journal or WAL that
it opened to create (`UNIXFILE_DIRSYNC` in its os_unix.c); that is noted where it happens.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import apsw
from typing_extensions import override

from tests.crash.memory_disk import folder_of
from tests.crash.operations import Sync, SyncDirectory, Truncate, Write
from tests.crash.states import SECTOR

if TYPE_CHECKING:
    from tests.crash.recording import Record

_JOURNALS: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL


class RecordingVFS(apsw.VFS):
    """Opens files that are recorded; those without a name, and what is only looked at, are not."""

    def __init__(self, name: str, record: Record) -> None:
        super().__init__(name, "unix")
        self.record = record

    @override
    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return super().xOpen(name, flags)
        self._check("db_open", apsw.CantOpenError)
        return RecordedFile(name, flags, self.record)

    @override
    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._check("unlink", apsw.IOError)
        with self.record.lock:
            super().xDelete(filename, syncdir)
            self.record.drop(self.record.name(filename))
            if syncdir:
                self.record.note(SyncDirectory(folder_of(self.record.name(filename))))

    def _check(self, call: str, error: type[apsw.Error]) -> None:
        try:
            self.record.fault.check(call)
        except OSError as exc:
            raise error(exc.strerror) from exc


class RecordedFile(apsw.VFSFile):
    """One open file of SQLite's."""

    def __init__(self, name: str | apsw.URIFilename, flags: list[int], record: Record) -> None:
        super().__init__("unix", name, flags)
        self._record = record
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._folder = folder_of(record.name(path))
        self._inode = record.opened(record.name(path))
        created = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        self._names_unsynced = created and bool(flags[0] & _JOURNALS)

    @override
    def xWrite(self, data: bytes, offset: int) -> None:
        short = self._check("db_write")
        with self._record.lock:
            if short:
                data = data[: len(data) // 2 // SECTOR * SECTOR]
            super().xWrite(data, offset)
            self._record.note(Write(self._inode, offset, bytes(data)))
        if short:
            # SQLite's own VFS goes on after a short write, and calls the disk full at the end. A
            # disk is full at the end of a block, not within it.
            raise apsw.FullError(os.strerror(28))

    @override
    def xTruncate(self, newsize: int) -> None:
        self._check("db_truncate")
        with self._record.lock:
            super().xTruncate(newsize)
            self._record.note(Truncate(self._inode, newsize))

    @override
    def xSync(self, flags: int) -> None:
        fault = self._record.fault
        if "db_sync" in fault.lies:
            return

        try:
            self._check("db_sync")
        except apsw.Error:
            self._record.note(Sync(self._inode, failed=True))
            if not fault.retried:
                raise

            self._check("db_sync")
        super().xSync(flags)
        with self._record.lock:
            self._record.note(Sync(self._inode))
            if self._names_unsynced and "db_names" not in fault.lies:
                self._record.note(SyncDirectory(self._folder))
                self._names_unsynced = False

    @override
    def xRead(self, amount: int, offset: int) -> bytes:
        self._check("db_read")
        return super().xRead(amount, offset)

    @override
    def xFileSize(self) -> int:
        self._check("db_size")
        return super().xFileSize()

    def _check(self, call: str) -> bool:
        try:
            return self._record.fault.check(call)
        except OSError as exc:
            full = call == "db_write" and exc.errno in {28, 122}
            raise (apsw.FullError if full else apsw.IOError)(exc.strerror) from exc
