"""Laws of context measurements on their way into the store."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import ContextMeasurement, ContextSource, SessionId
from gateway.sessions.mailbox import MAX_PENDING, ContextMailbox, apply_measurement
from tests.support.state import START, create_all, entry, key_of, open_state, power_cut

if TYPE_CHECKING:
    from pathlib import Path

KEY = key_of()
ID, NEXT = entry().session_id, SessionId("next")
LATER = START + timedelta(minutes=5)


def _measured(step: int, tokens: int = 100) -> ContextMeasurement:
    return ContextMeasurement(tokens, 8_000, ContextSource.USAGE, LATER, step)


def _waiting(mailbox: ContextMailbox) -> dict[tuple[str, str], int]:
    """Take what waits: the step by key and session id."""
    taken: dict[tuple[str, str], int] = {
        place: measured.step for place, measured in mailbox.take().items()
    }
    mailbox.settle(written=True)
    return taken


def test_the_latest_measurement_of_a_session_wins() -> None:
    mailbox = ContextMailbox()

    assert [mailbox.post(KEY, ID, _measured(step)) for step in (2, 1, 3, 3)] == [
        *(True, False, True, False)
    ]

    assert len(mailbox) == 1
    assert _waiting(mailbox) == {(KEY, ID): 3}
    assert len(mailbox) == 0


@given(st.lists(st.integers(0, 50), min_size=1))
def test_whatever_the_order_the_highest_step_is_left(steps: list[int]) -> None:
    mailbox = ContextMailbox()
    for step in steps:
        mailbox.post(KEY, ID, _measured(step))

    assert _waiting(mailbox) == {(KEY, ID): max(steps)}


def test_a_late_measurement_of_an_old_conversation_pushes_no_new_one_aside() -> None:
    mailbox = ContextMailbox()
    mailbox.post(KEY, NEXT, _measured(1))
    mailbox.post(KEY, ID, _measured(9))

    assert _waiting(mailbox) == {(KEY, NEXT): 1, (KEY, ID): 9}


def test_what_could_not_be_written_waits_again_unless_something_newer_came() -> None:
    mailbox = ContextMailbox()
    for name in "abc":
        mailbox.post(key_of(name), ID, _measured(1))
    mailbox.take()
    mailbox.post(key_of("b"), ID, _measured(2))
    mailbox.post(key_of("c"), NEXT, _measured(1))
    assert len(mailbox) == 4
    mailbox.settle(written=False)

    assert _waiting(mailbox) == {
        (key_of("a"), ID): 1,
        (key_of("b"), ID): 2,
        (key_of("c"), ID): 1,
        (key_of("c"), NEXT): 1,
    }


def test_what_was_written_waits_no_longer() -> None:
    mailbox = ContextMailbox()
    mailbox.post(KEY, ID, _measured(1))
    mailbox.take()
    mailbox.settle(written=True)

    assert (len(mailbox), _waiting(mailbox)) == (0, {})


def test_memory_is_bounded_and_what_is_dropped_is_counted() -> None:
    mailbox = ContextMailbox()
    keys = [key_of(f"c{n}") for n in range(MAX_PENDING)]
    assert all(mailbox.post(key, ID, _measured(1)) for key in keys)

    assert not mailbox.post(key_of("one too many"), ID, _measured(1))
    # Sessions that wait already are still kept up to date.
    assert mailbox.post(keys[0], ID, _measured(2))
    assert (len(mailbox), mailbox.dropped) == (MAX_PENDING, 1)


def test_a_measurement_changes_the_context_and_nothing_else() -> None:
    one = entry(total_tokens=40, context_tokens=40, context_step=1, turns=2)

    assert apply_measurement(one, ID, _measured(2, tokens=100)) == entry(
        turns=2,
        context_tokens=100,
        context_window_tokens=8_000,
        context_source=ContextSource.USAGE,
        context_measured_at=LATER,
        context_step=2,
        total_tokens=100,
    )


def test_a_smaller_context_leaves_the_total_of_all_calls() -> None:
    one = apply_measurement(entry(total_tokens=500, context_tokens=400), ID, _measured(1, 30))

    assert (one.context_tokens, one.total_tokens) == (30, 500)


def test_a_measurement_of_another_session_id_or_an_older_step_is_ignored() -> None:
    one = entry(context_step=5)

    assert apply_measurement(one, SessionId("other"), _measured(9)) is one
    assert apply_measurement(one, ID, _measured(5)) is one
    assert apply_measurement(one, ID, _measured(4)) is one


def test_a_view_shows_what_waits_and_what_is_being_written() -> None:
    mailbox = ContextMailbox()
    mailbox.post(KEY, ID, _measured(1, 10))
    assert mailbox.view(entry()).context_tokens == 10
    mailbox.take()
    assert mailbox.view(entry()).context_tokens == 10
    mailbox.post(KEY, ID, _measured(2, 20))
    assert mailbox.view(entry()).context_tokens == 20
    assert mailbox.view(entry("bob")) == entry("bob")
    assert mailbox.view(entry(session_id=NEXT)).context_tokens == 0


async def test_one_agents_number_never_reaches_the_entry_of_another(tmp_path: Path) -> None:
    mailbox = ContextMailbox()
    mine, other = entry(agent="a"), entry(agent="b")
    mailbox.post(mine.session_key, mine.session_id, _measured(1, 10))
    mailbox.post(other.session_key, mine.session_id, _measured(7, 666))

    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [mine, other])
        for (key, session_id), measurement in mailbox.take().items():
            await state.store.update(
                key, partial(apply_measurement, session_id=session_id, measurement=measurement)
            )
        left = power_cut(state, tmp_path / "left")

    async with open_state(left) as state:
        written = state.store.get(mine.session_key)
        assert written is not None
        assert (written.context_tokens, written.updated_at) == (10, START)
        assert state.store.get(other.session_key) == other
