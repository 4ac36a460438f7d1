"""Which class speaks to which platform: its module is loaded only where the platform is configured.

A new platform has its settings class in `settings`, and its case here.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.channels.matrix.settings import MatrixSettings
from gateway.channels.settings import LoopbackSettings
from gateway.channels.telegram.settings import TelegramSettings
from gateway.channels.webhook.settings import WebhookChannelSettings
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from gateway.channels.base import Channel
    from gateway.channels.settings import ChannelSettings
    from gateway.clock import Clock


def open_channel(account: str, settings: ChannelSettings, state_dir: Path, clock: Clock) -> Channel:
    """Return the channel of an account; nothing is opened before its `run`.

    Args:
        account: The name of its table.
        settings: The table.
        state_dir: Where a channel may keep a file of its own, named after the account.
        clock: Both clocks.

    Raises:
        ConfigurationError: the library of its platform is not installed.
    """
    with _extra(account, settings.kind):
        match settings:
            case LoopbackSettings():
                from gateway.channels.loopback.channel import LoopbackChannel  # noqa: PLC0415 - only here

                return LoopbackChannel(account, settings, state_dir, clock)
            case MatrixSettings():
                from gateway.channels.matrix.channel import MatrixChannel  # noqa: PLC0415 - imports the SDK

                return MatrixChannel(account, settings, state_dir, clock)
            case TelegramSettings():
                from gateway.channels.telegram.channel import TelegramChannel  # noqa: PLC0415 - imports the SDK

                return TelegramChannel(account, settings, clock)
            case WebhookChannelSettings():
                from gateway.channels.webhook.channel import WebhookChannel  # noqa: PLC0415 - only here

                return WebhookChannel(account, settings, clock)


@contextmanager
def _extra(account: str, kind: str) -> Generator[None]:
    """Tell a library that is missing as what it is: an extra that was not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "gateway":
            raise

        problem = (
            f"channels.{account}.kind: {kind} needs the library {error.name}, which is not "
            f"installed; pip install '.[{kind}]' in the checkout of session-gateway brings it"
        )
        raise ConfigurationError([problem]) from error
