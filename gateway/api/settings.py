"""Settings of the HTTP API."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator

from gateway.settings import SecretSource, Settings, broken_rule, is_loopback

MIN_TOKEN_CHARS: Final = 16
"""The shortest bearer token that is taken."""
MAX_HOST_CHARS: Final = 253
"""The longest host name that DNS knows."""
_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# The last label holds a letter: what looks like an IP address but is none is a mistake.
_HOST_NAME: Final = re.compile(rf"({_LABEL}\.)*(?=[^.]*[A-Za-z]){_LABEL}\.?")


class HttpSettings(Settings):
    """Where the API listens, who may call it, and what a request may cost."""

    host: str = "127.0.0.1"
    """The address to listen on. One that is not loopback needs `behind_tls`, `token` and
    `allowed_hosts`."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8765
    """The port; 0 takes a free one, which the log and the lock file then name."""
    behind_tls: bool = False
    """True states that a proxy in front speaks TLS to the clients."""
    token: SecretSource | None = None
    """The bearer token, as `{ file = ... }`, `{ env = ... }` or `{ credential = ... }`. Left out,
    one is made at the first start and kept in `token` of the state directory."""
    allowed_hosts: list[str] = Field(default_factory=list)
    """Host names that requests may name beside the loopback ones."""
    max_body_bytes: Annotated[int, Field(ge=1_024, le=67_108_864)] = 1_048_576
    """The largest request body, in bytes."""
    max_connections: Annotated[int, Field(ge=1, le=65_535)] = 512
    """How many connections may be open at once."""
    header_timeout_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    """How long the head of a request may take to arrive, in seconds; `request_timeout_s` bounds it
    as well."""
    request_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 15.0
    """How long the whole request, head and body, may take to arrive, in seconds."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback(self.host)

    @field_validator("host")
    @classmethod
    def _plausible_host(cls, host: str) -> str:
        if not _is_host(host):
            raise ValueError(
                f"{host!r} is no address, accepted is an IP address, localhost or a host name"
            )

        return host

    @model_validator(mode="after")
    def _safe_bind(self) -> Self:
        problem = problem_of_bind(
            self.host,
            behind_tls=self.behind_tls,
            token=self.token is not None,
            allowed_hosts=bool(self.allowed_hosts),
        )
        if problem:
            raise broken_rule("host", problem)

        return self


def problem_of_bind(host: str, *, behind_tls: bool, token: bool, allowed_hosts: bool) -> str:
    """Return what an address lacks to be listened on, empty where it lacks nothing.

    Args:
        host: The address; one that is none is another check's affair.
        behind_tls: Whether a proxy in front speaks TLS.
        token: Whether a bearer token is configured.
        allowed_hosts: Whether any are.
    """
    given = {
        "behind_tls = true": behind_tls,
        "a token of your own": token,
        "allowed_hosts": allowed_hosts,
    }
    missing = [name for name, there in given.items() if not there]
    if not missing or not _is_host(host) or is_loopback(host):
        return ""

    return (
        f"{host} is not a loopback address, accepted only with behind_tls = true, a token of your "
        f"own and allowed_hosts (missing: {', '.join(missing)})"
    )


def _is_host(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return len(host) <= MAX_HOST_CHARS and _HOST_NAME.fullmatch(host) is not None

    return True
