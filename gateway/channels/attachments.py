"""What a turn is told of things that were sent beside a text. Pure: nothing is ever fetched.

Kinds, names and sizes are what a platform or a sender says of them, and are told as such.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.model import MAX_NAME_CODE_POINTS, clean_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model import Attachment

MAX_LISTED: Final = 20
"""More are counted, not told."""
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
_UNITS: Final = ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"))


def with_attachments(text: str, attachments: Sequence[Attachment]) -> str:
    """Return a text and, after it, one line for each thing that was sent beside it."""
    if not attachments:
        return text

    lines = [described(one) for one in attachments[:MAX_LISTED]]
    more = len(attachments) - MAX_LISTED
    if more > 0:
        lines.append(f"[and {more} more]")
    gap = "\n\n" if text.strip() else ""
    return (text if gap else "") + gap + "\n".join(lines)


def described(attachment: Attachment) -> str:
    """Return one line: `[image: "cat.png", image/png, 12.3 kB; not fetched]`."""
    # Brackets and quotation marks would end what is said here; what follows could pass for ours.
    name = clean_name(" ".join(attachment.name.split()))[:MAX_NAME_CODE_POINTS]
    name = name.translate({ord(char): "_" for char in '[]"'})
    media_type = attachment.media_type.strip().lower()
    facts = [
        f'"{name}"' if name else "",
        media_type if _MEDIA_TYPE.fullmatch(media_type) else "",
        _size(attachment.size_bytes),
    ]
    said = ", ".join(filter(None, facts))
    return f"[{attachment.kind.value}{': ' if said else ''}{said}; not fetched]"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None or size_bytes < 0:
        return ""

    for unit, name in _UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} B"
