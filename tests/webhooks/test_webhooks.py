"""What is staged and committed is posted until it is taken, or is a dead letter that is listed."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import anyio
import orjson
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.errors import ConfigurationError, ConflictError, NotFoundError, StorageFullError
from gateway.model import SessionKey
from gateway.webhooks import rows, webhooks
from gateway.webhooks.line import MAX_PARALLEL, RETRY_S, Line, WebhookState
from gateway.webhooks.rows import instant
from gateway.webhooks.settings import EventKind
from tests.support.webhooks import OTHER_SECRET, Reaction, Receiver
from tests.webhooks.running import KEY, settings_of, webhooks_on
from tests.webhooks.test_planning import SCHEDULE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.connection import Connection
    from gateway.webhooks.rows import EventRow
    from tests.support.webhooks import Post
    from tests.webhooks.running import Bench

T = TypeVar("T")
BROKEN = Reaction(500)


def numbers(receiver: Receiver) -> list[int]:
    return [post.body["data"]["number"] for post in receiver.posts]


def number_of(row: EventRow) -> int:
    return int(orjson.loads(row.body)["data"]["number"])


async def fails(bench: Bench, receiver: Receiver, times: int) -> None:
    """Wait until so many posts have failed, and are noted; a moment passes on the clock."""
    with anyio.fail_after(30):
        while (await bench.statistics()).failed < times:
            await bench.clock.advance(0.01)
    await bench.until(lambda queued, dead: sum(row.attempts for row in queued + dead) >= times)


async def test_a_committed_event_is_posted_once_and_its_row_goes(tmp_path: Path) -> None:
    receiver = Receiver()
    async with (
        receiver.serving(),
        webhooks_on(tmp_path / "s", settings_of(tmp_path, receiver.url)) as bench,
    ):
        await bench.tell(1)
        await bench.until(lambda queued, _: receiver.posts and not queued)
        told = await bench.statistics()

    (post,) = receiver.posts
    assert post.message_id.startswith("msg_")
    assert post.body == {
        "type": "turn.completed",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"session_key": KEY, "number": 1},
    }
    assert (told.delivered, told.failed, told.queued, told.state) == (1, 0, 0, "running")


async def test_what_is_not_committed_is_not_posted(tmp_path: Path) -> None:
    receiver = Receiver()
    async with (
        receiver.serving(),
        webhooks_on(tmp_path / "s", settings_of(tmp_path, receiver.url)) as bench,
    ):

        def fail(transaction: Transaction) -> None:
            bench.webhooks.stage(transaction, EventKind.TURN_COMPLETED, KEY, {"number": 0})
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await bench.state.database.write(fail)
        await bench.tell(1)
        await bench.until(lambda queued, _: receiver.posts and not queued)

    assert numbers(receiver) == [1]


async def test_everybody_gets_the_events_they_ask_for(tmp_path: Path) -> None:
    ours, theirs = Receiver(), Receiver(OTHER_SECRET)
    table = settings_of(tmp_path, ours.url, events=["session.reset"])
    other = settings_of(tmp_path, theirs.url, "two", secret=OTHER_SECRET)
    async with ours.serving(), theirs.serving(), webhooks_on(tmp_path / "s", table, other) as bench:
        for kind in EventKind:
            await bench.tell(1, kind=kind)
        await bench.until(lambda queued, _: not queued)
        wanted = [bench.webhooks.wants(kind) for kind in EventKind]

    assert ours.types == ["session.reset"]
    assert sorted(theirs.types) == sorted(EventKind)
    assert wanted == [True] * 4
    assert not set(ours.ids) & set(theirs.ids)


async def test_an_event_is_posted_by_the_schedule_under_one_id_and_then_dead(
    tmp_path: Path,
) -> None:
    receiver = Receiver()
    receiver.always = BROKEN
    async with (
        receiver.serving(),
        webhooks_on(tmp_path / "s", settings_of(tmp_path, receiver.url)) as bench,
    ):
        await bench.tell(1)
        for tries, pause_s in enumerate(SCHEDULE_S, 1):
            await fails(bench, receiver, tries)
            (row,) = await bench.rows()
            due_in_s = (instant(row.due_at) - bench.clock.now()).total_seconds()
            assert pause_s - 1 < due_in_s <= pause_s
            await bench.clock.advance(due_in_s - 0.5)
            assert len(receiver.posts) == tries
            await bench.clock.advance(0.5)
        await fails(bench, receiver, 10)
        await bench.until(lambda queued, dead: not queued and dead)
        (dead,) = await bench.dead()
        await bench.clock.advance(86_400)
        told = await bench.statistics()

    assert len(set(receiver.ids)) == 1
    assert len(receiver.posts) == 10
    assert (dead.attempts, dead.error) == (10, "given up after 10 tries: answered 500")
    assert (told.dead, told.given_up, told.failed) == (1, 1, 10)


async def test_a_dead_letter_is_sent_again_when_asked_for_with_all_its_tries(
    tmp_path: Path,
) -> None:
    receiver, clock = Receiver(), FakeClock()
    table = settings_of(tmp_path, receiver.url)
    async with webhooks_on(tmp_path / "s", table, runs=False, clock=clock) as bench:
        await bench.tell(1, 2, 3)
        kill = "UPDATE webhook_events SET dead_at = due_at, attempts = 10, error = 'x'"
        await bench.state.database.write(lambda tx: tx.execute(kill))
        first, second, _ = await bench.dead()
    receiver.reactions = [BROKEN]
    async with receiver.serving(), webhooks_on(tmp_path / "s", table, clock=clock) as bench:
        assert await bench.webhooks.retry([first.event_id, first.event_id]) == 1
        await fails(bench, receiver, 1)
        # The tries of the dead are many already.
        await bench.until(lambda queued, _: sum(row.attempts for row in queued))
        (row,) = await bench.rows()
        await bench.clock.advance(SCHEDULE_S[0] + 1)
        await bench.until(lambda queued, _: not queued)
        assert await bench.webhooks.retry_all("ops") == 2
        await bench.until(lambda queued, dead: not queued and not dead)
        for ids in (["none"], [second.event_id]):
            with pytest.raises(NotFoundError):
                await bench.webhooks.retry(ids)
        with pytest.raises(NotFoundError):
            await bench.webhooks.retry_all("none")

    assert row.attempts == 1
    assert sorted(numbers(receiver)) == [1, 1, 2, 3]


async def test_a_pause_that_the_endpoint_asks_for_is_kept(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.reactions = [Reaction(503, {"Retry-After": "100"})]
    async with (
        receiver.serving(),
        webhooks_on(tmp_path / "s", settings_of(tmp_path, receiver.url)) as bench,
    ):
        await bench.tell(1)
        await fails(bench, receiver, 1)
        await bench.clock.advance(98)
        early = len(receiver.posts)
        await bench.clock.advance(3)
        await bench.until(lambda queued, _: not queued)

    assert (early, len(receiver.posts)) == (1, 2)


async def test_an_endpoint_that_is_gone_is_left_alone_until_the_next_start(tmp_path: Path) -> None:
    receiver, clock = Receiver(), FakeClock()
    table = settings_of(tmp_path, receiver.url)
    receiver.reactions = [Reaction(410)]
    async with receiver.serving():
        async with webhooks_on(tmp_path / "s", table, clock=clock) as bench:
            await bench.tell(1)
            await fails(bench, receiver, 1)
            await bench.tell(2)
            await bench.clock.advance(90_000)
            state, waiting = (await bench.statistics()).state, len(await bench.rows())
            posted = len(receiver.posts)
        async with webhooks_on(tmp_path / "s", table, clock=clock) as bench:
            await bench.until(lambda queued, _: not queued)

    assert (state, waiting, posted) == (WebhookState.DISABLED, 2, 1)
    assert sorted(numbers(receiver)) == [1, 1, 2]
    assert len(set(receiver.ids)) == 2


@pytest.mark.parametrize("by", ["id", "webhook"])
async def test_a_retry_tries_an_endpoint_that_was_gone_which_may_be_gone_again(
    tmp_path: Path, by: str
) -> None:
    receiver = Receiver()
    table = settings_of(tmp_path, receiver.url)
    async with receiver.serving(), webhooks_on(tmp_path / "s", table) as bench:

        async def retry() -> int:
            if by == "id":
                return await bench.webhooks.retry([row.event_id for row in await bench.rows()])

            return await bench.webhooks.retry_all("ops")

        receiver.always = Reaction(410)
        await bench.tell(1)
        await fails(bench, receiver, 1)
        await bench.tell(2)
        first = await retry()
        with anyio.fail_after(30):
            while (await bench.statistics()).failed < 3:
                pass
        gone_again = (await bench.statistics()).state
        receiver.always = Reaction()
        second = await retry()
        await bench.until(lambda queued, _: not queued)
        at_last = (await bench.statistics()).state

    assert (first, second) == (2, 2)
    assert (gone_again, at_last) == (WebhookState.DISABLED, WebhookState.RUNNING)
    assert sorted(numbers(receiver)) == [1, 1, 1, 2, 2]


async def test_all_of_a_large_queue_is_posted_again_in_slices_between_which_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "SLICE", 10)
    ours = settings_of(tmp_path, Receiver().url, max_queued=85)
    theirs = settings_of(tmp_path, Receiver().url, "two", secret=OTHER_SECRET)
    changed: list[int] = []

    def note(transaction: Transaction) -> None:
        changed.append(transaction.connection.total_changes())

    async def write(bench: Bench) -> None:
        while True:
            await bench.state.database.write(note)

    async with webhooks_on(tmp_path / "s", ours, theirs, runs=False) as bench:
        await bench.tell(*range(60))
        for sql in (
            "UPDATE webhook_events SET attempts = 3, due_at = '2027', error = 'answered 500'",
            "UPDATE webhook_events SET dead_at = '2026' WHERE webhook = 'ops' AND position <= 80",
        ):
            await bench.state.database.write(lambda tx, sql=sql: tx.execute(sql))  # type: ignore[misc]
        await bench.tell(*range(60, 90))
        other = [row for row in await bench.rows() if row.webhook == "two"]
        await bench.state.database.write(note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, bench)
            retried = await bench.webhooks.retry_all("ops")
            tasks.cancel_scope.cancel()
        await bench.state.database.write(note)
        queued, dead = await bench.rows(), await bench.dead()

    ours_now = [row for row in queued if row.webhook == "ops"]
    # Of 90 there is room for 85: what waits, and the oldest of the dead.
    assert retried == len(ours_now) == 85
    assert {(row.attempts, row.due_at) for row in ours_now} == {(0, "2026-01-01T00:00:00.000000Z")}
    assert [number_of(row) for row in ours_now] == [*range(35), *range(40, 90)]
    assert [number_of(row) for row in dead] == [*range(35, 40)]
    assert [row for row in queued if row.webhook == "two"] == other
    # Two slices at most from one write of somebody else to the next.
    assert 0 < max(after - before for before, after in itertools.pairwise(changed)) <= 20


class Refusing(Database):
    """A database on a disk that is full while a test says so."""

    full = False

    @override
    async def write(self, work: Callable[[Transaction], T]) -> T:
        if self.full:
            raise StorageFullError

        return await super().write(work)


@pytest.mark.parametrize(("status", "attempts"), [(204, []), (500, [1]), (410, [1])])
async def test_what_became_of_a_post_is_noted_however_long_the_disk_is_full(
    tmp_path: Path, status: int, attempts: list[int]
) -> None:
    receiver, clock, answered = Receiver(), FakeClock(), anyio.Event()
    receiver.reactions = [Reaction(status, wait=answered)]
    receiver.always = Reaction(wait=anyio.Event())
    table = settings_of(tmp_path, receiver.url)
    async with (
        receiver.serving(),
        Refusing.open(tmp_path / "gateway.db", clock) as database,
        anyio.create_task_group() as tasks,
    ):
        assert isinstance(database, Refusing)
        hooks = webhooks.Webhooks(database, clock, [table], lambda: 0.0)
        await tasks.start(hooks.run)
        await database.write(lambda tx: hooks.stage(tx, EventKind.TURN_COMPLETED, KEY, {}))
        await receiver.until(lambda: receiver.posts)
        database.full = True
        answered.set()
        with capture_logs() as logs, anyio.fail_after(30):
            while [line["event"] for line in logs].count("webhook.waiting_for_storage") < 3:
                await clock.advance(RETRY_S)
        full = await hooks.page(rows.EventState.QUEUED, limit=10)
        posted = len(receiver.posts)
        database.full = False
        with anyio.fail_after(30):
            while full == (noted := await hooks.page(rows.EventState.QUEUED, limit=10)):
                await clock.advance(RETRY_S)
        tasks.cancel_scope.cancel()

    assert ([row.attempts for row in full], posted) == ([0], 1)
    assert [row.attempts for row in noted] == attempts


async def test_an_event_that_was_being_posted_comes_again_with_its_id_after_a_restart(
    tmp_path: Path,
) -> None:
    receiver, clock = Receiver(), FakeClock()
    table = settings_of(tmp_path, receiver.url)
    receiver.reactions = [Reaction(wait=anyio.Event())]
    async with receiver.serving():
        async with webhooks_on(tmp_path / "s", table, clock=clock) as bench:
            await bench.tell(1)
            await receiver.until(lambda: receiver.posts)
        async with webhooks_on(tmp_path / "s", table, clock=clock) as bench:
            await bench.until(lambda queued, _: not queued)

    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


async def test_a_broken_endpoint_makes_nobody_else_wait(tmp_path: Path) -> None:
    hanging, fine = Receiver(), Receiver(OTHER_SECRET)
    hanging.always = Reaction(wait=anyio.Event())
    away = settings_of(tmp_path, Receiver().url, "away")
    first = settings_of(tmp_path, hanging.url)
    second = settings_of(tmp_path, fine.url, "two", secret=OTHER_SECRET)
    async with (
        hanging.serving(),
        fine.serving(),
        webhooks_on(tmp_path / "s", away, first, second) as bench,
    ):
        await bench.tell(*range(20))
        await fine.until(lambda: len(fine.posts) == 20)
        await hanging.until(lambda: len(hanging.posts) == MAX_PARALLEL)
        await bench.until(
            lambda queued, _: len(queued) == 40 and sum(row.attempts for row in queued) == 20
        )
        told = await bench.statistics("away")

    assert sorted(numbers(fine)) == list(range(20))
    assert len(hanging.posts) == MAX_PARALLEL
    assert told.failed == 20
    assert told.last_error


async def test_what_waits_for_its_next_try_is_posted_at_once_where_that_is_asked(
    tmp_path: Path,
) -> None:
    receiver, clock = Receiver(), FakeClock()
    receiver.reactions = [BROKEN]
    table = settings_of(tmp_path, receiver.url)
    async with receiver.serving(), webhooks_on(tmp_path / "s", table, clock=clock) as bench:
        await bench.tell(1)
        await fails(bench, receiver, 1)
        assert await bench.webhooks.retry_all("ops") == 1
        await bench.until(lambda queued, dead: not queued and not dead)

    assert numbers(receiver) == [1, 1]


async def test_where_too_many_wait_the_oldest_are_dead_letters(tmp_path: Path) -> None:
    table = settings_of(tmp_path, Receiver().url, max_queued=5, dead_keep=3)
    async with webhooks_on(tmp_path / "s", table, runs=False) as bench:
        await bench.tell(*range(7))
        some = len(await bench.rows()), [row.error for row in await bench.dead()]
        await bench.tell(*range(7, 20))
        queued, dead = await bench.rows(), await bench.dead()
        with pytest.raises(ConflictError, match="full"):
            await bench.webhooks.retry([dead[0].event_id])
        assert await bench.webhooks.retry_all("ops") == 5
        assert await bench.dead() == dead

    assert some == (5, ["the queue was full"] * 2)
    assert [row.body.partition('"number":')[2] for row in queued] == [
        f"{number}}}}}" for number in range(15, 20)
    ]
    assert [row.body.partition('"number":')[2] for row in dead] == [
        f"{number}}}}}" for number in range(12, 15)
    ]


async def test_a_full_queue_is_told(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.always = Reaction(wait=anyio.Event())
    table = settings_of(tmp_path, receiver.url, max_queued=5)
    async with receiver.serving(), webhooks_on(tmp_path / "s", table) as bench:
        await bench.tell(*range(8))
        told = await bench.statistics()

    assert (told.queued, told.dead, told.given_up) == (5, 3, 3)
    assert told.last_error == "the queue was full"


async def test_dead_letters_are_kept_for_their_time(tmp_path: Path) -> None:
    receiver = Receiver()
    table = settings_of(tmp_path, receiver.url, dead_keep_days=1.0)
    async with webhooks_on(tmp_path / "s", table) as bench:
        await bench.tell(1)
        at = "2026-01-01T00:00:00.000000Z"
        await bench.state.database.write(
            lambda tx: tx.execute("UPDATE webhook_events SET dead_at = ?", (at,))
        )
        await bench.clock.advance(86_000)
        kept = len(await bench.dead())
        with anyio.fail_after(30):
            while await bench.dead():
                await bench.clock.advance(600)

    assert kept == 1


async def test_what_waits_for_a_webhook_that_is_not_configured_is_dead(tmp_path: Path) -> None:
    receiver, clock = Receiver(), FakeClock()
    table = settings_of(tmp_path, receiver.url)
    async with webhooks_on(tmp_path / "s", table, runs=False, clock=clock) as bench:
        await bench.tell(1, 2)
    async with webhooks_on(tmp_path / "s", clock=clock) as bench:
        dead = await bench.dead()
        with pytest.raises(ConflictError, match="not configured"):
            await bench.webhooks.retry([dead[0].event_id])
    async with receiver.serving(), webhooks_on(tmp_path / "s", table, clock=clock) as bench:
        await bench.webhooks.retry_all("ops")
        await bench.until(lambda queued, dead: not queued and not dead)

    assert [row.error for row in dead] == ["the webhook is not configured any more"] * 2
    assert sorted(numbers(receiver)) == [1, 2]


async def test_dead_letters_of_a_webhook_that_is_gone_go_after_a_month(tmp_path: Path) -> None:
    clock = FakeClock()
    table = settings_of(tmp_path, Receiver().url)
    async with webhooks_on(tmp_path / "s", table, runs=False, clock=clock) as bench:
        await bench.tell(1)
    kept = []
    for days in (0, 29, 2):
        clock.step_wall(timedelta(days=days))
        async with webhooks_on(tmp_path / "s", clock=clock) as bench:
            kept.append(len(await bench.dead()))

    assert kept == [1, 1, 0]


async def test_a_wall_clock_that_was_wrong_holds_nothing_up(tmp_path: Path) -> None:
    receiver, clock = Receiver(), FakeClock()
    table = settings_of(tmp_path, receiver.url)
    clock.step_wall(timedelta(days=365))
    async with webhooks_on(tmp_path / "s", table, runs=False, clock=clock) as bench:
        await bench.tell(1)
    clock.step_wall(timedelta(days=-365))
    async with receiver.serving(), webhooks_on(tmp_path / "s", table, clock=clock) as bench:
        await bench.until(lambda queued, _: not queued)

    assert numbers(receiver) == [1]


async def test_an_endpoint_whose_posts_crash_is_like_any_that_fails(tmp_path: Path) -> None:
    receiver = Receiver()

    def react(_: Post) -> Reaction:
        return Reaction(lost=True)

    receiver.react = react
    async with (
        receiver.serving(),
        webhooks_on(tmp_path / "s", settings_of(tmp_path, receiver.url)) as bench,
    ):
        await bench.tell(1, key=SessionKey("agent:main:http::dm:bob::"))
        await fails(bench, receiver, 1)
        (row,) = await bench.rows()

    assert row.error


@pytest.mark.parametrize("secret", ["", "null", "whsec_null"])
def test_a_secret_that_is_none_refuses_to_start(tmp_path: Path, secret: str) -> None:
    table = settings_of(tmp_path, "http://127.0.0.1:1/in", secret=secret)

    with pytest.raises(ConfigurationError, match="webhooks: ops: secret"):
        Line(table, None, FakeClock(), lambda: 0.0)  # type: ignore[arg-type]


async def test_a_full_queue_is_counted_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = settings_of(tmp_path, Receiver().url, max_queued=500, dead_keep=10)
    counted: list[int] = []
    count = rows.queued

    def counting(place: Queries, webhook: str) -> int:
        counted.append(count(place, webhook))
        return counted[-1]

    async with webhooks_on(tmp_path / "s", table, runs=False) as bench:
        await bench.tell(*range(500))
        monkeypatch.setattr(rows, "queued", counting)
        await bench.tell(*range(500, 600))
        waiting, dead = await bench.rows(), await bench.dead()

    # Ten and the one too many at once.
    assert len(counted) <= 10
    assert 490 <= len(waiting) <= 500
    assert len(dead) == 10
    assert waiting[-1].body.endswith('"number":599}}')


async def test_what_leaves_a_queue_needs_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver()
    table = settings_of(tmp_path, receiver.url, max_queued=5)
    counted: list[str] = []
    count = rows.queued

    def counting(place: Queries, webhook: str) -> int:
        counted.append(webhook)
        return count(place, webhook)

    monkeypatch.setattr(rows, "queued", counting)
    async with receiver.serving(), webhooks_on(tmp_path / "s", table) as bench:
        for number in range(40):
            await bench.tell(number)
            await bench.until(lambda queued, _: not queued)

    # What waited at the start, and no more: there are never more than a few.
    assert len(counted) == 1
    assert len(receiver.posts) == 40


async def test_looking_for_what_is_due_does_not_look_at_all_that_waits(tmp_path: Path) -> None:
    table = settings_of(tmp_path, Receiver().url)
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    async with webhooks_on(tmp_path / "s", table, runs=False) as bench:
        await bench.tell(*range(1_000))
        now = bench.clock.now()

        def look(place: Connection) -> rows.Due:
            place.set_progress_handler(step, 1)
            try:
                return rows.due(
                    place,
                    "ops",
                    now=now - timedelta(hours=1),
                    horizon=now + timedelta(days=3),
                    limit=8,
                )
            finally:
                place.set_progress_handler(None)

        found = await bench.state.database.read(look)

    assert found.rows == ()
    assert found.next_at is not None
    # A look at each would take several steps for each.
    assert 0 < steps < 1_000
