"""The manager that the whole process shares, for whoever is handed none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import ConflictError
from gateway.pruning.manager import PruningManager
from gateway.pruning.rules import DEFAULT_PRUNING_CONFIG

if TYPE_CHECKING:
    from gateway.pruning.rules import PruningConfig


class _Shared:
    """The manager that the whole process shares."""

    manager: PruningManager | None = None


def get_pruning_manager(config: PruningConfig | None = None) -> PruningManager:
    """Return the manager that the process shares, made at the first call.

    Raises:
        ConflictError: there is one already, and it goes by another configuration than is asked for.
    """
    if _Shared.manager is None:
        _Shared.manager = PruningManager(config or DEFAULT_PRUNING_CONFIG)
    elif config is not None and config != _Shared.manager.get_config():
        raise ConflictError("there is a manager already, with another configuration")

    return _Shared.manager


def reset_pruning_manager() -> None:
    """Let the next call of `get_pruning_manager` make a new one.

    Raises:
        ConflictError: the manager is running; stop it first.
    """
    if _Shared.manager is not None and _Shared.manager.is_started:
        raise ConflictError("the manager is running; stop it first")

    _Shared.manager = None
