"""HTML as Telegram reads it."""

from __future__ import annotations

import re
from html import unescape
from typing import Final

_TAG: Final = re.compile(r"<(/?)([a-z]+)((?: [a-z]+=\"[^\"<>]*\")*)>")
_TAGS: Final = frozenset(
    {"b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "a", "code", "pre", "blockquote"}
)
_ENTITY: Final = re.compile(r"&(?:lt|gt|amp|quot|#[0-9]+|#x[0-9a-f]+);")


class NoHtmlError(ValueError):
    """Telegram would not take it."""


def read_html(html: str) -> str:
    """Return what people see of a text in HTML mode.

    Raises:
        NoHtmlError: a tag is unknown, not closed or closed twice, or a mark is not escaped.
    """
    shown, open_tags, place = [], [], 0
    while place < len(html):
        if html[place] == "<":
            tag = _TAG.match(html, place)
            if tag is None or tag[2] not in _TAGS:
                raise NoHtmlError(f"unsupported start tag at {place}")

            if not tag[1]:
                open_tags.append(tag[2])
            elif not open_tags or open_tags.pop() != tag[2]:
                raise NoHtmlError(f"unexpected end tag at {place}")
            place = tag.end()
        else:
            entity = _ENTITY.match(html, place)
            if entity is None and html[place] in "&>":
                raise NoHtmlError(f"not escaped at {place}")
            end = entity.end() if entity else place + 1
            shown.append(unescape(html[place:end]))
            place = end
    if open_tags:
        raise NoHtmlError(f"can't find the end tag of {open_tags[-1]}")

    return "".join(shown)
