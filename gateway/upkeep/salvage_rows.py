"""The rows that can still be read of a database, each checked for what it must mean.

A damaged page may be read without an error and give nonsense: what would break the gateway that
reads it later is given up here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from gateway.context.cache import CacheVerdict
from gateway.durable.connection import Connection
from gateway.durable.disk import SYSTEM_DISK
from gateway.durable.inspecting import NEWEST, readable_frames, version_of
from gateway.durable.salvaging import Row, TableReader, add_row, all_rows, columns_of
from gateway.durable.wal import check_wal
from gateway.errors import BadRequestError, DatabaseTooNewError, GatewayError
from gateway.model import CallPurpose, ChatType, Image, ProjectionMode, Role, SessionSource
from gateway.sessions.key import SESSION_ID, parse_key
from gateway.transcripts import outbox_rows
from gateway.transcripts.inbox import Ending, Origin
from gateway.upkeep import pairing_rows, process_rows
from gateway.upkeep.losses import Losses
from gateway.upkeep.snapshots import member_problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG: Final = "session_log"
TABLES: Final = (
    "sessions",
    "messages",
    "model_calls",
    "projections",
    "context_accounts",
    "summaries",
    "session_users",
    "usage",
    "inbox",
    "broken_starts",
    "outbox",
    "outbox_chats",
    *pairing_rows.CHECKS,
    *process_rows.CHECKS,
)
"""What is copied; the session log becomes part of the new snapshot."""
_MEANINGS: Final = {
    LOG: "changes of entries",
    "sessions": "sessions under their keys",
    "messages": "messages of transcripts",
    "model_calls": "model calls",
    "projections": "tool results that contexts hold shortened",
    "context_accounts": "accounts of contexts",
    "summaries": "summaries of old turns",
    "session_users": "names of users of sessions",
    "usage": "sums of what model calls used",
    "inbox": "messages that were accepted",
    "broken_starts": "sessions that broke starts",
    "outbox": "replies",
    "processes": "background processes",
    "outbox_chats": "chats that replies are owed to",
    "pairing_requests": "people who wait to be paired",
    "pairing_locks": "counts of wrong pairing codes",
    "paired_users": "paired users",
}
_ROLES: Final = frozenset(role.value for role in Role)
_CHAT_TYPES: Final = frozenset(kind.value for kind in ChatType)
_MODES: Final = frozenset(mode.value for mode in ProjectionMode)
_VERDICTS: Final = frozenset({"", *(verdict.value for verdict in CacheVerdict)})
_PURPOSES: Final = frozenset(purpose.value for purpose in CallPurpose)
_ORIGINS: Final = frozenset(origin.value for origin in Origin)
_ENDINGS: Final = frozenset({None, *(ending.value for ending in Ending)})
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_COUNTS: Final = ("request_tokens", "rounds", "trimmed", "cleared", "saved_tokens")
_SPENT: Final = ("spent_tokens", "spent_usd", "spent_unpriced_calls")
_SIZES: Final = ("turns", "tokens_before", "tokens_after")
_SUMS: Final = (
    *("calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("usd", "unpriced_calls"),
)

Fields = dict[str, object]


@dataclass(slots=True)
class SalvagedLog:
    """The changes that could be read of the session log."""

    changes: dict[int, tuple[str, bytes | None]] = field(default_factory=dict)
    """Key and entry, or None for a removal, by sequence."""
    whole: bool = True
    """Whether every row could be read."""
    used: bool = False
    """Whether a store was ever opened on the database."""
    cut: bool = False
    """Whether the WAL has lost its newest commits, so that all of the database is an older one."""
    floor: int | None = None
    """The change that the log begins after; None where nothing tells, or any snapshot fits."""
    last: int = 0
    """The newest change that anything tells of."""
    taken: bool = False
    """Whether entries were once taken from a file that was not written beside the database."""
    knows_sessions: bool = False
    """Whether the database surely has every session there ever was."""


@dataclass(slots=True)
class RowCopy:
    """Copies rows from a damaged database into a new one."""

    source: Connection
    target: Connection
    losses: Losses

    def copy_all(self) -> None:
        """Copy every table but the session log."""
        for table in TABLES:
            columns = columns_of(self.target, table)
            if not columns:
                # An older database: its new tables are made once it is filled.
                continue
            missing = set(columns) - set(columns_of(self.source, table))
            if missing:
                self.losses.add(f"gateway.db: {table}", f"all {_MEANINGS[table]}: no such table")
                continue
            self._copy(table, columns)

    def read_log(self) -> SalvagedLog:
        """Read the session log, and what the database knows of its reach."""
        log = SalvagedLog()

        def take(rowid: int, row: Row) -> None:
            key, member = row
            problem = _key_problem(key)
            if not problem and member is not None:
                problem = (
                    member_problem(str(key), member)
                    if isinstance(member, bytes)
                    else "not an entry"
                )
            if problem:
                log.whole = False
                example = f"sequence {rowid}: {problem}"
                self.losses.add(
                    f"gateway.db: {LOG}", f"{_MEANINGS[LOG]} that are not valid", example
                )
            else:
                log.changes[rowid] = (str(key), member if isinstance(member, bytes) else None)

        columns = ("session_key", "member")
        if set(columns) - set(columns_of(self.source, LOG)):
            self.losses.add(f"gateway.db: {LOG}", f"all {_MEANINGS[LOG]}: no such table")
            return SalvagedLog(whole=False)

        log.whole = not self._read(LOG, columns, take) and log.whole
        self._read_state(log)
        log.last = max(log.last, *log.changes, 0)
        return log

    def _read_state(self, log: SalvagedLog) -> None:
        rows = all_rows(self.source, "SELECT name, value FROM store_state")
        state = {str(name): value for name, value in rows or () if isinstance(value, int)}
        if rows is None or len(state) < len(rows) or (log.changes and not state.get("used")):
            self.losses.note("gateway.db: store_state cannot be read; it is made anew")
            # Whether there was an import is lost with it.
            log.used = log.taken = True
            return

        floor = state.get("floor", 0)
        log.last = max(floor, state.get("last", 0))
        log.taken = bool(state.get("taken"))
        log.used = bool(state.get("used"))
        if log.used:
            log.floor = floor

    def _copy(self, table: str, columns: list[str]) -> None:
        check = _CHECKS.get(table)

        def take(rowid: int, row: Row) -> None:
            fields = dict(zip(columns, row, strict=True))
            problem = "" if check is None else check(fields)
            if not problem and add_row(self.target, table, columns, tuple(fields.values())):
                return

            example = f"row {rowid}: {problem or 'refused by the table'}"
            self.losses.add(
                f"gateway.db: {table}", f"{_MEANINGS[table]} that are not valid", example
            )

        self._read(table, columns, take)

    def _read(
        self, table: str, columns: list[str] | tuple[str, ...], take: Callable[[int, Row], None]
    ) -> bool:
        """Read a table; tell whether something of it could not be read."""
        gaps = TableReader(self.source, table, columns, take).read()
        place, what = f"gateway.db: {table}", _MEANINGS[table]
        for gap in gaps:
            if gap.open_ended and gap.after < 0:
                self.losses.add(place, f"all {what}: the table cannot be read")
            elif gap.open_ended:
                end = f"{what} from row {gap.after + 1} on; nobody knows how many"
                self.losses.add(place, end)
            else:
                example = f"rows {gap.after + 1} to {gap.before - 1}"
                most = f"{what} at most, in rows that cannot be read"
                self.losses.add(place, most, example, count=gap.at_most)
        return bool(gaps)


def count_rows(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has, the session log apart."""
    return {
        table: int(str(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]))  # noqa: S608 - names of ours
        for table in TABLES
    }


