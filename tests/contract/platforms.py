"""The platforms that the contract of channels is tried on.

What is common to all of them (`Ability`, `Written`, `Shown`, `People`, `Platform`) is in `base`,
where the files of the platforms take it from.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.contract.base import Ability, People, Platform, Shown, Written
from tests.contract.loopback import LoopbackPlatform, PlainLoopback
from tests.contract.matrix import MatrixPlatform
from tests.contract.telegram import TelegramPlatform, TelegramWebhookPlatform
from tests.contract.webhook import WebhookPlatform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PLATFORMS", "Ability", "People", "Platform", "Shown", "Written"]

PLATFORMS: dict[str, tuple[type[Platform], Callable[[Path, str], Platform]]] = {
    "loopback": (PlainLoopback, PlainLoopback),
    "loopback-that-edits": (
        LoopbackPlatform,
        partial(LoopbackPlatform, idempotent=True, edits=True, typing=True),
    ),
    "matrix": (MatrixPlatform, MatrixPlatform),
    "telegram": (TelegramPlatform, TelegramPlatform),
    "telegram-webhook": (TelegramWebhookPlatform, TelegramWebhookPlatform),
    "webhook": (WebhookPlatform, WebhookPlatform),
}
"""By name, the class and what makes one in a state directory, for the account of that name."""
