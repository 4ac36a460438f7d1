"""What every rendering of Markdown keeps to, whatever the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gateway.channels import matrix_markup, telegram_markup
from gateway.channels.markdown import plain_where_it_fails

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


def test_a_rendering_that_fails_leaves_the_text_as_it_stands() -> None:
    @plain_where_it_fails
    def render(markdown: str) -> str:
        raise ValueError(markdown)

    with capture_logs() as logs:
        assert render("a private text") is None

    assert logs == [
        {"event": "markdown.not_rendered", "kind": "ValueError", "log_level": "warning"}
    ]
