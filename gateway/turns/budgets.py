"""Budgets: how much a conversation, a user and a day may use, and what is said once they have.

A budget is looked at before each request to a model: requests that run at the same time may pass it
together, and one that began within it ends. Only what providers count is counted.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gateway.sessions.key import encode_part
from gateway.settings import Settings
from gateway.transcripts.usage import Spent, spent_by_session, spent_on

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.model import SessionId, SessionSource, Usage

Tokens = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000_000)]


class BudgetSettings(Settings):
    """How much may be used; 0 is no limit.

    Beyond it a message is answered with that alone. Days are those of UTC. A limit in dollars needs
    the prices of every agent, in `[[context.cache]]` tables.
    """

    session_tokens: Tokens = 0
    """Tokens of one conversation: input, cached or not, and output."""
    session_usd: Dollars = 0.0
    """US dollars of one conversation."""
    user_tokens_per_day: Tokens = 0
    """Tokens of one user in a day, over all conversations."""
    user_usd_per_day: Dollars = 0.0
    """US dollars of one user in a day, over all conversations."""
    tokens_per_day: Tokens = 0
    """Tokens of all users together in a day."""
    usd_per_day: Dollars = 0.0
    """US dollars of all users together in a day."""

    @property
    def limits_session(self) -> bool:
        """Whether conversations have a budget."""
        return bool(self.session_tokens or self.session_usd)

    @property
    def limits_user(self) -> bool:
        """Whether users have one."""
        return bool(self.user_tokens_per_day or self.user_usd_per_day)

    @property
    def limits_day(self) -> bool:
        """Whether all users together have one."""
        return bool(self.tokens_per_day or self.usd_per_day)


class Budgets:
    """Looks at what was used before each request to a model."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Begin without a limit."""
        self._database = database
        self._clock = clock
        self.settings = BudgetSettings()
        """May be changed at any time."""

    async def check(
        self, session_id: SessionId, user: str, extra: Usage, *, extra_usd: float = 0.0
    ) -> str | None:
        """Return what a user is told whose next request is beyond a budget, else None.

        Reads once, and nothing at all where there is no limit.

        Args:
            session_id: The conversation.
            user: Who is going to ask; see `user_of`.
            extra: What the turn has used so far, which is not stored yet.
            extra_usd: What that cost, in US dollars.
        """
        settings = self.settings
        limits_day = settings.limits_user or settings.limits_day
        if not (settings.limits_session or limits_day):
            return None

        now = self._clock.now()
        day = now.astimezone(UTC).date().isoformat()

        def query(connection: Queries) -> list[Spent]:
            nothing = Spent()
            return [
                spent_by_session(connection, session_id) if settings.limits_session else nothing,
                spent_on(connection, day, user=user) if settings.limits_user else nothing,
                spent_on(connection, day, user=None) if settings.limits_day else nothing,
            ]

        found = await self._database.read(query)
        session, by_user, by_all = (_with(spent, extra, extra_usd) for spent in found)
        return over(settings, session, by_user, by_all, now)


def user_of(source: SessionSource) -> str:
    """Return the name that a message's usage is counted under.

    It is the user on one account of one platform, or the chat where the platform names no user:
    `<platform>:<account>:user:<id>` or `<platform>:<account>:chat:<id>`, each part as in a session
    key.
    """
    kind, of_kind = ("user", source.user_id) if source.user_id else ("chat", source.chat_id)
    parts = (source.platform, source.account, kind, of_kind)
    return ":".join(map(encode_part, parts))


def over(
    settings: BudgetSettings, session: Spent, user: Spent, day: Spent, now: datetime
) -> str | None:
    """Return what is said of every budget that is used up; None where none is.

    Args:
        settings: The budgets.
        session: What was used in the conversation.
        user: What its user has used today.
        day: What all users have used today; nobody is told how much that is.
        now: Tells when the next day begins.
    """
    said = []
    used = _used(session, settings.session_tokens, settings.session_usd)
    if used:
        said.append(f"This conversation has used {used}. Please start a new one.")
    free_at = f"{_next_day(now):%Y-%m-%d %H:%M} UTC"
    used = _used(user, settings.user_tokens_per_day, settings.user_usd_per_day)
    if used:
        said.append(f"Today you have used {used}. You can go on from {free_at}.")
    all_of = _all_of(day, settings.tokens_per_day, settings.usd_per_day)
    if all_of:
        said.append(f"All of the {all_of} for today are used up. It goes on from {free_at}.")
    return " ".join(said) or None


def _used(spent: Spent, most_tokens: int, most_usd: float) -> str:
    """Return how much of which limit is used, of those that are used up; empty for none."""
    parts = []
    if 0 < most_tokens <= spent.tokens:
        parts.append(f"{spent.tokens:,} of {most_tokens:,} tokens")
    if 0 < most_usd <= spent.usd:
        parts.append(f"{_dollars(spent.usd)} of {_dollars(most_usd)} US dollars")
    return " and ".join(parts)


def _all_of(spent: Spent, most_tokens: int, most_usd: float) -> str:
    """Return the limits that are used up, without how much was used; empty for none."""
    parts = []
    if 0 < most_tokens <= spent.tokens:
        parts.append(f"{most_tokens:,} tokens")
    if 0 < most_usd <= spent.usd:
        parts.append(f"{_dollars(most_usd)} US dollars")
    return " and ".join(parts)


def _dollars(usd: float) -> str:
    """Return an amount with its cents, and with more where it is less than one dollar."""
    if usd >= 1:
        return f"{usd:,.2f}"

    whole, _, fraction = f"{usd:.6f}".rstrip("0").partition(".")
    return f"{whole}.{fraction:0<2}"


def _with(spent: Spent, extra: Usage, extra_usd: float) -> Spent:
    return Spent(spent.tokens + extra.total_tokens, spent.usd + extra_usd, spent.unpriced_calls)


def _next_day(now: datetime) -> datetime:
    tomorrow = now.astimezone(UTC).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), UTC)
