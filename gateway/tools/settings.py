"""Settings of the servers that tools come from: one table of the configuration each."""

from __future__ import annotations

from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from gateway.settings import PathSetting, SecretSource, Settings, broken_rule, is_loopback

INHERITED: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
)
"""What a server gets of the daemon's environment unless the configuration says otherwise."""
RESERVED_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "last-event-id",
        "mcp-session-id",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that the protocol itself sets."""
_ACCEPTED_NAME: Final = "a name of 1 to 32 characters a-z 0-9 _ - that begins with a-z or 0-9"
_ACCEPTED_COMMAND: Final = "a list of strings: a program and its arguments"
_ACCEPTED_VARIABLE: Final = "a name of letters, digits and _ that does not begin with a digit"
_ACCEPTED_HEADER: Final = "the name of a header that the protocol does not set by itself"


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, accepted is a text without one")

    return text


ServerName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", json_schema_extra={"accepted": _ACCEPTED_NAME}),
]
Argument = Annotated[
    str,
    Field(
        max_length=32_768,
        json_schema_extra={"accepted": "a string of at most 32768 characters without NUL"},
    ),
    AfterValidator(_no_nul),
]
VariableName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
        json_schema_extra={"accepted": _ACCEPTED_VARIABLE},
    ),
]
HeaderName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9-]{1,64}$", json_schema_extra={"accepted": _ACCEPTED_HEADER}),
]


class McpServerSettings(Settings):
    """A server of tools (Model Context Protocol): a program that is started here, or an address."""

    command: (
        Annotated[
            list[Argument], Field(min_length=1, json_schema_extra={"accepted": _ACCEPTED_COMMAND})
        ]
        | None
    ) = None
    """The program and its arguments, such as `["uvx", "mcp-server-fetch"]`; no shell reads them.
    Exactly one of `command` and `url` is given."""
    env: dict[VariableName, Argument] = Field(
        default_factory=dict, json_schema_extra={"accepted_names": _ACCEPTED_VARIABLE}
    )
    """Variables that the program gets beside the inherited ones; these win."""
    secret_env: dict[VariableName, SecretSource] = Field(
        default_factory=dict, json_schema_extra={"accepted_names": _ACCEPTED_VARIABLE}
    )
    """The same for secrets, each as `{ file = ... }`, `{ env = ... }` or `{ credential = ... }`."""
    inherit_env: list[VariableName] = Field(
        default_factory=lambda: list(INHERITED),
        json_schema_extra={"accepted": "a list of names of variables"},
    )
    """Variables of the gateway's own environment that the program gets, where they are set; it gets
    no other."""
    cwd: PathSetting | None = None
    """The directory the program runs in; left out: the gateway's own."""
    url: str | None = None
    """The address of a server that speaks streamable HTTP, such as `http://127.0.0.1:8000/mcp`."""
    headers: dict[HeaderName, SecretSource] = Field(
        default_factory=dict, json_schema_extra={"accepted_names": _ACCEPTED_HEADER}
    )
    """Headers of each request to the address: the secret is the whole value, such as
    `Bearer ...`."""
    start_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long the server may take until it has told its tools, in seconds; then it is stopped and
    started again later."""
    call_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """How long a call may take, in seconds; then it is cancelled, and the model is told."""
    max_parallel: Annotated[int, Field(gt=0, le=256)] = 8
    """How many calls run at once; others wait, within their time."""
    max_result_chars: Annotated[int, Field(ge=100, le=10_000_000)] = 50_000
    """The longest text that a model gets of a result, in characters; the rest is cut off, and the
    text says so."""
    max_images: Annotated[int, Field(ge=0, le=100)] = 4
    """How many images a model gets of a result; the text tells of others."""
    max_image_bytes: Annotated[int, Field(ge=0, le=100_000_000)] = 5_000_000
    """The largest image that a model gets, in bytes of base64."""
    max_message_bytes: Annotated[int, Field(ge=65_536, le=268_435_456)] = 8_388_608
    """The largest message taken from the server, in bytes. More ends the connection, and the server
    is started again; over HTTP it ends the answer."""

    @property
    def loopback(self) -> bool:
        """Whether the address is on this machine."""
        return is_loopback(urlsplit(self.url or "").hostname or "")

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: list[str] | None) -> list[str] | None:
        if command is not None and not command[0].strip():
            raise ValueError("begins with a blank, accepted is a list that begins with a program")

        return command

    @field_validator("url")
    @classmethod
    def _usable_url(cls, url: str | None) -> str | None:
        if url is not None and not _is_http_url(url):
            raise ValueError(
                "not a usable address; accepted is http:// or https://, a host, a port if any, "
                "a path and a query, without user and fragment, such as http://127.0.0.1:8000/mcp"
            )

        return url

    @field_validator("headers")
    @classmethod
    def _headers_of_ours(cls, headers: dict[str, SecretSource]) -> dict[str, SecretSource]:
        names = [name.lower() for name in headers]
        reserved = sorted(RESERVED_HEADERS.intersection(names))
        if reserved:
            raise ValueError(f"{reserved[0]} is set by the protocol, accepted is any other header")
        if len(set(names)) < len(names):
            raise ValueError("names a header twice, accepted is once, in upper or lower case")

        return headers

    @model_validator(mode="after")
    def _one_transport(self) -> Self:
        if self.command is None and self.url is None:
            raise ValueError(
                "has neither command nor url, accepted is exactly one: command for a program that "
                "is started here, url for an address"
            )
        if self.command is not None and self.url is not None:
            raise broken_rule("url", "stands beside command, accepted is exactly one of the two")

        of_programs: dict[str, object] = {
            "env": self.env,
            "secret_env": self.secret_env,
            "inherit_env": self.inherit_env != list(INHERITED),
            "cwd": self.cwd,
        }
        others = {"headers": self.headers} if self.url is None else of_programs
        for key, given in others.items():
            if given:
                kind, this = ("command", "url") if self.url else ("url", "command")
                text = f"is for a server with {kind}, this one has {this}; accepted is without it"
                raise broken_rule(key, text)
        return self

    @model_validator(mode="after")
    def _each_variable_once(self) -> Self:
        for name in self.secret_env:
            if name in self.env:
                text = "stands in secret_env as well, accepted is one of the two"
                raise broken_rule("env", text, name)

        return self


class ToolsSettings(Settings):
    """Where tools come from. An agent is offered only what its own table allows."""

    servers: dict[ServerName, McpServerSettings] = Field(
        default_factory=dict, json_schema_extra={"accepted_names": _ACCEPTED_NAME}
    )
    """One table a server. Its tools are offered as `<server>_<tool>`. Changes apply at the next
    start."""

    @model_validator(mode="after")
    def _tools_tell_their_server(self) -> Self:
        for name in self.servers:
            for other in self.servers:
                if other.startswith(f"{name}_"):
                    text = (
                        f"begins with the name of another server, {name}, and _, so that two tools "
                        "could have one name; accepted is a name that does not"
                    )
                    raise broken_rule("servers", text, other)

        return self


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_sound = parts.port != 0
    except ValueError:
        return False

    printable = url.isascii() and url.isprintable() and " " not in url
    return bool(
        printable
        and port_is_sound
        and parts.scheme in {"http", "https"}
        and parts.hostname
        and not any((parts.username, parts.password, parts.fragment))
    )
