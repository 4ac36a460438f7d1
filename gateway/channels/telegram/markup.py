"""Markdown as the HTML that Telegram takes. Pure.

What Telegram has no tag for gets a form in its place: a heading is bold, a list has bullets, a
narrow table is aligned in a block of code and a wide one has a line a row. Everything else is
escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape, unescape
from typing import TYPE_CHECKING, Final

from gateway.channels.markdown import is_of_the_web, language_of, parse, plain_where_it_fails

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.tree import SyntaxTreeNode

MAX_UNITS: Final = 4_096
"""The longest message, in UTF-16 code units after its tags are read.

Source: Bot API, sendMessage."""
_MAX_COLUMNS: Final = 40
"""A table of more characters would be broken into lines on a telephone."""
_TAGS: Final = {"em": "i", "strong": "b", "s": "s"}
_TAG: Final = re.compile(r"<[^>]*>")
_RULE: Final = "———"


def units(text: str) -> int:
    """Return the length of a text in UTF-16 code units, as Telegram counts."""
    return len(text) + sum(char > "\uffff" for char in text)


def visible(html: str) -> str:
    """Return what is read of a text that `render` has made."""
    return unescape(_TAG.sub("", html))


@plain_where_it_fails
def render(markdown: str) -> str | None:
    """Return a text as HTML; None where only the text as it stands can be shown.

    That is so where nothing would be visible, more than a message holds, or not all of the text.
    """
    tree = parse(markdown)
    if tree is None:
        return None

    html = _blocks(tree.children, _Place())
    shown = visible(html)
    return html if shown.strip() and units(shown) <= MAX_UNITS else None


@dataclass(frozen=True, slots=True)
class _Place:
    """What a block stands in."""

    indent: str = ""
    """Of an item of a list."""
    quoted: bool = False
    """Quotations cannot be nested."""


def _blocks(nodes: Sequence[SyntaxTreeNode], place: _Place, gap: str = "\n\n") -> str:
    shown = (_block(node, place) for node in nodes)
    return gap.join(html for html in shown if html)


def _block(node: SyntaxTreeNode, place: _Place) -> str:
    match node.type:
        case "heading":
            html = _inline(node, ("b",))
        case "bullet_list" | "ordered_list":
            html = _list(node, place)
        case "blockquote":
            inner = _blocks(node.children, _Place(place.indent, quoted=True))
            html = inner if place.quoted or not inner else f"<blockquote>{inner}</blockquote>"
        case "fence" | "code_block":
            html = _code(node)
        case "table":
            html = _table(node)
        case "hr":
            html = _RULE
        case _:  # paragraphs
            html = _inline(node)
    return html


def _list(node: SyntaxTreeNode, place: _Place) -> str:
    inner = _Place(f"{place.indent}  ", place.quoted)
    paragraphs = (part for item in node.children for part in item.children)
    is_loose = any(part.type == "paragraph" and not part.hidden for part in paragraphs)
    gap = "\n\n" if is_loose else "\n"
    items = []
    for item in node.children:
        mark = "•" if node.type == "bullet_list" else f"{item.info}."
        items.append(f"{place.indent}{mark} {_blocks(item.children, inner, gap)}")
    return gap.join(items)


def _code(node: SyntaxTreeNode) -> str:
    text = escape(node.content.rstrip("\n"), quote=False)
    if not text:
        return ""

    language = language_of(node.info)
    if not language:
        return f"<pre>{text}</pre>"

    return f'<pre><code class="language-{language}">{text}</code></pre>'


def _table(node: SyntaxTreeNode) -> str:
    rows = [row.children for part in node.children for row in part.children]
    cells = [[visible(_inline(cell)).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if sum(widths) + 3 * (len(widths) - 1) > _MAX_COLUMNS:
        lines = [" | ".join(_inline(cell, ("b",)) for cell in rows[0])]
        lines += [" | ".join(map(_inline, row)) for row in rows[1:]]
        return "\n".join(lines)

    aligned = [" | ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    aligned.insert(1, "-+-".join("-" * width for width in widths))
    return f"<pre>{escape(chr(10).join(aligned), quote=False)}</pre>"


def _inline(node: SyntaxTreeNode, within: tuple[str, ...] = ()) -> str:
    """Return the text of a block, in these tags."""
    html = "".join(_spans(part.children, within) for part in node.children)
    return _tagged(html, within)


def _tagged(html: str, tags: Sequence[str]) -> str:
    for tag in reversed(tags):
        html = f"<{tag}>{html}</{tag}>" if html else ""
    return html


def _spans(
    nodes: Sequence[SyntaxTreeNode], within: tuple[str, ...], *, linked: bool = False
) -> str:
    return "".join(_span(node, within, linked=linked) for node in nodes)


def _span(node: SyntaxTreeNode, within: tuple[str, ...], *, linked: bool) -> str:
    match node.type:
        case "softbreak" | "hardbreak":
            html = "\n"
        case "em" | "strong" | "s":
            tag = _TAGS[node.type]
            if tag in within:
                html = _spans(node.children, within, linked=linked)
            else:
                inner = _spans(node.children, (*within, tag), linked=linked)
                html = _tagged(inner, (tag,))
        case "link":
            inner = _spans(node.children, within, linked=True)
            html = _linked(inner, str(node.attrs.get("href", "")))
        case "image":
            inner = escape(node.content, quote=False)
            html = inner if linked else _linked(inner, str(node.attrs.get("src", "")))
        case "code_inline" if not linked:
            html = _unnested(f"<code>{escape(node.content, quote=False)}</code>", within)
        case _:
            html = escape(node.content, quote=False)
    return html


def _linked(inner: str, address: str) -> str:
    """Return a link; of an address that is none of the web the address, as text."""
    # Others do things: `tg://user?id=` tells a person that they are spoken of.
    if not is_of_the_web(address):
        return f"{inner} ({escape(address, quote=False)})" if address else inner

    return f'<a href="{escape(address)}">{inner or escape(address, quote=False)}</a>'


def _unnested(html: str, within: Sequence[str]) -> str:
    """Return what may stand in no other tag, those around it ended before and begun anew."""
    ends = "".join(f"</{tag}>" for tag in reversed(within))
    return f"{ends}{html}{''.join(f'<{tag}>' for tag in within)}"
