"""What model calls have used: by day, agent, model and user, and of each session.

The table `usage` holds one row of sums for each of the four together; what a session has used
stands in its row of `context_accounts`, which a turn writes anyway. `session_users` says who was
counted in which session, so that an erased one takes the name with it. Knows no prices and no
limits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, dataclass
from datetime import UTC
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from gateway.model import ModelCall
from gateway.transcripts import accounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionId, Usage

PricedCall = tuple[ModelCall, float | None]
"""A call and what it cost in US dollars; None where no price is known."""

MOST_TOKENS: Final = 2**40
"""More of one call are a mistake of its provider, and must not break the sums of a day."""
_LAST_DAY: Final = "9999-12-31"


class UsageBy(StrEnum):
    """What sums are told apart by."""

    DAY = "day"
    AGENT = "agent"
    MODEL = "model"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used up of a budget."""

    tokens: int = 0
    """Everything counted: input, cached or not, and output."""
    usd: float = 0.0
    """Of the calls whose price is known."""
    unpriced_calls: int = 0
    """Calls whose price is not known."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums over model calls."""

    name: str
    """The day (UTC), agent, model or user; empty where nobody knows it any more."""
    calls: int
    input_tokens: int
    """Uncached input."""
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    total_tokens: int
    """All four together."""
    usd: float
    """Of the calls whose price is known."""
    unpriced_calls: int


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usd: float = 0.0
    unpriced_calls: int = 0

    def add(self, usage: Usage, usd: float | None) -> None:
        self.calls += 1
        if usd is None:
            self.unpriced_calls += 1
        else:
            self.usd += usd
        self.input_tokens += _sound(usage.input_tokens)
        self.output_tokens += _sound(usage.output_tokens)
        self.cache_read_tokens += _sound(usage.cache_read_tokens)
        self.cache_write_tokens += _sound(usage.cache_write_tokens)

    @property
    def tokens(self) -> int:
        cached = self.cache_read_tokens + self.cache_write_tokens
        return self.input_tokens + cached + self.output_tokens


_SUMS: Final = (
    "calls, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, usd, unpriced_calls"
)
_ON_CONFLICT: Final = (
    'ON CONFLICT (day, "user", agent, model) DO UPDATE SET '
    "calls = usage.calls + excluded.calls, "
    "input_tokens = usage.input_tokens + excluded.input_tokens, "
    "output_tokens = usage.output_tokens + excluded.output_tokens, "
    "cache_read_tokens = usage.cache_read_tokens + excluded.cache_read_tokens, "
    "cache_write_tokens = usage.cache_write_tokens + excluded.cache_write_tokens, "
    "usd = usage.usd + excluded.usd, "
    "unpriced_calls = usage.unpriced_calls + excluded.unpriced_calls"
)
_ADD: Final = (
    f'INSERT INTO usage (day, agent, model, "user", {_SUMS}) '  # noqa: S608 - constant column names
    f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {_ON_CONFLICT}"
)
_UNNAME: Final = (
    f'INSERT INTO usage (day, agent, model, "user", {_SUMS}) '  # noqa: S608 - constant column names
    f"SELECT day, agent, model, '', {_SUMS} FROM usage WHERE \"user\" = ? {_ON_CONFLICT}"
)
_SPEND: Final = (
    "UPDATE context_accounts SET spent_tokens = spent_tokens + ?, spent_usd = spent_usd + ?, "
    "spent_unpriced_calls = spent_unpriced_calls + ? WHERE session_id = ?"
)
_TOKENS: Final = "input_tokens + output_tokens + cache_read_tokens + cache_write_tokens"
_SHOWN: Final = (
    "coalesce(sum(calls), 0), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), "
    "coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0), "
    f"coalesce(sum({_TOKENS}), 0), coalesce(sum(usd), 0.0), coalesce(sum(unpriced_calls), 0) "
    "FROM usage WHERE day >= ? AND day <= ?"
)


