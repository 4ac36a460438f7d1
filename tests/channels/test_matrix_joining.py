"""Invitations: none costs what somebody wrote, or stops anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import orjson
import pytest
from structlog.testing import capture_logs

from gateway.channels.matrix.api import FIRST_PAUSE_S, MAX_PAUSE_S
from gateway.channels.matrix.joining import AT_ONCE, TRIES
from gateway.channels.matrix.sync import MAX_OPEN
from tests.support.matrix import PATIENCE_S
from tests.support.played_matrix import (
    BOT,
    BUSY,
    PlayedHomeserver,
    event,
    invitation,
    running,
    said,
    slept,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ANN = "@ann:matrix.test"
AWAY = (502, b"")


def place_in(path: Path) -> dict[str, Any]:
    place: dict[str, Any] = orjson.loads(path.read_bytes())
    return place


async def logged(logs: list[Any], name: str) -> Mapping[str, Any]:
    """Wait until something is logged."""
    with anyio.fail_after(PATIENCE_S):
        while not (found := [one for one in logs if one["event"] == name]):
            await anyio.lowlevel.checkpoint()
    assert len(found) == 1
    made: Mapping[str, Any] = found[0]
    return made


async def test_a_first_start_that_ends_while_it_joins_costs_nobody_what_comes_after(
    tmp_path: Path,
) -> None:
    server = PlayedHomeserver(BOT)
    server.hangs = {"join"}
    server.push(invitation(ANN))
    async with running(tmp_path, server, join=["*"]) as run:
        await server.until_asked("join")
    begun = place_in(run.place)
    # Of the first one a sync still waits, which would be told.
    later = PlayedHomeserver(BOT)
    with capture_logs() as logs:
        async with running(tmp_path, later, join=["*"]) as again:
            await later.until_asked("join")
            later.push(said("s2", event(1, "since"), room="!other"))
            await again.until(lambda: again.received)

    assert (begun["since"], begun["invitations"]) == ("s1", {"!other": ANN})
    assert again.texts == ["since"]
    assert "matrix.begun" not in {one["event"] for one in logs}


async def test_an_invitation_that_waits_is_accepted_after_a_restart(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.hangs = {"join"}
    async with running(tmp_path, server, join=["*"]) as run:
        server.push(invitation(ANN), said("s2", event(1)))
        await run.until(lambda: run.received)
        await server.until_asked("join")
    server.hangs.clear()
    with capture_logs() as logs:
        async with running(tmp_path, server, join=["*"]) as again:
            told = await logged(logs, "matrix.joined")
            server.push(said("s3", event(2)))
            await again.until(lambda: again.received)
            await again.stored()

    assert (told["room_id"], told["inviter"]) == ("!other", ANN)
    assert place_in(run.place)["invitations"] == {}


async def test_an_invitation_of_somebody_who_is_listed_no_more_is_tried_no_more(
    tmp_path: Path,
) -> None:
    server = PlayedHomeserver(BOT)
    server.hangs = {"join"}
    async with running(tmp_path, server, join=["*"]) as run:
        server.push(invitation(ANN), said("s2", event(1)))
        await run.until(lambda: run.received)
        await server.until_asked("join")
    later = PlayedHomeserver(BOT)
    with capture_logs() as logs:
        async with running(tmp_path, later, join=["elsewhere.test"]) as again:
            told = await logged(logs, "matrix.invite_ignored")
            later.push(said("s3", event(2)))
            await again.until(lambda: again.received)
            await again.stored()

    assert (told["room_id"], told["inviter"]) == ("!other", ANN)
    assert later.times("join") == 0
    assert place_in(run.place)["invitations"] == {}


async def test_an_invitation_that_is_never_answered_stops_nobody(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.hangs = {"join"}
    async with running(tmp_path, server, join=["*"]) as run:
        server.push(invitation(ANN))
        await server.until_asked("join")
        server.push(said("s2", event(1)))
        await run.until(lambda: run.received)

    assert run.texts == ["text 1"]


@pytest.mark.parametrize(
    ("answers", "pauses"),
    [
        pytest.param([AWAY] * 3, [5, 10, 20], id="another-homeserver-is-away"),
        pytest.param([(429, BUSY)] * 2, [5, 10], id="busy"),
        pytest.param([(429, {"retry_after_ms": 60_000})], [60], id="busy-for-long"),
        pytest.param([(429, {"retry_after_ms": 1e15})], [MAX_PAUSE_S], id="busy-for-ever"),
        pytest.param([(200, b"<html>")], [5], id="cannot-be-read"),
    ],
)
async def test_a_room_that_cannot_be_joined_now_is_joined_later(
    tmp_path: Path, answers: list[tuple[int, object]], pauses: list[float]
) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["join"] = list(answers)
    with capture_logs() as logs:
        async with running(tmp_path, server, join=["*"]) as run:
            server.push(invitation(ANN))
            await logged(logs, "matrix.joined")

    assert slept(run) == pauses
    assert run.lost == ""


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        pytest.param([(403, {"errcode": "M_FORBIDDEN"})], "403 M_FORBIDDEN", id="refused"),
        pytest.param([AWAY] * TRIES, "502", id="away-for-hours"),
    ],
)
async def test_a_room_that_cannot_be_joined_at_all_is_given_up(
    tmp_path: Path, answers: list[tuple[int, object]], reason: str
) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["join"] = list(answers)
    with capture_logs() as logs:
        async with running(tmp_path, server, join=["*"]) as run:
            server.push(invitation(ANN))
            told = await logged(logs, "matrix.join_failed")
            server.push(said("s2", event(1)))
            await run.until(lambda: run.received)
            await run.stored()

    assert told["reason"] == reason
    assert server.times("join") == len(answers)
    assert sum(slept(run)) <= FIRST_PAUSE_S + TRIES * MAX_PAUSE_S
    assert place_in(run.place)["invitations"] == {}


async def test_an_invitation_that_is_taken_back_is_tried_no_more(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.hangs = {"join"}
    gone = {"next_batch": "s2", "rooms": {"leave": {"!other": {}}}}
    async with running(tmp_path, server, join=["*"]) as run:
        server.push(invitation(ANN), (200, gone), said("s3", event(1)))
        await run.until(lambda: run.received)
        await run.stored()

    assert place_in(run.place)["invitations"] == {}


async def test_many_invitations_are_bounded(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.hangs = {"join"}
    (_, one) = invitation(ANN)
    assert isinstance(one, dict)
    (room,) = one["rooms"]["invite"].values()
    invite = {f"!{number}": room for number in range(MAX_OPEN + 1)}
    with capture_logs() as logs:
        async with running(tmp_path, server, join=["*"]) as run:
            server.push((200, {"next_batch": "s1", "rooms": {"invite": invite}}))
            server.push(said("s2", event(1)))
            await run.until(lambda: run.received)
            await server.until_asked("join", AT_ONCE)
            await run.stored()

    assert len(place_in(run.place)["invitations"]) == MAX_OPEN
    assert [one["room_id"] for one in logs if one["event"] == "matrix.invite_ignored"] == [
        f"!{MAX_OPEN}"
    ]
    assert server.times("join") == AT_ONCE


async def test_an_invitation_that_names_two_inviters_needs_both_to_be_listed(
    tmp_path: Path,
) -> None:
    """Whoever invites chooses what else an invitation says."""
    server = PlayedHomeserver(BOT)
    async with running(tmp_path, server, join=["@ann:matrix.test"]) as run:
        server.push(invitation("@ann:matrix.test", "@eve:elsewhere.test"), said("s2", event(1)))
        await run.until(lambda: run.received)

    assert server.times("join") == 0
