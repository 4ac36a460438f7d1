"""What people write for a run or a session: the whole id, or as much of its start as is enough.

A session key means its conversations as ever; of a key nothing may be left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import BadRequestError, NotFoundError
from gateway.transcripts.reading import session_ids_of

if TYPE_CHECKING:
    from gateway.durable.batch import Queries

LEAST_CHARS: Final = 4
"""How much of the start of an id has to be written at least."""
_NAMED: Final = 3
"""So many of the ids that may be meant are named."""


def run_id_of(place: Queries, given: str) -> str:
    """Return the id of the run that is meant.

    Raises:
        BadRequestError: more than one may be.
        NotFoundError: there is none.
    """
    # Of a run whose own row is lost its items still tell, also beside others that begin like it.
    found = {*_started(place, "pruning_runs", "run_id", given), *_ends(place, given)}
    return _one("run", given, sorted(found))


def session_ids_meant(place: Queries, given: str) -> tuple[str, ...]:
    """Return the ids of the conversations that are meant: the present one of a key comes last.

    Raises:
        BadRequestError: more than one id may be meant.
        NotFoundError: there is no such key, and no such id.
    """
    known = session_ids_of(place, given)
    return known or (_one("session", given, _started(place, "sessions", "session_id", given)),)


def _one(what: str, given: str, found: list[str]) -> str:
    if not found:
        raise NotFoundError(f"there is no {what} {given!r}")
    if len(found) > 1 and given not in found:
        named = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
        raise BadRequestError(f"{given!r} is the start of more than one {what}: {named}")

    return given if given in found else found[0]


def _started(place: Queries, table: str, column: str, given: str) -> list[str]:
    """Return some of the ids that begin like this; the shortest, which it may be, is the first."""
    rows = place.execute(
        f"SELECT DISTINCT {column} FROM {table} WHERE {column} >= ? AND {column} < ? "  # noqa: S608 - names of ours
        f"ORDER BY {column} LIMIT ?",
        (*_range(given), _NAMED + 1),
    )
    return [str(row[0]) for row in rows]


def _ends(place: Queries, given: str) -> list[str]:
    """Return the first and the last of the runs of items that begin like this."""
    found = [
        place.execute(
            f"SELECT {end}(run_id) FROM pruned_items WHERE run_id >= ? AND run_id < ?",  # noqa: S608 - names of ours
            _range(given),
        ).fetchall()[0][0]
        for end in ("min", "max")
    ]
    return sorted({str(one) for one in found if one is not None})


def _range(given: str) -> tuple[str, str]:
    """Return the bounds of the ids that begin like a text; of a short one only itself is meant."""
    last = "\U0010ffff" if len(given) >= LEAST_CHARS else "\0"
    return given, given + last
