"""What every rendering of Markdown keeps to, whatever the text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.channels.markdown import plain_where_it_fails
from gateway.channels.matrix import markup as matrix_markup
from gateway.channels.telegram import markup as telegram_markup

if TYPE_CHECKING:
    from collections.abc import Callable

RENDERINGS = [
    pytest.param(matrix_markup.render, id="matrix"),
    pytest.param(telegram_markup.render, id="telegram"),
]


@pytest.mark.parametrize("render", RENDERINGS)
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        pytest.param("*a ", " a*", id="emphasis"),
        pytest.param("**a ", " a**", id="strong"),
        pytest.param("~~a ", " a~~", id="strikethrough"),
    ],
)
def test_what_is_nested_too_deep_is_shown_as_it_stands(
    render: Callable[[str], str | None], opening: str, closing: str
) -> None:
    for depth in (60, 270):
        marked = f"{opening * depth}x{closing * depth}"

        assert render(marked) is None
        assert render(f"![{marked}](https://example.org/a.png)") is None
    assert render(f"{opening * 20}x{closing * 20}") is not None


@pytest.mark.parametrize("render", RENDERINGS)
def test_where_brackets_are_very_many_none_makes_a_link(
    render: Callable[[str], str | None],
) -> None:
    """Looking for where each ends would take a second."""
    few, many = ("[a](https://x.org) " * 10, "[" * 491 + "[a](https://x.org) " * 10)

    assert "<a " in (render(f"{few}**b**") or "")
    html = render(f"{many}**b**") or ""
    assert "[a](https://x.org)" in html
    assert "<a " not in html
    assert "b</" in html


HEAD = "| a | b |\n|---|---|\n"
IRREGULAR = [
    pytest.param(f"{HEAD}| 1 | 2 | three |", ["| 1 | 2 | three |"], id="more-than-the-head-has"),
    pytest.param(f"{HEAD}| `x|y` | two |", ["`x|y`", "two"], id="a-bar-in-code"),
    pytest.param(f"| a | `x|y` |\n|---|---|---|\n{'| 1 ' * 4}|", ["| 1 | 1 | 1 | 1 |"], id="head"),
    pytest.param(f"> {HEAD.replace(chr(10), chr(10) + '> ')}1|2|three", ["1|2|three"], id="quoted"),
    pytest.param(f"- x\n\n  {HEAD}  1|2|three".replace("\n|", "\n  |"), ["1|2|three"], id="item"),
]


@pytest.mark.parametrize("render", RENDERINGS)
@pytest.mark.parametrize(("table", "kept"), IRREGULAR)
def test_a_table_that_cannot_show_all_is_text(
    render: Callable[[str], str | None], table: str, kept: list[str]
) -> None:
    html = render(f"**before**\n\n{table}\n\n{HEAD}| last | one |")

    assert html is not None
    text = re.sub(r"</?code>", "`", html)
    for words in kept:
        assert words in text
    # The other table is one.
    assert "| last | one |" not in text


CELLS = st.lists(st.sampled_from(["|", "word", "`a|b`", r"\|", " ", "\n", "-", "*"]), max_size=30)


@pytest.mark.parametrize("render", RENDERINGS)
@given(CELLS.map("".join))
def test_no_word_of_a_table_is_lost(render: Callable[[str], str | None], rows: str) -> None:
    html = render(f"|col|col|\n|-|-|\n{rows}")

    if html is not None:
        shown = re.sub("<[^>]*>", "", html)
        assert shown.count("word") == rows.count("word")
        assert shown.count("a") == rows.count("a")
        assert shown.count("col") == 2


@pytest.mark.parametrize("render", RENDERINGS)
def test_cells_with_nothing_in_them_make_no_table_irregular(
    render: Callable[[str], str | None],
) -> None:
    html = render(f"{HEAD}| 1 | 2 | |\n| 3 |\n| x\\|y | `z\\|w` |")

    assert html is not None
    assert "---|" not in html
    assert "x|y" in html
    assert "z|w" in html


@pytest.mark.parametrize("render", RENDERINGS)
def test_after_many_tables_that_are_text_all_are(render: Callable[[str], str | None]) -> None:
    """Each is read to its end before it is seen that it is none: a thousand would take seconds."""
    irregular, regular = f"{HEAD}| 1 | 2 | 3 |\n\n", f"{HEAD}| last | one |"

    assert "| last | one |" not in (render(irregular * 3 + regular) or "")
    assert "| last | one |" in (render(irregular * 20 + regular) or "")


def test_a_rendering_that_fails_leaves_the_text_as_it_stands() -> None:
    @plain_where_it_fails
    def render(markdown: str) -> str:
        raise ValueError(markdown)

    with capture_logs() as logs:
        assert render("a private text") is None

    assert logs == [
        {"event": "markdown.not_rendered", "kind": "ValueError", "log_level": "warning"}
    ]
