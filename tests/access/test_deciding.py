"""Who may talk and command what: every kind of sender in every kind of place."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.access.deciding import (
    CommandScope,
    Standing,
    commands_allowed,
    may_command,
    reception,
    standing,
)
from gateway.access.settings import OPEN_PLATFORMS, AccessSettings, Unknown, usable_id
from gateway.model import AgentId, ChatType, Inbound, SessionSource
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings
from tests.access.people import ANN, in_group, settings, somebody

ADMIN, ALLOWED, STRANGER = Standing.ADMIN, Standing.ALLOWED, Standing.STRANGER
DM, GROUP, CHANNEL, THREAD = ChatType
RULES = settings(
    admins=["telegram:root"],
    telegram={"allow_users": ["listed"], "allow_chats": ["open"]},
)
WHERE_ALL_MAY: dict[tuple[str, str], Standing] = {
    ("root", "open"): ADMIN,
    ("root", "closed"): ADMIN,
    ("listed", "open"): ALLOWED,
    ("listed", "closed"): ALLOWED,
    ("paired", "open"): ALLOWED,
    ("paired", "closed"): STRANGER,
    ("unknown", "open"): ALLOWED,
    ("unknown", "closed"): STRANGER,
    ("", "open"): ALLOWED,
    ("", "closed"): STRANGER,
}
"""What senders are in a group, a channel or a thread of a chat."""
DIRECT: dict[str, Standing] = {
    "root": ADMIN,
    "listed": ALLOWED,
    "paired": ALLOWED,
    "unknown": STRANGER,
    "": STRANGER,
}


def written(user: str, chat: str, surface: ChatType) -> SessionSource:
    thread = "7" if surface is THREAD else ""
    return replace(ANN, user_id=user, chat_id=chat, chat_type=surface, thread_id=thread)


def of(user: str, chat: str, surface: ChatType) -> Standing:
    return standing(written(user, chat, surface), RULES, is_paired=user in {"paired", ""})


@pytest.mark.parametrize("surface", [GROUP, CHANNEL, THREAD])
@pytest.mark.parametrize(("user", "chat"), WHERE_ALL_MAY)
def test_what_a_sender_is_among_others(user: str, chat: str, surface: ChatType) -> None:
    assert of(user, chat, surface) is WHERE_ALL_MAY[user, chat]


@pytest.mark.parametrize("chat", ["open", "closed"])
@pytest.mark.parametrize("user", DIRECT)
def test_what_a_sender_is_in_a_direct_chat(user: str, chat: str) -> None:
    # A direct chat whose id stands among the groups is no group.
    assert of(user, chat, DM) is DIRECT[user]


@pytest.mark.parametrize("scope", CommandScope)
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "forwarded"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
@pytest.mark.parametrize("surface", ChatType)
@pytest.mark.parametrize("chat", ["open", "closed"])
@pytest.mark.parametrize("user", DIRECT)
def test_every_command_by_every_sender_everywhere(
    user: str, chat: str, surface: ChatType, *, shared: bool, typed: bool, scope: CommandScope
) -> None:
    source = written(user, chat, surface)
    what = of(user, chat, surface)
    inbound = Inbound(source, "/new", typed=typed)

    may = commands_allowed(inbound, what) and may_command(what, surface, scope)

    talks = (DIRECT[user] if surface is DM else WHERE_ALL_MAY[user, chat]) is not STRANGER
    if scope is CommandScope.ANY:
        assert may == (typed and user == "root" and surface is DM)
    else:
        assert may == (typed and talks and user != "")

    policy = SessionSettings(share_groups=shared, share_threads=shared)
    keys = {
        session_key(one, AgentId("main"), policy)
        for one in (source, replace(source, user_id="else"))
    }
    # What is "own" is the session that the sender's messages go to, be it shared with others.
    assert len(keys) == (1 if shared or surface is DM else 2)


def test_a_stranger_commands_nothing() -> None:
    for surface, scope in itertools.product(ChatType, CommandScope):
        assert not may_command(STRANGER, surface, scope)
        assert not commands_allowed(Inbound(written("x", "x", surface), "/new"), STRANGER)


@pytest.mark.parametrize("platform", ["http", "loopback"])
@pytest.mark.parametrize("surface", ChatType)
@pytest.mark.parametrize("user", ["", "ann"])
def test_where_the_way_in_is_guarded_everybody_may_talk_and_command(
    platform: str, surface: ChatType, user: str
) -> None:
    source = replace(written(user, "chat", surface), platform=platform)

    assert standing(source, AccessSettings(), is_paired=False) is ALLOWED
    assert commands_allowed(Inbound(source, "/new"), ALLOWED)


@pytest.mark.parametrize("user", ["a\0b", "\ufffd", "x" * 513])
def test_an_id_that_is_none_is_not_the_absence_of_one(user: str) -> None:
    source = replace(somebody(), platform="http", user_id=user)

    assert standing(source, AccessSettings(), is_paired=False) is STRANGER
    assert not commands_allowed(Inbound(source, "/new"), ALLOWED)


def test_http_can_be_narrowed() -> None:
    rules = settings(http={"allow_users": ["ann"]})
    ann, bob = (replace(somebody(name), platform="http") for name in ("ann", "bob"))

    assert standing(ann, rules, is_paired=False) is ALLOWED
    assert standing(bob, rules, is_paired=False) is STRANGER
    assert standing(replace(ann, user_id=""), rules, is_paired=False) is STRANGER
    assert reception(bob, rules) is Unknown.REFUSE


@pytest.mark.parametrize("surface", ChatType)
def test_everybody_has_an_id_where_the_way_in_is_not_guarded(surface: ChatType) -> None:
    rules = settings(telegram={"allow_users": ["*"]})

    assert standing(written("anybody", "c", surface), rules, is_paired=False) is ALLOWED
    assert standing(written("*", "c", surface), rules, is_paired=False) is ALLOWED
    assert standing(written("", "c", surface), rules, is_paired=True) is STRANGER


@pytest.mark.parametrize(
    ("table", "becomes"),
    [
        (None, Unknown.PAIR),
        ({}, Unknown.PAIR),
        ({"allow_chats": ["-1"]}, Unknown.PAIR),
        ({"allow_users": ["1"]}, Unknown.IGNORE),
        ({"allow_users": ["1"], "unknown": "pair"}, Unknown.PAIR),
        ({"unknown": "refuse"}, Unknown.REFUSE),
        ({"unknown": "ignore"}, Unknown.IGNORE),
    ],
)
def test_what_becomes_of_a_stranger(table: dict[str, object] | None, becomes: Unknown) -> None:
    rules = settings() if table is None else settings(telegram=table)
    others = (GROUP, CHANNEL, THREAD)

    assert reception(somebody("9"), rules) is becomes
    assert {reception(written("9", "c", place), rules) for place in others} == {Unknown.IGNORE}


def test_whoever_has_no_id_is_not_paired() -> None:
    assert reception(replace(ANN, user_id=""), AccessSettings()) is Unknown.IGNORE
    assert reception(replace(ANN, user_id="\0"), AccessSettings()) is Unknown.IGNORE


def test_a_list_of_another_account_or_platform_says_nothing() -> None:
    rules = settings(**{"telegram/bot": {"allow_users": ["1"]}})

    assert standing(somebody("1", account="bot"), rules, is_paired=False) is ALLOWED
    assert standing(somebody("1", account="other"), rules, is_paired=False) is STRANGER
    assert standing(somebody("1"), rules, is_paired=False) is STRANGER
    assert (
        standing(replace(ANN, platform="matrix", account="bot"), rules, is_paired=False) is STRANGER
    )


NO_IDS = {"null", "none", "undefined", "*"}
IDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"]), min_size=1).filter(
    lambda text: text == text.strip() and usable_id(text) and text.lower() not in NO_IDS
)
CONFUSABLES = [
    *(("a", "\u0430"), ("I", "l"), ("K", "k"), ("1", "\uff11"), ("ss", "\u00df"), ("1", "1 ")),
    *(
        ("123", "23"),
        ("23", "123"),
        ("ann", "ann\u200b"),
        ("ann", "ANN"),
        ("\u2460", "1"),
        ("a", "*"),
    ),
]


@given(st.sampled_from(CONFUSABLES) | st.tuples(IDS, st.text()))
@example(("caf\u00e9", "cafe\u0301"))
def test_a_list_entry_matches_one_user(pair: tuple[str, str]) -> None:
    listed, user = pair
    same = unicodedata.normalize("NFC", listed) == unicodedata.normalize("NFC", user)
    assume(usable_id(listed))
    rules = settings(
        admins=[f"matrix:{listed}"],
        telegram={"allow_users": [listed], "allow_chats": [listed]},
    )
    by_user = standing(replace(ANN, user_id=user), rules, is_paired=False)
    by_chat = standing(in_group("", user), rules, is_paired=False)
    by_admin = standing(replace(ANN, user_id=user, platform="matrix"), rules, is_paired=False)

    assert (by_user is ALLOWED) == same
    assert (by_chat is ALLOWED) == same
    assert (by_admin is ADMIN) == same


@given(
    st.lists(IDS),
    st.sampled_from(ChatType),
    st.text(max_size=3),
    st.sampled_from(["", " ", "\0", "\u2028", "\ud800"]),
)
def test_an_empty_id_matches_no_list(
    listed: list[str], surface: ChatType, platform: str, empty: str
) -> None:
    assume(platform not in OPEN_PLATFORMS)
    rules = settings(
        admins=[f"telegram:{one}" for one in listed],
        telegram={"allow_users": [*listed, "*"], "allow_chats": listed},
    )
    for where in (platform, "telegram"):
        source = SessionSource(where, empty, surface, user_id=empty)
        assert standing(source, rules, is_paired=True) is STRANGER
