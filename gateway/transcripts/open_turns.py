"""Turns that wait for their caller: the last answer calls tools that the caller runs.

The transcript is all that is known of them. What the caller brings is added to it as it is
accepted, and so is what stands for results that never come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.errors import BadRequestError
from gateway.model import Message, Role, ToolCall, TurnId
from gateway.transcripts.reading import turn_backwards
from gateway.transcripts.writing import append_messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionId

NOT_BROUGHT: Final = "[No result: the conversation went on without it.]"
"""Stands for the result of a call that its caller never brought."""


class UnknownCallError(BadRequestError):
    """A result is brought that nobody waits for."""

    def __init__(self, call_id: str, message: str) -> None:
        """Name the call."""
        self.call_id = call_id
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn whose last answer has calls, and nothing behind it but results."""

    turn_id: TurnId
    messages: tuple[Message, ...]
    """All of the turn, notices left out."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """What the last answer calls."""
        return self.messages[self._answer].tool_calls

    @property
    def results(self) -> dict[str, str]:
        """The results of these that are there, by call."""
        return _results(self.messages[self._answer + 1 :])

    @property
    def all_results(self) -> dict[str, str]:
        """All results of the turn, by call."""
        return _results(self.messages)

    def missing(self) -> list[ToolCall]:
        """Return the calls that have no result."""
        there = self.results
        return [call for call in self.calls if call.call_id not in there]

    @property
    def _answer(self) -> int:
        return max(place for place, one in enumerate(self.messages) if one.tool_calls)


def open_turn(place: Queries, session_id: SessionId, *, failed: bool = False) -> OpenTurn | None:
    """Return the newest turn of a session if it is open, also where all results are there.

    Args:
        place: Where.
        session_id: The conversation.
        failed: Whether an error came of it: what was said of an answer then is left out.
    """
    said = turn_backwards(place, session_id)
    # One for each error in a row.
    while failed and said and said[0].role is Role.ASSISTANT and not said[0].tool_calls:
        del said[0]
    for message in said:
        if message.tool_calls:
            return OpenTurn(message.turn_id, tuple(reversed(said)))
        if message.role is not Role.TOOL:
            break
    return None


def take_results(
    transaction: Transaction,
    session_id: SessionId,
    results: Mapping[str, str],
    *,
    at: str,
    goes_on: bool,
    failed: bool = False,
) -> TurnId:
    """Add what a caller brings to the open turn of a session; return the turn.

    A result that is there already is taken once more and not added: what came of it may have been
    an error.

    Args:
        transaction: Where.
        session_id: The conversation.
        results: Texts, by call.
        at: Now.
        goes_on: Whether the caller says more behind them: what is missing never comes then.
        failed: Whether an error came of the turn: it goes on with results of its earlier calls too.

    Raises:
        UnknownCallError: one is of no open call, or not what was brought before.
        BadRequestError: some are missing.
    """
    turn = open_turn(transaction, session_id, failed=failed)
    called, there = set[str](), dict[str, str]()
    if turn is not None:
        called = {call.call_id for call in turn.calls}
        there = turn.all_results if failed else turn.results
    for call_id, text in results.items():
        if call_id not in called and call_id not in there:
            raise UnknownCallError(call_id, "answers no open call of this session.")
        if there.get(call_id, text) != text:
            raise UnknownCallError(call_id, "another result of this call was brought before.")
    if turn is None:
        raise BadRequestError("No call of this session is open.")

    missing = turn.missing()
    lacking = sum(call.call_id not in results for call in missing)
    if lacking and not goes_on:
        raise BadRequestError(
            f"{'1 open call' if lacking == 1 else f'{lacking} open calls'} of this session "
            f"{'has' if lacking == 1 else 'have'} no result, accepted is one for each."
        )

    _answer(transaction, session_id, turn, results, at=at)
    return turn.turn_id


def close(transaction: Transaction, session_id: SessionId, *, at: str) -> bool:
    """Note that no result comes any more of what is open; return whether anything was."""
    turn = open_turn(transaction, session_id)
    if turn is None or not turn.missing():
        return False

    _answer(transaction, session_id, turn, {}, at=at)
    return True


def _results(messages: Iterable[Message]) -> dict[str, str]:
    return {one.tool_call_id: one.text for one in messages if one.role is Role.TOOL}


def _answer(
    transaction: Transaction,
    session_id: SessionId,
    turn: OpenTurn,
    results: Mapping[str, str],
    *,
    at: str,
) -> None:
    """Add a result of each call that has none, in their order."""
    messages = [
        Message(
            Role.TOOL,
            results.get(call.call_id, NOT_BROUGHT),
            tool_call_id=call.call_id,
            tool_name=call.name,
            turn_id=turn.turn_id,
        )
        for call in turn.missing()
    ]
    append_messages(transaction, session_id, messages, at=at)
