"""The whole configuration: the settings classes of all parts, put together.

Each part owns its class; nothing below imports this. Beside the model stands the one table of what
a running daemon can change.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import Field, model_validator

from gateway.access.settings import AccessSettings
from gateway.agents.settings import AgentSettings, EchoSettings
from gateway.api.settings import HttpSettings, problem_of_bind
from gateway.channels.settings import ACCEPTED_ACCOUNT, AccountName, ChannelSettings
from gateway.config.channels import broken_channels
from gateway.config.check import check
from gateway.config.days import DEFAULT_MAX_AGE_DAYS, take_max_age
from gateway.config.identities import strange_members
from gateway.config.ids import unmatchable_ids
from gateway.config.keys import KeyPath, dotted
from gateway.config.places import NO_PLACES
from gateway.config.prices import unpriced_agents
from gateway.config.questions import endless_questions
from gateway.config.webhooks import repeated_names
from gateway.context.settings import ContextSettings
from gateway.delivery.settings import DeliverySettings
from gateway.errors import ConfigurationError
from gateway.log import LogSettings, get_logger
from gateway.model import ChatType
from gateway.processes.settings import ProcessSettings
from gateway.retention.settings import ItemPruningSettings
from gateway.sessions.settings import SessionSettings, StoreSettings
from gateway.settings import PathSetting, Settings, broken_rule
from gateway.tools.settings import ToolsSettings
from gateway.turns.budgets import BudgetSettings
from gateway.turns.settings import TurnSettings
from gateway.webhooks.settings import WebhookSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEFAULT_AGENT: Final = "main"
_LISTED_AGENTS: Final = 20
_ACCEPTED_NAME: Final = "a name of 1 to 64 characters a-z 0-9 _ . - that begins with a-z or 0-9"
AgentName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$", json_schema_extra={"accepted": _ACCEPTED_NAME}),
]


class RouteSettings(Settings):
    """Messages from one place go to one agent; what is left out matches every message."""

    platform: str | None = None
    """The channel's name, such as `telegram` or `http`."""
    account: str | None = None
    """Our account on the platform: the name of a `[channels]` table."""
    chat_type: Annotated[ChatType, Field(strict=False)] | None = None
    """`dm`, `group`, `channel` or `thread`."""
    chat_id: str | None = None
    """The platform's own id of the chat."""
    user_id: Annotated[str, Field(min_length=1)] | None = None
    """The platform's own id of who writes."""
    agent: AgentName
    """The agent that answers: one of the `[agents]` tables."""

    @model_validator(mode="after")
    def _matches_something(self) -> Self:
        given = (self.platform, self.account, self.chat_type, self.chat_id, self.user_id)
        if all(value is None for value in given):
            raise ValueError(
                "would match every message, accepted is at least one of platform, account, "
                "chat_type, chat_id, user_id (the agent of all other messages is default_agent)"
            )

        return self


def _default_agents() -> dict[AgentName, AgentSettings]:
    return {DEFAULT_AGENT: EchoSettings()}


