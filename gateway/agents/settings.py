"""Settings of the agents: one table of the configuration each, told apart by `kind`."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.agents.base import AgentFacts
from gateway.agents.rules import (
    check_endpoint,
    check_window,
    with_reserve,
    with_window,
)
from gateway.agents.scripted import parse_script
from gateway.settings import (
    PathSetting,
    SecretSource,
    Settings,
    broken_rule,
    check_url,
    is_loopback,
)
from gateway.variables import INHERITED_VARIABLES, Argument, VariableName, check_variables

OFFICIAL_ANTHROPIC_URL: Final = "https://api.anthropic.com"
OFFICIAL_OPENAI_URL: Final = "https://api.openai.com/v1"

Pattern = Annotated[
    str,
    Field(
        pattern=r"^\S(?s:.*\S)?$",
        json_schema_extra={"accepted": "the name of a tool, or a pattern with * and ?"},
    ),
]


class AgentToolSettings(Settings):
    """Which tools a model is offered, and how far it may go with them in one turn.

    Tools are named by patterns with `*` and `?`, in any case; `deny` wins, so a pattern in it
    stands in no other list.
    """

    allow: list[Pattern] = Field(default_factory=list)
    """Tools that it is offered; empty: none, for an agent is offered nothing it was not given."""
    deny: list[Pattern] = Field(default_factory=list)
    """Tools that it is not offered though `allow` names them."""
    ask: list[Pattern] = Field(default_factory=list)
    """Tools that need the user's yes in the chat each time, before they run."""
    max_steps: Annotated[int, Field(gt=0, le=1_000)] = 25
    """How often in a turn it may call tools before it must answer; calls at once count as one."""
    max_turn_tokens: Annotated[int, Field(ge=0)] = 1_000_000
    """From how many tokens in a turn on, input and output of all its requests together, it must
    answer without tools; 0: no bound."""
    max_parallel: Annotated[int, Field(gt=0, le=64)] = 8
    """How many calls of an answer run at once; more wait."""

    @model_validator(mode="after")
    def _denies_nothing_that_it_names(self) -> Self:
        denied = {pattern.lower() for pattern in self.deny}
        for key, patterns in (("allow", self.allow), ("ask", self.ask)):
            for place, pattern in enumerate(patterns):
                if pattern.lower() in denied:
                    text = "stands in deny as well, which wins; accepted is one of the two"
                    raise broken_rule(key, text, place)

        return self


class EchoSettings(Settings):
    """An agent that answers with the text it got; it needs no key and no network."""

    kind: Literal["echo"] = "echo"
    """What answers: `anthropic`, `command`, `echo`, `openai` or `scripted`; it decides which keys
    the table takes."""
    context_window_tokens: Annotated[int, Field(gt=0)] = 200_000
    """The size of the pretended model's window, in tokens."""
    reserve_tokens: Annotated[int, Field(ge=0)] = 16_384
    """How much of the window is kept free for the answer, in tokens; left out: 16,384, or a
    quarter of the window where that is less."""
    fallback: list[str] = Field(default_factory=list)
    """Agents that are asked in its place where its provider fails, in this order."""

    @model_validator(mode="before")
    @classmethod
    def _reserve_of_the_window(cls, values: object) -> object:
        return with_reserve(cls, values)

    def facts(self) -> AgentFacts:
        """Return what of it the size and the cost of a request depend on, without tools."""
        return AgentFacts(
            model="echo",
            window_tokens=self.context_window_tokens,
            reserve_tokens=self.reserve_tokens,
        )

    @model_validator(mode="after")
    def _room_is_left(self) -> Self:
        check_window(self)
        return self


class ScriptedSettings(Settings):
    """An agent that answers from a list, to try things without a model."""

    kind: Literal["scripted"] = "scripted"
    """What answers: `anthropic`, `command`, `echo`, `openai` or `scripted`; it decides which keys
    the table takes."""
    replies: Annotated[list[str], Field(min_length=1)]
    """What it answers, one after the other and then from the start again. `!hang` waits until the
    turn is cancelled, `!fail TEXT` is an error that the user reads as TEXT, `!chunks A|B|C` streams
    in pieces, `!call NAME {...} && NAME {...}` calls tools, `!usage INPUT OUTPUT CACHE_READ
    CACHE_WRITE` sets the tokens of the next reply."""
    context_window_tokens: Annotated[int, Field(gt=0)] = 200_000
    """The size of the pretended model's window, in tokens."""
    reserve_tokens: Annotated[int, Field(ge=0)] = 16_384
    """How much of the window is kept free for the answer, in tokens; left out: 16,384, or a
    quarter of the window where that is less."""
    fallback: list[str] = Field(default_factory=list)
    """Agents that are asked in its place where its provider fails, in this order."""
    tools: AgentToolSettings = Field(default_factory=AgentToolSettings)

    @model_validator(mode="before")
    @classmethod
    def _reserve_of_the_window(cls, values: object) -> object:
        return with_reserve(cls, values)

    def facts(self) -> AgentFacts:
        """Return what of it the size and the cost of a request depend on, without tools."""
        return AgentFacts(
            model="scripted",
            window_tokens=self.context_window_tokens,
            reserve_tokens=self.reserve_tokens,
            completes=True,
        )

    @field_validator("replies")
    @classmethod
    def _script_is_sound(cls, replies: list[str]) -> list[str]:
        parse_script(replies)
        return replies

    @model_validator(mode="after")
    def _room_is_left(self) -> Self:
        check_window(self)
        return self


