"""Markdown as the HTML that Matrix takes. Pure.

All that is no mark is escaped. A picture becomes a link to it: nobody's client fetches anything
because of an answer.
"""

from __future__ import annotations

import re
from html import escape, unescape
from typing import TYPE_CHECKING, Final

from gateway.channels.markdown import is_of_the_web, language_of, parse, plain_where_it_fails

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.tree import SyntaxTreeNode

_TAGS: Final = {"em": "em", "strong": "strong", "s": "del"}
_TAG: Final = re.compile(r"<[^>]*>")


@plain_where_it_fails
def render(markdown: str) -> str | None:
    """Return a text as HTML; None where it reads as well as it stands.

    That is so where there is no mark in it, where nothing would be visible, or not all of the text.
    """
    tree = parse(markdown)
    if tree is None:
        return None

    blocks = tree.children
    # Clients set a gap around a paragraph; a single one needs none.
    html = _inline(blocks[0]) if _is_paragraph(blocks) else _blocks(blocks)
    if html == _plain(markdown) or not unescape(_TAG.sub("", html)).strip():
        return None

    return html


def _is_paragraph(blocks: Sequence[SyntaxTreeNode]) -> bool:
    return len(blocks) == 1 and blocks[0].type == "paragraph"


def _plain(text: str) -> str:
    return escape(text, quote=False).replace("\n", "<br>")


def _blocks(nodes: Sequence[SyntaxTreeNode]) -> str:
    return "".join(map(_block, nodes))


def _block(node: SyntaxTreeNode) -> str:
    match node.type:
        case "heading":
            html = f"<{node.tag}>{_inline(node)}</{node.tag}>"
        case "bullet_list" | "list_item" | "blockquote":
            html = f"<{node.tag}>{_blocks(node.children)}</{node.tag}>"
        case "ordered_list":
            start = node.attrs.get("start", 1)
            number = f' start="{start}"' if start != 1 else ""
            html = f"<ol{number}>{_blocks(node.children)}</ol>"
        case "fence" | "code_block":
            html = _code(node)
        case "table":
            html = f"<table>{''.join(_rows(part) for part in node.children)}</table>"
        case "hr":
            html = "<hr>"
        case _:  # paragraphs; those of a narrow list have no gap
            inner = _inline(node)
            html = inner if node.hidden else f"<p>{inner}</p>"
    return html


def _code(node: SyntaxTreeNode) -> str:
    language = language_of(node.info)
    marked = f' class="language-{escape(language)}"' if language else ""
    return f"<pre><code{marked}>{escape(node.content, quote=False)}</code></pre>"


def _rows(part: SyntaxTreeNode) -> str:
    rows = "".join(
        f"<tr>{''.join(f'<{cell.tag}>{_inline(cell)}</{cell.tag}>' for cell in row.children)}</tr>"
        for row in part.children
    )
    return f"<{part.tag}>{rows}</{part.tag}>"


def _inline(node: SyntaxTreeNode) -> str:
    return "".join(_spans(part.children) for part in node.children)


def _spans(nodes: Sequence[SyntaxTreeNode], *, linked: bool = False) -> str:
    return "".join(_span(node, linked=linked) for node in nodes)


def _span(node: SyntaxTreeNode, *, linked: bool) -> str:
    match node.type:
        case "softbreak" | "hardbreak":
            html = "<br>"
        case "em" | "strong" | "s":
            tag = _TAGS[node.type]
            html = f"<{tag}>{_spans(node.children, linked=linked)}</{tag}>"
        case "link":
            inner = _spans(node.children, linked=True)
            html = _linked(inner, str(node.attrs.get("href", "")))
        case "image":
            inner = escape(node.content, quote=False)
            html = inner if linked else _linked(inner, str(node.attrs.get("src", "")))
        case "code_inline":
            html = f"<code>{escape(node.content, quote=False)}</code>"
        case _:
            html = escape(node.content, quote=False)
    return html


def _linked(inner: str, address: str) -> str:
    """Return a link; of an address that is none of the web the address, as text."""
    if not is_of_the_web(address):
        return f"{inner} ({escape(address, quote=False)})" if address else inner

    return f'<a href="{escape(address)}">{inner or escape(address, quote=False)}</a>'
