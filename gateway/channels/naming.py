"""Which messages of a group are meant for us, as far as every platform has it. Pure.

What names us is a matter of each platform; what comes of a message that does not is the door's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import Change, ChatType

if TYPE_CHECKING:
    from gateway.model import Inbound


def needs_no_name(inbound: Inbound) -> bool:
    """Return whether a message is meant for us though it names nobody.

    So is what is said in a direct chat, a command to nobody else, and a change: it is of a message
    that was taken, or nothing comes of it.
    """
    if inbound.source.chat_type is ChatType.DM or inbound.change is not Change.NEW:
        return True

    first = inbound.text.split(maxsplit=1)[:1]
    if not inbound.typed or not first or not first[0].startswith("/"):
        return False

    bot = first[0].partition("@")[2]
    return not bot or bot.casefold() == inbound.bot_name.casefold()
