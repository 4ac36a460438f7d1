"""Settings of the delivery of replies to channels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings import Settings


class DeliverySettings(Settings):
    """How replies reach the platforms; a client of the HTTP API fetches its own."""

    ttl_s: Annotated[float, Field(gt=0, le=2_592_000)] = 3_600.0
    """How long a reply may wait to be sent before it is late, in seconds."""
    late: Literal["note", "drop"] = "note"
    """What becomes of a late reply: `note` sends it with a line that says when it was answered,
    `drop` makes a dead letter of it."""
    max_attempts: Annotated[int, Field(gt=0, le=100)] = 8
    """How often a platform is asked to take a message before it becomes a dead letter; a platform
    that cannot be reached was not asked."""
    max_parallel: Annotated[int, Field(gt=0, le=1_024)] = 8
    """To how many chats of one channel is sent at once; of one chat it is one message at a time."""
    send_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """How long a platform may take to take a message, in seconds."""
