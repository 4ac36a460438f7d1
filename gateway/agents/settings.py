"""Settings of the agents: one table of the configuration each, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.agents.scripted import parse_script
from gateway.settings import SecretSource, Settings, is_loopback

OFFICIAL_OPENAI_URL: Final = "https://api.openai.com/v1"


class _Window(Protocol):
    @property
    def context_window_tokens(self) -> int: ...
    @property
    def reserve_tokens(self) -> int: ...


class EchoSettings(Settings):
    """An agent that answers with the text it got; it needs no key and no network."""

    kind: Literal["echo"] = "echo"
    """What answers: `echo`, `scripted` or `openai`; it decides which keys the table takes."""
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
    """What answers: `echo`, `scripted` or `openai`; it decides which keys the table takes."""
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
    """What answers: `echo`, `scripted` or `openai`; it decides which keys the table takes."""
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
    """The size of the model's window, in tokens."""
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

    @property
    def loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    @field_validator("base_url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        if not _is_plain_http_url(url):
            raise ValueError(
                "not a usable address; accepted is http:// or https://, a host, a port if any "
                f"and a path, without user, query and fragment, such as {OFFICIAL_OPENAI_URL}"
            )

        return url

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.api_key is None and not self.loopback:
            raise ValueError(
                "api_key is missing; accepted is { file = ... }, { env = ... } or "
                "{ credential = ... }, and none only where base_url is a loopback address"
            )

        _check_window(self)
        if self.max_output_tokens > self.reserve_tokens:
            raise ValueError(
                f"max_output_tokens ({self.max_output_tokens}) is above reserve_tokens "
                f"({self.reserve_tokens}); accepted is at most that"
            )

        return self


AgentSettings = Annotated[
    EchoSettings | ScriptedSettings | OpenAISettings, Field(discriminator="kind")
]
"""One `[agents.ID]` table; `kind` says which."""


def _check_window(settings: _Window) -> None:
    if settings.reserve_tokens >= settings.context_window_tokens:
        raise ValueError(
            f"reserve_tokens ({settings.reserve_tokens}) leaves nothing of context_window_tokens "
            f"({settings.context_window_tokens}); accepted is less than that"
        )


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
