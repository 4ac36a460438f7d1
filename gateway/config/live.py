"""What a running daemon can change, and what needs a restart: one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.config.keys import KeyPath, dotted
from gateway.config.model import GatewayConfig
from gateway.config.prices import unpriced_agents
from gateway.config.questions import endless_questions

if TYPE_CHECKING:
    from collections.abc import Iterator

LIVE: Final[frozenset[KeyPath]] = frozenset(
    {
        ("session_store_max_age_days",),
        ("session_store_max_entries",),
        ("default_agent",),
        ("store", "snapshot_interval_s"),
        ("store", "snapshot_budget_bytes_per_s"),
        ("store", "snapshot_burst_bytes"),
        ("sessions", "message_resumes"),
        ("sessions", "reset"),
        ("turns", "turn_deadline_s"),
        ("turns", "approval_timeout_s"),
        ("turns", "busy"),
        ("turns", "interrupted"),
        ("turns", "max_running"),
        ("turns", "max_waiting"),
        ("turns", "max_waiting_per_session"),
        ("turns", "messages_per_minute"),
        ("turns", "messages_per_minute_per_user"),
        ("turns", "max_text_chars"),
        ("context",),
        ("pruning",),
        ("budgets",),
        ("access",),
        ("delivery",),
        ("log", "level"),
        ("routes",),
    }
)
"""Keys that apply at once, with all below them."""

RESTART: Final[frozenset[KeyPath]] = frozenset(
    {
        ("state_dir",),
        ("store", "dashboard_group"),
        ("sessions", "share_groups"),
        ("sessions", "share_threads"),
        ("sessions", "identities"),
        ("turns", "grace_s"),
        ("channels",),
        ("webhooks",),
        ("http",),
        ("log", "format"),
        ("tools",),
        ("processes",),
        ("agents",),
    }
)
"""Keys that apply at the next start, with all below them."""

_NAMES_CHANNELS: Final = ("routes", "access")
"""Parts that may name channels which run only after the next start: they apply all the same, for
who is shut out must not stay in until then."""
_CHOOSES_AGENTS: Final = (("default_agent",), ("routes",))
_NEEDS_PRICES: Final = frozenset({"budgets", "context"})
_TIMES_QUESTIONS: Final = (("turns", "turn_deadline_s"), ("turns", "approval_timeout_s"))


def changed_live(old: GatewayConfig, new: GatewayConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys that differ, in order: those that apply at once, those that need a restart.

    The choice of agents applies at once only where it names agents that already run; prices and
    limits only where no agent that runs would pass a limit in dollars for want of its price; how
    long turns and questions may take only where the questions of agents that run can time out.
    """
    before, after = dict(_flat(old.to_dict())), dict(_flat(new.to_dict()))
    differing = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    live = [key for key in differing if _is_live(key, old, new)]
    restart = [key for key in differing if key not in live]
    return tuple(map(dotted, live)), tuple(map(dotted, restart))


def with_live(old: GatewayConfig, new: GatewayConfig) -> GatewayConfig:
    """Return the old configuration with every change that applies at once."""
    tree, source = old.to_dict(), new.to_dict()
    for key in LIVE:
        if _is_live(key, old, new):
            _copy(source, tree, key)
    for part in _NAMES_CHANNELS:
        tree.pop(part)
    sources = {part: new if _is_live((part,), old, new) else old for part in _NAMES_CHANNELS}
    named = {part: getattr(config, part) for part, config in sources.items()}
    return GatewayConfig.from_dict(tree).model_copy(update=named)


def _is_live(key: KeyPath, old: GatewayConfig, new: GatewayConfig) -> bool:
    if not any(key[:length] in LIVE for length in range(1, len(key) + 1)):
        return False

    tree = new.to_dict() | {"agents": old.to_dict()["agents"]}
    if key[0] in _NEEDS_PRICES:
        return not any(unpriced_agents(tree))

    if key in _TIMES_QUESTIONS:
        return not any(endless_questions(tree))

    named = {new.default_agent, *(route.agent for route in new.routes)}
    return key not in _CHOOSES_AGENTS or named <= old.agents.keys()


def _flat(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    if not isinstance(value, dict):
        yield path, value
        return

    for name, item in value.items():
        yield from _flat(item, (*path, name))


def _copy(source: dict[str, Any], target: dict[str, Any], key: KeyPath) -> None:
    for part in key[:-1]:
        source, target = source[str(part)], target[str(part)]
    target[str(key[-1])] = source[str(key[-1])]
