"""What the context of a session was measured as, and what pruning saved it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionId

LEAST_RATE: Final = 0.25
MOST_RATE: Final = 8.0
GUARDING_RATE: Final = 0.7
"""What guards a window counts at least so many tokens for each that is estimated."""
_USUAL_CONSTANT: Final = 4_000
"""A first count is taken for constant as far as it is above the estimate by at most this."""
_MOST_CONSTANT: Final = 20_000
"""More than this is never taken for constant when a request shrinks."""
_MEMORY_TOKENS: Final = 30_000
"""The rate rests on so much growth, in estimated tokens; what is older is forgotten bit by bit."""
_LEAST_WEIGHT: Final = 20
_FIRST_WEIGHT: Final = 0.05
"""What a first count is worth beside growth, as a share of its size."""
_FRAMING_TOKENS: Final = 200
"""Growth of about this or less says little: a message more or less costs as much."""
_MESSAGE_TOKENS: Final = 4
"""What providers count for a message beside its text: the estimate knows nothing of it."""
_MOST_MESSAGE_TOKENS: Final = 24
"""More is not believed, ..."""
_TELLING_MESSAGES: Final = 10
"""... and nothing is where fewer messages than this tell it."""
_TOLERATED: Final = 3_000
"""By this, divided by its weight, growth may be off the rate before it is doubted, ..."""
_LEAST_TOLERATED: Final = 0.15
"""... at least by this share of the rate, ..."""
_SLACK_TOKENS: Final = 200
"""... and by so many tokens more."""
_DOUBTED: Final = 1 / 3
"""What is left of the weight after a growth that is doubted."""


@dataclass(frozen=True, slots=True)
class ContextAccount:
    """The account of one session id.

    What a provider counts of a request is taken for a constant (its own framing, what prompt and
    tools take beyond their estimate) and a rate for each token estimated. One count cannot tell the
    two apart: a usual constant is granted, the rest is rate. What the counts grow by from request
    to request then tells the rate. A growth it does not explain is taken for a change of the
    constant, as by other tools; but the rate weighs less from then on, so that another script is
    followed once it goes on for some requests.
    """

    model: str = ""
    """Whose count the next four are; empty before any."""
    request_tokens: int = 0
    """The size of the last request that its provider counted."""
    overhead_tokens: int = 0
    """What the provider counted of it beside the estimate at the rate; it may be negative."""
    tokens_per_estimate: float = 1.0
    """The rate: how many tokens are counted more for each more that is estimated."""
    weighed_tokens: int = 0
    """How many estimated tokens of growth the rate rests on; fewer once it was off."""
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

    @property
    def average_rate(self) -> float:
        """The rate of all that was last counted: what is left where much leaves is told by it.

        It leaves 0 to 20,000 tokens for the constant, whatever the last growth was like.
        """
        estimated = self._estimated
        if estimated <= 0:
            return self.tokens_per_estimate

        rate = max(self.tokens_per_estimate, (self.request_tokens - _MOST_CONSTANT) / estimated)
        return _plausible(min(rate, self.request_tokens / estimated))

    @property
    def guarding_rate(self) -> float:
        """The rate for what guards a window: a provider that tells too little switches none off."""
        return max(GUARDING_RATE, self.average_rate)

    @property
    def _estimated(self) -> int:
        """What was estimated of the last request that was counted."""
        return round((self.request_tokens - self.overhead_tokens) / self.tokens_per_estimate)

    def tokens(self, estimated: int) -> int:
        """Return what the provider would count of a request: its last count and what changed since.

        With text of one kind it is off by at most a tenth (and 500 tokens where it has fewer than
        5,000) from the second count on, while it differs by no more than all requests before it did
        together. It may be off by more where the constant changes with this very request or has
        changed among the first ten, and where what leaves is of another kind than what stays.
        """
        rate, less = self.tokens_per_estimate, max(0, self._estimated - estimated)
        tokens = round(rate * estimated) + self.overhead_tokens
        return max(0, tokens + round((rate - self.average_rate) * less))

    def of(
        self, model: str, others: Mapping[str, ContextAccount] = MappingProxyType({})
    ) -> ContextAccount:
        """Return the account as far as it says something of a model.

        Args:
            model: The model.
            others: What was counted of other requests of the session, by model.
        """
        if self.model == model:
            return self

        known = others.get(model, _UNCOUNTED)
        return replace(
            self,
            model=model,
            request_tokens=known.request_tokens,
            overhead_tokens=known.overhead_tokens,
            tokens_per_estimate=known.tokens_per_estimate,
            weighed_tokens=known.weighed_tokens,
        )

    def message_tokens(self, tokens: int, estimated: int, fewer: int) -> float:
        """Return what a message costs beside its text, as two counts of one provider tell it.

        Args:
            tokens: What it counted of a request that has less of the same conversation.
            estimated: What was estimated of that.
            fewer: How many messages fewer than the last request it had.
        """
        if not self.request_tokens or fewer < _TELLING_MESSAGES:
            return _MESSAGE_TOKENS

        text_tokens = self.tokens_per_estimate * (self._estimated - estimated)
        each = (self.request_tokens - tokens - text_tokens) / fewer
        return min(_MOST_MESSAGE_TOKENS, max(_MESSAGE_TOKENS, each))

    def without_messages(self, count: int, each: float = _MESSAGE_TOKENS) -> ContextAccount:
        """Return the account once messages have left, with what each took by itself.

        A summary of very many short messages would else be told at their framing as well. What is
        only shortened keeps its framing.

        Args:
            count: How many.
            each: What each took, in tokens.
        """
        gone = min(round(each * count), max(0, self.overhead_tokens))
        return replace(
            self,
            request_tokens=self.request_tokens - gone,
            overhead_tokens=self.overhead_tokens - gone,
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
        rate, weight = _rate(known, tokens, estimated)
        return replace(
            known,
            model=model,
            request_tokens=tokens,
            overhead_tokens=tokens - round(rate * estimated),
            tokens_per_estimate=rate,
            weighed_tokens=round(weight),
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


_UNCOUNTED: Final = ContextAccount()


def _rate(known: ContextAccount, tokens: int, estimated: int) -> tuple[float, float]:
    """Return rate and weight after another count."""
    if not known.request_tokens:
        return _first_rate(tokens, estimated)

    rate = known.tokens_per_estimate
    weight = float(min(_MEMORY_TOKENS, max(_LEAST_WEIGHT, known.weighed_tokens)))
    expected = known.tokens(estimated) - known.request_tokens
    before = round((known.request_tokens - known.overhead_tokens) / rate)
    grown, counted = abs(estimated - before), tokens - known.request_tokens
    if not grown:
        return rate, weight

    tolerated = max(_TOLERATED / weight, _LEAST_TOLERATED * rate) * grown + _SLACK_TOKENS
    # From 1, where the growth is as expected, to 0, where it is doubted wholly.
    belief = max(0.0, 1 - ((counted - expected) / tolerated) ** 2) ** 2
    weight = max(_LEAST_WEIGHT, weight * (_DOUBTED + (1 - _DOUBTED) * belief))
    more = belief * grown * grown / (grown + _FRAMING_TOKENS)
    rate = (rate * weight + _plausible(counted / (estimated - before)) * more) / (weight + more)
    return _plausible(rate), min(_MEMORY_TOKENS, weight + more)


def _first_rate(tokens: int, estimated: int) -> tuple[float, float]:
    constant = min(_USUAL_CONSTANT, max(0, tokens - estimated))
    rate = _plausible((tokens - constant) / estimated) if estimated else 1.0
    return rate, min(_MEMORY_TOKENS, max(_LEAST_WEIGHT, _FIRST_WEIGHT * estimated))


def _plausible(rate: float) -> float:
    return min(MOST_RATE, max(LEAST_RATE, rate))


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