def version_to_read(connection: Connection, path: Path) -> int:
    """Return the version of a damaged database's tables.

    Raises:
        DatabaseTooNewError: a newer gateway wrote it.
    """
    version = version_of(connection)
    if 1 <= version <= NEWEST:
        return version

    if NEWEST < version <= NEWEST + 1000:
        raise DatabaseTooNewError(f"{path}: version {version} was written by a newer gateway")

    # The number itself is damaged: the tables tell.
    if "begun" in columns_of(connection, "inbox"):
        return NEWEST

    if "purpose" in columns_of(connection, "model_calls"):
        return 5

    if "images" in columns_of(connection, "messages"):
        return 4

    return 2 if "message_id" in columns_of(connection, "outbox") else 1


def wal_loss(connection: Connection, path: Path, losses: Losses) -> None:
    """Note commits at the end of the WAL that were synced and cannot be read any more."""
    try:
        check_wal(path, readable_frames(connection, path, SYSTEM_DISK))
    except GatewayError as error:
        losses.add(f"{path.name}-wal", "the newest commits", str(error))


def _key_problem(key: object) -> str:
    try:
        parse_key(str(key))
    except BadRequestError:
        return "not a session key"

    return ""


def _session(fields: Fields) -> str:
    if not SESSION_ID.fullmatch(str(fields["session_id"])):
        return "not a session id"

    key, member = str(fields["session_key"]), fields["member"]
    if isinstance(member, bytes) and member_problem(key, member):
        # It only serves an undo; what was said in the session is worth more.
        fields["member"] = None
    return _key_problem(key)


