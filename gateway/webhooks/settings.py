"""Settings of webhooks: who is told of what."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from gateway.settings import SecretSource, Settings
from gateway.signing.addresses import PostAddress

ACCEPTED_NAME: Final = "a name of 1 to 32 characters a-z 0-9 _ - that begins with a-z or 0-9"
WebhookName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", json_schema_extra={"accepted": ACCEPTED_NAME}),
]


class EventKind(StrEnum):
    """What happened, as the `type` of an event says it."""

    SESSION_RESET = "session.reset"
    """A conversation was ended for a new one."""
    SESSION_PRUNED = "session.pruned"
    """A session left the store."""
    CONTEXT_PRUNED = "context.pruned"
    """Old tool results were made shorter in what is sent of a session."""
    TURN_COMPLETED = "turn.completed"
    """A turn ended, well or not."""


class WebhookSettings(Settings):
    """A program that is told what happens, by signed events (Standard Webhooks)."""

    name: WebhookName
    """What it is called here; no other webhook is called so."""
    url: PostAddress
    """Where events are posted: https, or http on this machine."""
    secret: SecretSource
    """What signs them: `whsec_` and the base64 of 24 to 64 random bytes, for this webhook alone."""
    events: Annotated[list[Annotated[EventKind, Field(strict=False)]], Field(min_length=1)] = Field(
        default_factory=lambda: list(EventKind)
    )
    """Which events it gets."""
    timeout_s: Annotated[float, Field(ge=1, le=300)] = 15.0
    """How long a post may take, in seconds."""
    max_queued: Annotated[int, Field(gt=0, le=1_000_000)] = 10_000
    """How many events wait at most; beyond it the oldest become dead letters."""
    dead_keep: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    """How many dead letters are kept, the newest."""
    dead_keep_days: Annotated[float, Field(gt=0, le=36_525)] = 30.0
    """How long dead letters are kept, in days."""
