"""What would be sent of a session, message by message, for people to look at.

Reads the database and changes nothing, neither there nor in the contexts that turns work on. The
message to come is not known here: the next request has it besides. Above it is the API, which puts
it into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Final

from gateway.context.cache import cache_policy, is_cold
from gateway.context.estimate import message_chars, tokens_of_chars
from gateway.context.mending import mended
from gateway.context.projection import project
from gateway.context.pruning import Decision, is_allowed, protected_from
from gateway.errors import UnavailableError
from gateway.model import Projection, ProjectionMode, Role
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.reading import count_gone, messages_after, newest_turn
from gateway.turns.listing import MAX_LINES, ContextLine, LineState, Listing, SentMessage
from gateway.turns.memory import MAX_CHARS, SessionContext, load_context, readable_chars
from gateway.turns.preparing import Live, last_request, plan_request

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.agents.base import AgentFacts
    from gateway.context.counted import CountedContext
    from gateway.context.settings import ContextSettings, PruningSettings
    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.sessions.entry import SessionEntry

_TRIES: Final = 5
"""How often all is read again because a turn was committed meanwhile."""


_STATES: Final = {
    ProjectionMode.TRIM: LineState.TRIMMED,
    ProjectionMode.CLEAR: LineState.CLEARED,
}


@dataclass(frozen=True, slots=True)
class NextRound:
    """What the next request would change before it is sent."""

    decision: Decision
    trimmed: int
    cleared: int
    tool_names: list[str]
    tokens_before: int
    tokens_after: int
    saved_tokens: int
    saved_usd: float | None
    """None where no price is known, or where there is no round."""
    left_out_turns: int
    """Turns that leave because the rest does not fit the window."""
    compacts: bool
    """Whether a summary is tried in their place first."""


@dataclass(frozen=True, slots=True)
class ShownContext:
    """A context, without the message to come."""

    messages: list[ContextLine]
    messages_not_listed: int
    """Older ones, beyond `MAX_LINES`."""
    sent_messages: int
    sent_chars: int
    said_messages: int
    """All of the session, notices apart."""
    said_chars: int
    pruned_messages: int
    """Messages that rules have taken from the transcript, as far as the audit reaches."""
    summarised_turns: int
    """Turns that a summary is sent in place of."""
    left_out_turns: int
    """Turns of which nothing is sent, those summarised apart."""
    overhead_tokens: int
    """What the provider last counted above the estimate; it may be less than none."""
    estimated_tokens: int
    """Characters as tokens, the agent's own included, and the measured overhead."""
    account: ContextAccount
    next_round: NextRound | None
    """None where nobody asked, or where there is no agent to be sent anything."""


async def show_context(
    database: Database,
    entry: SessionEntry,
    agent: AgentFacts | None,
    settings: ContextSettings,
    now: datetime,
    *,
    dry_run: bool = False,
    text: bool = False,
) -> ShownContext:
    """Return what would be sent of a session, as it is stored now.

    Args:
        database: Where it is.
        entry: The session.
        agent: Who would be asked; None where there is no such agent any more.
        settings: Of pruning and caches.
        now: When the next request would begin.
        dry_run: Whether to plan what the next request changes.
        text: Whether to tell the beginning of each message.

    Raises:
        UnavailableError: turns were committed all the time.
    """
    # As a turn does, so that both leave out the same.
    max_chars = MAX_CHARS if agent is None else readable_chars(agent.window_tokens)
    for _ in range(_TRIES):
        context = await load_context(database, entry.session_id, max_chars=max_chars)
        view = _View(context, entry, agent, settings, now)
        shown = await database.read(partial(view.show, dry_run=dry_run, text=text))
        if shown is not None:
            return shown
    raise UnavailableError("The session goes on all the time. Try again.")


