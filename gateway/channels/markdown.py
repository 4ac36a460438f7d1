"""Markdown as models write it, read the same way for every platform that renders it. Pure.

No HTML is known, so that what looks like a tag is text. Definitions of links are shown as they
stand, for what is not used would be lost.
"""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.tree import SyntaxTreeNode

from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from markdown_it.token import Token

_MAX_DEPTH: Final = 60
_DEEPEST: Final = _MAX_DEPTH - 6
"""The parser drops what is nested deeper than it goes; so deep a text is shown plain."""
_MAX_CELLS: Final = 5_000
"""The parser makes every row of a table as wide as its first one, which a short text can turn into
seconds; what could have more cells is no table."""
_MAX_BRACKETS: Final = 500
"""The parser looks for the end of a link from each bracket on, which many make a second of; in what
has more there are no links."""
_MAX_REFUSED: Final = 5
"""So many tables that would lose words are read to their ends; from then on there are none."""
_REFUSED: Final = "tables_refused"
_BAR: Final = re.compile(r"(?<!\\)\|")
_LANGUAGE: Final = re.compile(r"[A-Za-z0-9_+#.-]{1,32}")


def _table_that_shows_all(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001 - as the parser calls it
    """Take a table, as a rule of the parser does; one that would lose words is none, but text.

    The parser drops what a row has beyond the columns of the head, and splits code at a bar.
    """
    refused = state.env.get(_REFUSED, 0)
    before = len(state.tokens)
    if refused >= _MAX_REFUSED or not table(state, start, end, silent):
        return False
    if silent:
        return True

    columns = sum(token.type == "th_open" for token in state.tokens[before:])
    rows = range(start + 2, state.line)
    if not any(_has_more_cells(_line(state, row), columns) for row in rows):
        return True

    del state.tokens[before:]
    state.line = start
    state.env[_REFUSED] = refused + 1
    return False


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


def _has_more_cells(row: str, columns: int) -> bool:
    """Return whether there are words in a row beyond so many columns."""
    cells = _BAR.split(row.strip())
    rest = cells[columns + (not cells[0]) :]
    return any(cell.strip() for cell in rest)


def _parser(*rules: str) -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": _MAX_DEPTH})
    made.block.ruler.at("table", _table_that_shows_all, {"alt": ["paragraph", "reference"]})
    return made.enable(["strikethrough", *rules]).disable("reference")


_PARSER: Final = _parser("table")
_WITHOUT_TABLES: Final = _parser()
_WITHOUT_LINKS: Final = _parser().disable(["link", "image"])


def parse(markdown: str) -> SyntaxTreeNode | None:
    """Return the tree of a text; None where it is nested so deep that some of it would be lost."""
    parser = _PARSER if _most_cells(markdown) <= _MAX_CELLS else _WITHOUT_TABLES
    if markdown.count("[") > _MAX_BRACKETS:
        parser = _WITHOUT_LINKS
    tokens = parser.parse(markdown)
    if _depth(tokens) >= _DEEPEST:
        return None

    return SyntaxTreeNode(tokens)


def plain_where_it_fails(
    render: Callable[[str], str | None],
) -> Callable[[str], str | None]:
    """Let what renders a text return None where it fails: the text is shown as it stands."""

    @wraps(render)
    def rendered(markdown: str) -> str | None:
        try:
            return render(markdown)
        except Exception as error:  # noqa: BLE001 - an answer that reads plain is better than none
            get_logger().warning("markdown.not_rendered", kind=type(error).__name__)
            return None

    return rendered


def _depth(tokens: Iterable[Token]) -> int:
    """Return how deep tokens are nested, with what stands in a line and in a picture's name."""
    deepest = depth = 0
    for token in tokens:
        depth += token.nesting
        deepest = max(deepest, depth + _depth(token.children or ()))
    return deepest


def _most_cells(markdown: str) -> int:
    widths = [line.count("|") for line in markdown.replace("\r", "\n").split("\n")]
    return max(widths, default=0) * len(widths)


def language_of(info: str) -> str:
    """Return the language that a fence names; empty where that is no plain word."""
    found = _LANGUAGE.fullmatch((info.split() or [""])[0])
    return found[0] if found else ""


def is_of_the_web(address: str) -> bool:
    """Return whether an address may become a link: other schemes do things on some platforms."""
    return address.lower().startswith(("http://", "https://"))
