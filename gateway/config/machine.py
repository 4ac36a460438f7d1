"""What only this machine can tell of a configuration: whether it has its secrets and its group."""

from __future__ import annotations

import grp
from typing import TYPE_CHECKING

from gateway.config.credentials import resolve_secrets
from gateway.config.keys import quoted
from gateway.config.places import NO_PLACES

if TYPE_CHECKING:
    from gateway.config.model import GatewayConfig
    from gateway.config.places import Places


def check_here(config: GatewayConfig, places: Places = NO_PLACES) -> tuple[str, ...]:
    """Return a problem for each thing that the configuration names and this machine lacks."""
    return (*_missing_group(config, places), *resolve_secrets(config, places))


def _missing_group(config: GatewayConfig, places: Places) -> tuple[str, ...]:
    name = config.store.dashboard_group
    try:
        if name:
            grp.getgrnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        text = f"this machine has no group {quoted(name)}, accepted is one that it has"
        return (places.problem(("store", "dashboard_group"), text),)

    return ()
