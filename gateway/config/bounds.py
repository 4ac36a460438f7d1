"""Bounds that another bound makes idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.processes.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import KeyPath

_OF_ALL: Final = "max_running"
_OF_ONE: Final = "max_running_per_session"


def idle_bounds(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each bound that was set and can never be reached."""
    processes = data.get("processes")
    if not isinstance(processes, dict):
        return

    most = processes.get(_OF_ALL, ProcessSettings.model_fields[_OF_ALL].default)
    each = processes.get(_OF_ONE)
    if type(most) is int and type(each) is int and each > most:
        text = f"is above {_OF_ALL} ({most}), which counts first, so this does nothing"
        yield ("processes", _OF_ONE), text