class CommandSettings(Settings):
    """A program that reads JSON lines and writes JSON lines; one process a turn."""

    kind: Literal["command"] = "command"
    """What answers: `anthropic`, `command`, `echo`, `openai` or `scripted`; it decides which keys
    the table takes."""
    argv: Annotated[list[Argument], Field(min_length=1)]
    """The program, an absolute path or a name on PATH, and its arguments; no shell reads them."""
    cwd: PathSetting | None = None
    """The directory it runs in; left out: the daemon's own."""
    inherit_env: list[VariableName] = Field(
        default_factory=lambda: list(INHERITED_VARIABLES),
        json_schema_extra={"accepted": "a list of names of variables"},
    )
    """The daemon's variables that it is given; no other is, so that no secret leaks."""
    env: dict[VariableName, Argument] = Field(default_factory=dict)
    """More variables, and their values; they win over `inherit_env`."""
    secret_env: dict[VariableName, SecretSource] = Field(default_factory=dict)
    """More variables whose values are secrets: `{ NAME = { file = ... } }`, `{ env = ... }` or
    `{ credential = ... }`."""
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """How long an answer may take, in seconds."""
    idle_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """How long it may write nothing, in seconds."""
    max_output_bytes: Annotated[int, Field(gt=0, le=1_073_741_824)] = 4_194_304
    """The longest output of an answer, in bytes."""
    max_line_bytes: Annotated[int, Field(gt=0, le=67_108_864)] = 1_048_576
    """The longest line of it, in bytes, at most `max_output_bytes`."""
    max_parallel: Annotated[int, Field(gt=0, le=1_024)] = 4
    """How many processes run at once; more turns wait."""
    model: Annotated[str, Field(max_length=256)] = ""
    """The name that is shown of it; empty: the program's own."""
    context_window_tokens: Annotated[int, Field(gt=0)] = 200_000
    """The size of its window, in tokens."""
    reserve_tokens: Annotated[int, Field(ge=0)] = 16_384
    """How much of the window is kept free for the answer, in tokens; left out: 16,384, or a
    quarter of the window where that is less."""
    fallback: list[str] = Field(default_factory=list)
    """Agents that are asked in its place where its provider fails, in this order."""

    @model_validator(mode="before")
    @classmethod
    def _reserve_of_the_window(cls, values: object) -> object:
        return with_reserve(cls, values)

    @property
    def program(self) -> str:
        """The program's name without its directory."""
        return PurePath(self.argv[0]).name

    def facts(self) -> AgentFacts:
        """Return what the size of a request depends on."""
        return AgentFacts(
            model=self.model or self.program,
            window_tokens=self.context_window_tokens,
            reserve_tokens=self.reserve_tokens,
        )

    @field_validator("argv")
    @classmethod
    def _program_is_named(cls, argv: list[str]) -> list[str]:
        program = argv[0]
        if not PurePath(program).name or ("/" in program and not program.startswith("/")):
            raise ValueError(
                "begins with no program; accepted is an absolute path or a name without a directory"
            )

        return argv

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        check_window(self)
        check_variables(self.env, self.secret_env)
        if self.max_line_bytes > self.max_output_bytes:
            text = f"is above max_output_bytes ({self.max_output_bytes}); accepted is at most that"
            raise broken_rule("max_line_bytes", text)

        return self


