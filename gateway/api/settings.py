"""Settings of the HTTP API."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import Field, model_validator

from gateway.settings import SecretSource, Settings, broken_rule


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
    """How long the head of a request may take to arrive, in seconds."""
    request_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 15.0
    """How long the whole request may take to arrive, in seconds."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True

        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _safe_bind(self) -> Self:
        if not self.loopback and not (self.behind_tls and self.token and self.allowed_hosts):
            raise broken_rule(
                "host",
                f"{self.host} is not a loopback address, accepted only with behind_tls = true, "
                "a token of your own and allowed_hosts",
            )

        return self
