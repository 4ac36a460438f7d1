"""What we write on Matrix."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channels.base import Outbound
from gateway.channels.matrix.content import MAX_CONTENT_BYTES, MAX_TEXT_CHARS, edit, message
from gateway.channels.matrix.inbound import MARK
from gateway.channels.matrix.markup import render
from gateway.model import SessionSource
from tests.support.matrix_html import links_in, read_html

ROOM = SessionSource("matrix", "!room")


def shown(markdown: str) -> str:
    """Return what people see."""
    html = render(markdown)
    return markdown if html is None else read_html(html)


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        pytest.param("**b** *i* ~~s~~", "<strong>b</strong> <em>i</em> <del>s</del>", id="marks"),
        pytest.param("a\nb\n\nc", "<p>a<br>b</p><p>c</p>", id="paragraphs"),
        pytest.param("# T\n\nx", "<h1>T</h1><p>x</p>", id="heading"),
        pytest.param(
            "- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>", id="list"
        ),
        pytest.param("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>', id="numbers"),
        pytest.param("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>", id="loose-list"),
        pytest.param(
            "> a\n> > b",
            "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
            id="quotes",
        ),
        pytest.param("`a<b`", "<code>a&lt;b</code>", id="code"),
        pytest.param(
            "```py x\na < b\n```",
            '<pre><code class="language-py">a &lt; b\n</code></pre>',
            id="block",
        ),
        pytest.param('```"><b>\nx\n```', "<pre><code>x\n</code></pre>", id="no-language"),
        pytest.param("    x\n", "<pre><code>x\n</code></pre>", id="indented"),
        pytest.param("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>", id="rule"),
        pytest.param(
            "|a|b|\n|-|-|\n|1|*2*|",
            "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
            "<tbody><tr><td>1</td><td><em>2</em></td></tr></tbody></table>",
            id="table",
        ),
        pytest.param(
            "[x](https://e.org/?a&b)", '<a href="https://e.org/?a&amp;b">x</a>', id="link"
        ),
        pytest.param(
            "![cat](http://e.org/c.png)", '<a href="http://e.org/c.png">cat</a>', id="picture"
        ),
        pytest.param("[x](matrix:u/ann:e.org)", "x (matrix:u/ann:e.org)", id="other-scheme"),
        pytest.param(r"\*a\*", "*a*", id="escaped"),
    ],
)
def test_markdown_is_rendered(markdown: str, html: str) -> None:
    assert render(markdown) == html


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("plain & simple < x\n<b>no</b> @room", id="no-marks"),
        pytest.param("---", id="nothing-to-see"),
        pytest.param(">" * 60 + " deep", id="too-deep"),
    ],
)
def test_what_reads_as_well_as_it_stands_has_no_html(text: str) -> None:
    assert render(text) is None


def test_no_link_leads_out_of_the_web() -> None:
    text = "[a](javascript:x) ![b](mxc://x/y) <tel:1> [c](HTTPS://e.org) <https://f.org>"
    html = render(text)

    assert html is not None
    assert links_in(html) == ["HTTPS://e.org", "https://f.org"]


@given(st.text(st.sampled_from("ab <>&\"'`*_~[]()!#->1.|\n\\@:/"), max_size=80))
def test_whatever_is_written_the_html_is_sound_and_shows_nothing_else(text: str) -> None:
    """That it is sound `read_html` says."""
    seen = Counter(one for one in shown(text) if one in "ab@")

    assert seen <= Counter(text)


@given(st.text(max_size=MAX_TEXT_CHARS))
def test_an_event_always_fits(text: str) -> None:
    outbound = Outbound(ROOM, text, "d")

    for content in (message(outbound), edit(outbound, "$1")):
        assert len(orjson.dumps(content)) <= MAX_CONTENT_BYTES


def test_where_both_have_no_room_the_text_is_shown_as_it_stands() -> None:
    # Each such character takes six bytes.
    outbound = Outbound(ROOM, "**a** ".ljust(MAX_TEXT_CHARS, "\x01"), "d")
    content, edited = message(outbound), edit(outbound, "$1")

    assert render(outbound.text) is not None
    assert content == {
        "msgtype": "m.text",
        "body": outbound.text,
        "m.mentions": {},
        MARK: True,
    }
    assert edited["m.new_content"] == content


def test_a_table_that_would_grow_beyond_measure_is_none() -> None:
    """Each row of a table has as many cells as its first one."""
    rows = [*("|a" * 99 + "|", "|-" * 99 + "|"), *["|"] * 48]

    assert "<table>" in str(render("\n".join(rows)))
    assert "<table>" not in str(render("\n".join([*rows, "|", "**b**"])))


def test_plain_text_and_notices_are_what_they_are() -> None:
    content = message(Outbound(ROOM, "*a*", "d", plain=True), notice=True)

    assert content == {"msgtype": "m.notice", "body": "*a*", "m.mentions": {}, MARK: True}


def test_an_edit_says_a_little_to_those_who_know_no_edits() -> None:
    content = edit(Outbound(ROOM, "**" + "a" * 400 + "**", "d"), "$1")

    assert content["body"] == "* **" + "a" * 198 + " ..."
    assert content["m.new_content"]["formatted_body"] == f"<strong>{'a' * 400}</strong>"
    assert content["m.relates_to"] == {"rel_type": "m.replace", "event_id": "$1"}