class GatewayConfig(Settings):
    """Everything that can be configured, each key with its default."""

    state_dir: PathSetting = Path("state")
    """The directory of all that is kept."""
    session_store_max_age_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = (
        DEFAULT_MAX_AGE_DAYS
    )
    """Sessions without a message for longer leave the store, in days; 0 keeps them for ever."""
    session_store_max_entries: Annotated[int, Field(ge=0)] = 0
    """How many sessions the store keeps, the oldest leaving first; 0 is no limit."""
    default_agent: AgentName = DEFAULT_AGENT
    """The agent of every message that no route matches."""
    store: StoreSettings = Field(default_factory=StoreSettings)
    sessions: SessionSettings = Field(default_factory=SessionSettings)
    turns: TurnSettings = Field(default_factory=TurnSettings)
    context: ContextSettings = Field(default_factory=ContextSettings)
    pruning: ItemPruningSettings = Field(default_factory=ItemPruningSettings)
    budgets: BudgetSettings = Field(default_factory=BudgetSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    channels: dict[AccountName, ChannelSettings] = Field(
        default_factory=dict, json_schema_extra={"accepted_names": ACCEPTED_ACCOUNT}
    )
    """One table for each account on a platform. Changes apply at the next start."""
    delivery: DeliverySettings = Field(default_factory=DeliverySettings)
    webhooks: list[WebhookSettings] = Field(default_factory=list)
    """Programs that are told what happens, by signed events. Changes apply at the next start."""
    http: HttpSettings = Field(default_factory=HttpSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    tools: ToolsSettings = Field(default_factory=ToolsSettings)
    processes: ProcessSettings = Field(default_factory=ProcessSettings)
    agents: dict[AgentName, AgentSettings] = Field(
        default_factory=_default_agents,
        json_schema_extra={"accepted_names": _ACCEPTED_NAME},
    )
    """One table an agent. Given in the file, they replace the default `main`."""
    routes: list[RouteSettings] = Field(default_factory=list)
    """The first that matches a message chooses its agent."""

    @model_validator(mode="after")
    def _names_agents_there_are(self) -> Self:
        for (first, *more), text in dangling_agents(self.to_dict()):
            if first == "agents":
                # As pydantic says where an agent is wrong: its kind stands behind its name.
                more.insert(1, self.agents[str(more[0])].kind)
            raise broken_rule(str(first), text, *more)

        return self

    @model_validator(mode="after")
    def _knows_prices_where_money_is_limited(self) -> Self:
        for path, text in unpriced_agents(self.to_dict()):
            raise broken_rule(str(path[0]), text, *path[1:])

        return self

    @model_validator(mode="after")
    def _lets_questions_time_out(self) -> Self:
        for path, text in endless_questions(self.to_dict()):
            raise broken_rule(str(path[0]), text, *path[1:])

        return self

    @model_validator(mode="after")
    def _links_accounts_there_are(self) -> Self:
        for path, text in strange_members(self.to_dict()):
            raise broken_rule(str(path[0]), text, *path[1:])

        return self

    @model_validator(mode="after")
    def _names_ids_that_can_match(self) -> Self:
        for path, text in unmatchable_ids(self.to_dict()):
            raise broken_rule(str(path[0]), text, *path[1:])

        return self

    @model_validator(mode="after")
    def _tells_webhooks_apart(self) -> Self:
        for path, text in repeated_names(self.to_dict()):
            raise broken_rule(str(path[0]), text, *path[1:])

        return self

    @model_validator(mode="after")
    def _tells_channels_apart(self) -> Self:
        for (first, *more), text in broken_channels(self.to_dict()):
            if first == "channels" and more[1:]:
                more.insert(1, self.channels[str(more[0])].kind)
            raise broken_rule(str(first), text, *more)

        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make a configuration from what `to_dict` returns, or from any part of it.

        A value of `session_store_max_age_days` that has to be changed is logged.

        Raises:
            ConfigurationError: every problem at once, as `key: what is wrong, what is accepted`.
        """
        tree = dict(data)
        coercion = take_max_age(tree)
        if coercion:
            get_logger().warning(
                "config.coerced",
                key=coercion.key,
                accepted=coercion.accepted,
                problem=coercion.text,
            )
        config, problems = check(cls, tree, NO_PLACES, broken_references)
        if config is None:
            raise ConfigurationError(problems)

        return config

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that TOML can express; a key without a value is left out."""
        return self.model_dump(mode="json", exclude_none=True)


def broken_references(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key that breaks a rule between keys, in values that may be wrong otherwise too."""
    yield from dangling_agents(data)
    yield from unpriced_agents(data)
    yield from endless_questions(data)
    yield from strange_members(data)
    yield from unmatchable_ids(data)
    yield from broken_channels(data)
    yield from repeated_names(data)
    http = data.get("http")
    host = http.get("host") if isinstance(http, dict) else None
    if isinstance(http, dict) and isinstance(host, str):
        given = {key: bool(http.get(key)) for key in ("behind_tls", "token", "allowed_hosts")}
        problem = problem_of_bind(host, **given)
        if problem:
            yield ("http", "host"), problem


def dangling_agents(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key that names an agent without a table, and what is wrong with it.

    Takes values as they are in the file: what has a wrong type is another check's affair.
    """
    agents = data.get("agents", {DEFAULT_AGENT: {}})
    if not isinstance(agents, dict):
        return

    names: list[tuple[KeyPath, object]] = [
        (("default_agent",), data.get("default_agent", DEFAULT_AGENT)),
    ]
    routes = data.get("routes", [])
    for index, route in enumerate(routes if isinstance(routes, list) else []):
        if isinstance(route, dict):
            names.append((("routes", index, "agent"), route.get("agent")))
    for path, name in names:
        if isinstance(name, str) and name not in agents:
            yield path, _no_table(name, agents)
    yield from _broken_fallbacks(agents)


def _broken_fallbacks(agents: Mapping[Any, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each name of an agent to stand in for another that cannot."""
    for agent, table in agents.items():
        named = table.get("fallback", []) if isinstance(table, dict) else []
        for index, name in enumerate(named if isinstance(named, list) else []):
            path = ("agents", agent, "fallback", index)
            if name == agent:
                yield path, f"names itself, accepted is {_accepted_agents(agents, agent)}"
            elif isinstance(name, str) and name not in agents:
                yield path, _no_table(name, agents, agent)


def _no_table(name: str, agents: Iterable[str], but: str = "") -> str:
    table = dotted(("agents", name))
    return f"there is no table [{table}], accepted is {_accepted_agents(agents, but)}"


def _accepted_agents(agents: Iterable[str], but: str) -> str:
    """Return which agents may be named: all but one, or all where that is empty."""
    names = sorted(agent for agent in agents if agent != but)
    known = ", ".join(dotted((name,)) for name in names[:_LISTED_AGENTS])
    none = "no other" if but else "none"
    return f"one of: {known}" if known else f"an agent with a table, and there is {none}"
