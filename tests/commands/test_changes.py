"""What people do to messages of theirs that wait: they read otherwise, or are taken back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from gateway.access.settings import AccessSettings, PlatformAccess
from gateway.errors import StorageFullError
from gateway.model import Attachment, AttachmentKind, Change, ChatType, Inbound
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox_rows import OutboxState
from gateway.turns.settings import TurnSettings
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.commands import DoorBench, open_door, source_of
from tests.support.turns import Gate, PlayedAgent, full_disk

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.channels.base import Receipt
    from gateway.model import SessionSource

ANN = source_of(platform="bridge", account="one", chat_id="ann", user_id="7")
EVERYBODY = AccessSettings(platforms={"bridge": PlatformAccess(allow_users=["*"])})


async def send(bench: DoorBench, text: str, message_id: str, source: SessionSource = ANN) -> None:
    assert (await bench.door.receive(Inbound(source, text, message_id))).accepted


async def edit(
    bench: DoorBench, text: str, message_id: str, source: SessionSource = ANN, **more: object
) -> Receipt:
    inbound = Inbound(source, text, message_id, change=Change.EDITED)
    return await bench.door.receive(replace(inbound, **more))  # type: ignore[arg-type]


async def retract(bench: DoorBench, message_id: str, source: SessionSource = ANN) -> Receipt:
    return await bench.door.receive(Inbound(source, "", message_id, change=Change.RETRACTED))


async def ended(bench: DoorBench) -> None:
    with anyio.fail_after(30):
        while await bench.turns.unfinished() or bench.turns.turns.statistics().running:
            await anyio.lowlevel.checkpoint()


async def replies(bench: DoorBench) -> list[tuple[str, str]]:
    """Return what is owed to the channel: the message that is answered, and the text."""
    rows = await bench.turns.state.database.read(
        lambda db: outbox_rows.page(db, OutboxState.OWED, limit=100)
    )
    return [(row.reply_to, row.text) for row in rows]


async def transcript(bench: DoorBench) -> list[str]:
    (key,) = {row.session_key for row in await owed_rows(bench)}
    entry = bench.turns.state.store.get(key)
    assert entry is not None
    return [text for _, text in await bench.turns.said(entry.session_id)]


async def owed_rows(bench: DoorBench) -> list[outbox_rows.OutboxRow]:
    return await bench.turns.state.database.read(
        lambda db: outbox_rows.page(db, OutboxState.OWED, limit=100)
    )


async def test_a_message_that_waits_is_answered_as_it_reads_in_the_end(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        await send(bench, "two", "m2")

        assert (await edit(bench, "second", "m2")).accepted
        assert (await edit(bench, "2", "m2")).accepted
        stored = [row.text for row in await bench.turns.unfinished()]
        gate.open("one", "2")
        await ended(bench)

        assert stored == ["one", "2"]
        assert gate.began == ["one", "2"]
        assert await replies(bench) == [("m1", "re: one"), ("m2", "re: 2")]


async def test_an_edit_of_a_message_that_is_being_or_was_answered_changes_nothing(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        running = await edit(bench, "other", "m1")
        gate.open("one")
        await ended(bench)
        answered = await edit(bench, "other", "m1")
        unknown = await edit(bench, "other", "m9")

        assert not any(one.accepted or one.text for one in (running, answered, unknown))
        assert gate.began == ["one"]
        assert await replies(bench) == [("m1", "re: one")]


async def test_a_message_that_is_taken_back_before_its_turn_leaves_nothing(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        await send(bench, "a secret", "m2")
        await send(bench, "three", "m3")

        assert (await retract(bench, "m2")).accepted
        assert not (await edit(bench, "again", "m2")).accepted
        gate.open("one", "three")
        await ended(bench)

        assert gate.began == ["one", "three"]
        assert [text for _, text in await replies(bench)] == ["re: one", "", "re: three"]
        assert await transcript(bench) == ["one", "re: one", "three", "re: three"]
        assert not (await retract(bench, "m1")).accepted
        # The platform hands it over once more: it stays taken back.
        await send(bench, "a secret", "m2")
        assert gate.began == ["one", "three"]


@pytest.mark.parametrize("change", ["edited", "retracted"])
async def test_what_was_changed_is_so_after_a_crash(tmp_path: Path, change: str) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        await send(bench, "two", "m2")
        if change == "edited":
            await edit(bench, "2", "m2")
        else:
            await retract(bench, "m2")
        bench.turns.turns.stop()

    gate = Gate()
    gate.open("one", "2", "two")
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await ended(bench)

    assert gate.began == (["one", "2"] if change == "edited" else ["one"])
    report = await anyio.to_thread.run_sync(check_store, tmp_path / "s")
    assert {finding.level for finding in report.findings} <= {Level.OK, Level.WARNING}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(ANN, user_id="8"), id="user"),
        pytest.param(replace(ANN, chat_id="bob"), id="chat"),
        pytest.param(replace(ANN, account="two"), id="account"),
    ],
)
async def test_nobody_else_changes_a_message(tmp_path: Path, other: SessionSource) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        await send(bench, "two", "m2")

        assert not (await edit(bench, "mine", "m2", other)).accepted
        assert not (await retract(bench, "m2", other)).accepted
        assert [row.text for row in await bench.turns.unfinished()] == ["one", "two"]


async def test_a_stranger_changes_nothing_and_is_given_no_code(tmp_path: Path) -> None:
    async with open_door(tmp_path / "s") as bench:
        receipts = [await edit(bench, "hello", "m1"), await retract(bench, "m1")]

        assert not any(one.accepted or one.text for one in receipts)
        assert bench.access.statistics().strangers == {}
        assert bench.access.pairing.statistics().pending == 0


async def test_an_edit_is_no_command_and_no_answer(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        await send(bench, "two", "m2")
        assert (await edit(bench, "/stop", "m2")).accepted
        gate.open("one", "/stop")
        await ended(bench)

        assert gate.began == ["one", "/stop"]
        assert bench.door.counts == {}


async def test_an_edit_that_cannot_be_stored_comes_again(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        await send(bench, "two", "m2")
        async with full_disk(bench.turns.state.database):
            with pytest.raises(StorageFullError):
                await edit(bench, "x" * 90_000, "m2")
        gate.open("one", "two")
        await ended(bench)

        assert gate.began == ["one", "two"]


async def test_edits_count_against_the_rates(tmp_path: Path) -> None:
    gate, settings = Gate(), TurnSettings(messages_per_minute=3)
    async with open_door(
        tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY, settings=settings
    ) as bench:
        await send(bench, "one", "m1")
        await gate.reached("one")
        await send(bench, "two", "m2")

        assert [(await edit(bench, f"2{n}", "m2")).accepted for n in range(2)] == [True, False]
        assert (await retract(bench, "m2")).accepted


CAT = Attachment(AttachmentKind.IMAGE, "image/png", "cat.png", 12_345)


async def test_the_turn_is_told_what_came_beside_the_text(tmp_path: Path) -> None:
    gate = Gate()
    line = '[image: "cat.png", image/png, 12.3 kB; not fetched]'
    gate.open("look", line, f"look\n\n{line}")
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        for number, text in enumerate(("look", "")):
            inbound = Inbound(ANN, text, f"m{number}", attachments=(CAT,))
            assert (await bench.door.receive(inbound)).accepted
        await ended(bench)

        assert gate.began == [f"look\n\n{line}", line]


async def test_a_caption_is_no_command(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await bench.door.receive(Inbound(ANN, "/stop", "m1", attachments=(CAT,)))
        with anyio.fail_after(30):
            while not gate.began:
                await anyio.lowlevel.checkpoint()

        assert gate.began[0].startswith("/stop\n\n[image")
        assert bench.door.counts == {}


async def test_in_a_group_of_one_session_only_the_sender_takes_a_message_back(
    tmp_path: Path,
) -> None:
    gate = Gate()
    group = replace(ANN, chat_type=ChatType.GROUP, thread_id="t")
    async with open_door(tmp_path / "s", PlayedAgent(gate.play), access=EVERYBODY) as bench:
        await send(bench, "one", "m1", group)
        await gate.reached("one")
        await send(bench, "two", "m2", group)

        assert not (await retract(bench, "m2", replace(group, user_id="8"))).accepted
        assert (await retract(bench, "m2", group)).accepted
