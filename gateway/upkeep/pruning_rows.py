"""Whether what is stored of pruning means something, and each item taken is in exactly one place.

An item that was deleted or archived is not in its transcript: it is held, in an archive, or gone
for good. What an item was is there as long as its entry is held, and no longer. The sums over
stored items are kept by triggers, and must be those of the messages.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

from gateway.durable.salvaging import columns_of
from gateway.pruning.rules import ArchiveAction, CompactAction, DeleteAction, SummarizeAction
from gateway.transcripts.pruned import RUNNING, PrunedState, RunCause
from gateway.upkeep.findings import Level, Report, Tally, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.durable.connection import Connection

Fields = dict[str, object]

_ACTIONS: Final = frozenset(
    action.kind for action in (ArchiveAction, CompactAction, DeleteAction, SummarizeAction)
)
_STATES: Final = frozenset(state.value for state in PrunedState)
_CAUSES: Final = frozenset(cause.value for cause in RunCause)
_INSTANT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", re.ASCII)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ORIGINALS: Final = "pruned_originals"
_NO_ROW: Final = "not a row of messages"
_TEXTS: Final = ("session_id", "turn_id", "role", "text", "created_at")
"""What each row of `messages` has."""
AWAY: Final = "action IN ('delete', 'archive') AND state <> 'restored'"
"""SQL: the item is not in its transcript any more."""
KEPT: Final = "state IN ('held', 'archived')"
"""SQL: the item can be given back."""
LEFT_ORIGINALS: Final = (
    "SELECT entry, state FROM pruned_originals LEFT JOIN pruned_items ON position = entry "
    "WHERE state IS NOT 'held' ORDER BY entry"
)
"""SQL: originals of which no entry says that it is held; with the state that it tells."""
MAY_LACK: Final = (
    "session_key IN (SELECT session_key FROM sessions JOIN pruned_items USING (session_id) "  # noqa: S608 - a text of ours
    f"WHERE {AWAY}) OR created_at <= (SELECT coalesce(max(at), '') FROM pruned_items "
    "WHERE session_id NOT IN (SELECT session_id FROM sessions))"
)
"""SQL of a session key and an instant: transcripts of the key lack items, or those of conversations
that were forgotten as a whole since may."""
# By EXCEPT each side is sorted once; a join would hold each row of one against all of the other.
_WRONG_TOTALS: Final = (
    "WITH kept AS (SELECT session_id, type, items, size_bytes, tokens FROM item_totals), "
    "told AS MATERIALIZED (SELECT session_id, "
    "CASE role WHEN 'tool' THEN 'tool_result' ELSE 'message' END AS type, count(*) AS items, "
    "sum(size_bytes) AS size_bytes, sum(tokens) AS tokens "
    "FROM messages NOT INDEXED GROUP BY 1, 2) "
    "SELECT session_id, type FROM (SELECT * FROM kept EXCEPT SELECT * FROM told) UNION "
    "SELECT session_id, type FROM (SELECT * FROM told EXCEPT SELECT * FROM kept)"
)


def was_pruned(connection: Connection, session_id: str) -> bool:
    """Return whether a session's transcript lacks items, as far as the audit tells."""
    if not columns_of(connection, "pruned_items"):
        # A database of an older gateway.
        return False

    found = connection.execute(
        f"SELECT 1 FROM pruned_items WHERE session_id = ? AND {AWAY} LIMIT 1",  # noqa: S608 - a text of ours
        (session_id,),
    )
    return bool(found.fetchall())


def run_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with a run; empty for nothing."""
    if not fields["run_id"] or fields["cause"] not in _CAUSES:
        return "not a run"

    ended_at = fields["ended_at"]
    if not is_instant(fields["started_at"]) or not (ended_at is None or is_instant(ended_at)):
        return "not an instant"
    if (ended_at is None) != (fields["status"] == RUNNING) or not fields["status"]:
        return "not an end"
    if not is_count(fields["pruned"]):
        return "a count below 0"

    return "" if is_object(fields["record"]) else "a record that is no JSON"


def pruned_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with an entry of the audit; empty for nothing."""
    due_at = fields["due_at"]
    wrong = {
        "not an action": fields["action"] not in _ACTIONS,
        "not a state": fields["state"] not in _STATES,
        "of no run, item or session": not (
            fields["run_id"] and fields["session_id"] and is_count(fields["item"], least=1)
        ),
        "not an instant": not is_instant(fields["at"])
        or not (due_at is None or is_instant(due_at)),
        "a record that is no JSON": not is_object(fields["record"]),
    }
    return next((text for text, is_so in wrong.items() if is_so), "") or _place_problem(fields)


def _place_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with where an item is said to be.

    Of an item that was restored, or whose session was erased, a copy may still be in a file.
    """
    state, archive = fields["state"], fields["archive"]
    wrong = {
        "held, and in an archive": state == PrunedState.HELD and archive is not None,
        "in no archive": state == PrunedState.ARCHIVED
        and (fields["action"] != ArchiveAction.kind or not is_file_name(archive)),
    }
    return next((text for text, is_so in wrong.items() if is_so), "")


def original_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with an original by itself; empty for nothing."""
    return "" if _row_of(fields["original"]) else _NO_ROW


def archive_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with an archive's row; empty for nothing."""
    if not (is_file_name(fields["name"]) and _SHA256.fullmatch(str(fields["sha256"]))):
        return "not a file"

    purge_at = fields["purge_at"]
    if not is_instant(fields["made_at"]) or not (purge_at is None or is_instant(purge_at)):
        return "not an instant"

    counts = [fields[name] for name in ("items", "content_bytes", "file_bytes")]
    return "" if all(map(is_count, counts)) else "a count below 0"


