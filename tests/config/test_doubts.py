"""Entries that do nothing or never match: told with their place, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from gateway.config import GatewayConfig, load
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS: Final = (
    '[channels.bot]\nkind = "telegram"\ntoken = { env = "A" }\n'
    '[channels.work]\nkind = "matrix"\ntoken = { env = "B" }\nhomeserver = "https://example.org"\n'
    '[channels.bridge]\nkind = "loopback"\n'
)
"""Nine lines."""
IDENTITY: Final = "[[sessions.identities]]\nname = 'anna'\nmembers = "
ROUTE: Final = '[[routes]]\nagent = "main"\n'


def loaded(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "g.toml"
    path.write_text(CHANNELS + text)
    return [one.replace(f"{path}:", "") for one in load(path, {}, {}).doubts]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "[access.platforms.telegram]\nallow_users = ['*', '@ann']",
            '11: access.platforms.telegram.allow_users[1]: "@ann" is no user id of telegram, '
            "accepted is a number such as 12345, not a name",
            id="telegram-user",
        ),
        pytest.param(
            "[access.platforms.'telegram/bot']\nallow_chats = ['-100123', '@news']",
            '11: access.platforms."telegram/bot".allow_chats[1]: "@news" is no chat id of '
            "telegram, accepted is a number such as -100123, not a name",
            id="telegram-chat",
        ),
        pytest.param(
            "[access.platforms.matrix]\nallow_users = ['anna']",
            '11: access.platforms.matrix.allow_users[0]: "anna" is no user id of matrix, accepted '
            "is one such as @anna:example.org",
            id="matrix-user",
        ),
        pytest.param(
            "[access.platforms.matrix]\nallow_chats = ['#news:example.org']",
            '11: access.platforms.matrix.allow_chats[0]: "#news:example.org" is no chat id of '
            "matrix, accepted is one such as !room:example.org, not an alias",
            id="matrix-room",
        ),
        pytest.param(
            "[access]\nadmins = ['http:me', 'matrix:@anna']",
            '11: access.admins[1]: "@anna" is no user id of matrix, accepted is one such as '
            "@anna:example.org",
            id="admin",
        ),
        pytest.param(
            f"{IDENTITY}['telegram/bot/7', 'matrix/work/@anna-3']",
            '12: sessions.identities[0].members[1]: "@anna-3" is no user id of matrix, accepted '
            "is one such as @anna:example.org",
            id="member",
        ),
        pytest.param(
            f"{ROUTE}account = 'bot'\nuser_id = 'ann'",
            '13: routes[0].user_id: "ann" is no user id of telegram, accepted is a number such as '
            "12345, not a name",
            id="route-by-account",
        ),
        pytest.param(
            f"{ROUTE}platform = 'matrix'\nchat_id = 'news'",
            '13: routes[0].chat_id: "news" is no chat id of matrix, accepted is one such as '
            "!room:example.org, not an alias",
            id="route-by-platform",
        ),
    ],
)
def test_an_id_that_can_never_match_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text)

    assert [one.partition("g.toml:")[2] for one in caught.value.problems] == [problem]


def test_ids_of_values_from_a_program_are_judged_as_well() -> None:
    tables = {"telegram": {"allow_users": ["@ann"]}}

    with pytest.raises(ConfigurationError, match=r"allow_users\[0\]: \"@ann\" is no user id"):
        GatewayConfig.from_dict({"access": {"platforms": tables}})


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        pytest.param(
            "[access]\nadmins = ['telegram:7', 'telegarm:7']",
            '11: access.admins[1]: there is no channel of "telegarm", so this does nothing',
            id="admin",
        ),
        pytest.param(
            f"{IDENTITY}['telegram/bot/7']",
            "12: sessions.identities[0].members: names one member, who is linked to nobody by it",
            id="lone-member",
        ),
        pytest.param(
            f"{ROUTE}platform = 'telegram'\nchat_type = 'dm'\n"
            f"{ROUTE}platform = 'telegram'\nchat_type = 'dm'",
            "14: routes[1]: routes[0] matches all of this before, so this does nothing",
            id="one-match-twice",
        ),
        pytest.param(
            f"{ROUTE}account = 'bridge'\n"
            f"{ROUTE}account = 'bot'\n"
            f"{ROUTE}platform = 'telegram'\naccount = 'bot'\nuser_id = '7'",
            "16: routes[2]: routes[1] matches all of this before, so this does nothing",
            id="a-wider-one-before",
        ),
    ],
)
def test_an_entry_that_does_nothing_is_a_warning(tmp_path: Path, text: str, doubt: str) -> None:
    assert loaded(tmp_path, text) == [doubt]


@pytest.mark.parametrize("account", ["['bot']", "{ a = 1 }", "1"])
def test_an_account_that_is_no_name_is_told_as_that(tmp_path: Path, account: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, f"{ROUTE}account = {account}\nuser_id = '@ann'\n")

    (problem,) = caught.value.problems
    assert "routes[0].account" in problem


def test_entries_that_do_something_are_neither(tmp_path: Path) -> None:
    text = (
        "[access]\nadmins = ['telegram:7', 'http:me', 'loopback:@ann', 'matrix:@a:b.org']\n"
        "[access.platforms.telegram]\nallow_users = ['7', '*']\nallow_chats = ['-100123', '5']\n"
        "[access.platforms.matrix]\nallow_users = ['@a:b.org']\n"
        "allow_chats = ['!r:b.org', '!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM']\n"
        "[access.platforms.loopback]\nallow_users = ['@ann']\nallow_chats = ['news']\n"
        f"{IDENTITY}['telegram/bot/7', 'matrix/work/@a:b.org']\n"
        f"{ROUTE}platform = 'telegram'\nuser_id = '7'\n"
        f"{ROUTE}platform = 'telegram'\nchat_id = '-7'\n"
        f"{ROUTE}account = 'bridge'\nchat_id = 'news'\n"
        f"{ROUTE}user_id = 'ann'\n"
        f"{ROUTE}platform = 'telegram'\n"
    )

    assert loaded(tmp_path, text) == []
