"""Calls without a session: the client's conversation as it is, answered once and not stored.

What stays is what was counted, in the sums of the token's name. Budgets, rates of a user, the
deadline of turns and the agents that stand in hold as for turns.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.access.deciding import Standing
from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.direct import Direct
from gateway.api.openai.answers import Completed
from gateway.api.openai.asking import check_taken
from gateway.api.openai.errors import CONTEXT_TOO_LONG, agent_problem, of_agent, refused, too_late
from gateway.api.problems import ProblemError, unexpected
from gateway.context.cache import cache_policy
from gateway.context.prices import call_usd
from gateway.durable.batch import PASSING
from gateway.errors import (
    AgentError,
    AgentFailure,
    BusyError,
    ForbiddenError,
    StorageFullError,
    UnavailableError,
)
from gateway.log import get_logger
from gateway.model import (
    AgentId,
    Inbound,
    Message,
    ModelCall,
    Role,
    SessionId,
    SessionKey,
    Usage,
)
from gateway.transcripts.usage import count_alone
from gateway.turns.budgets import user_of
from gateway.turns.candidates import PASSED_ON, in_order
from gateway.turns.ticket import Progress

if TYPE_CHECKING:
    from gateway.agents.base import Agent, AgentEvent
    from gateway.api.context import ApiContext
    from gateway.api.openai.asking import Asker, Read
    from gateway.durable.batch import Transaction
    from gateway.model import TurnId

BUSY_S: Final = 5.0
"""When to come again where too many calls run."""
NOBODY: Final = AgentId("")
COUNT_S: Final = 5.0
"""How long a call that was cut off may take to have its usage stored."""


@dataclass(slots=True)
class _Made:
    """What a call came to so far."""

    texts: list[str] = field(default_factory=list)
    message: Message | None = None
    cut: bool = False
    agent: AgentId = NOBODY
    calls: list[tuple[AgentId, ModelCall]] = field(default_factory=list)

    def take(self, event: AgentEvent) -> str:
        """Note what an agent did; return the text it brings."""
        match event:
            case TextDelta(text):
                self.texts.append(text)
                return text
            case MessageFinished(message, cut) if message.role is Role.ASSISTANT:
                self.message, self.cut = message, cut
            case ModelCallFinished(call):
                self.calls.append((self.agent, call))
        return ""

    def completed(self) -> Completed:
        """Return what it came to in the end.

        Raises:
            AgentError: there is no answer.
        """
        if self.message is None:
            raise AgentError("a request came to no message")

        counted = [call.usage for _, call in self.calls if call.usage is not None]
        usage = sum(counted, start=Usage()) if counted else None
        return Completed("".join(self.texts), self.agent, usage, self.message.tool_calls, self.cut)


class _Asked:
    """What a call asks for, and who can answer it."""

    def __init__(self, read: Read) -> None:
        if read.direct is None:
            raise AssertionError("a request to a session")

        self.direct = read.direct
        self._request, self._tokens = read.request, read.tokens

    def check(self, agent: Agent) -> None:
        """Refuse what the agent cannot do, and what does not fit its window.

        Raises:
            ProblemError: either.
        """
        if not isinstance(agent, Direct):
            text = f"the agent {self._request.model!r} answers in sessions alone: name one."
            raise refused(f"model: {text}", "model")

        check_taken(self.direct.tools, self.direct.wishes, agent.takes(), self._request)
        if self._tokens > _room(agent):
            raise refused(
                f"The messages and tools are more than the {_room(agent)} tokens that the agent "
                "takes.",
                "messages",
                code=CONTEXT_TOO_LONG,
            )

    def heeded_by(self, agent: Agent) -> bool:
        """Return whether an agent can stand in for another."""
        if not isinstance(agent, Direct):
            return False

        heeds = agent.takes().heeds(self.direct.tools, self.direct.wishes)
        return heeds and self._tokens <= _room(agent)


class StatelessCalls:
    """Answers calls, so many at once and no more."""

    def __init__(self, context: ApiContext) -> None:
        """Answer with the context's agents."""
        self._context = context
        self._running: dict[TurnId, tuple[str, int]] = {}
        """Of each call its user and the tokens that it sends, roughly."""

    async def prepare(self, read: Read, asker: Asker, turn_id: TurnId) -> StatelessCall:
        """Return a call that may run; it counts as one that does until `end`.

        Raises:
            ProblemError: it asks for what there is not, or does not fit.
            ForbiddenError: the token may not talk here.
            BusyError: a bound is reached.
            UnavailableError, StorageFullError: nothing is taken at the moment.
        """
        context = self._context
        source = asker.source()
        if context.stop.is_set():
            raise UnavailableError("The gateway is not taking messages at the moment.")
        if context.database.statistics().full:
            # What is used could not be counted.
            raise StorageFullError

        admission = await context.door.access.admit(Inbound(source, ""))
        if admission.standing is Standing.STRANGER:
            raise ForbiddenError(admission.text or "This token may not talk here.")

        asked, agent_id = _Asked(read), AgentId(read.request.model)
        asked.check(context.turns.answering.agents[agent_id])
        user = user_of(source)
        self._check_places(user)
        # Each call is a session of its own: of the rates, only that of the user counts.
        context.turns.spend(Inbound(source, ""), SessionKey(turn_id))
        under_way = sum(tokens for whose, tokens in self._running.values() if whose == user)
        self._running[turn_id] = (user, read.tokens)
        try:
            # What runs is used, though its provider has not counted it yet.
            extra = Usage(input_tokens=under_way)
            refusal = await context.turns.budgets.check(SessionId(""), user, extra)
            if refusal is not None:
                raise ProblemError(agent_problem(AgentFailure.BUDGET.value, refusal))  # noqa: TRY301 - the place is given back below
        except BaseException:
            self.end(turn_id)
            raise

        return StatelessCall(context, agent_id, asked, user, turn_id)

    def end(self, turn_id: TurnId) -> None:
        """Count a call no more; harmless where it was not."""
        self._running.pop(turn_id, None)

    def _check_places(self, user: str) -> None:
        """Make sure that there is a place for one more call of a user's.

        No user has more than half of them: slow calls of one must not shut out the others.

        Raises:
            BusyError: there is none.
        """
        most = self._context.turn_settings().max_running
        if len(self._running) >= most:
            raise BusyError(
                "The gateway answers too many calls. Please try again in a moment.",
                retry_after_s=BUSY_S,
                caller_limit=False,
            )

        share = max(1, most // 2)
        if sum(whose == user for whose, _ in self._running.values()) >= share:
            raise BusyError(
                f"{share} of your calls run already, which is the most. Please try again later.",
                retry_after_s=BUSY_S,
                caller_limit=True,
            )


class StatelessCall:
    """One call; `run` has it answered, and `progress` tells."""

    def __init__(
        self,
        context: ApiContext,
        agent: AgentId,
        asked: _Asked,
        user: str,
        turn_id: TurnId,
    ) -> None:
        """Take what is to be answered, and by whom."""
        self._context = context
        self._first = agent
        self._asked = asked
        self._user = user
        self._turn_id = turn_id
        self._made = _Made()
        self.progress: Progress[Completed] = Progress()

    async def run(self) -> None:
        """Answer; whatever goes wrong is told by the progress.

        Durability: what was counted is stored before the answer is told to be complete.
        Cancellation: ends the request to the provider; what was counted is stored.
        """
        clock, deadline_s = self._context.clock, self._context.turn_settings().turn_deadline_s
        began, status = clock.monotonic(), "cancelled"
        try:
            with clock.move_on_after(deadline_s) as scope:
                await self._answer()
            completed = None if scope.cancelled_caught else self._made.completed()
        except AgentError as error:
            get_logger().warning(
                "agent.failed",
                turn_id=self._turn_id,
                agent=self._made.agent,
                failure=error.failure,
                error=str(error),
            )
            await self._count()
            status = "failed"
            self.progress.fail(of_agent(error))
        except Exception:  # noqa: BLE001 - the boundary of a call, as of a turn
            get_logger().exception("turn.crashed", turn_id=self._turn_id)
            await self._count()
            status = "failed"
            self.progress.fail(ProblemError(unexpected()))
        else:
            await self._count()
            status = "deadline" if completed is None else "ok"
            if completed is None:
                self.progress.fail(ProblemError(too_late(deadline_s)))
            else:
                self.progress.finish(completed)
        finally:
            with clock.move_on_after(COUNT_S) as last:
                last.shield = True
                await self._count()
            get_logger().info(
                "call.completed",
                turn_id=self._turn_id,
                user=self._user,
                agent=self._first,
                answered_by=self._made.agent or None,
                status=status,
                reply_chars=sum(map(len, self._made.texts)),
                agent_ms=round((clock.monotonic() - began) * 1000, 3),
            )

    async def _answer(self) -> None:
        """Let agents answer, the next one where one cannot.

        Raises:
            AgentError: none of them could.
        """
        answering, failed = self._context.turns.answering, None
        order = in_order(
            self._first,
            answering.agents,
            answering.fallbacks,
            answering.breakers,
            lambda _agent, _reason: None,
        )
        for agent_id in order:
            agent = answering.agents[agent_id]
            if agent_id != self._first and not self._asked.heeded_by(agent):
                continue
            try:
                await self._ask(agent_id, agent)
            except AgentError as error:
                answering.breakers.failed(agent_id, error)
                # What a client has read of an answer is not said again by another agent.
                if error.failure not in PASSED_ON or self._made.texts:
                    raise

                failed = error if failed is None or agent_id == self._first else failed
            else:
                answering.breakers.answered(agent_id)
                return
        raise failed or AgentError(f"there is no agent {self._first!r}")

    async def _ask(self, agent_id: AgentId, agent: Agent) -> None:
        if not isinstance(agent, Direct):
            raise AgentError(f"{agent_id}: answers in sessions alone")

        self._made.agent = agent_id
        async with aclosing(agent.ask(self._asked.direct)) as events:
            async for event in events:
                self.progress.add_text(self._made.take(event))

    async def _count(self) -> None:
        """Add what was counted to the sums, once."""
        made, self._made.calls = self._made.calls, []
        priced = [(agent, call, self._usd(agent, call)) for agent, call in made]
        if not any(call.usage is not None for _, call, _ in priced):
            return

        def work(transaction: Transaction) -> None:
            for agent, call, usd in priced:
                count_alone(transaction, agent, self._user, [(call, usd)])

        try:
            await self._context.database.write(work)
        except PASSING:
            get_logger().error("usage.lost", turn_id=self._turn_id, calls=len(priced))

    def _usd(self, agent: AgentId, call: ModelCall) -> float | None:
        if call.usage is None:
            return None

        turns = self._context.turns
        ttl_s = turns.answering.agents[agent].facts().cache_ttl_s
        policy = cache_policy(turns.contexts.settings, agent, call.model, ttl_s)
        return call_usd(policy, call.usage)


def _room(agent: Agent) -> int:
    return agent.facts().window_tokens - agent.facts().reserve_tokens
