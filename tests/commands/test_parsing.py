"""What is a command, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.parsing import SPECS, Name, Typed, help_text, parse
from gateway.model import Inbound, SessionSource

BOT = "my_bot"
KEY = "agent:main:http::dm:bob::"


def _parse(text: str, bot_name: str = BOT) -> Typed | None:
    return parse(Inbound(SessionSource("chat", "c"), text, bot_name=bot_name))


def test_a_platform_without_a_name_for_us_takes_no_command_with_one() -> None:
    assert _parse("/new@my_bot", "") is None
    assert _parse("/new", "") == Typed(Name.NEW, "", "")


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/new", Typed(Name.NEW, "", "")),
        ("/reset", Typed(Name.NEW, "", "")),
        ("  /STOP  ", Typed(Name.STOP, "", "")),
        ("/status@My_Bot", Typed(Name.STATUS, "", "")),
        ("/resume\tabcd", Typed(Name.RESUME, "abcd", "")),
        (f"/status {KEY}", Typed(Name.STATUS, "", KEY)),
        (f"/resume abcd {KEY}", Typed(Name.RESUME, "abcd", KEY)),
        ("/resume abcd", Typed(Name.RESUME, "abcd", "")),
        ("/new and more", Typed(Name.NEW, "and more", "")),
        ("/stop\nat once", Typed(Name.STOP, "at once", "")),
        (f"/bg echo {KEY}", Typed(Name.BG, f"echo {KEY}", "")),
        ("/bg cat <<E\n  a\nE", Typed(Name.BG, "cat <<E\n  a\nE", "")),
    ],
)
def test_commands(text: str, command: Typed) -> None:
    assert _parse(text) == command


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/ new",
        "//new",
        "new",
        "please /new",
        "> /new",
        "/newer",
        "/new@other_bot",
        "/etc/hosts is wrong",
        "/yes 4711",
        "\n/\nnew",
        "\u200b/new",
        "\uff0fnew",
        "`/new`",
    ],
)
def test_what_is_no_command(text: str) -> None:
    assert _parse(text) is None


@given(st.text())
def test_no_text_is_too_odd_to_be_looked_at(text: str) -> None:
    typed = _parse(text)

    assert (typed is not None) <= text.strip().startswith("/")


def test_help_tells_every_command_there_is() -> None:
    everything = help_text(admin=True, starts=True, lists=True)

    assert all(f"/{name} " in everything for name in SPECS)
    assert set(SPECS) == set(Name)
    plain = help_text(admin=False, starts=False, lists=False)
    assert "KEY" not in plain
    assert "/bg" not in plain
    assert "/stop" in plain
