"""Made-up conversations, and contexts of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from gateway.context.counted import CountedContext, is_silent
from gateway.context.pruning import Situation, plan_round
from gateway.context.settings import PruningSettings
from gateway.model import Image, Message, Role, ToolCall, TurnId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.context.pruning import Round
    from gateway.model import Projection

PICTURE: Final = Image("image/png", "iVBORw0KGgo=")
EVERYTHING: Final[dict[str, object]] = {
    "soft_trim_ratio": 0.0,
    "hard_clear_ratio": 0.0,
    "keep_last_assistants": 0,
    "min_prunable_tool_chars": 0,
    "min_saving_tokens": 0,
}
"""Settings under which all results are trimmed and cleared."""


def user(turn: str, text: str = "go on") -> Message:
    return Message(Role.USER, text, turn_id=TurnId(turn))


def says(turn: str, text: str = "done") -> Message:
    return Message(Role.ASSISTANT, text, turn_id=TurnId(turn))


def calls(turn: str, *call_ids: str, name: str = "look") -> Message:
    wanted = tuple(ToolCall(call_id, name, '{"at": 1}') for call_id in call_ids)
    return Message(Role.ASSISTANT, "", tool_calls=wanted, turn_id=TurnId(turn))


def result(
    turn: str, text: str, *, call_id: str = "c", name: str = "look", images: int = 0
) -> Message:
    return Message(
        Role.TOOL,
        text,
        tool_call_id=call_id,
        tool_name=name,
        turn_id=TurnId(turn),
        images=(PICTURE,) * images,
    )


def notice(turn: str) -> Message:
    return Message(Role.NOTICE, "the session was reset", turn_id=TurnId(turn))


def tool_turn(turn: str, *chars: int, name: str = "look") -> list[Message]:
    """Return a turn with a call and a result for each size, and an answer."""
    said = [user(turn)]
    for number, size in enumerate(chars):
        call_id = f"c{number}"
        said += [
            calls(turn, call_id, name=name),
            result(turn, f"{number}" * size, call_id=call_id, name=name),
        ]
    return [*said, says(turn)]


def talk(turns: int, chars: int, *, name: str = "look") -> list[Message]:
    """Return turns with one result each, all of one size."""
    return [one for number in range(turns) for one in tool_turn(f"t{number}", chars, name=name)]


def context_of(
    messages: Iterable[Message], projections: Mapping[str, Projection] | None = None
) -> CountedContext:
    context = CountedContext(projections)
    context.extend(messages)
    return context


def pruning(**values: object) -> PruningSettings:
    """Return settings under which everything goes, but for these values."""
    return PruningSettings.model_validate(EVERYTHING | values)


def plan(
    context: CountedContext,
    settings: PruningSettings | None = None,
    *,
    window: int = 1_000,
    other: int = 0,
    cold: bool = True,
) -> Round:
    """Plan a round; the window is in tokens."""
    return plan_round(context, settings or pruning(), Situation(window, other, cold=cold))


def sent_of(messages: Iterable[Message]) -> list[Message]:
    """Return what is sent, found in the plainest way: notices and repeated silence left out."""
    spoken = [one for one in messages if one.role is not Role.NOTICE]
    answers = [place for place, one in enumerate(spoken) if one.role is Role.ASSISTANT]
    repeated = {
        now
        for before, now in pairwise(answers)
        if is_silent(spoken[before]) and is_silent(spoken[now])
    }
    return [one for place, one in enumerate(spoken) if place not in repeated]


def facts(context: CountedContext) -> dict[str, object]:
    """Return everything that a context says of itself."""
    results = [place for place, one in enumerate(context.messages) if one.role is Role.TOOL]
    return {
        "messages": context.messages,
        "sizes": context.sizes,
        "chars": context.chars,
        "assistants": context.assistants,
        "results": context.results,
        "untrimmed": context.untrimmed,
        "first_user": context.first_user,
        "image_chars": context.image_chars,
        "left_out_turns": context.left_out_turns,
        "summary": context.summary,
        "summarised_turns": context.summarised_turns,
        "items": [context.item(place) for place in results],
        "projections": [context.projection(place) for place in results],
    }


def _named(turns: list[list[Message]]) -> list[Message]:
    return [
        replace(message, turn_id=TurnId(f"t{number}"))
        for number, turn in enumerate(turns)
        for message in turn
    ]


RESULT_TEXTS: Final = st.one_of(
    st.integers(0, 400).map("x".__mul__),
    st.text("ae\u0301\u200d👩🇩🇪\n ", max_size=60),
)
_RESULTS: Final = st.builds(
    result,
    st.just(""),
    RESULT_TEXTS,
    call_id=st.sampled_from(["", "c", "c#2", "0/c", "long"]),
    name=st.sampled_from(["look", "Search", "read_file", ""]),
    images=st.integers(0, 2),
)
_SPOKEN: Final = st.one_of(
    st.builds(says, st.just(""), st.sampled_from(["NO_REPLY", " NO_REPLY\n", "yes", "x" * 50])),
    st.builds(calls, st.just(""), st.sampled_from(["c", "long"])),
    st.just(notice("")),
)
ANSWERS: Final = st.lists(st.one_of(_RESULTS, _SPOKEN), max_size=8)
"""What follows a user message in a turn; also of shapes that no agent makes."""
CONVERSATIONS: Final = st.lists(ANSWERS.map(lambda rest: [user(""), *rest]), max_size=8).map(_named)
