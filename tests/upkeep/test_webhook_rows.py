"""Check, salvage and erasing of events for webhooks: what nobody staged is posted to nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.clock import FakeClock
from gateway.retention.erasing import erase
from gateway.upkeep.backup import back_up
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from gateway.webhooks import rows
from tests.support.state import create_all, entry, key_of, open_state
from tests.support.upkeep import change, found, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path

AT = "2026-01-01T00:00:00.000000Z"
KEY = key_of("ann")
BODY = f'{{"type": "session.reset", "timestamp": "{AT}", "data": {{"session_key": "{KEY}"}}}}'


def insert(
    event_id: str,
    *,
    kind: str = "session.reset",
    body: str = BODY,
    due_at: str = AT,
    attempts: int = 0,
    dead_at: str = "NULL",
    key: str = KEY,
) -> str:
    return (
        "INSERT INTO webhook_events (event_id, webhook, type, session_key, body, created_at, "  # noqa: S608 - values of the test
        f"due_at, attempts, dead_at) VALUES ('{event_id}', 'ops', '{kind}', '{key}', '{body}', "
        f"'{AT}', '{due_at}', {attempts}, {dead_at})"
    )


GOOD = (insert("msg_1"), insert("msg_2", attempts=10, dead_at=f"'{AT}'"))
BAD = (
    insert(""),
    insert("a b"),
    insert("msg_3", kind="nonsense"),
    insert("msg_4", body="{"),
    insert("msg_5", body='{"type": "session.reset"}'),
    insert("msg_6", due_at="then"),
    insert("msg_7", attempts=-1),
    insert("msg_8", dead_at="'x'"),
    insert("msg_9", key="agent:main:http::dm:other::"),
)


async def test_events_that_are_whole_are_kept(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, *GOOD)
    report = check_store(path)

    made = await salvaged(path, tmp_path / "new")
    back_up(path, tmp_path / "copy", FakeClock())

    assert "events for webhooks: 2, 1 of them dead letters" in found(report, Level.OK)
    assert made.complete
    assert made.rows["webhook_events"] == 2
    for folder in ("new", "copy"):
        async with open_state(tmp_path / folder) as state:
            counts = await state.database.read(rows.counts)
        assert counts == {"ops": rows.Counts(1, 1, AT)}


async def test_events_that_mean_nothing_are_told_and_given_up(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, *GOOD, *BAD)
    report = check_store(path)

    made = await salvaged(path, tmp_path / "new")

    (wrong,) = [text for text in found(report, Level.WRONG) if text.startswith("events for ")]
    assert wrong.startswith("events for webhooks: 9 events for webhooks cannot be read: ")
    assert {loss.place: loss.count for loss in made.given_up} == {"gateway.db: webhook_events": 9}
    assert made.rows["webhook_events"] == 2


async def test_erasing_a_session_takes_its_events(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [entry("ann"), entry("bob")])
        other = insert("msg_3", key=key_of("bob"))
        for statement in (*GOOD, other):
            await state.database.write(lambda tx, sql=statement: tx.execute(sql))  # type: ignore[misc]
        await state.store.remove(KEY)
        await erase(state.database, state.store, KEY)
        left = await state.database.read(
            lambda conn: conn.execute("SELECT event_id FROM webhook_events").fetchall()
        )

    assert left == [("msg_3",)]
