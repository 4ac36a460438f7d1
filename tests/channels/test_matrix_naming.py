"""What on Matrix names us, and what the agent is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.channels.matrix.inbound import Where, inbound_of
from gateway.channels.matrix.naming import Called, answered_id, heard
from gateway.commands.parsing import parse
from gateway.model import Change, Inbound

ANN = "@ann:matrix.test"
US = Called("@gateway:matrix.test", "The Bot (v2)")
TO = "https://matrix.to/#"
CLUB = Where("work", US.user_id, "!room", "plans", direct=False, names={})
DIRECT = Where("work", US.user_id, "!room", "plans", direct=True, names={})


def event(body: str, **content: object) -> dict[str, Any]:
    made = {"msgtype": "m.text", "body": body, **content}
    return {"event_id": "$1", "type": "m.room.message", "sender": ANN, "content": made}


def read(said: dict[str, Any], where: Where = CLUB) -> Inbound:
    inbound = inbound_of(said, where, None)
    assert inbound is not None
    return heard(inbound, said, US)


def mentions(*users: object) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": list(users)}}


def link(to: str, label: str = "The Bot (v2)") -> dict[str, Any]:
    html = f'<a href="{to}">{label}</a>: hi <a href="https://x.test">x</a>'
    return {"format": "org.matrix.custom.html", "formatted_body": html}


MENTION = mentions(US.user_id) | link(f"{TO}/{US.user_id}")


@pytest.mark.parametrize(
    ("body", "more", "text"),
    [
        pytest.param("hi there", mentions(ANN, US.user_id), "hi there", id="by-its-own-word"),
        pytest.param("The Bot (v2) hi", MENTION, "hi", id="by-its-word-and-a-link"),
        pytest.param(
            "gateway is slow", mentions(US.user_id), "gateway is slow", id="what-answers-us"
        ),
        pytest.param("the bot (v2): hi", {}, "hi", id="by-name"),
        pytest.param("@The Bot (v2) hi", {}, "hi", id="by-marked-name"),
        pytest.param("gateway, hi", mentions(), "hi", id="by-the-short-id"),
        pytest.param("@gateway hi", {}, "hi", id="by-the-marked-short-id"),
        pytest.param(f"{US.user_id} hi", {}, "hi", id="by-the-id"),
        pytest.param(f" {US.user_id}:\nhi\n", {}, "hi\n", id="by-the-id-and-a-colon"),
        pytest.param("gateway:", {}, "gateway:", id="by-the-name-alone"),
        pytest.param("so, X: hi", link(f"{TO}/{US.user_id}"), "so, X: hi", id="by-a-link"),
        pytest.param("X: hi", link(f"{TO}/%40gateway%3Amatrix.test"), "X: hi", id="encoded"),
        pytest.param("X: hi", link(f"{TO}/{US.user_id}?via=x"), "X: hi", id="with-a-server"),
        pytest.param("X: hi", link("matrix:u/gateway:matrix.test"), "X: hi", id="by-a-new-link"),
        pytest.param("/new", {}, "/new", id="a-command"),
        pytest.param("/new@gateway", {}, "/new@gateway", id="a-command-to-us"),
    ],
)
def test_in_a_room_of_several_these_name_us(body: str, more: dict[str, Any], text: str) -> None:
    inbound = read(event(body, **more))

    assert (inbound.named, inbound.text) == (True, text)


QUOTING = {
    "formatted_body": f'<mx-reply><a href="{TO}/!r/$0">In reply to</a> <a href="{TO}/{ANN}">A</a>'
    f'<br><a href="{TO}/{US.user_id}">The Bot</a>: hi</mx-reply>me too'
}


@pytest.mark.parametrize(
    ("body", "more"),
    [
        pytest.param("hello", {}, id="nobody"),
        pytest.param("hello", mentions(ANN), id="somebody-else"),
        pytest.param("hello", {"m.mentions": {"room": True}}, id="the-whole-room"),
        pytest.param("hello", {"m.mentions": {"user_ids": US.user_id}}, id="no-list"),
        pytest.param("hello", {"m.mentions": None, "formatted_body": 7}, id="nonsense"),
        pytest.param("gateway is slow today", {}, id="what-is-said-of-us"),
        pytest.param("I asked gateway: no", {}, id="not-first"),
        pytest.param("@gateway:other.test hi", {}, id="elsewhere"),
        pytest.param("@gateways hi", {}, id="like-us"),
        pytest.param("The Bot X(v2): hi", {}, id="like-our-name"),
        pytest.param("X: hi", link(f"{TO}/@gateway:other.test"), id="a-link-to-another"),
        pytest.param("X: hi", link(f"{TO}/{US.user_id}.org"), id="a-link-to-one-like-us"),
        pytest.param("X: hi", link(f"{TO}/!room:matrix.test"), id="a-link-to-a-room"),
        pytest.param("X: hi", link(f"{TO}/{US.user_id}") | mentions(), id="a-link-that-is-quoted"),
        pytest.param("me too", QUOTING, id="an-answer-that-quotes"),
        pytest.param("/new@other", {}, id="a-command-to-another"),
        pytest.param("/new", {"msgtype": "m.emote"}, id="no-command"),
    ],
)
def test_these_do_not(body: str, more: dict[str, Any]) -> None:
    inbound = read(event(body, **more))

    assert (inbound.named, inbound.text) == (False, body)


def test_in_a_direct_chat_nobody_needs_to_name_us() -> None:
    assert read(event("hello"), DIRECT).named
    assert read(event("gateway: /new"), DIRECT).text == "/new"


def test_a_command_behind_our_name_is_one() -> None:
    assert parse(read(event("The Bot (v2) /new", **MENTION))) is not None


def test_without_a_name_of_ours_the_id_is_one() -> None:
    said = event("gateway: hi")
    inbound = inbound_of(said, CLUB, None)

    assert inbound is not None
    assert heard(inbound, said, Called(US.user_id)).text == "hi"
    assert not heard(inbound, event(": hi"), Called("@other:matrix.test")).named


def test_a_change_counts_by_the_message_that_it_is_of() -> None:
    new = {"msgtype": "m.text", "body": "The Bot (v2) two", **MENTION}
    relation = {"rel_type": "m.replace", "event_id": "$0"}
    edit = read(event("* two", **{"m.new_content": new, "m.relates_to": relation}))
    bare = {"m.new_content": {"msgtype": "m.text", "body": "three"}, "m.relates_to": relation}
    retraction = read(event("") | {"type": "m.room.redaction", "redacts": "$0"})

    assert (edit.change, edit.named, edit.text) == (Change.EDITED, True, "two")
    assert read(event("* three", **bare)).named
    assert (retraction.change, retraction.named) == (Change.RETRACTED, True)


THREAD = {"rel_type": "m.thread", "event_id": "$root"}
ANSWER = {"m.in_reply_to": {"event_id": "$0"}}


@pytest.mark.parametrize(
    ("relation", "answered"),
    [
        pytest.param(ANSWER, "$0", id="answer"),
        pytest.param(THREAD | ANSWER, "$0", id="answer-in-a-thread"),
        pytest.param(THREAD | ANSWER | {"is_falling_back": True}, "$root", id="in-a-thread"),
        pytest.param(THREAD, "$root", id="in-a-thread-by-a-new-client"),
        pytest.param({"rel_type": "m.annotation", "event_id": "$0"}, "", id="neither"),
        pytest.param({"m.in_reply_to": {"event_id": 7}}, "", id="nonsense"),
        pytest.param({}, "", id="nothing"),
    ],
)
def test_a_message_answers_one_or_the_one_that_its_thread_is_about(
    relation: dict[str, Any], answered: str
) -> None:
    assert answered_id(event("hi", **{"m.relates_to": relation})) == answered