def _message(fields: Fields) -> str:
    if fields["role"] not in _ROLES:
        return "no role"

    calls = fields["tool_calls"]
    if calls is not None and not _json(calls):
        return "tool calls that are no JSON"

    # A database of an older gateway has no images.
    images = fields.get("images")
    return "" if images is None or _are_images(images) else "images that are none"


def _are_images(text: object) -> bool:
    try:
        images = orjson.loads(str(text))
        for image in images:
            Image(**image)
    except (orjson.JSONDecodeError, TypeError, UnicodeEncodeError):
        return False

    return all(isinstance(value, str) for image in images for value in image.values())


def _call(fields: Fields) -> str:
    # A database of an older gateway tells no purposes.
    return "" if fields.get("purpose", CallPurpose.TURN) in _PURPOSES else "no purpose"


def _projection(fields: Fields) -> str:
    if fields["mode"] not in _MODES or not fields["item"]:
        return "not a projection"

    sizes = [fields[name] for name in ("max_chars", "head_chars", "tail_chars")]
    return "" if all(isinstance(size, int) and size >= 0 for size in sizes) else "sizes below 0"


def _account(fields: Fields) -> str:
    # A database of an older gateway does not say what was used.
    if _below_0(fields, _COUNTS) or ("spent_tokens" in fields and _below_0(fields, _SPENT)):
        return "counts below 0"

    return "" if fields["cache_verdict"] in _VERDICTS else "not a cache verdict"


def _summary(fields: Fields) -> str:
    if not (fields["through_turn"] and str(fields["text"]).strip()):
        return "not a summary"

    return "counts below 0" if _below_0(fields, _SIZES) else ""


def _user(fields: Fields) -> str:
    return "" if fields["user"] else "no user"


def _usage(fields: Fields) -> str:
    if not _DAY.fullmatch(str(fields["day"])):
        return "not a day"

    return "counts below 0" if _below_0(fields, _SUMS) else ""


def _below_0(fields: Fields, names: tuple[str, ...]) -> bool:
    return any(not isinstance(count := fields[name], int | float) or count < 0 for name in names)


def _accepted(fields: Fields) -> str:
    if not fields["turn_id"] or (fields["reset"] is not None and not _json(fields["reset"])):
        return "not an accepted message"

    try:
        source = orjson.loads(str(fields["source"]))
        fine = source["chat_type"] in _CHAT_TYPES
        SessionSource(**source)
    except (orjson.JSONDecodeError, KeyError, TypeError, UnicodeEncodeError):
        fine = False
    # A database of an older gateway does not say who a message comes from, nor why it ended.
    if fields.get("origin", Origin.USER) not in _ORIGINS or fields.get("ended") not in _ENDINGS:
        return "not an accepted message"

    return _key_problem(fields["session_key"]) if fine else "not a source"


def _start(fields: Fields) -> str:
    return _key_problem(fields["session_key"]) or _below_0(fields, ("starts",)) * "counts below 0"


def _reply(fields: Fields) -> str:
    if not _json(fields["reply"]):
        return "a reply that is no JSON"
    # A database of an older gateway knows no channels.
    if fields.get("channel") is not None and not outbox_rows.is_sound(fields):
        return "a reply that cannot be delivered"

    return _key_problem(fields["session_key"])


def _json(text: object) -> bool:
    try:
        orjson.loads(str(text))
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False

    return True


_CHECKS: Final[dict[str, Callable[[Fields], str]]] = {
    "sessions": _session,
    "messages": _message,
    "model_calls": _call,
    "projections": _projection,
    "context_accounts": _account,
    "summaries": _summary,
    "session_users": _user,
    "usage": _usage,
    "inbox": _accepted,
    "broken_starts": _start,
    "outbox": _reply,
    **pairing_rows.CHECKS,
    **process_rows.CHECKS,
}