def count(
    transaction: Transaction,
    session_id: SessionId,
    agent: str,
    user: str,
    calls: Sequence[PricedCall],
) -> None:
    """Add calls to the sums; those that their provider did not count are left out.

    Args:
        transaction: Where.
        session_id: The conversation.
        agent: Who made the calls.
        user: In whose name, as `gateway.turns.budgets.user_of` writes it.
        calls: With what each cost.
    """
    sums = count_alone(transaction, agent, user, calls)
    if not sums:
        return

    transaction.execute(
        'INSERT INTO session_users (session_id, "user") VALUES (?, ?) '
        'ON CONFLICT (session_id, "user") DO NOTHING',
        (session_id, user),
    )
    _spend(transaction, session_id, sums)


def count_alone(
    transaction: Transaction, agent: str, user: str, calls: Sequence[PricedCall]
) -> list[_Sums]:
    """Add calls that belong to no conversation to the sums; see `count`.

    Returns what was added, by day and model.
    """
    sums: defaultdict[tuple[str, str], _Sums] = defaultdict(_Sums)
    for call, usd in calls:
        if call.usage is not None:
            sums[_day(call), call.model].add(call.usage, usd)
    for (day, model), one in sums.items():
        transaction.execute(_ADD, (day, agent, model, user, *astuple(one)))
    return list(sums.values())


def forget_user(transaction: Transaction, user: str) -> None:
    """Take a user's name from what was counted; the sums stay, in nobody's name."""
    transaction.execute(_UNNAME, (user,))
    transaction.execute('DELETE FROM usage WHERE "user" = ?', (user,))


def spent_on(connection: Queries, day: str, *, user: str | None) -> Spent:
    """Return what was used on a day (UTC, `YYYY-MM-DD`), by one user; None: by all."""
    of_user = "" if user is None else ' AND "user" = ?'
    return _spent(
        connection,
        f"SELECT coalesce(sum({_TOKENS}), 0), coalesce(sum(usd), 0.0), "  # noqa: S608 - constant column names
        f"coalesce(sum(unpriced_calls), 0) FROM usage WHERE day = ?{of_user}",
        (day,) if user is None else (day, user),
    )


def spent_by_session(connection: Queries, session_id: SessionId) -> Spent:
    """Return what was used in a session."""
    return _spent(
        connection,
        "SELECT spent_tokens, spent_usd, spent_unpriced_calls FROM context_accounts "
        "WHERE session_id = ?",
        (session_id,),
    )


def read(
    connection: Queries,
    *,
    by: UsageBy = UsageBy.DAY,
    since: str = "",
    until: str = "",
    limit: int = 1000,
) -> list[UsageRow]:
    """Return the sums of each day, newest first, or of each agent, model or user, most first.

    Args:
        connection: Where.
        by: What they are told apart by.
        since: The first day that counts, `YYYY-MM-DD`; empty: from the beginning.
        until: The last day that counts; empty: to the end.
        limit: How many rows at most.
    """
    order = "1 DESC" if by is UsageBy.DAY else "7 DESC, 1"
    rows: list[Any] = connection.execute(
        f'SELECT "{by}", {_SHOWN} GROUP BY 1 ORDER BY {order} LIMIT ?',
        (since, until or _LAST_DAY, limit),
    ).fetchall()
    return [UsageRow(*row) for row in rows]


def total(connection: Queries, *, since: str = "", until: str = "") -> UsageRow:
    """Return the sums over all, its name empty; for the arguments see `read`."""
    bounds = (since, until or _LAST_DAY)
    rows: list[Any] = connection.execute(f"SELECT '', {_SHOWN}", bounds).fetchall()
    return UsageRow(*rows[0])


def _spend(transaction: Transaction, session_id: SessionId, sums: Sequence[_Sums]) -> None:
    row = (
        sum(one.tokens for one in sums),
        sum(one.usd for one in sums),
        sum(one.unpriced_calls for one in sums),
        session_id,
    )
    transaction.execute(_SPEND, row)
    if not transaction.connection.changes():
        accounts.keep(transaction, session_id, accounts.ContextAccount())
        transaction.execute(_SPEND, row)


def _spent(connection: Queries, sql: str, bindings: tuple[str, ...]) -> Spent:
    rows: list[Any] = connection.execute(sql, bindings).fetchall()
    return Spent(*rows[0]) if rows else Spent()


def _day(call: ModelCall) -> str:
    return call.started_at.astimezone(UTC).date().isoformat()


def _sound(tokens: int) -> int:
    return min(max(tokens, 0), MOST_TOKENS)
