"""Whether a question to a user can time out before the turn that asks it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.config.keys import dotted
from gateway.turns.settings import TurnSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import KeyPath

_TIMEOUT: Final = "approval_timeout_s"
_DEADLINE: Final = "turn_deadline_s"


def endless_questions(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the key of `turns` by which no question of an agent could time out.

    Takes values as they are in the file: what has a wrong type is another check's affair.
    """
    given, agents = data.get("turns", {}), data.get("agents")
    if not isinstance(given, dict) or not isinstance(agents, dict):
        return

    asking = [name for name, agent in agents.items() if _asks(agent)]
    timeout_s, deadline_s = _seconds(given, _TIMEOUT), _seconds(given, _DEADLINE)
    if not asking or timeout_s is None or deadline_s is None or timeout_s < deadline_s:
        return

    who = dotted(("agents", asking[0], "tools", "ask"))
    # The one that was set by hand is at fault.
    if timeout_s != _default(_TIMEOUT) or deadline_s == _default(_DEADLINE):
        text = f"is not below {_DEADLINE} ({deadline_s:g}), accepted is less"
        yield ("turns", _TIMEOUT), f"{text}: a question of {who} would outlast its turn"
    else:
        text = f"is not above {_TIMEOUT} ({timeout_s:g}), accepted is more"
        yield ("turns", _DEADLINE), f"{text}: a question of {who} would outlast its turn"


def _asks(agent: object) -> bool:
    tools = agent.get("tools") if isinstance(agent, dict) else None
    return isinstance(tools, dict) and bool(tools.get("ask"))


def _seconds(given: Mapping[str, Any], key: str) -> float | None:
    value = given.get(key, _default(key))
    return value if isinstance(value, int | float) else None


def _default(key: str) -> object:
    return TurnSettings.model_fields[key].default