class _View:
    """One look at a context, which is taken apart."""

    def __init__(
        self,
        context: SessionContext,
        entry: SessionEntry,
        agent: AgentFacts | None,
        settings: ContextSettings,
        now: datetime,
    ) -> None:
        self._context = context
        self._counted = context.counted
        self._account = context.account
        self._entry = entry
        self._agent = agent
        self._settings = settings
        self._now = now
        # As a turn does: what another model counted says nothing.
        self._rate = context.account if agent is None else context.account.of(agent.model)

    def show(self, connection: Queries, *, dry_run: bool, text: bool) -> ShownContext | None:
        """Return everything; None where transcript and context are not of one moment."""
        session_id = self._entry.session_id
        said = mended(messages_after(connection, session_id, 0), leads=False)
        counted = self._counted
        sent = _all_sent(counted, self._settings.pruning)
        sent_chars, unsent_turns = counted.chars, counted.left_out_turns
        estimated_tokens = self._tokens()
        # A plan changes the context, so the listing takes what it needs of it before.
        covered = self._context.summarised_through
        summarised = newest_turn(connection, session_id, covered) if covered else None
        listing = Listing(sent, counted, summarised, text=text)
        next_round = None
        if dry_run and self._agent is not None:
            next_round = self._plan(self._agent, sent)
        if not all(starmap(listing.take, said)) or not listing.is_whole(unsent_turns):
            return None

        return ShownContext(
            messages=listing.lines(),
            messages_not_listed=max(0, listing.said_messages - MAX_LINES),
            sent_messages=len(sent),
            sent_chars=sent_chars,
            said_messages=listing.said_messages,
            said_chars=listing.said_chars,
            pruned_messages=count_gone(connection, session_id),
            summarised_turns=counted.summarised_turns,
            left_out_turns=max(0, unsent_turns - counted.summarised_turns),
            overhead_tokens=estimated_tokens - tokens_of_chars(sent_chars + self._own_chars()),
            estimated_tokens=estimated_tokens,
            account=self._account,
            next_round=next_round,
        )

    def _own_chars(self) -> int:
        return 0 if self._agent is None else self._agent.overhead_chars

    def _tokens(self) -> int:
        return self._rate.tokens(tokens_of_chars(self._counted.chars + self._own_chars()))

    def _plan(self, agent: AgentFacts, sent: list[SentMessage]) -> NextRound:
        """Plan what the next request does, and note it on the messages."""
        counted = self._counted
        policy = cache_policy(self._settings, self._entry.agent, agent.model, agent.cache_ttl_s)
        last = last_request(self._entry, self._account, self._entry.agent)
        cold = is_cold(last, agent.model, policy, self._now)
        pruning = self._settings.pruning
        live = Live.of((), agent)
        next_ = plan_request(self._context, agent, live, pruning, policy, cold=cold)
        plan, beyond = next_.round, next_.overflow
        for change in plan.changes:
            one = sent[change.place]
            one.next_state, one.next_chars = _STATES[change.projection.mode], change.size
        if beyond is not None:
            for one in sent[counted.begins : counted.begins + beyond.messages]:
                one.next_state, one.next_chars = LineState.LEFT_OUT, 0
            counted.leave_out(beyond.messages, beyond.turns)
        return NextRound(
            decision=plan.decision,
            trimmed=plan.count(ProjectionMode.TRIM),
            cleared=plan.count(ProjectionMode.CLEAR),
            tool_names=plan.tool_names(),
            tokens_before=next_.tokens_before,
            tokens_after=self._tokens(),
            saved_tokens=plan.saved_tokens,
            saved_usd=next_.usd,
            left_out_turns=0 if beyond is None else beyond.turns,
            compacts=beyond is not None and agent.completes and self._settings.compaction.enabled,
        )


def _all_sent(counted: CountedContext, settings: PruningSettings) -> list[SentMessage]:
    return [
        SentMessage(
            counted.messages[place],
            counted.sizes[place],
            _state(counted, place),
            _protection(counted, place, settings),
        )
        for place in range(len(counted.messages))
    ]


def _state(counted: CountedContext, place: int) -> LineState:
    if place < counted.begins:
        return LineState.SUMMARY

    projection = counted.projection(place)
    return LineState.KEPT if projection is None else _STATES[projection.mode]


def _protection(counted: CountedContext, place: int, settings: PruningSettings) -> str:
    """Return why no round touches a message; empty where one may."""
    message = counted.messages[place]
    if message.role is not Role.TOOL:
        turns = counted.summarised_turns
        summary = f"stands for {turns} turn{'' if turns == 1 else 's'}"
        return summary if place < counted.begins else "user and assistant text"

    if place >= protected_from(counted, settings):
        keep = settings.keep_last_assistants
        return f"one of the last {keep} assistant messages or after"

    if not is_allowed(message.tool_name, settings.tools):
        return "tool denied by context.pruning.tools"

    return "" if _can_shrink(counted, place, settings) else "short"


def _can_shrink(counted: CountedContext, place: int, settings: PruningSettings) -> bool:
    """Return whether a tool result may yet be made shorter, or is a placeholder already."""
    message, made = counted.messages[place], counted.projection(place)
    if made is not None and made.mode is ProjectionMode.CLEAR:
        return True

    hard, trim = settings.hard_clear, settings.soft_trim
    item = counted.item(place)
    smaller = []
    if hard.enabled:
        smaller.append(Projection(item, ProjectionMode.CLEAR, placeholder=hard.placeholder))
    if made is None and (len(message.text) > trim.max_chars or message.images):
        sizes = (trim.max_chars, trim.head_chars, trim.tail_chars)
        smaller.append(Projection(item, ProjectionMode.TRIM, *sizes))
    size = counted.sizes[place]
    return any(message_chars(project(message, one)) < size for one in smaller)
