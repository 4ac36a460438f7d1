"""Rooms of which something is still to be read on Matrix: no other waits for them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import orjson
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.channels.matrix.api import PAGE
from gateway.channels.matrix.behind import AT_ONCE, TRIES
from gateway.channels.matrix.gap import MAX_MISSED
from gateway.channels.matrix.rooms import WELCOME_MS
from gateway.clock import FakeClock
from gateway.errors import StorageBusyError
from gateway.model import ChatType
from tests.support import synapse
from tests.support.matrix import PATIENCE_S, Meeting, Run, channel_of
from tests.support.matrix import running as running_at
from tests.support.played_matrix import (
    ANN,
    BOT,
    BUSY,
    ROOM,
    PlayedHomeserver,
    event,
    running,
    said,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.channels.base import Receipt
    from gateway.model import Inbound

FAILS = (500, {"errcode": "M_UNKNOWN"})
OTHER = "!other"


class Pausing(FakeClock):
    """Counts the pauses that begin; nobody waits for anything else on it."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses = 0
        self._begun = anyio.Event()

    @override
    async def sleep(self, duration_s: float) -> None:
        self.pauses += 1
        self._begun.set()
        self._begun = anyio.Event()
        await super().sleep(duration_s)

    async def end_pause(self, number: int, duration_s: float = 5) -> None:
        """Let the pause of a number end, once it has begun."""
        with anyio.fail_after(PATIENCE_S):
            while self.pauses < number:
                await self._begun.wait()
        await self.advance(duration_s)


@asynccontextmanager
async def waiting(tmp_path: Path, server: PlayedHomeserver) -> AsyncGenerator[Run]:
    """Run a channel whose pauses end as its clock is advanced, once it has read the room."""
    run = channel_of(tmp_path, server.url, BOT, clock=Pausing(), answer_in_groups="all")
    async with server.serving(), anyio.create_task_group() as tasks:
        tasks.start_soon(run.run)
        with anyio.fail_after(PATIENCE_S):
            await run.reached.wait()
        server.push(said("s1", event(0)))
        await run.until(lambda: run.received)
        run.received.clear()
        yield run
        tasks.cancel_scope.cancel()


def gap(place: str, *events: object, room: str = ROOM, members: int | None = 2) -> Any:  # noqa: ANN401 - as `said`
    return said(place, *events, room=room, members=members, limited=True, prev_batch=f"p-{place}")


def together(syncs: list[Any]) -> Any:  # noqa: ANN401 - as `said`
    """Return one sync that tells of the rooms of several."""
    rooms = {name: one for _, body in syncs for name, one in body["rooms"]["join"].items()}
    return 200, {**syncs[-1][1], "rooms": {"join": rooms}}


def page(*events: object, **more: object) -> tuple[int, object]:
    return 200, {"chunk": [*reversed(events)], **more}


def moved(number: int, who: str, to: str, **more: object) -> dict[str, Any]:
    content = {"membership": to}
    return event(number, type="m.room.member", state_key=who, sender=who, content=content) | more


def unread_in(run: Run, room: str = ROOM) -> object:
    return orjson.loads(run.place.read_bytes())["rooms"][room]["unread_since"]


async def caught_up(run: Run, room: str = ROOM) -> None:
    """Wait until it is stored that a room is read as far as all are."""
    with anyio.fail_after(PATIENCE_S):
        while unread_in(run, room) is not None:
            await anyio.lowlevel.checkpoint()


async def until_logged(logs: list[Any], name: str) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE_S):
        while not (found := [one for one in logs if one["event"] == name]):
            await anyio.lowlevel.checkpoint()
    first: dict[str, Any] = found[0]
    return first


@pytest.mark.parametrize("answer", ["fails", "busy", "never"])
async def test_a_room_whose_history_cannot_be_read_stops_no_other(
    tmp_path: Path, answer: str
) -> None:
    server = PlayedHomeserver(BOT)
    if answer == "never":
        server.hangs = {"messages"}
    server.answers["messages"] = [FAILS if answer == "fails" else (429, BUSY)] * TRIES
    async with waiting(tmp_path, server) as run:
        server.push(gap("s2", event(2)), said("s3", event(3), room=OTHER))
        await run.until(lambda: run.received)
        server.push(said("s4", event(4), room=OTHER))
        await run.until(lambda: len(run.received) == 2)
        await run.stored()

    assert run.texts == ["text 3", "text 4"]
    assert run.lost == ""
    assert unread_in(run) == "s1"


