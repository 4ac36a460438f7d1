"""Laws of giving back: out of the grace, out of a file, and what is refused with which reason."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from gateway.errors import BadRequestError, NotFoundError
from gateway.pruning.items import marks_of
from gateway.retention.restoring import (
    AWAY,
    BEFORE,
    CHANGED,
    ERASED,
    GONE,
    PAGE,
    TAKEN,
    UNREADABLE,
    Restorable,
    restore,
)
from gateway.transcripts.items import ORIGINAL, item_id
from tests.support.kept import KEEP, Store, disagreements, store

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.retention.restoring import Restored

COLUMNS = ", ".join(ORIGINAL)


async def _row(one: Store, item: int) -> dict[str, Any]:
    ((*values,),) = await one.rows(f"SELECT {COLUMNS} FROM messages WHERE position = ?", item)  # noqa: S608 - names of ours
    return dict(zip(ORIGINAL, values, strict=True))


def _given(restored: Restored) -> list[int]:
    return [int(one.item_id) for one in restored.items]


def _reasons(restored: Restored) -> dict[int, str]:
    return {int(one.item_id): one.reason for one in restored.refused}


@pytest.mark.parametrize(
    "days", [0, 6.9, 7, 300], ids=["at once", "held", "archived", "much later"]
)
@pytest.mark.parametrize("action", ["delete", "archive"])
async def test_a_row_comes_back_as_it_was_at_its_place_with_a_version_of_its_own(
    tmp_path: Path, action: str, days: float
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 5)
        await one.run("UPDATE messages SET images = '[]', tool_name = 'look' WHERE position = 2")
        before = await _row(one, said[1])
        await one.take(said[1], said[3], action=action)
        one.later(days)
        await one.sweep()

        restored = await one.give_back(said[1])

        if action == "delete" and days >= 7:
            assert _reasons(restored) == {said[1]: GONE}
            assert said[1] not in await one.present()
            return
        assert _given(restored) == [said[1]]
        assert restored.session_ids == {"s"}
        (file,) = one.files() if days >= 7 else [None]
        assert [(item.action, item.archive) for item in restored.items] == [
            (action, file.name if file else None)
        ]
        after = await _row(one, said[1])
        assert list(orjson.loads(after["marks"])) == ["restored_at"]
        assert after == {**before, "version": 2, "marks": after["marks"]}
        item = (await one.items.find([item_id(said[1])]))[item_id(said[1])]
        assert marks_of(item).restored_at == one.clock.now()
        assert (await one.states())[said[3]] == ("archived" if file else "held")
    assert disagreements(one.path, one.texts, swept=True) == []


@pytest.mark.parametrize("action", ["compact", "summarize"])
async def test_a_shortened_item_has_its_text_again(tmp_path: Path, action: str) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 3)
        before = await _row(one, said[0])
        await one.take(said[0], action=action)
        assert (await _row(one, said[0]))["text"].startswith(action)

        restored = await one.give_back(said[0])

        assert _given(restored) == [said[0]]
        after = await _row(one, said[0])
        assert (after["text"], after["version"]) == (before["text"], 3)
        assert await one.states() == {said[0]: "restored"}
        assert await one.rows("SELECT * FROM pruned_originals") == []
    assert disagreements(one.path, one.texts) == []


async def test_all_of_a_run_comes_back_and_nothing_of_another(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("a", 130) + await one.say("b", 10)
        await one.take(*said[0:120:2], action="delete", run="first")
        await one.take(*said[1:120:2], action="archive", run="first")
        await one.take(*said[130:134], action="delete", run="second")

        restored = await one.give_back(run="first")

        assert _given(restored) == said[:120]
        assert restored.refused == ()
        assert await one.present() == [*said[:130], *said[134:]]
        again = await one.give_back(run="first")
        assert (again.items, again.refused) == ((), ())
        assert _reasons(await one.give_back(*said[:120])) == dict.fromkeys(said[:120], BEFORE)
    assert disagreements(one.path, one.texts) == []


async def test_a_run_of_which_some_is_archived_in_several_files_comes_back_whole(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state", max_content_bytes=1) as one:
        said = await one.say("s", 301, chars=4_000)
        await one.take(*said[:150], action="archive", run="r")
        one.later(7)
        await one.sweep()
        await one.take(*said[150:300], action="archive", run="r")
        assert len(one.files()) > 1

        restored = await one.give_back(run="r")

        assert _given(restored) == said[:300]
        assert await one.present() == said
        assert {item.archive for item in restored.items} == {None, *(f.name for f in one.files())}
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_what_was_done_to_a_session_time_after_time_is_undone_from_the_last_on(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 4)
        texts = [(await _row(one, item))["text"] for item in said]
        await one.take(said[0], action="summarize")
        await one.take(said[0], said[1], action="compact")
        await one.take(said[0], action="archive")

        restored = await one.give_back(session="s")

        assert _given(restored) == said[:2]
        assert restored.refused == ()
        assert [(await _row(one, item))["text"] for item in said] == texts
        assert {state for _, state in await one.rows("SELECT item, state FROM pruned_items")} == {
            "restored"
        }
    assert disagreements(one.path, one.texts) == []


async def test_an_item_that_was_changed_since_is_not_overwritten(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 4)
        await one.take(said[0], said[1], action="compact")
        await one.run("UPDATE messages SET version = version + 1 WHERE position = ?", said[0])
        await one.take(said[1], action="delete", run="later")

        restored = await one.give_back(run="run")

        assert _reasons(restored) == {said[0]: CHANGED, said[1]: AWAY}
        assert (await _row(one, said[0]))["text"].startswith("compact")
        assert [row[0] for row in await one.rows("SELECT state FROM pruned_items")] == ["held"] * 3


async def test_each_refusal_has_its_reason(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 6) + await one.say("erased", 2) + await one.say("last")
        await one.take(*said[:5], said[6], action="delete")
        await one.give_back(said[0])
        await one.run("UPDATE pruned_items SET state = 'purged' WHERE item = ?", said[1])
        await one.run(
            f"INSERT INTO messages ({COLUMNS}) SELECT ?, session_id, turn_id, role, text, "  # noqa: S608 - names of ours
            "tool_calls, tool_call_id, tool_name, created_at, images, version, marks "
            "FROM messages WHERE position = ?",
            said[2],
            said[0],
        )
        of_item = "entry = (SELECT position FROM pruned_items WHERE item = ?)"
        await one.run(f"UPDATE pruned_originals SET original = x'7b' WHERE {of_item}", said[3])  # noqa: S608 - a text of ours
        await one.run(
            "UPDATE pruned_originals "  # noqa: S608 - a text of ours
            f"SET original = CAST(json_set(original, '$.text', 7) AS BLOB) WHERE {of_item}",
            said[4],
        )
        await one.run("DELETE FROM sessions WHERE session_id = 'erased'")

        restored = await one.give_back(*said[:5], said[6])

    assert restored.items == ()
    assert _reasons(restored) == {
        said[0]: BEFORE,
        said[1]: GONE,
        said[2]: TAKEN,
        said[3]: UNREADABLE,
        said[4]: UNREADABLE,
        said[6]: ERASED,
    }


async def test_what_nobody_took_is_not_found(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 3)
        await one.take(said[0])

        with pytest.raises(NotFoundError, match="item 000000000002"):
            await one.give_back(said[0], said[1])
        assert (await one.give_back(run="other")).items == ()
        assert await one.states() == {said[0]: "held"}
        assert (await one.give_back(session="other")).items == ()


@pytest.mark.parametrize(
    "which",
    [
        Restorable(),
        Restorable(items=["1"], run="run"),
        Restorable(run="run", sessions=["s"]),
        Restorable(items=["no number"]),
        Restorable(items=["-1"]),
    ],
)
async def test_one_thing_is_asked_for(tmp_path: Path, which: Restorable) -> None:
    async with store(tmp_path / "state") as one:
        with pytest.raises(BadRequestError, match="accepted is"):
            await restore(one.archives, one.clock, which)


async def test_an_item_that_came_back_can_be_taken_again_and_comes_back_again(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state", keep=replace(KEEP, audit_s=None)) as one:
        said = await one.say("s", 2)
        for number in range(1, 4):
            await one.take(said[0], action="archive", run=f"run-{number}")
            one.later(7)
            await one.sweep()
            assert _given(await one.give_back(said[0])) == [said[0]]
            assert (await _row(one, said[0]))["version"] == number + 1
            assert disagreements(one.path, one.texts, live=True) == []
        assert len(one.files()) == 3
        one.later(365)
        await one.sweep()
        assert one.files() == []
        assert await one.present() == said
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_of_an_item_that_came_back_once_its_damaged_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 2)
        await one.take(said[0], action="archive", run="first")
        await one.give_back(said[0])
        await one.take(said[0], action="archive", run="second")
        one.later(7)
        await one.sweep()
        (file,) = one.files()
        file.write_bytes(b"?" + file.read_bytes()[1:])
        capsys.readouterr()

        told = await one.give_back(said[0])

        (refused,) = told.refused
        assert told.items == ()
        assert file.name in refused.reason
        assert "items.damaged" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["delete", "archive"])
async def test_of_a_session_with_a_long_past_all_that_can_be_given_back_comes_back(
    tmp_path: Path, action: str
) -> None:
    async with store(tmp_path / "state", keep=replace(KEEP, audit_s=None)) as one:
        said = await one.say("s", 2 * PAGE + 3)
        await one.take(*said[:-1], action=action)
        one.later(7 if action == "archive" else 1)
        await one.sweep()
        await one.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO pruned_items (run_id, item, session_id, action, state, at, record) "
            "SELECT 'r', i + 1000000, 's', 'delete', "
            "CASE i % 2 WHEN 0 THEN 'purged' ELSE 'restored' END, '2026', '{}' FROM n",
            3 * PAGE,
        )

        restored = await one.give_back(session="s")

        assert _given(restored) == said[:-1]
        assert restored.refused == ()
        assert await one.present() == said
        again = await one.give_back(session="s")
        assert (again.items, again.refused) == ((), ())


async def test_of_a_run_what_does_not_fit_any_more_is_refused(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 4)
        await one.take(said[0], said[1], said[2], action="compact")
        await one.give_back(said[0])
        await one.run("UPDATE messages SET version = version + 1 WHERE position = ?", said[1])

        restored = await one.give_back(run="run")

        assert _given(restored) == [said[2]]
        assert _reasons(restored) == {said[1]: CHANGED}
