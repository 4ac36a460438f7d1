"""What people see of a message on Matrix that has HTML; strict where clients are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

_VOID: Final = frozenset({"br", "hr"})
_BLOCKS: Final = frozenset(
    {"p", "pre", "ul", "ol", "blockquote", "table", "h1", "h2", "h3", "h4", "h5", "h6"}
)
_LINES: Final = frozenset({"li", "tr"})
_TAGS: Final = (
    _VOID | _BLOCKS | _LINES | {"em", "strong", "del", "code", "a", "thead", "tbody", "th", "td"}
)
"""Of those that the specification allows."""
_ATTRIBUTES: Final = {"a": {"href"}, "code": {"class"}, "ol": {"start"}}


class NoHtmlError(ValueError):
    """No client would show it as it is meant."""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.shown: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag not in _TAGS or {name for name, _ in attrs} - _ATTRIBUTES.get(tag, set()):
            raise NoHtmlError(f"{tag} {attrs}")
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag == "br":
            self.shown.append("\n")
        elif tag == "hr":
            self.shown.append("\n\n---\n\n")
        else:
            self.open.append(tag)
            self._gap(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise NoHtmlError(f"/{tag}")
        self._gap(tag)

    @override
    def handle_data(self, data: str) -> None:
        self.shown.append(data if "pre" in self.open else re.sub(r"[ \t\n]+", " ", data))

    def _gap(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.shown.append("\n\n")
        elif tag in _LINES:
            self.shown.append("\n")


def read_html(html: str) -> str:
    """Return what people see.

    Raises:
        NoHtmlError: a tag is not allowed, not closed or closed twice.
    """
    return _read(html)[0]


def links_in(html: str) -> list[str]:
    """Return the addresses that can be followed."""
    return _read(html)[1]


def _read(html: str) -> tuple[str, list[str]]:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    if reader.open:
        raise NoHtmlError(f"{reader.open} are not closed")

    return re.sub(r"\n{3,}", "\n\n", "".join(reader.shown)).strip("\n"), reader.links
