"""Laws of what keeps a session: asked by key, from any thread."""

from __future__ import annotations

import threading

from gateway.clock import FakeClock
from gateway.model import SessionKey
from gateway.processes.active import ActiveProcesses
from tests.support.state import START, key_of

KEY = key_of()


def active() -> ActiveProcesses:
    return ActiveProcesses(FakeClock(), 60.0)


def test_a_session_is_active_from_its_first_process_to_its_last() -> None:
    processes = active()
    assert not processes.has_active_for_session(KEY)

    processes.begun(KEY, "p1", START)
    processes.begun(KEY, "p2", START)
    processes.ended(KEY, "p1")
    assert processes.has_active_for_session(KEY)
    processes.ended(KEY, "p2")
    assert not processes.has_active_for_session(KEY)


def test_the_end_of_an_unknown_process_is_no_error() -> None:
    processes = active()
    processes.ended(KEY, "p1")
    processes.begun(KEY, "p1", START)
    processes.ended(KEY, "p2")
    processes.ended(key_of("bob"), "p1")

    assert processes.blocking(KEY) == ("p1",)


def test_only_the_session_key_names_a_session() -> None:
    processes = active()
    processes.begun(KEY, "p1", START)

    for other in ("main-alice", "p1", key_of(agent="other")):
        assert not processes.has_active_for_session(SessionKey(other))


async def test_one_that_is_too_old_keeps_nothing_beside_one_that_does() -> None:
    clock = FakeClock()
    processes = ActiveProcesses(clock, 60.0)
    processes.begun(KEY, "old", clock.now())
    await clock.advance(59)
    processes.begun(KEY, "young", clock.now())
    assert processes.blocking(KEY) == ("old", "young")
    await clock.advance(1)
    assert processes.blocking(KEY) == ("young",)
    await clock.advance(59)
    assert not processes.has_active_for_session(KEY)


def test_threads_may_note_processes_at_once() -> None:
    processes = active()

    def work(name: str) -> None:
        for number in range(500):
            processes.begun(KEY, f"{name}{number}", START)
            assert processes.has_active_for_session(KEY)
            processes.ended(KEY, f"{name}{number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not processes.has_active_for_session(KEY)
