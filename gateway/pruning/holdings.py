"""What a manager holds and people change by hand: items in memory, and its rules.

Pure. Each change of the rules is checked as a whole, and counts from the next plan on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.errors import ConflictError
from gateway.pruning.changing import (
    with_rule,
    with_rule_enabled,
    with_session,
    without_rule,
    without_session,
)
from gateway.pruning.memory import MemoryItemStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from typing_extensions import TypeIs

    from gateway.pruning.items import PrunableItem
    from gateway.pruning.memory import ArchivedItem
    from gateway.pruning.quarantine import Quarantine
    from gateway.pruning.rules import (
        PruningConfig,
        PruningRule,
        SessionPruningConfig,
        SessionThresholds,
    )
    from gateway.pruning.store import ItemStore


def store_of(items: ItemStore | Iterable[PrunableItem]) -> ItemStore:
    """Return a store as it is, and items as a store in memory."""
    return items if _is_store(items) else MemoryItemStore(items)


def _is_store(items: ItemStore | Iterable[PrunableItem]) -> TypeIs[ItemStore]:
    return hasattr(items, "commit")


class HeldItems:
    """The items of a store in memory; each call for those of another store is a `ConflictError`."""

    def __init__(self, store: ItemStore, quarantine: Quarantine) -> None:
        """Work on the items of a store; what goes leaves the quarantine as well."""
        self._store = store
        self._quarantine = quarantine

    def add(self, item: PrunableItem) -> PrunableItem:
        """Put an item in; one of the same id is replaced, and the version grows.

        Raises:
            BadRequestError: a field is of no use.
        """
        return self._memory.add(item)

    def get(self, item_id: str) -> PrunableItem | None:
        """Return an item; None where there is none."""
        return self._memory.get(item_id)

    def all(self) -> list[PrunableItem]:
        """Return all items, the oldest first."""
        return self._memory.all()

    def of_session(self, session_id: str) -> list[PrunableItem]:
        """Return the items of a session, the oldest first."""
        return self._memory.of_session(session_id)

    def remove(self, item_id: str) -> bool:
        """Take an item out for good; return whether there was one."""
        self._quarantine.forget(item_id)
        return self._memory.remove(item_id)

    def clear(self) -> int:
        """Take all items out for good, but for the archive; return how many there were."""
        self._quarantine.clear()
        return self._memory.clear()

    def archived(self) -> list[ArchivedItem]:
        """Return what is in the archive, the first archived first."""
        return self._memory.archived()

    def restore(self, item_id: str, at: datetime) -> PrunableItem | None:
        """Put back what was last archived under an id; None where there is nothing.

        For a while no rule takes it that does not say otherwise (`protections.restored_s`).

        Raises:
            ConflictError: there is an item of this id again.
        """
        return self._memory.restore(item_id, at)

    @property
    def _memory(self) -> MemoryItemStore:
        if isinstance(self._store, MemoryItemStore):
            return self._store

        raise ConflictError("the items are in a store of their own; ask that")


class HeldRules:
    """The rules, and what is different for single sessions.

    A change that would make them unusable is a `PruningConfigError`; nothing was changed then.
    """

    def __init__(
        self,
        config: Callable[[], PruningConfig],
        configure: Callable[[PruningConfig], PruningConfig],
    ) -> None:
        """Take what tells the configuration, and what checks and sets another one."""
        self._get = config
        self._change = configure

    @property
    def config(self) -> PruningConfig:
        """What counts now; frozen."""
        return self._get()

    def update(self, **changes: Any) -> PruningConfig:  # noqa: ANN401 - fields of the class
        """Change fields of the configuration."""
        return self._change(replace(self.config, **changes))

    def add(self, rule: PruningRule) -> None:
        """Add a rule; one of the same id is replaced."""
        self._change(with_rule(self.config, rule))

    def remove(self, rule_id: str) -> bool:
        """Remove a rule; return whether there was one."""
        found = self._has(rule_id)
        self._change(without_rule(self.config, rule_id))
        return found

    def set_enabled(self, rule_id: str, *, enabled: bool) -> bool:
        """Switch a rule on or off; return whether there is one."""
        found = self._has(rule_id)
        self._change(with_rule_enabled(self.config, rule_id, enabled=enabled))
        return found

    def set_session(
        self,
        session_id: str,
        exempt: bool | None,  # noqa: FBT001 - a value, no switch
        rules: Iterable[PruningRule] | None,
        thresholds: SessionThresholds | None,
    ) -> SessionPruningConfig:
        """Change what is different for a session; None leaves it as it is."""
        changed = with_session(self.config, session_id, exempt, rules, thresholds)
        return self._change(changed).session_configs[session_id]

    def remove_session(self, session_id: str) -> bool:
        """Let a session be like all others; return whether it was not."""
        found = session_id in self.config.session_configs
        self._change(without_session(self.config, session_id))
        return found

    def _has(self, rule_id: str) -> bool:
        return any(one.id == rule_id for one in self.config.rules)
