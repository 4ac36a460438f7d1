"""What only this machine can tell of a configuration: whether it has what that names.

Its group, its secrets, its programs and their directories. Nothing is started.
"""

from __future__ import annotations

import grp
from typing import TYPE_CHECKING, Any

from gateway.agents import command
from gateway.agents.settings import CommandSettings
from gateway.channels.settings import LoopbackSettings
from gateway.config.credentials import resolve_secrets
from gateway.config.keys import quoted
from gateway.config.places import NO_PLACES
from gateway.processes.settings import lacking_here
from gateway.tools import programs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.model import GatewayConfig
    from gateway.config.places import Places


def check_here(
    config: GatewayConfig,
    places: Places = NO_PLACES,
    *,
    given: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Return a problem for each thing that the configuration names and this machine lacks.

    `given`: the values as they are in the file, where the configuration is only what of them is
    right; the secrets of a table that is wrong otherwise are tried as well.
    """
    return (
        *_missing_group(config, places),
        *resolve_secrets(config.to_dict() if given is None else given, places),
        *_missing_programs(config, places),
    )


def doubtful_here(config: GatewayConfig, places: Places = NO_PLACES) -> tuple[str, ...]:
    """Return what this machine lacks now, and may have by the time that it is needed."""
    found = []
    for name, channel in config.channels.items():
        if isinstance(channel, LoopbackSettings) and channel.path is not None:
            directory = channel.path.parent
            if not directory.is_dir():
                text = f"the directory {directory} is not there; the channel waits until it is"
                found.append(places.problem(("channels", name, "path"), text))
    return tuple(found)


def _missing_group(config: GatewayConfig, places: Places) -> tuple[str, ...]:
    name = config.store.dashboard_group
    try:
        if name:
            grp.getgrnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        text = f"this machine has no group {quoted(name)}, accepted is one that it has"
        return (places.problem(("store", "dashboard_group"), text),)

    return ()


def _missing_programs(config: GatewayConfig, places: Places) -> Iterator[str]:
    for name, agent in config.agents.items():
        if isinstance(agent, CommandSettings):
            for key, text in command.lacking_here(agent):
                yield places.problem(("agents", name, key), text)
    for key, text in lacking_here(config.processes):
        yield places.problem(("processes", key), text)
    for name, server in config.tools.servers.items():
        for key, text in programs.lacking_here(server):
            yield places.problem(("tools", "servers", name, key), text)
