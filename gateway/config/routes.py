"""Which agent answers a message. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import AgentId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config.model import RouteSettings
    from gateway.model import SessionSource


class Routes:
    """The first route that matches, else the default agent."""

    def __init__(self, routes: Sequence[RouteSettings], default_agent: str) -> None:
        """Take the routes in the order in which they are tried."""
        self._routes = tuple(routes)
        self._default = AgentId(default_agent)

    def agent_for(self, source: SessionSource) -> AgentId:
        """Return the agent that answers messages from a place."""
        for route in self._routes:
            if _matches(route, source):
                return AgentId(route.agent)

        return self._default


def _matches(route: RouteSettings, source: SessionSource) -> bool:
    return (
        route.platform in {None, source.platform}
        and route.account in {None, source.account}
        and route.chat_type in {None, source.chat_type}
        and route.chat_id in {None, source.chat_id}
        and route.user_id in {None, source.user_id}
    )