class OpenAISettings(Settings):
    """A model behind any OpenAI-compatible chat-completions endpoint."""

    kind: Literal["openai"] = "openai"
    """What answers: `anthropic`, `command`, `echo`, `openai` or `scripted`; it decides which keys
    the table takes."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The model's name, as the endpoint spells it."""
    base_url: str = OFFICIAL_OPENAI_URL
    """The endpoint's address up to and including its version, such as `http://127.0.0.1:11434/v1`."""
    api_key: SecretSource | None = None
    """The key, as `{ file = ... }`, `{ env = ... }` or `{ credential = ... }`. It may be left out
    for an endpoint on this machine only."""
    system_prompt: str = ""
    """What the model is told before the conversation."""
    context_window_tokens: Annotated[int, Field(gt=0)] = 128_000
    """The size of the model's window, in tokens; left out: what is known of the model."""
    reserve_tokens: Annotated[int, Field(ge=0)] = 16_384
    """How much of the window is kept free for the answer, in tokens; left out: 16,384, or a
    quarter of the window where that is less."""
    max_output_tokens: Annotated[int, Field(ge=0)] = 0
    """The longest answer, in tokens, at most `reserve_tokens`; 0 leaves it to the endpoint."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long a connection may take to open, in seconds."""
    read_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """How long the endpoint may be silent, before an answer and between its pieces, in seconds."""
    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a request that failed before an answer began is sent again."""
    prompt_cache_key: bool = False
    """Whether an endpoint beside the official one is told, as a hash, which session a request
    belongs to, so that it finds its prompt cache."""
    fallback: list[str] = Field(default_factory=list)
    """Agents that are asked in its place where its provider fails, in this order."""
    tools: AgentToolSettings = Field(default_factory=AgentToolSettings)

    def facts(self) -> AgentFacts:
        """Return what of it the size and the cost of a request depend on, without tools."""
        return AgentFacts(
            model=self.model,
            window_tokens=self.context_window_tokens,
            reserve_tokens=self.reserve_tokens,
            overhead_chars=len(self.system_prompt),
            completes=True,
        )

    @model_validator(mode="before")
    @classmethod
    def _window_of_the_model(cls, values: object) -> object:
        return with_reserve(cls, with_window(cls, values))

    @property
    def loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    @property
    def official(self) -> bool:
        """Whether the endpoint is OpenAI's own."""
        return self.base_url.rstrip("/") == OFFICIAL_OPENAI_URL

    @field_validator("base_url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        return check_url(url, such_as=OFFICIAL_OPENAI_URL)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        check_endpoint(self)
        return self


class AnthropicSettings(Settings):
    """A model behind the Messages API, Anthropic's or one that speaks like it."""

    kind: Literal["anthropic"] = "anthropic"
    """What answers: `anthropic`, `command`, `echo`, `openai` or `scripted`; it decides which keys
    the table takes."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The model's name, as the endpoint spells it."""
    base_url: str = OFFICIAL_ANTHROPIC_URL
    """The endpoint's address without its version, such as `http://127.0.0.1:4000`: `/v1/messages`
    is put behind it."""
    api_key: SecretSource | None = None
    """The key, as `{ file = ... }`, `{ env = ... }` or `{ credential = ... }`. It may be left out
    for an endpoint on this machine only."""
    system_prompt: str = ""
    """What the model is told before the conversation."""
    context_window_tokens: Annotated[int, Field(gt=0)] = 200_000
    """The size of the model's window, in tokens; left out: what is known of the model."""
    reserve_tokens: Annotated[int, Field(ge=0)] = 16_384
    """How much of the window is kept free for the answer, in tokens; left out: 16,384, or a
    quarter of the window where that is less."""
    max_output_tokens: Annotated[int, Field(gt=0)] = 8_192
    """The longest answer, thinking included, in tokens, at most `reserve_tokens`; left out: 8,192,
    or the reserve where that is less."""
    cache_ttl: Literal["5m", "1h", "off"] = "5m"
    """How long the provider keeps the prompt in its cache: `5m`, `1h` (writing costs more) or
    `off`."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long a connection may take to open, in seconds."""
    read_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """How long the endpoint may be silent, before an answer and between its pieces, in seconds."""
    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a request that failed before an answer began is sent again."""
    fallback: list[str] = Field(default_factory=list)
    """Agents that are asked in its place where its provider fails, in this order."""
    tools: AgentToolSettings = Field(default_factory=AgentToolSettings)

    def facts(self) -> AgentFacts:
        """Return what of it the size and the cost of a request depend on, without tools."""
        return AgentFacts(
            model=self.model,
            window_tokens=self.context_window_tokens,
            reserve_tokens=self.reserve_tokens,
            overhead_chars=len(self.system_prompt),
            cache_ttl_s=self.cache_ttl_s,
            completes=True,
        )

    @model_validator(mode="before")
    @classmethod
    def _window_of_the_model(cls, values: object) -> object:
        return with_reserve(cls, with_window(cls, values))

    @property
    def cache_ttl_s(self) -> float:
        """How long the provider keeps a prompt, in seconds; 0 where it keeps none."""
        return {"5m": 300.0, "1h": 3_600.0, "off": 0.0}[self.cache_ttl]

    @property
    def loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    @field_validator("base_url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        if url.rstrip("/").endswith("/v1"):
            raise ValueError(
                "ends in /v1, which would be there twice; accepted is the address without it, "
                f"such as {OFFICIAL_ANTHROPIC_URL}"
            )

        return check_url(url, such_as=OFFICIAL_ANTHROPIC_URL)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        check_endpoint(self)
        return self


AgentSettings = Annotated[
    EchoSettings | ScriptedSettings | CommandSettings | OpenAISettings | AnthropicSettings,
    Field(discriminator="kind"),
]
"""One `[agents.ID]` table; `kind` says which."""
