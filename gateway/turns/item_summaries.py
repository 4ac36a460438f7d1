"""Summaries of stored messages, which rules put in their place: written by the session's agent.

An agent is sent the message and what to do with it, and nothing else of the conversation, so that
no turn waits and none is disturbed. What it costs counts against the budgets of the session and
its user. Writes no message: that is for whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.agents.base import Agent
from gateway.context import item_summary
from gateway.context.cache import CacheVerdict, cache_policy
from gateway.context.prices import call_usd
from gateway.errors import AgentError, AgentFailure, ConflictError, NotFoundError
from gateway.log import get_logger
from gateway.model import AgentId, CallPurpose, Message, Role, SessionId, SessionKey, TurnId, Usage
from gateway.pruning.shrinking import ItemSummary
from gateway.sessions import history
from gateway.sessions.key import agent_of
from gateway.transcripts import accounts
from gateway.turns.budgets import user_of
from gateway.turns.compacting import completed
from gateway.turns.counting import spending, store_calls
from gateway.turns.memory import SessionContext
from gateway.turns.outcome import MadeCall
from gateway.turns.preparing import room_alone

if TYPE_CHECKING:
    from gateway.agents.base import Completion
    from gateway.context.settings import ContextSettings
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.model import ModelCall
    from gateway.pruning.items import PrunableItem
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.budgets import Budgets
    from gateway.turns.contexts import Contexts
    from gateway.turns.running import Answering


@dataclass(frozen=True, slots=True)
class _Writer:
    """Who writes a summary, and in whose name."""

    session_id: SessionId
    key: SessionKey
    agent_id: AgentId
    agent: Agent
    user: str
    """Whose usage it is."""


class ItemSummaries:
    """A `gateway.pruning.Summarizer`: the agent of each session summarises what was said there."""

    def __init__(
        self,
        database: Database,
        sessions: SessionStore,
        answering: Answering,
        budgets: Budgets,
        contexts: Contexts,
    ) -> None:
        """Work with the parts that turns work with."""
        self._database = database
        self._sessions = sessions
        self._answering = answering
        self._budgets = budgets
        self._contexts = contexts

    async def summarize(
        self, item: PrunableItem, *, target_tokens: int | None, reason: str
    ) -> ItemSummary:
        """Return a summary of a message's text, with a mark in front that it is one.

        A text too short to gain anything comes back as it is, and nobody is asked. One that does
        not fit a request is cut in the middle; the mark says so.

        Durability: on return, and also where the answer is of no use, it is stored what it cost.
        Cancellation: what the provider has counted by then is stored; of a request that is given
        up nothing is known.

        Args:
            item: With its content.
            target_tokens: How long it should be; None: a fifth of the text, 500 tokens at most.
            reason: Why a rule takes the item.

        Raises:
            NotFoundError: The session is not known.
            ConflictError: Its agent is not there, or cannot write summaries.
            AgentError: The agent could not answer, its answer is of no use, or a budget is used up.
        """
        text, what = item.content or "", _what(item)
        if not item_summary.is_worth_it(text, what):
            return ItemSummary(text)

        writer = await self._writer(SessionId(item.session_id))
        await self._check(writer)
        chars = item_summary.target_chars(text, target_tokens)
        read = await self._fitted(writer, text)
        asked = Message(Role.USER, item_summary.question(read, what, chars))
        completion = await completed(writer.agent, [asked])
        await self._store(writer, completion.call)
        summary = _text_of(writer, completion)
        cut_to = None if read is text else len(read)
        content = item_summary.marked(summary, len(text), what, cut_to)
        get_logger().info(
            "item.summarised",
            session_key=writer.key,
            session_id=writer.session_id,
            item=item.id,
            agent=writer.agent_id,
            reason=reason,
            chars_before=len(text),
            chars_after=len(content),
        )
        return ItemSummary(content)

    async def _writer(self, session_id: SessionId) -> _Writer:
        found = await self._database.read(lambda conn: history.owner_of(conn, session_id))
        if found is None:
            raise NotFoundError(f"there is no session {session_id!r}")

        key, agent_id = SessionKey(found), agent_of(found)
        agent = self._answering.agents.get(agent_id)
        if agent is None:
            raise ConflictError(f"there is no agent {agent_id!r} any more to write summaries")
        if not agent.facts().completes:
            raise ConflictError(f"the agent {agent_id!r} cannot write summaries")

        entry = self._sessions.get(key)
        user = _user_of_key(key) if entry is None else user_of(entry.source)
        return _Writer(session_id, key, agent_id, agent, user)

    async def _check(self, writer: _Writer) -> None:
        """Refuse where the agent's provider is out of order, or a budget used up."""
        rest_s = self._answering.breakers.rest_s(writer.agent_id)
        if rest_s > 0:
            raise AgentError(
                f"the agent {writer.agent_id!r} rests after a failure",
                failure=AgentFailure.OUTAGE,
                retry_after_s=rest_s,
            )

        used_up = await self._budgets.check(writer.session_id, writer.user, Usage())
        if used_up is not None:
            raise AgentError("a budget is used up", user_text=used_up, failure=AgentFailure.BUDGET)

    async def _fitted(self, writer: _Writer, text: str) -> str:
        """Return as much of a text as fits a request, by how its provider has counted so far."""
        account = await self._database.read(lambda conn: accounts.read(conn, writer.session_id))
        room = room_alone(SessionContext(account=account), writer.agent.facts())
        try:
            return item_summary.fitted(text, room)
        except ValueError as error:
            raise AgentError(f"the summary {error}", failure=AgentFailure.OVERFLOW) from error

    async def _store(self, writer: _Writer, call: ModelCall) -> None:
        """Store what a summary has cost, unless all of the session was erased meanwhile."""
        made = _made(writer, call, self._contexts.settings)

        def counted(entry: SessionEntry) -> SessionEntry:
            return entry.changed(**spending(entry, [made]))

        def work(transaction: Transaction) -> None:
            if history.owner_of(transaction.connection, writer.session_id) is None:
                return

            store_calls(transaction, writer.session_id, TurnId(""), writer.user, [made])
            entry = self._sessions.find_staged(writer.key)
            if entry is not None and entry.session_id == writer.session_id:
                self._sessions.stage_update(transaction, writer.key, counted)
            else:
                history.change_ended(transaction, writer.key, writer.session_id, counted)

        await self._database.write_through(work)


def _what(item: PrunableItem) -> str:
    return item.type.value.replace("_", " ")


def _user_of_key(key: SessionKey) -> str:
    """Return whom a session without an entry is counted for, in the form of `user_of`."""
    _, _, platform, account, _, chat, _, user = key.split(":")
    return ":".join(
        (platform, account, "user", user) if user else (platform, account, "chat", chat)
    )


def _made(writer: _Writer, call: ModelCall, settings: ContextSettings) -> MadeCall:
    facts = writer.agent.facts()
    policy = cache_policy(settings, writer.agent_id, facts.model, facts.cache_ttl_s)
    usd = None if call.usage is None else call_usd(policy, call.usage)
    summary = replace(call, purpose=CallPurpose.SUMMARY)
    return MadeCall(writer.agent_id, summary, CacheVerdict.UNKNOWN, usd)


def _text_of(writer: _Writer, completion: Completion) -> str:
    if completion.error is not None:
        raise completion.error

    try:
        return item_summary.checked(completion.text)
    except ValueError as error:
        raise AgentError(f"{writer.agent.facts().model}: its summary {error}") from error
