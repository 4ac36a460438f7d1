"""Settings of the agents: one table of the configuration each, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.agents.scripted import parse_script
from gateway.agents.windows import window_of
from gateway.settings import SecretSource, Settings, is_loopback

OFFICIAL_ANTHROPIC_URL: Final = "https://api.anthropic.com"
OFFICIAL_OPENAI_URL: Final = "https://api.openai.com/v1"


class _Window(Protocol):
    @property
    def context_window_tokens(self) -> int: ...
    @property
    def reserve_tokens(self) -> int: ...


class _Endpoint(_Window, Protocol):
    @property
    def api_key(self) -> SecretSource | None: ...
    @property
    def loopback(self) -> bool: ...
    @property
    def max_output_tokens(self) -> int: ...


class EchoSettings(Settings):
    """An agent that answers with the text it got; it needs no key and no network."""

    kind: Literal["echo"] = "echo"
    """What answers: `anthropic`, `echo`, `openai` or `scripted`; it decides which keys the table
    takes."""
    context_window_tokens: Annotated[int, Field(gt=0)] = 200_000
    """The size of the pretended model's window, in tokens."""
    reserve_tokens: Annotated[int, Field(ge=0)] = 16_384
    """How much of the window is kept free for the answer, in tokens."""

    @model_validator(mode="after")
    def _room_is_left(self) -> Self:
        _check_window(self)
        return self


class ScriptedSettings(Settings):
    """An agent that answers from a list, to try things without a model."""

    kind: Literal["scripted"] = "scripted"
    """What answers: `anthropic`, `echo`, `openai` or `scripted`; it decides which keys the table
    takes."""
    replies: Annotated[list[str], Field(min_length=1)]
    """What it answers, one after the other and then from the start again. `!hang` waits until the
    turn is cancelled, `!fail TEXT` is an error that the user reads as TEXT, `!chunks A|B|C` streams
    in pieces, `!usage INPUT OUTPUT CACHE_READ CACHE_WRITE` sets the tokens of the next reply."""
    context_window_tokens: Annotated[int, Field(gt=0)] = 200_000
    """The size of the pretended model's window, in tokens."""
    reserve_tokens: Annotated[int, Field(ge=0)] = 16_384
    """How much of the window is kept free for the answer, in tokens."""

    @field_validator("replies")
    @classmethod
    def _script_is_sound(cls, replies: list[str]) -> list[str]:
        parse_script(replies)
        return replies

    @model_validator(mode="after")
    def _room_is_left(self) -> Self:
        _check_window(self)
        return self


class OpenAISettings(Settings):
    """A model behind any OpenAI-compatible chat-completions endpoint."""

    kind: Literal["openai"] = "openai"
    """What answers: `anthropic`, `echo`, `openai` or `scripted`; it decides which keys the table
    takes."""
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
    """How much of the window is kept free for the answer, in tokens."""
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

    @model_validator(mode="before")
    @classmethod
    def _window_of_the_model(cls, values: object) -> object:
        return _with_window(cls, values)

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
        return _check_url(url, such_as=OFFICIAL_OPENAI_URL)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _check_endpoint(self)
        return self


class AnthropicSettings(Settings):
    """A model behind the Messages API, Anthropic's or one that speaks like it."""

    kind: Literal["anthropic"] = "anthropic"
    """What answers: `anthropic`, `echo`, `openai` or `scripted`; it decides which keys the table
    takes."""
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
    """How much of the window is kept free for the answer, in tokens."""
    max_output_tokens: Annotated[int, Field(gt=0)] = 8_192
    """The longest answer, thinking included, in tokens, at most `reserve_tokens`."""
    cache_ttl: Literal["5m", "1h", "off"] = "5m"
    """How long the provider keeps the prompt in its cache: `5m`, `1h` (writing costs more) or
    `off`."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long a connection may take to open, in seconds."""
    read_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """How long the endpoint may be silent, before an answer and between its pieces, in seconds."""
    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a request that failed before an answer began is sent again."""

    @model_validator(mode="before")
    @classmethod
    def _window_of_the_model(cls, values: object) -> object:
        return _with_window(cls, values)

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

        return _check_url(url, such_as=OFFICIAL_ANTHROPIC_URL)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _check_endpoint(self)
        return self


AgentSettings = Annotated[
    EchoSettings | ScriptedSettings | OpenAISettings | AnthropicSettings,
    Field(discriminator="kind"),
]
"""One `[agents.ID]` table; `kind` says which."""


def _with_window(cls: type[Settings], values: object) -> object:
    """Return a table with the window of its model, where it does not give one."""
    if not isinstance(values, dict) or "context_window_tokens" in values:
        return values

    model, usual = values.get("model"), cls.model_fields["context_window_tokens"].default
    if not isinstance(model, str):
        return values

    return {**values, "context_window_tokens": window_of(model, usual)}


def _check_window(settings: _Window) -> None:
    if settings.reserve_tokens >= settings.context_window_tokens:
        raise ValueError(
            f"reserve_tokens ({settings.reserve_tokens}) leaves nothing of context_window_tokens "
            f"({settings.context_window_tokens}); accepted is less than that"
        )


def _check_endpoint(settings: _Endpoint) -> None:
    if settings.api_key is None and not settings.loopback:
        raise ValueError(
            "api_key is missing; accepted is { file = ... }, { env = ... } or "
            "{ credential = ... }, and none only where base_url is a loopback address"
        )

    _check_window(settings)
    if settings.max_output_tokens > settings.reserve_tokens:
        raise ValueError(
            f"max_output_tokens ({settings.max_output_tokens}) is above reserve_tokens "
            f"({settings.reserve_tokens}); accepted is at most that"
        )


def _check_url(url: str, *, such_as: str) -> str:
    if not _is_plain_http_url(url):
        raise ValueError(
            "not a usable address; accepted is http:// or https://, a host, a port if any "
            f"and a path, without user, query and fragment, such as {such_as}"
        )

    return url


def _is_plain_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_sound = parts.port != 0
    except ValueError:
        return False

    extras = (parts.username, parts.password, parts.query, parts.fragment)
    printable = url.isascii() and url.isprintable() and " " not in url
    return bool(
        printable
        and port_is_sound
        and parts.scheme in {"http", "https"}
        and parts.hostname
        and not any(extras)
    )