async def test_what_waits_behind_a_gap_comes_after_it_in_its_order(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    # The second page fails once the first one was read: that is asked for no more.
    server.answers["messages"] = [FAILS, page(event(3), end="p"), FAILS, page(event(2))]
    async with waiting(tmp_path, server) as run:
        server.push(gap("s2", event(4)), said("s3", event(5)), gap("s4", event(7)))
        server.push(said("s5", room=OTHER))
        await server.until_asked("sync", 7)
        server.answers["messages"].append(page(event(6)))
        assert isinstance(run.clock, Pausing)
        for number in (1, 2):
            await run.clock.end_pause(number)
        await run.until(lambda: len(run.received) == 6)
        server.push(said("s6", event(8)))
        await run.until(lambda: len(run.received) == 7)
        await caught_up(run)

    assert run.texts == [f"text {number}" for number in range(2, 9)]
    asked = [(one["from"], one["to"]) for word, one in server.asked if word == "messages"]
    assert asked == [("p-s2", "s1")] * 2 + [("p", "s1")] * 2 + [("p-s4", "s3")]


async def test_a_gap_that_is_not_to_be_read_is_given_up_and_told(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["messages"] = [page(event(3), end="p"), *[FAILS] * TRIES]
    with capture_logs() as logs:
        async with running(tmp_path, server) as run:
            server.push(said("s1", event(0)), gap("s2", event(4)), said("s3", event(5)))
            await run.until(lambda: len(run.received) == 4)
            await caught_up(run)

    assert run.texts == ["text 0", "text 3", "text 4", "text 5"]
    (told,) = [one for one in logs if one["event"] == "matrix.gap_not_filled"]
    assert (told["reason"], told["events"]) == ("500 M_UNKNOWN", 1)
    assert server.times("messages") == 1 + TRIES


async def test_a_gap_is_never_given_up_because_the_homeserver_is_busy(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["messages"] = [(429, BUSY)] * (2 * TRIES) + [page(event(3))]
    with capture_logs() as logs:
        async with running(tmp_path, server) as run:
            server.push(said("s1", event(0)), gap("s2", event(4)), said("s3", event(5)))
            await run.until(lambda: len(run.received) == 4)

    assert run.texts == ["text 0", "text 3", "text 4", "text 5"]
    assert "matrix.gap_not_filled" not in [one["event"] for one in logs]


async def test_of_many_rooms_that_are_behind_few_are_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, read = PlayedHomeserver(BOT), list[int]()
    rooms = [f"!{number}" for number in range(5 * AT_ONCE)]
    server.answers["messages"] = [page(event(1)) for _ in rooms]
    receive = Run.receive

    async def noted(run: Run, inbound: Inbound) -> Receipt:
        read.append(server.times("messages"))
        return await receive(run, inbound)

    monkeypatch.setattr(Run, "receive", noted)
    async with running(tmp_path, server) as run:
        known = [said("s1", room=room) for room in rooms]
        gaps = [gap("s2", event(2), room=room) for room in rooms]
        server.push(together(known), together(gaps))
        await run.until(lambda: len(run.received) == 2 * len(rooms))

    # Two messages a room: so many rooms are done when one more is asked for.
    assert all(asked <= number // 2 + AT_ONCE for number, asked in enumerate(read))


async def test_after_an_end_amid_it_all_of_the_room_is_read_again(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.hangs = {"messages"}
    async with waiting(tmp_path, server) as run:
        server.push(gap("s2", event(3)), said("s3", event(4)), said("s4", event(9), room=OTHER))
        await run.until(lambda: run.received)
        await run.stored()
    later = PlayedHomeserver(BOT)
    later.answers["messages"] = [page(event(2), event(3), event(4))]
    later.push(said("s5", event(5)))
    async with running(tmp_path, later) as again:
        await again.until(lambda: len(again.received) == 4)
        await caught_up(again)

    assert again.texts == [f"text {number}" for number in range(2, 6)]
    asked = [(one["from"], one["to"]) for word, one in later.asked if word == "messages"]
    assert asked == [("s4", "s1")]


async def test_the_place_of_a_room_moves_only_past_what_is_stored(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["messages"] = [page(event(2))]
    async with waiting(tmp_path, server) as run:
        run.receipts = [StorageBusyError()]
        server.push(gap("s2", event(3)))
        await run.until(lambda: not run.receipts)
        server.push(said("s3", event(9), room=OTHER))
        await run.until(lambda: run.received)
        await run.stored()

    assert run.texts == ["text 9"]
    assert unread_in(run) == "s1"


async def test_too_much_that_waits_is_not_held_but_read_again(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["messages"] = [FAILS]
    held = MAX_MISSED // PAGE
    async with waiting(tmp_path, server) as run:
        server.push(gap("s2", event(1)))
        for sync in range(held + 2):
            told = (event(1_000 * sync + number) for number in range(10, 10 + PAGE))
            server.push(said(f"t{sync}", *told))
        server.push(said("u", event(9), room=OTHER))
        await run.until(lambda: run.received)
        server.answers["messages"] += [page(), page(event(2), event(3))]
        assert isinstance(run.clock, Pausing)
        await run.clock.end_pause(1)
        await run.until(lambda: len(run.received) == 4 + PAGE)

    last = 1_000 * (held + 1) + 10
    texts = [f"text {number}" for number in (9, 1, 2, 3, *range(last, last + PAGE))]
    assert run.texts == texts
    asked = [(one["from"], one["to"]) for word, one in server.asked if word == "messages"]
    assert asked == [("p-s2", "s1")] * 2 + [(f"t{held}", "s2")]


async def test_a_room_that_we_are_in_no_more_is_waited_for_no_more(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["messages"] = [FAILS]
    left = (200, {"next_batch": "s3", "rooms": {"leave": {ROOM: {}}}})
    async with waiting(tmp_path, server) as run:
        server.push(gap("s2", event(2)), left, said("s4", event(4)))
        await run.until(lambda: run.received)
        assert isinstance(run.clock, FakeClock)
        await run.clock.advance(10)
        server.push(said("s5", event(5)))
        await run.until(lambda: len(run.received) == 2)

    assert run.texts == ["text 4", "text 5"]
    assert server.times("messages") == 1


async def test_an_answered_message_that_cannot_be_had_now_stops_no_other(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    content = {"msgtype": "m.text", "body": "and?"}
    answer = {**content, "m.relates_to": {"m.in_reply_to": {"event_id": "$of-old"}}}
    with capture_logs() as logs:
        async with running(tmp_path, server) as run:
            server.answers["event"] = [FAILS] * (1 + TRIES)
            server.push(said("s1", event(1, content=answer), event(2), members=3))
            await run.until(lambda: run.received)

    told = await until_logged(logs, "matrix.event_passed_over")
    assert (told["room_id"], told["reason"]) == (ROOM, "500 M_UNKNOWN")
    assert run.texts == ["text 2"]


async def test_a_gap_is_filled_up_to_a_bound_which_is_told(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    pages = [[event(5_000 - 50 * page - one) for one in range(50)] for page in range(30)]
    server.answers["messages"] = [
        (200, {"chunk": page, "end": f"t{number}"}) for number, page in enumerate(pages)
    ]
    with capture_logs() as logs:
        async with running(tmp_path, server) as run:
            server.push(said("s1", event(0)), gap("s2", event(5_001, "new")))
            await run.until(lambda: "new" in run.texts)

    missed = [f"text {5_000 - one}" for one in reversed(range(MAX_MISSED))]
    assert run.texts == ["text 0", *missed, "new"]
    (told,) = [one for one in logs if one["event"] == "matrix.gap_not_filled"]
    assert (told["events"], told["log_level"]) == (MAX_MISSED, "warning")
    assert {asked["to"] for word, asked in server.asked if word == "messages"} == {"s1"}


async def test_a_gap_that_we_may_not_read_is_passed_over(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["messages"] = [(403, {"errcode": "M_FORBIDDEN"})]
    with capture_logs() as logs:
        async with running(tmp_path, server) as run:
            server.push(gap("s1", event(1)))
            await run.until(lambda: run.received)

    assert [one["reason"] for one in logs if one["event"] == "matrix.gap_not_filled"] == [
        "403 M_FORBIDDEN"
    ]


async def test_who_came_in_a_gap_that_is_not_filled_is_counted(tmp_path: Path) -> None:
    """What was said in the direct chat before is not what a room of three goes on with."""
    server = PlayedHomeserver(BOT)
    server.answers["messages"] = [(403, {"errcode": "M_FORBIDDEN"})]
    async with running(tmp_path, server) as run:
        server.push(said("s1", event(1)), gap("s2", event(3), members=3))
        await run.until(lambda: len(run.received) == 2)

    assert [one.source.chat_type for one in run.received] == [ChatType.DM, ChatType.GROUP]


@pytest.mark.parametrize("known", [True, False])
async def test_how_many_are_in_a_room_counts_from_when_they_came(
    tmp_path: Path, *, known: bool
) -> None:
    server = PlayedHomeserver(BOT)
    async with running(tmp_path, server) as run:
        if known:
            server.push(said("s1", event(0, sender=BOT.user_id)))
        came = moved(2, "@bob:x", "join")
        server.push(said("s2", event(1), came, event(3), members=3))
        await run.until(lambda: len(run.received) == 2)

    assert [one.source.chat_type for one in run.received] == [ChatType.DM, ChatType.GROUP]


async def test_a_change_counts_for_its_message_though_somebody_has_come(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    gone = event(3, type="m.room.redaction", content={"redacts": "$1"})
    async with running(tmp_path, server) as run:
        server.push(said("s1", event(1)))
        server.push(said("s2", moved(2, "@bob:x", "join"), gone, members=3))
        await run.until(lambda: len(run.received) == 2)

    message, change = run.received
    assert (change.message_id, change.source) == (message.message_id, message.source)


def welcome(*between: object) -> tuple[list[object], dict[str, Any]]:
    """Return an invitation and what was said after it, and our joining."""
    invited = moved(1, BOT.user_id, "invite", sender=ANN)
    joined = moved(9_000, BOT.user_id, "join", unsigned={"prev_content": {"membership": "invite"}})
    return [event(0, "not for us"), invited, *between], joined


async def test_all_that_was_said_after_an_invitation_is_answered(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    before, joined = welcome(*(event(number) for number in range(2, 70)))
    server.answers["messages"] = [page(*before[20:-1], end="p"), page(*before[:20])]
    async with running(tmp_path, server) as run:
        server.push(gap("s1", before[-1], joined, event(9_001)))
        await run.until(lambda: len(run.received) == 69)

    assert run.texts == [f"text {number}" for number in (*range(2, 70), 9_001)]
    assert {one.source.chat_type for one in run.received} == {ChatType.DM}
    assert all("to" not in asked for word, asked in server.asked if word == "messages")


async def test_no_more_is_read_of_a_room_that_we_join_than_is_answered(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    joined = {**moved(9_000, BOT.user_id, "join"), "origin_server_ts": WELCOME_MS + 9_000}
    server.answers["messages"] = [page(*map(event, range(PAGE)), end="p")] * 9
    async with running(tmp_path, server) as run:
        server.push(gap("s1", joined, event(9_001)))
        await run.until(lambda: run.received)

    assert run.texts == ["text 9001"]
    assert server.times("messages") == 1


async def test_what_cannot_be_read_of_before_we_came_is_told(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    _, joined = welcome()
    server.answers["messages"] = [page(*map(event, range(PAGE)), end="p")] * 99
    with capture_logs() as logs:
        async with running(tmp_path, server) as run:
            server.push(gap("s1", joined, event(9_001)))
            await run.until(lambda: "text 9001" in run.texts)

    told = await until_logged(logs, "matrix.gap_not_filled")
    assert (told["room_id"], told["reason"]) == (ROOM, "there are too many")


async def test_a_welcome_of_many_messages_is_answered_at_a_real_homeserver(tmp_path: Path) -> None:
    server = synapse.shared()
    bot, ann = server.register("gateway"), server.client(server.register("ann"))
    room = ann.create(name="plans")
    ann.say(room, "before")
    ann.ask("POST", f"/rooms/{room}/invite", user_id=bot.user_id)
    texts = [f"{number}" for number in range(PAGE + 10)]
    for text in texts:
        ann.say(room, text)
    async with running_at(tmp_path, server.url, bot, join=["*"]) as run:
        await run.until(lambda: len(run.received) == len(texts))

    assert run.texts == texts
    assert {one.source.chat_type for one in run.received} == {ChatType.DM}


async def test_a_room_that_is_behind_at_an_end_is_read_on_at_a_real_homeserver(
    tmp_path: Path,
) -> None:
    server = synapse.shared()
    met = Meeting.at(server)
    async with running_at(tmp_path, server.url, met.bot) as run:
        begun = orjson.loads(run.place.read_bytes())["since"]
        texts = [f"{number}" for number in range(PAGE + 10)]
        for text in texts:
            met.ann.say(met.room, text)
        await run.until(lambda: len(run.received) == len(texts))
        await run.stored()
    place = orjson.loads(run.place.read_bytes())
    place["rooms"][met.room]["unread_since"] = begun
    run.place.write_bytes(orjson.dumps(place))
    met.ann.say(met.room, "last")
    async with running_at(tmp_path, server.url, met.bot) as again:
        await again.until(lambda: "last" in again.texts)
        await caught_up(again, met.room)

    assert again.texts == [*texts, "last"]
