"""Rows of `messages` as the rules see them: pages, sums, and what becomes of single rows.

Over all sessions rows come in the order of `created_at` as text and of `position`, from the index
`messages_as_items` alone, so that no text is read; within one session by `position`. Instants with
and without a fraction differ in length: within one second the order of the texts is not that of
time, which is for the caller to mend. Sums are kept by triggers (`item_totals`) and always right.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.durable.batch import Queries, Transaction

ORIGINAL: Final = (
    "position",
    "session_id",
    "turn_id",
    "role",
    "text",
    "tool_calls",
    "tool_call_id",
    "tool_name",
    "created_at",
    "images",
    "version",
    "marks",
)
"""The columns of a row that are written, not generated."""
ID_DIGITS: Final = 12
TURN_WINDOW: Final = 10_000
"""Positions before and after a row among which the others of its turn are looked for; a turn is
stored in one piece."""
NEAR: Final = 100
"""The same where rows have to be read for it."""
_COLUMNS: Final = (
    "position, session_id, turn_id, role, size_bytes, tokens, tool_call_id, created_at, version, "
    "marks"
)
_AS_BYTES: Final = (
    "position, CAST(session_id AS BLOB), CAST(turn_id AS BLOB), CAST(role AS BLOB), size_bytes, "
    "tokens, CAST(tool_call_id AS BLOB), CAST(created_at AS BLOB), version, CAST(marks AS BLOB)"
)
"""The same where a text may be no UTF-8, which cannot be read as text."""
_SUMS: Final = (
    "coalesce(sum(items), 0), coalesce(sum(size_bytes), 0), coalesce(sum(tokens), 0) "
    "FROM item_totals"
)
_MAY_BE_HALF: Final = "role NOT IN ('user', 'system', 'notice')"
_MOST_DIGITS: Final = 18
"""More than this no position has."""


class ItemRow(NamedTuple):
    """One row, without its contents unless they were asked for."""

    position: int
    session_id: str
    turn_id: str
    role: str
    size_bytes: int
    tokens: int
    tool_call_id: str | None
    created_at: str
    version: int
    marks: str | None
    text: str | None
    is_damaged: bool
    """Whether a text is no UTF-8; in its place stands what can be read of it."""


_CREATED_AT: Final = ItemRow._fields.index("created_at")


class Sums(NamedTuple):
    """What rows come to."""

    items: int
    size_bytes: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows; those for which everything holds that is not None."""

    session_id: str | None = None
    excluded: Collection[str] = ()
    """Sessions whose rows are left out."""
    before: str | None = None
    """`created_at` is less than this text."""
    size_over_bytes: int | None = None
    tokens_over: int | None = None
    results: bool | None = None
    """Whether they are tool results, or anything else."""
    with_text: bool = False


def item_id(position: int) -> str:
    """Return the id that an item has by its position."""
    return str(position).zfill(ID_DIGITS)


def position_of(item: str) -> int | None:
    """Return the position that an id names, with or without its zeros; None: it names none."""
    is_number = item.isascii() and item.isdigit() and len(item) <= _MOST_DIGITS
    return int(item) if is_number else None


def page_of_all(
    place: Queries, choice: Choice, *, after: tuple[str, int], limit: int
) -> list[ItemRow]:
    """Return the next rows of all sessions in the order of `created_at` and `position`."""
    conditions, bindings = _conditions(choice)
    # As bytes, for that of a damaged row may be no UTF-8.
    created_at, position = after[0].encode(errors="surrogateescape"), after[1]
    found: list[ItemRow] = []
    # Two steps: a comparison of both at once would begin at the first row of that instant.
    for step, where in (
        ("created_at = CAST(? AS TEXT) AND position > ?", (created_at, position)),
        ("created_at > CAST(? AS TEXT)", (created_at,)),
    ):
        found += _rows(
            place,
            "FROM messages INDEXED BY messages_as_items "
            f"WHERE {step}{conditions} ORDER BY created_at, position LIMIT ?",
            (*where, *bindings, limit - len(found)),
            text="text" if choice.with_text else "NULL",
        )
        if len(found) == limit:
            break
    return found


def page_of_session(place: Queries, choice: Choice, *, after: int, limit: int) -> list[ItemRow]:
    """Return the next rows of one session in the order of `position`."""
    conditions, bindings = _conditions(choice)
    return _rows(
        place,
        "FROM messages INDEXED BY messages_by_session "
        f"WHERE session_id = ? AND position > ?{conditions} ORDER BY position LIMIT ?",
        (choice.session_id, after, *bindings, limit),
        text="text" if choice.with_text else "NULL",
    )


