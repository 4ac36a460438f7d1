"""Which agent answers a message, whose session it goes to, and when that one starts anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.errors import BadRequestError
from gateway.sessions.key import session_key
from gateway.sessions.policy import ResetPolicy, policy_for
from gateway.transcripts.inbox import linked_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gateway.model import AgentId, ChatType, Inbound, SessionKey, SessionSource
    from gateway.sessions.settings import SessionSettings


class Places:
    """The routes and the rules of sessions."""

    def __init__(
        self,
        agents: Collection[AgentId],
        agent_for: Callable[[SessionSource], AgentId],
        sessions: SessionSettings,
    ) -> None:
        """Take the routes and rules; `agents` are those that there are."""
        self._agents = agents
        self.configure(agent_for, sessions)

    def configure(
        self, agent_for: Callable[[SessionSource], AgentId], sessions: SessionSettings
    ) -> None:
        """Take new routes and rules for what comes from now on."""
        self._agent_for = agent_for
        self._sessions = sessions
        self._policies: dict[tuple[str, ChatType], ResetPolicy] = {}

    def of(self, inbound: Inbound) -> tuple[Inbound, AgentId, SessionKey]:
        """Return a message, who answers it, and whose session it is.

        In a session that one person has on several platforms its id gets their names as well.

        Raises:
            BadRequestError: it asks for an agent that is not there.
        """
        agent = inbound.agent or self._agent_for(inbound.source)
        if agent not in self._agents:
            known = ", ".join(sorted(self._agents))
            raise BadRequestError(f"There is no agent {agent!r}; accepted is one of {known}.")

        key = session_key(inbound.source, agent, self._sessions)
        if inbound.message_id and self._sessions.identity_of(inbound.source):
            name = linked_id(inbound.source, inbound.message_id)
            inbound = replace(inbound, message_id=name)
        return inbound, agent, key

    def policy(self, source: SessionSource) -> ResetPolicy:
        """Return when a session of a source starts anew."""
        place = (source.platform, source.chat_type)
        policy = self._policies.get(place)
        if policy is None:
            policy = self._policies[place] = policy_for(self._sessions, source)
        return policy
