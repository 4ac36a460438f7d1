"""One turn as it runs: what its agents are given, and what came of it so far.

Prepares each request of the turn through `Contexts`, and keeps the books of what was counted.
Knows no lane and commits nothing but what a request rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.access.settings import WITHOUT_COMMANDS
from gateway.agents.base import MessageFinished, ModelCallFinished, NobodyToAskError, TextDelta
from gateway.clock import Clock
from gateway.context.cache import LastRequest, verdict
from gateway.context.estimate import estimate_context_chars, tokens_of_chars
from gateway.context.prices import call_usd
from gateway.errors import AgentError, AgentFailure
from gateway.model import (
    ContextMeasurement,
    ContextSource,
    Message,
    Projection,
    ProjectionMode,
    Role,
    ToolCaller,
)
from gateway.turns.approvals import Approvals
from gateway.turns.brought import asked_chars
from gateway.turns.budgets import Budgets, user_of
from gateway.turns.compacting import summary_time_s
from gateway.turns.contexts import Contexts
from gateway.turns.counting import TurnCalls, used
from gateway.turns.outcome import MadeCall, Outcome
from gateway.turns.preparing import Asking, Books, cache_key
from gateway.turns.ticket import Fallback, ReplyContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.agents.base import Agent, AgentEvent
    from gateway.model import AgentId, SessionSource, ToolCall
    from gateway.sessions.entry import SessionEntry
    from gateway.transcripts.accounts import ContextAccount
    from gateway.turns.preparing import Request, Store

TOO_LONG: Final = (
    "This message alone is larger than what the agent can read. Please send a shorter one."
)
TOOLS_TOO_LONG: Final = (
    "The tools returned more than the agent can read at once. Please ask for less at a time."
)


@dataclass(frozen=True, slots=True)
class TurnServices:
    """What every turn uses."""

    contexts: Contexts
    approvals: Approvals
    budgets: Budgets
    clock: Clock


class LiveTurn:
    """A `gateway.agents.base.Conversation`, whichever agents answer it one after the other."""

    def __init__(
        self,
        services: TurnServices,
        entry: SessionEntry,
        source: SessionSource,
        opening: tuple[Message, ...],
        outcome: Outcome,
        store: Store,
        deadline_s: float,
    ) -> None:
        """Begin with nothing said but the opening; `use` comes before anything else.

        Args:
            services: What every turn uses.
            entry: The session as it is now that the turn begins.
            source: Where the message came from; whose budget it is.
            opening: The user's message; of a turn that goes on, all that it has said so far.
            outcome: Gets what comes of it.
            store: Stores what a request rests on.
            deadline_s: How long the turn may take from now on, in seconds.
        """
        self.outcome = outcome
        self.request: Request | None = None
        """The last one; None before any."""
        self.books: Books | None = None
        """What was counted so far; None before any request."""
        self._services = services
        self._entry = entry
        self._source = source
        self._user = user_of(source)
        self._opening = opening
        self._goes_on = len(opening) > 1
        self.asked_for = asked = outcome.asked
        """See `Conversation`."""
        self.steps_before = sum(bool(one.tool_calls) for one in opening)
        """See `Conversation`."""
        self._instructions = tuple(
            Message(Role.SYSTEM, text, turn_id=outcome.turn_id) for text in asked.instructions
        )
        self._store = store
        self._deadline_s = deadline_s
        self._ends_at = services.clock.monotonic() + deadline_s
        self._calls = TurnCalls(outcome.calls)
        self._agent: Agent | None = None
        self._own: dict[AgentId, Mapping[str, Projection]] = {}
        """By agent, what was made of the turn's tool results for it alone."""
        self._is_told = False
        """Whether dashboards were told the last count."""
        self._said = 0
        """How many messages of the turn the last request had."""
        self.posted = 0
        """Sizes that dashboards were told of the turn so far."""
        self._went_beyond = False
        """Whether the context has shrunk since the last count, or another request was sent."""
        self._too_long = False
        """Whether a window had no room for the user's message alone."""

    @property
    def cache_key(self) -> str:
        """See `Conversation`."""
        return cache_key(self._entry.session_id)

    @property
    def caller(self) -> ToolCaller:
        """See `Conversation`."""
        entry = self._entry
        return ToolCaller(
            entry.session_key, entry.session_id, entry.agent, self._source, self.outcome.turn_id
        )

    @property
    def spent_tokens(self) -> int:
        """See `Conversation`."""
        usage = self.outcome.usage()
        return 0 if usage is None else usage.total_tokens

    @property
    def stored_calls(self) -> int:
        """How many of its first requests are stored already."""
        return self._calls.stored

    @property
    def account(self) -> ContextAccount | None:
        """How the context was measured; None where no request of the turn was counted."""
        counted = any(made.call.usage is not None for made in self.outcome.calls)
        return self.books.account if self.books is not None and counted else None

    @property
    def refused(self) -> Projection | None:
        """What keeps the user's message out of the context where nobody could read it."""
        if not self._too_long or self.outcome.said:
            return None

        return Projection(self.outcome.turn_id, ProjectionMode.SKIP)

    def use(self, agent_id: AgentId, agent: Agent) -> None:
        """Let an agent answer from here on."""
        self.outcome.agent = agent_id
        self._agent = agent

    async def messages(self) -> Sequence[Message]:
        """See `Conversation`; on return what was counted so far is stored.

        What the last request of a turn that is cut off was counted as is lost.
        """
        unstored = self._calls.unstored()
        refused = await self._services.budgets.check(
            self._entry.session_id,
            self._user,
            used(unstored),
            extra_usd=sum(made.usd or 0.0 for made in unstored),
        )
        if refused is not None:
            raise AgentError("a budget is used up", user_text=refused, failure=AgentFailure.BUDGET)

        request = await self._services.contexts.request(self._asking())
        self._went_on(request)
        if not request.fits:
            has_said = self._goes_on or bool(self.outcome.said)
            text = TOOLS_TOO_LONG if has_said else TOO_LONG
            self._too_long |= not has_said
            raise AgentError(
                "what the turn has said alone does not fit the window",
                user_text=text,
                failure=AgentFailure.OVERFLOW,
            )

        return (*self._instructions, *request.messages)

    def returned(self, message: Message) -> None:
        """See `Conversation`."""
        self.outcome.note_result(message)

    async def approve(self, call: ToolCall) -> bool:
        """See `Conversation`."""
        if self._source.platform in WITHOUT_COMMANDS:
            # A program waits for the answer alone, and what it sends next is no yes.
            raise NobodyToAskError

        approvals, key = self._services.approvals, self._entry.session_key
        return await approvals.approve(key, self._user, call, self.outcome)

    async def make_room(self) -> bool:
        """Make the context smaller than the last request; False where nothing can be gained."""
        request = self.request
        if request is None or self.outcome.agent != self._entry.agent:
            return False

        try:
            shorter = await self._services.contexts.request(self._asking(overflowed=request.chars))
        except AgentError:
            # That there is no summary either says less than why one was needed.
            return False

        self._went_on(shorter)
        return shorter.fits and shorter.chars < request.chars

    def take(self, event: AgentEvent) -> None:
        """Note what the agent did.

        Raises:
            AgentError: it does not keep to the protocol.
        """
        match event:
            case TextDelta(text):
                self.outcome.add_text(text)
            case MessageFinished(message, cut):
                self.outcome.add_message(message)
                self.outcome.cut = cut
            case ModelCallFinished():
                self._count(event)

    def passed_over(self, agent_id: AgentId, reason: str) -> None:
        """Note that an agent did not answer, and another is asked."""
        self.outcome.fallbacks.append(Fallback(agent_id, reason))

    def measured(self) -> ReplyContext | None:
        """Return the size of the last request: as its provider counted it, else as estimated.

        None where there was no agent to be asked.
        """
        if self._agent is None:
            return None

        made = self.outcome.calls[-1] if self.outcome.calls else None
        usage = made.call.usage if made is not None and self._is_of_last(made) else None
        if usage is not None:
            tokens, source = usage.context_tokens, ContextSource.USAGE
        elif self.request is not None and self.request.fits:
            tokens, source = self.request.estimated_tokens(), ContextSource.ESTIMATE
        else:
            tokens, source = 0, ContextSource.UNKNOWN
        known = source is not ContextSource.UNKNOWN
        return ReplyContext(
            tokens=tokens,
            window_tokens=self._agent.facts().window_tokens,
            source=source,
            measured_at=self._services.clock.now() if known else None,
            turns_left_out=self.request.turns_left_out if self.request is not None else 0,
        )

    def _is_of_last(self, made: MadeCall) -> bool:
        """Return whether a count says something of what was prepared last, and for whom."""
        return made.agent == self.outcome.agent and not self._went_beyond

    def _asking(self, *, overflowed: int | None = None) -> Asking:
        agent = self._agent
        if agent is None:
            raise AssertionError("no agent was chosen")

        agent_id, last = self.outcome.agent or self._entry.agent, self.request
        counted = self._count_to_tell()
        return Asking(
            entry=self._entry,
            user=self._user,
            agent_id=agent_id,
            agent=agent,
            live=(*self._opening, *self.outcome.said),
            books=self.books,
            shortened={} if last is None else last.shortened,
            own=self._own.get(agent_id, {}),
            calls=self._calls,
            counted=counted,
            store=self._store,
            step=self._entry.context_step + 1 + self.posted,
            summary_s=summary_time_s(
                self._deadline_s, self._ends_at - self._services.clock.monotonic()
            ),
            asked_chars=asked_chars(self.asked_for),
            goes_on=self._goes_on,
            overflowed_chars=overflowed,
        )

    def _count_to_tell(self) -> ContextMeasurement | None:
        """Return what the provider counted last, for dashboards; each count once."""
        made = self.outcome.calls[-1] if self.outcome.calls else None
        if made is None or made.call.usage is None or self.request is None or self._is_told:
            return None

        measurement = ContextMeasurement(
            tokens=made.call.usage.context_tokens,
            window_tokens=self.request.facts.window_tokens,
            source=ContextSource.USAGE,
            measured_at=self._services.clock.now(),
            step=self._entry.context_step + 1 + self.posted,
        )
        self.posted += 1
        self._is_told = True
        return measurement

    def _went_on(self, request: Request) -> None:
        self.request, self.books = request, request.books
        if self.outcome.agent is not None:
            self._own[self.outcome.agent] = request.own
        self.posted += request.posted
        self._said = len(self.outcome.said)
        self._went_beyond |= request.fits or bool(request.posted)

    def _count(self, event: ModelCallFinished) -> None:
        """Note what a provider counted of the last request."""
        call, request, books = event.call, self.request, self.books
        if request is None or books is None:
            raise AgentError("the agent counted a request before it asked for its messages")

        found = verdict(
            call.usage,
            books.last,
            call.model,
            request.policy,
            call.started_at,
            cache_counted=call.cache_counted,
        )
        usd = None if call.usage is None else call_usd(request.policy, call.usage)
        tokens, account = 0, books.account
        if call.usage is not None:
            tokens = call.usage.context_tokens
            # A program of its own may have sent what it said since it asked for its messages.
            since = estimate_context_chars(self.outcome.said[self._said :])
            account = account.with_request(
                call.model,
                tokens=tokens,
                estimated=tokens_of_chars(request.chars + since),
                verdict=found.value,
            )
        agent_id = self.outcome.agent or self._entry.agent
        last = LastRequest(call.started_at, call.model, tokens)
        self.books = Books(account, last, agent_id)
        self._went_beyond = False
        self._is_told = False
        self.outcome.calls.append(MadeCall(agent_id, call, found, usd))