def tool_calls(place: Queries, positions: Collection[int]) -> dict[int, str]:
    """Return the tool calls of those of these rows that have any, as they are stored."""
    rows = place.execute(
        "SELECT position, CAST(tool_calls AS BLOB) FROM messages "
        "WHERE position IN (SELECT value FROM json_each(?)) AND tool_calls IS NOT NULL",
        (_array(positions),),
    )
    return {_whole(row[0]): _decoded(row[1]) or "" for row in rows}


def turn_of(
    place: Queries, session_id: str, turn_id: str, created_at: str, positions: Sequence[int]
) -> list[ItemRow]:
    """Return what may be halves of tool calls of a turn: stored with those at some positions.

    These are among them. A row whose role is unknown may be a half.
    """
    return _rows(
        place,
        "FROM messages INDEXED BY messages_as_items "
        "WHERE created_at = ? AND position BETWEEN ? AND ? AND session_id = ? AND turn_id = ? "
        f"AND {_MAY_BE_HALF}",
        (created_at, *_window(positions, TURN_WINDOW), session_id, turn_id),
    )


def count_of_turn(place: Queries, session_id: str, turn_id: str, positions: Sequence[int]) -> int:
    """Return how many such rows there are near some positions, whenever they were made."""
    ((number,),) = place.execute(
        "SELECT count(*) FROM messages INDEXED BY messages_by_session "  # noqa: S608 - constant names
        f"WHERE session_id = ? AND position BETWEEN ? AND ? AND turn_id = ? AND {_MAY_BE_HALF}",
        (session_id, *_window(positions, NEAR), turn_id),
    ).fetchall()
    return _whole(number)


def with_text(place: Queries, positions: Collection[int]) -> list[ItemRow]:
    """Return those of these rows that are there, with their texts."""
    return _rows(
        place,
        "FROM messages WHERE position IN (SELECT value FROM json_each(?))",
        (_array(positions),),
        text="text",
    )


def latest_instant(place: Queries) -> str:
    """Return the greatest `created_at` of all rows; empty where there are none."""
    rows = place.execute("SELECT CAST(max(created_at) AS BLOB) FROM messages").fetchall()
    return _decoded(rows[0][0]) or ""


def newest_of(place: Queries, session_id: str, count: int) -> list[int]:
    """Return the positions of the newest rows of a session, the newest first."""
    rows: list[Any] = place.execute(
        "SELECT position FROM messages WHERE session_id = ? ORDER BY position DESC LIMIT ?",
        (session_id, count),
    ).fetchall()
    return [position for (position,) in rows]


def dated_newest_first(place: Queries, session_id: str) -> Iterator[tuple[int, str]]:
    """Yield the positions of a session with `created_at`, the newest first; reads the rows."""
    rows = place.execute(
        "SELECT position, CAST(created_at AS BLOB) FROM messages "
        "WHERE session_id = ? ORDER BY position DESC",
        (session_id,),
    )
    return ((_whole(row[0]), _decoded(row[1]) or "") for row in rows)


def sums(place: Queries, choice: Choice) -> Sums:
    """Return what rows come to; of a choice only the sessions and `results` count."""
    conditions, bindings = _sets(choice)
    if choice.session_id is not None:
        conditions.append("session_id = ?")
        bindings.append(choice.session_id)
    rows: list[Any] = place.execute(f"SELECT {_SUMS}{_where(conditions)}", bindings).fetchall()
    return Sums(*rows[0])


def sums_over(
    place: Queries, choice: Choice, column: str, maximum: int, *, after: str, limit: int
) -> list[tuple[str, Sums]]:
    """Return sessions of which a sum exceeds a maximum, in the order of their ids.

    Args:
        place: Where.
        choice: Only the excluded sessions and `results` count.
        column: `items`, `size_bytes` or `tokens`.
        maximum: What it is to exceed.
        after: Only sessions with a greater id.
        limit: How many sessions at most.
    """
    conditions, bindings = _sets(choice)
    conditions.append("session_id > ?")
    rows = place.execute(
        f"SELECT session_id, {_SUMS}{_where(conditions)} "
        f"GROUP BY session_id HAVING sum({column}) > ? ORDER BY session_id LIMIT ?",
        (*bindings, after, maximum, limit),
    )
    return [(str(row[0]), Sums(*map(_whole, row[1:]))) for row in rows]


def greatest_sums(place: Queries, choice: Choice) -> Sums:
    """Return the greatest sums that any session has; for the choice see `sums_over`."""
    conditions, bindings = _sets(choice)
    rows: list[Any] = place.execute(
        "SELECT coalesce(max(items), 0), coalesce(max(size_bytes), 0), coalesce(max(tokens), 0) "  # noqa: S608 - constant names
        "FROM (SELECT sum(items) AS items, sum(size_bytes) AS size_bytes, sum(tokens) AS tokens "
        f"FROM item_totals{_where(conditions)} GROUP BY session_id)",
        bindings,
    ).fetchall()
    return Sums(*rows[0])


