"""Laws of Markdown as Telegram shows it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channels.telegram.channel import MAX_TEXT_CHARS
from gateway.channels.telegram.markup import MAX_UNITS, render, units, visible
from tests.support.telegram_html import read_html


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("plain", "plain"),
        ("a **b** *c* ~~d~~ `e`", "a <b>b</b> <i>c</i> <s>d</s> <code>e</code>"),
        ("***both***", "<i><b>both</b></i>"),
        ("**a `b` c**", "<b>a </b><code>b</code><b> c</b>"),
        ("one\ntwo  \nthree", "one\ntwo\nthree"),
        ("# A *b*\n\ntext", "<b>A <i>b</i></b>\n\ntext"),
        ("## **A**", "<b>A</b>"),
        ("- a\n- b\n  - c", "• a\n• b\n  • c"),
        ("- a\n\n- b", "• a\n\n• b"),
        ("3. a\n4. b", "3. a\n4. b"),
        ("> a\n> > b", "<blockquote>a\n\nb</blockquote>"),
        ("a\n\n---\n\nb", "a\n\n———\n\nb"),
        ("```py title\nx < 1\n```", '<pre><code class="language-py">x &lt; 1</code></pre>'),
        ('```"><b>\nx\n```', "<pre>x</pre>"),
        ("    indented", "<pre>indented</pre>"),
        ("| a | bc |\n|---|---|\n| 123 | *4* |", "<pre>a   | bc\n----+---\n123 | 4</pre>"),
        (
            f"| a | {'b' * 50} |\n|---|---|\n| 1 | *2* |",
            f"<b>a</b> | <b>{'b' * 50}</b>\n1 | <i>2</i>",
        ),
        ('[a](https://b.c?d=1&e="f")', '<a href="https://b.c?d=1&amp;e=%22f%22">a</a>'),
        ("[`a`](https://b.c)", '<a href="https://b.c">a</a>'),
        ("![a](https://b.c/d.png)", '<a href="https://b.c/d.png">a</a>'),
        ("[![a](https://b.c/d)](https://e.f)", '<a href="https://e.f">a</a>'),
        ("[you](tg://user?id=5)", "you (tg://user?id=5)"),
        ("[a](docs/b.md)", "a (docs/b.md)"),
        ("[a](javascript:x)", "[a](javascript:x)"),
        ("[1]: https://a.b", "[1]: https://a.b"),
        ("<b>a</b> & <script>", "&lt;b&gt;a&lt;/b&gt; &amp; &lt;script&gt;"),
        ("**not closed", "**not closed"),
    ],
)
def test_each_mark_has_its_form(markdown: str, html: str) -> None:
    assert render(markdown) == html
    read_html(html)


@pytest.mark.parametrize(
    "markdown",
    [
        pytest.param("```\n```", id="nothing-to-be-seen"),
        pytest.param("> " * 70 + "deep", id="nested-deeper-than-is-read"),
        pytest.param("|a|b|\n|-|-|\n" + f"|{'x' * 30}|y|\n|1|2|" + "\n|1|2|" * 300, id="grows"),
    ],
)
def test_what_cannot_be_rendered_whole_is_left_as_it_is(markdown: str) -> None:
    assert len(markdown) <= MAX_TEXT_CHARS
    assert render(markdown) is None


def test_a_message_of_the_longest_text_fits_as_it_stands() -> None:
    assert units("😀" * MAX_TEXT_CHARS) <= MAX_UNITS


LINES = ["\n", "\n\n", "# ", "> ", "- ", "1. ", "    ", "---", "---\n", "```", "```py\n", "|-|-|\n"]
SPANS = ["*", "**", "_", "~~", "`", "|", "[", "](", ")", "!", "\\", '"', "<", ">", "&", "&lt;"]
WORDS = ["word", "ü😀", " ", "</b>", "<code>", "http://a.b", "tg://user?id=1"]
MARKS = st.sampled_from([*LINES, *SPANS, *WORDS])
TEXTS = st.lists(MARKS, max_size=60).map("".join)


@given(TEXTS)
def test_tags_are_always_balanced_and_all_fits(markdown: str) -> None:
    html = render(markdown)

    if html is not None:
        assert read_html(html) == visible(html)
        assert units(visible(html)) <= MAX_UNITS


@given(TEXTS.filter(lambda text: not any(mark in text for mark in ("```", '"'))))
def test_no_word_is_lost(markdown: str) -> None:
    html = render(markdown)

    if html is not None:
        # Those that are left out stood behind a fence or in the title of a link.
        addresses = "".join(re.findall('href="([^"]*)"', html))
        assert (visible(html) + addresses).count("word") >= markdown.count("word")


@given(TEXTS)
def test_no_person_is_addressed_by_a_link(markdown: str) -> None:
    html = render(markdown) or ""

    addresses = re.findall('href="([^"]*)"', html)
    assert all(re.match("https?://", one, re.IGNORECASE) for one in addresses)
