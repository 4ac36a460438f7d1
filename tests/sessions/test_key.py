"""Laws of session keys."""

from __future__ import annotations

import re
import unicodedata
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequestError
from gateway.model import AgentId, ChatType, SessionSource, clean_text
from gateway.sessions.key import (
    MAX_PART_CHARS,
    SESSION_ID,
    encode_part,
    new_session_id,
    parse_key,
    session_key,
)
from gateway.sessions.settings import SessionSettings
from tests.support.state import START

AGENT = AgentId("main")
# Small on purpose: what could be confused with an escape, a separator or a hash tail.
TRICKY = st.text(alphabet="a:~%/4F1\0é́ß\ud83d\ude00😀 .", max_size=6)
LONG = st.builds(lambda text, times: text * times, TRICKY, st.sampled_from([30, 31, 200]))
PARTS = st.one_of(TRICKY, LONG, st.text(st.characters(codec=None), max_size=20))
SOURCES = st.builds(
    SessionSource,
    platform=PARTS,
    chat_id=PARTS,
    chat_type=st.sampled_from(ChatType),
    account=PARTS,
    thread_id=PARTS,
    user_id=PARTS,
    user_name=PARTS,
    chat_name=PARTS,
)
POLICIES = st.builds(SessionSettings, share_groups=st.booleans(), share_threads=st.booleans())


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", clean_text(text))


def _identity(source: SessionSource, agent: str, policy: SessionSettings) -> tuple[str, ...]:
    """Who talks where, as the architecture says it, written without a look at the key."""
    chat, user = source.chat_id, source.user_id
    in_thread = source.chat_type is ChatType.THREAD or source.thread_id != ""
    if source.chat_type is ChatType.DM:
        chat, user = chat or user, ""
    elif (in_thread and policy.share_threads) or (not in_thread and policy.share_groups):
        user = ""
    parts = (agent, source.platform, source.account, source.chat_type, chat, source.thread_id, user)
    return tuple(map(_normal, parts))


@given(SOURCES, SOURCES, PARTS, PARTS, POLICIES)
def test_two_sources_share_a_key_exactly_if_they_are_one_identity(
    one: SessionSource, other: SessionSource, agent: str, agent2: str, policy: SessionSettings
) -> None:
    keys = session_key(one, AgentId(agent), policy), session_key(other, AgentId(agent2), policy)

    same = _identity(one, agent, policy) == _identity(other, agent2, policy)
    assert (keys[0] == keys[1]) is same


@given(PARTS, PARTS)
def test_two_parts_are_written_alike_exactly_if_they_are_the_same_text(one: str, two: str) -> None:
    assert (encode_part(one) == encode_part(two)) is (_normal(one) == _normal(two))


@given(SOURCES, POLICIES)
def test_a_key_parses_back_to_its_identity(source: SessionSource, policy: SessionSettings) -> None:
    parts = parse_key(session_key(source, AGENT, policy))

    said = (parts.agent, parts.platform, parts.account, parts.chat_type, parts.chat)
    for part, wanted in zip(
        (*said, parts.thread, parts.user), _identity(source, AGENT, policy), strict=True
    ):
        assert part == (encode_part(wanted) if "~~" in encode_part(wanted) else wanted)


@given(SOURCES, POLICIES)
def test_a_key_needs_no_escaping_and_has_a_bounded_length(
    source: SessionSource, policy: SessionSettings
) -> None:
    key = session_key(source, AGENT, policy)

    assert re.fullmatch(r"[A-Za-z0-9_.~:-]+", key)
    assert key.count(":") == 7
    assert all(len(part) <= MAX_PART_CHARS for part in key.split(":"))


@given(SOURCES, POLICIES)
def test_names_are_no_part_of_a_key(source: SessionSource, policy: SessionSettings) -> None:
    bare = SessionSource(
        platform=source.platform,
        chat_id=source.chat_id,
        chat_type=source.chat_type,
        account=source.account,
        thread_id=source.thread_id,
        user_id=source.user_id,
    )

    assert session_key(source, AGENT, policy) == session_key(bare, AGENT, policy)


@pytest.mark.parametrize(
    ("chat_type", "thread_id", "policy", "ending"),
    [
        pytest.param(ChatType.DM, "", {}, "dm:c::", id="a direct chat goes by chat"),
        pytest.param(ChatType.GROUP, "", {}, "group:c::u", id="a group goes by user"),
        pytest.param(ChatType.CHANNEL, "", {}, "channel:c::u", id="a channel goes by user"),
        pytest.param(ChatType.GROUP, "", {"share_groups": True}, "group:c::", id="shared group"),
        pytest.param(
            ChatType.CHANNEL, "", {"share_groups": True}, "channel:c::", id="shared channel"
        ),
        pytest.param(ChatType.GROUP, "t", {}, "group:c:t:", id="a thread of a group is shared"),
        pytest.param(ChatType.THREAD, "t", {}, "thread:c:t:", id="a thread is shared"),
        pytest.param(
            ChatType.THREAD, "t", {"share_threads": False}, "thread:c:t:u", id="thread by user"
        ),
        pytest.param(
            ChatType.GROUP,
            "t",
            {"share_threads": False, "share_groups": True},
            "group:c:t:u",
            id="in a thread only share_threads counts",
        ),
    ],
)
def test_the_policy_says_who_shares_a_session(
    chat_type: ChatType, thread_id: str, policy: dict[str, bool], ending: str
) -> None:
    source = SessionSource("http", "c", chat_type, thread_id=thread_id, user_id="u")

    assert (
        session_key(source, AGENT, SessionSettings.model_validate(policy))
        == f"agent:main:http::{ending}"
    )


def test_a_direct_chat_without_a_chat_goes_by_user() -> None:
    source = SessionSource("http", "", user_id="u")

    assert session_key(source, AGENT, SessionSettings()) == "agent:main:http::dm:u::"


@pytest.mark.parametrize("thread_id", ["", "t"])
def test_a_direct_chat_in_a_room_goes_by_user_too(thread_id: str) -> None:
    source = SessionSource("matrix", "c", account="a", thread_id=thread_id, user_id="u")

    key = session_key(source, AGENT, SessionSettings())
    assert key == f"agent:main:matrix:a:dm:c:{thread_id}:u"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "agent",
        "agent:main:http::dm:c:",
        "agent:main:http::dm:c:::",
        "user:main:http::dm:c::",
        "agent:main:http::dm:c d::",
        "agent:main:http::dm:~4::",
        "agent:main:http::dm:~zz::",
        "agent:main:http::dm:é::",
        "agent:main:http::dm:c::\n",
        "agent:main:http::dm:~~0123::",
        "agent:main:http::letter:c::",
        "agent:main:http:::c::",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="not a session key"):
        parse_key(text)


def test_session_ids_differ_sort_by_time_and_have_their_form() -> None:
    ids = [new_session_id(START + timedelta(seconds=n)) for n in range(100)]

    assert ids == sorted(ids)
    assert len({new_session_id(START) for _ in range(100)}) == 100
    assert all(SESSION_ID.fullmatch(one) for one in ids)