def session_count(place: Queries) -> int:
    """Return how many sessions have rows."""
    rows = place.execute("SELECT count(DISTINCT session_id) FROM item_totals").fetchall()
    return _whole(rows[0][0])


def original(place: Queries, position: int) -> dict[str, Any] | None:
    """Return a row as it is, by column; None where there is none."""
    rows = place.execute(
        f"SELECT {', '.join(ORIGINAL)} FROM messages WHERE position = ?",  # noqa: S608 - constant names
        (position,),
    ).fetchall()
    return dict(zip(ORIGINAL, rows[0], strict=True)) if rows else None


def size_of(place: Queries, position: int) -> Sums | None:
    """Return what a row comes to; None where there is none."""
    rows: list[Any] = place.execute(
        "SELECT 1, size_bytes, tokens FROM messages WHERE position = ?", (position,)
    ).fetchall()
    return Sums(*rows[0]) if rows else None


def put_back(transaction: Transaction, columns: Mapping[str, Any]) -> None:
    """Insert a row as `original` returned it, or with columns of it changed."""
    marks = ", ".join("?" * len(ORIGINAL))
    transaction.execute(
        f"INSERT INTO messages ({', '.join(ORIGINAL)}) VALUES ({marks})",  # noqa: S608 - constant names
        [columns[name] for name in ORIGINAL],
    )


def remove(transaction: Transaction, position: int) -> None:
    """Delete a row."""
    transaction.execute("DELETE FROM messages WHERE position = ?", (position,))


def mark(transaction: Transaction, position: int, marks: str) -> None:
    """Give a row other marks, and thereby a version of its own."""
    transaction.execute(
        "UPDATE messages SET marks = ?, version = version + 1 WHERE position = ?", (marks, position)
    )


def shorten(transaction: Transaction, position: int, text: str, marks: str) -> None:
    """Give a row another text and other marks, and thereby a version of its own."""
    transaction.execute(
        "UPDATE messages SET text = ?, marks = ?, version = version + 1 WHERE position = ?",
        (text, marks, position),
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _window(positions: Sequence[int], size: int) -> tuple[int, int]:
    return min(positions) - size, max(positions) + size


def _rows(place: Queries, of: str, bindings: Sequence[object], text: str = "NULL") -> list[ItemRow]:
    """Return rows; where a text of any is no UTF-8, all of them once more, byte by byte."""
    try:
        rows = place.execute(f"SELECT {_COLUMNS}, {text}, 0 {of}", bindings)
        return list(map(ItemRow._make, rows))
    except UnicodeDecodeError:
        rows = place.execute(f"SELECT {_AS_BYTES}, CAST({text} AS BLOB) {of}", bindings)
        return list(map(_row_of_bytes, rows))


def _row_of_bytes(columns: Sequence[object]) -> ItemRow:
    values: list[Any] = [_decoded(one) if isinstance(one, bytes) else one for one in columns]
    is_damaged = any(
        isinstance(one, bytes) and value.encode() != one
        for one, value in zip(columns, values, strict=True)
    )
    # Pages go on after it, so it must stand where SQLite has it; see `page_of_all`.
    created_at = columns[_CREATED_AT]
    if isinstance(created_at, bytes):
        values[_CREATED_AT] = created_at.decode(errors="surrogateescape")
    return ItemRow._make([*values, is_damaged])


def _decoded(value: object) -> str | None:
    """Return a text that was read as bytes; what is no UTF-8 in it is replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else None


def _conditions(choice: Choice) -> tuple[str, list[object]]:
    """Return what else has to hold of a row, each clause with `AND` before it."""
    clauses: list[tuple[str, object]] = [
        ("created_at < ?", choice.before),
        ("size_bytes > ?", choice.size_over_bytes),
        ("tokens > ?", choice.tokens_over),
        ("session_id NOT IN (SELECT value FROM json_each(?))", _excluded(choice)),
    ]
    wanted = [(clause, value) for clause, value in clauses if value is not None]
    text = "".join(f" AND {clause}" for clause, _ in wanted)
    if choice.results is not None:
        text += " AND role = 'tool'" if choice.results else " AND role <> 'tool'"
    return text, [value for _, value in wanted]


def _sets(choice: Choice) -> tuple[list[str], list[object]]:
    """Return what has to hold of a sum."""
    conditions, bindings = list[str](), list[object]()
    if choice.results is not None:
        conditions.append(f"type {'=' if choice.results else '<>'} 'tool_result'")
    excluded = _excluded(choice)
    if excluded is not None:
        conditions.append("session_id NOT IN (SELECT value FROM json_each(?))")
        bindings.append(excluded)
    return conditions, bindings


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _excluded(choice: Choice) -> str | None:
    return _array(choice.excluded) if choice.excluded else None


def _array(values: Collection[object]) -> str:
    return orjson.dumps(sorted(values, key=str)).decode()