CHECKS: Final[dict[str, Callable[[Mapping[str, object]], str]]] = {
    "pruning_runs": run_problem,
    "pruned_items": pruned_problem,
    _ORIGINALS: original_problem,
    "archives": archive_problem,
}
"""The tables of pruning, and what tells whether a row means something."""


def check_pruning(report: Report, connection: Connection) -> None:
    """Check the sums over items, every row about pruning, and where the items are that it took."""
    _check_totals(report, connection)
    bad = Tally("rows about pruning cannot be read")
    counts = dict.fromkeys(CHECKS, 0)
    cut_off = erased = 0
    for table, problem_of in CHECKS.items():
        if table == _ORIGINALS:
            continue  # `_misheld` looks at each that is held; one that is not is wrong anyway.

        columns = columns_of(connection, table)
        for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table}"):  # noqa: S608 - names of ours
            fields = dict(zip(columns, row, strict=True))
            counts[table] += 1
            cut_off += table == "pruning_runs" and fields["status"] == RUNNING
            erased += fields.get("state") == PrunedState.PURGED and fields["archive"] is not None
            problem = problem_of(fields)
            if problem:
                bad.add(f"{table} {row[0]} ({problem})")
    fine = f"{counts['pruned_items']} items of {counts['pruning_runs']} runs, each in one place"
    fine += f"; {cut_off} runs do not say how they ended" if cut_off else ""
    fine += f"; {erased} of erased sessions wait to leave the archive" if erased else ""
    wrong = [bad, *_misheld(connection, bad), *_misplaced(connection)]
    tell(report, "pruning", wrong, level=Level.WRONG, fine=fine)


def _check_totals(report: Report, connection: Connection) -> None:
    wrong = Tally("sums over items are not those of the messages")
    for session_id, kind in connection.execute(_WRONG_TOTALS):
        wrong.add(f"{session_id} ({kind})")
    fine = "the sums over items are those of the messages"
    tell(report, "items", [wrong], level=Level.WRONG, fine=fine)


def _misheld(connection: Connection, bad: Tally) -> list[Tally]:
    without = Tally("items are held without what they were")
    for entry in lost_originals(connection, bad):
        without.add(f"pruned_items {entry}")
    left = Tally("originals are there of items that are not held")
    for entry, state in connection.execute(LEFT_ORIGINALS):
        left.add(f"pruned_originals {entry} ({state or 'no such entry'})")
    return [without, left]


def lost_originals(connection: Connection, bad: Tally | None = None) -> list[int]:
    """Return the entries that are held without the row of `messages` that they tell of.

    Args:
        connection: Where.
        bad: Those whose original is no row are added to it.
    """
    lost = []
    for entry, item, session_id, original in connection.execute(
        "SELECT position, item, session_id, original FROM pruned_items "
        "LEFT JOIN pruned_originals ON entry = position WHERE state = 'held' ORDER BY position"
    ):
        row = _row_of(original)
        if bad is not None and original is not None and not row:
            bad.add(f"{_ORIGINALS} {entry} ({_NO_ROW})")
        if (row.get("position"), row.get("session_id")) != (item, session_id):
            lost.append(int(str(entry)))
    return lost


def _misplaced(connection: Connection) -> list[Tally]:
    both = Tally("items are taken out, and in their transcripts")
    for item, state in connection.execute(
        f"SELECT item, state FROM pruned_items WHERE {AWAY} "  # noqa: S608 - a text of ours
        "AND item IN (SELECT position FROM messages)"
    ):
        both.add(f"item {item} ({state})")
    twice = Tally("items are kept in two places")
    for (item,) in connection.execute(
        f"SELECT item FROM pruned_items WHERE {AWAY} AND {KEPT} "  # noqa: S608 - texts of ours
        "GROUP BY item HAVING count(*) > 1"
    ):
        twice.add(f"item {item}")
    nowhere = Tally("items are in archives that are not known")
    for archive, items in connection.execute(
        "SELECT archive, count(*) FROM pruned_items WHERE archive IS NOT NULL "
        "AND archive NOT IN (SELECT name FROM archives) GROUP BY archive"
    ):
        nowhere.add(f"{items} in {archive}")
    return [both, twice, nowhere]


def _row_of(original: object) -> dict[str, object]:
    """Return the row of `messages` that an original is; empty where it is none."""
    try:
        row = orjson.loads(original)  # type: ignore[arg-type]
    except (orjson.JSONDecodeError, TypeError):
        return {}

    is_row = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in _TEXTS)
    return row if is_row else {}


def is_file_name(value: object) -> bool:
    """Return whether a text is the name of a file, and no way to another folder."""
    return isinstance(value, str) and bool(_FILE_NAME.fullmatch(value))


def is_object(text: object) -> bool:
    """Return whether a text is a JSON object."""
    try:
        return isinstance(orjson.loads(str(text)), dict)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False


def is_count(value: object, *, least: int = 0) -> bool:
    """Return whether a value is a whole number, and not below another."""
    return isinstance(value, int) and value >= least


def is_instant(value: object) -> bool:
    """Return whether a text is an instant in UTC, as it stands in the database."""
    try:
        datetime.fromisoformat(str(value))
    except ValueError:
        return False

    return bool(_INSTANT.fullmatch(str(value)))
