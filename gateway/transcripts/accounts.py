"""What the context of a session was measured as, and what pruning saved it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionId

LEAST_RATE: Final = 0.25
MOST_RATE: Final = 8.0
_PRIOR_TOKENS: Final = 2_000
"""So many tokens' worth of trust in the estimate, until what was counted says otherwise."""


@dataclass(frozen=True, slots=True)
class ContextAccount:
    """The account of one session id."""

    model: str = ""
    """Whose count the next four are; empty before any."""
    request_tokens: int = 0
    """The size of the last request that its provider counted."""
    overhead_tokens: int = 0
    """What the provider counted of it beside what grows with the estimate; it may be negative."""
    tokens_per_estimate: float = 1.0
    """How many tokens it counted more, from request to request, for each that was estimated."""
    weighed_tokens: int = 0
    """How many estimated tokens that rests on."""
    cache_verdict: str = ""
    """What became of that request at the provider's prompt cache."""
    rounds: int = 0
    trimmed: int = 0
    """Tool results that were trimmed, counted anew where one was cleared later."""
    cleared: int = 0
    saved_tokens: int = 0
    """What the rounds took out of the context, estimated."""
    saved_usd: float | None = None
    """What that saved at the requests right after the rounds; None where no price is known."""
    last_round_at: str | None = None
    """RFC 3339 in UTC."""

    def tokens(self, estimated: int) -> int:
        """Return what the provider would count of a request.

        Its last count and what changed since, at the rate that this session has shown.
        """
        return max(0, round(self.tokens_per_estimate * estimated) + self.overhead_tokens)

    def of(self, model: str) -> ContextAccount:
        """Return the account as far as it says something of a model."""
        if self.model == model:
            return self

        return replace(
            self,
            model=model,
            request_tokens=0,
            overhead_tokens=0,
            tokens_per_estimate=1.0,
            weighed_tokens=0,
        )

    def with_request(
        self, model: str, *, tokens: int, estimated: int, verdict: str
    ) -> ContextAccount:
        """Return the account after a request that was counted.

        Args:
            model: The model it went to.
            tokens: What its provider counted.
            estimated: What was estimated, at the usual characters a token.
            verdict: What became of it at the provider's prompt cache.
        """
        known = self.of(model)
        rate, weight = known.tokens_per_estimate, known.weighed_tokens
        before = round((known.request_tokens - known.overhead_tokens) / rate)
        grown = estimated - before if known.request_tokens else 0
        if grown:
            counted = (tokens - known.request_tokens) * (1 if grown > 0 else -1)
            trust = weight + _PRIOR_TOKENS
            rate = (rate * trust + counted) / (trust + abs(grown))
            rate = min(MOST_RATE, max(LEAST_RATE, rate))
            weight += abs(grown)
        return replace(
            known,
            model=model,
            request_tokens=tokens,
            overhead_tokens=tokens - round(rate * estimated),
            tokens_per_estimate=rate,
            weighed_tokens=weight,
            cache_verdict=verdict,
        )

    def with_round(
        self, *, trimmed: int, cleared: int, saved_tokens: int, saved_usd: float | None, at: str
    ) -> ContextAccount:
        """Return the account with one more round."""
        usd = self.saved_usd
        if saved_usd is not None:
            usd = (usd or 0.0) + saved_usd
        return replace(
            self,
            rounds=self.rounds + 1,
            trimmed=self.trimmed + trimmed,
            cleared=self.cleared + cleared,
            saved_tokens=self.saved_tokens + saved_tokens,
            saved_usd=usd,
            last_round_at=at,
        )


_NAMES: Final = tuple(field.name for field in fields(ContextAccount))
_KEEP: Final = (
    f"INSERT INTO context_accounts (session_id, {', '.join(_NAMES)}) "  # noqa: S608 - constant column names
    f"VALUES (?{', ?' * len(_NAMES)}) ON CONFLICT (session_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _NAMES)
)


def keep(transaction: Transaction, session_id: SessionId, account: ContextAccount) -> None:
    """Store the account of a session in place of the one before."""
    transaction.execute(_KEEP, (session_id, *astuple(account)))


def read(connection: Queries, session_id: SessionId) -> ContextAccount:
    """Return the account of a session; an empty one where nothing was counted yet."""
    rows: list[Any] = connection.execute(
        f"SELECT {', '.join(_NAMES)} FROM context_accounts WHERE session_id = ?",  # noqa: S608 - constant column names
        (session_id,),
    ).fetchall()
    if not rows:
        return ContextAccount()

    account = ContextAccount(*rows[0])
    sound = LEAST_RATE <= account.tokens_per_estimate <= MOST_RATE
    return account if sound else account.of("")
